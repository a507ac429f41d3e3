"""The fused kernel itself, in Triton: tiles of queries over lists of blocks of keys.

FlashAttention's forward pass (Dao, arXiv 2307.08691, algorithm 1), with two changes: a
tile walks the blocks that a list names instead of all of them, and what a score weighs
is a choice. Imported only where Triton is.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
# ruff: noqa: ANN001, ANN201, ANN202, SIM102, SIM109, PLR1714, E501 - Triton reads this, not Python; one kernel is one function
import triton
import triton.language as tl

SOFTMAX = tl.constexpr(0)
RELU = tl.constexpr(1)
HYPERBOLIC = tl.constexpr(2)
LOG_SUM = tl.constexpr(3)
SOFT_THRESHOLD = tl.constexpr(4)


@triton.jit
def _log2_of_distance(inner, EXACT: tl.constexpr):
    """Return log2(x + sqrt(x * x - 1)), acosh in bits, for x of at least 1.

    The hardware's own root and logarithm: Triton's rounded ones cost three times the
    whole product of queries and keys.
    """
    y = tl.maximum((inner - 1.0) * (inner + 1.0), 1e-30)
    if EXACT:
        bits = tl.log2(inner + tl.sqrt(y))
    else:
        root = tl.inline_asm_elementwise(
            "rsqrt.approx.ftz.f32 $0, $1;", "=f,f", [y], tl.float32, True, 1
        )
        bits = tl.inline_asm_elementwise(
            "lg2.approx.ftz.f32 $0, $1;",
            "=f,f",
            [inner + y * root],
            tl.float32,
            True,
            1,
        )
    return bits


@triton.jit
def _keys_of_tile(
    blocks, count, n, kv_len, KEY_BLOCK: tl.constexpr, BLOCK_N: tl.constexpr
):
    """Return the positions of the n-th tile's keys, and the first of them.

    Small blocks are gathered until they fill a tile; large ones are cut. What lies
    behind the list is at kv_len, where no key is.
    """
    columns = tl.arange(0, BLOCK_N)
    if KEY_BLOCK >= BLOCK_N:
        part: tl.constexpr = KEY_BLOCK // BLOCK_N
        first = tl.load(blocks + n // part) * KEY_BLOCK + (n % part) * BLOCK_N
        j = first + columns
    else:
        at = n * (BLOCK_N // KEY_BLOCK) + columns // KEY_BLOCK
        block = tl.load(blocks + at, mask=at < count, other=-1)
        j = tl.where(block < 0, kv_len, block * KEY_BLOCK + columns % KEY_BLOCK)
        first = 0
    return j, first


@triton.jit
def _tile(
    base, b, kv_h, j, first, step, kv_len,
    CHECKED: tl.constexpr, BULK: tl.constexpr, BLOCK_N: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """Load keys or values: by the copy engine, or row by row where they are gathered."""
    if BULK:
        tile = base.load([b, kv_h, first, 0]).reshape(BLOCK_N, WIDTH)
    else:
        at = base + j.to(tl.int64)[:, None] * step + tl.arange(0, WIDTH)[None, :]
        if CHECKED:
            tile = tl.load(at, mask=j[:, None] < kv_len, other=0.0)
        else:
            tile = tl.load(at)
    return tile


@triton.jit
def _seen(
    i, j, table, table_step, window, global_tokens, dense_from, stride, stride_block,
    kv_len, MASKED: tl.constexpr, TABLE: tl.constexpr, STRIDED: tl.constexpr,
    KEY_BLOCK: tl.constexpr,
):  # fmt: skip
    """Tell which pairs of a tile count: canary.attention.masks says the same.

    Unless MASKED all that is there and no later than the query. With TABLE 1 what is
    listed is seen, with TABLE 2 each query has a list of its own to look it up in.
    """
    seen = (j < kv_len)[None, :] & (j[None, :] <= i[:, None])
    if MASKED:
        if TABLE != 1:
            near = (i[:, None] - j[None, :] < window) | (i >= dense_from)[:, None]
            admitted = near | (j < global_tokens)[None, :]
            if STRIDED:
                admitted |= (j // stride_block % stride == 0)[None, :]
            if TABLE == 2:
                entry = table + table_step * i[:, None] + (j // KEY_BLOCK)[None, :]
                admitted |= tl.load(entry, mask=seen, other=0) != 0
            seen &= admitted
    return seen


@triton.jit
def _above_threshold(
    scores, seen, log_sum, scale, number, SCORE: tl.constexpr, CHECKED: tl.constexpr
):  # fmt: skip
    """Weigh without softmax: by score, or in a second pass by share."""
    if SCORE == RELU:
        weights = tl.maximum(scores * scale - number, 0.0)
    else:
        shares = tl.exp2(scores * scale - log_sum[:, None])
        weights = tl.maximum(shares - number, 0.0)
    if CHECKED:
        weights = tl.where(seen, weights, 0.0)
    return weights


@triton.jit
def _softmax(scores, seen, top, factor, CHECKED: tl.constexpr):
    """Weigh by powers of two below the largest so far; return how that shrank."""
    if CHECKED:
        scores = tl.where(seen, scores, float("-inf"))
    # Scaled behind the maximum: then scaling is part of the subtraction.
    higher = tl.maximum(top, tl.max(scores, 1) * factor)
    base = higher
    if CHECKED:
        # A row that saw nothing yet: any finite number keeps it at zero.
        base = tl.where(higher == float("-inf"), 0.0, higher)
    weights = tl.exp2(scores * factor - base[:, None])
    return weights, tl.exp2(top - base), higher


@triton.jit
def _walk(
    acc, total, top, q, q_time, log_sum, i, b, kv_h,
    k_base, v_base, time_base, k_step, v_step,
    blocks, count, table, table_step,
    window, global_tokens, dense_from, stride, stride_block,
    kv_len, scale, number,
    MASKED: tl.constexpr, SCORE: tl.constexpr, TABLE: tl.constexpr,
    STRIDED: tl.constexpr, KEY_BLOCK: tl.constexpr, BLOCK_N: tl.constexpr,
    WIDTH: tl.constexpr, PRECISION: tl.constexpr, BULK: tl.constexpr,
):  # fmt: skip
    """Take in the listed blocks of keys, BLOCK_N keys at a time."""
    CHECKED: tl.constexpr = MASKED or KEY_BLOCK < BLOCK_N
    for n in range(tl.cdiv(count * KEY_BLOCK, BLOCK_N)):
        j, first = _keys_of_tile(blocks, count, n, kv_len, KEY_BLOCK, BLOCK_N)
        k = _tile(
            k_base, b, kv_h, j, first, k_step, kv_len, CHECKED, BULK, BLOCK_N, WIDTH
        )
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        seen = True
        if CHECKED:
            seen = _seen(
                i, j, table, table_step, window, global_tokens, dense_from, stride,
                stride_block, kv_len, MASKED, TABLE, STRIDED, KEY_BLOCK,
            )  # fmt: skip
        if SCORE == RELU or SCORE == SOFT_THRESHOLD:
            weights = _above_threshold(
                scores, seen, log_sum, scale, number, SCORE, CHECKED
            )
        else:
            factor = scale
            if SCORE == HYPERBOLIC:
                k_time = tl.load(time_base + j, mask=j < kv_len, other=1.0)
                inner = tl.maximum(q_time[:, None] * k_time[None, :] - scores, 1.0)
                scores = -_log2_of_distance(inner, PRECISION == "ieee")
                factor = number
            weights, shrink, top = _softmax(scores, seen, top, factor, CHECKED)
            total = total * shrink
            if SCORE != LOG_SUM:
                acc = acc * shrink[:, None]
        total += tl.sum(weights, 1)
        if SCORE != LOG_SUM:
            v = _tile(
                v_base, b, kv_h, j, first, v_step, kv_len, CHECKED, BULK, BLOCK_N, WIDTH
            )
            acc = tl.dot(weights.to(v.dtype), v, acc, input_precision=PRECISION)
    return acc, total, top


@triton.jit
def _of_queries(base, head, q_len, at, real, WANTED: tl.constexpr):
    """Load a number for each query, kept as (B, H, Tq); zeros where none is needed."""
    numbers = tl.zeros(at.shape, tl.float32)
    if WANTED:
        numbers = tl.load(base + head * q_len + at, mask=real, other=1.0)
    return numbers


@triton.jit(
    # Other numbers are no other form to compile. (Steps are: loads are as wide as they
    # allow.)
    do_not_specialize=[
        "list_b", "list_h", "whole_width", "some_width", "table_b", "table_h",
        "table_step", "rows", "window", "global_tokens", "dense_from", "stride",
        "stride_block", "start", "q_len", "kv_len", "first_row", "table_first",
        "scale", "number",
    ]
)  # fmt: skip
def forward(
    q_ptr, k_ptr, v_ptr, out_ptr, log_sum_ptr, q_time_ptr, k_time_ptr,
    whole_counts, whole_blocks, some_counts, some_blocks, table_ptr,
    q_steps_b, q_steps_h, q_steps_t, k_steps_b, k_steps_h, k_steps_t,
    v_steps_b, v_steps_h, v_steps_t, out_steps_b, out_steps_h, out_steps_t,
    list_b, list_h, whole_width, some_width, table_b, table_h, table_step, rows,
    window, global_tokens, dense_from, stride, stride_block,
    start, q_len, kv_len, first_row, table_first, scale, number,
    HEADS: tl.constexpr, SHARED: tl.constexpr, SCORE: tl.constexpr,
    TABLE: tl.constexpr, STRIDED: tl.constexpr, KEY_BLOCK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WIDTH: tl.constexpr,
    PRECISION: tl.constexpr, BULK: tl.constexpr, HEADS_FIRST: tl.constexpr,
):  # fmt: skip
    """Compute one tile of BLOCK_M queries of one head.

    Tiles stand at absolute multiples of BLOCK_M, so that chunks that start anywhere use
    the same lists; the longest rows go first. Lists are (b, h, rows, width), int32.
    """
    # The last rows see most: they start first, so that none is left over at the end.
    # Where one row sees far more than others, that of all heads: not head by head.
    row = rows - 1 - tl.program_id(1 if HEADS_FIRST else 0)
    b = tl.program_id(0 if HEADS_FIRST else 1) // HEADS
    h = tl.program_id(0 if HEADS_FIRST else 1) % HEADS
    kv_h = h // SHARED
    head = (b * HEADS + h).to(tl.int64)
    i = (first_row + row) * BLOCK_M + tl.arange(0, BLOCK_M)
    at = (i - start).to(tl.int64)
    real = (i >= start) & (i < start + q_len)
    cells = at[:, None] * q_steps_t + tl.arange(0, WIDTH)[None, :]
    q_at = q_ptr + b.to(tl.int64) * q_steps_b + h.to(tl.int64) * q_steps_h
    q = tl.load(q_at + cells, mask=real[:, None], other=0.0)
    if not BULK:
        k_ptr += b.to(tl.int64) * k_steps_b + kv_h.to(tl.int64) * k_steps_h
        v_ptr += b.to(tl.int64) * v_steps_b + kv_h.to(tl.int64) * v_steps_h
    q_time = _of_queries(q_time_ptr, head, q_len, at, real, SCORE == HYPERBOLIC)
    log_sum = _of_queries(log_sum_ptr, head, q_len, at, real, SCORE == SOFT_THRESHOLD)
    time_base = k_time_ptr + (b * (HEADS // SHARED) + kv_h).to(tl.int64) * kv_len
    table = table_ptr + b * table_b + h * table_h - table_first * table_step
    listed = (b * list_b + h * list_h + row).to(tl.int64)
    acc = tl.zeros([BLOCK_M, WIDTH], tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    acc, total, top = _walk(
        acc, total, top, q, q_time, log_sum, i, b, kv_h, k_ptr, v_ptr, time_base,
        k_steps_t, v_steps_t, whole_blocks + listed * whole_width,
        tl.load(whole_counts + listed), table, table_step, window, global_tokens,
        dense_from, stride, stride_block, kv_len, scale, number, False, SCORE, TABLE,
        STRIDED, KEY_BLOCK, BLOCK_N, WIDTH, PRECISION, BULK,
    )  # fmt: skip
    acc, total, top = _walk(
        acc, total, top, q, q_time, log_sum, i, b, kv_h, k_ptr, v_ptr, time_base,
        k_steps_t, v_steps_t, some_blocks + listed * some_width,
        tl.load(some_counts + listed), table, table_step, window, global_tokens,
        dense_from, stride, stride_block, kv_len, scale, number, True, SCORE, TABLE,
        STRIDED, KEY_BLOCK, BLOCK_N, WIDTH, PRECISION, BULK,
    )  # fmt: skip
    if SCORE == LOG_SUM:
        tl.store(log_sum_ptr + head * q_len + at, top + tl.log2(total), mask=real)
    else:
        # Nothing seen, or nothing above the threshold: the output is zero.
        out = (acc / tl.where(total > 0.0, total, 1.0)[:, None]).to(q.dtype)
        out_at = out_ptr + b.to(tl.int64) * out_steps_b + h.to(tl.int64) * out_steps_h
        cells = at[:, None] * out_steps_t + tl.arange(0, WIDTH)[None, :]
        tl.store(out_at + cells, out, mask=real[:, None])


@triton.jit
def lift(
    x_ptr, space_ptr, time_ptr,
    x_steps_b, x_steps_h, x_steps_t, space_steps_b, space_steps_h, space_steps_t,
    tokens, factor, farthest,
    HEADS: tl.constexpr, POINCARE: tl.constexpr, ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """Put ROWS tokens of a head on the hyperboloid: `weights.lifted`, in one pass.

    Space is rounded as x is, and time comes from what was rounded, so that points lie
    on the sheet.
    """
    b = (tl.program_id(1) // HEADS).to(tl.int64)
    h = (tl.program_id(1) % HEADS).to(tl.int64)
    t = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = t < tokens
    widths = tl.arange(0, WIDTH)
    at = t.to(tl.int64)[:, None]
    x_at = x_ptr + b * x_steps_b + h * x_steps_h + at * x_steps_t + widths[None, :]
    x = tl.load(x_at, mask=real[:, None], other=0.0).to(tl.float32) * factor
    if POINCARE:
        norm = tl.maximum(tl.sqrt(tl.sum(x * x, 1)), 1e-20)
        near = tl.minimum(norm, farthest)
        sinh = 0.5 * (tl.exp(near) - tl.exp(-near))
        sinh = tl.where(near < 0.05, near + near * near * near / 6.0, sinh)
        x = x * (sinh / norm)[:, None]
    space = x.to(space_ptr.dtype.element_ty)
    space_at = space_ptr + b * space_steps_b + h * space_steps_h + at * space_steps_t
    tl.store(space_at + widths[None, :], space, mask=real[:, None])
    rounded = space.to(tl.float32)
    time = tl.sqrt(1.0 + tl.sum(rounded * rounded, 1))
    tl.store(time_ptr + tl.program_id(1).to(tl.int64) * tokens + t, time, mask=real)
