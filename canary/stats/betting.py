"""Evidence about the mean of bounded values by betting against it.

A bettor starts with wealth 1 and before each value stakes a fixed share u of it on
"the mean is above m". With z = (y - low) / (m - low) wealth becomes 1 - u + u z times
what it was. If the conditional mean of every value is at most m, wealth can't be
expected to grow, whatever was seen before; the average over many u is an e-process,
and by Ville's inequality it ever reaches 1/alpha with probability at most alpha. So one
may look at any time and as often as one likes.

Sources: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by
betting", JRSS-B 2024 (capital process eq. 22, grid of bets section 4.4); the average
over a uniform grid is Cover's universal portfolio and Robbins' mixture.
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

Floats = NDArray[np.float64]
Alternative = Literal["greater", "less"]

# Midpoints of a uniform grid of shares of what may be staked: u = (j - 1/2) / J.
SHARES: Floats = (np.arange(1000) + 0.5) / 1000
SHARES.flags.writeable = False
FEWER_SHARES: Floats = (np.arange(100) + 0.5) / 100
"""For many values that all differ, as means over blocks do."""
FEWER_SHARES.flags.writeable = False
_ROWS_AT_ONCE = 2048  # times 1000 shares of 8 bytes: 16 MB of scratch


def paired_log_e(
    wins: float,
    ties: float,
    losses: float,
    *,
    null_mean: float = 0.0,
    alternative: Alternative = "greater",
) -> float:
    """Return the log e-value against a mean paired difference, from its counts.

    Each unit has d = +1 (a win of the candidate), 0 or -1. "greater" is evidence
    against E[d] <= null_mean, "less" against E[d] >= null_mean. It depends on the
    three counts only, so their order and the looks in between don't matter. Assumes
    that each unit's mean, given all earlier units, is on the null's side (which
    independent units of one population fulfil).

    Raises:
        ValueError: a count below 0 or not finite, a null mean outside (-1, 1), or an
            unknown alternative.
    """
    counts = (np.array([wins]), np.array([ties]), np.array([losses]))
    return float(
        log_e_of_counts(*counts, null_mean=null_mean, alternative=alternative)[0]
    )


def log_e_of_counts(
    wins: ArrayLike,
    ties: ArrayLike,
    losses: ArrayLike,
    *,
    null_mean: float = 0.0,
    alternative: Alternative = "greater",
) -> Floats:
    """Return `paired_log_e` for many counts at once, shape (n,) each.

    Counts may be fractions, so that planning can scale them.
    """
    wins, ties, losses = (np.asarray(c, dtype=np.float64) for c in (wins, ties, losses))
    for counts in (wins, ties, losses):
        if not np.all(np.isfinite(counts) & (counts >= 0)):
            raise ValueError("counts must be finite and at least 0")
    check_null_mean(null_mean, -1.0, 1.0)
    if reflects(alternative):
        wins, losses, null_mean = losses, wins, -null_mean
    down, same, up = _log_factors(np.array([-1.0, 0.0, 1.0]), null_mean, -1.0)
    log_wealth = losses[:, None] * down
    log_wealth += ties[:, None] * same
    log_wealth += wins[:, None] * up
    return log_mean_exp(log_wealth)


def paired_mean_bounds(
    wins: float, ties: float, losses: float, *, alpha: float
) -> tuple[float, float]:
    """Return a lower and an upper bound for E[d], each one-sided at `alpha`.

    All means up to the lower bound are rejected by `paired_log_e`, all from the upper
    bound on likewise, so each bound holds at all times at once with probability
    1 - alpha. (-1, 1) when nothing is known.

    Raises:
        ValueError: as `paired_log_e`, or alpha outside (0, 1).
    """

    def excess(mean: float, alternative: Alternative) -> float:
        return paired_log_e(
            wins, ties, losses, null_mean=mean, alternative=alternative
        ) - log_threshold(alpha)

    units = wins + ties + losses
    mean = (wins - losses) / units if units else 0.0
    return (
        last_rejected(lambda m: excess(m, "greater"), -1.0, mean),
        last_rejected(lambda m: excess(m, "less"), 1.0, mean),
    )


def betting_log_e(
    values: ArrayLike,
    *,
    null_mean: float,
    low: float,
    high: float,
    alternative: Alternative = "greater",
) -> float:
    """Return the log e-value against a mean of values in [low, high], shape (n,).

    "greater" is evidence against a mean <= null_mean, "less" against a mean >=
    null_mean. Equals `paired_log_e` for values of -1, 0 and 1; costs O(distinct
    values). Assumes, as `paired_log_e`, that each value's mean given all earlier ones
    is on the null's side.

    Raises:
        ValueError: a value that is NaN or outside [low, high], limits that aren't
            finite and in order, a null mean outside (low, high), or an unknown
            alternative.
    """
    values, null_mean = reflected(
        checked_values(values, low, high), null_mean, low, high, alternative
    )
    return float(log_mean_exp(log_wealth_of(values, null_mean, low)))


def betting_mean_bounds(
    values: ArrayLike,
    *,
    low: float,
    high: float,
    alpha: float,
    shares: Floats = SHARES,
) -> tuple[float, float]:
    """Return a lower and an upper bound for the mean, each one-sided at `alpha`.

    As `paired_mean_bounds`, for values in [low, high]; (low, high) when nothing is
    known. `shares` are the bettors.

    Raises:
        ValueError: as `betting_log_e`, or alpha outside (0, 1).
    """
    values = checked_values(values, low, high)

    def excess(mean: float, alternative: Alternative) -> float:
        sides = reflected(values, mean, low, high, alternative)
        log_wealth = log_wealth_of(*sides, low, shares)
        return float(log_mean_exp(log_wealth)) - log_threshold(alpha)

    mean = float(values.mean()) if values.size else (low + high) / 2
    return (
        last_rejected(lambda m: excess(m, "greater"), low, mean),
        last_rejected(lambda m: excess(m, "less"), high, mean),
    )


def log_threshold(alpha: float) -> float:
    """Return ln(1 / alpha), which a log e-value must reach (Ville's inequality).

    Raises:
        ValueError: alpha outside (0, 1).
    """
    return -math.log(checked_alpha(alpha))


def checked_alpha(alpha: float) -> float:
    """Return alpha, known to be in (0, 1)."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be in (0, 1), got {alpha}")
    return alpha


