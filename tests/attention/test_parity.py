"""Every pattern by every kernel that runs here, against the formula in double."""

import pytest
import torch
from every_pattern import BY_LISTS, BY_POSITION, CHOSEN, EVERY, SHAPES, tensors

from canary.attention import Memory, RandomBlocks, SlidingWindow, attend, attend_packed
from canary.errors import AttentionError

CUDA = torch.cuda.is_available()


@pytest.fixture(autouse=True)
def one_thread():
    """Compute on one thread: on a busy machine threads wait longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("rule", EVERY, ids=str)
def test_blocked_equals_the_reference(rule, shape):
    """In double to rounding, and in single precision below 1e-5."""
    for dtype, bar in ((torch.float64, 1e-11), (torch.float32, 1e-5)):
        q, k, v = tensors(shape, dtype)
        exact, _ = attend(q.double(), k.double(), v.double(), rule, backend="reference")
        out, _ = attend(q, k, v, rule, backend="blocked")

        assert dtype == out.dtype
        torch.testing.assert_close(out.double(), exact, rtol=0, atol=bar)


@pytest.mark.parametrize(
    "shape", list(SHAPES.values())[2:6], ids=list(SHAPES.keys())[2:6]
)
@pytest.mark.parametrize("rule", EVERY, ids=str)
def test_flex_equals_the_reference_op_by_op(rule, shape):
    """Without a compiler too, prefill and chunks of odd lengths are exact."""
    q, k, v = tensors(shape, torch.float64)
    exact, _ = attend(q, k, v, rule, backend="reference")
    out, evidence = attend(q, k, v, rule, backend="flex")

    assert "flex" in evidence.name
    torch.testing.assert_close(out, exact, rtol=0, atol=1e-11)


@pytest.mark.parametrize("rule", [*BY_POSITION, *BY_LISTS], ids=str)
def test_chunks_and_tokens_repeat_the_prefill(rule):
    """A part, a chunk, then token by token give what one prefill gives.

    The cache is a view of a longer buffer, as models keep it; where the prompt ends is
    remembered, since the last queries of a tri-shape are those of the whole prompt.
    """
    q, k, v = tensors((1, 2, 2, 200, 200), torch.float64)
    whole, _ = attend(q[:, :, :180], k[:, :, :180], v[:, :, :180], rule)
    memory = Memory(prompt_tokens=180)
    steps = [(0, 90), (90, 180), *((n, n + 1) for n in range(180, 200))]
    parts = [
        attend(q[:, :, low:high], k[:, :, :high], v[:, :, :high], rule, memory=memory)[
            0
        ]
        for low, high in steps
    ]
    decoded = [
        attend(q[:, :, n : n + 1], k[:, :, : n + 1], v[:, :, : n + 1], rule)[0]
        for n in range(180, 200)
    ]

    torch.testing.assert_close(torch.cat(parts[:2], 2), whole, rtol=0, atol=1e-11)
    torch.testing.assert_close(parts[2:], decoded, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "rule", [r for r in CHOSEN if getattr(r, "per", "") == "query"]
)
def test_a_choice_by_each_query_is_the_same_in_prefill_and_decode(rule):
    """With and without a memory of what the blocks of keys hold."""
    q, k, v = tensors((1, 4, 2, 150, 150), torch.float64)
    whole, _ = attend(q, k, v, rule)
    memory = Memory()
    for n in (100, 101, 127, 128, 129, 149):
        part = q[:, :, n : n + 1], k[:, :, : n + 1], v[:, :, : n + 1]
        for kept in (None, memory):
            out, _ = attend(*part, rule, memory=kept)
            torch.testing.assert_close(out, whole[:, :, n : n + 1], rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "rule", [r for r in CHOSEN if getattr(r, "per", "block") == "block"]
)
def test_a_choice_by_blocks_of_queries_is_the_same_in_chunks_of_whole_blocks(rule):
    """Chunks that end with a block of queries choose what the prefill chooses."""
    q, k, v = tensors((1, 4, 2, 384, 384), torch.float64)
    whole, _ = attend(q, k, v, rule)
    memory = Memory(prompt_tokens=384)
    parts = [
        attend(
            q[:, :, low : low + 128],
            k[:, :, : low + 128],
            v[:, :, : low + 128],
            rule,
            memory=memory,
        )[0]
        for low in (0, 128, 256)
    ]

    torch.testing.assert_close(torch.cat(parts, 2), whole, rtol=0, atol=1e-11)


@pytest.mark.parametrize("rule", EVERY, ids=str)
def test_what_only_fills_a_prompt_up_changes_nothing(rule):
    """Padding behind the prompt is chosen by nothing and seen by nobody."""
    q, k, v = tensors((1, 4, 2, 300, 300), torch.float64)
    real = [x[:, :, :270] for x in (q, k, v)]
    expected, _ = attend(*real, rule)
    out, _ = attend(q, k, v, rule, memory=Memory(prompt_tokens=270))

    torch.testing.assert_close(out[:, :, :270], expected, rtol=0, atol=1e-11)


def test_what_is_hidden_has_no_influence_at_all():
    """Keys and values of blocks that aren't listed may be anything, even no number."""
    rule = RandomBlocks(blocks=1, block=16)
    q, k, v = tensors((1, 1, 1, 300, 300), torch.float64)
    seen = rule.visible(300, 300)
    expected, _ = attend(q, k, v, rule)
    hidden = ~seen[-16:].any(0)
    k[:, :, hidden], v[:, :, hidden] = torch.nan, torch.nan
    out, _ = attend(q[:, :, -16:], k, v, rule)

    assert hidden.sum() > 200
    torch.testing.assert_close(out, expected[:, :, -16:], rtol=0, atol=1e-11)


