"""Evidence about a mean difference that grows unit by unit.

Two forms: units of which each is a win, a tie or a loss are counted; other values are
bet on and forgotten. Both begin anew at doubling times, for harm that begins late.
"""

import math
from collections.abc import Callable

import numpy as np

from canary.stats.betting import (
    Alternative,
    Floats,
    betting_mean_bounds,
    log_e_of_counts,
    log_mean_exp,
    log_wealth_of,
    paired_mean_bounds,
)
from canary.stats.grid import Ints
from canary.stats.onset import onset_mixture

_AT_MOST_COPIES = 1e6


class CountTally:
    """Wins, ties and losses per stretch of time; of what is in (-1, 1), `null_mean`."""

    def __init__(self, null_mean: float) -> None:
        self._null_mean = null_mean
        self._counts = np.zeros((0, 3), np.int64)

    def add(self, wins: Ints, ties: Ints, losses: Ints, stretch: Ints) -> None:
        """Count units, shape (n,) each, and the stretch that each belongs to."""
        missing = int(stretch.max(initial=-1)) + 1 - len(self._counts)
        if missing > 0:
            self._counts = np.vstack([self._counts, np.zeros((missing, 3), np.int64)])
        np.add.at(self._counts, stretch, np.column_stack([wins, ties, losses]))

    def log_e_hold(self) -> float:
        """Return the evidence that the mean is above the null's."""
        return float(self._log_e(self._counts.sum(axis=0)[None], "greater")[0])

    def log_e_broken(self) -> float:
        """Return the evidence that it is below, perhaps only of late."""
        if not len(self._counts):
            return 0.0
        since = np.cumsum(self._counts[::-1], axis=0)[::-1]
        return float(onset_mixture(self._log_e(since, "less")))

    def bounds(self, *, alpha: float) -> tuple[float, float]:
        """Return a lower and an upper bound of the mean, each one-sided at alpha."""
        wins, ties, losses = self._counts.sum(axis=0)
        return paired_mean_bounds(wins, ties, losses, alpha=alpha)

    def copies_needed(self, threshold: float, *, holding: bool) -> float | None:
        """Return how many times the units so far would show one or the other."""
        total = self._counts.sum(axis=0)[None].astype(np.float64)

        def shown(copies: float) -> bool:
            side: Alternative = "greater" if holding else "less"
            return bool(self._log_e(copies * total, side)[0] >= threshold)

        return _least_copies(shown)

    def _log_e(self, counts: Floats | Ints, alternative: Alternative) -> Floats:
        wins, ties, losses = counts.T
        null_mean = self._null_mean
        return log_e_of_counts(
            wins, ties, losses, null_mean=null_mean, alternative=alternative
        )


class ValueTally:
    """What bettors have made of values in [-1, 1], per stretch of time.

    Args:
        null_mean: What the mean is compared with.
        shares: The bettors (`canary.stats.betting`).
    """

    def __init__(self, null_mean: float, shares: Floats) -> None:
        self._null_mean = null_mean
        self._shares = shares
        self._hold = np.zeros(len(shares))
        self._broken: list[Floats] = []
        self._values: list[Floats] = []

    def add(self, values: Floats, stretch: Ints) -> None:
        """Bet on values, shape (n,), and the stretch that each belongs to."""
        self._values.append(values)
        for index in np.unique(stretch):
            while len(self._broken) <= index:
                self._broken.append(np.zeros(len(self._shares)))
            here = values[stretch == index]
            self._hold += self._log_wealth(here, self._null_mean)
            self._broken[index] += self._log_wealth(-here, -self._null_mean)

    @property
    def values(self) -> Floats:
        """All values so far, in the order in which they came."""
        self._values = [np.concatenate([np.empty(0), *self._values])]
        return self._values[0]

    def log_e_hold(self) -> float:
        """Return the evidence that the mean is above the null's."""
        return float(log_mean_exp(self._hold))

    def log_e_broken(self) -> float:
        """Return the evidence that it is below, perhaps only of late."""
        if not self._broken:
            return 0.0
        since = np.cumsum(np.array(self._broken)[::-1], axis=0)[::-1]
        return float(onset_mixture(log_mean_exp(since)))

    def bounds(self, *, alpha: float) -> tuple[float, float]:
        """Return a lower and an upper bound of the mean, each one-sided at alpha."""
        return betting_mean_bounds(
            self.values, low=-1.0, high=1.0, alpha=alpha, shares=self._shares
        )

    def copies_needed(self, threshold: float, *, holding: bool) -> float | None:
        """Return how many times the values so far would show one or the other."""
        log_wealth = self._hold if holding else np.sum(self._broken, axis=0)
        return copies_of(np.asarray(log_wealth), threshold)

    def _log_wealth(self, values: Floats, null_mean: float) -> Floats:
        return log_wealth_of(values, null_mean, -1.0, self._shares)


def copies_of(log_wealth: Floats, threshold: float) -> float | None:
    """Return how many times as much evidence of the same kind reaches a threshold."""

    def shown(copies: float) -> bool:
        return bool(log_mean_exp(copies * log_wealth) >= threshold)

    return _least_copies(shown)


def _least_copies(shown: Callable[[float], bool]) -> float | None:
    """Bisect on a log scale, to a thousandth; None if a million copies don't do."""
    low, high = 1e-3, _AT_MOST_COPIES
    if not shown(high):
        return None
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if shown(middle) else (middle, high)
    return high
