"""Accuracy on this very validation set, not on all questions like it."""

import numpy as np

from canary.evidence.blocks import Ints
from canary.stats import finite_log_e, finite_mean_bounds
from canary.stats.betting import Floats
from canary.traffic.seeds import stable_seed

_MOST = 700.0  # certainty, in a number that a chart and a document can hold


class FiniteSet:
    """What is known of a set of `total` questions whose order was drawn at random.

    Questions answered in the same base block are put in an order that depends on their
    names alone, and on nothing that the names tell.
    """

    def __init__(self, null_mean: float, total: int | None) -> None:
        self.total = total
        self._null_mean = null_mean
        self._values: list[Floats] = []

    def add(self, values: Floats, block: Ints, names: list[str]) -> None:
        """Take the score differences of more groups, shape (n,)."""
        drawn = np.array([stable_seed("order", name) for name in names], np.int64)
        self._values.append(values[np.lexsort((drawn, block))])

    @property
    def _seen(self) -> Floats:
        self._values = [np.concatenate([np.empty(0), *self._values])]
        return self._values[0]

    def log_e(self, *, holding: bool) -> float:
        """Return the evidence that the set's mean is above the null's, or below."""
        log_e = finite_log_e(
            self._seen,
            total=self._known(),
            null_mean=self._null_mean,
            low=-1.0,
            high=1.0,
            alternative="greater" if holding else "less",
        )
        return float(np.clip(log_e, -_MOST, _MOST))

    def bounds(self, alpha: float) -> tuple[float, float] | None:
        """Return bounds of the set's mean, each one-sided; None for an unknown size."""
        if self.total is None:
            return None
        return finite_mean_bounds(
            self._seen, total=self._known(), low=-1.0, high=1.0, alpha=alpha
        )

    def _known(self) -> int:
        """The set's size; larger if more was answered than it was said to hold."""
        return max(self.total or 1, len(self._seen))
