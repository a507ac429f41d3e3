"""The paired quantile test on a grid with blocks of time as units.

Per cell several bettors of `canary.stats.betting` stake on block means: on the pairs,
and on where the baseline's quantile is. Their wealth is kept; a block, once counted,
is forgotten. So a look costs what is new, however long the run.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from canary.stats.betting import Floats, checked_alpha, log_mean_exp, log_threshold
from canary.stats.cells import Geometry, Interval, QuantileLook, stake_mixture
from canary.stats.grid import INFINITE_BIN, STEP, ZERO_BIN, Ints
from canary.stats.onset import onset_mixture
from canary.stats.tallies import copies_of

SHARES: Floats = (np.arange(50) + 0.5) / 50
"""Of what may be staked: fewer than for counts, as there is one set per cell."""
SHARES.flags.writeable = False

_NEIGHBOURHOOD = 0.25  # of probability, around the quantile
_ROOM_BELOW, _ROOM_ABOVE = math.log(2), math.log(8)
_COUNTERS_AT_ONCE = 2_000_000
_FIRST_NARROWING = 32

Gain = Callable[[Floats, Floats], Floats]
"""What a bet of everything gains, from a block's count and its requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """Pairs in the order of their blocks: the bins of each, the number of its block,
    and each block's requests and stretch of time (`canary.stats.onset.stretch_of`)."""

    baseline: Ints
    candidate: Ints
    block: Ints
    requests: Ints
    stretch: Ints

    def part(self, begin: int, end: int) -> "Units":
        """Return some of the blocks; pairs are in the order of their blocks."""
        first, last = np.searchsorted(self.block, [begin, end])
        return Units(
            baseline=self.baseline[first:last],
            candidate=self.candidate[first:last],
            block=self.block[first:last] - begin,
            requests=self.requests[begin:end],
            stretch=self.stretch[begin:end],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The cells that are looked at, from one grid point of the baseline on."""

    first: int
    cells: int

    @classmethod
    def around(cls, baseline: Ints, geometry: Geometry, p: float) -> "Window":
        """Choose a wide stretch around the p quantile of a first sample.

        From half of what a quarter of all values less would be, to eight times what a
        quarter more would be. Outside nothing is tested: either the quantile is shown
        to be inside, or its set has no end. No cells without a finite value.
        """
        points = np.sort(geometry.baseline(baseline))
        points = points[(points > ZERO_BIN) & (points < INFINITE_BIN)]
        if not points.size:
            return cls(first=0, cells=0)
        low = points[int(max(p - _NEIGHBOURHOOD, p / 2) * points.size)]
        high = points[min(int((p + _NEIGHBOURHOOD) * points.size), points.size - 1)]
        cell = geometry.width * STEP
        first = int(low) - math.ceil(_ROOM_BELOW / cell)
        last = int(high) + math.ceil(_ROOM_ABOVE / cell)
        return cls(first=first, cells=last - first)


class BlockCells:
    """Wealth per cell, and the evidence in it.

    Args:
        p: The quantile.
        geometry: The limit's ratio and cells.
        set_alpha: What the baseline's confidence set may miss with, for the evidence
            that the limit holds and for the evidence that it is broken.
        discrete: Whether many requests share a value (`canary.stats.cells`).
        window: The cells; chosen without the blocks that are added.

    Assumes of each block that the means of what is bet on are, given all earlier
    blocks, on the null's side: blocks that are long against the dependence.
    """

    def __init__(
        self,
        *,
        p: float,
        geometry: Geometry,
        set_alpha: tuple[float, float],
        discrete: bool,
        window: Window,
    ) -> None:
        self._p = p
        self._geometry = geometry
        self._discrete = discrete
        self._first, self._cells = window.first, window.cells
        points = (window.cells + 1, len(SHARES))
        self._above, self._below = np.zeros(points), np.zeros(points)
        self._hold = _Stakes(window.cells, discrete=discrete)
        self._broken: list[_Stakes] = []
        self._set_alpha = set_alpha
        self._blocks, self._narrowing = 0, _FIRST_NARROWING
        self._shown = (Interval(), Interval())
        self.sets = (Interval(), Interval())

    def add(self, units: Units) -> None:
        """Let everybody bet on more blocks.

        After so many blocks, whoever looks in between, cells that are out of the
        question are forgotten: who looked when changes no evidence.
        """
        begin, blocks = 0, len(units.requests) if self._cells else 0
        while begin < blocks:
            end = min(begin + self._narrowing - self._blocks, blocks)
            self._bet(units.part(begin, end))
            self._blocks += end - begin
            begin = end
            if self._blocks == self._narrowing:
                self._narrow(self._shown)
                self._forget()
                self._narrowing += math.ceil(self._narrowing / 8)

    def _bet(self, units: Units) -> None:
        a, b_hold, b_broken = self._counts(units)
        requests = units.requests
        fewer, more = bet(a, requests, below(self._p), above(self._p))
        self._above += fewer
        self._below += more
        hold = b_hold[:, :-1]
        self._hold.add(hold - a[:, 1:], hold, requests, above(self._p))
        broken = b_broken[:, 1:]
        for stretch in np.unique(units.stretch):
            while len(self._broken) <= stretch:
                self._broken.append(_Stakes(self._cells, discrete=self._discrete))
            here = units.stretch == stretch
            self._broken[stretch].add(
                (a[:, :-1] - broken)[here],
                broken[here],
                requests[here],
                below(self._p),
            )

    def _counts(self, units: Units) -> tuple[Ints, Ints, Ints]:
        """Return per block and grid point how many of A, and of B, are at most that."""
        geometry = self._geometry
        points = (
            geometry.baseline(units.baseline),
            geometry.candidate_hold(units.candidate),
            geometry.candidate_broken(units.candidate),
        )
        a, hold, broken = (
            counts_by_block(
                some, units.block, len(units.requests), self._first, self._cells + 1
            )
            for some in points
        )
        return a, hold, broken

    def look(self) -> QuantileLook:
        """Return the evidence so far."""
        if not self._cells:
            return QuantileLook(hold=None, broken=None)
        first, second = self._shown
        self.sets = (replace(first), replace(second))
        self._narrow(self.sets)
        hold = broken = None
        if self.sets[0].finite:
            hold = float(self._hold.log_e(self._inside(0)).min())
        if self.sets[1].finite and self._broken:
            log_e = since_start(self._broken, self._inside(1))
            broken = float(onset_mixture(log_e).min())
        return QuantileLook(hold=hold, broken=broken)

    @property
    def set_points(self) -> tuple[int, int] | None:
        """The grid points around the quantile, for evidence that the limit holds."""
        lower, upper = self.sets[0].lower, self.sets[0].upper
        if lower is None or upper is None or upper <= lower:
            return None
        return lower, upper

    def units_needed(
        self, units: int, threshold: float, *, holding: bool
    ) -> int | None:
        """Return how many blocks like these would decide; None if no number would.

        As if the set stayed as it is now: in truth it narrows, which needs fewer.
        """
        stakes = [self._hold] if holding else self._broken
        if not self.sets[0].finite or not stakes:
            return None
        cells = self._inside(0)
        paired = np.sum([some.paired[cells] for some in stakes], axis=0)
        copies = [copies_of(log_wealth, threshold) for log_wealth in paired]
        known = [some for some in copies if some is not None]
        return math.ceil(max(known) * units) if len(known) == len(copies) else None

    def _inside(self, which: int) -> slice:
        cells = self.sets[which].cells()
        return slice(cells.start - self._first, cells.stop - self._first)

    def _narrow(self, sets: tuple[Interval, Interval]) -> None:
        """Most of what the set may miss with goes to the side with less to gain."""
        above, below_ = log_mean_exp(self._above), log_mean_exp(self._below)
        for kept, alpha in zip(sets, self._set_alpha, strict=True):
            low = np.flatnonzero(above >= log_threshold((1 - self._p) * alpha))
            high = np.flatnonzero(below_ >= log_threshold(self._p * alpha))
            kept.narrow(
                self._first + int(low[-1]) if low.size else None,
                self._first + int(high[0]) if high.size else None,
            )

    def _forget(self) -> None:
        lowers = [kept.lower for kept in self._shown]
        uppers = [kept.upper for kept in self._shown]
        first, last = self._first, self._first + self._cells
        known_low = [lower for lower in lowers if lower is not None]
        known_high = [upper for upper in uppers if upper is not None]
        if len(known_low) == len(lowers):
            first = max(first, min(known_low))
        if len(known_high) == len(uppers):
            last = min(last, max(known_high))
        if last <= first:
            return
        cut = slice(first - self._first, last - self._first)
        points = slice(cut.start, cut.stop + 1)
        self._above, self._below = self._above[points], self._below[points]
        for stakes in (self._hold, *self._broken):
            stakes.keep(cut)
        self._first, self._cells = first, last - first


class _Stakes:
    """Wealth on the pairs and, for values that repeat, on the candidate alone."""

    def __init__(self, cells: int, *, discrete: bool) -> None:
        self.paired = np.zeros((cells, len(SHARES)))
        self.single = np.zeros((cells, len(SHARES))) if discrete else None

    def add(
        self, differences: Ints, inside: Ints, requests: Ints, single: Gain
    ) -> None:
        self.paired += bet(differences, requests, difference)[0]
        if self.single is not None:
            self.single += bet(inside, requests, single)[0]

    def keep(self, cut: slice) -> None:
        self.paired = self.paired[cut]
        if self.single is not None:
            self.single = self.single[cut]

    def log_e(self, cells: slice) -> Floats:
        single = None if self.single is None else log_mean_exp(self.single[cells])
        return stake_mixture(log_mean_exp(self.paired[cells]), single)


def least_blocks(p: float, *, set_alpha: float) -> int:
    """Return how many blocks it takes until a p quantile is bounded on both sides.

    At the least: as many as show that a share of all, or of none, isn't p.
    """
    return max(_least_on_one_side(q, q * set_alpha) for q in (p, 1 - p))


def _least_on_one_side(p: float, alpha: float) -> int:
    of_one = np.log1p(SHARES * (1 - p) / p)
    threshold = log_threshold(alpha)
    # What the keenest bettor alone would need is too few, 1000 times that too many.
    low, high = 0, 1 + 1000 * math.ceil(threshold / float(of_one[-1]))
    while high - low > 1:
        middle = (low + high) // 2
        enough = log_mean_exp(middle * of_one) >= threshold
        low, high = (low, middle) if enough else (middle, high)
    return high


def since_start(stretches: list[_Stakes], cells: slice) -> Floats:
    """Return the log e-values of bets that began with each stretch, (starts, cells)."""

    def summed(parts: list[Floats]) -> Floats:
        return log_mean_exp(np.cumsum(np.array(parts)[::-1], axis=0)[::-1])

    paired = summed([stakes.paired[cells] for stakes in stretches])
    singles = [s.single[cells] for s in stretches if s.single is not None]
    return stake_mixture(paired, summed(singles) if singles else None)


def difference(counts: Floats, requests: Floats) -> Floats:
    """What is gained on "the mean difference is above 0"."""
    return counts / requests


def above(p: float) -> Gain:
    """Return what is gained on "the share is above p"."""
    checked_alpha(p)
    return lambda counts, requests: (counts / requests - p) / p


def below(p: float) -> Gain:
    """Return what is gained on "the share is below p"."""
    checked_alpha(p)
    return lambda counts, requests: (p - counts / requests) / (1 - p)


def counts_by_block(
    points: Ints, block: Ints, blocks: int, first: int, cells: int
) -> Ints:
    """Return how many points per block are at most first, first + 1, ..., shape
    (blocks, cells)."""
    clipped = np.clip(points - first, 0, cells)
    flat = np.bincount(block * (cells + 1) + clipped, minlength=blocks * (cells + 1))
    return np.cumsum(flat.reshape(blocks, cells + 1)[:, :cells], axis=1)


def bet(counts: Ints, requests: Ints, *gains: Gain) -> list[Floats]:
    """Return what blocks add to the log wealth of each bet, shape (cells, shares).

    Args:
        counts: Whole numbers per block and cell, shape (blocks, cells).
        requests: How many requests each block has, shape (blocks,).
        gains: Of a bet of everything.

    Blocks with equal numbers gain alike: each different pair of numbers is worked out
    once.
    """
    sizes = np.flatnonzero(np.bincount(requests))
    size = np.searchsorted(sizes, requests)
    low = int(counts.min())
    width = int(counts.max()) - low + 1
    code = counts + (size * width - low)[:, None]
    kinds, cells = len(sizes) * width, counts.shape[1]
    gained = [np.empty((cells, len(SHARES))) for _ in gains]
    step = max(_COUNTERS_AT_ONCE // kinds, 1)
    for start in range(0, cells, step):
        part = code[:, start : start + step]
        there = part.shape[1]
        flat = (part + kinds * np.arange(there)).ravel()
        tally = np.bincount(flat, minlength=kinds * there).reshape(there, kinds)
        used = np.flatnonzero(tally.any(axis=0))
        often = tally[:, used].astype(np.float64)
        values = (used % width + low).astype(np.float64)
        of = sizes[used // width].astype(np.float64)
        for gain, found in zip(gains, gained, strict=True):
            factors = np.log1p(gain(values, of)[:, None] * SHARES)
            found[start : start + there] = often @ factors
    return gained
