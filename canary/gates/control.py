"""The A/A control: the baseline's second copy, in the candidate's place.

Both answer alike, so that what is shown to differ comes from the device or its place.
A difference counts once it is shown to be more than half of a metric's tightest margin,
in either direction: a place that makes the candidate faster confounds just as well.
Peak memory is left out; it belongs to the process.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from canary.decision import Control, ControlStatus, GateResult, GateStatus
from canary.evidence.pairs import Floats, Pairs, Side
from canary.gates import differences, ratios
from canary.gates.common import Weight, timings
from canary.policy.model import Gate, Policy
from canary.stats import harm_mixture, late_onset_log_e, paired_log_e

_LEAST_RATIO = 1.01
"""A limit of 1.0x leaves no margin to halve; no two devices agree to the last bit."""

_DEVICE_ONLY = {"latency": "service_s", "ttft": "ttft_send_s"}
"""Times in which only the device speaks. The copy answers a share of the requests, so
that its queue, which times from the arrival contain, isn't the baseline's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlWeight:
    """The evidence that the two copies differ in one metric.

    `gate` asks for the tolerance where a limit asks for its margin; of several
    quantiles it has the one with most evidence. `by_quantile` says that this outweighs
    the comparison of single requests.
    """

    gate: Gate
    column: str
    log_e_differs: float
    by_quantile: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlEvidence:
    """All metrics' evidence; together it is one e-value, the mean."""

    weights: tuple[ControlWeight, ...]
    log_e_differs: float
    threshold: float

    @property
    def differs(self) -> bool:
        """Whether the copies are shown to differ."""
        return self.log_e_differs >= self.threshold


def weigh_control(policy: Policy, pairs: Pairs) -> ControlEvidence:
    """Return the evidence that the baseline's second copy differs from the baseline.

    Where they agree within every tolerance, it ever reaches its threshold with
    probability at most the policy's alpha, a tenth of which is spent on the
    confidence sets of the quantile tests. No control: no weights, and an e-value of 1.
    """
    alpha = policy.decision.alpha
    weights: tuple[ControlWeight, ...] = ()
    if policy.aa_control and pairs.control is not None:
        compared, columns = _compared(pairs.control)
        questions = _questions(policy)
        quantiles = sum(len(asked) for asked in questions if asked[0].quantile)
        weights = tuple(
            _weigh_ratio(asked, policy, compared, columns, alpha / (2 * quantiles))
            if asked[0].quantile
            else _weigh_difference(asked[0], policy, compared, columns)
            for asked in questions
        )
    return ControlEvidence(
        weights=weights,
        log_e_differs=_mean([weight.log_e_differs for weight in weights]),
        threshold=math.log(1 / (alpha - alpha / 10)),
    )


def describe_control(
    policy: Policy, pairs: Pairs, evidence: ControlEvidence
) -> tuple[Control, ...]:
    """Return everything a report says about the control, with estimates and bounds.

    A metric counts as different when its own share of the mean reaches the threshold,
    or when it carries most of a mean that only all metrics together have reached.
    """
    if pairs.control is None or not evidence.weights:
        return ()
    compared, _ = _compared(pairs.control)
    alone = evidence.threshold + math.log(len(evidence.weights))
    strongest = max(weight.log_e_differs for weight in evidence.weights)
    return tuple(
        _describe(
            weight,
            policy,
            compared,
            differs=weight.log_e_differs >= alone
            or (evidence.differs and weight.log_e_differs == strongest),
        )
        for weight in evidence.weights
    )


def _questions(policy: Policy) -> list[tuple[Gate, ...]]:
    """Per metric and kind of limit: one gate, or one for each of its quantiles."""
    alike: dict[tuple[str, float | None, bool], list[Gate]] = {}
    for gate in policy.gates:
        if gate.metric != "memory":
            kind = (gate.metric, gate.over_s, gate.max_ratio is None)
            alike.setdefault(kind, []).append(gate)
    return [_tolerating(gates) for gates in alike.values()]


def _tolerating(gates: list[Gate]) -> tuple[Gate, ...]:
    """Half of the tightest margin, on all prompts and tasks: a device knows neither."""
    changes: dict[str, object] = {"task": None, "regime": None}
    margins = [gate.margin for gate in gates if gate.margin is not None]
    if margins:
        return (gates[0].model_copy(update={**changes, "margin": min(margins) / 2}),)
    logs = [abs(math.log(gate.max_ratio)) for gate in gates if gate.max_ratio]
    changes["max_ratio"] = max(math.exp(min(logs) / 2), _LEAST_RATIO)
    quantiles = sorted({gate.quantile for gate in gates if gate.quantile})
    return tuple(gates[0].model_copy(update={**changes, "quantile": p})
                 for p in quantiles)  # fmt: skip


def _compared(control: Pairs) -> tuple[Pairs, dict[str, str]]:
    """Put times that count from the send in the place of those from the arrival, where
    they were measured at all, and say which column each metric then has."""
    columns = {"accuracy": "score", "errors": "status", "tpot": "tpot_s",
               "service": "service_s"}  # fmt: skip
    chosen = {}
    for metric, column in _DEVICE_ONLY.items():
        a, b = getattr(control.baseline, column), getattr(control.candidate, column)
        known = control.timed & ~np.isnan(a) & ~np.isnan(b)
        columns[metric] = column if known.any() else f"{metric}_s"
        chosen[f"{metric}_s"] = columns[metric]

    def side(arm: Side) -> Side:
        taken = {name: getattr(arm, column) for name, column in chosen.items()}
        return replace(arm, **taken)

    baseline, candidate = side(control.baseline), side(control.candidate)
    return replace(control, baseline=baseline, candidate=candidate), columns


