"""One gate against the evidence: two e-processes about one limit, and its estimates.

`weigh` is what every look costs: the evidence that the limit holds and the evidence
that it is broken. `describe` adds what a reader wants to see (estimate, bounds, how
many units are still needed) and is called once, for the look that is reported.

A difference is always written so that a positive value is good for the candidate;
`GateResult` turns it round for errors and slow shares, where more is worse.
"""

import math
from dataclasses import dataclass

import numpy as np

from canary.decision import GateResult, GateStatus
from canary.evidence.pairs import Bools, Floats, Pairs, Side
from canary.policy.model import TIMED_METRICS, Gate, Policy, regime_names
from canary.stats import (
    betting_log_e,
    betting_mean_bounds,
    late_onset_log_e,
    paired_quantile_log_e,
    quantile_pairs_needed,
    quantile_ranks,
    quantile_ratio_bounds,
)

LOAD_LIMIT = 0.9
"""Above this share of busy time a queue says more about the load than the variant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """The evidence about one limit: ln of the e-values, and when it counts as shown."""

    log_e_hold: float
    log_e_broken: float
    threshold_hold: float
    insufficient: str | None = None

    @property
    def holds(self) -> bool:
        """Whether the limit is shown to hold."""
        return self.insufficient is None and self.log_e_hold >= self.threshold_hold


@dataclass(frozen=True, slots=True, kw_only=True)
class _Differences:
    """Per unit: candidate better (+) or worse (-), in [-1, 1], and both arms' values."""

    values: Floats
    baseline: Floats
    candidate: Floats


def weigh(gate: Gate, policy: Policy, pairs: Pairs, load: float | None) -> Weight:
    """Return the evidence about `gate` in all of `pairs`.

    Args:
        gate: The limit.
        policy: Its policy, for alpha and the regimes.
        pairs: What this look may see.
        load: The baseline's busy share of the time; None if unknown.
    """
    if gate.max_ratio is None:
        return _weigh_difference(gate, policy, pairs)
    return _weigh_ratio(gate, gate.max_ratio, policy, pairs, load)


def describe(
    gate: Gate, policy: Policy, pairs: Pairs, weight: Weight, *, broken: bool
) -> GateResult:
    """Return everything a report says about `gate`; `broken` is the judge's finding."""
    status = _status(weight, broken=broken)
    if gate.max_ratio is None:
        return _describe_difference(gate, policy, pairs, weight, status)
    return _describe_ratio(gate, gate.max_ratio, policy, pairs, weight, status)


def _status(weight: Weight, *, broken: bool) -> GateStatus:
    if broken:
        return GateStatus.BROKEN
    if weight.insufficient is not None:
        return GateStatus.INSUFFICIENT
    return GateStatus.HOLDS if weight.holds else GateStatus.UNDECIDED


# ---------------------------------------------------------------- differences


def _weigh_difference(gate: Gate, policy: Policy, pairs: Pairs) -> Weight:
    values = _differences(gate, policy, pairs).values
    limit = -_margin(gate)
    threshold = math.log(1 / policy.decision.alpha)
    if not len(values):
        return Weight(
            log_e_hold=0.0,
            log_e_broken=0.0,
            threshold_hold=threshold,
            insufficient="no request of this kind has been answered by both arms yet",
        )
    return Weight(
        log_e_hold=betting_log_e(values, null_mean=limit, low=-1.0, high=1.0),
        log_e_broken=late_onset_log_e(
            values, null_mean=limit, low=-1.0, high=1.0, alternative="less"
        ),
        threshold_hold=threshold,
    )


def _differences(gate: Gate, policy: Policy, pairs: Pairs) -> _Differences:
    scope = _in_regime(gate, policy, pairs)
    if gate.metric == "accuracy":
        return _score_differences(gate, pairs, scope)
    if gate.metric == "errors":
        baseline, candidate = pairs.baseline.failed, pairs.candidate.failed
    else:
        a, b, measured = _timings(gate, pairs)
        scope = scope & measured
        limit_s = gate.over_s if gate.over_s is not None else math.inf
        baseline, candidate = a > limit_s, b > limit_s
    a_share = baseline[scope].astype(np.float64)
    b_share = candidate[scope].astype(np.float64)
    return _Differences(values=a_share - b_share, baseline=a_share, candidate=b_share)


def _score_differences(gate: Gate, pairs: Pairs, scope: Bools) -> _Differences:
    """One value per validation group whose items have all been answered, in the order
    in which the groups were completed."""
    scope = scope & pairs.quality
    if gate.task is not None:
        scope = scope & (pairs.task == gate.task)
    baseline = np.where(pairs.baseline.failed, 0.0, pairs.baseline.score)[scope]
    candidate = np.where(pairs.candidate.failed, 0.0, pairs.candidate.score)[scope]
    scored = ~np.isnan(baseline) & ~np.isnan(candidate)
    if not scored.any():
        empty = np.zeros(0)
        return _Differences(values=empty, baseline=empty, candidate=empty)
    _, group = np.unique(pairs.unit[scope][scored].astype(str), return_inverse=True)
    items = np.bincount(group)
    expected = np.zeros(len(items), np.int64)
    np.maximum.at(expected, group, pairs.unit_items[scope][scored])
    completed = np.zeros(len(items), np.int64)
    np.maximum.at(completed, group, np.arange(len(group)))
    closed = np.flatnonzero(items >= expected)
    order = closed[np.argsort(completed[closed], kind="stable")]
    a_mean = (np.bincount(group, baseline[scored]) / items)[order]
    b_mean = (np.bincount(group, candidate[scored]) / items)[order]
    return _Differences(values=b_mean - a_mean, baseline=a_mean, candidate=b_mean)


