"""Several tests at once: one mean of e-values, or a list with errors under control."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from canary.stats.betting import Floats, checked_alpha


def harm_mixture(log_es: ArrayLike, weights: ArrayLike) -> float:
    """Return the log of the weighted mean of e-values, both of shape (n,).

    An e-value again under any dependence (Vovk and Wang, "E-values: calibration,
    combination and applications", Annals of Statistics 2021, section 3), and an
    e-process if all are on one sequence of looks. A log e-value of -inf is an e-value
    of 0. Weights have to be fixed before the data.

    Raises:
        ValueError: shapes differ, a log e-value is NaN, a weight is below 0, or weights
            don't sum to 1.
    """
    logs = np.asarray(log_es, dtype=np.float64)
    shares = np.asarray(weights, dtype=np.float64)
    if logs.ndim != 1 or logs.shape != shares.shape:
        raise ValueError(f"expected two flat arrays: {logs.shape} and {shares.shape}")
    if np.any(np.isnan(logs)):
        raise ValueError("log e-values must not be NaN")
    if not np.all(shares >= 0) or abs(shares.sum() - 1) > 1e-9:
        raise ValueError("weights must be at least 0 and sum to 1")
    used = shares > 0
    return float(np.logaddexp.reduce(np.log(shares[used]) + logs[used]))


def holm(p_values: ArrayLike) -> Floats:
    """Return p-values adjusted so that any error at all has probability alpha.

    In the order given, shape (n,); reject those of at most alpha. Valid under any
    dependence. Holm, Scandinavian Journal of Statistics 1979.

    Raises:
        ValueError: not a flat array of values in [0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not np.all((p >= 0) & (p <= 1)):
        raise ValueError("expected a flat array of p-values in [0, 1]")
    order = np.argsort(p, kind="stable")
    steps = np.arange(p.size, 0, -1) * p[order]
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def e_bh(e_values: ArrayLike, *, alpha: float) -> NDArray[np.bool_]:
    """Return which hypotheses to reject, with a false discovery rate of at most alpha.

    Rejects the k largest of K e-values, k the largest for which the k-th largest is at
    least K / (k alpha). Valid under any dependence. Wang and Ramdas, "False discovery
    rate control with e-values", JRSS-B 2022, definition of the base procedure.

    Raises:
        ValueError: not a flat array of values of at least 0, or alpha outside (0, 1).
    """
    e = np.asarray(e_values, dtype=np.float64)
    if e.ndim != 1 or not np.all(e >= 0):
        raise ValueError("expected a flat array of e-values of at least 0")
    descending = np.sort(e)[::-1]
    needed = e.size / (checked_alpha(alpha) * np.arange(1, e.size + 1))
    passing = np.flatnonzero(descending >= needed)
    if not passing.size:
        return np.zeros(e.size, dtype=np.bool_)
    return np.asarray(e >= descending[passing[-1]], dtype=np.bool_)
