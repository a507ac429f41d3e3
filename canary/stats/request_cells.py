"""The paired quantile test on a grid with single requests as units, by counts alone."""

import math

import numpy as np

from canary.stats.betting import Floats, log_threshold
from canary.stats.cells import (
    Geometry,
    Interval,
    QuantileLook,
    counts_up_to,
    stake_mixture,
)
from canary.stats.grid import STEP, Ints
from canary.stats.onset import onset_mixture
from canary.stats.ranks import log_mixture
from canary.stats.sign import sign_log_e

# From 2e-9 to 1e15 lie all times in seconds, sizes in bytes and numbers of tokens.
_LOWEST, _HIGHEST = -20.0, 35.0


class RequestCells:
    """Counts of requests per cell and stretch of time, and the evidence in them.

    Args:
        p: The quantile.
        ratio: The limit.
        set_alpha: What the baseline's confidence set may miss with, for the evidence
            that the limit holds and for the evidence that it is broken.
        discrete: Whether many requests share a value (`canary.stats.cells`).

    Assumes independent requests. The confidence set is that of
    `canary.stats.quantile_ranks`, with counts for ranks.
    """

    def __init__(
        self,
        *,
        p: float,
        ratio: float,
        set_alpha: tuple[float, float],
        discrete: bool,
    ) -> None:
        self.geometry = Geometry.of(ratio)
        self._p = p
        self._discrete = discrete
        width = self.geometry.width * STEP
        self._first = math.floor(_LOWEST / width)
        self._cells = math.ceil(_HIGHEST / width) - self._first
        self._thresholds = [log_threshold(alpha) for alpha in set_alpha]
        self.sets = [Interval(), Interval()]
        self._stretches: list[Ints] = []
        self._offered: list[int] = []
        self._total = np.zeros((6, self._cells), np.int64)

    @property
    def requests(self) -> int:
        """How many pairs have been counted."""
        return sum(self._offered)

    @property
    def set_points(self) -> tuple[int, int] | None:
        """The grid points around the quantile, for evidence that the limit holds."""
        lower, upper = self.sets[0].lower, self.sets[0].upper
        if lower is None or upper is None or upper <= lower:
            return None
        return lower + self._first, upper + self._first

    def add(self, baseline: Ints, candidate: Ints, stretch: Ints) -> None:
        """Count pairs of bins, shape (n,) each, and the stretch each belongs to."""
        for index in range(int(stretch.max(initial=-1)) + 1):
            if index == len(self._stretches):
                self._stretches.append(np.zeros((6, self._cells), np.int64))
                self._offered.append(0)
            here = stretch == index
            if here.any():
                counted = self._counted(baseline[here], candidate[here])
                self._stretches[index] += counted
                self._offered[index] += int(here.sum())
                self._total += counted

    def _counted(self, baseline: Ints, candidate: Ints) -> Ints:
        """Cumulative counts per cell: A and B and both, for each of the two questions.

        Rows: A <= g_i; A <= g_i+1; B <= r g_i; A <= g_i+1 and B <= r g_i; B <= r g_i+1;
        A <= g_i and B <= r g_i+1.
        """
        a = self.geometry.baseline(baseline)
        hold = self.geometry.candidate_hold(candidate)
        broken = self.geometry.candidate_broken(candidate) - 1
        rows = (a, a - 1, hold, np.maximum(a - 1, hold), broken, np.maximum(a, broken))
        return np.array([counts_up_to(row, self._first, self._cells) for row in rows])

    def look(self) -> QuantileLook:
        """Return the evidence so far."""
        if not self._stretches:
            return QuantileLook(hold=None, broken=None)
        self._narrow(self._total[0])
        return QuantileLook(hold=self._hold(), broken=self._broken())

    def _narrow(self, at_most: Ints) -> None:
        """Bound the quantile: cells' ends with too few, or too many, values below."""
        n, p = self.requests, self._p
        counts = at_most[np.append(True, np.diff(at_most) > 0)]
        log_e = log_mixture(counts, n, p)
        for kept, threshold in zip(self.sets, self._thresholds, strict=True):
            shown = log_e >= threshold
            few, many = shown & (counts < p * n), shown & (counts > p * n)
            lower = upper = None
            if few.any():
                most = counts[few].max()
                lower = int(np.searchsorted(at_most, most, side="right")) - 1
            if many.any():
                upper = int(np.searchsorted(at_most, counts[many].min()))
            kept.narrow(lower, upper)

    def _hold(self) -> float | None:
        if not self.sets[0].finite:
            return None
        counts = self._total[:, self.sets[0].cells()].astype(np.float64)
        _, a, b, both, _, _ = counts
        paired = sign_log_e(b - both, a - both)
        single = None
        if self._discrete:
            single = share_log_e(b, self.requests - b, p=self._p, more=True)
        return float(stake_mixture(paired, single).min())

    def _broken(self) -> float | None:
        if not self.sets[1].finite:
            return None
        cells = self.sets[1].cells()
        stretches = np.array([counts[:, cells] for counts in self._stretches], float)
        since = np.cumsum(stretches[::-1], axis=0)[::-1]
        a, _, _, _, b, both = np.moveaxis(since, 1, 0)
        shape = a.shape
        paired = sign_log_e((a - both).ravel(), (b - both).ravel()).reshape(shape)
        single = None
        if self._discrete:
            offered = np.cumsum(self._offered[::-1])[::-1][:, None]
            single = share_log_e(b, offered - b, p=self._p, more=False)
        return float(onset_mixture(stake_mixture(paired, single)).min())


def share_log_e(inside: Floats, outside: Floats, *, p: float, more: bool) -> Floats:
    """Return the log evidence that more (or less) than a share p is inside.

    Beta(1, 1) bets on one side: wealth 1 + u (1 - p) / p for a hit and 1 - u for a
    miss, averaged over u in (0, 1) on 100 points.
    """
    if not more:
        inside, outside, p = outside, inside, 1 - p
    u = (np.arange(100) + 0.5) / 100
    log_wealth = inside[..., None] * np.log1p(u * (1 - p) / p)
    log_wealth = log_wealth + outside[..., None] * np.log1p(-u)
    largest = log_wealth.max(axis=-1)
    return np.asarray(
        largest + np.log(np.exp(log_wealth - largest[..., None]).mean(axis=-1))
    )
