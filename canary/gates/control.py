"""The A/A control: the baseline's second copy, in the candidate's place.

Both answer alike, so that what is shown to differ comes from the device or its place.
A difference counts once it is shown to be more than half of a metric's tightest margin,
in either direction: a place that makes the candidate faster confounds just as well.
Peak memory is left out; it belongs to the process.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from canary.evidence.blocks import Ints
from canary.evidence.pairs import Bools, Pairs, Side
from canary.evidence.strands import Rows, Strand
from canary.gates.common import Scale, timings
from canary.gates.ratios import RatioScale
from canary.gates.rows import request_rows
from canary.gates.scales import rows_of, scale_of
from canary.gates.shares import ShareScale
from canary.policy.model import Gate, Policy
from canary.stats import harm_mixture
from canary.stats.grid import bins_of

_LEAST_RATIO = 1.01
"""A limit of 1.0x leaves no margin to halve; no two devices agree to the last bit."""

DEVICE_ONLY = {"latency": "service_s", "ttft": "ttft_send_s"}
"""Times in which only the device speaks. The copy answers a share of the requests, so
that its queue, which times from the arrival contain, isn't the baseline's."""

_WAYS = ("worse", "better")
"""The copy may be worse than the baseline, and the baseline worse than the copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlWeight:
    """The evidence that the two copies differ in one metric.

    `gate` asks for the tolerance where a limit asks for its margin; of several
    quantiles it has the one with most evidence. `by_quantile` says that this outweighs
    the comparison of single requests.
    """

    gate: Gate
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


class ControlScale:
    """Weighs whether the copies differ, block after block.

    Where they agree within every tolerance, the evidence ever reaches its threshold
    with probability at most the policy's alpha, a tenth of which is spent on the
    confidence sets of the quantile tests. No control: no weights, and an e-value of 1.
    """

    def __init__(self, policy: Policy, strand: Callable[[str], Strand]) -> None:
        alpha = policy.decision.alpha
        self._threshold = math.log(1 / (alpha - alpha / 10))
        # The control tells whenever it can, also where limits wait for the end.
        rules = policy.decision.model_copy(update={"mode": "sequential"})
        policy = policy.model_copy(update={"decision": rules})
        asked = questions(policy) if policy.aa_control else []
        quantiles = sum(len(gates) for gates in asked if gates[0].quantile)
        share = alpha / (2 * quantiles) if quantiles else alpha
        self.metrics = [
            _Quantiles(gates, policy, strand, share)
            if gates[0].quantile
            else _Difference(gates[0], policy, strand)
            for gates in asked
        ]

    def advance(self, *, arrived: int | None, closed: int | None) -> None:
        """Take the evidence of all base blocks that have ended, or closed."""
        for metric in self.metrics:
            metric.advance(arrived=arrived, closed=closed)

    def weigh(self) -> ControlEvidence:
        """Return the evidence so far."""
        weights = tuple(metric.weigh() for metric in self.metrics)
        return ControlEvidence(
            weights=weights,
            log_e_differs=_mean([weight.log_e_differs for weight in weights]),
            threshold=self._threshold,
        )


class _Difference:
    """Whether a share, or accuracy, differs by more than its tolerance."""

    def __init__(
        self, gate: Gate, policy: Policy, strand: Callable[[str], Strand]
    ) -> None:
        self.gate = gate
        self.scales = [
            scale_of(gate, policy, strand(name), harm_alpha=1.0)
            for name in _names(gate)
        ]

    def advance(self, *, arrived: int | None, closed: int | None) -> None:
        upto = arrived if self.gate.metric == "accuracy" else closed
        for scale in self.scales:
            scale.advance(upto)

    def weigh(self) -> ControlWeight:
        found = [scale.weigh(None).log_e_broken for scale in self.scales]
        return ControlWeight(
            gate=self.gate, log_e_differs=_mean(found), by_quantile=False
        )


