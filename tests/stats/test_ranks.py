import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import betabinom, binom

from canary.stats import quantile_ranks, share_bounds
from canary.stats.ranks import _beta_parameters, log_mixture

reproducible = settings(derandomize=True, deadline=None, max_examples=80)


@pytest.mark.parametrize(
    ("n", "p", "expected"), [(1000, 0.5, (447, 554)), (10000, 0.99, (9868, 9929))]
)
def test_reproduces_reference_ranks(n: int, p: float, expected: object) -> None:
    """Ranks equal those of an independent implementation of the theorem."""
    assert expected == quantile_ranks(n, p, alpha=0.05)


def test_reproduces_the_reference_mixture() -> None:
    """The mixture and its boundary equal the published code's unit test values."""
    # Variance 100 of increments 0.8 and -0.2 are 625 values; tuned at variance 100.
    at_ten, at_bound = log_mixture([125 + 10, 125 + 31.4308], 625, 0.2, t_opt=625)

    assert at_ten == pytest.approx(-0.6941012, abs=1e-6)
    assert at_bound == pytest.approx(math.log(20), abs=1e-4)


@pytest.mark.parametrize(
    ("p", "alpha", "minimum"),
    [
        (0.5, 0.05, 65),
        (0.5, 0.005, 88),
        (0.9, 0.05, 205),
        (0.9, 0.005, 281),
        (0.95, 0.05, 309),
        (0.95, 0.005, 429),
        (0.99, 0.05, 825),
        (0.99, 0.005, 1197),
    ],
)
def test_too_few_values_have_no_finite_upper_bound(
    p: float, alpha: float, minimum: int
) -> None:
    """Below a minimum the upper rank is n + 1, from there on it is finite."""
    assert quantile_ranks(minimum - 1, p, alpha=alpha)[1] == minimum
    assert quantile_ranks(minimum, p, alpha=alpha)[1] == minimum
    assert quantile_ranks(minimum + 50, p, alpha=alpha)[1] <= minimum + 50


def test_a_low_quantile_has_no_lower_bound_until_late() -> None:
    """The lower rank is 0 where the upper one of 1 - p would be n + 1."""
    assert quantile_ranks(824, 0.01, alpha=0.05)[0] == 0
    assert quantile_ranks(825, 0.01, alpha=0.05)[0] == 1


@pytest.mark.parametrize(("n", "p"), [(0, 0.5), (1, 0.99), (7, 0.5), (400, 0.9)])
def test_is_the_set_in_which_the_mixture_is_below_its_threshold(
    n: int, p: float
) -> None:
    """Counts strictly within the ranks are those whose likelihood ratio is small."""
    a, b = _beta_parameters(p, 5000)
    k = np.arange(n + 1)
    log_ratio = betabinom.logpmf(k, n, a, b) - binom.logpmf(k, n, p)
    plausible = k[log_ratio < math.log(20)]

    assert quantile_ranks(n, p, alpha=0.05) == (plausible[0], plausible[-1] + 1)


def test_widens_as_alpha_falls_and_narrows_as_values_come() -> None:
    """A smaller alpha takes in more ranks, more values a smaller share of them."""
    lower, upper = quantile_ranks(2000, 0.9, alpha=0.05)
    wide_lower, wide_upper = quantile_ranks(2000, 0.9, alpha=0.005)
    more_lower, more_upper = quantile_ranks(8000, 0.9, alpha=0.05)

    assert wide_lower < lower < 1800 < upper < wide_upper
    assert lower / 2000 < more_lower / 8000 < 0.9 < more_upper / 8000 < upper / 2000


def test_covers_the_quantile_at_all_times_at_once() -> None:
    """Looking after every value, the quantile is ever missed with less than alpha."""
    runs, longest, p, alpha = 1500, 1500, 0.9, 0.05
    below = np.random.default_rng(11).random((runs, longest)) <= p
    n = np.arange(1, longest + 1)
    lower, upper = np.array([quantile_ranks(t, p, alpha=alpha) for t in n]).T
    count = below.cumsum(axis=1)
    missed = ((count < lower) | (count >= upper)).any(axis=1).mean()

    assert 0.005 < missed < alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)


