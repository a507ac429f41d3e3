"""Evidence for harm that may begin late: a leak, a drift on day five."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from canary.stats.betting import (
    Alternative,
    Floats,
    checked_values,
    log_mean_exp,
    log_wealth_of,
    reflected,
)


def late_onset_log_e(
    values: ArrayLike,
    *,
    null_mean: float,
    low: float,
    high: float,
    alternative: Alternative = "greater",
) -> float:
    """Return the log e-value of bets that begin anew at doubling numbers of values.

    `betting_log_e` over all values dilutes harm that begins late, as it first has to
    win back what it lost. Here bets begin before the first value and after 1, 2, 4, 8,
    ... values; the j-th has weight 6 / (pi^2 j^2), and what hasn't begun yet counts as
    1. `values`, shape (n,), are in order of time. Whatever the moment, some bet began
    when at most as many values had gone by as before it, and at a price of about
    2 ln(log2(n) + 1) + 0.5 in the log.

    A weighted mean of e-processes whose weights and beginnings were fixed beforehand
    is an e-process (compare the mixtures of Shin, Ramdas and Rinaldo, "E-detectors",
    2022), under the assumption of `betting_log_e`.

    Raises:
        ValueError: as `betting_log_e`.
    """
    values, null_mean = reflected(
        checked_values(values, low, high), null_mean, low, high, alternative
    )
    doublings = max(values.size - 1, 0).bit_length()
    starts = [0, *(2**j for j in range(doublings))]
    stretches = np.split(values, starts[1:])
    log_wealth = np.array(
        [log_wealth_of(stretch, null_mean, low) for stretch in stretches]
    )
    since_start = np.cumsum(log_wealth[::-1], axis=0)[::-1]
    return float(onset_mixture(log_mean_exp(since_start)))


def onset_mixture(log_e_since: Floats) -> Floats:
    """Return the log e-value of bets that began at several times, shape (starts, ...).

    `log_e_since[j]` is what bets that began at the j-th time have made of 1. The j-th
    has weight 6 / (pi^2 j^2), counted from 1; the weights of all times to come count
    as 1 each, so that the sum stays an e-process as times are added.
    """
    starts = len(log_e_since)
    weights = 6 / (math.pi * np.arange(1, starts + 1)) ** 2
    begun = np.logaddexp.reduce(
        (np.log(weights) + np.moveaxis(log_e_since, 0, -1)), axis=-1
    )
    return np.asarray(np.logaddexp(begun, math.log1p(-weights.sum())))


def stretch_of(blocks: ArrayLike) -> NDArray[np.int64]:
    """Return in which stretch between two starts each block lies, shape (n,).

    Starts are before block 0 and after 1, 2, 4, 8, ... blocks: stretch 0 is block 0,
    stretch 1 block 1, stretch 2 blocks 2 and 3, and so on.
    """
    blocks = np.asarray(blocks, dtype=np.int64)
    return np.frexp(blocks.astype(np.float64))[1].astype(np.int64)
