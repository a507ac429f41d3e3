"""From policies to a finished run folder: prepare, start arms, play, judge, report.

The one place that knows the whole order of things. It prints nothing and starts
nothing by itself: the command line says where arms run and shows what happens.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from canary.arms.base import ReplicaSet
from canary.arms.endpoint.arm import EndpointArm, knock
from canary.arms.server import process_peak_bytes
from canary.clock import Clock
from canary.conclusion import conclude
from canary.decision import Decision
from canary.errors import UsageError
from canary.evidence.journal import Journal, RunFolder, iter_segments
from canary.evidence.lease import Lease
from canary.evidence.observation import SCHEMA
from canary.judge import Ended
from canary.kept import keep_policies, kept_policies
from canary.losses import Losses, losses_so_far
from canary.orders import Orders, stop_file
from canary.policy.model import Policy, VariantSpec
from canary.prepare import Prepared, prepare
from canary.record import new_record, read_run, refuse_pruned, write_run
from canary.runner import Runner
from canary.side_by_side import SideBySide
from canary.status import known_wall_s
from canary.traffic.live import LiveFeed, LiveTraffic
from canary.traffic.plan import with_speed
from canary.traffic.request import Plan
from canary.traffic.shard import shard_in
from canary.warmup import at_speed, warm_up_all
from canary.watches import INTERRUPTED, Doubts, Listener, arms_of

_WARM_UP_REQUESTS = 12
_KNOCK_WITH = 100  # the shortest of these
_FED = ["request_id", "arrived_s", "kind"]  # what live traffic goes on from


class StartArms(Protocol):
    """Loads variants where they are to run: in this process, or in Ray actors."""

    def __call__(
        self,
        specs: Mapping[str, VariantSpec],
        *,
        timeout_s: float,
        epochs: Mapping[str, int],
        losses: Losses,
    ) -> list[ReplicaSet]:
        """Return the running arms, a replica set or several.

        Args:
            specs: The variants, by arm name.
            timeout_s: How long a request may take each.
            epochs: The epoch at which an arm begins, if it isn't 0.
            losses: Bears what is lost meanwhile.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a run takes place, and how it is timed."""

    where: str
    start_arms: StartArms
    on_ray: bool = False
    clock: Clock = time.perf_counter
    wall_clock: Clock = time.time
    sleep: Callable[[float], None] = time.sleep


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
    losses = Losses()
    with _started(prepared, place, losses) as sets:
        warm = warm_up_all(sets, prepared.plan, _WARM_UP_REQUESTS, losses)
        plan = at_speed(prepared, warm[0], sets=len(sets))
        folder.create()  # not earlier: what fails until here leaves nothing behind
        keep_policies(folder, prepared.policies)
        with _writing(folder, place) as journal:
            journal.append([row for rows in warm for row in rows])
            record = new_record(
                plan,
                prepared.trace,
                prepared.validation,
                prepared.policies,
                sets=[
                    {name: arm.describe() for name, arm in one.arms.items()}
                    for one in sets
                ],
                where=place.where,
                command=command,
                run=folder.name,
            )
            live = None
            if prepared.live is not None:
                record["live"] = {"began_unix_s": place.wall_clock()}
                record["plan"]["notes"] = []  # of a plan that only warms up
                live = _live_feed(prepared.live, record, place)
            write_run(folder, record)
            given = _Given(
                folder,
                prepared.policies,
                plan,
                sets,
                journal,
                prepared.doubts,
                losses,
                live=live,
            )
            runner = _runner(given, place, run=record["run"], listener=listener)
            _finish(folder, record, runner, given)
    return conclude(folder, prepared.policies)


def resume(
    folder: RunFolder, place: Place, *, listener: Listener
) -> tuple[Decision, ...]:
    """Go on with a run that was interrupted, whatever interrupted it.

    Nothing that was recorded is sent again, and nothing is lost but what was in flight;
    of live traffic, what came meanwhile is skipped and counted. A run that has ended is
    judged again.

    Raises:
        UsageError: It is no run, somebody else is running it, or what it replays has
            changed since.
        ArmError: As `execute`.
    """
    record = read_run(folder)
    refuse_pruned(folder, record)
    policies = kept_policies(folder)
    if record.get("ended") not in (None, INTERRUPTED):
        return conclude(folder, policies)
    prepared = prepare(policies, seed=record["seed"], shard=shard_in(record))
    plan = prepared.plan
    if plan.speed != record["speed"]:  # it was set by the baseline's load
        plan = with_speed(plan, record["speed"])
    if prepared.live is None and plan.sha256 != record["plan"]["sha256"]:
        raise UsageError(
            f"{folder.root}: its trace or validation sets have changed since it began; "
            "put them back as they were, or start a new run"
        )
    waited = _writing(folder, place, elapsed_s=known_wall_s(folder, record))
    losses = Losses()
    with (
        waited as journal,
        _started(prepared, place, losses, next_epochs(folder)) as sets,
    ):
        warm = warm_up_all(sets, plan, _WARM_UP_REQUESTS, losses)
        journal.append([row for rows in warm for row in rows])
        live = None
        if prepared.live is not None:
            rows = [part.select(_FED) for part in _counting(folder)]
            known = pa.concat_tables(rows) if rows else None
            live = _live_feed(prepared.live, record, place, known)
        given = _Given(
            folder,
            policies,
            plan,
            sets,
            journal,
            prepared.doubts,
            losses,
            live=live,
            earlier=_counting(folder),
        )
        runner = _runner(given, place, run=record["run"], listener=listener)
        _finish(folder, record, runner, given)
    return conclude(folder, policies)


@dataclass(frozen=True, slots=True)
class _Given:
    """What a run is made of, wherever its arms are."""

    folder: RunFolder
    policies: tuple[Policy, ...]
    plan: Plan
    sets: Sequence[ReplicaSet]
    journal: Journal
    doubts: Doubts
    losses: Losses
    live: LiveFeed | None = None
    earlier: Iterable[pa.Table] = ()


def _runner(
    given: _Given, place: Place, *, run: str, listener: Listener
) -> Runner | SideBySide:
    """Return the loop that fits the arms: one that takes turns, or one for servers."""
    orders = Orders(
        given.policies[0].schedule,
        stop=stop_file(given.folder),
        clock=place.clock,
        wall_clock=place.wall_clock,
    )
    arms = given.sets[0].arms
    servers = [arm for arm in arms.values() if isinstance(arm, EndpointArm)]
    if servers:
        return SideBySide(
            given.policies,
            given.plan,
            arms,
            servers[0].sender,
            given.journal,
            earlier=given.earlier,
            live=given.live,
            run=run,
            doubts=given.doubts,
            orders=orders,
            listener=listener,
        )
    return Runner(
        given.policies,
        given.plan,
        given.sets,
        given.journal,
        earlier=given.earlier,
        live=given.live,
        gpus=_gpus(given.sets),
        losses=given.losses,
        run=run,
        doubts=given.doubts,
        orders=orders,
        clock=place.clock,
        sleep=place.sleep,
        listener=listener,
    )


def _live_feed(
    traffic: LiveTraffic,
    record: Mapping[str, Any],
    place: Place,
    earlier: pa.Table | None = None,
) -> LiveFeed:
    rows = SCHEMA.empty_table() if earlier is None else earlier
    asked = rows.filter(pc.equal(rows["kind"], "quality"))["request_id"]
    return LiveFeed(
        traffic,
        began_unix_s=record["live"]["began_unix_s"],
        first=pc.count_distinct(rows["request_id"]).as_py(),
        until_s=pc.max(rows["arrived_s"]).as_py(),
        asked=frozenset(asked.to_pylist()),
        clock=place.clock,
        wall_clock=place.wall_clock,
    )


@contextmanager
def _started(
    prepared: Prepared,
    place: Place,
    losses: Losses,
    epochs: Mapping[str, int] = MappingProxyType({}),
) -> Iterator[list[ReplicaSet]]:
    policies = prepared.policies
    sets = place.start_arms(
        arms_of(policies),
        timeout_s=policies[0].traffic.timeout_s,
        epochs=epochs,
        losses=losses,
    )
    arms = sets[0].arms
    try:
        knock(arms, prepared.plan.requests[:_KNOCK_WITH])
        yield sets
    finally:
        for arm in arms.values():
            if isinstance(arm, EndpointArm):
                arm.close()


def _gpus(sets: Sequence[ReplicaSet]) -> int:
    """Return how many GPUs the arms hold; in one process they share one."""
    told = [arm.describe() for one in sets for arm in one.arms.values()]
    return len({one.get("gpu_uuid") for one in told if "cuda" in one["device"]})


def _counting(folder: RunFolder) -> Iterator[pa.Table]:
    """Yield what was recorded but for warm-ups, part by part: a week is large."""
    for part in iter_segments(folder):
        yield part.filter(pc.invert(part["warm"]))


def next_epochs(folder: RunFolder) -> dict[str, int]:
    """Return for each arm the epoch after the last that the run has recorded: arm and
    epoch tell every process that ever answered in it from all others."""
    last: dict[str, int] = {}
    for part in iter_segments(folder):
        found = part.group_by("arm").aggregate([("epoch", "max")]).to_pylist()
        for row in found:
            last[row["arm"]] = max(row["epoch_max"], last.get(row["arm"], -1))
    return {arm: epoch + 1 for arm, epoch in last.items()}


@contextmanager
def _writing(
    folder: RunFolder, place: Place, *, elapsed_s: float = 0.0
) -> Iterator[Journal]:
    """Hold the folder's lease for as long as the journal is open."""
    lease = Lease(folder, wall_clock=place.wall_clock)
    with lease.held():
        # It was meant for whoever ran this before.
        stop_file(folder).unlink(missing_ok=True)
        yield Journal(
            folder, clock=place.clock, elapsed_s=elapsed_s, before_commit=lease.renew
        )


def _finish(
    folder: RunFolder,
    record: dict[str, Any],
    runner: Runner | SideBySide,
    given: _Given,
) -> None:
    played = runner.run()
    record["doubts"] = list(given.doubts())
    if given.live is not None:
        record["live"] |= given.live.counts(record["live"])
    record |= {
        "ended": played.reason,
        "ends": {name: _end(end) for name, end in played.ends.items()},
        "elapsed_s": played.elapsed_s,
        "wall_s": given.journal.elapsed_s,
        "answered": played.answered,
        "late_p99_s": played.late_p99_s,
        "peak_memory_bytes": process_peak_bytes() + sum(played.peak_bytes.values()),
    } | losses_so_far(record, played.losses)
    for name, peak in played.peak_bytes.items():
        record["arms"][name]["peak_memory_bytes"] = peak
    write_run(folder, record)


def _end(end: Ended) -> dict[str, Any]:
    return {"reason": end.reason, "cutoff_s": end.cutoff_s}
