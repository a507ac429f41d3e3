"""Attention by torch's flex_attention: few compiled kernels for all masks and lengths.

What differs between masks and lengths is data: lists of the blocks that a row of
queries touches, tables, and the band's numbers. What is compiled anew is a shape of
heads, a dtype, and each of three kinds of mask: by window, with a stride, with a table.
"""

import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention
from torch.utils._triton import has_triton

from canary.attention.lengths import BLOCK_TOKENS, padded, padded_length
from canary.attention.masks import Mask
from canary.attention.rules import Rule
from canary.attention.scores import Hyperbolic, Relu, SoftThreshold
from canary.attention.tiles import Tiles
from canary.attention.weights import exponent, lifted
from canary.errors import AttentionError

# Sizes of 0 and 1 are never dynamic to torch, and less than 128 queries take another
# kernel: two blocks at least keep all lengths in one compiled form.
_LEAST_BLOCKS = 2

# Each pair of heads, head width, dtype, memory layout, autograd mode and kind of mask
# compiles once. torch's own limit of 8 is soon met by a process that runs several
# models; beyond it `fullgraph` makes torch raise, where it would run unfused.
_COMPILED_FORMS = 64

# What torch can't see in dynamic lengths: they are whole blocks. (ROWS_GUARANTEED_SAFE
# would say more than that each query sees a key: that it does so in the first block of
# its row's list, which windows don't; it makes them not-a-number.)
_OPTIONS: Any = {"IS_DIVISIBLE": True}

ScoreMod = Callable[..., torch.Tensor]


def compiles(device: torch.device) -> bool:
    """Whether flex attention is fused on this device; elsewhere it runs op by op."""
    return device.type == "cuda" and has_triton()


