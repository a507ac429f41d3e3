import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from canary.stats import (
    paired_quantile_log_e,
    quantile_ranks,
    quantile_ratio_bounds,
)
from canary.stats.sign import sign_log_e

reproducible = settings(derandomize=True, deadline=None, max_examples=50)
hypotheses = st.sampled_from(["hold", "broken"])


def _pairs(
    seed: int, n: int = 400, noise: float = 0.1, slowdown: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    baseline = np.exp(0.6 * generator.standard_normal(n))
    return baseline, slowdown * baseline * np.exp(noise * generator.standard_normal(n))


def _every_kind_of_point(points: list[float]) -> Iterator[float]:
    """All points, and one between each two neighbours."""
    points = sorted(set(points))
    yield from points
    for left, right in pairwise(points):
        if math.isinf(right):
            yield 0.0 if math.isinf(left) else left + 1
        else:
            yield right - 1e-3 if math.isinf(left) else (left + right) / 2


def _by_loops(
    baseline: np.ndarray,
    candidate: np.ndarray,
    *,
    p: float,
    ratio: float,
    alpha: float,
    hypothesis: str,
) -> float:
    """The definition, literally: every x in the set, every pair, one by one."""
    a = [ratio * value for value in baseline]
    lower, upper = quantile_ranks(len(a), p, alpha=alpha / 10)
    ordered = [-math.inf, *sorted(a), math.inf]
    first, last = ordered[lower], ordered[upper]
    least = math.inf
    for x in _every_kind_of_point([first, last, *a, *candidate]):
        if not first <= x <= last:
            continue
        wins = losses = 0
        for own, other in zip(a, candidate, strict=True):
            if hypothesis == "hold":
                wins += own > x and other <= x
                losses += own <= x and other > x
            else:
                wins += other > x and own < x
                losses += other <= x and own >= x
        log_e = sign_log_e(np.array([float(wins)]), np.array([float(losses)]))[0]
        least = min(least, log_e)
    return least


def test_reproduces_reference_values() -> None:
    """Evidence on 4000 known pairs equals values computed independently."""
    baseline = np.arange(1.0, 4001)
    holds = paired_quantile_log_e(
        baseline, baseline, p=0.5, ratio=1.05, alpha=0.05, hypothesis="hold"
    )
    broken = paired_quantile_log_e(
        baseline, 1.05 * baseline, p=0.5, ratio=1.0, alpha=0.05, hypothesis="broken"
    )

    assert holds == pytest.approx(61.29511, abs=1e-5)
    assert broken == pytest.approx(57.88344, abs=1e-5)


@pytest.mark.parametrize("hypothesis", ["hold", "broken"])
@pytest.mark.parametrize("failing", [0.0, 0.05, 0.5])
@pytest.mark.parametrize(
    ("n", "p"), [(3, 0.5), (90, 0.5), (150, 0.5), (290, 0.9), (250, 0.1)]
)
def test_equals_the_definition(
    hypothesis: str, failing: float, n: int, p: float
) -> None:
    """Ties, failed requests and sets without an end give what loops give."""
    generator = np.random.default_rng([n, int(100 * failing), int(100 * p)])
    for shift in (-2, 0, 2):
        baseline = generator.integers(3, 16, n).astype(float)
        candidate = baseline + generator.integers(-2, 3, n) + shift
        baseline[generator.random(n) < failing] = math.inf
        candidate[generator.random(n) < failing] = math.inf
        candidate = np.maximum(candidate, 0)
        question = {"p": p, "ratio": 1.25, "alpha": 0.05, "hypothesis": hypothesis}
        found = paired_quantile_log_e(baseline, candidate, **question)

        assert found == pytest.approx(
            _by_loops(baseline, candidate, **question), abs=1e-9
        )


def test_untied_values_equal_the_definition() -> None:
    """Every count between the points is seen when no two values are equal."""
    for seed in range(3):
        baseline, candidate = _pairs(seed, n=200)
        for hypothesis in ("hold", "broken"):
            question = {
                "p": 0.5,
                "ratio": 1.02,
                "alpha": 0.05,
                "hypothesis": hypothesis,
            }
            found = paired_quantile_log_e(baseline, candidate, **question)

            assert found == pytest.approx(
                _by_loops(baseline, candidate, **question), abs=1e-9
            )


@pytest.mark.parametrize("hypothesis", ["hold", "broken"])
def test_too_few_pairs_decide_nothing(hypothesis: str) -> None:
    """Below the size for a finite set no data, however clear, is evidence."""
    for n in (0, 1, 1196):
        baseline = np.arange(1.0, n + 1)
        candidate = baseline * (0.01 if hypothesis == "hold" else 100)
        log_e = paired_quantile_log_e(
            baseline, candidate, p=0.99, ratio=1.0, alpha=0.05, hypothesis=hypothesis
        )

        assert math.isfinite(log_e)
        assert log_e <= 0
        assert quantile_ratio_bounds(baseline, candidate, p=0.99, alpha=0.05) == (
            0.0,
            math.inf,
        )


@pytest.mark.parametrize("hypothesis", ["hold", "broken"])
def test_a_baseline_whose_quantile_may_be_infinite_decides_nothing(
    hypothesis: str,
) -> None:
    """Where too many of the baseline's requests fail, nothing is shown."""
    baseline, _ = _pairs(1, n=2000)
    candidate = baseline * (0.5 if hypothesis == "hold" else 2)
    baseline[:30] = math.inf
    log_e = paired_quantile_log_e(
        baseline, candidate, p=0.99, ratio=1.0, alpha=0.05, hypothesis=hypothesis
    )

    assert log_e <= 0
    assert quantile_ratio_bounds(baseline, candidate, p=0.99, alpha=0.05) == (
        0.0,
        math.inf,
    )


def test_failed_requests_of_the_candidate_break_every_ratio() -> None:
    """A candidate that fails for more than 1 - p is shown to exceed any ratio."""
    baseline, candidate = _pairs(2, n=4000)
    candidate[::20] = math.inf
    log_e = paired_quantile_log_e(
        baseline, candidate, p=0.99, ratio=1e6, alpha=0.05, hypothesis="broken"
    )

    assert log_e > math.log(1 / 0.045)
    assert quantile_ratio_bounds(baseline, candidate, p=0.99, alpha=0.05) == (
        math.inf,
        math.inf,
    )


def test_equal_failures_in_both_arms_are_ties() -> None:
    """Requests that fail in both arms favour neither."""
    baseline, candidate = _pairs(3, n=3000, noise=0.02)
    baseline[:6] = candidate[:6] = math.inf
    log_e = paired_quantile_log_e(
        baseline, candidate, p=0.5, ratio=1.1, alpha=0.05, hypothesis="hold"
    )

    assert log_e > math.log(1 / 0.045)


@reproducible
@given(st.integers(0, 99), hypotheses, st.floats(1.0, 1.5), st.floats(1, 1.1))
def test_evidence_follows_the_ratio(
    seed: int, hypothesis: str, ratio: float, factor: float
) -> None:
    """A wider margin never lowers the evidence that it holds, nor raises the other."""
    baseline, candidate = _pairs(seed)
    narrow, wide = (
        paired_quantile_log_e(
            baseline, candidate, p=0.5, ratio=r, alpha=0.05, hypothesis=hypothesis
        )
        for r in (ratio, ratio * factor)
    )

    assert (narrow <= wide) if hypothesis == "hold" else (narrow >= wide)


@reproducible
@given(
    st.integers(0, 99),
    hypotheses,
    st.lists(st.floats(1, 3), min_size=1, max_size=40),
    st.booleans(),
)
def test_slower_candidates_never_look_better(
    seed: int, hypothesis: str, slowdowns: list[float], fails: bool
) -> None:
    """Slowing or failing some requests of the candidate shifts evidence one way."""
    baseline, candidate = _pairs(seed)
    slower = candidate.copy()
    slower[: len(slowdowns)] *= slowdowns
    if fails:
        slower[-1] = math.inf
    before, after = (
        paired_quantile_log_e(
            baseline, values, p=0.5, ratio=1.05, alpha=0.05, hypothesis=hypothesis
        )
        for values in (candidate, slower)
    )

    assert (before >= after) if hypothesis == "hold" else (before <= after)


@reproducible
@given(st.integers(0, 99), hypotheses, st.floats(0.001, 0.2), st.floats(1, 4))
def test_evidence_grows_with_alpha(
    seed: int, hypothesis: str, alpha: float, factor: float
) -> None:
    """A larger alpha searches a smaller set, so its least evidence is no smaller."""
    baseline, candidate = _pairs(seed)
    small, large = (
        paired_quantile_log_e(
            baseline, candidate, p=0.5, ratio=1.03, alpha=a, hypothesis=hypothesis
        )
        for a in (alpha, alpha * factor)
    )

    assert small <= large


@reproducible
@given(st.integers(0, 999), st.sampled_from([0.5, 0.9]), st.floats(0.7, 1.4))
def test_bounds_are_the_edges_of_what_is_shown(
    seed: int, p: float, slowdown: float
) -> None:
    """Just beyond a bound the test still decides, just within it doesn't."""
    baseline, candidate = _pairs(seed, n=800, noise=0.3, slowdown=slowdown)
    lower, upper = quantile_ratio_bounds(baseline, candidate, p=p, alpha=0.05)
    assume(lower > 0 and upper < math.inf)

    def shown(ratio: float, hypothesis: str) -> bool:
        return paired_quantile_log_e(
            baseline, candidate, p=p, ratio=ratio, alpha=0.05, hypothesis=hypothesis
        ) >= math.log(1 / 0.045)

    assert lower < np.quantile(candidate, p) / np.quantile(baseline, p) < upper
    assert shown(lower, "broken")
    assert shown(upper, "hold")
    assert not shown(lower * (1 + 1e-8), "broken")
    assert not shown(upper * (1 - 1e-8), "hold")


def test_bounds_know_neither_scale_nor_order() -> None:
    """Other units of time, or pairs in another order, give the same bounds."""
    baseline, candidate = _pairs(5, n=1000)
    order = np.random.default_rng(6).permutation(1000)
    expected = quantile_ratio_bounds(baseline, candidate, p=0.5, alpha=0.05)

    assert expected == quantile_ratio_bounds(
        1024 * baseline[order], 1024 * candidate[order], p=0.5, alpha=0.05
    )


def test_zeros_have_no_ratio_but_break_nothing() -> None:
    """All-zero arms give bounds that claim nothing false and raise no warning."""
    zeros, ones = np.zeros(200), np.arange(1.0, 201)

    assert quantile_ratio_bounds(zeros, ones, p=0.5, alpha=0.05) == (0.0, math.inf)
    assert quantile_ratio_bounds(zeros, zeros, p=0.5, alpha=0.05) == (0.0, math.inf)
    assert quantile_ratio_bounds(ones, zeros, p=0.5, alpha=0.05) == (0.0, 0.0)


@pytest.mark.parametrize("hypothesis", ["hold", "broken"])
def test_a_constant_baseline_decides_nothing_until_ties_are_broken(
    hypothesis: str,
) -> None:
    """All-equal values give no order to bet on; a tiny fixed jitter gives one."""
    ties = np.ones(1000)
    jittered = ties + 1e-9 * np.random.default_rng(7).random(1000)
    candidate = ties * (0.8 if hypothesis == "hold" else 1.3)
    tied, broken_up = (
        paired_quantile_log_e(
            baseline, candidate, p=0.9, ratio=1.1, alpha=0.05, hypothesis=hypothesis
        )
        for baseline in (ties, jittered)
    )

    assert tied <= 0
    assert broken_up > math.log(1 / 0.045)


def test_an_exact_limit_is_not_broken() -> None:
    """A candidate slower by exactly the ratio, on tied values, breaks nothing."""
    log_e = paired_quantile_log_e(
        np.full(500, 0.7),
        np.full(500, 1.05 * 0.7),
        p=0.5,
        ratio=1.05,
        alpha=0.05,
        hypothesis="broken",
    )

    assert log_e <= 0


@pytest.mark.parametrize(
    "changes",
    [
        {"baseline": [1.0, math.nan]},
        {"candidate": [1.0, math.nan]},
        {"candidate": [1.0, -1.0]},
        {"candidate": [1.0]},
        {"p": 0.0},
        {"p": 1.0},
        {"alpha": 0.0},
        {"alpha": 1.0},
        {"ratio": 0.0},
        {"ratio": math.inf},
        {"ratio": math.nan},
        {"hypothesis": "maybe"},
    ],
)
def test_refuses_what_has_no_meaning(changes: dict[str, object]) -> None:
    """NaN, negative or unpaired values and impossible arguments are errors."""
    arguments = {
        "baseline": [1.0, 2.0],
        "candidate": [1.0, 2.0],
        "p": 0.5,
        "ratio": 1.1,
        "alpha": 0.05,
        "hypothesis": "hold",
    }

    with pytest.raises(ValueError, match=r"must be|need|expected"):
        paired_quantile_log_e(**(arguments | changes))


def _exchangeable(
    generator: np.random.Generator, runs: int, n: int, correlation: float
) -> tuple[np.ndarray, np.ndarray]:
    shared, own, other = generator.standard_normal((3, runs, n))
    weights = math.sqrt(correlation), math.sqrt(1 - correlation)
    return (
        np.exp(0.6 * (weights[0] * shared + weights[1] * own)),
        np.exp(0.6 * (weights[0] * shared + weights[1] * other)),
    )


@pytest.mark.parametrize("correlation", [0.0, 0.97])
@pytest.mark.parametrize("hypothesis", ["hold", "broken"])
def test_false_decisions_stay_below_alpha_with_peeking(
    correlation: float, hypothesis: str
) -> None:
    """With the ratio at its limit, looking often decides falsely at most alpha."""
    runs, p, alpha, limit = 300, 0.5, 0.2, 1.2
    generator = np.random.default_rng([17, int(100 * correlation)])
    baseline, candidate = _exchangeable(generator, runs, 2000, correlation)
    looks = np.unique(np.geomspace(60, 2000, 12).astype(int))
    false = sum(
        any(
            paired_quantile_log_e(
                a[:n],
                limit * b[:n],
                p=p,
                ratio=limit,
                alpha=alpha,
                hypothesis=hypothesis,
            )
            >= math.log(1 / (alpha - alpha / 10))
            for n in looks
        )
        for a, b in zip(baseline, candidate, strict=True)
    )

    assert false / runs <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)


def test_finds_what_is_there() -> None:
    """Few thousand pairs show a p50 within 5 %, and a p99 that is 20 % too slow."""
    same = _pairs(8, n=3000, noise=0.05)
    slow = _pairs(9, n=4000, noise=0.05, slowdown=1.25)
    holds = paired_quantile_log_e(
        *same, p=0.5, ratio=1.05, alpha=0.05, hypothesis="hold"
    )
    broken = paired_quantile_log_e(
        *slow, p=0.99, ratio=1.05, alpha=0.05, hypothesis="broken"
    )

    assert holds > math.log(1 / 0.045)
    assert broken > math.log(1 / 0.045)
