"""The paired quantile test on a grid with single requests as units, by counts alone."""

import numpy as np

from canary.stats.betting import Floats, log_threshold
from canary.stats.cells import (
    Geometry,
    Interval,
    QuantileLook,
    counts_up_to,
    stake_mixture,
)
from canary.stats.grid import INFINITE_BIN, ZERO_BIN, Ints
from canary.stats.onset import onset_mixture
from canary.stats.ranks import log_mixture
from canary.stats.sign import sign_log_e

_CELLS_IN_MARGIN = 100
"""Counting costs little, so that cells can be finer than where each is bet on."""

_ROOM = 256  # cells beside the values, so that room isn't made again and again


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
        self.geometry = Geometry.of(ratio, cells_in_margin=_CELLS_IN_MARGIN)
        self._p = p
        self._discrete = discrete
        self._first = self._cells = 0
        self._thresholds = [log_threshold(alpha) for alpha in set_alpha]
        self.sets = [Interval(), Interval()]
        self._stretches: list[Ints] = []
        self._offered: list[int] = []
        self._total = np.zeros((6, 0), np.int64)

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
        return lower, upper

    def add(self, baseline: Ints, candidate: Ints, stretch: Ints) -> None:
        """Count pairs of bins, shape (n,) each, and the stretch each belongs to."""
        points = self._points(baseline, candidate)
        self._cover(points)
        for index in range(int(stretch.max(initial=-1)) + 1):
            if index == len(self._stretches):
                self._stretches.append(np.zeros((6, self._cells), np.int64))
                self._offered.append(0)
            here = stretch == index
            if here.any():
                counted = np.array(
                    [
                        counts_up_to(row, self._first, self._cells)
                        for row in points.T[here].T
                    ]
                )
                self._stretches[index] += counted
                self._offered[index] += int(here.sum())
                self._total += counted

    def _cover(self, points: Ints) -> None:
        """Make room for cells that no value was in so far.

        To the left of all values only those of 0 count, to the right all finite ones.
        """
        finite = points[(points > ZERO_BIN + 1) & (points < INFINITE_BIN - 1)]
        if not finite.size:
            if self._cells:
                return
            finite = np.zeros(1, np.int64)  # zeros count from now on, wherever
        if not self._cells:
            self._first = int(finite[0])
        left = max(self._first - int(finite.min()) + _ROOM, 0)
        right = max(int(finite.max()) - (self._first + self._cells) + _ROOM, 0)
        if int(finite.min()) > self._first and int(finite.max()) < (
            self._first + self._cells
        ):
            return
        self._first -= left
        self._cells += left + right
        self._total = _widened(self._total, left, right)
        self._stretches = [_widened(some, left, right) for some in self._stretches]

    def _points(self, baseline: Ints, candidate: Ints) -> Ints:
        """Where each pair begins to count, as A and B and both, for both questions.

        Rows: A <= g_i; A <= g_i+1; B <= r g_i; A <= g_i+1 and B <= r g_i; B <= r g_i+1;
        A <= g_i and B <= r g_i+1.
        """
        a = self.geometry.baseline(baseline)
        hold = self.geometry.candidate_hold(candidate)
        broken = self.geometry.candidate_broken(candidate) - 1
        rows = (a, a - 1, hold, np.maximum(a - 1, hold), broken, np.maximum(a, broken))
        return np.array(rows)

    def look(self) -> QuantileLook:
        """Return the evidence so far."""
        if not self._cells:
            return QuantileLook(hold=None, broken=None)
        self.sets = [Interval(), Interval()]  # of now: who looked when changes nothing
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
                lower += self._first
            if many.any():
                upper = int(np.searchsorted(at_most, counts[many].min())) + self._first
            kept.narrow(lower, upper)

    def _inside(self, which: int) -> slice:
        cells = self.sets[which].cells()
        return slice(cells.start - self._first, cells.stop - self._first)

    def _hold(self) -> float | None:
        if not self.sets[0].finite:
            return None
        counts = self._total[:, self._inside(0)].astype(np.float64)
        _, a, b, both, _, _ = counts
        paired = sign_log_e(b - both, a - both)
        single = None
        if self._discrete:
            single = share_log_e(b, self.requests - b, p=self._p, more=True)
        return float(stake_mixture(paired, single).min())

    def _broken(self) -> float | None:
        if not self.sets[1].finite:
            return None
        cells = self._inside(1)
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


def _widened(counts: Ints, left: int, right: int) -> Ints:
    """Add cells: on the left with what counts everywhere, on the right with all."""
    if not counts.shape[1]:
        return np.zeros((len(counts), left + right), np.int64)
    return np.pad(counts, ((0, 0), (left, right)), mode="edge")


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
