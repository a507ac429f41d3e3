"""Patterns whose blocks are known beforehand: drawn at random, or listed in a file."""

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from canary.attention.band import Band
from canary.attention.rules import Look, PatternSpecError, Rule, check_count
from canary.errors import AttentionError

if TYPE_CHECKING:
    import torch

    from canary.attention.masks import Table

BLOCK_SIZES = (16, 32, 64, 128)
NO_BLOCK = -1


class BlockRule(Rule):
    """A rule that lists, for each block of queries, the blocks of keys it sees."""

    __slots__ = ()
    table_free: ClassVar[bool] = False
    block: int

    def band(self, prompt_tokens: int) -> Band:
        """See one's own key; the lists say the rest."""
        del prompt_tokens
        return Band(window=1)

    def lists(self, layer: int, heads: int, rows: int) -> NDArray[np.int32]:
        """Return the lists of rows 0 to `rows`, at least: (heads or 1, rows, width)."""
        raise NotImplementedError

    def table(self, look: Look) -> "Table":
        """Return the lists of the rows that the call's queries stand in."""
        from canary.attention.masks import Table  # noqa: PLC0415 - imports torch

        first = (look.kv_len - look.q_len) // self.block
        last = (look.kv_len - 1) // self.block
        # Few lengths are kept: a prompt that grows by tokens has them at hand.
        capacity = 1 << last.bit_length()
        lists = _on_device(self, look.layer, look.heads, capacity, look.device)
        return Table(lists[:, :, first : last + 1], self.block, self.block, first)


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomBlocks(BlockRule):
    """Every block sees `blocks` earlier ones at random, the first, and the last few.

    Random attention of BigBird (Zaheer et al., arXiv 2007.14062), in blocks, drawn
    without replacement for each layer and query head by a hash of the seed: the same
    anywhere and at any length. `local_blocks` counts a block's own and those before it.
    """

    name: ClassVar[str] = "random_blocks"
    blocks: int
    block: int = 64
    local_blocks: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse blocks of odd sizes, and none of them."""
        check_block(self.block)
        check_count("blocks", self.blocks, what="blocks")
        check_count("local_blocks", self.local_blocks, what="blocks")
        check_count("seed", self.seed, least=0, what="a seed")

    def lists(self, layer: int, heads: int, rows: int) -> NDArray[np.int32]:
        """Draw by Floyd's algorithm: one hash a block, whatever the length."""
        row = np.arange(rows)
        candidates = np.maximum(row - self.local_blocks, 0)
        head = np.arange(heads)[:, None]
        picks = np.full((heads, rows, self.blocks), NO_BLOCK, np.int64)
        for n in range(self.blocks):
            last = candidates - self.blocks + n
            key = ((self.seed * 4096 + layer) * 4096 + head) * 2**20 + row
            drawn = _hash(key, n) % np.maximum(last + 1, 1).astype(np.uint64)
            pick = drawn.astype(np.int64)
            taken = (picks[..., :n] == pick[..., None]).any(-1)
            picks[..., n] = np.where(last < 0, NO_BLOCK, np.where(taken, last, pick))
        # Candidates count from block 1: block 0 is seen anyway.
        picks = np.where(picks < 0, NO_BLOCK, picks + 1)
        near = row[:, None] - np.arange(self.local_blocks)
        always = np.concatenate([np.zeros((rows, 1), np.int64), near], 1)
        always[:, 1:][near < 1] = NO_BLOCK
        every = np.broadcast_to(always, (heads, *always.shape))
        return _compact(np.concatenate([every, picks], 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockTable(BlockRule):
    """The blocks that a file lists: a NumPy array of booleans, True where seen.

    Shape (rows, columns), (query heads, rows, columns) or (layers, query heads, rows,
    columns); row r are queries [r * block, (r + 1) * block), columns the same of keys.
    Columns beyond a row's own are not looked at. Prompts longer than the table are
    refused.
    """

    name: ClassVar[str] = "block_sparse"
    table_file: str
    block: int
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        """Read the file once, so that a bad one is refused before anything runs."""
        check_block(self.block)
        object.__setattr__(self, "sha256", "")
        try:
            content = Path(self.table_file).read_bytes()
        except OSError as error:
            raise PatternSpecError(
                f"can't read {self.table_file}: {error.strerror}", ("table_file",)
            ) from error
        object.__setattr__(self, "sha256", hashlib.sha256(content).hexdigest())
        seen = _table_of(self.table_file, self.sha256)
        rows = np.arange(seen.shape[2])
        if not seen[:, :, rows, rows].all():
            raise PatternSpecError(
                f"{self.table_file}: a block doesn't see itself; set the diagonal True",
                ("table_file",),
            )

    def lists(self, layer: int, heads: int, rows: int) -> NDArray[np.int32]:
        """Return the lists of a layer."""
        seen = _table_of(self.table_file, self.sha256)
        layer = layer if len(seen) > 1 else 0
        if layer >= len(seen) or seen.shape[1] not in (1, heads):
            raise AttentionError(
                f"{self.table_file} is for {len(seen)} layers of {seen.shape[1]} heads,"
                f" and layer {layer} has {heads} heads"
            )
        columns = np.arange(seen.shape[2])
        lists = np.where(np.tril(seen[layer]), columns, NO_BLOCK)
        del rows  # all that there are
        return _compact(lists)

    def table(self, look: Look) -> "Table":
        """Return the lists, or refuse a prompt that the file doesn't reach to."""
        reach = _table_of(self.table_file, self.sha256).shape[2] * self.block
        if look.kv_len > reach:
            raise AttentionError(
                f"{self.table_file} reaches {reach} tokens, and there are "
                f"{look.kv_len}; make a larger table"
            )
        return BlockRule.table(self, look)

    def __str__(self) -> str:
        """Return the file's name and the start of its hash, and the block's size."""
        file = f"{Path(self.table_file).name}@{self.sha256[:8]}"
        return f"{self.name}(block={self.block},table_file={file})"


def check_block(value: int) -> None:
    """Refuse a block size that kernels have no tiles for."""
    if value not in BLOCK_SIZES or isinstance(value, bool):
        raise PatternSpecError(
            f"expected blocks of 16, 32, 64 or 128 tokens, got {value!r}", ("block",)
        )


@lru_cache(maxsize=64)
def _on_device(
    rule: BlockRule, layer: int, heads: int, rows: int, device: "torch.device"
) -> "torch.Tensor":
    import torch  # noqa: PLC0415 - policies are checked without torch

    # Made outside inference mode, or the first caller's mode would stick to the cache.
    with torch.inference_mode(mode=False):
        return torch.from_numpy(rule.lists(layer, heads, rows))[None].to(device)


@lru_cache(maxsize=8)
def _table_of(path: str, sha256: str) -> NDArray[np.bool_]:
    """Return the file as (layers or 1, heads or 1, rows, rows)."""
    del sha256  # a part of the key: another content is another table
    try:
        table = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise PatternSpecError(
            f"{path} is no NumPy array file: {error}", ("table_file",)
        ) from error
    square = isinstance(table, np.ndarray) and 2 <= table.ndim <= 4
    if not square or table.dtype != bool or table.shape[-1] != table.shape[-2]:
        raise PatternSpecError(
            f"{path}: expected booleans (layers, heads, blocks, blocks) or the last two"
            " or three of these, as many rows as columns",
            ("table_file",),
        )
    shaped: NDArray[np.bool_] = table.reshape((1,) * (4 - table.ndim) + table.shape)
    return shaped


def _compact(lists: NDArray[np.int64]) -> NDArray[np.int32]:
    """Sort each list, what fills it up last, and cut off what no list needs."""
    filler = np.iinfo(np.int64).max
    ordered = np.sort(np.where(lists < 0, filler, lists), axis=-1)
    width = int((ordered < filler).sum(-1).max())
    ordered = ordered[..., :width]
    return np.where(ordered == filler, NO_BLOCK, ordered).astype(np.int32)


def _hash(key: NDArray[np.int64], n: int) -> NDArray[np.uint64]:
    """Return 64 well mixed bits a key: splitmix64 (Steele et al., OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        x = key.astype(np.uint64) * np.uint64(64) + np.uint64(n)
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
