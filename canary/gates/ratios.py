"""Gates on the ratio of two quantiles: paired, over a set for the baseline's own."""

import math
from dataclasses import dataclass

import numpy as np

from canary.decision import GateResult, GateStatus
from canary.evidence.pairs import Floats, Pairs
from canary.gates.common import Weight, in_regime, no_evidence, timings
from canary.policy.model import Gate, Policy
from canary.stats import (
    paired_quantile_log_e,
    quantile_pairs_needed,
    quantile_ranks,
    quantile_ratio_bounds,
)

LOAD_LIMIT = 0.9
"""Above this share of busy time a queue says more about the load than the variant."""

_FIRST_RESTART = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """Is the candidate's p-quantile at most `ratio` times the baseline's?"""

    baseline: Floats
    candidate: Floats
    p: float
    ratio: float


def weigh(gate: Gate, policy: Policy, pairs: Pairs, load: float | None) -> Weight:
    """Return the evidence that the ratio of quantiles keeps, or breaks, its limit."""
    alpha, harm_alpha = policy.decision.alpha, policy.decision.harm_alpha
    threshold = math.log(1 / (alpha - alpha / 10))
    question = _question(gate, policy, pairs)
    if gate.metric in ("ttft", "latency") and load is not None and load > LOAD_LIMIT:
        reason = (
            f"the baseline is busy {load:.0%} of the time, over {LOAD_LIMIT:.0%}: its "
            "queue, not the variant, would decide; lower traffic.speed"
        )
        return no_evidence(reason, threshold, more_would_help=False)
    few = _too_few(question, alpha)
    if few is not None:
        return no_evidence(few, threshold)
    sharing = sum(other.max_ratio is not None for other in policy.gates)
    return Weight(
        log_e_hold=paired_quantile_log_e(
            question.baseline,
            question.candidate,
            p=question.p,
            ratio=question.ratio,
            alpha=alpha,
            hypothesis="hold",
        ),
        log_e_broken=_late_onset_log_e(question, harm_alpha / sharing),
        threshold_hold=threshold,
    )


def describe(
    gate: Gate, policy: Policy, pairs: Pairs, weight: Weight, status: GateStatus
) -> GateResult:
    """Return the gate's result; what has no finite value is None."""
    question = _question(gate, policy, pairs)
    a = _sample_quantile(question.baseline, question.p)
    b = _sample_quantile(question.candidate, question.p)
    lower, upper = _bounds(question, policy.decision.alpha)
    estimate = b / a if a is not None and b is not None and a > 0 else None
    units = len(question.baseline)
    needed: int | None = units
    if status in (GateStatus.UNDECIDED, GateStatus.INSUFFICIENT):
        needed = None
        if weight.more_would_help:
            needed = _units_needed(question, policy, estimate)
    return GateResult(
        name=gate.name,
        metric=gate.metric,
        task=None,
        regime=gate.regime,
        quantile=question.p,
        over_s=None,
        effect="ratio",
        unit={"memory": "bytes", "tpot": "s/token"}.get(gate.metric, "s"),
        limit=question.ratio,
        at_least=False,
        estimate=estimate,
        lower=lower,
        upper=upper,
        baseline=a,
        candidate=b,
        log_e_hold=weight.log_e_hold,
        log_e_broken=weight.log_e_broken,
        units=units,
        units_needed=needed,
        status=status,
        threshold_hold=weight.threshold_hold,
        reason=weight.insufficient,
    )


def harm_log_e(gate: Gate, policy: Policy, pairs: Pairs, *, alpha: float) -> float:
    """Return the evidence that the limit is broken, also if it was late.

    To be compared with ln(1 / (alpha - alpha/10)), as `weigh` says of its own.
    """
    return _late_onset_log_e(_question(gate, policy, pairs), alpha)


