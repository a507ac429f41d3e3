"""What a run will send, read and checked before anything is started."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from canary.errors import PolicyError, TrafficError, UsageError
from canary.ingress.keeper import AUDIT_FILE, find_audit
from canary.policy.load import fault_at
from canary.policy.model import Policy
from canary.policy.traffic import LoadTarget
from canary.traffic.formats import Trace, read_trace
from canary.traffic.live import LiveTraffic
from canary.traffic.plan import make_plan
from canary.traffic.request import Plan
from canary.traffic.selection import Selection
from canary.traffic.shard import Shard
from canary.traffic.validation import ValidationSet, read_validation
from canary.variants.vocabulary import UnknownWordError, encode

_TO_WARM_UP_WITH = 1000
"""Requests of what live traffic has left before: enough of every length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What will be sent and to whom, before anything has been started.

    Of `live` traffic, `plan` is what came before, to warm up with, and the questions.
    """

    policies: tuple[Policy, ...]
    trace: Trace
    validation: tuple[ValidationSet, ...]
    plan: Plan
    live: LiveTraffic | None = None

    def doubts(self) -> tuple[str, ...]:
        """Return why what an ingress has recorded so far is no fair sample."""
        source = self.policies[0].traffic.source
        known = "://" in source or Path(source, AUDIT_FILE).exists()
        if self.trace.format != "ingress" or not known:
            return ()
        audit = find_audit(source)
        return audit.because if audit.biased else ()


def prepare(
    policies: tuple[Policy, ...], *, seed: int, shard: Shard | None = None
) -> Prepared:
    """Read the traffic that the policies name and plan every request, or those that a
    shard sends.

    Raises:
        UsageError: Each shard would find a speed of its own.
        TrafficError: The trace or a validation set can't be used, or asks what the
            models can't read.
        PolicyError: An accuracy gate asks for what the validation sets don't have.
    """
    traffic = policies[0].traffic
    trace = read_trace(
        traffic.source, format=traffic.format, columns=traffic.columns, seed=seed
    )
    paths = dict.fromkeys(path for policy in policies for path in policy.validation)
    validation = read_validation([Path(path) for path in paths])
    _check_tasks(policies, dict(zip(paths, validation, strict=True)))
    if not policies[0].baseline.is_endpoint:
        _check_words(validation)
        _check_text(trace)
    speed = traffic.speed
    if shard is not None and isinstance(speed, LoadTarget):
        raise UsageError(
            f"--shard {shard}: the speed of {policies[0].path} is a load, which each "
            "shard would measure for itself; write a number, as in speed: 4x"
        )
    plan = make_plan(
        trace,
        [item for one in validation for item in one.items],
        _selection(policies),
        speed=1.0 if isinstance(speed, LoadTarget) else speed,
        seed=seed,
        shard=shard,
    )
    return Prepared(
        policies=policies,
        trace=trace,
        validation=validation,
        plan=plan,
        live=_live(policies, plan) if traffic.follow else None,
    )


def expected_plan(prepared: Prepared) -> tuple[Plan, tuple[str, ...]]:
    """Return what a run can be expected to send, and in words what that rests on.

    Raises:
        TrafficError: Live traffic has left too little to go by.
    """
    policies = prepared.policies
    only = policies[0].schedule.only
    waits = (f"these times count the hours outside of {only}, too",) if only else ()
    if prepared.live is None:
        return prepared.plan, waits
    longest_s = max(policy.decision.max_duration_s for policy in policies)
    plan = make_plan(
        prepared.trace,
        [item for one in prepared.validation for item in one.items],
        Selection(
            max_output_tokens=prepared.live.max_output_tokens,
            crop_from_s=max(prepared.trace.rows[-1].arrival_s - longest_s, 0.0),
            regimes=prepared.live.boundaries,
            shares=prepared.live.shares,
            loop_for_s=longest_s,
            items_for_s=prepared.live.questions_for_s,
        ),
        seed=prepared.plan.seed,
    )
    return plan, ("live traffic is taken to go on as it was recorded last", *waits)


def _selection(policies: Sequence[Policy]) -> Selection:
    traffic = policies[0].traffic
    if traffic.follow:
        most = traffic.max_output_tokens
        return Selection(max_output_tokens=most, requests=_TO_WARM_UP_WITH)
    crop = traffic.crop
    longest_s = max(policy.decision.max_duration_s for policy in policies)
    return Selection(
        prompt_tokens=traffic.limit.prompt_tokens,
        output_tokens=traffic.limit.output_tokens,
        requests=traffic.limit.requests,
        max_output_tokens=traffic.max_output_tokens,
        crop_from_s=crop.from_s if crop else 0.0,
        crop_for_s=crop.for_s if crop else None,
        regimes=policies[0].regimes,
        shares=policies[0].sample_shares,
        rate_rps=traffic.rate_rps,
        tick_spread_s=traffic.tick_spread,
        loop_for_s=longest_s if traffic.loop else None,
        items_for_s=_questions_for_s(policies),
    )


def _live(policies: Sequence[Policy], plan: Plan) -> LiveTraffic:
    first = policies[0]
    most = first.traffic.max_output_tokens
    if most is None:
        raise TrafficError("traffic.follow needs traffic.max_output_tokens")
    return LiveTraffic(
        source=first.traffic.source,
        questions=plan.questions,
        questions_for_s=_questions_for_s(policies),
        boundaries=first.regimes,
        shares=first.sample_shares,
        max_output_tokens=most,
        seed=plan.seed,
        shard=plan.shard,
    )


def _questions_for_s(policies: Sequence[Policy]) -> float:
    """Return how long questions are mixed in: nothing is promoted earlier anyway."""
    return max(policy.decision.min_duration_s for policy in policies)


def _check_words(validation: Sequence[ValidationSet]) -> None:
    """Refuse questions that no arm could read: they would fail on all of them alike."""
    for one in validation:
        for item in one.items:
            try:
                encode(f"{item.input} {item.answer_prefix}")
            except UnknownWordError as error:
                raise TrafficError(f"{one.path}: item {item.id}: {error}") from error


def _check_text(trace: Trace) -> None:
    """Refuse recorded text: the model that ships reads its own few words only."""
    written = next((r for r in trace.rows if r.text or r.messages), None)
    if written is not None:
        raise TrafficError(
            f"{trace.path}: row {written.index + 1:,} carries a prompt's text, which "
            "the model that ships can't read; write a server's address as model, or "
            "record lengths only"
        )


def _check_tasks(
    policies: Sequence[Policy], validation: Mapping[str, ValidationSet]
) -> None:
    """Refuse accuracy gates that no item, or another policy's item, would answer."""
    faults = []
    for policy in policies:
        own = {
            item.task for path in policy.validation for item in validation[path].items
        }
        for index, gate in enumerate(policy.gates):
            where = f"gates[{index}]"
            if gate.task is not None and gate.task not in own:
                told = f"no validation item has this task; write one of {sorted(own)}"
                faults.append(fault_at(policy, f"{where}.task", told))
            shared = set(policy.validation) != set(validation)
            if gate.metric == "accuracy" and gate.task is None and shared:
                told = "would count other policies' items in this run; add a task"
                faults.append(fault_at(policy, where, told))
    if faults:
        raise PolicyError(tuple(faults))
