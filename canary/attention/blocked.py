"""Attention block by block of queries, over no more keys than pays: any rule, anywhere.

It needs no compiler and computes by torch's own dense kernels.
"""

from functools import lru_cache
from itertools import pairwise

import torch

from canary.attention.dense import causal, dot_product
from canary.attention.rules import KeyRanges, Rule

# Queries a block in `blocked`. Measured as tests/benchmarks/bench_attention.py does
# (2 cores with AVX-512, float32, 4 heads of 64, 1k to 8k tokens) over 32, 64, 96, 128,
# 192 and 256: 128 is within 8 % of the best for windows of 64 to 1024, with and without
# globals. Small windows like 64 a little better (less is computed that the mask then
# hides), large ones with many globals 256 (fewer gathers).
_BLOCK_TOKENS = 128


def blocked(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rule: Rule
) -> torch.Tensor:
    """Block by block of queries, over no more keys than pays.

    Queries before `max_keys` see all keys up to their own: one dense call. Those after
    look alike (see `Rule`), so that one mask serves every block of every length. A
    single query sees all keys of its ranges: decode slices the cache, without a mask.
    Where the ranges leave out less than they hold, all keys between are taken and
    masked: to score a key too many costs less than to copy the others together.
    """
    q_len, kv_len = q.shape[2], k.shape[2]
    start = kv_len - q_len
    dense = kv_len if rule.max_keys is None else min(kv_len, rule.max_keys)
    if dense == kv_len:
        return causal(q, k, v)
    if q_len == 1:
        ranges = rule.key_ranges(start, kv_len)
        # On CUDA a mask would rule out the kernel that is best at one query.
        if q.device.type != "cuda" and not _worth_gathering(ranges):
            return _over_span(q, k, v, ranges)
        return dot_product(q, _gather(k, ranges), _gather(v, ranges))
    # The memory order that SDPA itself returns, so that merging heads stays free.
    out = torch.empty_like(q.transpose(1, 2), memory_format=torch.contiguous_format)
    out = out.transpose(1, 2)
    first = max(dense - start, 0)
    if first:
        out[:, :, :first] = causal(q[:, :, :first], k[:, :, :dense], v[:, :, :dense])
    for low in range(first, q_len, _BLOCK_TOKENS):
        high = min(low + _BLOCK_TOKENS, q_len)
        ranges = rule.key_ranges(start + low, start + high)
        at = rule.max_keys or 0
        if not _worth_gathering(ranges):
            ranges, at = ((ranges[0][0], ranges[-1][1]),), start + low
        keys, values = _gather(k, ranges), _gather(v, ranges)
        mask = _block_mask(rule, at, len(ranges) == 1, q.dtype, q.device)
        mask = mask[: high - low, : keys.shape[2]]
        out[:, :, low:high] = dot_product(q[:, :, low:high], keys, values, mask=mask)
    return out


def _gather(x: torch.Tensor, ranges: KeyRanges) -> torch.Tensor:
    """Return the keys or values of these ranges; a view, where it is one range."""
    if len(ranges) == 1:
        return x[:, :, slice(*ranges[0])]
    return torch.cat([x[:, :, slice(*each)] for each in ranges], dim=2)


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


# A mask of up to 128 x 2 x max_keys numbers each; a window of 1024 and 256 globals
# needs 12 of them, whatever the prompt's length.
@lru_cache(maxsize=64)
def _block_mask(
    rule: Rule, start: int, whole: bool, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Return what the full block at `start` adds to scores: 0 where seen, else -inf.

    Shape (block, keys of its ranges, or if `whole` all keys that they span). A block of
    fewer queries takes the upper left corner: its last range ends as many keys earlier.
    """
    stop = start + _BLOCK_TOKENS
    ranges = rule.key_ranges(start, stop)
    if whole:
        ranges = ((ranges[0][0], ranges[-1][1]),)
    # Made outside inference mode, or the first caller's mode would stick to the cache
    # and a later training step couldn't save the mask for its backward pass.
    with torch.inference_mode(mode=False):
        i = torch.arange(start, stop)[:, None]
        j = torch.cat([torch.arange(*each) for each in ranges])
        seen = rule.sees(i, j) & (j <= i)
        mask = torch.zeros(seen.shape, dtype=dtype)
        return mask.masked_fill_(~seen, -torch.inf).to(device)