def _question(gate: Gate, policy: Policy, pairs: Pairs) -> _Question:
    if gate.quantile is None or gate.max_ratio is None:
        raise ValueError(f"gate {gate.name} lacks a quantile or a ratio")
    if gate.metric == "memory":
        a, b = pairs.baseline.peak_memory_bytes, pairs.candidate.peak_memory_bytes
        measured = pairs.timed & ~np.isnan(a) & ~np.isnan(b)
    else:
        a, b, measured = timings(gate, pairs)
    keep = measured & in_regime(gate, policy, pairs)
    return _Question(
        baseline=_without_ties(a[keep]),
        candidate=b[keep],
        p=gate.quantile,
        ratio=gate.max_ratio,
    )


def _without_ties(values: Floats) -> Floats:
    """Break ties by up to a billionth, the same for the n-th value at every look.

    The test asks who is above and who is below the baseline's quantile; a value that
    many requests share, as peak memory is, would leave nobody on either side.
    """
    jitter = np.random.default_rng(0).random(len(values))
    return values * (1 + 1e-9 * jitter)


def _too_few(question: _Question, alpha: float) -> str | None:
    units, p = len(question.baseline), question.p
    if not units:
        return "no request has this measured for both arms"
    if quantile_ranks(units, p, alpha=alpha / 10)[1] <= units:
        return None
    return (
        f"{units:,} requests can't bound the baseline's p{p * 100:g} from above, "
        f"which takes at least {_least_units(p, alpha):,}"
    )


def _least_units(p: float, alpha: float) -> int:
    least = quantile_pairs_needed(
        [], [], p=p, ratio=1.0, alpha=alpha, hypothesis="hold"
    )
    if least is None:
        raise ValueError(f"no number of requests bounds a quantile of {p}")
    return least


def _late_onset_log_e(question: _Question, alpha: float) -> float:
    """Evidence for harm, also for harm that begins late.

    The test starts anew after 0, 64, 128, 256, ... requests. Start j weighs
    6 / (pi^2 j^2) and what has not started counts as 1, so that the sum stays an
    e-process (Shin, Ramdas and Rinaldo 2024, e-detectors). Each start has a confidence
    set of its own for the baseline's quantile, at its weight's share of alpha / 10:
    all of them hold at once with the probability that a single one would.
    """
    terms: list[float] = []
    unstarted = 1.0
    start, j = 0, 1
    while start < len(question.baseline):
        weight = 6 / (math.pi**2 * j**2)
        unstarted -= weight
        log_e = paired_quantile_log_e(
            question.baseline[start:],
            question.candidate[start:],
            p=question.p,
            ratio=question.ratio,
            alpha=alpha * weight,
            hypothesis="broken",
        )
        terms.append(math.log(weight) + log_e)
        start, j = max(_FIRST_RESTART, start * 2), j + 1
    return float(np.logaddexp.reduce([*terms, math.log(unstarted)]))


def _bounds(question: _Question, alpha: float) -> tuple[float | None, float | None]:
    if not len(question.baseline):
        return None, None
    lower, upper = quantile_ratio_bounds(
        question.baseline, question.candidate, p=question.p, alpha=alpha
    )
    return (
        lower if lower > 0 else None,
        upper if math.isfinite(upper) else None,
    )


def _units_needed(
    question: _Question, policy: Policy, estimate: float | None
) -> int | None:
    rules = policy.decision
    holding = estimate is not None and estimate <= question.ratio
    return quantile_pairs_needed(
        question.baseline,
        question.candidate,
        p=question.p,
        ratio=question.ratio,
        alpha=rules.alpha if holding else rules.harm_alpha,
        hypothesis="hold" if holding else "broken",
    )


def _sample_quantile(values: Floats, p: float) -> float | None:
    """The least value that a share of at least `p` doesn't exceed; None if infinite."""
    if not len(values):
        return None
    value = float(np.quantile(values, p, method="inverted_cdf"))
    return value if math.isfinite(value) else None
