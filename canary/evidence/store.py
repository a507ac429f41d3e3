"""What a run has recorded and its looks haven't read yet, in columns that grow.

A run of a week can't keep a Python object for every row, nor read its segments again
at every look. Here a request costs about 70 bytes and each arm's answer 90 more, a look
reads views of it, without a copy, and what every look has read is forgotten.
"""

import hashlib
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from canary.evidence.observation import Observation, Status
from canary.evidence.pairs import (
    CONTROL_ARM,
    MEASURED,
    Bools,
    Floats,
    Ints,
    Pairs,
    Side,
)

_FIRST_CAPACITY = 1024
# Rows are put into the columns so many requests at a time: one by one takes ten times
# as long.
_AT_ONCE = 1024
_NO_ANSWER = -1
_UNSENT = (Status.SHED, Status.VOID)

Item = TypeVar("Item", bound=np.generic)


class _Column(Generic[Item]):
    """A numpy array that grows by doubling."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self._data: npt.NDArray[Item] = np.empty(_FIRST_CAPACITY, dtype)
        self._size = 0

    def extend(self, values: Sequence[Any] | npt.NDArray[Any]) -> None:
        size = self._size + len(values)
        if size > len(self._data):
            grown = np.empty(max(size, 2 * self._size), self._data.dtype)
            grown[: self._size] = self._data[: self._size]
            self._data = grown
        # Where a number isn't known there is None, which numpy makes NaN.
        self._data[self._size : size] = np.array(values, self._data.dtype)
        self._size = size

    def forget(self, count: int) -> None:
        """Leave out the first so many."""
        self._data = self._data[count : self._size].copy()
        self._size -= count

    @property
    def values(self) -> npt.NDArray[Item]:
        """A view of what is in it; nothing that comes later changes it."""
        return self._data[: self._size]


class _Answers:
    """One arm's answers, in order, and which request each belongs to.

    `kernels`, `devices` and the peak memory are those of all, also of forgotten ones.
    """

    def __init__(self) -> None:
        self.request: _Column[np.int64] = _Column(np.int64)
        self.failed: _Column[np.bool_] = _Column(np.bool_)
        self.measured: dict[str, _Column[np.float64]] = {
            name: _Column(np.float64) for name in MEASURED
        }
        self.agreement: _Column[np.float64] = _Column(np.float64)
        self.answer: _Column[np.int64] = _Column(np.int64)
        self.kernels: set[str] = set()
        self.devices: set[str] = set()
        self._earlier_peak_bytes = np.nan

    def extend(self, requests: Sequence[int], rows: Sequence[Observation]) -> None:
        self.request.extend(requests)
        self.failed.extend([row.status != Status.OK for row in rows])
        for name, column in self.measured.items():
            column.extend([*map(attrgetter(name), rows)])
        self.agreement.extend([row.agreement for row in rows])
        self.answer.extend(
            [_NO_ANSWER if r.answer is None else _digest(r.answer) for r in rows]
        )
        self.kernels |= {row.kernel for row in rows if row.kernel}
        self.devices |= {row.device for row in rows if row.device}

    def take_up(self, requests: Ints, table: pa.Table) -> None:
        self.request.extend(requests)
        self.failed.extend(pc.not_equal(table["status"], Status.OK.value).to_numpy())
        for name, column in self.measured.items():
            column.extend(_floats(table, name))
        self.agreement.extend(_floats(table, "agreement"))
        answers = table["answer"].to_pylist()
        self.answer.extend([_NO_ANSWER if a is None else _digest(a) for a in answers])
        self.kernels |= set(filter(None, pc.unique(table["kernel"]).to_pylist()))
        self.devices |= set(filter(None, pc.unique(table["device"]).to_pylist()))

    def __len__(self) -> int:
        return len(self.request.values)

    @property
    def peak_bytes(self) -> float:
        """The peak memory; NaN if the arm has no process of its own."""
        known = self.measured["peak_memory_bytes"].values
        return float(np.fmax.reduce(known, initial=self._earlier_peak_bytes))

    def forget(self, request: int) -> None:
        """Leave out the answers to all requests before one."""
        self._earlier_peak_bytes = self.peak_bytes
        count = self.since(request)
        for column in (self.request, self.failed, self.agreement, self.answer):
            column.forget(count)
        for column in self.measured.values():
            column.forget(count)

    def since(self, request: int) -> int:
        """Return where the answers to a request and all later ones begin."""
        return int(np.searchsorted(self.request.values, request))

    def side(self, at: Ints | slice) -> Side:
        measured = {name: column.values[at] for name, column in self.measured.items()}
        return Side(failed=self.failed.values[at], **measured)


class PairStore:
    """The answers of all arms, request by request in the plan's order.

    Requests are counted from the run's first one, whatever has been forgotten. Its
    pairs equal those that `canary.evidence.pairs.pair_up` makes of the same rows,
    for requests that all arms in question have answered, as a runner's have.
    """

    def __init__(self) -> None:
        self._request_id: _Column[np.object_] = _Column(object)
        self._arrived_s: _Column[np.float64] = _Column(np.float64)
        self._prompt_tokens: _Column[np.int64] = _Column(np.int64)
        self._kind: _Column[np.object_] = _Column(object)
        self._task: _Column[np.object_] = _Column(object)
        self._unit: _Column[np.object_] = _Column(object)
        self._unit_items: _Column[np.int64] = _Column(np.int64)
        self._session: _Column[np.object_] = _Column(object)
        self._weight: _Column[np.float64] = _Column(np.float64)
        self._void: _Column[np.bool_] = _Column(np.bool_)
        self._arms: dict[str, _Answers] = {}
        self._count = self._forgotten = 0
        self._last_arrived_s = 0.0
        self._fresh: list[Sequence[Observation]] = []

    def __len__(self) -> int:
        """Return the number of requests."""
        return self._count + len(self._fresh)

    @property
    def last_arrived_s(self) -> float:
        """The intended arrival of the last request; 0 before the first."""
        return self._fresh[-1][0].arrived_s if self._fresh else self._last_arrived_s

    def append(self, rows: Sequence[Observation]) -> None:
        """Take the rows of one request, of all arms that answered it."""
        self._fresh.append(rows)
        if len(self._fresh) >= _AT_ONCE:
            self._settle()

    def _settle(self) -> None:
        """Put what has come into the columns."""
        fresh, self._fresh = self._fresh, []
        first = [rows[0] for rows in fresh]
        self._request_id.extend([row.request_id for row in first])
        self._arrived_s.extend([row.arrived_s for row in first])
        self._prompt_tokens.extend([row.prompt_tokens for row in first])
        self._kind.extend([row.kind or "" for row in first])
        self._task.extend([row.task or "" for row in first])
        self._unit.extend([_unit(row) for row in first])
        self._unit_items.extend([_unit_items(row) for row in first])
        self._session.extend([row.session_id or "" for row in first])
        self._weight.extend([row.weight for row in first])
        self._void.extend([any(row.status in _UNSENT for row in r) for r in fresh])
        by_arm: dict[str, tuple[list[int], list[Observation]]] = {}
        for request, rows in enumerate(fresh, self._count):
            for row in rows:
                requests, answers = by_arm.setdefault(row.arm, ([], []))
                requests.append(request)
                answers.append(row)
        for arm, (requests, answers) in by_arm.items():
            self._arms.setdefault(arm, _Answers()).extend(requests, answers)
        self._count += len(fresh)
        self._last_arrived_s = fresh[-1][0].arrived_s if fresh else self._last_arrived_s

    def take_up(self, table: pa.Table) -> None:
        """Take recorded rows of whole requests, as `append` takes them one by one."""
        if not table.num_rows:
            return
        self._settle()
        begins = request_begins(table)
        first = table.filter(pa.array(begins))
        number = np.cumsum(begins) - 1 + self._count
        self._request_id.extend(_texts(first, "request_id"))
        self._arrived_s.extend(first["arrived_s"].to_numpy())
        self._prompt_tokens.extend(first["prompt_tokens"].to_numpy())
        kind = _texts(first, "kind")
        self._kind.extend(kind)
        self._task.extend(_texts(first, "task"))
        scored, together = _is(kind, "quality"), _texts(first, "group")
        session = _texts(first, "session_id")
        together = np.where(together == "", session, together)
        alone = together == ""
        unit = np.where(alone, _texts(first, "request_id"), together)
        self._unit.extend(np.where(scored, unit, ""))
        items = pc.fill_null(first["group_items"], 0).to_numpy()
        self._unit_items.extend(np.where(items == 0, scored & alone, items))
        self._session.extend(session)
        self._weight.extend(first["weight"].to_numpy())
        unsent = np.isin(_texts(table, "status"), _UNSENT)
        self._void.extend(np.logical_or.reduceat(unsent, np.flatnonzero(begins)))
        arm = _texts(table, "arm")
        for name in dict.fromkeys(arm):
            mine = arm == name
            answers = self._arms.setdefault(name, _Answers())
            answers.take_up(number[mine], table.filter(pa.array(mine)))
        self._count += first.num_rows
        self._last_arrived_s = float(self._arrived_s.values[-1])

    def forget(self, before: int) -> None:
        """Leave out all requests before one: nobody will ask for them again."""
        self._settle()
        count = before - self._forgotten
        if count <= 0:
            return
        for column in (
            *(self._request_id, self._kind, self._task, self._unit, self._session),
            *(self._arrived_s, self._weight, self._prompt_tokens, self._unit_items),
            self._void,
        ):
            column.forget(count)
        for answers in self._arms.values():
            answers.forget(before)
        self._forgotten += count

    @property
    def kept(self) -> int:
        """How many requests haven't been forgotten."""
        return len(self) - self._forgotten

    def peak_bytes(self) -> dict[str, int]:
        """Return the peak memory of each arm that has a process of its own."""
        self._settle()
        seen = {name: answers.peak_bytes for name, answers in self._arms.items()}
        return {name: int(peak) for name, peak in seen.items() if not np.isnan(peak)}

    def pairs(self, *, baseline: str, candidate: str, since: int = 0) -> Pairs:
        """Return the pairs of two arms, and of the A/A control if it answers.

        Args:
            baseline: One arm.
            candidate: The other.
            since: Leave out this many requests at the beginning, at least all that
                have been forgotten.
        """
        self._settle()
        control = None
        if CONTROL_ARM in self._arms:
            control = self._joined(baseline, CONTROL_ARM, since)
        return self._joined(baseline, candidate, since, control)

    def _joined(
        self, baseline: str, candidate: str, since: int, control: Pairs | None = None
    ) -> Pairs:
        a = self._arms.get(baseline, _Answers())
        b = self._arms.get(candidate, _Answers())
        own, other = a.since(since), b.since(since)
        at, in_a, in_b = _shared(a.request.values[own:], b.request.values[other:])
        in_a, in_b = _moved(in_a, own, len(a)), _moved(in_b, other, len(b))
        at, mine = at - self._forgotten, a.request.values[own:] - self._forgotten
        void = self._void.values[at]
        if void.any():
            at, in_a, in_b = at[~void], _kept(in_a, ~void), _kept(in_b, ~void)
        kind = self._kind.values[at]
        service: Floats = np.nan_to_num(a.measured["service_s"].values[own:])
        none: Floats = np.empty(0)
        return Pairs(
            request_id=self._request_id.values[at],
            arrived_s=self._arrived_s.values[at],
            prompt_tokens=self._prompt_tokens.values[at],
            quality=_is(kind, "quality"),
            timed=_is(kind, "latency") | _is(kind, "live"),
            task=self._task.values[at],
            unit=self._unit.values[at],
            unit_items=self._unit_items.values[at],
            session=self._session.values[at],
            weight=self._weight.values[at],
            agree=_agreement(a, b, in_a, in_b),
            baseline=a.side(in_a),
            candidate=b.side(in_b),
            void_arrived_s=self._arrived_s.values[mine[self._void.values[mine]]],
            missing_baseline_s=none,
            missing_candidate_s=none,
            baseline_arrived_s=self._arrived_s.values[mine],
            baseline_service_s=service,
            kernels={baseline: sorted(a.kernels), candidate: sorted(b.kernels)},
            devices={baseline: sorted(a.devices), candidate: sorted(b.devices)},
            control=control,
        )


