from collections.abc import Iterator
from itertools import product

import pytest
import torch

from canary.attention import (
    Dense,
    KernelEvidence,
    Layers,
    LocalGlobal,
    Pattern,
    Rule,
    SlidingWindow,
    attend,
    pattern,
)
from canary.errors import AttentionError

RULES = [
    Dense(),
    SlidingWindow(window=1),
    SlidingWindow(window=7),
    SlidingWindow(window=128),
    SlidingWindow(window=1000),
    LocalGlobal(window=1, global_tokens=1),
    LocalGlobal(window=60, global_tokens=20),
    LocalGlobal(window=16, global_tokens=1000),
]
SHAPES = {
    "prefill": (1, 4, 4, 300, 300),
    "prefill of one block": (1, 2, 2, 128, 128),
    "prefill, queries share keys, batch of 2": (2, 6, 2, 333, 333),
    "chunk from the first rows on": (1, 4, 4, 290, 300),
    "chunk within the window": (1, 2, 2, 5, 9),
    "chunk beyond it, queries share keys": (2, 4, 1, 150, 401),
    "chunk of two": (1, 2, 2, 2, 300),
    "decode": (1, 4, 4, 1, 300),
    "decode, queries share keys, batch of 2": (2, 6, 2, 1, 257),
    "first token": (1, 2, 2, 1, 1),
}
"""Batch, query heads, key heads, queries, keys."""

Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute on one thread: on a busy machine threads wait longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(shape: tuple[int, int, int, int, int], dtype: torch.dtype) -> Triple:
    """Draw q, k and v of a shape; scores large enough for the softmax to be uneven."""
    batch, heads, kv_heads, q_len, kv_len = shape
    generator = torch.Generator().manual_seed(q_len * 1000 + kv_len)
    q = 3 * torch.randn(batch, heads, q_len, 16, generator=generator, dtype=dtype)
    k = torch.randn(batch, kv_heads, kv_len, 16, generator=generator, dtype=dtype)
    v = torch.randn(batch, kv_heads, kv_len, 16, generator=generator, dtype=dtype)
    return q, k, v


def by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rule: Rule) -> object:
    """Attend query by query and head by head over the keys that `sees` admits."""
    groups, before = q.shape[1] // k.shape[1], k.shape[2] - q.shape[2]
    out = torch.empty_like(q)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for t in range(q.shape[2]):
                i = before + t
                keys = [j for j in range(i + 1) if rule.band(before + t + 1).sees(i, j)]
                scores = k[b, h // groups, keys] @ q[b, h, t] / q.shape[3] ** 0.5
                out[b, h, t] = scores.softmax(0) @ v[b, h // groups, keys]
    return out


@pytest.mark.parametrize(
    "rule",
    [Dense(), SlidingWindow(window=3), LocalGlobal(window=2, global_tokens=2)],
    ids=str,
)
@pytest.mark.parametrize("shape", [(2, 4, 2, 9, 9), (1, 2, 2, 4, 9), (1, 2, 1, 1, 9)])
def test_the_reference_is_attention_as_the_formula_says(
    rule: Rule, shape: tuple[int, int, int, int, int]
) -> None:
    """The oracle itself equals softmax over the visible keys, written out by hand."""
    q, k, v = make(shape, torch.float64)
    out, _ = attend(q, k, v, rule, backend="reference")

    torch.testing.assert_close(out, by_hand(q, k, v, rule), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("backend", "rule"), [("sdpa", Dense()), *product(["blocked"], RULES)], ids=str
)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-5)]
)
def test_every_backend_equals_the_reference_in_double(
    backend: str,
    rule: Rule,
    shape: tuple[int, int, int, int, int],
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    """Prefill, chunks and decode give the reference's values, whatever runs them."""
    q, k, v = make(shape, dtype)
    expected, _ = attend(q.double(), k.double(), v.double(), rule, backend="reference")
    out, _ = attend(q, k, v, rule, backend=backend)

    assert q.dtype == out.dtype
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("backend", ["reference", "blocked"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float32, 2e-5)]
)
def test_lower_precision_stays_within_its_own_rounding(
    backend: str, dtype: torch.dtype, tolerance: float
) -> None:
    """A lower precision is taken and given back, and errs by roundings only."""
    q, k, v = (x.to(dtype) for x in make((1, 4, 2, 300, 300), torch.float64))
    rule = LocalGlobal(window=60, global_tokens=20)
    expected, _ = attend(q.double(), k.double(), v.double(), rule, backend="reference")
    out, _ = attend(q, k, v, rule, backend=backend)

    assert dtype == out.dtype
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_decode_with_a_growing_cache_repeats_the_prefill(rule: Rule) -> None:
    """Prefill of a part, a chunk, then token by token gives what one prefill gives.

    The cache is a view of a longer buffer, as models keep it.
    """
    q, k, v = make((1, 2, 2, 200, 200), torch.float64)
    whole, _ = attend(q, k, v, rule)
    steps = [(0, 90), (90, 170), *((n, n + 1) for n in range(170, 200))]
    parts = [
        attend(q[:, :, low:high], k[:, :, :high], v[:, :, :high], rule)[0]
        for low, high in steps
    ]

    torch.testing.assert_close(torch.cat(parts, dim=2), whole, rtol=1e-11, atol=1e-11)


