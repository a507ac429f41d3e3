"""A pilot's pairs, and runs made of them: whole sessions or stretches of time, anew."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from canary.errors import ObservationError
from canary.planning.clock import lasting
from canary.planning.schedule import Bools, Floats, Ints, Schedule, Texts
from canary.planning.tables import ARMS, table_of
from canary.policy.model import Policy, variant_name

Strings = npt.NDArray[np.str_]

_STRETCH_S = 10.0
_LEAST_STRETCHES = 20
_KEPT_UP = 1.2
_OWN = (
    *("request_id", "arm", "arrived_s", "kind", "group", "group_items"),
    *("epoch", "attempt", "warm", "session_id"),
)
"""Columns that a drawn row takes from its new place, not from the pilot."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pilot:
    """What both arms made of the same requests, a row each, in order of arrival.

    `traffic` holds the rows of each session or, where not all have `sessions`, of each
    stretch of time; `groups` those of each validation group, by task.
    """

    arms: Mapping[str, pa.Table]
    sessions: bool
    traffic: tuple[Ints, ...]
    groups: Mapping[str, tuple[Ints, ...]]

    @classmethod
    def of(cls, policy: Policy, observations: pa.Table) -> "Pilot":
        """Join the two arms of a policy by request; there must be a pair."""
        specs = (policy.baseline, policy.candidate)
        names = dict(zip(ARMS, map(variant_name, specs), strict=True))
        arms = {
            role: _answers(observations, name, role) for role, name in names.items()
        }
        a, b = (np.asarray(arms[role]["request_id"].to_pylist()) for role in ARMS)
        _, at_a, at_b = np.intersect1d(a, b, return_indices=True)
        baseline = arms["baseline"].take(at_a)
        order = np.argsort(_floats(baseline, "arrived_s"), kind="stable")
        baseline = baseline.take(order)
        candidate = arms["candidate"].take(at_b[order])
        quality = _quality(baseline)
        at = np.flatnonzero(~quality)
        labels = _texts(baseline, "session_id")
        sessions = bool(np.all(labels[at]))
        if not sessions:
            labels = _stretches(baseline)
        return cls(
            arms={"baseline": baseline, "candidate": candidate},
            sessions=sessions,
            traffic=_split(at, labels[at]),
            groups=_groups(baseline, quality),
        )

    def draws_from(self, schedule: Schedule) -> Schedule:
        """Return the part of a schedule that the pilot has anything to draw for.

        Raises:
            ObservationError: There is none.
        """
        known = np.isin(schedule.task.astype(str), list(self.groups))
        drawn = np.where(schedule.quality, known, bool(self.traffic))
        if not drawn.any():
            raise ObservationError(
                "the pilot holds nothing of what the policy sends: neither traffic nor "
                "answers to questions of its tasks"
            )
        return schedule.only(drawn)

    def table(self, schedule: Schedule, rng: np.random.Generator) -> pa.Table:
        """Return a run of the schedule in which everything comes out as in the pilot.

        Its arrivals and validation groups are the schedule's; a request has the length
        and the outcomes of a pilot's request. Sessions or stretches of traffic, and
        validation groups, are drawn whole, with replacement.
        """
        source = np.zeros(len(schedule), np.int64)
        session = np.full(len(schedule), None, dtype=object)
        places, first = np.flatnonzero(~schedule.quality), 0
        while first < len(places):
            rows = self.traffic[rng.integers(len(self.traffic))]
            here = places[first : first + len(rows)]
            source[here] = rows[: len(here)]
            if self.sessions:
                session[here] = f"s{first}"
            first += len(rows)
        for task, places in _by_group(schedule):
            groups = self.groups[task]
            rows = groups[rng.integers(len(groups))]
            source[places] = np.resize(rows, len(places))
        return pa.concat_tables(
            [self._side(arm, schedule, source, session) for arm in ARMS]
        )

    def _side(
        self, arm: str, schedule: Schedule, source: Ints, session: Texts
    ) -> pa.Table:
        rows = self.arms[arm].take(source)
        kept = {name: rows[name] for name in rows.column_names if name not in _OWN}
        return table_of(arm, schedule, {**kept, "session_id": session})


def _answers(table: pa.Table, name: str, role: str) -> pa.Table:
    """Return an arm's rows that count, of several attempts the last."""
    present = pc.unique(table["arm"]).to_pylist()
    counting = pc.and_(
        pc.equal(table["arm"], name if name in present else role),
        pc.invert(
            pc.or_(
                pc.fill_null(table["warm"], False),
                pc.is_in(table["status"], value_set=pa.array(["void", "shed"])),
            )
        ),
    )
    rows = table.filter(counting).sort_by(
        [("request_id", "ascending"), ("attempt", "ascending")]
    )
    ids = np.asarray(rows["request_id"].to_pylist(), dtype=object)
    return rows.filter(np.append(ids[:-1] != ids[1:], [True] * bool(len(ids))))


def _floats(table: pa.Table, name: str) -> Floats:
    return np.asarray(table[name].to_numpy(), dtype=np.float64)


def _texts(table: pa.Table, name: str) -> Strings:
    return np.asarray(pc.fill_null(table[name], "").to_pylist(), dtype=str)


def _quality(rows: pa.Table) -> Bools:
    kind = _texts(rows, "kind")
    scored = np.asarray(pc.is_valid(rows["score"]).to_numpy(), dtype=bool)
    return np.asarray((kind == "quality") | ((kind == "") & scored), dtype=bool)


def _stretches(rows: pa.Table) -> Strings:
    arrived_s = _floats(rows, "arrived_s")
    from_s = arrived_s - arrived_s[0]
    length_s = min(_STRETCH_S, float(from_s[-1]) / _LEAST_STRETCHES) or _STRETCH_S
    return np.asarray(np.floor(from_s / length_s).astype(str))


def _groups(rows: pa.Table, quality: Bools) -> dict[str, tuple[Ints, ...]]:
    tasks = _texts(rows, "task")
    unit = _texts(rows, "group")
    for fallback in ("session_id", "request_id"):
        unit = np.where(unit == "", _texts(rows, fallback), unit)
    found = {}
    for task in np.unique(tasks[quality]):
        at = np.flatnonzero(quality & (tasks == task))
        found[str(task)] = _split(at, unit[at])
    return found


def _split(at: Ints, labels: Strings) -> tuple[Ints, ...]:
    """Return the places of each label, in order within it."""
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    order = np.argsort(index, kind="stable")
    return tuple(np.split(at[order], np.cumsum(counts)[:-1])) if len(at) else ()


def _by_group(schedule: Schedule) -> list[tuple[str, Ints]]:
    """Return where each validation group of a schedule stands, with its task."""
    at = np.flatnonzero(schedule.quality)
    groups = _split(at, schedule.group[at].astype(str))
    return [(str(schedule.task[places[0]]), places) for places in groups]


def notes_on(record: Mapping[str, Any], trace_sha256: str) -> list[str]:
    """Return what of a pilot's run record makes a plan from it less certain."""
    said = []
    replayed = record.get("source", {}).get("sha256", trace_sha256)
    if replayed != trace_sha256:
        said.append("the pilot replayed another trace than the policy names")
    wall_s, elapsed_s = record.get("wall_s", 0.0), record.get("elapsed_s", 0.0)
    if wall_s > _KEPT_UP * elapsed_s:
        said.append(
            f"the pilot took {lasting(wall_s)} for {lasting(elapsed_s)} of schedule: "
            "its arms couldn't keep up, and max_duration is wall time"
        )
    return said
