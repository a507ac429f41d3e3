"""When a policy will be decided: gate by gate, against what its traffic brings."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from canary.planning.clock import Clock, Deadline, Ends
from canary.planning.hours import ALWAYS, Hours
from canary.planning.needs import Expected, at_least, likely_blocks
from canary.planning.schedule import (
    Schedule,
    Units,
    regimes_of,
    units_of,
)
from canary.planning.simulate import Outcome
from canary.policy.explain import limit_text
from canary.policy.model import Gate, Policy, regime_names
from canary.policy.units import duration_text
from canary.wording import rounded_up


class Expect(StrEnum):
    """What a plan points to."""

    PROMOTE = "promote"
    ROLLBACK = "rollback"
    INCONCLUSIVE = "inconclusive"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateOutlook:
    """What one gate needs and gets.

    `available` units come before the deadline. The times are those of the look that
    shows the limit to hold (to be broken if `holds` is false); where that lies beyond
    the deadline, of traffic that went on like this. None: no number is enough, or none
    is known. `reason` says why the gate isn't decided before the deadline, if it isn't;
    `known` is false if that is for want of evidence about it.
    """

    name: str
    limit: str
    unit: str
    at_least: int | None
    expected: int | None
    available: int
    per_hour: float | None
    at_least_s: float | None
    expected_s: float | None
    holds: bool
    known: bool
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RegimeTraffic:
    """The requests of one range of prompt lengths before the deadline."""

    regime: str
    requests: int
    per_hour: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyPlan:
    """When a policy is expected to be decided, and what stands against it.

    What it points to comes after `expected_s`, or would if traffic went on like this;
    no promotion comes before `at_least_s`, and none at all if that is None. `reasons`
    say why nothing else is to be expected, `basis` what the numbers rest on, `notes`
    what else to know.
    """

    policy: str
    policy_sha256: str
    requests: int
    span_s: float
    min_duration_s: float
    max_duration_s: float
    min_pairs: int
    deadline: Deadline
    regimes: tuple[RegimeTraffic, ...]
    gates: tuple[GateOutlook, ...]
    expect: Expect
    at_least_s: float | None
    expected_s: float | None
    reasons: tuple[str, ...]
    piloted: bool
    basis: tuple[str, ...]
    notes: tuple[str, ...]
    simulated: tuple[Outcome, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self)


def plan_policy(
    policy: Policy,
    schedule: Schedule,
    needs: Mapping[str, Expected],
    *,
    piloted: bool,
    basis: Sequence[str],
    notes: Sequence[str],
    hours: Hours = ALWAYS,
) -> PolicyPlan:
    """Return when `policy` is expected to be decided, on the wall: with the `hours` at
    which nothing is sent.

    `needs` are those of its gates by name, which a pilot tells or, if not `piloted`,
    arms that are taken as equal. `basis` and `notes` are passed on.
    """
    clock = Clock(policy, schedule, hours)
    gates = tuple(_gate(gate, needs[gate.name], clock) for gate in policy.gates)
    expect, expected_s = _expected(gates, clock)
    rules = policy.decision
    return PolicyPlan(
        policy=policy.name,
        policy_sha256=policy.sha256,
        requests=len(schedule),
        span_s=schedule.span_s,
        min_duration_s=rules.min_duration_s,
        max_duration_s=rules.max_duration_s,
        min_pairs=rules.min_pairs,
        deadline=clock.deadline,
        regimes=_regimes(clock),
        gates=tuple(_on_wall(gate, clock) for gate in gates),
        expect=expect,
        at_least_s=clock.on_wall_s(_soonest(gates, clock)),
        expected_s=clock.on_wall_s(expected_s),
        reasons=() if expect is Expect.PROMOTE else _reasons(gates, clock),
        piloted=piloted,
        basis=tuple(basis),
        notes=(*notes, *_own_notes(policy)),
    )


def _on_wall(gate: GateOutlook, clock: Clock) -> GateOutlook:
    return replace(
        gate,
        at_least_s=clock.on_wall_s(gate.at_least_s),
        expected_s=clock.on_wall_s(gate.expected_s),
    )


def _gate(gate: Gate, need: Expected, clock: Clock) -> GateOutlook:
    units = units_of(gate, clock.policy, clock.schedule)
    least = at_least(gate, clock.policy, units.requests_each)
    likely = need.units
    if likely is not None and units.name == "block":
        bound = least if need.holds else None
        likely = likely_blocks(gate, bound, likely, units.requests_each)
    if likely is not None and least is not None and need.holds:
        if gate.quantile is None:  # a candidate that wins needs less than a tie
            least = min(least, likely)
        likely = max(least, likely)
    return GateOutlook(
        name=gate.name,
        limit=limit_text(gate),
        unit=units.name,
        at_least=least,
        expected=likely,
        available=clock.available(units.times_s),
        per_hour=clock.per_hour(len(units.times_s)),
        at_least_s=clock.look_at_s(units.times_s, least),
        expected_s=clock.look_at_s(units.times_s, likely),
        holds=need.holds,
        known=likely is not None,
        reason=_why_not(units, least, likely, need, clock),
    )


def _why_not(
    units: Units, least: int | None, likely: int | None, need: Expected, clock: Clock
) -> str | None:
    """Return why a gate isn't decided before the deadline; None if it is."""
    available = clock.available(units.times_s)
    if not available:
        return f"no {units.name} that it counts comes before {clock.deadline}"
    if likely is None and need.reason:
        return need.reason
    if likely is None or least is None:
        return "no amount of such evidence would decide it"
    if max(likely, least * need.holds) <= available:
        return None
    needs = f"at least {least:,}"
    if least <= available or not need.holds:
        needs = f"about {rounded_up(likely):,}"
    what = f"{units.name}s"
    if units.name == "validation group" and clock.deadline.what is Ends.TRACE:
        return f"needs {needs} {what}, but the validation sets hold only {available:,}"
    return f"needs {needs} {what}, but only {available:,} come before {clock.deadline}"


