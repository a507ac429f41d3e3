"""Patterns that make some heads of a layer sparse and leave others dense."""

import hashlib
from abc import abstractmethod
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from canary.attention.band import Band
from canary.attention.chosen import check_share
from canary.attention.rules import Dense, Look, PatternSpecError, Rule, check_count
from canary.attention.scores import check_number, check_within
from canary.errors import AttentionError

if TYPE_CHECKING:
    import torch


class HeadMix(Rule):
    """A rule that is `sparse` for some heads of a layer, and dense for the others."""

    __slots__ = ()
    mixes: ClassVar[bool] = True
    sparse: Rule

    @abstractmethod
    def sparse_heads(self, look: Look) -> "torch.Tensor":
        """Return which query heads are sparse: bool, (B or 1, H), on the CPU."""

    def band(self, prompt_tokens: int) -> Band:
        """Refuse: each head has its own."""
        del prompt_tokens
        raise AttentionError(f"{self} differs by head: ask `of_head` first")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadTable(HeadMix):
    """Heads whose value in a file is up to `threshold` are sparse, others dense.

    The file is that of DuoAttention (Xiao et al., arXiv 2410.10819), as its
    ``full_attention_heads.tsv``: a line a layer, a column a key head, tab-separated,
    how much a head needs full attention, from 0 to 1.
    """

    name: ClassVar[str] = "head_table"
    table_file: str
    sparse: Rule
    threshold: float = 0.5
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        """Read the file once, so that a bad one is refused before anything runs."""
        object.__setattr__(self, "sha256", "")
        check_number("threshold", self.threshold)
        check_sparse(self.sparse)
        try:
            content = Path(self.table_file).read_bytes()
        except OSError as error:
            raise PatternSpecError(
                f"can't read {self.table_file}: {error.strerror}", ("table_file",)
            ) from error
        object.__setattr__(self, "sha256", hashlib.sha256(content).hexdigest())
        _values(self.table_file, self.sha256)

    def of_head(self, layer: int, head: int) -> Rule:
        """Return the rule of one key head, by the file's own column."""
        row = self._row(layer)
        if head >= len(row):
            raise AttentionError(
                f"{self.table_file} has {len(row)} heads, and none is head {head}"
            )
        return self.sparse if row[head] <= self.threshold else Dense()

    def sparse_heads(self, look: Look) -> "torch.Tensor":
        """Return the file's row of a layer, repeated for the heads that share a key."""
        import torch  # noqa: PLC0415 - policies are checked without torch

        row = self._row(look.layer)
        if look.heads % len(row):
            raise AttentionError(
                f"{self.table_file} has {len(row)} heads a layer; the model has "
                f"{look.heads}, which is no multiple"
            )
        sparse = torch.from_numpy(row <= self.threshold)
        return sparse.repeat_interleave(look.heads // len(row))[None]

    def _row(self, layer: int) -> NDArray[np.float64]:
        values = _values(self.table_file, self.sha256)
        if layer >= len(values):
            raise AttentionError(
                f"{self.table_file} has {len(values)} layers, and none is layer {layer}"
            )
        row: NDArray[np.float64] = values[layer]
        return row

    def __str__(self) -> str:
        """Return the file's name and the start of its hash, and what is sparse."""
        file = f"{Path(self.table_file).name}@{self.sha256[:8]}"
        return (
            f"{self.name}(sparse={self.sparse},table_file={file},"
            f"threshold={self.threshold})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptive(HeadMix):
    """Each head is sparse where its attention to the prompt at hand allows it.

    The last `probe` queries of a prompt attend densely first. Where each of them finds
    at least `mass` of its attention on keys that `sparse` would show it, the head is
    sparse for this prompt and its answer, otherwise dense: per layer, head and prompt,
    as FlexPrefill (Lai et al., arXiv 2502.20766) decides between its two patterns. A
    chunk decides by its own queries; decode keeps what the prompt decided, and without
    a memory of it is dense.
    """

    name: ClassVar[str] = "adaptive"
    sparse: Rule
    mass: float = 0.95
    probe: int = 64

    def __post_init__(self) -> None:
        """Refuse a share that is none, no probes, and what can't be told beforehand."""
        check_share("mass", self.mass)
        check_count("probe", self.probe, what="queries")
        check_sparse(self.sparse)
        if self.sparse.chooses:
            raise PatternSpecError(
                f"{self.sparse.name} chooses at run time itself; write a pattern by "
                "position, for example local_global",
                ("sparse",),
            )

    def of_head(self, layer: int, head: int) -> Rule:
        """Refuse: it depends on the prompt."""
        del layer, head
        raise AttentionError(
            f"{self} decides by the prompt: ask attend() for the density, its evidence "
            "has it"
        )

    def sparse_heads(self, look: Look) -> "torch.Tensor":
        """Decide by this call's last queries, or remember."""
        from canary.attention.probing import concentrated  # noqa: PLC0415 - imports torch

        remembered = look.memory.sparse_heads if look.memory is not None else {}
        if look.decodes:
            if look.layer in remembered:
                return remembered[look.layer]
            import torch  # noqa: PLC0415 - as above

            return torch.zeros(1, look.heads, dtype=torch.bool)
        remembered[look.layer] = concentrated(self.sparse, look, self.mass, self.probe)
        return remembered[look.layer]


def check_sparse(sparse: Rule) -> None:
    """Refuse what can't be one head's rule beside dense ones."""
    try:
        check_within(sparse)
    except PatternSpecError as error:
        raise PatternSpecError(error.message, ("sparse",)) from None


@lru_cache(maxsize=8)
def _values(path: str, sha256: str) -> NDArray[np.float64]:
    del sha256  # a part of the key: another content is another table
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    try:
        values = np.array([[float(cell) for cell in row.split("\t")] for row in lines])
    except ValueError as error:
        raise PatternSpecError(
            f"{path} is no table of numbers: {error}", ("table_file",)
        ) from error
    if not values.size or not np.isfinite(values).all():
        raise PatternSpecError(
            f"{path}: expected a number for each layer and head", ("table_file",)
        )
    return values