def test_what_is_hidden_has_no_influence_at_all() -> None:
    """Keys and values beyond the window may be anything, even not a number."""
    rule = SlidingWindow(window=5)
    q, k, v = make((1, 2, 2, 3, 300), torch.float32)
    expected, _ = attend(q, k, v, rule)
    k[:, :, :200], v[:, :, :200] = torch.nan, torch.nan
    out, _ = attend(q, k, v, rule)

    assert expected.equal(out)


def test_blocked_trains_like_the_reference_after_serving() -> None:
    """Gradients are right, also when inference mode filled the caches before."""
    rule = LocalGlobal(window=31, global_tokens=9)
    triple = make((1, 4, 2, 300, 300), torch.float64)
    with torch.inference_mode():
        attend(*triple, rule, backend="blocked")

    def gradients(backend: str) -> list[torch.Tensor]:
        leaves = [x.clone().requires_grad_() for x in triple]
        out, _ = attend(*leaves, rule, backend=backend)
        out.square().sum().backward()
        return [leaf.grad for leaf in leaves if leaf.grad is not None]

    expected, found = gradients("reference"), gradients("blocked")

    assert len(triple) == len(expected)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_a_mix_runs_each_layer_by_its_own_rule() -> None:
    """The layer picks the rule, the kernel and the evidence."""
    q, k, v = make((1, 2, 2, 50, 50), torch.float64)
    window = SlidingWindow(window=6)
    mix = Layers(parts=((0, 1, window),), rest=Dense())
    sparse, ran_sparse = attend(q, k, v, mix, layer=1)
    dense, ran_dense = attend(q, k, v, mix, layer=2)

    assert sparse.equal(attend(q, k, v, window)[0])
    assert dense.equal(attend(q, k, v, Dense())[0])
    assert str(ran_sparse) == "blocked[sliding_window(window=6)]"
    assert str(ran_dense) == "sdpa[dense]"


@pytest.mark.parametrize(
    ("rule", "backend", "name", "reason"),
    [
        ("dense", "auto", "sdpa", "auto: the rule is dense"),
        (
            {"pattern": "sliding_window", "window": 8},
            "auto",
            "blocked",
            "auto: the kernel here that skips what the rule hides",
        ),
        ("dense", "reference", "reference", "asked for by name"),
        ("dense", "blocked", "blocked", "asked for by name"),
    ],
)
def test_the_evidence_names_what_ran_where_and_why(
    rule: str | dict, backend: str, name: str, reason: str
) -> None:
    """Kernel, rule, reason, device, dtype and torch; density when asked for."""
    q, k, v = make((1, 2, 2, 20, 20), torch.float32)
    asked = pattern(rule)
    _, evidence = attend(q, k, v, asked, backend=backend)
    expected = KernelEvidence(
        name=name,
        version=f"torch {torch.__version__}",
        pattern=str(asked),
        reason=reason,
        device="cpu",
        dtype="float32",
        block_tokens=128 if name == "blocked" else None,
        compiles=evidence.compiles,
        masks=evidence.masks,
    )

    assert expected == evidence
    assert (asked.density(20, 20),) * 3 == evidence.density()


