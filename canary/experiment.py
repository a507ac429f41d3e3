"""From policies to a finished run folder: prepare, start arms, play, judge, report.

The one place that knows the whole order of things. It prints nothing and starts
nothing by itself: the command line says where arms run and shows what happens.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from canary.arms.base import Arm
from canary.arms.server import process_peak_bytes
from canary.clock import Clock
from canary.decision import Decision
from canary.errors import ArmError, PolicyError, TrafficError, UsageError
from canary.evidence.journal import (
    Journal,
    RunFolder,
    read_segments,
    write_atomically,
)
from canary.evidence.lease import Lease
from canary.evidence.observation import Observation, from_table
from canary.evidence.reading import read_observations
from canary.judge import Ended, judge
from canary.overrides import last_overrides
from canary.policy.load import fault_at, load_policies
from canary.policy.model import Policy, VariantSpec, regime_names, variant_name
from canary.policy.traffic import REST, LoadTarget
from canary.record import ended_of, new_record, read_run, write_run
from canary.report import ReportData, render_html, render_markdown
from canary.runner import INTERRUPTED, Listener, Runner, arms_of
from canary.traffic.formats import Trace, read_trace
from canary.traffic.plan import make_plan, with_speed
from canary.traffic.request import Plan
from canary.traffic.validation import ValidationSet, read_validation
from canary.variants.vocabulary import UnknownWordError, encode
from canary.warmup import speed_for, warm_up

_WARM_UP_REQUESTS = 12


class StartArms(Protocol):
    """Loads variants where they are to run: in this process, or in Ray actors."""

    def __call__(
        self, specs: Mapping[str, VariantSpec], *, timeout_s: float
    ) -> dict[str, Arm]:
        """Return the running arms; a request may take each so long."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What will be sent and to whom, before anything has been started."""

    policies: tuple[Policy, ...]
    trace: Trace
    validation: tuple[ValidationSet, ...]
    plan: Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a run takes place, and how it is timed."""

    where: str
    start_arms: StartArms
    clock: Clock = time.perf_counter
    wall_clock: Clock = time.time
    sleep: Callable[[float], None] = time.sleep


def prepare(policies: tuple[Policy, ...], *, seed: int) -> Prepared:
    """Read the traffic that the policies name and plan every request.

    Raises:
        TrafficError: The trace or a validation set can't be used, or asks what the
            models can't read.
        PolicyError: An accuracy gate asks for what the validation sets don't have.
    """
    traffic = policies[0].traffic
    trace = read_trace(Path(traffic.source), format=traffic.format)
    paths = dict.fromkeys(path for policy in policies for path in policy.validation)
    validation = read_validation([Path(path) for path in paths])
    _check_tasks(policies, dict(zip(paths, validation, strict=True)))
    _check_words(validation)
    speed = traffic.speed
    plan = make_plan(
        trace,
        [item for one in validation for item in one.items],
        selection_of(policies),
        speed=1.0 if isinstance(speed, LoadTarget) else speed,
        seed=seed,
    )
    return Prepared(policies=policies, trace=trace, validation=validation, plan=plan)


def _check_words(validation: Sequence[ValidationSet]) -> None:
    """Refuse questions that no arm could read: they would fail on all of them alike."""
    for one in validation:
        for item in one.items:
            try:
                encode(f"{item.input} {item.answer_prefix}")
            except UnknownWordError as error:
                raise TrafficError(f"{one.path}: item {item.id}: {error}") from error


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


def execute(
    prepared: Prepared,
    folder: RunFolder,
    place: Place,
    *,
    command: str,
    listener: Listener,
) -> tuple[Decision, ...]:
    """Run it all and leave decisions and reports in `folder`, which must be new.

    Raises:
        UsageError: The folder can't be made.
        ArmError: An arm can't be started or has died; what was recorded stays.
    """
    folder.refuse_if_used()
    arms = _start(prepared.policies, place)
    warm = warm_up(arms, prepared.plan, _WARM_UP_REQUESTS)
    plan = _at_speed(prepared, warm)
    folder.create()  # not earlier: whatever fails until here leaves nothing behind
    _keep_policies(folder, prepared.policies)
    with _writing(folder, place) as journal:
        journal.append(warm)
        facts = {name: arm.describe() for name, arm in arms.items()}
        record = new_record(
            plan,
            prepared.trace,
            prepared.validation,
            prepared.policies,
            arms=facts,
            where=place.where,
            command=command,
            run=folder.root.resolve().name,
        )
        write_run(folder, record)
        runner = Runner(
            prepared.policies,
            plan,
            arms,
            journal,
            gpus=_gpus(arms),
            run=record["run"],
            clock=place.clock,
            sleep=place.sleep,
            listener=listener,
        )
        _finish(folder, record, runner, journal)
    return conclude(folder, prepared.policies)


def resume(
    folder: RunFolder, place: Place, *, listener: Listener
) -> tuple[Decision, ...]:
    """Go on with a run that was interrupted, whatever interrupted it.

    Nothing that was recorded is sent again, and nothing is lost but what was in flight.
    A run that has ended is judged again.

    Raises:
        UsageError: It is no run, somebody else is running it, or what it replays has
            changed since.
        ArmError: As `execute`.
    """
    record = read_run(folder)
    policies = kept_policies(folder)
    if record.get("ended") not in (None, INTERRUPTED):
        return conclude(folder, policies)
    prepared = prepare(policies, seed=record["seed"])
    plan = prepared.plan
    if plan.speed != record["speed"]:  # it was set by the baseline's load
        plan = with_speed(plan, record["speed"])
    if plan.sha256 != record["plan"]["sha256"]:
        raise UsageError(
            f"{folder.root}: its trace or validation sets have changed since it began; "
            "put them back as they were, or start a new run"
        )
    with _writing(folder, place) as journal:
        arms = _start(policies, place)
        journal.append(warm_up(arms, plan, _WARM_UP_REQUESTS))
        runner = Runner(
            policies,
            plan,
            arms,
            journal,
            earlier=_by_request(read_segments(folder)),
            gpus=_gpus(arms),
            run=record["run"],
            clock=place.clock,
            sleep=place.sleep,
            listener=listener,
        )
        _finish(folder, record, runner, journal)
    return conclude(folder, policies)


def _start(policies: Sequence[Policy], place: Place) -> dict[str, Arm]:
    return place.start_arms(arms_of(policies), timeout_s=policies[0].traffic.timeout_s)


def _gpus(arms: Mapping[str, Arm]) -> int:
    """Return how many GPUs the arms hold: they share one, or use none."""
    return int(any("cuda" in arm.describe()["device"] for arm in arms.values()))


def _by_request(table: pa.Table) -> Iterator[list[Observation]]:
    """Yield what was recorded of each request, without what belongs to warm-ups."""
    counting = table.filter(pc.invert(table["warm"]))
    rows = chain.from_iterable(
        from_table(pa.Table.from_batches([batch])) for batch in counting.to_batches()
    )
    for _, of_one in groupby(rows, key=lambda row: row.request_id):
        yield list(of_one)


@contextmanager
def _writing(folder: RunFolder, place: Place) -> Iterator[Journal]:
    """Hold the folder's lease for as long as the journal is open."""
    lease = Lease(folder, wall_clock=place.wall_clock)
    with lease.held():
        yield Journal(folder, clock=place.clock, before_commit=lease.renew)