def _both_ways(pairs: Pairs) -> tuple[Pairs, Pairs]:
    """The copy may be worse than the baseline, and the baseline worse than the copy."""
    turned = replace(pairs, baseline=pairs.candidate, candidate=pairs.baseline)
    return pairs, turned


def _weigh_difference(
    gate: Gate, policy: Policy, compared: Pairs, columns: dict[str, str]
) -> ControlWeight:
    found = [
        differences.weigh(gate, policy, pairs).log_e_broken
        for pairs in _both_ways(compared)
    ]
    return ControlWeight(
        gate=gate,
        column=columns[gate.metric],
        log_e_differs=_mean(found),
        by_quantile=False,
    )


def _weigh_ratio(
    asked: tuple[Gate, ...],
    policy: Policy,
    compared: Pairs,
    columns: dict[str, str],
    alpha: float,
) -> ControlWeight:
    """The mean of a test on single requests, which shows a slow device after some ten
    pairs, and of the limits' own tests of quantiles, which see the tail."""
    single = [_slower_log_e(asked[0], pairs) for pairs in _both_ways(compared)]
    by_gate = [
        [
            ratios.harm_log_e(gate, policy, pairs, alpha=alpha)
            for pairs in _both_ways(compared)
        ]
        for gate in asked
    ]
    strength = [max(found) for found in by_gate]
    quantiles = _mean([_mean(found) for found in by_gate])
    return ControlWeight(
        gate=asked[int(np.argmax(strength))],
        column=columns[asked[0].metric],
        log_e_differs=_mean([_mean(single), quantiles]),
        by_quantile=max(strength) > max(single),
    )


def _slower_log_e(gate: Gate, pairs: Pairs) -> float:
    """Evidence that more than half of the requests take over the tolerance longer."""
    a, b, measured = timings(gate, pairs)
    slower = b[measured] > _ratio(gate) * a[measured]
    return late_onset_log_e(
        np.where(slower, 1.0, -1.0), null_mean=0.0, low=-1.0, high=1.0
    )


def _mean(log_es: list[float]) -> float:
    return harm_mixture(log_es, [1 / len(log_es)] * len(log_es)) if log_es else 0.0


def _describe(
    weight: ControlWeight, policy: Policy, compared: Pairs, *, differs: bool
) -> Control:
    gate, alpha = weight.gate, policy.decision.alpha
    by_quantile = differs and weight.by_quantile
    if gate.quantile and not by_quantile:
        values = _request_ratios(gate, compared)
        estimate, lower, upper = _median_and_bounds(values, alpha)
        units = len(values)
    else:
        found = _as_gate(weight, policy, compared)
        estimate, lower, upper = found.estimate, found.lower, found.upper
        units = found.units
    tolerance = gate.margin if gate.margin is not None else _ratio(gate)
    inside = 1 / tolerance if gate.quantile else -tolerance
    status = ControlStatus.UNKNOWN
    if differs:
        status = ControlStatus.DIFFERS
    elif lower is not None and upper is not None:
        agrees = inside <= lower and upper <= tolerance
        status = ControlStatus.AGREES if agrees else ControlStatus.UNKNOWN
    return Control(
        metric=gate.metric,
        column=weight.column,
        effect="ratio" if gate.quantile else "difference",
        quantile=gate.quantile if by_quantile else None,
        over_s=gate.over_s,
        tolerance=tolerance,
        estimate=estimate,
        lower=lower,
        upper=upper,
        pairs=units,
        log_e_differs=weight.log_e_differs,
        status=status,
    )


def _as_gate(weight: ControlWeight, policy: Policy, compared: Pairs) -> GateResult:
    """What a limit would report; as broken, since nobody asks how many are needed."""
    of_gate = Weight(
        log_e_hold=0.0,
        log_e_broken=weight.log_e_differs,
        threshold_hold=math.inf,
    )
    describe = ratios.describe if weight.gate.quantile else differences.describe
    return describe(weight.gate, policy, compared, of_gate, GateStatus.BROKEN)


def _request_ratios(gate: Gate, compared: Pairs) -> Floats:
    """Copy / baseline per request, in order of size; 1 where both failed."""
    a, b, measured = timings(gate, compared)
    a, b = a[measured], b[measured]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sort(np.where(a == b, 1.0, b / a))


def _median_and_bounds(
    values: Floats, alpha: float
) -> tuple[float | None, float | None, float | None]:
    """Invert the test on single requests, without its restarts: `least` of n ratios
    on one side of a number show that the median is on that side too."""
    if not len(values):
        return None, None, None
    count, threshold = len(values), math.log(1 / alpha)
    low, least = 0, count + 1
    while least - low > 1:
        middle = (low + least) // 2
        shown = paired_log_e(middle, 0, count - middle) >= threshold
        low, least = (low, middle) if shown else (middle, least)
    estimate = float(np.median(values))
    lower, upper = 0.0, math.inf
    if least <= count:
        lower, upper = float(values[count - least]), float(values[least - 1])
    return (
        estimate if math.isfinite(estimate) else None,
        lower if lower > 0 else None,
        upper if math.isfinite(upper) else None,
    )


def _ratio(gate: Gate) -> float:
    if gate.max_ratio is None:
        raise ValueError(f"gate {gate.name} has no ratio to tolerate")
    return gate.max_ratio
