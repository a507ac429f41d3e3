import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betainc, betaln

from canary.stats import (
    betting_log_e,
    betting_mean_bounds,
    paired_log_e,
    paired_mean_bounds,
)
from canary.stats.betting import log_e_of_counts

counts = st.integers(0, 300)
means = st.floats(-0.9, 0.9)
reproducible = settings(derandomize=True, deadline=None, max_examples=60)


@pytest.mark.parametrize(
    ("counts_", "null_mean", "log_e", "lower"),
    [
        ((18, 952, 30), -0.03, 1.817560, -0.033555),
        ((20, 935, 45), -0.02, -2.327452, -0.050330),
        ((0, 1000, 0), -0.01, 7.746704, -0.004502),
    ],
)
def test_reproduces_reference_values(
    counts_: tuple[int, ...], null_mean: float, log_e: float, lower: float
) -> None:
    """Evidence and lower bound equal values computed independently."""
    found = paired_log_e(*counts_, null_mean=null_mean)
    bound, _ = paired_mean_bounds(*counts_, alpha=0.05)

    assert found == pytest.approx(log_e, abs=1e-6)
    assert bound == pytest.approx(lower, abs=1e-6)


@pytest.mark.parametrize(
    ("wins", "losses"), [(0, 0), (1, 0), (0, 9), (20, 45), (45, 20), (300, 300)]
)
def test_is_the_mcnemar_mixture_at_a_null_mean_of_zero(wins: int, losses: int) -> None:
    """Against no difference the evidence equals a closed form, whatever the ties."""
    units = wins + losses
    expected = (
        units * math.log(2)
        + betaln(1 + wins, 1 + losses)
        + math.log(betainc(1 + losses, 1 + wins, 0.5))
        + math.log(2)
    )

    assert paired_log_e(wins, 7, losses) == pytest.approx(expected, abs=1e-4)
    assert paired_log_e(20, 935, 45, alternative="less") == pytest.approx(
        3.674093, abs=1e-6
    )


@reproducible
@given(counts, counts, counts, means)
def test_counts_and_values_agree(
    wins: int, ties: int, losses: int, null_mean: float
) -> None:
    """The value form on -1, 0 and 1 equals the count form, in both directions."""
    values = np.repeat([1.0, 0.0, -1.0], [wins, ties, losses])
    for alternative in ("greater", "less"):
        expected = paired_log_e(
            wins, ties, losses, null_mean=null_mean, alternative=alternative
        )
        found = betting_log_e(
            values, null_mean=null_mean, low=-1, high=1, alternative=alternative
        )

        assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


@reproducible
@given(counts, counts, counts, means)
def test_the_other_alternative_is_the_reflection(
    wins: int, ties: int, losses: int, null_mean: float
) -> None:
    """Evidence for less is evidence for greater with wins and losses exchanged."""
    expected = paired_log_e(losses, ties, wins, null_mean=-null_mean)

    assert expected == paired_log_e(
        wins, ties, losses, null_mean=null_mean, alternative="less"
    )


def test_the_order_of_values_does_not_matter_in_any_bit() -> None:
    """Evidence is the same float for any order of the same values."""
    generator = np.random.default_rng(3)
    values = generator.choice(np.linspace(0, 1, 7), 500)
    expected = betting_log_e(np.sort(values), null_mean=0.4, low=0, high=1)

    assert expected == betting_log_e(values, null_mean=0.4, low=0, high=1)


def test_many_distinct_values_equal_the_plain_product() -> None:
    """The value form multiplies out every bettor's wealth, value by value."""
    values = np.random.default_rng(4).uniform(2, 5, 5000)
    shares = (np.arange(1000) + 0.5) / 1000
    log_wealth = np.zeros(1000)
    for value in values:
        log_wealth += np.log(1 + shares / (3.4 - 2) * (value - 3.4))
    expected = np.logaddexp.reduce(log_wealth) - math.log(1000)

    assert expected == pytest.approx(
        betting_log_e(values, null_mean=3.4, low=2, high=5), rel=1e-9
    )


@pytest.mark.parametrize(("win", "loss"), [(0.2, 0.25), (0.0, 0.05), (0.475, 0.525)])
def test_is_fair_at_the_null(win: float, loss: float) -> None:
    """At the null's edge the expected e-value over all sequences is exactly 1."""
    chance = {1: win, 0: 1 - win - loss, -1: loss}
    total = 0.0
    for sequence in itertools.product(chance, repeat=5):
        log_e = paired_log_e(
            *(sequence.count(d) for d in (1, 0, -1)), null_mean=win - loss
        )
        total += math.prod(chance[d] for d in sequence) * math.exp(log_e)

    assert total == pytest.approx(1, abs=1e-12)


@reproducible
@given(counts, counts, counts, means, st.floats(0, 0.05))
def test_better_data_and_lower_nulls_give_more_evidence(
    w: int, t: int, n: int, null_mean: float, step: float
) -> None:
    """A win more, a loss less, or a lower null mean never lowers the evidence."""
    log_e = paired_log_e(w, t, n, null_mean=null_mean)

    assert log_e < paired_log_e(w + 1, t, n, null_mean=null_mean)
    assert log_e > paired_log_e(w, t, n + 1, null_mean=null_mean)
    assert log_e <= paired_log_e(w, t, n, null_mean=null_mean - step) + 1e-9


