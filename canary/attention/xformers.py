"""Attention by xformers: windows, and what can be put together from its parts exactly.

xformers has no mask of blocks. A window with globals is three calls that share no key,
merged by their logarithms of sums; a list of blocks is a short sequence of its own for
each row, gathered, with the row's own block last. Only what `xformers_refuses` lets
through runs here, and never another kernel in its place.
"""

import ctypes
import logging
from functools import lru_cache
from importlib.metadata import version as version_of
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from canary.attention.band import FAR
from canary.attention.masks import Mask
from canary.attention.rules import Rule

_MOST_GATHERED_BYTES = 2**30


def xformers_refuses(q: torch.Tensor, mask: Mask, weighing: Rule | None) -> str | None:
    """Say in a sentence why xformers can't compute this exactly; None: it can."""
    rules_out = {
        "xformers has no operator for the CPU": q.device.type != "cuda",
        "xformers isn't installed": find_spec("xformers") is None,
        "xformers knows softmax only": weighing is not None,
        "xformers merges parts in bfloat16 and float16 only": q.dtype
        not in (torch.bfloat16, torch.float16),
        "its merged parts have no backward pass": q.requires_grad
        and torch.is_grad_enabled(),
        "xformers has no call for strides": mask.band.stride > 0,
        "xformers has no call for a chunk with dense queries": mask.start > 0
        and mask.band.dense_from < mask.kv_len,
        "xformers gathers lists for blocks of queries, not for each query": (
            mask.table is not None and mask.table.q_block != mask.table.k_block
        ),
    }
    return next((reason for reason, true in rules_out.items() if true), None)


def xformers(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: Mask,
    weighing: Rule | None,
) -> torch.Tensor:
    """Attend to what a mask shows; shapes as in `attend`. Asked only if not refused."""
    del weighing  # softmax, as `xformers_refuses` saw to
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, T, H, D), as it has them
    if mask.table is not None:
        return _gathered(q, k, v, mask).transpose(1, 2)
    window, global_tokens = mask.band.window, mask.band.global_tokens
    sparse = min(mask.kv_len, max(mask.band.dense_from, mask.start)) - mask.start
    if sparse == mask.q_len:
        return _banded(q, k, v, window, global_tokens).transpose(1, 2)
    # A prompt whose last queries are dense: two calls, one after the other.
    out = _attention(q[:, sparse:], k, v, window=FAR)
    if sparse:
        q, k, v = (x[:, :sparse] for x in (q, k, v))
        out = torch.cat([_banded(q, k, v, window, global_tokens), out], 1)
    return out.transpose(1, 2)


def _banded(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int, global_tokens: int
) -> torch.Tensor:
    """Window and globals: (B, T, H, D).

    The window over all rows; then the globals, for the rows whose window has left some
    of them: those that still touch them see a triangle, the others all. The parts share
    no key, so that merging them is exact.
    """
    q_len, kv_len = q.shape[1], k.shape[1]
    start = kv_len - q_len
    if not global_tokens or window >= kv_len:
        return _attention(q, k, v, window=window)
    near, near_sum = _partial(q, k, v, window=window)
    out = near
    merge = _ops().merge_attentions
    # Query i has left min(i + 1 - window, globals) of them behind.
    for low, high, triangle in (
        (window, window + global_tokens, True),
        (window + global_tokens, kv_len, False),
    ):
        first, last = max(low, start) - start, min(high, kv_len) - start
        if first >= last:
            continue
        part = slice(first, last)
        keys = min(global_tokens, start + last - window) if triangle else global_tokens
        far, far_sum = _partial(
            q[:, part], k[:, :keys], v[:, :keys], window=FAR if triangle else None
        )
        merged, _ = merge(
            [near[:, part], far], [near_sum[..., part], far_sum], write_lse=False
        )
        if out is near:
            out = near.clone()
        out[:, part] = merged
    return out


