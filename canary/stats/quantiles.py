"""The ratio of two arms' quantiles, from requests that both arms answered.

Berger and Boos, "P values maximized over a confidence set for the nuisance parameter",
JASA 1994. The baseline's quantile x isn't known, but lies in a confidence set with
probability 1 - alpha/10. At the true x, "the candidate's quantile is above ratio * x"
says that the candidate stays within ratio * x less often than the baseline stays within
x. Of the pairs in which just one of the two stays within, more than half must then
disfavour the candidate: a sign test, done by betting (`canary.stats.sign`). The
least evidence over all x in the set counts. The two arms may depend on each other in
any way, which multiplying two one-arm tests would not allow.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from canary.stats.betting import (
    Floats,
    checked_alpha,
    log_threshold,
)
from canary.stats.ranks import quantile_ranks
from canary.stats.sign import sign_log_e

Hypothesis = Literal["hold", "broken"]

_SET_SHARE = 0.1  # of alpha, spent on the baseline's confidence set
_RATIO_TOLERANCE = 1e-9


def paired_quantile_log_e(
    baseline: ArrayLike,
    candidate: ArrayLike,
    *,
    p: float,
    ratio: float,
    alpha: float,
    hypothesis: Hypothesis,
) -> float:
    """Return the log evidence that a quantile's limit holds, or is broken.

    "hold" is evidence that the candidate's p quantile is at most `ratio` times the
    baseline's, "broken" that it is above. Compare with ln(1 / (alpha - alpha/10)):
    the tenth is spent on the set of values that the baseline's quantile may have.
    `baseline[i]` and `candidate[i]`, shape (n,), at least 0, belong to one request,
    which is the unit: independence between requests is assumed, none between arms.

    An infinite latency is a failed request and is compared exactly. Too few requests
    for a finite confidence set leave a set without end, in which there is always a
    value that says nothing: the result is then at most 0 (and finite), so it can
    neither promote nor roll back. The same holds where so many of the baseline's
    requests fail that its quantile may be infinite. No requests: 0. Where the
    baseline's quantile is a value that many requests share, the test loses power; a
    baseline of one constant value shows nothing.

    Raises:
        ValueError: lengths differ, a value is NaN or below 0, p or alpha is outside
            (0, 1), ratio isn't above 0 and finite, or hypothesis is unknown.
    """
    pairs = Pairs.of(baseline, candidate)
    ranks = quantile_ranks(pairs.size, p, alpha=set_alpha(alpha))
    return pairs.log_e(ratio, ranks, hypothesis)


def quantile_ratio_bounds(
    baseline: ArrayLike, candidate: ArrayLike, *, p: float, alpha: float
) -> tuple[float, float]:
    """Return a lower and an upper bound for the ratio of the p quantiles.

    The two tests of `paired_quantile_log_e`, inverted: the lower bound is the largest
    ratio that is shown to be exceeded, the upper one the smallest that is shown to
    hold, each at `alpha` and to a relative 1e-9 on the safe side. 0.0 and inf where no
    finite bound is known; (inf, inf) where every ratio is shown to be exceeded because
    too many of the candidate's requests fail.

    Raises:
        ValueError: as `paired_quantile_log_e`.
    """
    pairs = Pairs.of(baseline, candidate)
    ranks = quantile_ranks(pairs.size, p, alpha=set_alpha(alpha))
    threshold = paired_threshold(alpha)
    ends = pairs.extreme_ratios(ranks)
    if ends is None:
        return 0.0, math.inf

    def shown(ratio: float, hypothesis: Hypothesis) -> bool:
        return pairs.log_e(ratio, ranks, hypothesis) >= threshold

    least, most = ends
    if shown(most, "broken"):
        return math.inf, math.inf
    if shown(least, "hold"):
        return 0.0, 0.0
    lower, upper = 0.0, math.inf
    if shown(least, "broken"):
        lower = _last_shown(lambda r: shown(r, "broken"), least, most)
    if shown(most, "hold"):
        upper = _last_shown(lambda r: shown(r, "hold"), most, least)
    return lower, upper


def set_alpha(alpha: float) -> float:
    """Return the part of alpha that the baseline's confidence set may miss with."""
    return _SET_SHARE * checked_alpha(alpha)


def paired_threshold(alpha: float) -> float:
    """Return ln(1 / (alpha - alpha/10)), which a paired quantile test must reach."""
    return log_threshold(alpha - set_alpha(alpha))


