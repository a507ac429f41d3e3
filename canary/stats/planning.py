"""How much evidence a decision needs: from what came so far, or from assumptions."""

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

from canary.stats.betting import (
    Alternative,
    check_null_mean,
    checked_alpha,
    log_e_of_counts,
    log_threshold,
    paired_log_e,
    reflects,
)
from canary.stats.quantiles import Hypothesis, Pairs, paired_threshold, set_alpha
from canary.stats.ranks import quantile_ranks

_AT_MOST = 10_000_000
_RUNS = 1000
_LOOKS_GROW = 1.05


def pairs_needed(
    *,
    wins: float,
    ties: float,
    losses: float,
    null_mean: float,
    alternative: Alternative,
    threshold_log_e: float,
    at_most: int = _AT_MOST,
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
    # Refuses what has no meaning, also where there is nothing to project from.
    paired_log_e(wins, ties, losses, null_mean=null_mean, alternative=alternative)
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


def least_units(max_gain: float, *, alpha: float) -> int | None:
    """Return how many units it takes if every one of them is as good as can be.

    `max_gain` is the most that one unit can win of what is staked on it: for values of
    at most y above `low`, and a null mean m, (y - m) / (m - low). For a margin of 1 %
    without any loss or win that is 0.01 / 0.99; for the 99 % quantile, where a block's
    mean is above 0 by 1 % at most, 0.01. About 4.5 / max_gain at alpha = 5 %. None if
    it takes more than ten million. The bets are those of `paired_log_e`.

    Raises:
        ValueError: a gain that isn't above 0 and finite, or alpha outside (0, 1).
    """
    if not 0 < max_gain < math.inf:
        raise ValueError(f"gain must be above 0 and finite, got {max_gain}")
    # Against this null mean a tie gains as much.
    return pairs_needed(
        wins=0,
        ties=1,
        losses=0,
        null_mean=-max_gain / (1 + max_gain),
        alternative="greater",
        threshold_log_e=log_threshold(alpha),
    )


def units_needed_simulated(
    win: float,
    loss: float,
    *,
    null_mean: float,
    alpha: float,
    power: float,
    seed: int,
    alternative: Alternative = "greater",
) -> int | None:
    """Return by how many units `paired_log_e` decides with a chance of `power`.

    Units are independent: a win with chance `win`, a loss with chance `loss`, or a tie.
    Where `pairs_needed` follows the average course, this lets 1000 runs take theirs,
    with a look whenever units have grown by 5 %, until a share `power` of them has
    reached ln(1/alpha): within about a tenth of the number that looks at every unit
    would give. None where the mean is on the null's side, or beyond ten million units.

    Raises:
        ValueError: chances below 0 or together above 1, alpha outside (0, 1), power
            outside (alpha, 1), or as `paired_log_e`.
    """
    if not (min(win, loss) >= 0 and win + loss <= 1):
        raise ValueError(f"need chances of a win and of a loss: {win=}, {loss=}")
    _check_power(power, alpha)
    check_null_mean(null_mean, -1.0, 1.0)
    if reflects(alternative):
        win, loss, null_mean = loss, win, -null_mean
    if win - loss <= null_mean:
        return None
    generator = np.random.default_rng(seed)
    chances = [win, max(1 - win - loss, 0.0), loss]
    undecided, before = np.zeros((_RUNS, 3)), 0
    for units in _looks(win, null_mean, alpha):
        undecided += generator.multinomial(units - before, chances, len(undecided))
        log_e = log_e_of_counts(*undecided.T, null_mean=null_mean)
        undecided, before = undecided[log_e < log_threshold(alpha)], units
        if _RUNS - len(undecided) >= power * _RUNS:
            return units
    return None


def fixed_pairs_needed(
    *,
    discordance: float,
    margin: float,
    difference: float = 0.0,
    alpha: float,
    power: float = 0.8,
    design_effect: float = 1.0,
) -> int | None:
    """Return how many pairs show at one planned look that a margin is kept.

    With a share `discordance` = c of pairs that only one arm gets right, and a true
    `difference` D of the arms' shares, at one-sided alpha and with a chance of `power`:

        design_effect (z_(1 - alpha) + z_power)^2 (c - D^2) / (margin + D)^2,

    as c - D^2 is the variance of a paired difference. Clusters of k pairs that
    correlate by r have a design effect of 1 + (k - 1) r (Kish, "Survey Sampling",
    1965). None where the difference breaks the margin. Approximate: assumes enough
    pairs for a normal distribution. Looks at any time cost two to three times as many
    (`units_needed_simulated`).

    Raises:
        ValueError: discordance outside (0, 1], a difference beyond it, a margin outside
            [0, 1], a design effect that isn't above 0 and finite, alpha outside (0, 1),
            or power outside (alpha, 1).
    """
    if not (0 < discordance <= 1 and abs(difference) <= discordance):
        raise ValueError(
            f"need |difference| <= c in (0, 1]: {difference}, {discordance}"
        )
    if not (0 <= margin <= 1 and 0 < design_effect < math.inf):
        raise ValueError(f"need a margin in [0, 1] and {design_effect=} > 0: {margin=}")
    _check_power(power, alpha)
    if difference <= -margin:
        return None
    z = norm.isf(alpha) + norm.ppf(power)
    variance = discordance - difference**2
    pairs = design_effect * variance * (z / (margin + difference)) ** 2
    return max(math.ceil(pairs), 1)


def quantile_pairs_needed(
    baseline: ArrayLike,
    candidate: ArrayLike,
    *,
    p: float,
    ratio: float,
    alpha: float,
    hypothesis: Hypothesis,
    at_most: int = _AT_MOST,
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

    # Refuses what has no meaning, also where there is nothing to project from.
    pairs.log_e(ratio, ranks_of(pairs.size), hypothesis)
    least = _first(finite, at_most)
    if least is None or not pairs.size:
        return least
    needed = _first(decided, at_most)
    return least if needed is None and not finite(pairs.size) else needed


def _looks(win: float, null_mean: float, alpha: float) -> Iterator[int]:
    """Yield growing numbers of units, from the least that can be evidence enough on."""
    best = 1.0 if win > 0 else 0.0
    units = least_units((best - null_mean) / (1 + null_mean), alpha=alpha)
    while units is not None and units <= _AT_MOST:
        yield units
        units = math.ceil(_LOOKS_GROW * units)


def _check_power(power: float, alpha: float) -> None:
    """Refuse a power that isn't in (alpha, 1), or an alpha that isn't in (0, 1)."""
    if not checked_alpha(alpha) < power < 1:
        raise ValueError(f"power must be in ({alpha}, 1), got {power}")


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
