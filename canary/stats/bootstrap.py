"""Bounds at one planned look, by drawing clusters of requests or blocks of time anew.

What belongs together is drawn together: whole clusters (a validation group, a
conversation) or whole blocks of time, as often as there are of them, with replacement.
Requests within one may then depend on each other in any way. Not valid when looked at
repeatedly, and valid at all only where there are enough clusters: 20 at least.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 13
(percentile) and 14 (BCa); for clusters Davison and Hinkley, "Bootstrap Methods and
their Application", 1997, section 3.8.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import bootstrap

from canary.stats.betting import Floats
from canary.stats.quantiles import checked_pairs

Indices = NDArray[np.intp]

FEWEST = 20  # clusters or blocks, below which their spread is too little known
_RESAMPLES = 4999  # so that 5000 alpha is a whole number for every usual alpha
_MOST = 2000  # clusters for a jackknife, whose cost grows with their square; blocks
_SCRATCH = 2**21  # numbers at once, 16 MB
_ROUNDING = 1e-9  # what sums and products like 0.55 * 100 may be off by


def cluster_mean_bounds(
    values: ArrayLike, clusters: ArrayLike, *, alpha: float, seed: int
) -> tuple[float, float]:
    """Return a lower and an upper bound for the mean, each one-sided at `alpha`.

    The mean over clusters of each cluster's own mean: all clusters count alike, as in
    `betting_mean_bounds` over the same means. `values`, shape (n,), are paired
    differences, say; `clusters`, shape (n,), are labels of any kind that sorts. BCa,
    since the rarer a difference is, the more skewed is its mean, and BCa corrects for
    that; with more than 2000 clusters the plain percentiles, which are then as good.
    The same seed gives the same bounds, whatever the order of the values.

    (-inf, inf) with fewer than 20 clusters, where all clusters have the same mean
    (drawn anew they never differ, which proves nothing), or with alpha below 1/5000
    (one resample). About 1 - alpha at best: with 20 clusters of skewed values a bound
    at 5 % misses in about 8 %. Assumes independent clusters of one population.

    Raises:
        ValueError: shapes differ, a value isn't finite, or alpha is outside (0, 1/2).
    """
    y = np.asarray(values, dtype=np.float64)
    cluster, count = _labels(clusters, y.shape)
    if not np.all(np.isfinite(y)):
        raise ValueError("values must be finite")
    order = np.lexsort((y, cluster))
    means = np.bincount(cluster[order], y[order], count) / np.bincount(cluster)
    scale = np.abs(means).max(initial=0.0)
    if _unresolved(alpha, count) or np.ptp(means) <= _ROUNDING * scale:
        return -math.inf, math.inf
    interval = bootstrap(
        (means / scale,),
        np.mean,
        n_resamples=_RESAMPLES,
        batch=max(_SCRATCH // count, 1),
        confidence_level=1 - 2 * alpha,
        method="BCa" if count <= _MOST else "percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(scale * interval.low), float(scale * interval.high)


def block_ratio_bounds(
    baseline: ArrayLike,
    candidate: ArrayLike,
    blocks: ArrayLike,
    *,
    p: float,
    alpha: float,
    seed: int,
) -> tuple[float, float]:
    """Return a lower and an upper bound for the ratio of the arms' p quantiles.

    Each one-sided at `alpha`. `baseline[i]` and `candidate[i]`, shape (n,), at least 0,
    belong to one request of block `blocks[i]`, a label that sorts. A quantile is the
    least value that a share of at least p doesn't exceed. Plain percentiles of the
    ratio, which are those of its logarithm too: a jackknife, as BCa needs, is not
    consistent for quantiles. More than 2000 blocks are joined to 2000 longer ones.

    An infinite latency is a failed request. An arm's largest value bounds nothing from
    above, its smallest nothing from below: a bound is inf or 0.0 where more than alpha
    of the resamples have their quantile there, as where the baseline's quantile may be
    infinite or 0. (inf, inf) where the candidate alone fails too often. (0.0, inf) with
    fewer than 20 blocks, or alpha below 1/5000. Assumes independent blocks of one
    population: longer than what neighbouring requests share.

    Raises:
        ValueError: shapes differ, a value is NaN or below 0, p is outside (0, 1), or
            alpha outside (0, 1/2).
    """
    a, b = checked_pairs(baseline, candidate)
    block, count = _labels(blocks, a.shape)
    if not 0 < p < 1:
        raise ValueError(f"need 0 < p < 1, got {p}")
    if _unresolved(alpha, count):
        return 0.0, math.inf
    joined = min(count, _MOST)
    least, most = _drawn_ratios(a, b, block * joined // count, p=p, seed=seed)
    outside = math.floor(alpha * (_RESAMPLES + 1) + _ROUNDING)
    return float(np.sort(least)[outside - 1]), float(np.sort(most)[-outside])


def _drawn_ratios(
    baseline: Floats, candidate: Floats, block: Indices, *, p: float, seed: int
) -> tuple[Floats, Floats]:
    """Return the least and the largest that each resample's ratio may be."""
    count = int(block.max()) + 1
    a, b = (_Ordered.of(values, block, count) for values in (baseline, candidate))
    batch = max(_SCRATCH // max(*a.coarse.shape, *a.blocks.shape), 1)
    ranks = [
        (a.quantile_ranks(times, p), b.quantile_ranks(times, p))
        for times in _times_drawn(np.random.default_rng(seed), count, batch)
    ]
    of_a, of_b = np.concatenate(ranks, axis=1)
    least = _ratios(b.at_least(of_b), a.at_most(of_a), 0.0)
    return least, _ratios(b.at_most(of_b), a.at_least(of_a), math.inf)


def _labels(labels: ArrayLike, shape: tuple[int, ...]) -> tuple[Indices, int]:
    """Return which label each value has, from 0 on, and how many there are."""
    labels = np.asarray(labels)
    if len(shape) != 1 or labels.shape != shape:
        raise ValueError(f"expected flat arrays alike: {shape} and {labels.shape}")
    distinct, index = np.unique(labels, return_inverse=True)
    return index, distinct.size


def _unresolved(alpha: float, count: int) -> bool:
    """Return whether clusters or resamples are too few for bounds at this alpha."""
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha must be in (0, 1/2), got {alpha}")
    return count < FEWEST or alpha * (_RESAMPLES + 1) < 1


def _times_drawn(
    generator: np.random.Generator, count: int, batch: int
) -> Iterator[Floats]:
    """Yield how often each block is drawn, shape (resamples, count)."""
    for start in range(0, _RESAMPLES, batch):
        size = min(batch, _RESAMPLES - start)
        drawn = generator.integers(count, size=(size, count))
        drawn += count * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * count)
        yield times.reshape(size, count).astype(np.float64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Ordered:
    """One arm's values in order, shape (n,), cut into bins of equal numbers.

    `blocks`, shape (bins, width), has each value's block, then fills up with one block
    more than there are; `coarse`, shape (blocks, bins), counts a block's values by bin.
    """

    values: Floats
    blocks: Indices
    coarse: Floats

    @classmethod
    def of(cls, values: Floats, block: Indices, count: int) -> "_Ordered":
        """Sort an arm's values and cut them into bins of equal numbers."""
        bins = min(max(_SCRATCH // count, 1), math.isqrt(4 * values.size))
        width = -(-values.size // bins)
        order = np.argsort(values, kind="stable")
        blocks = np.full(bins * width, count)
        blocks[: values.size] = block[order]
        cell = block[order] * bins + np.arange(values.size) // width
        coarse = np.bincount(cell, minlength=count * bins).reshape(count, bins)
        return cls(
            values=values[order],
            blocks=blocks.reshape(bins, width),
            coarse=coarse.astype(np.float64),
        )

    def quantile_ranks(self, times: Floats, p: float) -> Indices:
        """Return which value, from 0 on, is the p quantile of each resample.

        First the bin in which it is, then where it is in that bin; whole numbers in
        floats throughout, so that all sums are exact.
        """
        width = self.blocks.shape[1]
        up_to = (times @ self.coarse).cumsum(axis=1)
        needed = np.maximum(np.ceil(p * up_to[:, -1] - _ROUNDING), 1)[:, None]
        bin_ = (up_to < needed).sum(axis=1)
        row = np.arange(len(times))
        before = np.where(bin_ > 0, up_to[row, bin_ - 1], 0)
        padded = np.pad(times, ((0, 0), (0, 1)))
        within = padded[row[:, None], self.blocks[bin_]].cumsum(axis=1)
        beyond = (before[:, None] + within < needed).sum(axis=1)
        return np.asarray(bin_ * width + beyond)

    def at_least(self, ranks: Indices) -> Floats:
        """Return the values at these ranks; below the smallest there may be any."""
        return np.where(ranks > 0, self.values[ranks], 0.0)

    def at_most(self, ranks: Indices) -> Floats:
        """Return the values at these ranks; above the largest there may be any."""
        return np.where(ranks < self.values.size - 1, self.values[ranks], np.inf)


def _ratios(above: Floats, below: Floats, unknown: float) -> Floats:
    """Return ratios, and `unknown` where there is none."""
    known = (below > 0) & np.isfinite(below)
    ratios = np.full(above.size, unknown)
    return np.asarray(np.divide(above, below, out=ratios, where=known))
