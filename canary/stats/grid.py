"""A logarithmic grid, so that times and sizes become integers that can be counted.

Bin b holds the values in (exp(h (b - 1)), exp(h b)], with h = 0.0005: two neighbours
differ by a twentieth of a percent. What a test loses to the grid it loses on the safe
side (`canary.stats.cells`).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from canary.stats.betting import Floats

Ints = NDArray[np.int64]

STEP = 0.0005
"""The width of a bin, in the natural logarithm."""

ZERO_BIN = -(2**30)
"""The bin of 0, below all others."""

INFINITE_BIN = 2**30
"""The bin of infinity, above all others."""


def bins_of(values: ArrayLike) -> Ints:
    """Return the bin of each value of at least 0, shape (n,).

    Raises:
        ValueError: a value that is NaN or below 0.
    """
    values = np.asarray(values, dtype=np.float64)
    if not np.all(values >= 0):
        raise ValueError("values must be at least 0 and not NaN")
    with np.errstate(divide="ignore"):
        scaled = np.ceil(np.log(values) / STEP)
    return np.asarray(np.clip(scaled, ZERO_BIN, INFINITE_BIN), np.int64)


def upper_ends(bins: ArrayLike) -> Floats:
    """Return the largest value that each bin holds; 0 and infinity for their bins."""
    bins = np.asarray(bins, dtype=np.int64)
    with np.errstate(over="ignore", under="ignore"):
        ends = np.exp(STEP * bins.astype(np.float64))
    return np.asarray(
        np.where(bins <= ZERO_BIN, 0.0, np.where(bins >= INFINITE_BIN, np.inf, ends))
    )
