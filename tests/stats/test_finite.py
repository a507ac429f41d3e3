import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canary.stats import betting_log_e, finite_log_e, finite_mean_bounds

UNIT = {"low": 0.0, "high": 1.0}
reproducible = settings(derandomize=True, deadline=None, max_examples=40)


def _by_loops(values: np.ndarray, total: int, null_mean: float) -> float:
    """Every bettor's wealth on values in [0, 1], one stake after another."""
    shares = (np.arange(1000) + 0.5) / 1000
    log_wealth, seen = np.zeros(1000), 0.0
    for t, value in enumerate(values):
        mean_left = (total * null_mean - seen) / (total - t)
        stake = shares / mean_left
        log_wealth += np.log(1 + stake * (value - mean_left))
        seen += value
    return float(np.logaddexp.reduce(log_wealth) - math.log(1000))


@pytest.mark.parametrize(("n", "null_mean"), [(1, 0.5), (40, 0.45), (700, 0.6)])
def test_is_the_wealth_of_bettors_who_know_what_was_drawn(
    n: int, null_mean: float
) -> None:
    """Equals stakes of shares of 1 / m_t, placed one after the other."""
    values = np.random.default_rng(n).uniform(0, 1, n)
    found = finite_log_e(values, total=1500, null_mean=null_mean, **UNIT)

    assert found == pytest.approx(_by_loops(values, 1500, null_mean), rel=1e-9)


def test_is_fair_over_all_orders() -> None:
    """At the set's own mean the expected e-value over all orders is exactly 1, until
    some orders make the null certain; from there on it is less."""
    items = [0.0, 0.0, 0.25, 0.5, 1.0, 1.0]
    for n in range(7):
        e_values = [
            math.exp(finite_log_e(part, total=6, null_mean=2.75 / 6, **UNIT))
            for part in itertools.permutations(items, n)
        ]
        expected = math.fsum(e_values) / len(e_values)

        if n < 4:
            assert expected == pytest.approx(1, abs=1e-9)
        else:
            assert expected < 1


def test_a_huge_set_is_a_population() -> None:
    """What was drawn says nothing of a set that is larger by far."""
    values = np.random.default_rng(61).choice([-1.0, 0.0, 1.0], 500, p=[0.1, 0.8, 0.1])
    question = {"null_mean": -0.1, "low": -1.0, "high": 1.0}
    found = finite_log_e(values, total=10**12, **question)

    assert found == pytest.approx(betting_log_e(values, **question), abs=1e-6)


def test_gains_on_a_population_the_more_of_the_set_is_known() -> None:
    """The same values are stronger evidence about a smaller set."""
    values = np.random.default_rng(62).permutation(np.repeat([1.0, 0.0], [130, 70]))
    found = [
        finite_log_e(values, total=total, null_mean=0.55, **UNIT)
        for total in (200, 220, 400, 1000)
    ]

    assert found == sorted(found, reverse=True)
    assert found[0] == math.inf
    assert found[1] > 2 * found[3] > 0


@pytest.mark.parametrize("alternative", ["greater", "less"])
def test_all_items_leave_no_doubt(alternative: str) -> None:
    """Once all are known the null is impossible or certain, also by a hair."""
    values = np.random.default_rng(63).integers(0, 4, 999) / 3
    mean = values.mean()
    for null_mean, above in ((mean - 1e-9, True), (mean + 1e-9, False)):
        found = finite_log_e(
            values, total=999, null_mean=null_mean, alternative=alternative, **UNIT
        )

        assert found == (math.inf if above == (alternative == "greater") else -math.inf)
    # The mean itself is on the null's side of both questions.
    assert -math.inf == finite_log_e(
        values, total=999, null_mean=mean, alternative=alternative, **UNIT
    )
    assert finite_mean_bounds(values, total=999, alpha=0.05, **UNIT) == (mean, mean)


def test_is_certain_as_soon_as_the_rest_can_change_nothing() -> None:
    """Six ones of ten make a mean over 0.5 certain; five allow equality."""
    question = {"total": 10, "null_mean": 0.5, **UNIT}

    assert finite_log_e([1.0] * 6, **question) == math.inf
    assert 0 < finite_log_e([1.0] * 5, **question) < math.inf
    assert finite_log_e([1.0] * 5 + [0.0] * 4, **question) < math.inf
    assert finite_log_e([0.0] * 5, **question) == -math.inf
    assert -math.inf < finite_log_e([0.0] * 4, **question) < 0
    assert finite_log_e([0.0] * 6, alternative="less", **question) == math.inf


