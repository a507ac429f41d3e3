"""Kernels that execute attention patterns: one call, and evidence of what ran.

A kernel is a function of (q, k, v, rule) with q (B, H, Tq, D), k and v (B, Hkv, Tkv,
D) and query i at absolute position Tkv - Tq + i; it computes that rule exactly, on any
device, or is not in the table. Nothing here falls back: what was asked for runs, or an
error says why not.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

import torch
from torch.nn.functional import scaled_dot_product_attention

from canary.attention.rules import Dense, KeyRanges, Pattern, Rule
from canary.errors import AttentionError

Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Rule], torch.Tensor]
"""(q, k, v, rule) -> output of q's shape and dtype; shapes are checked already."""

# Queries a block in `blocked`. Measured as tests/benchmarks/bench_attention.py does
# (2 cores with AVX-512, float32, 4 heads of 64, 1k to 8k tokens) over 32, 64, 96, 128,
# 192 and 256: 128 is within 8 % of the best for windows of 64 to 1024, with and without
# globals. Small windows like 64 a little better (less is computed that the mask then
# hides), large ones with many globals 256 (fewer gathers).
_BLOCK_TOKENS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelEvidence:
    """Which kernel ran for one layer's rule, where, and why that one.

    `str` of it is what observations record: ``blocked[sliding_window(window=256)]``.
    """

    name: str
    pattern: str
    reason: str
    device: str
    dtype: str
    torch_version: str
    rule: Rule = field(repr=False)

    def density(self, q_len: int, kv_len: int) -> float:
        """Return the visible share of causal pairs for these lengths, on request."""
        return self.rule.density(q_len, kv_len)

    def __str__(self) -> str:
        """Return ``kernel[pattern]``."""
        return f"{self.name}[{self.pattern}]"


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    pattern: Pattern,
    *,
    layer: int = 0,
    backend: str = "auto",
) -> tuple[torch.Tensor, KernelEvidence]:
    """Attend causally from q to what `pattern` lets it see in k and v.

    Scores are scaled by D**-0.5 and softmaxed over the visible keys. The same call
    serves prefill (Tq = Tkv), chunked prefill and decode (Tq = 1). H is a multiple of
    Hkv: query heads share key heads in consecutive groups.

    Backends: ``reference`` (explicit mask and softmax; the oracle), ``sdpa`` (torch's
    own; dense rules only), ``blocked`` (any rule; computes only blocks of keys that are
    seen), ``auto`` (sdpa for dense rules, blocked for all others).

    Args:
        q: Queries, (B, H, Tq, D).
        k: Keys, (B, Hkv, Tkv, D), of q's dtype and on its device.
        v: Values, as k.
        pattern: What may be seen.
        layer: The layer, from 0, for patterns that differ by layer.
        backend: The kernel to run.

    Returns:
        The output, (B, H, Tq, D), and evidence of the kernel that made it.

    Raises:
        AttentionError: Shapes don't fit, the backend is unknown or can't execute this
            pattern exactly, or the pattern says nothing about the layer.
    """
    _check(q, k, v)
    kernel, evidence = _select(pattern, layer, backend, q.device, q.dtype)
    return kernel(q, k, v, evidence.rule), evidence