@reproducible
@given(counts, counts, counts, st.floats(0.001, 0.3))
def test_bounds_are_the_edges_of_what_is_rejected(
    wins: int, ties: int, losses: int, alpha: float
) -> None:
    """Means beyond a bound are rejected at alpha, means within are not."""
    lower, upper = paired_mean_bounds(wins, ties, losses, alpha=alpha)
    threshold = math.log(1 / alpha)

    assert -1 <= lower <= upper <= 1
    for bound, side, alternative in ((lower, -1, "greater"), (upper, 1, "less")):
        for nudge in (-1e-7, 1e-7):
            mean = bound + nudge
            if abs(mean) < 1 and abs(bound - side) > 1e-6:
                log_e = paired_log_e(
                    wins, ties, losses, null_mean=mean, alternative=alternative
                )

                assert (log_e >= threshold) == (nudge * side > 0)


def test_bounds_tighten_with_alpha_and_with_data() -> None:
    """A larger alpha, or more of the same data, gives a narrower interval."""
    lower, upper = paired_mean_bounds(20, 900, 30, alpha=0.01)
    for counts_, alpha in (((20, 900, 30), 0.05), ((80, 3600, 120), 0.01)):
        inner_lower, inner_upper = paired_mean_bounds(*counts_, alpha=alpha)

        assert lower < inner_lower < -0.01 < inner_upper < upper


def test_value_bounds_equal_count_bounds_on_any_scale() -> None:
    """Bounds of values are those of counts, moved and stretched with the values."""
    lower, upper = paired_mean_bounds(12, 60, 28, alpha=0.05)
    values = 100 + 3 * np.repeat([1.0, 0.0, -1.0], [12, 60, 28])
    found = betting_mean_bounds(values, low=97, high=103, alpha=0.05)

    assert found == pytest.approx((100 + 3 * lower, 100 + 3 * upper), abs=1e-6)


@pytest.mark.parametrize(
    ("counts_", "expected"),
    [
        ((0, 0, 0), (-1, 1)),
        ((1, 0, 0), (-0.948717, 1)),
        ((0, 0, 1), (-1, 0.948717)),
        ((0, 1, 0), (-0.974359, 0.974359)),
    ],
)
def test_bounds_of_next_to_nothing_are_wide(
    counts_: tuple[int, ...], expected: object
) -> None:
    """No units bound nothing; after one, e is 1/2 + 1/2 (y - low)/(m - low) = 20."""
    assert paired_mean_bounds(*counts_, alpha=0.05) == pytest.approx(expected, abs=1e-6)
    assert betting_mean_bounds([], low=0, high=4, alpha=0.05) == (0.0, 4.0)


def test_extreme_samples_have_bounds() -> None:
    """Samples at the end of the range keep that end and bound the other side."""
    low = 0.1
    lower, upper = paired_mean_bounds(1000, 0, 0, alpha=0.05)

    assert upper == 1
    assert 0.98 < lower < 1
    assert betting_mean_bounds([low] * 30, low=low, high=1, alpha=0.05)[0] == low


def test_arrays_of_counts_equal_one_call_each() -> None:
    """The vectorised form is the scalar form, fractions included."""
    wins, ties, losses = np.random.default_rng(5).uniform(0, 50, (3, 20))
    expected = [
        paired_log_e(*row, null_mean=-0.1)
        for row in zip(wins, ties, losses, strict=True)
    ]

    assert expected == log_e_of_counts(wins, ties, losses, null_mean=-0.1).tolist()


def test_no_units_are_no_evidence() -> None:
    """Without units wealth is what it was at the start."""
    assert paired_log_e(0, 0, 0, null_mean=-0.3) == 0
    assert betting_log_e([], null_mean=0.5, low=0, high=1) == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda: paired_log_e(-1, 0, 0),
        lambda: paired_log_e(math.nan, 0, 0),
        lambda: paired_log_e(math.inf, 0, 0),
        lambda: paired_log_e(1, 0, 0, null_mean=-1),
        lambda: paired_log_e(1, 0, 0, null_mean=math.nan),
        lambda: paired_log_e(1, 0, 0, alternative="two-sided"),
        lambda: paired_mean_bounds(1, 0, 0, alpha=0),
        lambda: paired_mean_bounds(1, 0, 0, alpha=1),
        lambda: betting_log_e([0.5, math.nan], null_mean=0.5, low=0, high=1),
        lambda: betting_log_e([1.5], null_mean=0.5, low=0, high=1),
        lambda: betting_log_e([0.5], null_mean=1, low=0, high=1),
        lambda: betting_log_e([], null_mean=2, low=0, high=1),
        lambda: betting_log_e([], null_mean=0.5, low=0, high=math.inf),
        lambda: betting_mean_bounds([], low=1, high=0, alpha=0.05),
        lambda: betting_mean_bounds([], low=math.nan, high=1, alpha=0.05),
        lambda: betting_log_e([[0.5]], null_mean=0.5, low=0, high=1),
        lambda: betting_log_e([0.5], null_mean=0.5, low=0, high=1, alternative="x"),
        lambda: betting_mean_bounds([2], low=0, high=1, alpha=0.05),
    ],
)
def test_refuses_what_has_no_meaning(call: Callable[[], object]) -> None:
    """Impossible counts, values, nulls, levels and alternatives are errors."""
    with pytest.raises(ValueError, match=r"must be|expected"):
        call()