class _Quantiles:
    """Whether a time differs: the mean of a test on single requests, which shows a slow
    device after some ten pairs, and of the limits' own tests of quantiles, which see
    the tail."""

    def __init__(
        self,
        gates: tuple[Gate, ...],
        policy: Policy,
        strand: Callable[[str], Strand],
        alpha: float,
    ) -> None:
        self.gates = gates
        self.single = [
            ShareScale(gates[0], policy, strand(name), margin=0.0)
            for name in _names(gates[0], "single ")
        ]
        self.by_gate: list[list[Scale]] = [
            [
                RatioScale(gate, policy, strand(name), harm_alpha=alpha)
                for name in _names(gate)
            ]
            for gate in gates
        ]

    def advance(self, *, arrived: int | None, closed: int | None) -> None:
        del arrived
        for scale in (*self.single, *(one for some in self.by_gate for one in some)):
            scale.advance(closed)

    def weigh(self) -> ControlWeight:
        single = [scale.tally.log_e_broken() for scale in self.single]
        by_gate = [
            [scale.weigh(None).log_e_broken for scale in scales]
            for scales in self.by_gate
        ]
        strength = [max(found) for found in by_gate]
        quantiles = _mean([_mean(found) for found in by_gate])
        return ControlWeight(
            gate=self.gates[int(np.argmax(strength))],
            log_e_differs=_mean([_mean(single), quantiles]),
            by_quantile=max(strength) > max(single),
        )


def questions(policy: Policy) -> list[tuple[Gate, ...]]:
    """Return per metric and kind of limit a gate, or one for each of its quantiles."""
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


def control_rows(
    policy: Policy, control: Pairs, own: Ints, unit: Ints
) -> Iterator[tuple[str, Rows]]:
    """Yield what the control counts: for every question its rows, both ways."""
    worse = _compared(control)
    better = replace(worse, baseline=worse.candidate, candidate=worse.baseline)
    for gates in questions(policy):
        for way, pairs in zip(_WAYS, (worse, better), strict=True):
            for gate in gates:
                rows = rows_of(gate, policy, pairs, own, unit)
                yield _name(gate, way), rows
            if gates[0].quantile:
                rows = _single_rows(gates[0], pairs, unit)
                yield _name(gates[0], way, "single "), rows


def _single_rows(gate: Gate, pairs: Pairs, unit: Ints) -> Rows:
    """Whether each request took over the tolerance longer, as wins and losses, and the
    bin of its own ratio; 1 where both failed."""
    a, b, measured = timings(gate, pairs)
    slower = b > ratio_of(gate) * a
    rows = request_rows(pairs, unit, ~slower, slower, scope=measured)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(a == b, 1.0, b / a)[measured]
    return {**rows, "ratio": bins_of(ratios)}


def _compared(control: Pairs) -> Pairs:
    """Put times that count from the send in the place of those from the arrival, where
    both copies have them."""
    baseline, candidate = control.baseline, control.candidate
    for metric, column in DEVICE_ONLY.items():
        known, name = _sent(control, column), f"{metric}_s"
        baseline = _instead(baseline, name, column, known)
        candidate = _instead(candidate, name, column, known)
    return replace(control, baseline=baseline, candidate=candidate)


def _instead(side: Side, name: str, column: str, known: Bools) -> Side:
    chosen = np.where(known, getattr(side, column), getattr(side, name))
    return replace(side, **{name: chosen})


def sent_columns(control: Pairs) -> dict[str, list[str]]:
    """Return which metrics both copies have from the send on, and in which column."""
    return {
        metric: [column]
        for metric, column in DEVICE_ONLY.items()
        if np.any(_sent(control, column))
    }


def _sent(control: Pairs, column: str) -> Bools:
    a, b = getattr(control.baseline, column), getattr(control.candidate, column)
    return np.asarray(control.timed & ~np.isnan(a) & ~np.isnan(b), bool)


def _name(gate: Gate, way: str, kind: str = "") -> str:
    return f"control {kind}{way} {gate.name}"


def _names(gate: Gate, kind: str = "") -> list[str]:
    return [_name(gate, way, kind) for way in _WAYS]


def ratio_of(gate: Gate) -> float:
    """Return the ratio of a gate that has one."""
    if gate.max_ratio is None:
        raise ValueError(f"gate {gate.name} has no ratio to tolerate")
    return gate.max_ratio


def _mean(log_es: list[float]) -> float:
    return harm_mixture(log_es, [1 / len(log_es)] * len(log_es)) if log_es else 0.0
