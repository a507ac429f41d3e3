"""Dense causal attention by torch's scaled_dot_product_attention.

Left to itself, torch chooses among its CUDA kernels in silence and differently from
version to version; 2.11 decodes by cuDNN, which then plans anew for every token. Here
the choice is made first, so that it can be named, and the call is held to it. Prefill
goes to cuDNN, the fastest there, at the few lengths of `canary.attention.lengths`.
"""

from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

import torch
from torch.backends.cuda import (
    SDPAParams,
    can_use_cudnn_attention,
    can_use_efficient_attention,
    can_use_flash_attention,
)
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from canary.attention.lengths import BLOCK_TOKENS, padded, padded_length


class Phase(Enum):
    """What a call of attention is for."""

    PREFILL = "prefill"
    CHUNK = "chunk"
    DECODE = "decode"

    @staticmethod
    def of(q_len: int, kv_len: int) -> "Phase":
        """Tell it by the numbers of queries and keys."""
        if q_len == 1:
            return Phase.DECODE
        return Phase.PREFILL if q_len == kv_len else Phase.CHUNK


class Call(NamedTuple):
    """What torch's choice of kernel depends on, except lengths."""

    batch: int
    heads: int
    kv_heads: int
    width: int
    dtype: torch.dtype
    device: torch.device
    trains: bool

    @staticmethod
    def of(q: torch.Tensor, k: torch.Tensor) -> "Call":
        """Describe a call by its queries and keys."""
        batch, heads, _, width = q.shape
        trains = q.requires_grad and torch.is_grad_enabled()
        return Call(batch, heads, k.shape[1], width, q.dtype, q.device, trains)


_Test = Callable[[SDPAParams], bool]
_CUDNN: tuple[SDPBackend, _Test] = SDPBackend.CUDNN_ATTENTION, can_use_cudnn_attention
_FLASH: tuple[SDPBackend, _Test] = SDPBackend.FLASH_ATTENTION, can_use_flash_attention
_EFFICIENT: tuple[SDPBackend, _Test] = (
    SDPBackend.EFFICIENT_ATTENTION,
    can_use_efficient_attention,
)
# Best first, as measured by tests/benchmarks/bench_attention_cuda.py on an H200. A
# chunk takes a mask, which flash can't and for which cuDNN would plan anew each time.
_PREFERRED = {
    Phase.PREFILL: (_CUDNN, _FLASH, _EFFICIENT),
    Phase.DECODE: (_FLASH, _EFFICIENT),
    Phase.CHUNK: (_EFFICIENT,),
}
NAMES = {
    SDPBackend.CUDNN_ATTENTION: "cudnn",
    SDPBackend.FLASH_ATTENTION: "flash",
    SDPBackend.EFFICIENT_ATTENTION: "efficient",
    SDPBackend.MATH: "math",
}


@lru_cache(maxsize=256)
def cuda_kernel(call: Call, phase: Phase) -> SDPBackend:
    """Return which of torch's kernels `causal` and `dot_product` hold a call to."""
    batch, heads, kv_heads, width, dtype, device, trains = call
    q_len = 1 if phase is Phase.DECODE else BLOCK_TOKENS
    q = torch.empty(
        batch, q_len, heads, width, dtype=dtype, device=device, requires_grad=trains
    )
    k = torch.empty(
        batch,
        2 * BLOCK_TOKENS if phase is Phase.CHUNK else BLOCK_TOKENS,
        kv_heads,
        width,
        dtype=dtype,
        device=device,
        requires_grad=trains,
    )
    q, k = q.transpose(1, 2), k.transpose(1, 2)
    mask = None
    if phase is Phase.CHUNK:
        mask = q.new_ones(q_len, k.shape[2], dtype=torch.bool)
    causal, shared = phase is Phase.PREFILL, heads != kv_heads
    params = SDPAParams(q, k, k, mask, 0.0, causal, shared)
    for backend, usable in _PREFERRED[phase]:
        if usable(params):
            return backend
    return SDPBackend.MATH


def causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attend densely and causally, queries last.

    torch aligns `is_causal` to the upper left: query 0 would see key 0 only. That is
    right in prefill only; a chunk takes an explicit mask aligned to the lower right.
    """
    q_len, kv_len = q.shape[2], k.shape[2]
    phase = Phase.of(q_len, kv_len)
    if phase is Phase.CHUNK:
        seen = q.new_ones(q_len, kv_len, dtype=torch.bool).tril(kv_len - q_len)
        return dot_product(q, k, v, mask=seen)
    if phase is Phase.DECODE:
        return dot_product(q, k, v)
    if q.device.type == "cuda":
        backend = cuda_kernel(Call.of(q, k), phase)
        if backend is SDPBackend.CUDNN_ATTENTION:
            # Keys behind the last real one are hidden from all real queries.
            back = padded_length(q_len) - q_len
            q, k, v = (padded(x, 0, back) for x in (q, k, v))
        with sdpa_kernel(backend):
            return _torch(q, k, v, None, causal=True)[:, :, :q_len]
    return _torch(q, k, v, None, causal=True)


def dot_product(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend to all keys, or to those that a mask lets through."""
    if q.device.type != "cuda":
        return _torch(q, k, v, mask, causal=False)
    phase = Phase.DECODE if mask is None else Phase.CHUNK
    backend = cuda_kernel(Call.of(q, k), phase)
    if backend is SDPBackend.FLASH_ATTENTION and q.shape[3] % 8 == 0:
        # What torch itself calls next. Holding it to that by `sdpa_kernel` takes 19
        # microseconds, half as long as the attention of one token.
        flash = torch.ops.aten._scaled_dot_product_flash_attention  # noqa: SLF001 - said above
        out: torch.Tensor = flash(q, k, v, 0.0, is_causal=False)[0]
        return out
    with sdpa_kernel(backend):
        return _torch(q, k, v, mask, causal=False)


def _torch(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    causal: bool,
) -> torch.Tensor:
    shared = q.shape[1] != k.shape[1]
    return scaled_dot_product_attention(
        q, k, v, mask, is_causal=causal, enable_gqa=shared
    )
