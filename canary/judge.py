"""The verdict: a pure function of a policy and the evidence so far.

Looks come every `look_every` of the run's own time (intended arrivals), so that
judging the same observations again finds the same looks and the same verdict. The
first final one stands; rollback beats promote. See README, "How the verdict is made".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from canary.decision import Decision, GateResult, Look, Route, Validity, Verdict
from canary.evidence.pairs import CONTROL_ARM, Pairs, Side, pair_up
from canary.gates import Weight, describe, weigh
from canary.gates.control import ControlEvidence, describe_control, weigh_control
from canary.policy.model import Policy, regime_names, variant_name
from canary.stats import harm_mixture, paired_log_e
from canary.wording import (
    because_continue,
    because_inconclusive,
    because_promote,
    because_rollback,
    control_reasons,
)

MAX_VOID_SHARE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """Why no more evidence will come, and the arrival before which it counts."""

    reason: str
    cutoff_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """One look, weighed: what the verdict follows from.

    `validity` doesn't say yet what the A/A control found; `control` does.
    """

    look: Look
    pairs: Pairs
    weights: tuple[Weight, ...]
    log_e_rollback: float
    validity: Validity
    control: ControlEvidence


def take_look(policy: Policy, pairs: Pairs, *, cutoff_s: float) -> Weighed:
    """Return the state of all gates on what arrived before `cutoff_s`.

    Args:
        policy: What is to be decided.
        pairs: The evidence, also what arrived later.
        cutoff_s: Intended arrival before which a pair counts.
    """
    pairs = pairs.until(cutoff_s)
    validity = _validity(policy, pairs)
    control = weigh_control(policy, pairs)
    weights = tuple(
        weigh(gate, policy, pairs, validity.baseline_load) for gate in policy.gates
    )
    share = 1 / len(weights)
    log_e_rollback = harm_mixture(
        [weight.log_e_broken for weight in weights], [share] * len(weights)
    )
    verdict = _verdict(
        policy,
        valid=validity.valid and not control.differs,
        weights=weights,
        log_e_rollback=log_e_rollback,
        pairs=len(pairs),
        elapsed_s=cutoff_s,
    )
    found = Look(
        elapsed_s=cutoff_s,
        pairs=len(pairs),
        verdict=verdict,
        log_e_hold=tuple(weight.log_e_hold for weight in weights),
        log_e_broken=tuple(weight.log_e_broken for weight in weights),
    )
    return Weighed(
        look=found,
        pairs=pairs,
        weights=weights,
        log_e_rollback=log_e_rollback,
        validity=validity,
        control=control,
    )


def judge(
    policy: Policy,
    observations: pa.Table,
    *,
    run: str,
    ended: Ended | None = None,
    repeat: dict[str, Any] | None = None,
) -> Decision:
    """Return the decision document of `policy` on `observations`.

    Args:
        policy: What is to be decided.
        observations: Rows in the public schema, of this policy's arms and any others.
        run: The run's name, for the document.
        ended: Why no more evidence will come; None while it may.
        repeat: What is needed to repeat the run; goes into the document as it is.

    Raises:
        ObservationError: The observations don't hold both arms.
    """
    baseline, candidate = variant_name(policy.baseline), variant_name(policy.candidate)
    pairs = pair_up(observations, baseline=baseline, candidate=candidate)
    if ended is not None and ended.cutoff_s is not None:
        pairs = pairs.until(ended.cutoff_s)
    looks: list[Look] = []
    for cutoff_s in _look_times(policy, pairs, ended):
        state = take_look(policy, pairs, cutoff_s=cutoff_s)
        looks.append(state.look)
        if state.look.verdict.final:
            break
    return describe_look(policy, state, looks, run=run, ended=ended, repeat=repeat)


def _look_times(policy: Policy, pairs: Pairs, ended: Ended | None) -> list[float]:
    """Every `look_every`, and one where the evidence ends, also of nothing."""
    if not len(pairs):
        return [0.0]
    end_s = float(np.nextafter(pairs.arrived_s[-1], np.inf))
    if ended is not None and ended.cutoff_s is not None:
        end_s = ended.cutoff_s
    # Also what a deadline in wall time would have let through: it is over.
    end_s = min(end_s, policy.decision.max_duration_s)
    every_s = policy.decision.look_every_s
    times = [every_s * k for k in range(1, math.ceil(end_s / every_s))]
    return [*times, end_s]


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
    if log_e_rollback >= _threshold_rollback(policy):
        return Verdict.ROLLBACK
    enough = pairs >= rules.min_pairs and elapsed_s >= rules.min_duration_s
    if enough and all(weight.holds for weight in weights):
        return Verdict.PROMOTE
    return Verdict.CONTINUE


def _threshold_rollback(policy: Policy) -> float:
    """A tenth of harm_alpha is kept for the quantile gates' confidence sets."""
    harm_alpha = policy.decision.harm_alpha
    return math.log(1 / (harm_alpha - harm_alpha / 10))


