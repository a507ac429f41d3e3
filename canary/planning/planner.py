"""From policies, their plan and perhaps a pilot to when each will be decided."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from canary.errors import TrafficError
from canary.evidence.observation import from_table
from canary.planning.assumed import Assumptions
from canary.planning.clock import deadline_of, lasting
from canary.planning.harm import Harm
from canary.planning.hours import ALWAYS, Hours
from canary.planning.needs import project
from canary.planning.outlook import PolicyPlan, plan_policy
from canary.planning.pilot import Pilot
from canary.planning.schedule import Schedule, schedule_of
from canary.planning.simulate import Outcome, Sample, simulate
from canary.policy.model import Policy, variant_name
from canary.policy.traffic import LoadTarget
from canary.traffic.plan import with_speed
from canary.traffic.request import Plan
from canary.warmup import speed_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """How often to play each policy: as it is and, if any is stated, with harm."""

    runs: int
    harms: tuple[Harm, ...]


def plan_run(
    policies: Sequence[Policy],
    plan: Plan,
    *,
    pilot: pa.Table | None,
    simulation: Simulation | None,
    notes: Sequence[str],
    begin_unix_s: float = 0.0,
) -> tuple[PolicyPlan, ...]:
    """Return when each of the policies that share a run will be decided.

    Args:
        policies: What is to be decided.
        plan: What the run sends, at speed 1 if the baseline's load is to set it.
        pilot: What both arms did before; equal arms are assumed without one.
        simulation: Whether to play runs, too, and which.
        notes: What else to know, in sentences.
        begin_unix_s: When it begins, which matters if it sends at some hours only.

    Raises:
        ObservationError: The pilot lacks an arm, or whatever a policy sends.
    """
    plan, speed = _at_speed(policies[0], plan, pilot)
    schedule, hours = schedule_of(plan), _hours(policies[0], begin_unix_s)
    if policies[0].traffic.follow and hours is not ALWAYS:
        # Live traffic doesn't wait: what comes meanwhile is skipped.
        sent = [hours.is_open(float(at_s)) for at_s in schedule.arrived_s]
        schedule, hours = schedule.only(np.array(sent)), ALWAYS
        _refuse_none(policies[0], schedule)
    found = []
    for policy in policies:
        outlook = _outlook(policy, schedule, hours, pilot, [speed, *notes])
        if simulation is not None:
            played = _played(policy, schedule, hours, pilot, simulation, seed=plan.seed)
            outlook = replace(outlook, simulated=played)
        found.append(outlook)
    return tuple(found)


def _hours(policy: Policy, begin_unix_s: float) -> Hours:
    window = policy.schedule.window
    return ALWAYS if window is None else Hours(window, begin_unix_s)


def _refuse_none(policy: Policy, schedule: Schedule) -> None:
    if not len(schedule):
        raise TrafficError(
            f"{policy.path}: none of what was recorded came at the hours of "
            f"schedule.only ({policy.schedule.only}); record some then, or widen it"
        )


def _outlook(
    policy: Policy,
    schedule: Schedule,
    hours: Hours,
    pilot: pa.Table | None,
    notes: Sequence[str],
) -> PolicyPlan:
    if pilot is None:
        assumed = Assumptions()
        needs = assumed.needs(policy)
        basis = [f"assumed: {said}" for said in assumed.in_words(policy)]
    else:
        projected = project(policy, pilot)
        needs = projected.needs
        pairs = f"{projected.pairs:,} pair{'' if projected.pairs == 1 else 's'}"
        seen = f"{pairs} over {lasting(round(projected.span_s, 3))}"
        basis = [f"expected, if all is as in the pilot ({seen})"]
        basis += [f"the pilot is invalid: {why}" for why in projected.doubts]
    return plan_policy(
        policy,
        schedule,
        needs,
        piloted=pilot is not None,
        basis=basis,
        notes=notes,
        hours=hours,
    )


def _at_speed(policy: Policy, plan: Plan, pilot: pa.Table | None) -> tuple[Plan, str]:
    """Return the plan as fast as it will be, as far as that is known, and how fast."""
    speed = policy.traffic.speed
    if not isinstance(speed, LoadTarget):
        return plan, f"at {plan.speed:.3g}x the recorded speed"
    found = None
    if pilot is not None:
        arms = set(pc.unique(pilot["arm"]).to_pylist())
        name = variant_name(policy.baseline)
        arm = name if name in arms else "baseline"
        rows = from_table(pilot.filter(pc.equal(pilot["arm"], arm)))
        found = speed_for(speed.baseline_load, rows, arm, plan)
        if found is not None:
            found *= policy.placement.replicas
    if found is None:
        return plan, (
            "at the recorded speed, for want of a pilot that tells at which speed the "
            f"baseline is busy {speed.baseline_load:.0%} of the time"
        )
    return with_speed(plan, found), (
        f"at {found:.3g}x the recorded speed, which by the pilot's service times keeps "
        f"the baseline busy {speed.baseline_load:.0%} of the time"
    )


def _played(
    policy: Policy,
    schedule: Schedule,
    hours: Hours,
    pilot: pa.Table | None,
    simulation: Simulation,
    *,
    seed: int,
) -> tuple[Outcome, ...]:
    """Return what becomes of simulated runs, as they are and with harm."""
    sample: Sample = partial(Assumptions().sample, policy)
    if pilot is not None:
        source = Pilot.of(policy, pilot)
        schedule, sample = source.draws_from(schedule), source.table
    deadline, last_s = deadline_of(policy, schedule, hours)
    kinds: Mapping[tuple[Harm, ...], None] = dict.fromkeys([(), simulation.harms])
    outcomes = (
        simulate(
            policy,
            schedule.only(schedule.arrived_s <= last_s),
            sample,
            harms,
            runs=simulation.runs,
            seed=seed,
            ends=str(deadline),
        )
        for harms in kinds
    )
    return tuple(_on_wall(one, hours) for one in outcomes)


def _on_wall(outcome: Outcome, hours: Hours) -> Outcome:
    if outcome.median_s is None:
        return outcome
    return replace(outcome, median_s=hours.wall_s(outcome.median_s))