@pytest.mark.parametrize("rule", EVERY, ids=str)
def test_sequences_laid_end_to_end_are_as_if_each_were_alone(rule):
    """Prefill, a chunk and a token of three sequences in one call, without padding."""
    q_lens, kv_lens = [70, 20, 1], [70, 130, 40]
    parts = [
        tensors((1, 4, 2, n, m), torch.float64)
        for n, m in zip(q_lens, kv_lens, strict=True)
    ]
    q, k, v = (torch.cat([part[i] for part in parts], 2) for i in range(3))
    out, evidence = attend_packed(q, k, v, rule, q_lens=q_lens, kv_lens=kv_lens)
    expected = torch.cat([attend(*part, rule)[0] for part in parts], 2)

    assert 3 == len(evidence)
    torch.testing.assert_close(out, expected, rtol=0, atol=0)


def test_lengths_that_do_not_add_up_are_refused():
    """Nothing is guessed about where a sequence ends."""
    q, k, v = tensors((1, 2, 2, 30, 30), torch.float64)
    with pytest.raises(AttentionError, match=r"\[10, 10\] of queries .* 30 queries"):
        attend_packed(
            q, k, v, SlidingWindow(window=3), q_lens=[10, 10], kv_lens=[10, 20]
        )


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="no CUDA device")
@pytest.mark.parametrize("rule", EVERY, ids=str)
def test_every_kernel_on_cuda_is_within_its_rounding(rule):
    """By the norm of the error against that of the output."""
    refusals = set()
    for dtype, bar in ((torch.bfloat16, 2e-2), (torch.float32, 1e-5)):
        for shape in SHAPES.values():
            q, k, v = tensors(shape, dtype, width=64, device="cuda")
            doubles = q.double(), k.double(), v.double()
            exact, _ = attend(*doubles, rule, backend="reference")
            for backend in ("auto", "blocked", "flex", "fused", "xformers"):
                try:
                    out, _ = attend(q, k, v, rule, backend=backend)
                except AttentionError:
                    refusals.add(backend)
                    continue
                error = (out.double() - exact).norm()
                assert error <= bar * exact.norm().clamp(min=1e-9), (backend, shape)

    # xformers says what it can't do; nothing else refuses anything here.
    assert refusals <= {"xformers"}