@pytest.mark.parametrize(
    ("n", "p", "alpha", "t_opt"),
    [
        (-1, 0.5, 0.05, 5000),
        (math.nan, 0.5, 0.05, 5000),
        (9, 0, 0.05, 5000),
        (9, 1, 0.05, 5000),
        (9, math.nan, 0.05, 5000),
        (9, 0.5, 0, 5000),
        (9, 0.5, 1, 5000),
        (9, 0.5, 0.05, 0),
    ],
)
def test_refuses_what_has_no_meaning(
    n: int, p: float, alpha: float, t_opt: float
) -> None:
    """Impossible numbers of values, quantiles and levels are errors."""
    with pytest.raises(ValueError, match=r"need|must be"):
        quantile_ranks(n, p, alpha=alpha, t_opt=t_opt)


def test_reproduces_the_reference_share() -> None:
    """700 successes of 1000 have the bounds of the published code."""
    found = share_bounds(700, 1000, alpha=0.05, t_opt=100)

    assert found == pytest.approx((0.651629, 0.745949), abs=1e-6)


@reproducible
@given(
    st.integers(0, 2000),
    st.floats(0, 1),
    st.floats(0.001, 0.3),
    st.sampled_from([1.0, 100.0, 5000.0]),
)
def test_shares_are_the_chances_for_which_the_count_is_plausible(
    n: int, part: float, alpha: float, t_opt: float
) -> None:
    """A chance is within the bounds if the count is within that chance's ranks."""
    successes = round(part * n)
    bounds = share_bounds(successes, n, alpha=alpha, t_opt=t_opt)

    for bound, outwards in zip(bounds, (-1, 1), strict=True):
        for nudge in (-1e-6, 1e-6):
            chance = bound + nudge
            if 1e-5 < chance < 1 - 1e-5:
                fewest, beyond = quantile_ranks(n, chance, alpha=alpha, t_opt=t_opt)

                assert (fewest <= successes < beyond) == (nudge * outwards < 0)


@reproducible
@given(st.integers(1, 10**7), st.floats(0, 1), st.floats(1e-6, 0.5))
def test_shares_reflect_and_widen_as_alpha_falls(
    n: int, part: float, alpha: float
) -> None:
    """Failures mirror successes; a smaller alpha gives a wider interval around them."""
    successes = round(part * n)
    lower, upper = share_bounds(successes, n, alpha=alpha)
    wide_lower, wide_upper = share_bounds(successes, n, alpha=alpha / 2)
    mirrored = share_bounds(n - successes, n, alpha=alpha)

    assert 0 <= wide_lower <= lower <= successes / n <= upper <= wide_upper <= 1
    assert mirrored == pytest.approx((1 - upper, 1 - lower), abs=1e-7)


def test_shares_of_next_to_nothing_are_wide() -> None:
    """No trial and one trial bound nothing; fifty of fifty leave the upper end."""
    assert share_bounds(0, 0, alpha=0.05) == (0, 1)
    assert share_bounds(1, 1, alpha=0.05) == (0, 1)

    lower, upper = share_bounds(50, 50, alpha=0.05)

    assert 0.9 < lower < 0.92
    assert upper == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda: share_bounds(-1, 5, alpha=0.05),
        lambda: share_bounds(6, 5, alpha=0.05),
        lambda: share_bounds(math.nan, 5, alpha=0.05),
        lambda: share_bounds(2, 5, alpha=1.0),
        lambda: share_bounds(0, 0, alpha=0.0),
        lambda: share_bounds(2, 5, alpha=0.05, t_opt=0),
        lambda: share_bounds(2, 5, alpha=0.05, t_opt=math.nan),
    ],
)
def test_shares_refuse_what_has_no_meaning(call: Callable[[], object]) -> None:
    """Impossible counts and levels are errors."""
    with pytest.raises(ValueError, match=r"need|must be"):
        call()