@reproducible
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=60),
    st.integers(1, 60),
    st.floats(0.02, 0.98),
    st.floats(0, 0.3),
)
def test_evidence_follows_the_null(
    quarters: list[int], left: int, null_mean: float, step: float
) -> None:
    """A lower null mean never has less evidence against it; both sides reflect."""
    values = np.array(quarters) / 4
    question = {"total": len(quarters) + left, **UNIT}
    found = finite_log_e(values, null_mean=null_mean, **question)
    lower = finite_log_e(values, null_mean=max(null_mean - step, 0.01), **question)
    mirrored = finite_log_e(
        1 - values, null_mean=1 - null_mean, alternative="less", **question
    )

    assert lower >= found - 1e-9
    assert mirrored == pytest.approx(found, abs=1e-9)


@reproducible
@given(st.integers(0, 999), st.integers(1, 199), st.floats(0.001, 0.3))
def test_bounds_are_the_edges_of_what_is_rejected(
    seed: int, n: int, alpha: float
) -> None:
    """Means beyond a bound are rejected, means within aren't, and alpha widens."""
    items = np.random.default_rng(seed).choice([-1.0, 0.0, 0.5, 1.0], 200)
    question = {"total": 200, "low": -1.0, "high": 1.0}
    bounds = finite_mean_bounds(items[:n], alpha=alpha, **question)
    wider = finite_mean_bounds(items[:n], alpha=alpha / 3, **question)
    known = items[:n].sum()
    ends = (known - (200 - n)) / 200, (known + (200 - n)) / 200

    assert ends[0] - 1e-9 <= wider[0] <= bounds[0] + 1e-9
    assert bounds[1] - 1e-9 <= wider[1] <= ends[1] + 1e-9
    for bound, side, alternative in zip(
        bounds, (-1, 1), ("greater", "less"), strict=True
    ):
        for nudge in (-1e-7, 1e-7):
            if abs(bound + nudge) < 1:
                log_e = finite_log_e(
                    items[:n],
                    null_mean=bound + nudge,
                    alternative=alternative,
                    **question,
                )

                assert (log_e >= math.log(1 / alpha)) == (nudge * side > 0)


def test_bounds_move_and_stretch_with_the_values() -> None:
    """Bounds on another scale are the same bounds; no values bound nothing."""
    items = np.random.default_rng(64).uniform(0, 1, 80)
    lower, upper = finite_mean_bounds(items, total=100, alpha=0.05, **UNIT)
    found = finite_mean_bounds(5 + 3 * items, total=100, low=5, high=8, alpha=0.05)

    assert found == pytest.approx((5 + 3 * lower, 5 + 3 * upper), abs=1e-9)
    assert finite_mean_bounds([], total=9, low=2, high=4, alpha=0.05) == (2, 4)


def test_false_decisions_stay_below_alpha_with_peeking() -> None:
    """At the set's own mean, looking four times decides falsely at most alpha."""
    runs, alpha, total = 300, 0.1, 200
    items = np.repeat([1.0, 0.0, -1.0], [20, 140, 40])
    generator = np.random.default_rng(65)
    false = 0
    for _ in range(runs):
        order = generator.permutation(items)
        false += any(
            finite_log_e(order[:n], total=total, null_mean=items.mean(), low=-1, high=1)
            >= math.log(1 / alpha)
            for n in range(40, total, 40)
        )

    assert 0 < false / runs <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)


@pytest.mark.parametrize(
    "call",
    [
        lambda: finite_log_e([0.5, 0.5], total=1, null_mean=0.5, **UNIT),
        lambda: finite_log_e([], total=0, null_mean=0.5, **UNIT),
        lambda: finite_log_e([0.5], total=math.nan, null_mean=0.5, **UNIT),
        lambda: finite_mean_bounds([0.5], total=math.inf, alpha=0.05, **UNIT),
        lambda: finite_log_e([1.5], total=3, null_mean=0.5, **UNIT),
        lambda: finite_log_e([math.nan], total=3, null_mean=0.5, **UNIT),
        lambda: finite_log_e([0.5], total=3, null_mean=0.0, **UNIT),
        lambda: finite_log_e([], total=3, null_mean=1.5, **UNIT),
        lambda: finite_log_e([[0.5]], total=3, null_mean=0.5, **UNIT),
        lambda: finite_log_e([], total=3, null_mean=0.5, alternative="x", **UNIT),
        lambda: finite_mean_bounds([0.5] * 4, total=3, alpha=0.05, **UNIT),
        lambda: finite_mean_bounds([0.5], total=3, alpha=1.0, **UNIT),
        lambda: finite_mean_bounds([0.5], total=3, low=1, high=0, alpha=0.05),
    ],
)
def test_refuses_what_has_no_meaning(call: Callable[[], object]) -> None:
    """More values than items, bad values, nulls, limits and levels are errors."""
    with pytest.raises(ValueError, match=r"must be|expected"):
        call()