def request_begins(table: pa.Table) -> Bools:
    """Return which rows are the first of their request, where whole ones follow."""
    ids = table["request_id"].combine_chunks()
    changes = pc.not_equal(ids[1:], ids[:-1])
    begins = np.append(True, np.asarray(changes, dtype=bool))
    return begins[: table.num_rows]  # nothing begins in an empty one


def _texts(table: pa.Table, name: str) -> npt.NDArray[np.object_]:
    return np.asarray(pc.fill_null(table[name], "").to_numpy(), dtype=object)


def _floats(table: pa.Table, name: str) -> Floats:
    column = pc.fill_null(table[name].cast(pa.float64()), np.nan)
    return np.asarray(column.to_numpy(), np.float64)


def _unit(row: Observation) -> str:
    if row.kind != "quality":
        return ""
    return row.group or row.session_id or row.request_id


def _unit_items(row: Observation) -> int:
    alone = row.kind == "quality" and not (row.group or row.session_id)
    return row.group_items or int(alone)


def _shared(a: Ints, b: Ints) -> tuple[Ints, Ints | slice, Ints | slice]:
    """Return the requests that both have, and where each arm has them."""
    if np.array_equal(a, b):
        return a, slice(0, len(a)), slice(0, len(b))
    return np.intersect1d(a, b, assume_unique=True, return_indices=True)


def _kept(at: Ints | slice, which: Bools) -> Ints:
    if isinstance(at, slice):
        at = np.arange(at.start, at.stop)
    return at[which]


def _moved(at: Ints | slice, by: int, end: int) -> Ints | slice:
    return slice(by, end) if isinstance(at, slice) else at + by


def _agreement(
    a: _Answers, b: _Answers, at_a: Ints | slice, at_b: Ints | slice
) -> Floats:
    measured = b.agreement.values[at_b]
    own, other = a.answer.values[at_a], b.answer.values[at_b]
    known = (own != _NO_ANSWER) & (other != _NO_ANSWER)
    same = np.where(known, (own == other).astype(np.float64), np.nan)
    return np.where(np.isnan(measured), same, measured)


def _digest(answer: str) -> int:
    """A number for an answer, the same for answers that differ in outer spaces only."""
    digest = hashlib.blake2b(answer.strip().encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 2


def _is(kind: npt.NDArray[np.object_], wanted: str) -> Bools:
    return np.asarray(kind == wanted, dtype=bool)
