"""Flex attention: its tables, its compiled forms, and its values without a compiler."""

from functools import partial
from itertools import product

import pytest
import torch

from canary.attention import Dense, LocalGlobal, SlidingWindow, attend
from canary.errors import AttentionError

RULES = [
    Dense(),
    SlidingWindow(window=1),
    SlidingWindow(window=130),
    SlidingWindow(window=1000),
    LocalGlobal(window=1, global_tokens=1),
    LocalGlobal(window=200, global_tokens=150),
    LocalGlobal(window=60, global_tokens=300),
]
SHAPES = {
    "prefill": (1, 4, 4, 300, 300),
    "prefill of one block": (1, 2, 2, 128, 128),
    "prefill of one token more": (1, 2, 2, 257, 257),
    "prefill, queries share keys, batch of 2": (2, 6, 2, 333, 333),
    "prefill beyond 1k tokens": (1, 1, 1, 1100, 1100),
    "chunk from the first rows on": (1, 4, 4, 290, 300),
    "chunk beyond it, queries share keys": (2, 4, 1, 150, 401),
    "chunk of two": (1, 2, 2, 2, 700),
}
CUDA = torch.cuda.is_available()


def make(shape, dtype=torch.float64, device="cpu"):
    batch, heads, kv_heads, q_len, kv_len = shape
    chance = torch.Generator().manual_seed(q_len * 1000 + kv_len)
    shapes = ((heads, q_len), (kv_heads, kv_len), (kv_heads, kv_len))
    return [
        torch.randn(batch, t, h, 64, generator=chance, dtype=torch.float64)
        .to(device, dtype)
        .transpose(1, 2)
        for h, t in shapes
    ]


def flex(q, k, v, rule):
    """Attend by flex, whatever `auto` would take."""
    return attend(q, k, v, rule, backend="flex")[0]


@pytest.fixture
def forms():
    """Count the forms that torch compiles of flex attention from here on."""
    torch._dynamo.reset()
    counted = torch._dynamo.utils.counters["stats"]
    before = counted["unique_graphs"]
    yield lambda: counted["unique_graphs"] - before
    torch._dynamo.reset()


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_flex_equals_the_reference_in_double(rule, shape):
    """Prefill and chunks of odd lengths give the reference's values."""
    q, k, v = make(shape)
    expected, _ = attend(q, k, v, rule, backend="reference")

    torch.testing.assert_close(flex(q, k, v, rule), expected, rtol=1e-11, atol=1e-11)


def test_one_form_serves_all_rules_and_lengths(forms):
    """No other rule or length compiles anew, be it in whole blocks or not."""
    for rule in RULES:
        for length in (100, 300, 512, 900, 2000):
            flex(*make((1, 2, 2, length, length), torch.float32), rule)

    assert 1 == forms()


def test_the_first_callers_autograd_mode_does_not_stick(forms):
    """A mask that was kept in inference mode is no other form to later callers."""
    call = partial(flex, *make((1, 2, 2, 300, 300)))
    with torch.inference_mode():
        call(SlidingWindow(window=77))
    assert 1 == forms()
    call(Dense())
    grown = forms()

    call(SlidingWindow(window=77))

    assert grown == forms()


def test_too_many_forms_are_an_error_not_a_slow_answer(forms):
    """Where torch would stop compiling and run unfused, it is told instead."""
    flex(*make((1, 2, 2, 300, 300)), Dense())

    with (
        torch._dynamo.config.patch(recompile_limit=1),
        pytest.raises(AttentionError, match="more than 64 forms"),
    ):
        flex(*make((1, 3, 3, 300, 300)), Dense())
    assert 1 == forms()


def test_one_query_slices_the_cache_and_says_so():
    """Decoding by flex needs no mask: `blocked` runs, and the evidence names it."""
    q, k, v = make((1, 2, 2, 1, 300))
    rule = SlidingWindow(window=20)
    out, evidence = attend(q, k, v, rule, backend="flex")

    assert "blocked[sliding_window(window=20)]" == str(evidence)
    assert evidence.reason.startswith("flex was asked for; one query slices the cache")
    assert out.equal(attend(q, k, v, rule, backend="blocked")[0])


@pytest.mark.skipif(CUDA, reason="there it is compiled")
def test_flex_that_is_not_compiled_is_named_so():
    """Op by op on the CPU is told apart from the fused kernel."""
    _, evidence = attend(*make((1, 2, 2, 9, 9)), Dense(), backend="flex")

    assert "flex(eager)[dense]" == str(evidence)


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="no CUDA device")
def test_one_compiled_kernel_serves_all_rules_and_lengths_on_cuda(forms):
    """Fused, in the layout of a model and its cache, with the reference's values."""
    # Tensors of one autograd mode: those made outside of it would be another form.
    with torch.inference_mode():
        for rule, length in product(RULES, (100, 300, 512, 900, 1024, 2500)):
            shape = (1, length, 4, 64)
            cache = torch.randn(2, 1, length + 77, 4, 64, device="cuda").bfloat16()
            q = torch.randn(shape, device="cuda").bfloat16().transpose(1, 2)
            k, v = (each[:, :length].transpose(1, 2) for each in cache)
            out, evidence = attend(q, k, v, rule, backend="flex")
            exact, _ = attend(
                q.double(), k.double(), v.double(), rule, backend="reference"
            )
            assert f"flex[{rule}]" == str(evidence)
            torch.testing.assert_close(out.double(), exact, rtol=3e-2, atol=3e-2)

    assert 1 == forms()


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="no CUDA device")
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_flex_on_cuda_is_within_its_rounding(rule, shape):
    """Prefill and chunks of odd lengths agree with the reference in bfloat16."""
    q, k, v = make(shape, torch.bfloat16, "cuda")
    exact, _ = attend(q.double(), k.double(), v.double(), rule, backend="reference")

    torch.testing.assert_close(
        flex(q, k, v, rule).double(), exact, rtol=3e-2, atol=3e-2
    )
