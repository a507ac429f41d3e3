"""Attention block by block of queries, over no more keys than pays: any rule, anywhere.

It needs no compiler and computes by torch's own dense kernels.
"""

from functools import lru_cache
from itertools import pairwise

import torch

from canary.attention.band import Band, KeyRanges
from canary.attention.dense import causal, dot_product
from canary.attention.masks import Mask, empty_like
from canary.attention.rules import Rule
from canary.attention.weights import weights_of

# Queries a block in `blocked`. Measured as tests/benchmarks/bench_attention.py does
# (2 cores with AVX-512, float32, 4 heads of 64, 1k to 8k tokens) over 32, 64, 96, 128,
# 192 and 256: 128 is within 8 % of the best for windows of 64 to 1024, with and without
# globals. Small windows like 64 a little better (less is computed that the mask then
# hides), large ones with many globals 256 (fewer gathers).
_BLOCK_TOKENS = 128

_GATHERED = 256
"""The most rows of lists gathered at a time."""


def blocked(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: Mask,
    weighing: Rule | None,
) -> torch.Tensor:
    """Block by block of queries, over no more keys than pays.

    By position: queries that see all keys up to their own are one dense call; a single
    one sees all keys of its ranges: decode slices the cache, without a mask. By lists:
    each row's blocks are gathered.
    """
    if mask.table is None and mask.band.max_keys is None and _hides_nothing(mask):
        dense = mask.kv_len
    else:
        dense = min(mask.kv_len, mask.band.max_keys or 0)
    if weighing is None and dense == mask.kv_len:
        return causal(q, k, v)
    if mask.table is not None:
        return _by_lists(q, k, v, mask, weighing)
    if mask.q_len == 1 and weighing is None:
        return _single(q, k, v, mask.band.key_ranges(mask.start, mask.kv_len))
    return _by_position(q, k, v, mask, weighing, dense if weighing is None else 0)


def _hides_nothing(mask: Mask) -> bool:
    return not mask.band.hides(mask.start, mask.kv_len)


def _by_position(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: Mask,
    weighing: Rule | None,
    dense: int,
) -> torch.Tensor:
    """Queries before `dense` in one call, then block by block.

    Where the ranges leave out less than they hold, all keys between are taken and
    masked: to score a key too many costs less than to copy the others together.
    """
    out = empty_like(q)
    start, stop = mask.start, mask.kv_len
    first = max(dense - start, 0)
    if first:
        out[:, :, :first] = causal(q[:, :, :first], k[:, :, :dense], v[:, :, :dense])
    last = min(stop, max(start + first, mask.band.dense_from)) - start
    if weighing is None and last < mask.q_len:
        out[:, :, last:] = causal(q[:, :, last:], k, v)
    else:
        last = mask.q_len
    for low in range(first, last, _BLOCK_TOKENS):
        high = min(low + _BLOCK_TOKENS, last)
        ranges = mask.band.key_ranges(start + low, start + high)
        if not _worth_gathering(ranges):
            ranges = ((ranges[0][0], ranges[-1][1]),)
        keys, values = _gather(k, ranges), _gather(v, ranges)
        part = q[:, :, low:high]
        if weighing is None:
            added = _added(mask.band, start + low, start + high, ranges, q)
            out[:, :, low:high] = dot_product(part, keys, values, mask=added)
        else:
            seen = _seen(mask.band, start + low, start + high, ranges).to(q.device)
            out[:, :, low:high] = _weighed(part, keys, values, weighing, seen)
    return out


