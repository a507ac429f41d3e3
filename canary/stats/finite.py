"""Evidence about the mean of a finite set whose items are answered in random order.

A validation set of N items may itself be the question: not how a population would be
answered, but how these N are. Each item that is answered then narrows down the rest:
if the mean of all is m, and the values so far sum to S, then the items left have the
mean m_t = (N m - S) / (N - t + 1). Betting against m_t instead of m gains faster than
betting against a population, and is exact once all items are answered.

The order must be drawn at random, all N! orders being equally likely, and not depend on
the answers: the order in which items are asked, not that in which answers come back.

Sources: Waudby-Smith and Ramdas, "Confidence sequences for sampling without
replacement", NeurIPS 2020, and "Estimating means of bounded random variables by
betting", JRSS-B 2024, section 5; the bets are those of `canary.stats.betting`.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from canary.stats.betting import (
    SHARES,
    Alternative,
    Floats,
    checked_values,
    last_rejected,
    log_mean_exp,
    log_threshold,
    reflected,
)

_ROUNDING = 1e-11  # of the range, up to which two means count as equal
_FACTORS_PER_LOG = 16
_ROWS_AT_ONCE = 128  # times 1000 shares of 8 bytes: 1 MB of scratch
_LARGE = 50.0  # beyond this distance from a threshold only the sign matters


def finite_log_e(
    values: ArrayLike,
    *,
    total: int,
    null_mean: float,
    low: float,
    high: float,
    alternative: Alternative = "greater",
) -> float:
    """Return the log e-value against a mean of a whole set of `total` items.

    `values`, shape (n,), n <= total, in [low, high] and in the order in which they were
    drawn, are the part of the set that is known. "greater" is evidence against a mean
    of the set <= null_mean, "less" against a mean >= null_mean. Before each value the
    bettor stakes shares (j - 1/2)/1000 of all that may be staked against m_t, and the
    average wealth over the shares counts; valid at all looks at once.

    Where the values so far make the null impossible the result is inf, where they make
    it certain -inf; once all items are known it is one of the two. Means that differ
    by less than 1e-11 of the range count as equal. The order matters, as the values
    that come later are bet on knowing the earlier ones. Assumes a random order of the
    items (see the module), and nothing else. Costs O(1000 n).

    Raises:
        ValueError: more values than `total`, or as `betting_log_e`.
    """
    seen, null_mean = reflected(
        _checked_part(values, total, low, high), null_mean, low, high, alternative
    )
    return _log_e((seen - low) / (high - low), total, (null_mean - low) / (high - low))


def finite_mean_bounds(
    values: ArrayLike, *, total: int, low: float, high: float, alpha: float
) -> tuple[float, float]:
    """Return a lower and an upper bound for the mean of a whole set of `total` items.

    All means up to the lower bound are rejected by `finite_log_e`, all from the upper
    bound on likewise, so each bound holds at all looks at once with probability
    1 - alpha, if the items' order is random. No wider than if all items that are left
    had the value `low`, or all `high`; both bounds are the mean once all are known.
    (In an order that isn't random the lower bound can come out above the upper one.)

    Raises:
        ValueError: as `finite_log_e`, or alpha outside (0, 1).
    """
    seen = _checked_part(values, total, low, high)
    threshold = log_threshold(alpha)
    if seen.size == total:
        mean = float(seen.mean())
        return mean, mean
    lower = _lower_bound((seen - low) / (high - low), total, threshold)
    upper = _lower_bound((high - seen) / (high - low), total, threshold)
    return low + (high - low) * lower, high - (high - low) * upper


def _checked_part(values: ArrayLike, total: int, low: float, high: float) -> Floats:
    """Return the known part of a set, no larger than the set."""
    seen = checked_values(values, low, high)
    if not max(seen.size, 1) <= total < math.inf:
        raise ValueError(f"expected at most {total} values of a set, got {seen.size}")
    return seen


def _lower_bound(seen: Floats, total: int, threshold: float) -> float:
    """Return the largest mean that is rejected, for values in [0, 1]."""
    least = float(seen.sum()) / total
    most = least + (total - seen.size) / total

    def excess(mean: float) -> float:
        log_e = _log_e(seen, total, mean)
        return min(max(log_e - threshold, -_LARGE), _LARGE)

    return last_rejected(excess, least, most)


def _log_e(seen: Floats, total: int, mean: float) -> float:
    """Return the log e-value against a mean of at most `mean`, values in [0, 1]."""
    rounding = _ROUNDING * total
    # What the items that are left may still sum to, if the null is true.
    room = total * mean - float(seen.sum())
    if room < -rounding:
        return math.inf
    if room >= total - seen.size - rounding:
        return -math.inf
    room_before = total * mean - (np.cumsum(seen) - seen)
    left = total - np.arange(seen.size)
    # Without room the null expects only zeros: nothing to win by betting on them.
    betting = room_before > rounding
    gain = seen[betting] * left[betting] / room_before[betting] - 1
    return float(log_mean_exp(_log_wealth(gain)))


def _log_wealth(gain: Floats) -> Floats:
    """Return the sum of log(1 + gain * share) for each share, shape (1000,).

    One logarithm for 16 factors, which are between 5e-4 and 1e11: their product is far
    from the ends of what a double holds.
    """
    log_wealth = np.zeros(SHARES.size)
    for start in range(0, gain.size, _ROWS_AT_ONCE * _FACTORS_PER_LOG):
        rows = gain[start : start + _ROWS_AT_ONCE * _FACTORS_PER_LOG]
        # A gain of 0 fills up what is missing to whole products.
        rows = np.pad(rows, (0, -rows.size % _FACTORS_PER_LOG))
        products = np.ones((rows.size // _FACTORS_PER_LOG, SHARES.size))
        for row in rows.reshape(_FACTORS_PER_LOG, -1):
            products *= 1 + row[:, None] * SHARES
        log_wealth += np.log(products).sum(axis=0)
    return log_wealth
