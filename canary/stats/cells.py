"""The paired quantile test on a grid: what is counted of every pair of latencies.

`canary.stats.quantiles` compares two arms at every value that the baseline's quantile x
may have. Here values are bins of `canary.stats.grid`, and x is in one of the cells
(g_i, g_i+1] of a coarser grid with a tenth of the limit's margin between neighbours.
Inside a cell the worst case counts, so that the grid costs power, never validity:

    hold    1{B <= r g_i} - 1{A <= g_i+1}   is at most   1{B <= r x} - 1{A <= x}
    broken  1{A <= g_i} - 1{B <= r g_i+1}   is at most   1{A < x} - 1{B <= r x}

The right sides have a mean of at most 0 where the limit is broken, or holds. In place
of A one may bet against p itself, 1{B <= r g_i} - p, which is what shows anything where
all requests share one value, as peak memory is; it gets a tenth of the stake.
"""

import math
from dataclasses import dataclass

import numpy as np

from canary.stats.betting import Floats
from canary.stats.grid import INFINITE_BIN, STEP, ZERO_BIN, Ints

PAIRED_STAKE = 0.9
"""What is bet on pairs where values repeat; the rest is bet on the candidate alone."""

_WIDEST = 10  # half a percent, where the limit leaves no margin to divide


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """How the bins of two arms become cells, for one ratio.

    `width` is how many bins a cell has. The ratio is rounded to whole bins, downwards
    where it has to be shown to hold, upwards where it has to be shown to be broken.
    """

    width: int
    hold_shift: int
    broken_shift: int

    @classmethod
    def of(cls, ratio: float, *, cells_in_margin: int = 10) -> "Geometry":
        """Choose cells of a tenth of the margin, or of another part.

        Raises:
            ValueError: the ratio isn't above 0 and finite.
        """
        if not 0 < ratio < math.inf:
            raise ValueError(f"ratio must be above 0 and finite, got {ratio}")
        bins = math.log(ratio) / STEP
        part = int(abs(bins) / cells_in_margin)
        return cls(
            width=part or (_WIDEST if bins == 0 else 1),
            hold_shift=math.floor(bins + 1e-9),
            broken_shift=math.ceil(bins - 1e-9),
        )

    def baseline(self, bins: Ints) -> Ints:
        """Return the first grid point that each baseline value doesn't exceed."""
        return _points(bins, 0, self.width)

    def candidate_hold(self, bins: Ints) -> Ints:
        """Return the first i with B <= r g_i."""
        return _points(bins, self.hold_shift, self.width)

    def candidate_broken(self, bins: Ints) -> Ints:
        """Return the first i with B <= r g_i, with the larger of the rounded ratios."""
        return _points(bins, self.broken_shift, self.width)


def _points(bins: Ints, shift: int, width: int) -> Ints:
    points = -((shift - bins) // width)
    points = np.where(bins >= INFINITE_BIN, INFINITE_BIN, points)
    return np.asarray(np.where(bins <= ZERO_BIN, ZERO_BIN, points))


@dataclass(slots=True)
class Interval:
    """A confidence set for the baseline's quantile: above g_lower, up to g_upper.

    None: no bound yet.
    """

    lower: int | None = None
    upper: int | None = None

    @property
    def finite(self) -> bool:
        """Whether both ends are known, and leave something in between."""
        return (
            self.lower is not None
            and self.upper is not None
            and self.lower < self.upper
        )

    def narrow(self, lower: int | None, upper: int | None) -> None:
        """Take up what has been shown now."""
        if lower is not None:
            self.lower = lower if self.lower is None else max(self.lower, lower)
        if upper is not None:
            self.upper = upper if self.upper is None else min(self.upper, upper)

    def cells(self) -> slice:
        """Return the cells that the quantile may be in; the interval is finite."""
        if self.lower is None or self.upper is None:
            raise ValueError("the set has no end")
        return slice(self.lower, self.upper)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantileLook:
    """What the cells say at one look.

    `hold` and `broken` are the least log evidence over the confidence set; None where
    the set has no end yet.
    """

    hold: float | None
    broken: float | None


def counts_up_to(points: Ints, first: int, cells: int) -> Ints:
    """Return how many of the points are at most first, first + 1, ..., shape (cells,).

    What lies below `first` counts everywhere, what lies above all nowhere.
    """
    clipped = np.clip(points - first, 0, cells)
    return np.cumsum(np.bincount(clipped, minlength=cells + 1)[:cells])


def stake_mixture(paired: Floats, single: Floats | None) -> Floats:
    """Return the log e-value of the stake on pairs and that on the candidate alone."""
    if single is None:
        return paired
    return np.logaddexp(
        math.log(PAIRED_STAKE) + paired, math.log1p(-PAIRED_STAKE) + single
    )