def compile_count() -> int:
    """Return how many forms torch has compiled in this process so far."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    if dynamo is None:  # and loading it takes two seconds
        return 0
    return int(dynamo.counters["stats"]["unique_graphs"])


def flex(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: Mask,
    weighing: Rule | None,
) -> torch.Tensor:
    """Attend by blocks of 128 queries and keys; shapes as in `attend`.

    Queries are padded in front to the start of their block, all ends to a whole block:
    what is padded behind is hidden by causality, and padded queries are cut off.

    Raises:
        AttentionError: torch refuses to compile it in yet another form.
    """
    q_len, kv_len = q.shape[2], k.shape[2]
    first, front = divmod(kv_len - q_len, BLOCK_TOKENS)
    rows = max(_LEAST_BLOCKS, padded_length(front + q_len) // BLOCK_TOKENS)
    back = rows * BLOCK_TOKENS - front - q_len
    behind = (first + rows) * BLOCK_TOKENS - kv_len
    if mask.block_mask is None:
        mask.block_mask = _block_mask(mask, first, rows, q.device)
    blocks = mask.block_mask
    q = padded(q, front, back)
    k, v = padded(k, 0, behind), padded(v, 0, behind)
    scale: float | None = None
    score: ScoreMod | None = None
    if isinstance(weighing, Hyperbolic):
        (q, q_time), (k, k_time) = (_on_sheet(weighing, x) for x in (q, k))
        scale, score = 1.0, _distance(weighing, q_time, k_time)
    elif isinstance(weighing, SoftThreshold):
        log_sum = _call(_log_sum, q, k, v, blocks, None, None)
        score = _above(weighing, log_sum)
    elif weighing is not None:
        score = _relu(weighing, q.device, q.dtype)
    out = _call(_run, q, k, v, blocks, score, scale)
    return out[:, :, front : front + q_len]


def _call(
    run: Callable[..., torch.Tensor],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    blocks: BlockMask,
    score: ScoreMod | None,
    scale: float | None,
) -> torch.Tensor:
    # Only the eager form returns the logarithms of sums on a CPU.
    fused = compiles(q.device)
    try:
        return _compiled(run, fused)(q, k, v, blocks, score, scale)
    except torch._dynamo.exc.FailOnRecompileLimitHit as error:  # noqa: SLF001 - it has no other name
        raise AttentionError(
            f"flex attention would be compiled in more than {_COMPILED_FORMS} forms in "
            "this process; run fewer head counts and dtypes in it, or use blocked"
        ) from error


def _run(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: BlockMask,
    score: ScoreMod | None,
    scale: float | None,
) -> torch.Tensor:
    shared = q.shape[1] != k.shape[1]
    out: torch.Tensor = flex_attention(
        q, k, v, score, mask, scale, enable_gqa=shared, kernel_options=_OPTIONS
    )
    return out


def _log_sum(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: BlockMask,
    score: ScoreMod | None,
    scale: float | None,
) -> torch.Tensor:
    _, more = flex_attention(
        q,
        k,
        v,
        score,
        mask,
        scale,
        enable_gqa=q.shape[1] != k.shape[1],
        kernel_options=_OPTIONS,
        return_aux=AuxRequest(lse=True),
    )
    if more.lse is None:
        raise RuntimeError("flex attention didn't return what it was asked for")
    return more.lse


@lru_cache(maxsize=4)
def _compiled(
    run: Callable[..., torch.Tensor], fused: bool
) -> Callable[..., torch.Tensor]:
    config = torch._dynamo.config  # noqa: SLF001 - loaded here, it takes a second
    config.recompile_limit = max(config.recompile_limit, _COMPILED_FORMS)
    # Or two sizes that happen to be equal, like 4 heads and 4 blocks, stay so for good.
    torch.fx.experimental._config.use_duck_shape = False  # noqa: SLF001 - no other name
    backend = "inductor" if fused else "eager"
    compiled: Callable[..., torch.Tensor] = torch.compile(
        run, dynamic=True, fullgraph=True, backend=backend
    )
    return compiled


def _relu(weighing: Rule, device: torch.device, dtype: torch.dtype) -> ScoreMod:
    """Softmax of log(relu(s - t)) is relu(s - t) over its sum; all below: zero."""
    assert isinstance(weighing, Relu)  # noqa: S101 - the only one left
    threshold = _real(weighing.threshold, device, dtype)

    def score(
        s: torch.Tensor,
        b: torch.Tensor,
        h: torch.Tensor,
        i: torch.Tensor,
        j: torch.Tensor,
    ) -> torch.Tensor:
        del b, h, i, j
        return torch.log(torch.relu(s - threshold))

    return score


def _above(weighing: SoftThreshold, log_sum: torch.Tensor) -> ScoreMod:
    """Second pass: the logarithm of what a share exceeds the threshold by."""
    threshold = _real(weighing.threshold, log_sum.device, log_sum.dtype)

    def score(
        s: torch.Tensor,
        b: torch.Tensor,
        h: torch.Tensor,
        i: torch.Tensor,
        j: torch.Tensor,
    ) -> torch.Tensor:
        del j
        return torch.log(torch.relu(torch.exp(s - log_sum[b, h, i]) - threshold))

    return score


def _distance(
    weighing: Hyperbolic, q_time: torch.Tensor, k_time: torch.Tensor
) -> ScoreMod:
    beta = _real(exponent(weighing), q_time.device, q_time.dtype)
    groups = _number(q_time.shape[1] // k_time.shape[1], q_time.device)

    def score(
        s: torch.Tensor,
        b: torch.Tensor,
        h: torch.Tensor,
        i: torch.Tensor,
        j: torch.Tensor,
    ) -> torch.Tensor:
        inner = q_time[b, h, i] * k_time[b, h // groups, j] - s
        return -beta * torch.acosh(torch.clamp(inner, min=1.0))

    return score


def _on_sheet(
    weighing: Hyperbolic, x: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Lift in float32 at least; round space as x is, and take time from that."""
    exact = torch.promote_types(x.dtype, torch.float32)
    space = lifted(weighing, x.to(exact))[0].to(x.dtype)
    time = (1 + space.to(exact).square().sum(-1)).sqrt()
    return space, time.contiguous()


