"""Gates with a margin: accuracy, errors, and the share of slow requests.

A difference is written so that a positive value is good for the candidate; the result
turns it round for errors and slow shares, where more is worse.
"""

import math
from dataclasses import dataclass

import numpy as np

from canary.decision import GateResult, GateStatus
from canary.evidence.pairs import Bools, Floats, Pairs
from canary.gates.common import Weight, in_regime, no_evidence, timings
from canary.policy.model import Gate, Policy
from canary.stats import betting_log_e, betting_mean_bounds, late_onset_log_e

_AT_MOST_UNITS = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Differences:
    """Per unit: candidate better (+) or worse (-) in [-1, 1], and each arm's value."""

    values: Floats
    baseline: Floats
    candidate: Floats


def weigh(gate: Gate, policy: Policy, pairs: Pairs) -> Weight:
    """Return the evidence that the candidate is, or isn't, worse by over the margin."""
    found = _differences(gate, policy, pairs)
    values = found.values
    limit = -_margin(gate)
    threshold = math.log(1 / policy.decision.alpha)
    if not len(values):
        return no_evidence("both arms have answered nothing that it counts", threshold)
    reason = _nothing_to_lose(gate, found)
    if reason is not None:
        return no_evidence(reason, threshold, more_would_help=False)
    return Weight(
        log_e_hold=betting_log_e(values, null_mean=limit, low=-1.0, high=1.0),
        log_e_broken=late_onset_log_e(
            values, null_mean=limit, low=-1.0, high=1.0, alternative="less"
        ),
        threshold_hold=threshold,
    )


def describe(
    gate: Gate, policy: Policy, pairs: Pairs, weight: Weight, status: GateStatus
) -> GateResult:
    """Return the gate's result; all three numbers None if nothing was measured."""
    found = _differences(gate, policy, pairs)
    more_is_better = gate.metric == "accuracy"
    margin = _margin(gate)
    estimate = lower = upper = baseline = candidate = None
    if len(found.values):
        sign = 1.0 if more_is_better else -1.0
        bounds = betting_mean_bounds(
            found.values, low=-1.0, high=1.0, alpha=policy.decision.alpha
        )
        # Adding 0 turns -0.0 into 0.0, which no reader should have to wonder about.
        lower, upper = sorted(sign * bound + 0.0 for bound in bounds)
        estimate = sign * float(found.values.mean()) + 0.0
        baseline = float(found.baseline.mean())
        candidate = float(found.candidate.mean())
    return GateResult(
        name=gate.name,
        metric=gate.metric,
        task=gate.task,
        regime=gate.regime,
        quantile=None,
        over_s=gate.over_s,
        effect="difference",
        unit="share",
        limit=-margin if more_is_better else margin,
        at_least=more_is_better,
        estimate=estimate,
        lower=lower,
        upper=upper,
        baseline=baseline,
        candidate=candidate,
        log_e_hold=weight.log_e_hold,
        log_e_broken=weight.log_e_broken,
        units=len(found.values),
        units_needed=_units_needed(found.values, margin, policy, weight, status),
        status=status,
        threshold_hold=weight.threshold_hold,
        reason=weight.insufficient,
    )


def _nothing_to_lose(gate: Gate, found: _Differences) -> str | None:
    """Whether the baseline is so bad that no candidate could break the limit."""
    margin, baseline = _margin(gate), float(found.baseline.mean())
    if gate.metric == "accuracy" and baseline <= margin:
        return f"the baseline itself is right on only {baseline:.1%}, nothing to lose"
    if gate.metric != "accuracy" and baseline >= 1 - margin:
        what = "fails" if gate.metric == "errors" else "is slower than that"
        return f"the baseline itself {what} on {baseline:.1%}, nothing to lose"
    return None


def _differences(gate: Gate, policy: Policy, pairs: Pairs) -> _Differences:
    scope = in_regime(gate, policy, pairs)
    if gate.metric == "accuracy":
        return _score_differences(gate, pairs, scope)
    if gate.metric == "errors":
        baseline, candidate = pairs.baseline.failed, pairs.candidate.failed
    else:
        a, b, measured = timings(gate, pairs)
        scope = scope & measured
        limit_s = gate.over_s if gate.over_s is not None else math.inf
        baseline, candidate = a > limit_s, b > limit_s
    a_share = baseline[scope].astype(np.float64)
    b_share = candidate[scope].astype(np.float64)
    return _Differences(values=a_share - b_share, baseline=a_share, candidate=b_share)


def _score_differences(gate: Gate, pairs: Pairs, scope: Bools) -> _Differences:
    """One value per validation group, once all of its items have been answered, in the
    order in which the groups were completed: a mean over half a group would be looked
    at before it is known."""
    scope = scope & pairs.quality
    if gate.task is not None:
        scope = scope & (pairs.task == gate.task)
    baseline = np.where(pairs.baseline.failed, 0.0, pairs.baseline.score)
    candidate = np.where(pairs.candidate.failed, 0.0, pairs.candidate.score)
    scope = scope & ~np.isnan(baseline) & ~np.isnan(candidate)
    groups = pairs.unit[scope].astype(str)
    _, group, items = np.unique(groups, return_inverse=True, return_counts=True)
    expected = np.zeros(len(items), np.int64)
    np.maximum.at(expected, group, pairs.unit_items[scope])
    completed = np.zeros(len(items), np.int64)
    np.maximum.at(completed, group, np.arange(len(group)))
    closed = np.flatnonzero(items >= expected)
    order = closed[np.argsort(completed[closed], kind="stable")]
    a_mean = (np.bincount(group, baseline[scope], len(items)) / items)[order]
    b_mean = (np.bincount(group, candidate[scope], len(items)) / items)[order]
    return _Differences(values=b_mean - a_mean, baseline=a_mean, candidate=b_mean)


def _units_needed(
    values: Floats, margin: float, policy: Policy, weight: Weight, status: GateStatus
) -> int | None:
    """Repeat the differences seen so far until the limit is shown to hold, or to be
    broken, whichever they point to."""
    if status in (GateStatus.HOLDS, GateStatus.BROKEN):
        return len(values)
    if not len(values) or not weight.more_would_help:
        return None
    holding = float(values.mean()) > -margin
    rules = policy.decision
    threshold = weight.threshold_hold if holding else math.log(1 / rules.harm_alpha)

    def shown(times: int) -> bool:
        log_e = betting_log_e(
            np.tile(values, times),
            null_mean=-margin,
            low=-1.0,
            high=1.0,
            alternative="greater" if holding else "less",
        )
        return log_e >= threshold

    low, high = 0, 1
    while not shown(high):
        low, high = high, high * 2
        if high * len(values) > _AT_MOST_UNITS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if shown(middle) else (middle, high)
    return high * len(values)


def _margin(gate: Gate) -> float:
    if gate.margin is None:
        raise ValueError(f"gate {gate.name} has neither a margin nor a ratio")
    return gate.margin
