"""The verdict: a pure function of a policy and the evidence so far.

Looks come every `look_every` of the run's own time (intended arrivals), so that
judging the same observations again finds the same looks and the same verdict. The
first final one stands; rollback beats promote. See README, "What a verdict means".
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from canary.assessment import Assessment, Weighed, threshold_rollback
from canary.decision import Decision, GateResult, Look, Verdict
from canary.evidence.pairs import Floats, arms_in, check_arms, pair_up
from canary.gates import Evidence
from canary.policy.model import Policy, variant_name
from canary.routing import routes
from canary.wording import (
    because_continue,
    because_inconclusive,
    because_promote,
    because_rollback,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """Why no more evidence will come, and the arrival before which it counts."""

    reason: str
    cutoff_s: float | None = None


def judge(
    policy: Policy,
    observations: pa.Table | Iterable[pa.Table],
    *,
    run: str,
    ended: Ended | None = None,
    questions: Mapping[str, int] | None = None,
    doubts: Sequence[str] = (),
    machines: int = 1,
    repeat: dict[str, Any] | None = None,
) -> Decision:
    """Return the decision document of `policy` on `observations`.

    Args:
        policy: What is to be decided.
        observations: Rows in the public schema, of this policy's arms and any others:
            a table, or parts of whole sessions that can be gone through twice.
        run: The run's name, for the document.
        ended: Why no more evidence will come; None while it may.
        questions: How many groups each task's questions are (`inference: set`).
        doubts: Why the traffic was no fair sample, which makes the run invalid.
        machines: How many runs, each with arms of its own, the observations are of.
        repeat: What is needed to repeat the run; goes into the document as it is.

    Raises:
        ObservationError: The observations don't hold both arms.
    """
    parts = [observations] if isinstance(observations, pa.Table) else observations
    evidence, end_s = fold(policy, parts, ended=ended, questions=questions)
    evidence.doubts = tuple(doubts)
    evidence.queues *= machines
    return judge_evidence(
        policy, evidence, end_s=end_s, run=run, ended=ended, repeat=repeat
    )


def judge_evidence(
    policy: Policy,
    evidence: Evidence,
    *,
    end_s: float,
    run: str,
    ended: Ended | None = None,
    repeat: dict[str, Any] | None = None,
) -> Decision:
    """Return the decision document of `policy` on evidence that was folded before.

    Args:
        policy: What is to be decided.
        evidence: All of it, perhaps of several shards.
        end_s: When it ends, in the run's own time.
        run: The run's name, for the document.
        ended: Why no more evidence will come; None while it may.
        repeat: What is needed to repeat the run; goes into the document as it is.
    """
    assessment, looks = Assessment(policy, evidence), []
    for now_s in _look_times(policy, end_s):
        state = assessment.look(now_s)
        if state.look.verdict.final:
            looks.append(state.look)
            break
        if now_s < end_s:
            looks.append(state.look)
    else:
        # What a regular look has not decided is looked at once more with all there is.
        over = _over(policy, end_s, ended)
        state = assessment.look(end_s, last=True, over=over)
        looks.append(state.look)
    return describe_look(
        policy, assessment, state, looks, run=run, ended=ended, repeat=repeat
    )


def fold(
    policy: Policy,
    parts: Iterable[pa.Table],
    *,
    ended: Ended | None,
    questions: Mapping[str, int] | None = None,
) -> tuple[Evidence, float]:
    """Return the evidence about a policy, and when it ends in the run's own time.

    Raises:
        ObservationError: The observations don't hold both arms.
    """
    limit_s = policy.decision.max_duration_s
    if ended is not None and ended.cutoff_s is not None:
        limit_s = min(limit_s, ended.cutoff_s)
    weights, end_s = (1.0, 1.0), None
    while True:
        folding = _Folding(policy, weights=weights, limit_s=limit_s)
        for part in _ahead(parts):
            folding.add(part)
        folding.check()
        if end_s is None:
            end_s = folding.end_s(ended)
        if folding.weights == weights and folding.last_s < end_s:
            folding.evidence.questions |= questions or {}
            return folding.evidence, end_s
        weights, limit_s = folding.weights, min(limit_s, end_s)


def _ahead(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Read the next part while the last one is folded."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        source = iter(parts)
        coming = reader.submit(next, source, None)
        while (part := coming.result()) is not None:
            coming = reader.submit(next, source, None)
            yield part


class _Folding:
    """One pass over all parts."""

    def __init__(
        self, policy: Policy, *, weights: tuple[float, float], limit_s: float
    ) -> None:
        self._policy = policy
        self._names = {
            "baseline": variant_name(policy.baseline),
            "candidate": variant_name(policy.candidate),
        }
        self._limit_s = limit_s
        self._arms: set[str] = set()
        self._lacking: list[Floats] = []
        self._went_on = False
        self._weights: list[float] = []
        self.evidence = Evidence(policy, weights=weights)
        self.last_s = -math.inf

    def add(self, part: pa.Table) -> None:
        self._arms |= arms_in(part)
        pairs = pair_up(part, **self._names)
        self._went_on |= bool(np.any(pairs.arrived_s >= self._limit_s))
        pairs = pairs.until(self._limit_s)
        self._lacking += [pairs.missing_baseline_s, pairs.missing_candidate_s]
        if len(pairs):
            self.last_s = max(self.last_s, float(pairs.arrived_s[-1]))
            self._weights += [float(pairs.weight.min()), float(pairs.weight.max())]
        self.evidence.fold(pairs)

    @property
    def weights(self) -> tuple[float, float]:
        """The least and the largest weight that any pair has."""
        known = self._weights or [1.0]
        return min(known), max(known)

    def check(self) -> None:
        check_arms(self._arms, **self._names)

    def end_s(self, ended: Ended | None) -> float:
        """When the evidence ends; a deadline in wall time may have let more through.

        While more may come, a request that one arm hasn't answered and still may answer
        holds back all that came after it: taking what is finished would prefer what is
        quick.
        """
        if not math.isfinite(self.last_s):
            return 0.0
        end_s = float(np.nextafter(self.last_s, np.inf))
        if ended is None and self._went_on:
            return self._limit_s
        if ended is None:
            lacking = np.concatenate(self._lacking)
            late = lacking > self.last_s - self._policy.traffic.timeout_s
            return float(lacking[late].min(initial=end_s))
        if ended.cutoff_s is not None:
            end_s = ended.cutoff_s
        return min(end_s, self._policy.decision.max_duration_s)


def _look_times(policy: Policy, end_s: float) -> list[float]:
    """Every `look_every` until the evidence ends; none in `mode: fixed`."""
    if policy.decision.mode == "fixed":
        return []
    every_s = policy.decision.look_every_s
    return [every_s * k for k in range(1, math.floor(end_s / every_s) + 1)]


def describe_look(
    policy: Policy,
    assessment: Assessment,
    state: Weighed,
    looks: Sequence[Look],
    *,
    run: str,
    ended: Ended | None = None,
    repeat: dict[str, Any] | None = None,
) -> Decision:
    """Return the decision document as of the assessment's last look.

    Estimates and bounds cost much more than the look itself. `looks` ends with this
    one; the other arguments are those of `judge`.
    """
    verdict = state.look.verdict
    if verdict is Verdict.CONTINUE and _over(policy, state.look.elapsed_s, ended):
        verdict = Verdict.INCONCLUSIVE
    gates = assessment.gate_results(state, rolled_back=verdict is Verdict.ROLLBACK)
    validity = assessment.full_validity(state)
    return Decision(
        run=run,
        policy=policy.name,
        policy_sha256=policy.sha256,
        verdict=verdict,
        because=_because(
            policy, verdict, state, gates, ended=ended, invalid=validity.reasons
        ),
        elapsed_s=state.look.elapsed_s,
        action=_action(policy, verdict),
        pairs=state.look.pairs,
        units=max(gate.units for gate in gates),
        gates=gates,
        validity=validity,
        routing=routes(policy, verdict, gates, state, assessment.books.by_regime),
        log_e_rollback=state.log_e_rollback,
        threshold_rollback=threshold_rollback(policy),
        baseline=variant_name(policy.baseline),
        candidate=variant_name(policy.candidate),
        looks=tuple(looks),
        repeat=repeat or {},
    )


def _over(policy: Policy, elapsed_s: float, ended: Ended | None) -> bool:
    rules = policy.decision
    once = rules.mode == "fixed"  # whoever asks for its one look says that it is over
    return once or ended is not None or elapsed_s >= rules.max_duration_s


def _because(
    policy: Policy,
    verdict: Verdict,
    state: Weighed,
    gates: tuple[GateResult, ...],
    *,
    ended: Ended | None,
    invalid: tuple[str, ...],
) -> tuple[str, ...]:
    if verdict is Verdict.INVALID:
        return invalid
    if verdict is Verdict.ROLLBACK:
        return because_rollback(gates)
    if verdict is Verdict.PROMOTE:
        return because_promote(gates)
    rules, missing, look = policy.decision, [], state.look
    if look.pairs < rules.min_pairs:
        missing.append(f"{look.pairs:,} of at least {rules.min_pairs:,} pairs")
    if look.elapsed_s < rules.min_duration_s:
        missing.append(
            f"{look.elapsed_s:,.1f} s of at least {rules.min_duration_s:,.1f} s"
        )
    if verdict is Verdict.CONTINUE:
        return because_continue(gates, tuple(missing))
    reason = ended.reason if ended else "max_duration reached"
    if ended is None and rules.mode == "fixed":
        reason = "its one look is taken"
    return because_inconclusive(gates, tuple(missing), reason)


def _action(policy: Policy, verdict: Verdict) -> str:
    baseline, candidate = variant_name(policy.baseline), variant_name(policy.candidate)
    if verdict is Verdict.PROMOTE:
        return f"replace {baseline} by {candidate}"
    if verdict is Verdict.ROLLBACK:
        return f"keep {baseline}; don't roll out {candidate}"
    if verdict is Verdict.CONTINUE:
        return "keep the run going; nothing is decided yet"
    if verdict is Verdict.INVALID:
        return "mend what made the evidence untrustworthy, then run again"
    if policy.decision.at_deadline == "rollback":
        return f"keep {baseline} (at_deadline: rollback)"
    return "hold the rollout where it is (at_deadline: hold)"
