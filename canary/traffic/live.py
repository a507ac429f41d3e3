"""Live traffic, a few seconds behind: what an ingress records while it grows.

A request is due a fixed delay after it came, so that the gaps between requests stay
what they were. What came while nobody ran is skipped and counted, never caught up.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from canary.clock import Clock
from canary.traffic.feed import Due
from canary.traffic.request import Request, TokenBlocks
from canary.traffic.rows import RowError
from canary.traffic.seeds import stable_seed, stable_uniform
from canary.traffic.shard import Shard
from canary.traffic.spool import Recorded, SpoolTail, recorded

DELAY_S = 5.0
"""How far behind live traffic a run is: time to write a request down and read it."""

MOST_BEHIND_S = 30.0
"""A live request that couldn't be sent for so long is shed, on all arms alike."""

_POLL_EVERY_S = 0.25
_KNOWN_IDS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveTraffic:
    """What of live traffic is sent, and how.

    `shares` is the share of sessions that is sent per regime between `boundaries`; None
    sends all. `questions` are spread over the first `questions_for_s` of the run. Of a
    `shard`, only its sessions are sent, and `questions` are its own.
    """

    source: str
    questions: tuple[Request, ...]
    questions_for_s: float
    boundaries: tuple[int, ...]
    shares: tuple[float, ...] | None
    max_output_tokens: int
    seed: int
    shard: Shard | None = None