def test_an_unknown_backend_lists_those_there_are() -> None:
    """Nothing stands in for a kernel that isn't there."""
    with pytest.raises(AttentionError) as caught:
        attend(*make((1, 1, 1, 4, 4), torch.float32), Dense(), backend="fast")

    assert str(caught.value) == (
        "unknown attention backend 'fast'; known: auto, blocked, flex, fused, "
        "reference, sdpa, xformers"
    )


def test_sdpa_refuses_to_hide_a_sparse_rule_behind_a_mask() -> None:
    """A dense kernel isn't timed under a sparse name, not even at full windows."""
    triple = make((1, 1, 1, 4, 4), torch.float32)

    with pytest.raises(AttentionError) as caught:
        attend(*triple, SlidingWindow(window=1000), backend="sdpa")

    assert str(caught.value) == (
        "backend sdpa computes all pairs and can't gain from "
        "sliding_window(window=1000); use blocked, auto, or reference"
    )


@pytest.mark.parametrize(
    ("q", "k", "v"),
    [
        (torch.zeros(1, 3, 4, 8), torch.zeros(1, 2, 4, 8), torch.zeros(1, 2, 4, 8)),
        (torch.zeros(1, 2, 5, 8), torch.zeros(1, 2, 4, 8), torch.zeros(1, 2, 4, 8)),
        (torch.zeros(1, 2, 0, 8), torch.zeros(1, 2, 4, 8), torch.zeros(1, 2, 4, 8)),
        (torch.zeros(1, 2, 4, 8), torch.zeros(1, 0, 4, 8), torch.zeros(1, 0, 4, 8)),
        (torch.zeros(2, 2, 4, 8), torch.zeros(1, 2, 4, 8), torch.zeros(1, 2, 4, 8)),
        (torch.zeros(1, 2, 4, 8), torch.zeros(1, 2, 4, 6), torch.zeros(1, 2, 4, 6)),
        (torch.zeros(1, 2, 4, 8), torch.zeros(1, 2, 4, 8), torch.zeros(1, 2, 3, 8)),
        (torch.zeros(2, 4, 8), torch.zeros(2, 4, 8), torch.zeros(2, 4, 8)),
        (
            torch.zeros(1, 2, 4, 8),
            torch.zeros(1, 2, 4, 8, dtype=torch.float64),
            torch.zeros(1, 2, 4, 8, dtype=torch.float64),
        ),
        (
            torch.zeros(1, 2, 4, 8, dtype=torch.int64),
            torch.zeros(1, 2, 4, 8, dtype=torch.int64),
            torch.zeros(1, 2, 4, 8, dtype=torch.int64),
        ),
    ],
)
def test_shapes_that_do_not_fit_are_shown(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> None:
    """The error says what is expected and what came."""
    with pytest.raises(AttentionError, match=r"expected q .* got q ") as caught:
        attend(q, k, v, Dense())

    assert f"k {tuple(k.shape)} {k.dtype} on cpu" in str(caught.value)


@pytest.mark.parametrize("pattern_", [Dense(), Layers(parts=((0, 0, Dense()),))])
def test_a_layer_that_the_pattern_does_not_know_is_an_error(pattern_: Pattern) -> None:
    """A model with other layers than the pattern's doesn't run on a guess."""
    layer = -1 if pattern_ == Dense() else 1

    with pytest.raises(AttentionError, match=f"layer {layer}"):
        attend(*make((1, 1, 1, 4, 4), torch.float32), pattern_, layer=layer)
