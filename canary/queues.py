"""The virtual queues of arms that take turns: what each would have waited alone.

An arm starts a request when it is due, or when it is free. A turn of a session is due
when it arrives, but not before the answer to the turn before it is there and the
recorded time to think has passed: for each arm by its own answers. While a session
thinks, the arm is free for others.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from canary.evidence.store import request_begins
from canary.traffic.request import Request

_MOST_SESSIONS = 100_000
_ROUNDED_S = 1e-3  # more than sums of recorded times are off


class Queues:
    """How long each request waits in each arm's own queue, by measured service times.

    Requests are taken in order of arrival.

    Args:
        arms: The names of the arms that have one.
    """

    def __init__(self, arms: Iterable[str]) -> None:
        self._lines = {name: _Line() for name in arms}

    def take(self, arm: str, request: Request, service_s: float) -> float | None:
        """Queue a request that takes so long; return its wait since it was due, None
        if the arm has no queue."""
        line = self._lines.get(arm)
        if line is None:
            return None
        return line.take(
            request.arrival_s,
            service_s,
            session=request.session_id,
            think_s=request.think_s if request.turn else None,
        )

    def recall(
        self, table: pa.Table, requests: Sequence[Request] | None, *, first: int = 0
    ) -> None:
        """Take up what was recorded before a pause, as `take` would.

        Args:
            table: Rows of whole requests.
            requests: The plan's. Of live traffic they are gone: it has no turns that
                wait for others.
            first: Which of them the table begins with.
        """
        number = np.cumsum(request_begins(table)) - 1 + first
        if requests is None or table["session_id"].null_count == table.num_rows:
            since = self._last_free(table)
            number, table = number[since:], table.slice(since)
        names = ("arm", "arrived_s", "service_s", "session_id")
        columns = [table[name].to_pylist() for name in names]
        for at, arm, arrived_s, service_s, session in zip(
            number.tolist(), *columns, strict=True
        ):
            if service_s is None or arm not in self._lines:
                continue
            if requests is None or session is None:
                self._lines[arm].take(arrived_s, service_s)
            else:
                self.take(arm, requests[at], service_s)

    def _last_free(self, table: pa.Table) -> int:
        """Return the last row that came when all arms were free, or else the first one:
        nothing before it matters, and a week is long."""
        known = pc.is_in(table["arm"], value_set=pa.array([*self._lines], pa.string()))
        queued = pc.and_(known, pc.is_valid(table["service_s"]))
        arrived_s = table["arrived_s"].to_numpy()
        waited_s = pc.fill_null(table["queue_s"], math.inf).to_numpy()
        took_s = pc.fill_null(table["service_s"], 0.0).to_numpy()
        ends_s = np.where(queued.to_numpy(), arrived_s + waited_s + took_s, -math.inf)
        busy_s = max((line.busy_until_s for line in self._lines.values()), default=0.0)
        before_s = np.maximum.accumulate(np.append(busy_s, ends_s))[:-1]
        free = np.flatnonzero(before_s + _ROUNDED_S <= arrived_s)
        return int(free[-1]) if len(free) else 0


class _Line:
    """When one arm is busy, from the present on: stretches that don't touch."""

    def __init__(self) -> None:
        self._starts: list[float] = []
        self._ends: list[float] = []
        self._answered_s: dict[str, float] = {}

    @property
    def busy_until_s(self) -> float:
        """When everything that is queued so far ends."""
        return self._ends[-1] if self._ends else -math.inf

    def take(
        self,
        arrival_s: float,
        service_s: float,
        *,
        session: str | None = None,
        think_s: float | None = None,
    ) -> float:
        self._forget(arrival_s)
        due_s = arrival_s
        if session is not None and think_s is not None:
            due_s = max(due_s, self._answered_s.get(session, 0.0) + think_s)
        start_s = self._book(due_s, service_s)
        if session is not None:
            self._answered_s.pop(session, None)
            self._answered_s[session] = start_s + service_s
            if len(self._answered_s) > _MOST_SESSIONS:
                del self._answered_s[next(iter(self._answered_s))]
        return start_s - due_s

    def _book(self, due_s: float, service_s: float) -> float:
        """Reserve the first stretch from `due_s` on that is free for so long."""
        start_s = due_s
        at = bisect_right(self._ends, due_s)
        while at < len(self._starts) and self._starts[at] < start_s + service_s:
            start_s = max(start_s, self._ends[at])
            at += 1
        end_s = start_s + service_s
        first = at - 1 if at and self._ends[at - 1] == start_s else at
        last = at + 1 if at < len(self._starts) and self._starts[at] == end_s else at
        begin_s = self._starts[first] if first < at else start_s
        end_s = self._ends[at] if last > at else end_s
        self._starts[first:last] = [begin_s]
        self._ends[first:last] = [end_s]
        return start_s

    def _forget(self, arrival_s: float) -> None:
        """Drop what lies before anything that can still come."""
        past = bisect_right(self._ends, arrival_s)
        del self._starts[:past], self._ends[:past]