def _describe_difference(
    gate: Gate, policy: Policy, pairs: Pairs, weight: Weight, status: GateStatus
) -> GateResult:
    found = _differences(gate, policy, pairs)
    more_is_better = gate.metric == "accuracy"
    known = len(found.values) > 0
    estimate = float(found.values.mean()) if known else None
    lower: float | None = None
    upper: float | None = None
    if known:
        alpha = policy.decision.alpha
        lower, upper = betting_mean_bounds(found.values, low=-1.0, high=1.0, alpha=alpha)
    if not more_is_better and known and estimate is not None:
        estimate, lower, upper = -estimate, _negated(upper), _negated(lower)
    margin = _margin(gate)
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
        baseline=float(found.baseline.mean()) if known else None,
        candidate=float(found.candidate.mean()) if known else None,
        log_e_hold=weight.log_e_hold,
        log_e_broken=weight.log_e_broken,
        units=len(found.values),
        units_needed=_units_needed(found.values, margin, policy, weight, status),
        status=status,
        threshold_hold=weight.threshold_hold,
        reason=weight.insufficient,
    )


def _negated(value: float | None) -> float | None:
    return None if value is None else -value


def _units_needed(
    values: Floats, margin: float, policy: Policy, weight: Weight, status: GateStatus
) -> int | None:
    """Repeat the differences seen so far until one of the two is shown."""
    if status in (GateStatus.HOLDS, GateStatus.BROKEN):
        return len(values)
    if not len(values):
        return None
    holding = float(values.mean()) > -margin
    threshold = (
        weight.threshold_hold if holding else math.log(1 / policy.decision.harm_alpha)
    )

    def shown(times: int) -> bool:
        log_e = betting_log_e(
            np.tile(values, times),
            null_mean=-margin,
            low=-1.0,
            high=1.0,
            alternative="greater" if holding else "less",
        )
        return log_e >= threshold

    times = 1
    while not shown(times):
        times *= 2
        if times * len(values) > 10_000_000:
            return None
    low, high = times // 2, times
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if shown(middle) else (middle, high)
    return high * len(values)


# --------------------------------------------------------------------- ratios


def _weigh_ratio(
    gate: Gate, ratio: float, policy: Policy, pairs: Pairs, load: float | None
) -> Weight:
    alpha = policy.decision.alpha
    threshold = math.log(1 / (alpha - alpha / 10))
    baseline, candidate = _ratio_samples(gate, policy, pairs)
    p = _quantile(gate)
    reason = _not_enough(gate, len(baseline), load, alpha)
    if reason is not None:
        return Weight(
            log_e_hold=0.0,
            log_e_broken=0.0,
            threshold_hold=threshold,
            insufficient=reason,
        )
    hold = paired_quantile_log_e(baseline, candidate, p=p, ratio=ratio, alpha=alpha)
    shared = sum(other.max_ratio is not None for other in policy.gates)
    broken = _late_onset_quantile_log_e(
        baseline, candidate, p, ratio, policy.decision.harm_alpha / shared
    )
    return Weight(log_e_hold=hold, log_e_broken=broken, threshold_hold=threshold)


def _not_enough(
    gate: Gate, units: int, load: float | None, alpha: float
) -> str | None:
    if gate.metric in ("ttft", "latency") and load is not None and load > LOAD_LIMIT:
        return (
            f"the baseline is busy {load:.0%} of the time, over {LOAD_LIMIT:.0%}: its "
            "queue, not the variant, would decide; lower traffic.speed"
        )
    p = _quantile(gate)
    if units and quantile_ranks(units, p, alpha=alpha / 10)[1] <= units:
        return None
    return (
        f"{units:,} requests so far bound the baseline's p{p * 100:g} on one side only: "
        f"{_least_units(p, alpha / 10):,} are needed for a finite bound"
    )


def _least_units(p: float, alpha: float) -> int:
    low, high = 1, 2
    while quantile_ranks(high, p, alpha=alpha)[1] > high:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        finite = quantile_ranks(middle, p, alpha=alpha)[1] <= middle
        low, high = (low, middle) if finite else (middle, high)
    return high


