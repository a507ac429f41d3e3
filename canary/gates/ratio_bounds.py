"""Bounds for the ratio of two quantiles: the paired tests, inverted on the grid.

A limit of e^(h m) is tried for whole numbers m; the upper bound is the least that is
shown to hold, the lower bound the largest that is shown to be broken, both over the
confidence set for the baseline's quantile that the looks have arrived at.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from canary.evidence.blocks import Ints
from canary.stats.betting import log_mean_exp
from canary.stats.block_cells import (
    Gain,
    above,
    below,
    bet,
    counts_by_block,
    difference,
)
from canary.stats.cells import Geometry, counts_up_to, stake_mixture
from canary.stats.grid import STEP
from canary.stats.request_cells import share_log_e
from canary.stats.sign import sign_log_e

_FARTHEST = round(math.log(10_000) / STEP)


@dataclass(kw_only=True)
class Question:
    """Pairs of bins, and where the baseline's quantile is.

    `unit` is the block of each pair and `requests` how many each block has; None where
    requests are the units. `first` to `last` are grid points: the quantile is above the
    one and at most the other.
    """

    p: float
    width: int
    discrete: bool
    baseline: Ints
    candidate: Ints
    unit: Ints | None
    requests: Ints | None
    first: int
    last: int

    def hold(self, shift: int) -> float:
        """Return the evidence that the candidate's quantile is at most so far above."""
        b = self._geometry(shift).candidate_hold(self.candidate)
        if self.unit is None or self.requests is None:
            return self._by_request(gaining=b, losing=self._points - 1, more=True)
        counts = self._counts(b, self.unit, self.requests)
        return self._by_block(
            counts - self._counted[:, 1:], counts, self.requests, above(self.p)
        )

    def broken(self, shift: int) -> float:
        """Return the evidence that the candidate's quantile is farther above."""
        b = self._geometry(shift).candidate_broken(self.candidate) - 1
        if self.unit is None or self.requests is None:
            return self._by_request(gaining=self._points, losing=b, more=False)
        counts = self._counts(b, self.unit, self.requests)
        return self._by_block(
            self._counted[:, :-1] - counts, counts, self.requests, below(self.p)
        )

    @cached_property
    def _points(self) -> Ints:
        return self._geometry(0).baseline(self.baseline)

    @cached_property
    def _counted(self) -> Ints:
        """How many of the baseline's are at most each grid point, per block."""
        if self.unit is None or self.requests is None:
            raise ValueError("requests are in no blocks")
        cells = self.last - self.first + 1
        return counts_by_block(
            self._points, self.unit, len(self.requests), self.first, cells
        )

    def _geometry(self, shift: int) -> Geometry:
        return Geometry(width=self.width, hold_shift=shift, broken_shift=shift)

    def _by_request(self, *, gaining: Ints, losing: Ints, more: bool) -> float:
        cells = self.last - self.first
        won, lost, both = (
            counts_up_to(points, self.first, cells).astype(float)
            for points in (gaining, losing, np.maximum(gaining, losing))
        )
        paired = sign_log_e(won - both, lost - both)
        inside, n = won if more else lost, len(self.baseline)
        single = share_log_e(inside, n - inside, p=self.p, more=more)
        return float(stake_mixture(paired, single if self.discrete else None).min())

    def _counts(self, points: Ints, unit: Ints, requests: Ints) -> Ints:
        cells = self.last - self.first
        return counts_by_block(points, unit, len(requests), self.first, cells)

    def _by_block(
        self, differences: Ints, inside: Ints, requests: Ints, gain: Gain
    ) -> float:
        paired = log_mean_exp(bet(differences, requests, difference)[0])
        if not self.discrete:
            return float(paired.min())
        single = log_mean_exp(bet(inside, requests, gain)[0])
        return float(stake_mixture(paired, single).min())


def bounds(
    question: Question, *, threshold: float, near: int
) -> tuple[float | None, float | None]:
    """Return a lower and an upper bound of the ratio; None where there is none.

    Args:
        question: The pairs.
        threshold: What the log evidence must reach.
        near: About where the ratio is, in bins.
    """
    upper = _least_shown(lambda m: question.hold(m) >= threshold, near, question.width)
    lower = _least_shown(
        lambda m: question.broken(-m) >= threshold, -near, question.width
    )
    return (
        None if lower is None else math.exp(-STEP * lower),
        None if upper is None else math.exp(STEP * upper),
    )


def _least_shown(shown: Callable[[int], bool], near: int, step: int) -> int | None:
    """Return the least number that is shown, as all above it are."""
    if shown(near):
        high, low = near, near - step
        while shown(low):
            high, low, step = low, low - 2 * step, 2 * step
            if near - low > _FARTHEST:
                return high
    else:
        low, high = near, near + step
        while not shown(high):
            low, high, step = high, high + 2 * step, 2 * step
            if high - near > _FARTHEST:
                return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if shown(middle) else (middle, high)
    return high