def _validity(policy: Policy, pairs: Pairs) -> Validity:
    void = len(pairs.void_arrived_s)
    lost_a = len(pairs.missing_baseline_s) + _unmeasured(
        pairs.baseline, pairs.candidate
    )
    lost_b = len(pairs.missing_candidate_s) + _unmeasured(
        pairs.candidate, pairs.baseline
    )
    offered = (
        len(pairs)
        + void
        + len(pairs.missing_baseline_s)
        + len(pairs.missing_candidate_s)
    )
    void_share = void / offered if offered else 0.0
    reasons = []
    if void_share > MAX_VOID_SHARE:
        reasons.append(
            f"{void:,} of {offered:,} requests ({void_share:.1%}) were void or shed, "
            f"more than {MAX_VOID_SHARE:.0%}; what remains may not be a fair sample"
        )
    more, fewer = max(lost_a, lost_b), min(lost_a, lost_b)
    log_e = paired_log_e(more, 0, fewer)
    if lost_a + lost_b and log_e >= math.log(2 / policy.decision.alpha):
        reasons.append(
            f"answers are missing unequally: {lost_a:,} of the baseline, {lost_b:,} of "
            "the candidate; find out why before comparing the rest"
        )
    control = pairs.control if policy.aa_control else None
    if control is not None:
        reasons += _other_kernels(control)
    return Validity(
        valid=not reasons,
        reasons=tuple(reasons),
        void_share=void_share,
        missing_baseline=lost_a,
        missing_candidate=lost_b,
        baseline_load=_baseline_load(pairs),
        kernels=pairs.kernels | (control.kernels if control else {}),
        devices=pairs.devices | (control.devices if control else {}),
        control_share=policy.aa_control,
        control_pairs=len(control) if control else 0,
    )


def _other_kernels(control: Pairs) -> list[str]:
    """The copy answers a share, so it may lack a kernel, but has none of its own."""
    own = control.kernels[CONTROL_ARM]
    of_baseline = [name for arm, names in control.kernels.items()
                   for name in names if arm != CONTROL_ARM]  # fmt: skip
    other = sorted(set(own) - set(of_baseline))
    if not of_baseline or not other:
        return []
    ran, instead = ", ".join(other), ", ".join(of_baseline)
    reason = (
        f"the A/A control ran {ran}, the baseline only {instead}: its second copy is "
        "not the same variant"
    )
    return [reason]


def _unmeasured(arm: Side, other: Side) -> int:
    """Answered requests of which the other arm has a score or a time and this none."""
    return max(
        int((np.isnan(mine) & ~np.isnan(theirs) & ~arm.failed).sum())
        for mine, theirs in (
            (arm.score, other.score),
            (arm.ttft_s, other.ttft_s),
            (arm.latency_s, other.latency_s),
            (arm.service_s, other.service_s),
        )
    )


def _baseline_load(pairs: Pairs) -> float | None:
    """Busy share of the time from the first to the last arrival; None if unknown."""
    stamps = pairs.baseline_arrived_s
    if len(stamps) < 2 or pairs.baseline_busy_s[-1] <= 0:
        return None
    span_s = float(stamps[-1] - stamps[0])
    return float(pairs.baseline_busy_s[-2]) / span_s if span_s > 0 else None