def _by_lists(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: Mask,
    weighing: Rule | None,
) -> torch.Tensor:
    """Gather the blocks of each row's list, all heads at once, rows one by one.

    Where each query has a list of its own, 128 of them share a row: all keys that any
    of them can see are taken and masked.
    """
    table = mask.table
    assert table is not None  # noqa: S101 - that's why we are here
    out = empty_like(q)
    alone = table.q_block == 1 and mask.q_len > 1
    # A row for each token and head: whole rows are gathered twice as fast as elements.
    width = k.shape[3]
    flat = (
        (k, v) if alone else tuple(x.transpose(1, 2).reshape(-1, width) for x in (k, v))
    )
    size = _BLOCK_TOKENS if alone else table.q_block
    for begin in range(mask.start // size * size, mask.kv_len, size):
        low, high = max(begin, mask.start), min(begin + size, mask.kv_len)
        at = slice(low - mask.start, high - mask.start)
        if alone:
            keys, values = k[:, :, :high], v[:, :, :high]
            seen = Mask(mask.band, mask.start, mask.kv_len, table).rows(
                low, high, q.device
            )[..., :high]
        else:
            keys, values, seen = _listed(flat, q, mask, low, high)
        if weighing is None:
            out[:, :, at] = dot_product(q[:, :, at], keys, values, mask=seen)
        else:
            out[:, :, at] = _weighed(q[:, :, at], keys, values, weighing, seen)
    return out


def _listed(
    flat: tuple[torch.Tensor, ...],
    q: torch.Tensor,
    mask: Mask,
    low: int,
    high: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the keys and values of a row's lists, by query head, and what is seen.

    `flat` are all keys and all values, (B * T * Hkv, D).
    """
    table = mask.table
    assert table is not None  # noqa: S101 - as above
    batch, heads, _, width = q.shape
    kv_heads = len(flat[0]) // (batch * mask.kv_len)
    row = low // table.q_block - table.first_row
    lists = table.blocks[:, :, row]
    lists = lists[..., : int((lists >= 0).sum(2).max())].long()[..., None]
    j = (lists * table.k_block + torch.arange(table.k_block, device=q.device)).flatten(
        2
    )
    i = torch.arange(low, high, device=q.device)[:, None]
    seen = (j >= 0)[:, :, None] & (j[:, :, None] <= i)
    at = j.clamp(0, mask.kv_len - 1).expand(batch, heads, -1)
    entry = torch.arange(batch, device=q.device)[:, None, None] * mask.kv_len
    head = torch.arange(heads, device=q.device)[:, None] // (heads // kv_heads)
    rows = ((entry + at) * kv_heads + head).flatten()
    keys, values = (x.index_select(0, rows).view(batch, heads, -1, width) for x in flat)
    return keys, values, seen


def _weighed(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    weighing: Rule,
    seen: torch.Tensor,
) -> torch.Tensor:
    """Write the weights of a block out, and average the values by them."""
    shares = weights_of(weighing, q, k, seen)
    values = v.to(shares.dtype).repeat_interleave(q.shape[1] // v.shape[1], dim=1)
    return (shares @ values).to(q.dtype)


def _single(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, ranges: KeyRanges
) -> torch.Tensor:
    """One query over its ranges, sliced or gathered."""
    # On CUDA a mask would rule out the kernel that is best at one query.
    if q.device.type != "cuda" and not _worth_gathering(ranges):
        return _over_span(q, k, v, ranges)
    return dot_product(q, _gather(k, ranges), _gather(v, ranges))


def _gather(x: torch.Tensor, ranges: KeyRanges) -> torch.Tensor:
    """Return the keys or values of these ranges; a view, where it is one range."""
    if len(ranges) == 1:
        return x[:, :, slice(*ranges[0])]
    if len(ranges) <= _GATHERED:
        return torch.cat([x[:, :, slice(*each)] for each in ranges], dim=2)
    at = torch.cat([torch.arange(*each, device=x.device) for each in ranges])
    return x.index_select(2, at)


def _worth_gathering(ranges: KeyRanges) -> bool:
    """Whether the ranges leave out as many keys as they hold, so that copying pays."""
    held = sum(stop - start for start, stop in ranges)
    return len(ranges) == 1 or ranges[-1][1] - ranges[0][0] >= 2 * held


def _over_span(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, ranges: KeyRanges
) -> torch.Tensor:
    """One query over all keys from the first range to the last, the gaps masked."""
    first, last = ranges[0][0], ranges[-1][1]
    mask = q.new_zeros(1, last - first)
    for (_, stop), (start, _) in pairwise(ranges):
        mask[:, stop - first : start - first] = -torch.inf
    return dot_product(q, k[:, :, first:last], v[:, :, first:last], mask=mask)


def _added(
    band: Band, low: int, high: int, ranges: KeyRanges, q: torch.Tensor
) -> torch.Tensor:
    """Return what is added to a block's scores: 0 where seen, else -inf.

    Where all blocks look alike, one of the full size is kept, and a block of fewer
    queries takes its upper left corner: its last range ends as many keys earlier.
    """
    if band.max_keys is None:
        return _block_mask(band, low, high, ranges, q.dtype, q.device)
    # Blocks from `max_keys` on differ by where they stand only, but those that were
    # taken whole have as many keys as they stand far from the first.
    at = low if len(ranges) == 1 and ranges[0][0] == 0 else band.max_keys
    full = band.key_ranges(at, at + _BLOCK_TOKENS)
    if len(ranges) == 1:
        full = ((full[0][0], full[-1][1]),)
    mask = _block_mask(band, at, at + _BLOCK_TOKENS, full, q.dtype, q.device)
    return mask[: high - low, : sum(stop - start for start, stop in ranges)]


# A mask of up to 128 x 2 x max_keys numbers each; a window of 1024 and 256 globals
# needs 12 of them, whatever the prompt's length.
@lru_cache(maxsize=64)
def _block_mask(
    band: Band,
    low: int,
    high: int,
    ranges: KeyRanges,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    # Made outside inference mode, or the first caller's mode would stick to the cache
    # and a later training step couldn't save the mask for its backward pass.
    with torch.inference_mode(mode=False):
        seen = _seen(band, low, high, ranges)
        mask = torch.zeros(seen.shape, dtype=dtype)
        return mask.masked_fill_(~seen, -torch.inf).to(device)


def _seen(band: Band, low: int, high: int, ranges: KeyRanges) -> torch.Tensor:
    """Return what the queries [low, high) see of the keys of some ranges."""
    i = torch.arange(low, high)[:, None]
    j = torch.cat([torch.arange(*each) for each in ranges])
    seen: torch.Tensor = band.sees(i, j) & (j <= i)
    return seen