def _expected(
    gates: Sequence[GateOutlook], clock: Clock
) -> tuple[Expect, float | None]:
    broken = [gate for gate in gates if not gate.holds and gate.reason is None]
    if broken:  # a rollback waits for no minimum
        return Expect.ROLLBACK, min(gate.expected_s or 0.0 for gate in broken)
    times = [gate.expected_s for gate in gates]
    known = [at_s for at_s in times if at_s is not None]
    expected_s = max([*known, *clock.floors_s()]) if len(known) == len(times) else None
    if all(gate.reason is None for gate in gates) and clock.reached(expected_s):
        return Expect.PROMOTE, expected_s
    decidable = _soonest(gates, clock) is not None
    if decidable and any(not gate.known for gate in gates):
        return Expect.UNKNOWN, expected_s
    return Expect.INCONCLUSIVE, expected_s


def _soonest(gates: Sequence[GateOutlook], clock: Clock) -> float | None:
    """Return when a promotion is possible at all; None if before no deadline."""
    times = [gate.at_least_s for gate in gates]
    known = [at_s for at_s in times if at_s is not None]
    if len(known) < len(times):
        return None
    soonest_s = max([*known, *clock.floors_s()])
    return soonest_s if clock.reached(soonest_s) else None


def _reasons(gates: Sequence[GateOutlook], clock: Clock) -> tuple[str, ...]:
    rules, said = clock.policy.decision, []
    duration_s, pairs_s = clock.floors_s()
    if not clock.reached(duration_s):
        asked = duration_text(rules.min_duration_s)
        said.append(f"min_duration is {asked}, but {clock.deadline}")
    if not clock.reached(pairs_s):
        come = clock.available(clock.schedule.arrived_s)
        said.append(
            f"min_pairs is {rules.min_pairs:,}, but only {come:,} requests come before "
            f"{clock.deadline}"
        )
    for gate in gates:
        if gate.reason is not None:
            said.append(f"{gate.name}: {gate.reason}")
        elif not gate.holds:
            said.append(f"{gate.name}: these numbers point to a broken limit")
    return tuple(said)


def _regimes(clock: Clock) -> tuple[RegimeTraffic, ...]:
    found = regimes_of(clock.schedule, clock.policy)
    stamps = clock.schedule.arrived_s
    return tuple(
        RegimeTraffic(
            regime=regime,
            requests=clock.available(stamps[found == index]),
            per_hour=clock.per_hour(int((found == index).sum())),
        )
        for index, regime in enumerate(regime_names(clock.policy.regimes))
    )


def _own_notes(policy: Policy) -> tuple[str, ...]:
    rules, notes = policy.decision, []
    if not rules.by_request:
        notes.append(
            f"limits on traffic count blocks of time, of {rules.least_block_s:g} s or, "
            "where requests depend on each other for longer, of more: then all of this "
            "takes as much longer"
        )
    if rules.mode == "fixed":
        notes.append(
            "these are the numbers for looking all the while; the one look of mode: "
            "fixed takes about half as many"
        )
    return tuple(notes)