def _late_onset_quantile_log_e(
    baseline: Floats, candidate: Floats, p: float, ratio: float, alpha: float
) -> float:
    """Evidence for harm, also for harm that begins late.

    The test starts anew after 0, 64, 128, 256, ... requests; start j weighs
    6 / (pi^2 j^2), what has not started counts as 1, so the sum stays an e-process
    (e-detectors: Shin, Ramdas and Rinaldo 2024). Each start builds its own confidence
    set for the baseline's quantile, at a level that is its weight's share of alpha / 10,
    so that all of them hold at once with the probability that one set would.
    """
    terms: list[float] = []
    unstarted = 1.0
    start, j = 0, 1
    while start < len(baseline):
        weight = 6 / (math.pi**2 * j**2)
        unstarted -= weight
        log_e = paired_quantile_log_e(
            baseline[start:],
            candidate[start:],
            p=p,
            ratio=ratio,
            alpha=alpha * weight,
            hypothesis="broken",
        )
        terms.append(math.log(weight) + log_e)
        start, j = max(64, start * 2), j + 1
    terms.append(math.log(unstarted))
    return float(np.logaddexp.reduce(terms))


def _describe_ratio(
    gate: Gate,
    ratio: float,
    policy: Policy,
    pairs: Pairs,
    weight: Weight,
    status: GateStatus,
) -> GateResult:
    baseline, candidate = _ratio_samples(gate, policy, pairs)
    p, alpha = _quantile(gate), policy.decision.alpha
    a, b = _sample_quantile(baseline, p), _sample_quantile(candidate, p)
    lower: float | None = None
    upper: float | None = None
    if len(baseline):
        low, high = quantile_ratio_bounds(baseline, candidate, p=p, alpha=alpha)
        lower = low if low > 0 else None
        upper = high if math.isfinite(high) else None
    estimate = b / a if a is not None and b is not None and a > 0 else None
    needed: int | None = len(baseline)
    if status in (GateStatus.UNDECIDED, GateStatus.INSUFFICIENT):
        needed = _ratio_units_needed(baseline, candidate, p, ratio, policy, estimate)
    return GateResult(
        name=gate.name,
        metric=gate.metric,
        task=None,
        regime=gate.regime,
        quantile=p,
        over_s=None,
        effect="ratio",
        unit={"memory": "bytes", "tpot": "s/token"}.get(gate.metric, "s"),
        limit=ratio,
        at_least=False,
        estimate=estimate,
        lower=lower,
        upper=upper,
        baseline=a,
        candidate=b,
        log_e_hold=weight.log_e_hold,
        log_e_broken=weight.log_e_broken,
        units=len(baseline),
        units_needed=needed,
        status=status,
        threshold_hold=weight.threshold_hold,
        reason=weight.insufficient,
    )


def _ratio_units_needed(
    baseline: Floats,
    candidate: Floats,
    p: float,
    ratio: float,
    policy: Policy,
    estimate: float | None,
) -> int | None:
    if not len(baseline):
        return _least_units(p, policy.decision.alpha / 10)
    holding = estimate is not None and estimate <= ratio
    return quantile_pairs_needed(
        baseline,
        candidate,
        p=p,
        ratio=ratio,
        alpha=policy.decision.alpha if holding else policy.decision.harm_alpha,
        hypothesis="hold" if holding else "broken",
    )


def _sample_quantile(values: Floats, p: float) -> float | None:
    """The least value that a share of at least `p` doesn't exceed; None if infinite."""
    if not len(values):
        return None
    value = float(np.quantile(values, p, method="inverted_cdf"))
    return value if math.isfinite(value) else None


# --------------------------------------------------------------------- shared


def _ratio_samples(gate: Gate, policy: Policy, pairs: Pairs) -> tuple[Floats, Floats]:
    scope = _in_regime(gate, policy, pairs)
    if gate.metric == "memory":
        a, b = pairs.baseline.peak_memory_bytes, pairs.candidate.peak_memory_bytes
        measured = pairs.timed & ~np.isnan(a) & ~np.isnan(b)
    else:
        a, b, measured = _timings(gate, pairs)
    keep = scope & measured
    return a[keep], b[keep]


def _timings(gate: Gate, pairs: Pairs) -> tuple[Floats, Floats, Bools]:
    """Both arms' times, infinite where a request failed, and where both are known."""
    assert gate.metric in TIMED_METRICS  # noqa: S101 - the policy loader allows no other
    a, b = _times(gate, pairs.baseline), _times(gate, pairs.candidate)
    return a, b, pairs.timed & ~np.isnan(a) & ~np.isnan(b)


def _times(gate: Gate, side: Side) -> Floats:
    measured: Floats = getattr(side, f"{gate.metric}_s")
    return np.where(side.failed, np.inf, measured)


def _in_regime(gate: Gate, policy: Policy, pairs: Pairs) -> Bools:
    if gate.regime is None:
        return np.ones(len(pairs), dtype=bool)
    wanted = regime_names(policy.regimes).index(gate.regime)
    found = np.searchsorted(policy.regimes, pairs.prompt_tokens, side="right")
    return np.asarray(found == wanted, dtype=bool)


def _margin(gate: Gate) -> float:
    if gate.margin is None:
        raise ValueError(f"gate {gate.name} has neither a margin nor a ratio")
    return gate.margin


def _quantile(gate: Gate) -> float:
    if gate.quantile is None:
        raise ValueError(f"gate {gate.name} has a ratio but no quantile")
    return gate.quantile
