"""Which tiles of a mask a kernel has to look at, as lists: what fused kernels walk."""

from typing import NamedTuple

import torch

from canary.attention.band import Band
from canary.attention.masks import Mask, Table


class Tiles(NamedTuple):
    """For each row of `tile_q` queries the blocks of `tile_k` keys it touches.

    Counts are (b, h, rows), blocks (b, h, rows, width), int32, b and h 1 where all are
    alike: first the blocks that every query of the row sees entirely (or up to itself,
    where the mask needs no question), then those that are seen in part. Row 0 holds
    absolute position ``first_row * tile_q``.
    """

    whole_counts: torch.Tensor
    whole: torch.Tensor
    some_counts: torch.Tensor
    some: torch.Tensor
    first_row: int


def tiles(
    mask: Mask, tile_q: int, tile_k: int, device: torch.device, *, least_width: int = 1
) -> Tiles:
    """List the tiles of a mask; nothing of the mask's full size is made."""
    table = mask.table
    if table is not None and table.blocks.shape[3] >= least_width:
        as_it_is = (table.q_block, table.k_block) == (tile_q, tile_k)
        if as_it_is or (mask.q_len == 1 and table.k_block == tile_k):
            return _listed(mask, table, tile_q)
    first, last = mask.start // tile_q, (mask.kv_len - 1) // tile_q
    touched, entire = _by_position(mask, first, last, tile_q, tile_k, device)
    if mask.table is not None:
        listed, all_listed = _by_lists(mask, first, last, tile_q, tile_k)
        causal = _causal(mask, first, last, tile_q, tile_k, device)
        touched, entire = touched | listed & causal[0], entire | all_listed & causal[1]
    whole_counts, whole = _lists(entire, least_width)
    some_counts, some = _lists(touched & ~entire, least_width)
    return Tiles(whole_counts, whole, some_counts, some, first)


def _listed(mask: Mask, table: Table, tile_q: int) -> Tiles:
    """Return lists of the same size as they are: only a row's own block is in part.

    The list of a single query is its tile's, whatever the sizes.
    """
    counts = (table.blocks >= 0).sum(3, dtype=torch.int32)
    first = mask.start // table.k_block
    own = torch.arange(counts.shape[2], dtype=torch.int32, device=counts.device) + first
    own = own[:, None].expand(*counts.shape, 1).contiguous()
    # The own block is the last of its list, and what fills a list up is never read.
    whole = table.blocks.clamp(min=0).contiguous()
    return Tiles(counts - 1, whole, torch.ones_like(counts), own, mask.start // tile_q)


def _edges(
    mask: Mask, first: int, last: int, tile_q: int, tile_k: int, device: torch.device
) -> tuple[torch.Tensor, ...]:
    """Return the first and last query of each row, (rows, 1), and key, (columns)."""
    row = torch.arange(first, last + 1, device=device)[:, None]
    column = torch.arange(-(-mask.kv_len // tile_k), device=device)
    i_low = (row * tile_q).clamp(min=mask.start)
    i_high = (row * tile_q + tile_q - 1).clamp(max=mask.kv_len - 1)
    return i_low, i_high, column * tile_k, column * tile_k + tile_k - 1


def _causal(
    mask: Mask, first: int, last: int, tile_q: int, tile_k: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    i_low, i_high, j_low, j_high = _edges(mask, first, last, tile_q, tile_k, device)
    return j_low <= i_high, j_high <= i_low


def _by_position(
    mask: Mask, first: int, last: int, tile_q: int, tile_k: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which tiles the band touches and which it fills: (1, 1, rows, columns)."""
    edges = _edges(mask, first, last, tile_q, tile_k, device)
    i_low, i_high, j_low, j_high = edges
    band = mask.band
    any_seen = (i_low - j_high < band.window) | (j_low < band.global_tokens)
    any_seen = any_seen | (i_high >= band.dense_from)
    all_seen = (i_high - j_low < band.window) | (j_high < band.global_tokens)
    all_seen = all_seen | (i_low >= band.dense_from)
    if band.stride:
        strided = _strided(band, j_low, j_high)
        any_seen, all_seen = any_seen | strided[0], all_seen | strided[1]
    touched, entire = any_seen & (j_low <= i_high), all_seen & (j_high <= i_low)
    return touched[None, None], entire[None, None]


def _strided(
    band: Band, j_low: torch.Tensor, j_high: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which columns hold a strided key, and which hold no other."""
    size = band.stride_block
    period = size * band.stride
    # Strided keys below x: whole periods, and what the last one has up to there.
    below = [
        x // period * size + (x % period).clamp(max=size) for x in (j_low, j_high + 1)
    ]
    held = below[1] - below[0]
    return held > 0, held == j_high + 1 - j_low


def _by_lists(
    mask: Mask, first: int, last: int, tile_q: int, tile_k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which tiles hold a listed block and which hold no other."""
    table = mask.table
    if table is None or tile_k % table.k_block:
        raise ValueError(f"lists of {table} can't be made into tiles of {tile_k} keys")
    columns = -(-mask.kv_len // tile_k)
    seen = table.seen(columns * (tile_k // table.k_block))
    if tile_k > table.k_block:
        grouped = seen.unflatten(3, (columns, -1))
        any_seen, all_seen = grouped.any(4), grouped.all(4)
    else:
        any_seen = all_seen = seen
    if tile_q <= table.q_block:
        row = torch.arange(first, last + 1, device=seen.device) * tile_q
        row = row // table.q_block - table.first_row
        row = row.clamp(min=0)
        return any_seen[:, :, row], all_seen[:, :, row]
    per_row = tile_q // table.q_block
    front = table.first_row - first * per_row
    back = (last - first + 1) * per_row - front - any_seen.shape[2]
    padded = torch.nn.functional.pad(any_seen, (0, 0, front, back))
    filled = torch.nn.functional.pad(all_seen, (0, 0, front, back), value=True)
    return (
        padded.unflatten(2, (-1, per_row)).any(3),
        filled.unflatten(2, (-1, per_row)).all(3),
    )


def _lists(seen: torch.Tensor, least_width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn a table of booleans into counts and lists, without a sort."""
    counts = seen.sum(3, dtype=torch.int32)
    width = max(least_width, int(counts.max()))
    columns = seen.shape[3]
    place = (seen.cumsum(3) - 1).where(seen, width)
    column = torch.arange(columns, dtype=torch.int32, device=seen.device)
    lists = torch.zeros(
        *seen.shape[:3], width + 1, dtype=torch.int32, device=seen.device
    )
    lists.scatter_(3, place, column.expand_as(seen))
    return counts.contiguous(), lists[..., :width].contiguous()