def _check(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    if q.dim() == k.dim() == 4 and k.shape == v.shape:
        batch, heads, q_len, width = q.shape
        kv_batch, kv_heads, kv_len, kv_width = k.shape
        if (
            (batch, width) == (kv_batch, kv_width)
            and kv_heads
            and heads % kv_heads == 0
            and 1 <= q_len <= kv_len
            and q.is_floating_point()
            and q.dtype == k.dtype == v.dtype
            and q.device == k.device == v.device
        ):
            return
    got = ", ".join(
        f"{name} {tuple(x.shape)} {x.dtype} on {x.device}"
        for name, x in (("q", q), ("k", k), ("v", v))
    )
    raise AttentionError(
        "expected q (B, H, Tq, D), k and v (B, Hkv, Tkv, D) with H a multiple of Hkv "
        f"and 1 <= Tq <= Tkv, of one floating dtype on one device; got {got}"
    )


@lru_cache(maxsize=256)
def _select(
    pattern: Pattern,
    layer: int,
    backend: str,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Kernel, KernelEvidence]:
    rule = pattern.at(layer)
    name, reason = backend, "asked for by name"
    if backend == "auto":
        # `blocked` is one dense call itself as long as the rule hides nothing, so there
        # is no length at which a sparse rule gains from being sent to sdpa.
        dense = isinstance(rule, Dense)
        name = "sdpa" if dense else "blocked"
        reason = (
            "auto: the rule is dense"
            if dense
            else "auto: the kernel here that skips what the rule hides"
        )
    if name not in _KERNELS:
        known = ", ".join(["auto", *sorted(_KERNELS)])
        raise AttentionError(f"unknown attention backend {backend!r}; known: {known}")
    if name == "sdpa" and not isinstance(rule, Dense):
        raise AttentionError(
            f"backend sdpa computes all pairs and can't gain from {rule}; use blocked, "
            "auto, or reference"
        )
    return _KERNELS[name], KernelEvidence(
        name=name,
        pattern=str(rule),
        reason=reason,
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        torch_version=torch.__version__,
        rule=rule,
    )


def _reference(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rule: Rule
) -> torch.Tensor:
    """Explicit mask and softmax, in float32 at least; Tq x Tkv scores per head."""
    groups = q.shape[1] // k.shape[1]
    exact = torch.promote_types(q.dtype, torch.float32)
    keys = k.to(exact).repeat_interleave(groups, dim=1)
    values = v.to(exact).repeat_interleave(groups, dim=1)
    hidden = ~rule.visible(q.shape[2], k.shape[2]).to(q.device)
    scores = q.to(exact) @ keys.mT * q.shape[3] ** -0.5
    shares = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1)
    out: torch.Tensor = shares @ values
    return out.to(q.dtype)


def _sdpa(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rule: Rule
) -> torch.Tensor:
    del rule  # dense: `_select` lets nothing else through
    return _causal(q, k, v)


def _causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Dense causal attention, queries last.

    torch aligns `is_causal` to the upper left: query 0 would see key 0 only. That is
    right in prefill only; a chunk takes an explicit mask aligned to the lower right.
    """
    q_len, kv_len = q.shape[2], k.shape[2]
    if q_len in (1, kv_len):
        return _dot_product(q, k, v, causal=q_len > 1)
    seen = q.new_ones(q_len, kv_len, dtype=torch.bool).tril(kv_len - q_len)
    return _dot_product(q, k, v, mask=seen)


def _dot_product(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    causal: bool = False,
) -> torch.Tensor:
    shared = q.shape[1] != k.shape[1]
    return scaled_dot_product_attention(
        q, k, v, mask, is_causal=causal, enable_gqa=shared
    )


def _blocked(
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
        return _causal(q, k, v)
    if q_len == 1:
        ranges = rule.key_ranges(start, kv_len)
        if not _worth_gathering(ranges):
            return _over_span(q, k, v, ranges)
        return _dot_product(q, _gather(k, ranges), _gather(v, ranges))
    # The memory order that SDPA itself returns, so that merging heads stays free.
    out = torch.empty_like(q.transpose(1, 2), memory_format=torch.contiguous_format)
    out = out.transpose(1, 2)
    first = max(dense - start, 0)
    if first:
        out[:, :, :first] = _causal(q[:, :, :first], k[:, :, :dense], v[:, :, :dense])
    for low in range(first, q_len, _BLOCK_TOKENS):
        high = min(low + _BLOCK_TOKENS, q_len)
        ranges = rule.key_ranges(start + low, start + high)
        at = rule.max_keys or 0
        if not _worth_gathering(ranges):
            ranges, at = ((ranges[0][0], ranges[-1][1]),), start + low
        keys, values = _gather(k, ranges), _gather(v, ranges)
        mask = _block_mask(rule, at, len(ranges) == 1, q.dtype, q.device)
        mask = mask[: high - low, : keys.shape[2]]
        out[:, :, low:high] = _dot_product(q[:, :, low:high], keys, values, mask=mask)
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
    return _dot_product(q, k[:, :, first:last], v[:, :, first:last], mask=mask)


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


_KERNELS: dict[str, Kernel] = {
    "blocked": _blocked,
    "reference": _reference,
    "sdpa": _sdpa,
}
