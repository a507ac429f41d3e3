"""What one call of attention may see: a band by position, and perhaps lists of blocks.

The one definition of visibility that every kernel executes, and that the reference
writes out as a table.
"""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from canary.attention.band import Band

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    from canary.attention.tiles import Tiles

NO_BLOCK = -1
"""Fills up a list of blocks that is shorter than the others."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """For each row of `q_block` queries the blocks of `k_block` keys that it sees.

    `blocks` is int32, (B or 1, H or 1, rows, width), each list without repetition and
    filled up with `NO_BLOCK` at its end; row 0 holds the query at position `first_row
    * q_block`. Lists hold no later block than a query's own, and always that one.
    """

    blocks: torch.Tensor
    q_block: int
    k_block: int
    first_row: int

    def seen(self, columns: int) -> torch.Tensor:
        """Return the lists as a table: bool, (B or 1, H or 1, rows, columns)."""
        b, h, rows, _ = self.blocks.shape
        table = torch.zeros(
            b, h, rows, columns + 1, dtype=torch.bool, device=self.blocks.device
        )
        at = self.blocks.long().where(self.blocks >= 0, columns)
        return table.scatter_(3, at, value=True)[..., :columns]

    def of_head(self, b: int, h: int) -> torch.Tensor:
        """Return the lists of one head, (rows, width)."""
        return self.blocks[
            b if self.blocks.shape[0] > 1 else 0, h if self.blocks.shape[1] > 1 else 0
        ]


@dataclass(slots=True, eq=False)
class Mask:
    """Query i, from `start` on, sees key j <= i if the band or its row's list says so.

    With a table the band is a window of one key, the query's own, or a stride-free
    window: rules never combine more.
    """

    band: Band
    start: int
    kv_len: int
    table: Table | None = None
    block_mask: "BlockMask | None" = None
    """What flex makes of it, when it was first asked to."""
    _tiles: "dict[tuple[int, int, int], Tiles]" = field(default_factory=dict)

    def tiles(
        self, tile_q: int, tile_k: int, device: torch.device, *, least_width: int = 1
    ) -> "Tiles":
        """Return the lists of tiles of such sizes, made when first asked for."""
        from canary.attention.tiles import tiles  # noqa: PLC0415 - it imports this

        key = tile_q, tile_k, least_width
        if key not in self._tiles:
            # Or the first caller's inference mode would stick to what is kept.
            with torch.inference_mode(mode=False):
                self._tiles[key] = tiles(
                    self, tile_q, tile_k, device, least_width=least_width
                )
        return self._tiles[key]

    def of_heads(self, at: torch.Tensor) -> "Mask":
        """Return what some of the query heads see."""
        table = self.table
        if table is None or table.blocks.shape[1] == 1:
            return self
        some = replace(table, blocks=table.blocks[:, at])
        return Mask(self.band, self.start, self.kv_len, some)

    @property
    def q_len(self) -> int:
        """How many queries there are: the last ones."""
        return self.kv_len - self.start

    def rows(self, low: int, high: int, device: torch.device) -> torch.Tensor:
        """Return what the queries [low, high) see: bool, (B or 1, H or 1, n, kv_len).

        Positions are absolute, in [start, kv_len].
        """
        i = torch.arange(low, high, device=device)[:, None]
        j = torch.arange(self.kv_len, device=device)
        seen: torch.Tensor = self.band.sees(i, j)[None, None]
        if self.table is not None:
            size = self.table.k_block
            first = low // self.table.q_block - self.table.first_row
            last = (high - 1) // self.table.q_block - self.table.first_row
            part = Table(self.table.blocks[:, :, first : last + 1], 1, size, 0)
            listed = part.seen(-(-self.kv_len // size))
            row = i[:, 0] // self.table.q_block - self.table.first_row - first
            seen = seen | listed[:, :, row][..., j // size]
        return seen & (j <= i)

    def visible(self, device: torch.device) -> torch.Tensor:
        """Return all of it: bool, (B or 1, H or 1, q_len, kv_len)."""
        return self.rows(self.start, self.kv_len, device)

    def pairs(self, stop: int | None = None) -> torch.Tensor:
        """Count what queries before `stop` see: int64, (B or 1, H or 1)."""
        stop = self.kv_len if stop is None else min(stop, self.kv_len)
        if self.table is None:
            return torch.tensor([[self.band.pairs(self.start, stop)]])
        table = self.table
        i = torch.arange(self.start, stop, device=table.blocks.device)
        listed = (table.blocks >= 0).sum(3)[:, :, i // table.q_block - table.first_row]
        # All blocks of the list but the query's own lie before it, whole.
        return ((listed - 1) * table.k_block + i % table.k_block + 1).sum(2)


def empty_like(q: torch.Tensor) -> torch.Tensor:
    """Return an output in the memory order that SDPA returns: merging heads is free."""
    out = torch.empty_like(q.transpose(1, 2), memory_format=torch.contiguous_format)
    return out.transpose(1, 2)
