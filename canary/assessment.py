"""All limits of one policy on the evidence so far: what a look weighs.

A look costs what is new since the last one. The verdict follows from it alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from canary.decision import GateResult, Look, Validity, Verdict
from canary.gates import Evidence, Weight, scale_of, status_of
from canary.gates.books import Books
from canary.gates.control import ControlEvidence, ControlScale
from canary.gates.control_report import describe_control
from canary.gates.estimates import with_weights
from canary.gates.evidence import BOOKS, CONTROL
from canary.policy.model import Policy, regime_names
from canary.stats import harm_mixture
from canary.validity import validity_of
from canary.wording import control_reasons


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """One look, weighed: what the verdict follows from.

    `validity` doesn't say yet what the A/A control found; `control` does.
    """

    look: Look
    weights: tuple[Weight, ...]
    log_e_rollback: float
    validity: Validity
    control: ControlEvidence


class Assessment:
    """Weighs a policy's evidence at one look after the other.

    Args:
        policy: What is to be decided.
        evidence: What has been folded; more may be folded between two looks.
    """

    def __init__(self, policy: Policy, evidence: Evidence) -> None:
        self._policy, self._evidence = policy, evidence
        sharing = sum(gate.max_ratio is not None for gate in policy.gates)
        self._scales = [
            scale_of(
                gate,
                policy,
                evidence.strand(gate.name),
                harm_alpha=policy.decision.harm_alpha / max(sharing, 1),
                questions=evidence.questions,
            )
            for gate in policy.gates
        ]
        self._control = ControlScale(policy, evidence.strand)
        self._control_pairs = 0
        self.books = Books(regimes=regime_names(policy.regimes))

    def look(self, now_s: float, *, last: bool = False, over: bool = False) -> Weighed:
        """Return the state of all gates at a time of the run.

        Args:
            now_s: Counts what arrived before, as far as it can't change any more.
            last: Nothing that was folded arrived later.
            over: If it is the last, nothing more will come: blocks are as they are.
        """
        policy, evidence = self._policy, self._evidence
        arrived: int | None = evidence.arrived(now_s)
        closed: int | None = evidence.closed(now_s)
        if last:
            arrived = None
            closed = None if over or policy.decision.by_request else closed
        self.books.take(evidence.strand(BOOKS), arrived)
        control = evidence.strand(CONTROL)
        rows = control.take(arrived)
        self._control_pairs += 0 if rows is None else len(rows["pairs"])
        control.pack()
        for gate, scale in zip(policy.gates, self._scales, strict=True):
            scale.advance(arrived if gate.metric == "accuracy" else closed)
        self._control.advance(arrived=arrived, closed=closed)
        return self._weigh(now_s)

    def _weigh(self, now_s: float) -> Weighed:
        policy, books = self._policy, self.books
        validity = validity_of(
            policy, books, self._evidence, control_pairs=self._control_pairs
        )
        control = self._control.weigh()
        load = books.baseline_load(self._evidence.queues)
        weights = tuple(scale.weigh(load) for scale in self._scales)
        share = 1 / len(weights)
        log_e_rollback = harm_mixture(
            [weight.log_e_broken for weight in weights], [share] * len(weights)
        )
        verdict = _verdict(
            policy,
            valid=validity.valid and not control.differs,
            weights=weights,
            log_e_rollback=log_e_rollback,
            pairs=books.pairs,
            elapsed_s=now_s,
        )
        found = Look(
            elapsed_s=now_s,
            pairs=books.pairs,
            verdict=verdict,
            log_e_hold=tuple(weight.log_e_hold for weight in weights),
            log_e_broken=tuple(weight.log_e_broken for weight in weights),
        )
        return Weighed(
            look=found,
            weights=weights,
            log_e_rollback=log_e_rollback,
            validity=validity,
            control=control,
        )

    def gate_results(
        self, state: Weighed, *, rolled_back: bool
    ) -> tuple[GateResult, ...]:
        """Return all gates with estimates and bounds, as of the last look.

        A gate counts as broken when its own weighted e-value reaches the threshold, or
        when it carries most of a rollback that only the mean of all gates has reached.
        """
        threshold = threshold_rollback(self._policy) + math.log(len(self._scales))
        strongest = max(weight.log_e_broken for weight in state.weights)
        results = []
        for gate, scale, weight in zip(
            self._policy.gates, self._scales, state.weights, strict=True
        ):
            broken = weight.log_e_broken >= threshold or (
                rolled_back and weight.log_e_broken == strongest
            )
            if weight.broken is not None:
                broken = weight.broken
            status = status_of(weight, broken=broken)
            result = scale.describe(weight, status)
            results.append(with_weights(result, gate, self._evidence))
        return tuple(results)

    def full_validity(self, state: Weighed) -> Validity:
        """Return the validity with what the A/A control found."""
        control = describe_control(
            self._policy, self._control, state.control, self._evidence.control_columns
        )
        reasons = (*control_reasons(control), *state.validity.reasons)
        return replace(
            state.validity, valid=not reasons, reasons=reasons, control=control
        )


def threshold_rollback(policy: Policy) -> float:
    """A tenth of harm_alpha is kept for the quantile gates' confidence sets."""
    harm_alpha = policy.decision.harm_alpha
    return math.log(1 / (harm_alpha - harm_alpha / 10))


def _verdict(
    policy: Policy,
    *,
    valid: bool,
    weights: Sequence[Weight],
    log_e_rollback: float,
    pairs: int,
    elapsed_s: float,
) -> Verdict:
    rules = policy.decision
    if not valid:
        return Verdict.INVALID
    if log_e_rollback >= threshold_rollback(policy) or any(
        weight.broken for weight in weights
    ):
        return Verdict.ROLLBACK
    enough = pairs >= rules.min_pairs and elapsed_s >= rules.min_duration_s
    if enough and all(weight.holds for weight in weights):
        return Verdict.PROMOTE
    return Verdict.CONTINUE