def _finish(
    folder: RunFolder, record: dict[str, Any], runner: Runner, journal: Journal
) -> None:
    played = runner.run()
    record |= {
        "ended": played.reason,
        "ends": {name: _end(end) for name, end in played.ends.items()},
        "elapsed_s": played.elapsed_s,
        "wall_s": journal.elapsed_s,
        "peak_memory_bytes": process_peak_bytes() + sum(played.peak_bytes.values()),
    }
    for name, peak in played.peak_bytes.items():
        record["arms"][name]["peak_memory_bytes"] = peak
    write_run(folder, record)


def conclude(folder: RunFolder, policies: Sequence[Policy]) -> tuple[Decision, ...]:
    """Judge what the folder holds; write decision documents and reports anew."""
    record = read_run(folder)
    observations = read_observations(folder.root)
    overrides = last_overrides(folder)
    decisions = tuple(
        replace(
            judge(
                policy,
                observations,
                run=record["run"],
                ended=ended_of(record, policy.name, policy.sha256),
                questions=record.get("questions"),
                repeat=_repeat(record),
            ),
            override=overrides.get(policy.name),
        )
        for policy in policies
    )
    for decision in decisions:
        write_atomically(folder.decision(decision.policy), decision.to_json().encode())
    data = ReportData(
        run=record,
        policies=tuple(policies),
        decisions=decisions,
        observations=observations,
    )
    write_atomically(folder.report_html, render_html(data).encode())
    write_atomically(folder.report_markdown, render_markdown(data).encode())
    return decisions


def kept_policies(folder: RunFolder) -> tuple[Policy, ...]:
    """Return the policies of a run as they were when it started.

    Raises:
        UsageError: One is missing, or has been changed since.
    """
    recorded = read_run(folder)["policies"]
    paths = [folder.policies / f"{name}.yaml" for name in recorded]
    kept = load_policies(paths)
    for policy, path in zip(kept, paths, strict=True):
        if policy.sha256 != recorded[policy.name]:
            raise UsageError(
                f"{path}: has been changed since the run; put it back, or ask another "
                f"policy with `canary judge {folder.root} --policy FILE`"
            )
    return kept


def _keep_policies(folder: RunFolder, policies: Sequence[Policy]) -> None:
    for policy in policies:
        target = folder.policies / f"{policy.name}.yaml"
        write_atomically(target, policy.text.encode())


def _at_speed(prepared: Prepared, warm: Sequence[Observation]) -> Plan:
    """Set the speed at which the baseline alone is busy for the share asked for."""
    policy = prepared.policies[0]
    speed, plan = policy.traffic.speed, prepared.plan
    if not isinstance(speed, LoadTarget):
        return plan
    baseline = variant_name(policy.baseline)
    found = speed_for(speed.baseline_load, warm, baseline, plan)
    if found is None:
        raise ArmError(
            f"arm {baseline} failed every warm-up request, so its load can't be known; "
            f"the first error was: {next(row.error for row in warm if row.error)}"
        )
    return with_speed(plan, found)


def _end(end: Ended) -> dict[str, Any]:
    return {"reason": end.reason, "cutoff_s": end.cutoff_s}


def _repeat(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a decision document needs to be repeated: inputs, not what came out."""
    return {
        key: record[key]
        for key in ("command", "seed", "versions", "source", "validation")
        if key in record
    } | {"plan_sha256": record["plan"]["sha256"]}
