"""What a run has recorded so far, in columns that grow: what its looks read.

A run of a week can't keep a Python object for every row, nor read its segments again
at every look. Here a request costs about 70 bytes and each arm's answer 90 more, and a
look reads views of it, without a copy.
"""

import hashlib
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

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

    def extend(self, values: Sequence[Any]) -> None:
        size = self._size + len(values)
        if size > len(self._data):
            grown = np.empty(max(size, 2 * self._size), self._data.dtype)
            grown[: self._size] = self._data[: self._size]
            self._data = grown
        # Where a number isn't known there is None, which numpy makes NaN.
        self._data[self._size : size] = np.array(values, self._data.dtype)
        self._size = size

    @property
    def values(self) -> npt.NDArray[Item]:
        """A view of what is in it; later appends don't change it."""
        return self._data[: self._size]


class _Answers:
    """One arm's answers, in order, and which request each belongs to."""

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

    def __len__(self) -> int:
        return len(self.request.values)

    def since(self, request: int) -> int:
        """Return where the answers to a request and all later ones begin."""
        return int(np.searchsorted(self.request.values, request))

    def side(self, at: Ints | slice) -> Side:
        measured = {name: column.values[at] for name, column in self.measured.items()}
        return Side(failed=self.failed.values[at], **measured)


class PairStore:
    """The answers of all arms, request by request in the plan's order.

    Its pairs equal those that `canary.evidence.pairs.pair_up` makes of the same rows,
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
        self._count = 0
        self._fresh: list[Sequence[Observation]] = []

    def __len__(self) -> int:
        """Return the number of requests."""
        return self._count + len(self._fresh)

    @property
    def last_arrived_s(self) -> float:
        """The intended arrival of the last request; 0 before the first."""
        if self._fresh:
            return self._fresh[-1][0].arrived_s
        return float(self._arrived_s.values[-1]) if self._count else 0.0

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

    def peak_bytes(self) -> dict[str, int]:
        """Return the peak memory of each arm that has a process of its own."""
        self._settle()
        seen = {
            name: arm.measured["peak_memory_bytes"].values
            for name, arm in self._arms.items()
        }
        return {
            name: int(np.nanmax(values))
            for name, values in seen.items()
            if not np.isnan(values).all()
        }

    def pairs(self, *, baseline: str, candidate: str, since: int = 0) -> Pairs:
        """Return the pairs of two arms, and of the A/A control if it answers.

        Args:
            baseline: One arm.
            candidate: The other.
            since: Leave out this many requests at the beginning.
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
        mine = a.request.values[own:]
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