class LiveFeed:
    """The requests that a spool gets from now on, with questions mixed in.

    Args:
        traffic: Which, and how.
        began_unix_s: When the run began, by the wall clock of this host; that of the
            ingress should agree within seconds.
        first: How many requests the run had before a pause, the last of which
            arrived at `until_s`, and the questions that were among them.
        clock: Monotonic seconds.
        wall_clock: Seconds since the epoch.

    Attributes:
        zero_s: The clock's time of arrival 0.
        skipped: Requests that came during a pause.
        bad_lines: Lines that are no requests.
        repeated: Requests that came twice, through two mirrors.
    """

    planned: int | None = None

    def __init__(
        self,
        traffic: LiveTraffic,
        *,
        began_unix_s: float,
        first: int = 0,
        until_s: float | None = None,
        asked: frozenset[str] = frozenset(),
        clock: Clock,
        wall_clock: Clock,
    ) -> None:
        self._traffic = traffic
        self._began_unix_s = began_unix_s
        self._index = first
        self._clock = clock
        self.zero_s = clock() - (wall_clock() - began_unix_s)
        self._tail = SpoolTail(traffic.source)
        self._coming: list[tuple[float, str, Request]] = []
        self._known: dict[str, None] = {}
        self._polled_s = float("-inf")
        self._last_s = until_s or 0.0
        self._paused = until_s is not None
        self.skipped = self.bad_lines = self.repeated = 0
        for question in _spread(traffic):
            if question.request_id not in asked:
                self._add(question)
        self._skip(until_s)

    @property
    def over(self) -> bool:
        """Live traffic never is."""
        return False

    def next(self, until_s: float) -> Due | None:
        """Return the next request if it is known and arrives up to `until_s`.

        Half of the delay is for slow writers: what is nearer to the present waits.
        """
        now_s = self._clock() - self.zero_s
        if now_s - self._polled_s >= _POLL_EVERY_S:
            self._polled_s = now_s
            for line in self._tail.lines():
                self._take(line)
        if self._paused:
            self._paused = False
            self._move_questions(now_s)
        until_s = min(until_s, now_s + DELAY_S / 2)
        if not self._coming or self._coming[0][0] > until_s:
            return None
        arrival_s, _, request = heapq.heappop(self._coming)
        self._last_s = arrival_s
        due = Due(
            self._index,
            request,
            stable_seed("order", self._traffic.seed, request.request_id),
        )
        self._index += 1
        return due

    def put_back(self, due: Due) -> None:
        """Take back the last one, which wasn't sent, to give it again or to skip it."""
        self._index = due.index
        self._add(due.request)

    def skip(self) -> None:
        """Leave out, and count, what is due by now; questions wait instead."""
        now_s = self._clock() - self.zero_s
        for line in self._tail.lines():
            row = self._parsed(line)
            if row is not None and self._arrival_s(row) >= now_s:
                self._offer(row)
            elif row is not None:
                self.skipped += 1
        waiting = [
            entry
            for entry in self._coming
            if entry[0] >= now_s or entry[2].kind == "quality"
        ]
        self.skipped += len(self._coming) - len(waiting)
        heapq.heapify(waiting)
        self._coming = waiting
        self._paused = True

    def _move_questions(self, now_s: float) -> None:
        """Let the questions that weren't asked begin now, as far apart as before."""
        late_s = now_s - min(
            (at_s for at_s, _, each in self._coming if each.kind == "quality"),
            default=now_s,
        )
        coming, self._coming = self._coming, []
        for at_s, _, request in coming:
            moved = request.kind == "quality" and late_s > 0
            self._add(replace(request, arrival_s=at_s + late_s) if moved else request)

    def counts(self, before: Mapping[str, Any]) -> dict[str, int]:
        """Return what came and wasn't sent, added to what a run had counted before."""
        found = {
            "skipped": self.skipped,
            "bad_lines": self.bad_lines,
            "repeated": self.repeated,
        }
        return {name: count + before.get(name, 0) for name, count in found.items()}

    def _skip(self, until_s: float | None) -> None:
        """Read what is there already: only what is not due yet counts."""
        now_s = self._clock() - self.zero_s
        for line in self._tail.lines():
            row = self._parsed(line)
            if row is None:
                continue
            arrival_s = self._arrival_s(row)
            if arrival_s >= now_s:
                self._offer(row)
            elif until_s is not None and arrival_s > until_s:
                self.skipped += 1
        self.bad_lines = self.repeated = 0

    def _take(self, line: bytes) -> None:
        row = self._parsed(line)
        if row is not None:
            self._offer(row)

    def _parsed(self, line: bytes) -> Recorded | None:
        """Return a request, if it is one and of this shard."""
        try:
            row = recorded(line)
        except RowError:
            self.bad_lines += 1
            return None
        seed, shard = self._traffic.seed, self._traffic.shard
        mine = shard is None or shard.takes(seed, row.row.session or row.id)
        return row if mine else None

    def _offer(self, row: Recorded) -> None:
        if row.id in self._known:
            self.repeated += 1
            return
        self._known[row.id] = None
        if len(self._known) > _KNOWN_IDS:
            del self._known[next(iter(self._known))]
        share = self._share(row.row.prompt_tokens)
        drawn = stable_uniform("sample", self._traffic.seed, row.row.session or row.id)
        if drawn < share:
            self._add(self._request(row, row.row.weight / share))

    def _share(self, prompt_tokens: int) -> float:
        if self._traffic.shares is None:
            return 1.0
        regime = sum(prompt_tokens >= b for b in self._traffic.boundaries)
        return self._traffic.shares[regime]

    def _arrival_s(self, row: Recorded) -> float:
        return row.arrived_unix_s - self._began_unix_s + DELAY_S

    def _request(self, came: Recorded, weight: float) -> Request:
        seed, most = self._traffic.seed, self._traffic.max_output_tokens
        row = came.row
        written = row.text is not None or row.messages is not None
        return Request(
            request_id=came.id,
            kind="live" if written else "latency",
            # Written down late: sent as soon as it is known, in the order of evidence.
            arrival_s=max(self._arrival_s(came), self._last_s),
            max_output_tokens=min(row.max_tokens or most, most),
            text=row.text,
            messages=row.messages,
            blocks=None
            if written
            else TokenBlocks(length_tokens=row.prompt_tokens, seed=seed),
            session_id=row.session,
            weight=weight,
            seed=stable_seed("request", seed, came.id),
        )

    def _add(self, request: Request) -> None:
        heapq.heappush(self._coming, (request.arrival_s, request.request_id, request))


def _spread(traffic: LiveTraffic) -> Sequence[Request]:
    times = sorted(
        traffic.questions_for_s * stable_uniform("time", traffic.seed, q.request_id)
        for q in traffic.questions
    )
    return [
        replace(question, arrival_s=DELAY_S + at_s)
        for question, at_s in zip(traffic.questions, times, strict=True)
    ]