def _block_mask(mask: Mask, first: int, rows: int, device: torch.device) -> BlockMask:
    """Return the mask for the rows of blocks [first, first + rows) of queries."""
    stop = first + rows
    # Made outside inference mode, or the first caller's mode would stick to the cache.
    with torch.inference_mode(mode=False):
        listed = mask.tiles(
            BLOCK_TOKENS, BLOCK_TOKENS, device, least_width=_LEAST_BLOCKS
        )
        some_counts, some, whole_counts, whole = _filled_up(listed, rows)
        return BlockMask.from_kv_blocks(
            some_counts,
            some,
            whole_counts,
            whole,
            BLOCK_SIZE=BLOCK_TOKENS,
            mask_mod=_mask_mod(mask, first * BLOCK_TOKENS, device),
            seq_lengths=(rows * BLOCK_TOKENS, stop * BLOCK_TOKENS),
            compute_q_blocks=False,
        )


def _filled_up(listed: Tiles, rows: int) -> tuple[torch.Tensor, ...]:
    """Return some and whole counts and lists, with a row for each block of queries.

    Rows behind the last query see their own first block, which nobody reads. The
    compiled kernel walks both lists with the strides of the first.
    """
    missing = rows - listed.some_counts.shape[2]
    width = max(listed.some.shape[3], listed.whole.shape[3])
    some_counts, whole_counts = (
        torch.nn.functional.pad(counts, (0, missing))
        for counts in (listed.some_counts, listed.whole_counts)
    )
    some, whole = (
        torch.nn.functional.pad(blocks, (0, width - blocks.shape[3], 0, missing))
        for blocks in (listed.some, listed.whole)
    )
    return some_counts, some.contiguous(), whole_counts, whole.contiguous()


def _mask_mod(mask: Mask, start: int, device: torch.device) -> Callable[..., Any]:
    """Return what tells pairs apart.

    It must say all that the lists say: without a compiler they are not looked at.
    """
    band = mask.band
    window, global_tokens, dense_from, stride, size, begin = (
        _number(value, device) for value in (*band, start)
    )

    def by_window(
        b: torch.Tensor, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor
    ) -> torch.Tensor:
        del b, h
        at = i + begin
        near = (at - j < window) | (j < global_tokens) | (at >= dense_from)
        return (j <= at) & near

    if band.stride:

        def by_stride(
            b: torch.Tensor, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor
        ) -> torch.Tensor:
            return by_window(b, h, i, j) | (
                (j // size % stride == 0) & (j <= i + begin)
            )

        return by_stride
    if mask.table is None:
        return by_window
    table = mask.table
    # A last column that nothing lists, for keys that are padded behind.
    seen = table.seen(-(-mask.kv_len // table.k_block) + BLOCK_TOKENS)
    # Numbers as tensors: other values are no other form to the compiler.
    q_block, k_block, first_row, last_row, per_entry, per_head = (
        _number(value, device)
        for value in (
            table.q_block,
            table.k_block,
            table.first_row,
            seen.shape[2] - 1,
            int(seen.shape[0] > 1),
            int(seen.shape[1] > 1),
        )
    )

    def by_table(
        b: torch.Tensor, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor
    ) -> torch.Tensor:
        row = torch.minimum((i + begin) // q_block - first_row, last_row)
        row = torch.clamp(row, min=0)
        listed = seen[b * per_entry, h * per_head, row, j // k_block]
        return (j <= i + begin) & listed

    return by_table


def _number(value: int, device: torch.device) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.int32, device=device)


def _real(value: float, device: torch.device, like: torch.dtype) -> torch.Tensor:
    """Return a number that is no constant to the compiler, in float32 at least."""
    exact = torch.promote_types(like, torch.float32)
    return torch.tensor(value, dtype=exact, device=device)
