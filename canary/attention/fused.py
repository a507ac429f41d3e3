"""Our own fused kernel on CUDA: any mask, any way to weigh, blocks from 16 to 128.

It differs from flex in three things: blocks smaller than a tile are gathered until they
fill one, so that nothing is computed that a small block leaves out; ways to weigh that
need no softmax do without it; and chunks start anywhere without being copied.
"""

import sys
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch

from canary.attention.masks import Mask, empty_like
from canary.attention.rules import Rule
from canary.attention.scores import Hyperbolic, Relu, SoftThreshold
from canary.attention.tiles import Tiles
from canary.attention.weights import FARTHEST, exponent
from canary.errors import AttentionError

_LOG2_E = 1.4426950408889634
_LIFTED = 32
"""Tokens that one program of `lift` puts on the hyperboloid."""
_WIDTHS = (16, 32, 64, 128, 256)
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


class _Form(NamedTuple):
    """Sizes of tiles, how many warps and stages work on one, and who loads it.

    `bulk`: keys and values come by the copy engine of Hopper and later (TMA), which
    takes whole tiles only.
    """

    tile_q: int
    tile_k: int
    warps: int
    stages: int
    bulk: bool = False


def fused_refuses(q: torch.Tensor) -> str | None:
    """Say in a sentence why this kernel can't serve such queries; None: it can."""
    if q.device.type != "cuda":
        return "fused is a CUDA kernel"
    if find_spec("triton") is None:
        return "fused needs Triton, which isn't installed"
    if q.dtype not in _DTYPES or q.shape[3] not in _WIDTHS:
        return (
            f"fused has no form for heads of {q.shape[3]} in "
            f"{str(q.dtype).removeprefix('torch.')}"
        )
    if q.requires_grad and torch.is_grad_enabled():
        return "fused has no backward pass"
    return None


def fused(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: Mask,
    weighing: Rule | None,
) -> torch.Tensor:
    """Attend to what a mask shows; shapes as in `attend`.

    Raises:
        AttentionError: `fused_refuses` says why.
    """
    refused = fused_refuses(q)
    if refused is not None:
        raise AttentionError(f"{refused}; use blocked or auto")
    q, k, v = (x if x.stride(3) == 1 else x.contiguous() for x in (q, k, v))
    form = _form(q, k, mask, weighing)
    columns = 128 if mask.table is None else mask.table.k_block
    listed = mask.tiles(form.tile_q, columns, q.device)
    return _launch(q, k, v, mask, weighing, form, listed)


def _form(q: torch.Tensor, k: torch.Tensor, mask: Mask, weighing: Rule | None) -> _Form:
    """Choose tiles: the fastest of those tried on an H100.

    Two programs of four warps a multiprocessor beat one of eight: while one starts or
    ends, the other computes. What small blocks fill is a tile of their own size.
    """
    table = mask.table
    rows = 128 if table is None or table.q_block == 1 else table.q_block
    if mask.q_len == 1:
        rows = 16  # the least that a product of matrices takes
    columns = 128 if table is None else table.k_block
    if q.dtype == torch.float32 or q.shape[3] > 128:
        return _Form(min(rows, 64), 32, 4, 2)
    if mask.q_len == 1 or rows != columns or not _bulk_copies(k):
        return _Form(rows, 64, 4, 2)
    if isinstance(weighing, Hyperbolic):
        rows = min(rows, 64)  # more of its numbers than of others must be at hand
    if rows < 64:
        warps, stages = {32: (2, 3), 16: (1, 4)}[rows]
        return _Form(rows, rows, warps, stages, bulk=True)
    return _Form(rows, 64, 4, 2 if columns == 128 else 3, bulk=True)


def _bulk_copies(k: torch.Tensor) -> bool:
    """Whether the copy engine is there and can read keys that lie like this."""
    if torch.cuda.get_device_capability(k.device) < (9, 0):
        return False
    size = k.element_size()
    aligned = all(step * size % 16 == 0 for step in k.stride()[:3])
    return aligned and k.data_ptr() % 16 == 0


def _launch(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: Mask,
    weighing: Rule | None,
    form: _Form,
    listed: Tiles,
) -> torch.Tensor:
    from canary.attention import fused_triton as kernel  # noqa: PLC0415 - imports Triton

    score, number, scale = kernel.SOFTMAX, 0.0, q.shape[3] ** -0.5 * _LOG2_E
    times: tuple[torch.Tensor, torch.Tensor] | None = None
    log_sum: torch.Tensor | None = None
    match weighing:
        case Relu():
            score, number = kernel.RELU, weighing.threshold
            scale = q.shape[3] ** -0.5
        case Hyperbolic():
            score, number = kernel.HYPERBOLIC, exponent(weighing)
            (q, q_time), (k, k_time) = (_on_sheet(kernel, weighing, x) for x in (q, k))
            times = q_time, k_time
        case SoftThreshold():
            score, number = kernel.SOFT_THRESHOLD, weighing.threshold
            log_sum = q.new_empty(q.shape[:3], dtype=torch.float32)
            first = _Launch(q, k, v, mask, form, listed, None, None)
            first.run(kernel, kernel.LOG_SUM, log_sum, scale, number)
    out = empty_like(q)
    _Launch(q, k, v, mask, form, listed, times, out).run(
        kernel, score, log_sum, scale, number
    )
    return out


