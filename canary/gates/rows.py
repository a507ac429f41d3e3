"""From pairs to the integers that one gate counts."""

import math

import numpy as np

from canary.evidence.blocks import Ints
from canary.evidence.pairs import Bools, Floats, Pairs
from canary.evidence.strands import Rows
from canary.gates.common import in_regime, timings
from canary.policy.model import Gate, Policy
from canary.stats.grid import bins_of
from canary.traffic.seeds import stable_seed, stable_uniform

STEPS = 1_000_000
"""A score, or a weight, of 1 in whole steps."""

DISCRETE = {"memory": "peak_memory_bytes", "output_tokens": "output_tokens"}
"""Metrics of which many requests share a value, and their columns."""


def score_rows(gate: Gate, policy: Policy, pairs: Pairs, block: Ints) -> Rows:
    """Return a row per scored item: its group, how many items that has (0: not said),
    which of them it is, both scores.

    Tasks may name their groups alike, so a group is one of its task.
    """
    scope = in_regime(gate, policy, pairs) & pairs.quality
    if gate.task is not None:
        scope &= pairs.task == gate.task
    a = np.where(pairs.baseline.failed, 0.0, pairs.baseline.score)
    b = np.where(pairs.candidate.failed, 0.0, pairs.candidate.score)
    scope &= ~np.isnan(a) & ~np.isnan(b)
    units, names = pairs.unit[scope], pairs.request_id[scope]
    item = np.zeros(len(names), np.int64)  # what is alone needs no number
    several = units != names
    item[several] = [stable_seed("item", str(name)) for name in names[several]]
    return {
        "block": block[scope],
        "unit": pairs.task[scope] + "/" + units,
        "items": pairs.unit_items[scope],
        "item": item,
        "a": np.rint(a[scope] * STEPS).astype(np.int64),
        "b": np.rint(b[scope] * STEPS).astype(np.int64),
    }


def share_rows(
    gate: Gate, policy: Policy, pairs: Pairs, block: Ints, *, weighed: bool = False
) -> Rows:
    """Return a row per request: whether each arm did badly.

    Badly: failed, was slower than a limit, or (the candidate) didn't give the
    baseline's answer.
    """
    scope = in_regime(gate, policy, pairs)
    if gate.metric == "errors":
        a, b = pairs.baseline.failed, pairs.candidate.failed
    elif gate.metric == "agreement":
        scope &= ~np.isnan(pairs.agree)
        a, b = np.zeros(len(pairs), bool), pairs.agree < 0.5
    else:
        baseline, candidate, measured = timings(gate, pairs)
        scope &= measured
        limit_s = gate.over_s if gate.over_s is not None else math.inf
        a, b = baseline > limit_s, candidate > limit_s
    return request_rows(pairs, block, a, b, scope=scope, weighed=weighed)


def request_rows(
    pairs: Pairs,
    block: Ints,
    a: Bools | Floats,
    b: Bools | Floats,
    *,
    scope: Bools,
    weighed: bool = False,
) -> Rows:
    """Return a row per request in scope: two numbers and, if asked for, its weight.

    Times and sizes become bins; whether something went badly becomes 0 or 1.
    """
    values = {"a": a[scope], "b": b[scope]}
    columns = {"block": block[scope]} | {
        name: value if value.dtype == bool else bins_of(value)
        for name, value in values.items()
    }
    if weighed:
        columns["weight"] = np.rint(pairs.weight[scope] * STEPS)
    return {name: column.astype(np.int32) for name, column in columns.items()}


def bin_rows(
    gate: Gate, policy: Policy, pairs: Pairs, block: Ints, *, weighed: bool = False
) -> Rows:
    """Return a row per request: the bins of both arms' values."""
    scope = in_regime(gate, policy, pairs)
    column = DISCRETE.get(gate.metric)
    if column is None:
        a, b, measured = timings(gate, pairs)
    else:
        a, b = getattr(pairs.baseline, column), getattr(pairs.candidate, column)
        measured = pairs.timed & ~np.isnan(a) & ~np.isnan(b)
    scope &= measured
    return request_rows(pairs, block, a, b, scope=scope, weighed=weighed)


def fair_share(pairs: Pairs, heaviest: float) -> Bools:
    """Which pairs a gate on all traffic counts, where regimes were sampled unequally.

    A session stays with a probability in proportion to its weight, decided by a hash of
    its name, so that what stays is a fair sample of the traffic and needs no weights.
    """
    names = np.where(pairs.session == "", pairs.request_id, pairs.session)
    drawn = np.array([stable_uniform("fair", str(name)) for name in names])
    return drawn < pairs.weight / heaviest