def check_null_mean(null_mean: float, low: float, high: float) -> None:
    """Refuse a null mean that isn't in (low, high)."""
    if not low < null_mean < high:
        raise ValueError(f"null mean must be in ({low}, {high}), got {null_mean}")


def checked_values(values: ArrayLike, low: float, high: float) -> Floats:
    """Return values as floats, all of them known to be in [low, high]."""
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"low must be below high, both finite: {low=}, {high=}")
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"expected a flat array, got shape {values.shape}")
    if not np.all((low <= values) & (values <= high)):
        raise ValueError(f"values must be in [{low}, {high}] and not NaN")
    return values


def reflects(alternative: Alternative) -> bool:
    """Return whether an alternative asks "greater" of the reflected values."""
    if alternative not in ("greater", "less"):
        raise ValueError(f"alternative must be greater or less, got {alternative!r}")
    return alternative == "less"


def reflected(
    values: Floats,
    null_mean: float,
    low: float,
    high: float,
    alternative: Alternative,
) -> tuple[Floats, float]:
    """Return values and null mean such that "greater" asks what `alternative` asks."""
    if reflects(alternative):
        values, null_mean = low + high - values, low + high - null_mean
    check_null_mean(null_mean, low, high)
    return values, null_mean


def log_wealth_of(
    values: Floats, null_mean: float, low: float, shares: Floats = SHARES
) -> Floats:
    """Return the log wealth of the bettor of each share, shape (shares,).

    Sums in the order of the distinct values, so that the result doesn't depend on the
    order of arrival, not even in the last bit.
    """
    distinct, counts = np.unique(values, return_counts=True)
    log_wealth = np.zeros(shares.size)
    for start in range(0, distinct.size, _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        log_factors = _log_factors(distinct[rows], null_mean, low, shares)
        log_wealth += (counts[rows, None] * log_factors).sum(axis=0)
    return log_wealth


def log_mean_exp(log_wealth: Floats) -> Floats:
    """Return the log of the average wealth over the last axis."""
    largest = log_wealth.max(axis=-1, keepdims=True)
    mean = np.exp(log_wealth - largest).mean(axis=-1)
    return np.asarray(largest[..., 0] + np.log(mean))


def last_rejected(excess: Callable[[float], float], end: float, mean: float) -> float:
    """Return the mean nearest to the given one that is rejected, else `end`.

    `excess` is a log e-value less its threshold, and below 0 at `mean`. The bets' share
    of the room below m makes it monotone in m: one crossing lies in between.
    """
    nearly_end = end + 1e-12 * (mean - end)
    nearly_mean = mean + 1e-12 * (end - mean)
    if nearly_end == end or excess(nearly_end) < 0:
        return float(end)
    crossing = brentq(excess, nearly_end, nearly_mean, xtol=1e-12, rtol=1e-12)
    return float(crossing)


def _log_factors(
    values: Floats, null_mean: float, low: float, shares: Floats = SHARES
) -> Floats:
    gain = (values - null_mean) / (null_mean - low)
    return np.log1p(gain[:, None] * shares)
