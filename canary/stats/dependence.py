"""How long blocks of time must be for their means to be nearly independent.

What is bet on must, given all earlier, be on the null's side; single requests that
share a queue, a neighbour's noise or a session are not. Means over blocks that are long
against the dependence nearly are. See Carlstein, "The use of subseries values for
estimating the variance of a general statistic from a stationary sequence", Annals of
Statistics 1986, for why non-overlapping blocks keep what matters.
"""

import math

import numpy as np

from canary.stats.betting import Floats

NEARLY_UNCORRELATED = 0.1
"""Lag-1 correlation below which neighbouring blocks count as independent."""

LEAST_BLOCKS = 16
"""With fewer blocks a correlation says nothing."""


def lag_1(series: Floats) -> float:
    """Return the correlation of neighbours in a series, shape (n,).

    0 where nothing varies: equal values have nothing in common but themselves.
    """
    if len(series) < 3:
        return 0.0
    centred = series - series.mean()
    variance = float(centred @ centred)
    if variance <= 1e-12 * len(series):
        return 0.0
    return float(centred[1:] @ centred[:-1]) / variance


def doublings_needed(sums: Floats, counts: Floats) -> int:
    """Return how often base blocks must be doubled to be nearly uncorrelated.

    Args:
        sums: The sum over each base block in order of time, shape (series, blocks);
            of several series the most dependent decides.
        counts: The number of requests in each base block, shape (blocks,).

    The least level of which neighbouring means correlate by less than 0.1, and none of
    the coarser levels by significantly more: weak dependence that reaches far hides
    behind the noise of short blocks and shows in long ones. Levels with fewer than 16
    blocks are not looked at; where the coarsest that is still correlates, the answer
    is one level more.
    """
    doublings = found = 0
    while True:
        kept = counts > 0
        blocks = int(kept.sum())
        if blocks < LEAST_BLOCKS:
            return found
        allowed = NEARLY_UNCORRELATED
        if found < doublings:
            allowed += 2 / math.sqrt(blocks)
        means = sums[:, kept] / counts[kept]
        doublings += 1
        if max(lag_1(series) for series in means) >= allowed:
            found = doublings
        sums, counts = _halved(sums), _halved(counts[None])[0]


def grown(series: Floats) -> bool:
    """Return whether blocks have been shown to correlate by more than 0.1.

    By more than chance explains, that is: by 2 / sqrt(n) beyond it.
    """
    allowed = NEARLY_UNCORRELATED + 2 / math.sqrt(max(len(series), 1))
    return len(series) >= LEAST_BLOCKS and lag_1(series) > allowed


def effective_units(series: Floats, counts: Floats, variance: float) -> float | None:
    """Return how many independent requests the blocks are worth.

    Args:
        series: Block means, shape (blocks,).
        counts: Requests in each, shape (blocks,).
        variance: Variance of a single request's value.

    The requests' number divided by the design effect: the variance of block means over
    that of means of as many independent requests (Kish, "Survey sampling", 1965). At
    most the number of requests. None while there are too few blocks to tell.
    """
    if len(series) < LEAST_BLOCKS:
        return None
    total = float(counts.sum())
    expected = variance * float((1 / counts).mean())
    if expected <= 0:
        return total
    return total / max(float(series.var(ddof=1)) / expected, 1.0)


def _halved(rows: Floats) -> Floats:
    """Add neighbours up; an odd last block stands alone and is left out."""
    even = rows[:, : rows.shape[1] // 2 * 2]
    return np.asarray(even[:, ::2] + even[:, 1::2])
