"""Estimates with the weights that requests were stored with, beside the gates' own."""

from dataclasses import replace

import numpy as np

from canary.decision import GateResult
from canary.evidence.blocks import Ints
from canary.gates.evidence import Evidence, weighted
from canary.policy.model import Gate
from canary.stats.betting import Floats
from canary.stats.grid import INFINITE_BIN, upper_ends


def with_weights(result: GateResult, gate: Gate, evidence: Evidence) -> GateResult:
    """Return a result with its weighted estimate, where weights differ.

    Each request counts as often as it stands for others (Horvitz and Thompson, JASA
    1952): regimes of which a larger share was sampled count no more than they should.
    """
    rows = evidence.strand(weighted(gate.name)).canonical()
    if rows is None:
        return result
    a, b = np.asarray(rows["a"], np.int64), np.asarray(rows["b"], np.int64)
    weights = rows["weight"].astype(np.float64)
    estimate: float | None
    if gate.quantile is None:
        estimate = float((b - a) @ weights / weights.sum())
    else:
        estimate = _ratio(a, b, weights, gate.quantile)
    return replace(result, weighted_estimate=estimate)


def _ratio(a: Ints, b: Ints, weights: Floats, p: float) -> float | None:
    low, high = _quantile(a, weights, p), _quantile(b, weights, p)
    if low is None or high is None:
        return None
    ends = upper_ends([low, high])
    return float(ends[1] / ends[0]) if ends[0] > 0 else None


def _quantile(bins: Ints, weights: Floats, p: float) -> int | None:
    order = np.argsort(bins, kind="stable")
    upto = np.cumsum(weights[order])
    found = int(bins[order][np.searchsorted(upto, p * upto[-1])])
    return found if found < INFINITE_BIN else None