def _gathered(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Mask
) -> torch.Tensor:
    """Lists of blocks: each row a sequence of its own keys, the own block last."""
    table = mask.table
    assert table is not None  # noqa: S101 - that's why we are here
    size, (batch, _, heads, _) = table.k_block, q.shape
    bias_of = _ops().attn_bias.BlockDiagonalCausalFromBottomRightMask
    out = torch.empty_like(q)
    groups = heads // k.shape[2]
    rows = table.blocks.shape[2]
    begin = table.first_row * size
    edges = [
        (max(begin + r * size, mask.start), min(begin + (r + 1) * size, mask.kv_len))
        for r in range(rows)
    ]
    q_lens = [high - low for low, high in edges]
    tail = torch.tensor([high for _, high in edges], device=q.device)
    offsets = torch.arange(size, device=q.device)
    for b in range(batch):
        for h in range(heads):
            lists = table.of_head(b, h).long()
            j = (lists[..., None] * size + offsets).flatten(1)
            valid = (lists >= 0).repeat_interleave(size, 1) & (j < tail[:, None])
            at = j[valid]
            kv_lens = valid.sum(1).tolist()
            bias = bias_of.from_seqlens(q_lens, kv_lens, device=q.device)
            keys, values = (x[b, :, h // groups].index_select(0, at) for x in (k, v))
            parts = (x[None, :, None] for x in (q[b, :, h], keys, values))
            out[b, :, h] = _ops().memory_efficient_attention_forward(*parts, bias)[
                0, :, 0
            ]
    return out


def _attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, window: int
) -> torch.Tensor:
    """One causal call, within a window, queries last."""
    run = _ops().memory_efficient_attention_forward
    out: torch.Tensor = _ungrouped(run(*_grouped(q, k, v), _bias(window)))
    return out


def _partial(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, window: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """One call and the logarithm of its sums, (B, H, T); window None: all keys."""
    run = _ops().memory_efficient_attention_partial
    bias = None if window is None else _bias(window)
    out, log_sum = run(*_grouped(q, k, v), bias)
    return _ungrouped(out), log_sum.flatten(1, -2)


def _bias(window: int) -> Any:  # noqa: ANN401 - xformers is untyped
    biases = _ops().attn_bias
    if window == FAR:
        return biases.LowerTriangularFromBottomRightMask()
    return biases.LowerTriangularFromBottomRightLocalAttentionMask(window)


def _grouped(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Give xformers (B, T, groups, shared, D) where heads share keys, unexpanded."""
    heads, kv_heads = q.shape[2], k.shape[2]
    if heads == kv_heads:
        return q, k, v
    shared = heads // kv_heads
    expanded = (x[:, :, :, None].expand(-1, -1, -1, shared, -1) for x in (k, v))
    return q.unflatten(2, (kv_heads, shared)), *expanded


def _ungrouped(out: torch.Tensor) -> torch.Tensor:
    return out.flatten(2, 3) if out.dim() == 5 else out


@lru_cache(maxsize=1)
def _ops() -> Any:  # noqa: ANN401 - xformers is untyped
    """Import xformers' attention, with the CUDA 12 runtime that its wheel links to."""
    _preload_cuda_12()
    # Its warning says that attention won't be available, which is wrong: the extension
    # that fails to load serves other operators (`canary doctor` tells what runs).
    logging.getLogger("xformers").setLevel(logging.ERROR)
    from xformers.ops import fmha  # noqa: PLC0415 - where it is asked for

    return fmha


def _preload_cuda_12() -> None:
    """Load libcudart.so.12 from its wheel, if torch came with another one."""
    found = find_spec("nvidia.cuda_runtime") if find_spec("nvidia") else None
    for folder in (found.submodule_search_locations or ()) if found else ():
        for library in Path(folder).glob("lib/libcudart.so.12*"):
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


@lru_cache(maxsize=1)
def version() -> str | None:
    """Return the version of xformers, if it is there."""
    return version_of("xformers") if find_spec("xformers") else None
