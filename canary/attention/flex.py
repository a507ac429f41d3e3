"""Attention by torch's flex_attention: one compiled kernel for every rule and length.

What differs between rules and lengths is data: tables of the blocks that a row of
queries touches, made from `Rule.key_ranges`, and three numbers (window, globals, first
query) that the mask reads. So it is compiled once for a shape of heads and a dtype.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.utils._triton import has_triton

from canary.attention.lengths import BLOCK_TOKENS, padded, padded_length
from canary.attention.rules import Dense, KeyRanges, LocalGlobal, Rule, SlidingWindow
from canary.errors import AttentionError

# Sizes of 0 and 1 are never dynamic to torch, and less than 128 queries take another
# kernel: two blocks at least keep all lengths in one compiled form.
_LEAST_BLOCKS = 2

# Each pair of heads, head width, dtype, memory layout and autograd mode compiles once.
# torch's own limit of 8 is soon met by a process that runs several models; beyond it
# `fullgraph` makes torch raise, where it would otherwise run unfused.
_COMPILED_FORMS = 64

# What torch can't see in dynamic lengths: they are whole blocks. (ROWS_GUARANTEED_SAFE
# would say more than that each query sees a key: that it does so in the first block of
# its row's list, which windows don't; it makes them not-a-number.)
_OPTIONS: Any = {"IS_DIVISIBLE": True}

_FAR = 2**31 - 1


def compiles(device: torch.device) -> bool:
    """Whether flex attention is fused on this device; elsewhere it runs op by op."""
    return device.type == "cuda" and has_triton()


def flex(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rule: Rule) -> torch.Tensor:
    """Attend by blocks of 128 queries and keys; see `Kernel` for shapes.

    Queries are padded in front to the start of their block, all ends to a whole block:
    what is padded behind is hidden by causality, and padded queries are cut off.

    Raises:
        AttentionError: The rule is none that this kernel's mask can say, or torch
            refuses to compile it in yet another form.
    """
    q_len, kv_len = q.shape[2], k.shape[2]
    first, front = divmod(kv_len - q_len, BLOCK_TOKENS)
    rows = max(_LEAST_BLOCKS, padded_length(front + q_len) // BLOCK_TOKENS)
    mask = _block_mask(rule, first, rows, q.device)
    back = rows * BLOCK_TOKENS - front - q_len
    behind = (first + rows) * BLOCK_TOKENS - kv_len
    run = _compiled(compiles(q.device))
    try:
        out = run(
            padded(q, front, back), padded(k, 0, behind), padded(v, 0, behind), mask
        )
    except torch._dynamo.exc.FailOnRecompileLimitHit as error:  # noqa: SLF001 - it has no other name
        raise AttentionError(
            f"flex attention would be compiled in more than {_COMPILED_FORMS} forms in "
            "this process; run fewer head counts and dtypes in it, or use blocked"
        ) from error
    return out[:, :, front : front + q_len]


def _run(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: BlockMask
) -> torch.Tensor:
    shared = q.shape[1] != k.shape[1]
    out: torch.Tensor = flex_attention(
        q, k, v, block_mask=mask, enable_gqa=shared, kernel_options=_OPTIONS
    )
    return out


@lru_cache(maxsize=2)
def _compiled(fused: bool) -> Callable[..., torch.Tensor]:
    config = torch._dynamo.config  # noqa: SLF001 - loaded here, it takes a second
    config.recompile_limit = max(config.recompile_limit, _COMPILED_FORMS)
    # Or two sizes that happen to be equal, like 4 heads and 4 blocks, stay so for good.
    torch.fx.experimental._config.use_duck_shape = False  # noqa: SLF001 - no other name
    backend = "inductor" if fused else "eager"
    run: Callable[..., torch.Tensor] = torch.compile(
        _run, dynamic=True, fullgraph=True, backend=backend
    )
    return run


class _Table(NamedTuple):
    """Which blocks of keys each row of queries touches, and what the mask reads.

    Counts (rows) and blocks (rows, width), int32: first of the blocks that are seen in
    part, then of those that each query of the row sees entirely.
    """

    lists: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
    window: torch.Tensor
    global_tokens: torch.Tensor


# A few kilobytes each, at few lengths.
@lru_cache(maxsize=1024)
def _block_mask(rule: Rule, first: int, rows: int, device: torch.device) -> BlockMask:
    """Return the mask for the rows of blocks [first, first + rows) of queries."""
    stop = first + rows
    lists, window, global_tokens = _table(rule, 1 << (stop - 1).bit_length(), device)
    # Made outside inference mode, or the first caller's mode would stick to the cache.
    with torch.inference_mode(mode=False):
        start = _number(first * BLOCK_TOKENS, device)

        # It must say all that the lists say: without a compiler they are not looked at.
        def seen(
            b: torch.Tensor, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor
        ) -> torch.Tensor:
            del b, h
            at = i + start
            return (j <= at) & ((at - j < window) | (j < global_tokens))

        # Copies, because a slice with odd strides or address would be one more form.
        some_count, some, whole_count, whole = (
            part[first:stop].clone()[None, None] for part in lists
        )
        return BlockMask.from_kv_blocks(
            some_count,
            some,
            whole_count,
            whole,
            BLOCK_SIZE=BLOCK_TOKENS,
            mask_mod=seen,
            seq_lengths=(rows * BLOCK_TOKENS, stop * BLOCK_TOKENS),
            compute_q_blocks=False,
        )


@lru_cache(maxsize=64)
def _table(rule: Rule, rows: int, device: torch.device) -> _Table:
    window, global_tokens = _numbers(rule)
    some, whole = [], []
    for row in range(rows):
        start, stop = row * BLOCK_TOKENS, (row + 1) * BLOCK_TOKENS
        entire = _blocks_within(_common(rule, start, stop))
        touched = _blocks_touched(rule.key_ranges(start, stop))
        whole.append(sorted(entire))
        some.append(sorted(touched - entire))
    # The compiled kernel walks both lists with the strides of the first.
    width = max(_LEAST_BLOCKS, *(len(row) for row in (*some, *whole)))
    with torch.inference_mode(mode=False):
        return _Table(
            (*_ragged(some, width, device), *_ragged(whole, width, device)),
            _number(window, device),
            _number(global_tokens, device),
        )


def _numbers(rule: Rule) -> tuple[int, int]:
    """Return the window and the globals that say the same as the rule."""
    match rule:
        case Dense():
            return _FAR, 0
        case SlidingWindow():
            return rule.window, 0
        case LocalGlobal():
            return rule.window, rule.global_tokens
    raise AttentionError(f"backend flex can't execute {rule}; use blocked or reference")


def _common(rule: Rule, start: int, stop: int) -> KeyRanges:
    """Return the keys that all queries [start, stop) see: the first's and the last's.

    True of every rule whose ranges only ever move towards later keys.
    """
    return tuple(
        (max(low, other_low), min(high, other_high))
        for low, high in rule.key_ranges(start, start + 1)
        for other_low, other_high in rule.key_ranges(stop - 1, stop)
    )


def _blocks_within(ranges: KeyRanges) -> set[int]:
    return {
        block
        for low, high in ranges
        for block in range(-(-low // BLOCK_TOKENS), high // BLOCK_TOKENS)
    }


def _blocks_touched(ranges: KeyRanges) -> set[int]:
    return {
        block
        for low, high in ranges
        for block in range(low // BLOCK_TOKENS, -(-high // BLOCK_TOKENS))
    }


def _ragged(
    rows: list[list[int]], width: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return counts (rows) and the lists (rows, width), filled up with zeros."""
    filled = [row + [0] * (width - len(row)) for row in rows]
    counts = torch.tensor([len(row) for row in rows], dtype=torch.int32)
    lists = torch.tensor(filled, dtype=torch.int32)
    return counts.to(device), lists.to(device)


def _number(value: int, device: torch.device) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.int32, device=device)