def _on_sheet(
    kernel: Any,  # noqa: ANN401 - a module that only exists beside Triton
    weighing: Hyperbolic,
    x: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Lift queries or keys: space, as x, and time, (B, H, T) in float32."""
    batch, heads, tokens, width = x.shape
    space = empty_like(x)
    time = x.new_empty(x.shape[:3], dtype=torch.float32)
    factor = width**-0.25 * weighing.curvature**0.5
    kernel.lift[(-(-tokens // _LIFTED), batch * heads)](
        x, space, time, *x.stride()[:3], *space.stride()[:3],
        tokens, factor, FARTHEST,
        HEADS=heads, POINCARE=weighing.model == "poincare", ROWS=_LIFTED, WIDTH=width,
    )  # fmt: skip
    return space, time


class _Launch(NamedTuple):
    """One launch: tensors, lists, and the numbers that the kernel reads."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    mask: Mask
    form: _Form
    listed: Tiles
    times: tuple[torch.Tensor, torch.Tensor] | None
    out: torch.Tensor | None

    def run(
        self,
        kernel: Any,  # noqa: ANN401 - a module that only exists beside Triton
        score: Any,  # noqa: ANN401 - a constant of Triton's
        log_sum: torch.Tensor | None,
        scale: float,
        number: float,
    ) -> None:
        """Run over all rows of all heads."""
        q, k, v, mask, form, listed = self[:6]
        batch, heads, q_len, width = q.shape
        nothing = listed.whole_counts  # where a pointer is needed and nothing read
        out = nothing if self.out is None else self.out
        out_steps = (0, 0, 0) if self.out is None else out.stride()[:3]
        q_time, k_time = (nothing, nothing) if self.times is None else self.times
        table, table_kind, table_numbers = self._table(nothing)
        rows, start = listed.whole_counts.shape[2], mask.start
        per_head, per_entry = _list_steps(listed)
        keys, values = (_bulk(x, form) if form.bulk else x for x in (k, v))
        uneven = start < mask.band.dense_from < mask.kv_len
        grid = (batch * heads, rows) if uneven else (rows, batch * heads)
        kernel.forward[grid](
            q, keys, values, out, nothing if log_sum is None else log_sum,
            q_time, k_time,
            listed.whole_counts, listed.whole, listed.some_counts, listed.some, table,
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out_steps,
            per_entry, per_head, listed.whole.shape[3], listed.some.shape[3],
            *table_numbers[:3], rows,
            *mask.band,
            start, q_len, mask.kv_len, listed.first_row, table_numbers[3],
            scale, number,
            HEADS=heads, SHARED=heads // k.shape[1], SCORE=score, TABLE=table_kind,
            STRIDED=mask.band.stride > 0,
            KEY_BLOCK=128 if mask.table is None else mask.table.k_block,
            BLOCK_M=form.tile_q, BLOCK_N=form.tile_k, WIDTH=width,
            PRECISION="ieee" if q.dtype == torch.float32 else "tf32",
            BULK=form.bulk, HEADS_FIRST=uneven,
            num_warps=form.warps, num_stages=form.stages,
        )  # fmt: skip

    def _table(
        self, nothing: torch.Tensor
    ) -> tuple[torch.Tensor, int, tuple[int, int, int, int]]:
        """Return the table that the kernel looks pairs up in, where it must.

        Where a tile lies within a row of the lists, or holds one query, all that is
        listed is seen: kind 1.
        Where each query has its own list, the tile's is their union, and it asks.
        """
        table = self.mask.table
        if table is None:
            return nothing, 0, (0, 0, 0, 0)
        if table.q_block >= self.form.tile_q or self.mask.q_len == 1:
            return nothing, 1, (0, 0, 0, 0)
        seen = table.seen(-(-self.mask.kv_len // table.k_block)).to(torch.int8)
        b, h = (0 if seen.shape[n] == 1 else seen.stride(n) for n in (0, 1))
        return seen, 2, (b, h, seen.stride(2), table.first_row)


def _bulk(x: torch.Tensor, form: _Form) -> Any:  # noqa: ANN401 - Triton is untyped
    """Describe keys or values to the copy engine."""
    from triton.tools.tensor_descriptor import TensorDescriptor  # noqa: PLC0415 - Triton

    tile = [1, 1, form.tile_k, x.shape[3]]
    return TensorDescriptor(x, list(x.shape), list(x.stride()), tile)


def _list_steps(listed: Tiles) -> tuple[int, int]:
    """Return how far apart lists of two heads are, and of two batch entries, in rows.

    Touched and whole tiles can differ in whether heads differ: both are made alike.
    """
    b, h, rows = listed.whole_counts.shape
    return (rows if h > 1 else 0), (rows * h if b > 1 else 0)


def compile_count() -> int:
    """Return how many forms of the kernel this process has compiled so far."""
    kernel = sys.modules.get("canary.attention.fused_triton")
    if kernel is None:
        return 0
    return sum(len(cache[0]) for cache in kernel.forward.device_caches.values())


@lru_cache(maxsize=1)
def version() -> str | None:
    """Return Triton's version, if it is there."""
    if find_spec("triton") is None:
        return None
    import triton  # noqa: PLC0415 - as above

    return str(triton.__version__)
