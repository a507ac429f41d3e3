"""How much evidence a decision still needs, if the rest looks like what came so far."""

from collections.abc import Callable

from numpy.typing import ArrayLike

from canary.stats.betting import Alternative, paired_log_e
from canary.stats.quantiles import Hypothesis, Pairs, paired_threshold, set_alpha
from canary.stats.ranks import quantile_ranks


def pairs_needed(
    *,
    wins: float,
    ties: float,
    losses: float,
    null_mean: float,
    alternative: Alternative,
    threshold_log_e: float,
    at_most: int = 10_000_000,
) -> int | None:
    """Return the total number of units at which `paired_log_e` reaches a threshold.

    A projection, not a promise: counts are assumed to grow in proportion. None if the
    threshold isn't reached within `at_most` units, or if there are no units to
    project from. What is reached already gives the number of units that sufficed.

    Raises:
        ValueError: as `paired_log_e`, or a threshold that isn't above 0.
    """
    if not threshold_log_e > 0:
        raise ValueError(f"threshold must be above 0, got {threshold_log_e}")
    units = wins + ties + losses
    if units == 0:
        return None

    # Log wealth is convex in the number of units and begins at 0, so that it crosses
    # a threshold above 0 once, upwards.
    def reached(n: int) -> bool:
        scale = n / units
        log_e = paired_log_e(
            scale * wins,
            scale * ties,
            scale * losses,
            null_mean=null_mean,
            alternative=alternative,
        )
        return log_e >= threshold_log_e

    return _first(reached, at_most)


def quantile_pairs_needed(
    baseline: ArrayLike,
    candidate: ArrayLike,
    *,
    p: float,
    ratio: float,
    alpha: float,
    hypothesis: Hypothesis,
    at_most: int = 10_000_000,
) -> int | None:
    """Return the total number of pairs at which `paired_quantile_log_e` decides.

    A projection: the pairs so far are repeated, so that counts grow in proportion and
    the confidence set narrows. None if it doesn't decide within `at_most` pairs. A
    sample too small for a finite confidence set knows nothing of its own tail: the
    answer is then at least the number of pairs that a finite set needs, and exactly
    that number if the sample by itself (perhaps empty) points nowhere.

    Raises:
        ValueError: as `paired_quantile_log_e`.
    """
    pairs = Pairs.of(baseline, candidate)
    threshold = paired_threshold(alpha)

    def ranks_of(n: int) -> tuple[int, int]:
        return quantile_ranks(n, p, alpha=set_alpha(alpha))

    def finite(n: int) -> bool:
        lower, upper = ranks_of(n)
        return lower >= 1 and upper <= n

    def decided(n: int) -> bool:
        lower, upper = (-(-rank * pairs.size // n) for rank in ranks_of(n))
        # Rank 0 and n + 1 become 0 and size + 1: a set without an end stays one.
        log_e = pairs.log_e(ratio, (lower, upper), hypothesis, copies=n / pairs.size)
        return log_e >= threshold

    least = _first(finite, at_most)
    if least is None or not pairs.size:
        return least
    needed = _first(decided, at_most)
    return least if needed is None and not finite(pairs.size) else needed


def _first(reached: Callable[[int], bool], at_most: int) -> int | None:
    """Return the least n from 1 to at_most that is reached, as is all beyond it."""
    if at_most < 1 or not reached(at_most):
        return None
    before, n = 0, at_most
    while n - before > 1:
        middle = (before + n) // 2
        if reached(middle):
            n = middle
        else:
            before = middle
    return n
