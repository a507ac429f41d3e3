"""What must hold for any data: order, direction, and the size of alpha."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canary.stats import (
    betting_log_e,
    betting_mean_bounds,
    e_bh,
    harm_mixture,
    holm,
    late_onset_log_e,
    mcnemar_exact,
    paired_log_e,
    paired_mean_bounds,
    pairs_needed,
    quantile_ranks,
    quantile_ratio_bounds,
    tango_interval,
)
from canary.stats.sign import sign_log_e

reproducible = settings(derandomize=True, deadline=None, max_examples=40)
counts = st.integers(0, 300)
outcomes = st.tuples(counts, counts, counts)  # wins, ties, losses
alphas = st.floats(0.001, 0.3)
factors = st.floats(1.0, 3.0)
scores = st.lists(st.integers(-4, 4).map(lambda k: k / 4), max_size=60)
means = st.floats(-0.9, 0.9)
hypotheses = st.sampled_from(["greater", "less"])
LIMITS = {"low": -1.0, "high": 1.0}


def _within(inner: tuple[float, float], outer: tuple[float, float]) -> bool:
    return outer[0] <= inner[0] + 1e-9 and inner[1] <= outer[1] + 1e-9


@pytest.mark.parametrize("ties", [0, 935, 10**6])
def test_harm_is_the_mcnemar_mixture_whatever_the_ties(ties: int) -> None:
    """20 wins and 45 losses give one number in the direction of harm, by both forms."""
    closed = sign_log_e(np.array([45.0]), np.array([20.0]))[0]

    assert closed == pytest.approx(3.674093, rel=1e-6)
    assert paired_log_e(20, ties, 45, alternative="less") == pytest.approx(
        3.674093, rel=1e-6
    )


@reproducible
@given(scores, st.randoms(use_true_random=False), means, hypotheses)
def test_evidence_does_not_know_the_order(
    values: list[float], shuffler: object, null_mean: float, alternative: str
) -> None:
    """Any order of the values gives the same float, and so do counts of them."""
    shuffled = values.copy()
    shuffler.shuffle(shuffled)
    question = {"null_mean": null_mean, "alternative": alternative}
    found = betting_log_e(values, **question, **LIMITS)
    signs = [(v > 0) - (v < 0) for v in values]
    by_count = paired_log_e(*(signs.count(k) for k in (1, 0, -1)), **question)

    assert found == betting_log_e(shuffled, **question, **LIMITS)
    assert by_count == pytest.approx(
        betting_log_e(np.sign(shuffled), **question, **LIMITS), abs=1e-9
    )


@reproducible
@given(scores, means, st.floats(0, 0.09), hypotheses)
def test_evidence_follows_the_margin(
    values: list[float], null_mean: float, step: float, alternative: str
) -> None:
    """A null that is further from the data is never the better supported one."""
    further = null_mean - step if alternative == "greater" else null_mean + step
    for evidence in (betting_log_e, late_onset_log_e):
        near, far = (
            evidence(values, null_mean=m, alternative=alternative, **LIMITS)
            for m in (null_mean, further)
        )

        assert far >= near - 1e-9


@reproducible
@given(scores, outcomes, alphas, factors)
def test_bounds_of_means_narrow_as_alpha_grows(
    values: list[float], wins_ties_losses: tuple[int, ...], alpha: float, factor: float
) -> None:
    """What is rejected at a small alpha is rejected at a larger one."""
    wins, ties, losses = wins_ties_losses
    for bounds, data in (
        (lambda a: betting_mean_bounds(values, alpha=a, **LIMITS), values),
        (lambda a: paired_mean_bounds(wins, ties, losses, alpha=a), [wins, -losses]),
    ):
        outer, inner = bounds(alpha), bounds(alpha * factor)

        assert _within(inner, outer)
        assert inner[0] <= inner[1]
        assert any(data) or inner[0] <= 0 <= inner[1]


@reproducible
@given(st.integers(0, 5000), st.floats(0.01, 0.99), alphas, factors)
def test_ranks_narrow_as_alpha_grows_and_follow_p(
    n: int, p: float, alpha: float, factor: float
) -> None:
    """Larger alpha, closer ranks; a higher quantile, ranks that are no lower."""
    outer, inner = (quantile_ranks(n, p, alpha=a) for a in (alpha, alpha * factor))
    higher = quantile_ranks(n, min(p + 0.01, 0.995), alpha=alpha)

    assert 0 <= outer[0] <= inner[0] <= inner[1] <= outer[1] <= n + 1
    assert outer[0] <= higher[0]
    assert outer[1] <= higher[1]


@reproducible
@given(st.integers(0, 999), st.sampled_from([0.5, 0.9]), alphas, factors)
def test_bounds_of_ratios_narrow_as_alpha_grows(
    seed: int, p: float, alpha: float, factor: float
) -> None:
    """A larger alpha searches a smaller set with a lower threshold."""
    noise = np.random.default_rng(seed).standard_normal((2, 300))
    baseline = np.exp(0.6 * noise[0])
    arms = baseline, baseline * np.exp(0.2 * noise[1])
    outer, inner = (
        quantile_ratio_bounds(*arms, p=p, alpha=a) for a in (alpha, alpha * factor)
    )

    assert outer[0] <= inner[0] * (1 + 1e-8)
    assert inner[1] <= outer[1] * (1 + 1e-8)


@reproducible
@given(counts, counts, counts, alphas, factors)
def test_the_score_interval_narrows_and_follows_wins(
    b: int, c: int, ties: int, alpha: float, factor: float
) -> None:
    """A larger alpha narrows it around the estimate; a tie turned to a win lifts it."""
    n = b + c + ties + 1
    outer, inner = (tango_interval(b, c, n, alpha=a) for a in (alpha, alpha * factor))
    lifted = tango_interval(b + 1, c, n, alpha=alpha)

    assert -1 <= outer[0] <= inner[0] <= (b - c) / n <= inner[1] <= outer[1] <= 1
    assert outer[0] <= lifted[0] + 1e-9
    assert outer[1] <= lifted[1] + 1e-9


@reproducible
@given(counts, counts, st.integers(0, 50))
def test_the_exact_p_value_falls_as_the_arms_part(b: int, c: int, more: int) -> None:
    """Both directions alike, in [0, 1], and lower the further the counts are apart."""
    small, large = sorted((b, c))

    assert mcnemar_exact(b, c) == mcnemar_exact(c, b)
    assert 0 <= mcnemar_exact(small, large + more) <= mcnemar_exact(small, large) <= 1


@reproducible
@given(
    st.lists(st.tuples(st.floats(-20, 20), st.floats(0.01, 1)), min_size=1, max_size=9),
    alphas,
    factors,
)
def test_combinations_know_no_order_and_stay_in_between(
    tests: list[tuple[float, float]], alpha: float, factor: float
) -> None:
    """A mean lies between its parts; corrections only take away, less at more alpha."""
    log_es, weights = np.array(tests).T
    mixed = harm_mixture(log_es, weights / weights.sum())
    p = np.exp(-np.maximum(log_es, 0))
    rejected = e_bh(np.exp(log_es), alpha=alpha)

    assert log_es.min() - 1e-9 <= mixed <= log_es.max() + 1e-9
    assert mixed == pytest.approx(
        harm_mixture(log_es[::-1], weights[::-1] / weights.sum()), abs=1e-9
    )
    assert np.all(holm(p) >= p)
    assert holm(p)[::-1].tolist() == holm(p[::-1]).tolist()
    assert np.all(e_bh(np.exp(log_es), alpha=alpha * factor) >= rejected)
    assert not np.any(rejected & (log_es < math.log(1 / alpha) - 1e-9))


@reproducible
@given(outcomes, st.floats(-0.5, 0.5), st.floats(0, 0.3), factors)
def test_projections_follow_the_margin_and_the_threshold(
    wins_ties_losses: tuple[int, ...], null_mean: float, step: float, factor: float
) -> None:
    """A wider margin never takes more units, a higher threshold never fewer."""
    question = dict(zip(("wins", "ties", "losses"), wins_ties_losses, strict=True))
    question["alternative"] = "greater"
    needed, wider, certain = (
        pairs_needed(null_mean=m, threshold_log_e=t, **question) or math.inf
        for m, t in (
            (null_mean, 3.0),
            (null_mean - step, 3.0),
            (null_mean, 3.0 * factor),
        )
    )

    assert wider <= needed <= certain


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -1.001, 1.001])
def test_values_out_of_range_are_refused_everywhere(bad: float) -> None:
    """NaN, infinities and values just beyond the limits, alone or among good ones."""
    for values in ([bad], [0.5, bad, -0.5]):
        for evidence in (betting_log_e, late_onset_log_e):
            with pytest.raises(ValueError, match="must be in"):
                evidence(values, null_mean=0.0, **LIMITS)
        with pytest.raises(ValueError, match="must be in"):
            betting_mean_bounds(values, alpha=0.05, **LIMITS)