def checked_pairs(baseline: ArrayLike, candidate: ArrayLike) -> tuple[Floats, Floats]:
    """Return both arms' values as floats, known to be paired and at least 0."""
    a = np.asarray(baseline, dtype=np.float64)
    b = np.asarray(candidate, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"expected two flat arrays: {a.shape} and {b.shape}")
    if not (np.all(a >= 0) and np.all(b >= 0)):
        raise ValueError("values must be at least 0 and not NaN")
    return a, b


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """Two arms' values on the same requests, with each arm's values in order too."""

    baseline: Floats
    candidate: Floats
    baseline_ordered: Floats
    candidate_ordered: Floats

    @classmethod
    def of(cls, baseline: ArrayLike, candidate: ArrayLike) -> "Pairs":
        """Check and sort the values of both arms, shape (n,) each."""
        a, b = checked_pairs(baseline, candidate)
        return cls(
            baseline=a,
            candidate=b,
            baseline_ordered=np.sort(a),
            candidate_ordered=np.sort(b),
        )

    @property
    def size(self) -> int:
        """The number of pairs."""
        return int(self.baseline.size)

    def log_e(
        self,
        ratio: float,
        ranks: tuple[int, int],
        hypothesis: Hypothesis,
        *,
        copies: float = 1.0,
    ) -> float:
        """Return the least log evidence over the set between two ranks of the baseline.

        `copies` counts each pair so many times.
        """
        if not 0 < ratio < math.inf:
            raise ValueError(f"ratio must be above 0 and finite, got {ratio}")
        if hypothesis not in ("hold", "broken"):
            raise ValueError(f"hypothesis must be hold or broken, got {hypothesis!r}")
        points = self._points(ratio, ranks)
        if hypothesis == "hold":
            wins, losses = self._counts_holding(ratio, points)
        else:
            wins, losses = self._counts_broken(ratio, points)
        return float(sign_log_e(copies * wins, copies * losses).min())

    def extreme_ratios(self, ranks: tuple[int, int]) -> tuple[float, float] | None:
        """Return ratios beyond which no count changes; None if the set has no end."""
        lower, upper = ranks
        if lower < 1 or upper > self.size or np.isinf(self.baseline_ordered[upper - 1]):
            return None
        inside = self.baseline_ordered[lower - 1 : upper]
        inside = inside[inside > 0]
        values = self.candidate_ordered[self.candidate_ordered > 0]
        values = values[np.isfinite(values)]
        if not inside.size or not values.size:
            return 1.0, 1.0
        return float(values[0] / inside[-1]) / 2, float(values[-1] / inside[0]) * 2

    def _points(self, ratio: float, ranks: tuple[int, int]) -> Floats:
        """Return where evidence is least inside the set, on the candidate's scale.

        As x grows, "hold" loses evidence only where it passes a value of the baseline,
        and "broken" gains it only just after one: every low is at such a value, or at
        an end of the set.
        """
        lower, upper = ranks
        points = ratio * self.baseline_ordered[max(lower - 1, 0) : upper]
        if lower < 1:
            points = np.append(-np.inf, points)
        if upper > self.size:
            points = np.append(points, np.inf)
        return points

    def _counts_holding(self, ratio: float, x: Floats) -> tuple[Floats, Floats]:
        """Return #{A > x, B <= x} and #{A <= x, B > x}, with A = ratio * baseline."""
        a = np.searchsorted(ratio * self.baseline_ordered, x, side="right")
        b = np.searchsorted(self.candidate_ordered, x, side="right")
        larger = np.maximum(ratio * self.baseline, self.candidate)
        both = _count_within(larger, x, "right")
        return (b - both).astype(np.float64), (a - both).astype(np.float64)

    def _counts_broken(self, ratio: float, x: Floats) -> tuple[Floats, Floats]:
        """Return #{A < x, B > x} and #{A >= x, B <= x}, with A = ratio * baseline."""
        a = np.searchsorted(ratio * self.baseline_ordered, x, side="left")
        b = np.searchsorted(self.candidate_ordered, x, side="right")
        # B <= x is the same as: the number just below B is less than x.
        just_below = np.nextafter(self.candidate, -np.inf)
        larger = np.maximum(ratio * self.baseline, just_below)
        both = _count_within(larger, x, "left")
        return (a - both).astype(np.float64), (b - both).astype(np.float64)


def _count_within(
    values: Floats, x: Floats, side: Literal["left", "right"]
) -> NDArray[np.int64]:
    """Return how many values are at most (right) or less than (left) each x."""
    first, last = x.min(), x.max()
    # Only the values among the points need sorting: few, where the set is narrow.
    among = np.sort(values[(first <= values) & (values <= last)])
    before = np.count_nonzero(values < first)
    return before + np.searchsorted(among, x, side=side)


def _last_shown(shown: Callable[[float], bool], inside: float, outside: float) -> float:
    """Return the last ratio that is shown on the way from inside to outside."""
    while abs(math.log(outside / inside)) > _RATIO_TOLERANCE:
        middle = math.sqrt(inside * outside)
        if shown(middle):
            inside = middle
        else:
            outside = middle
    return inside