def describe_look(
    policy: Policy,
    state: Weighed,
    looks: Sequence[Look],
    *,
    run: str,
    ended: Ended | None = None,
    repeat: dict[str, Any] | None = None,
) -> Decision:
    """Return the decision document as of one look, with estimates and bounds.

    They cost much more than the look itself. `looks` ends with this one; the other
    arguments are those of `judge`.
    """
    state = replace(state, validity=_with_control(policy, state))
    verdict = state.look.verdict
    if verdict is Verdict.CONTINUE and _at_deadline(policy, state.look, ended):
        verdict = Verdict.INCONCLUSIVE
    gates = _gate_results(policy, state, rolled_back=verdict is Verdict.ROLLBACK)
    return Decision(
        run=run,
        policy=policy.name,
        policy_sha256=policy.sha256,
        verdict=verdict,
        because=_because(policy, verdict, state, gates, ended),
        elapsed_s=state.look.elapsed_s,
        action=_action(policy, verdict),
        pairs=len(state.pairs),
        units=_units(state.pairs),
        gates=gates,
        validity=state.validity,
        routing=_routing(policy, verdict, state.pairs),
        log_e_rollback=state.log_e_rollback,
        threshold_rollback=_threshold_rollback(policy),
        baseline=variant_name(policy.baseline),
        candidate=variant_name(policy.candidate),
        looks=tuple(looks),
        repeat=repeat or {},
    )


def _with_control(policy: Policy, state: Weighed) -> Validity:
    control = describe_control(policy, state.pairs, state.control)
    reasons = (*control_reasons(control), *state.validity.reasons)
    return replace(state.validity, valid=not reasons, reasons=reasons, control=control)


def _at_deadline(policy: Policy, last: Look, ended: Ended | None) -> bool:
    return ended is not None or last.elapsed_s >= policy.decision.max_duration_s


def _gate_results(
    policy: Policy, state: Weighed, *, rolled_back: bool
) -> tuple[GateResult, ...]:
    """A gate counts as broken when its own weighted e-value reaches the threshold, or
    when it carries most of a rollback that only the mean of all gates has reached."""
    threshold = _threshold_rollback(policy) + math.log(len(policy.gates))
    strongest = max(weight.log_e_broken for weight in state.weights)
    return tuple(
        describe(
            gate,
            policy,
            state.pairs,
            weight,
            broken=weight.log_e_broken >= threshold
            or (rolled_back and weight.log_e_broken == strongest),
        )
        for gate, weight in zip(policy.gates, state.weights, strict=True)
    )


def _because(
    policy: Policy,
    verdict: Verdict,
    state: Weighed,
    gates: tuple[GateResult, ...],
    ended: Ended | None,
) -> tuple[str, ...]:
    if verdict is Verdict.INVALID:
        return state.validity.reasons
    if verdict is Verdict.ROLLBACK:
        return because_rollback(gates)
    if verdict is Verdict.PROMOTE:
        return because_promote(gates)
    rules, missing = policy.decision, []
    if len(state.pairs) < rules.min_pairs:
        missing.append(f"{len(state.pairs):,} of at least {rules.min_pairs:,} pairs")
    if state.look.elapsed_s < rules.min_duration_s:
        missing.append(
            f"{state.look.elapsed_s:,.1f} s of at least {rules.min_duration_s:,.1f} s"
        )
    if verdict is Verdict.CONTINUE:
        return because_continue(gates, tuple(missing))
    reason = ended.reason if ended else "max_duration reached"
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


def _units(pairs: Pairs) -> int:
    """Validation groups plus requests that no group holds."""
    return len(set(pairs.unit[pairs.quality])) + int((~pairs.quality).sum())


def _routing(policy: Policy, verdict: Verdict, pairs: Pairs) -> tuple[Route, ...]:
    baseline, candidate = variant_name(policy.baseline), variant_name(policy.candidate)
    found = np.searchsorted(policy.regimes, pairs.prompt_tokens, side="right")
    routes = []
    for index, regime in enumerate(regime_names(policy.regimes)):
        count = int((found == index).sum())
        if count and verdict is Verdict.PROMOTE:
            serve, why = candidate, "promoted on evidence from this regime"
        elif count:
            serve, why = baseline, f"the verdict is {verdict.value}"
        else:
            serve, why = baseline, "no evidence in this regime"
        routes.append(Route(regime=regime, serve=serve, pairs=count, why=why))
    return tuple(routes)
