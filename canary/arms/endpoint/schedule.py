"""When each arm gets each request: absolute times, queues and sessions, but no clock.

Who uses it says what time it is and does what it is told: `Courier` is what it tells.
Times are monotonic seconds.
"""

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

_MOST_SESSIONS = 100_000
# So many requests are sent before the loop may put them on the wire and read answers.
_AT_ONCE = 1


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One request on its way to its arms (`lanes`, in the order of sending).

    `taken` is None until its first moment has decided whether it is sent at all.
    """

    index: int
    arrival_s: float
    lanes: Sequence["Lane"]
    path: str
    label: str
    rest: bytes
    session: str | None = None
    turn: int = 0
    think_s: float = 0.0
    taken: bool | None = None


@dataclass(slots=True, kw_only=True)
class _Session:
    """A session with turns to come; `running` counts those that may be sent or are."""

    running: int = 0
    ended_s: float = -math.inf
    parked: deque[Job] = field(default_factory=deque)


@dataclass(slots=True, kw_only=True, eq=False)
class Lane:
    """One arm: how much it is doing, what waits for room, and where its sessions are.

    `freed_s` is when it last had room again after it had none. When a session's turns
    are over, it is known when the last ended (`ended_s`), since nobody says whether one
    more will come; the sessions that have been silent longest are forgotten in the end.
    """

    name: str
    in_flight: int = 0
    freed_s: float = -math.inf
    queue: deque[tuple[float, Job]] = field(default_factory=deque)
    sessions: dict[str, _Session] = field(default_factory=dict)
    ended_s: dict[str, float] = field(default_factory=dict)

    def session(self, name: str) -> _Session:
        """Return a session that has a turn to come."""
        found = self.sessions.get(name)
        if found is None:
            ended_s = self.ended_s.pop(name, -math.inf)
            found = self.sessions[name] = _Session(ended_s=ended_s)
        return found

    def rest(self, name: str) -> None:
        """Keep no more of a session without a turn to come than when it ended."""
        session = self.sessions[name]
        if session.running or session.parked:
            return
        del self.sessions[name]
        self.ended_s[name] = session.ended_s
        if len(self.ended_s) > _MOST_SESSIONS:
            del self.ended_s[next(iter(self.ended_s))]


class Courier(Protocol):
    """What a schedule has done, at the moment when it is to be done."""

    def send(self, job: Job, lane: Lane, due_s: float, could_s: float) -> None:
        """Send `job`, due at `due_s`, for which there was room from `could_s` on."""
        ...

    def give_up(self, job: Job, lane: Lane, due_s: float) -> None:
        """Report that `job` waited its whole timeout in the lane's queue."""
        ...

    def shed(self, job: Job) -> None:
        """Report that `job` is sent to nobody."""
        ...


class Schedule:
    """Decides what is due.

    Args:
        courier: What acts on it.
        lanes: All arms.
        timeout_s: How long a request may wait in a queue.
        most: How many requests a lane has in flight at most.
        shed: Whether a request that finds a lane of its full is sent to nobody,
            instead of waiting in that lane's queue. Decided once, when it is first due:
            a lane in which its session's turn before isn't over by then is not asked,
            and lets it wait for room should it need to.
    """

    def __init__(
        self,
        courier: Courier,
        lanes: Sequence[Lane],
        *,
        timeout_s: float,
        most: int,
        shed: bool,
    ) -> None:
        self._courier = courier
        self._lanes = lanes
        self._timeout_s = timeout_s
        self._most = most
        self._shed = shed
        self._coming: list[tuple[float, int, int, Job]] = []

    def add(self, job: Job) -> None:
        """Take in a request; in each lane it comes after its session's turns so far."""
        for place, lane in enumerate(job.lanes):
            if job.session is None:
                self._come(job.arrival_s, place, job)
                continue
            session = lane.session(job.session)
            if job.turn and (session.running or session.parked):
                session.parked.append(job)
            else:
                self._follow(session, place, job)

    def run(self, now_s: float) -> None:
        """Do what is due, or the first of it: `next_s` tells whether there is more."""
        for _ in range(_AT_ONCE):
            if not self._coming or self._coming[0][0] > now_s:
                break
            due_s, _, place, job = heapq.heappop(self._coming)
            self._reach(job, job.lanes[place], due_s, now_s)
        self._give_up(now_s)

    def next_s(self) -> float:
        """Return when something is due next; infinity if nothing is."""
        next_s = self._coming[0][0] if self._coming else math.inf
        for lane in self._lanes:
            if lane.queue:
                next_s = min(next_s, lane.queue[0][0] + self._timeout_s)
        return next_s

    def ended(self, job: Job, lane: Lane, now_s: float) -> None:
        """Learn that the lane has room again: `job`, which was sent, is over."""
        if lane.in_flight == self._most:
            lane.freed_s = now_s
        lane.in_flight -= 1
        self._over(job, lane, now_s)
        if lane.queue:
            due_s, waited = lane.queue.popleft()
            self._send(waited, lane, due_s)

    def drop(self) -> set[int]:
        """Forget everything that hasn't been sent.

        Returns:
            The numbers of the jobs that some lane of theirs won't get.
        """
        unsent = [(job, job.lanes[place]) for _, _, place, job in self._coming]
        self._coming.clear()
        for lane in self._lanes:
            unsent += ((job, lane) for _, job in lane.queue)
            lane.queue.clear()
        for job, lane in unsent:
            if job.session is not None:
                lane.sessions[job.session].running -= 1
        dropped = {job.index for job, _ in unsent if job.taken is not False}
        for lane in self._lanes:
            for name, session in list(lane.sessions.items()):
                dropped |= {job.index for job in session.parked}
                session.parked.clear()
                lane.rest(name)
        return dropped

    def _follow(self, session: _Session, place: int, job: Job) -> None:
        """Let a turn come whose predecessor, if there is one, is over in that lane."""
        session.running += 1
        due_s = job.arrival_s
        if job.turn:
            due_s = max(due_s, session.ended_s + job.think_s)
        self._come(due_s, place, job)

    def _come(self, due_s: float, place: int, job: Job) -> None:
        heapq.heappush(self._coming, (due_s, job.index, place, job))

    def _reach(self, job: Job, lane: Lane, due_s: float, now_s: float) -> None:
        """Send, queue or shed what has become due in one lane."""
        if job.taken is None:
            job.taken = not (self._shed and self._finds_full(job, lane))
            if not job.taken:
                self._courier.shed(job)
        if not job.taken:
            self._over(job, lane, now_s)
        elif lane.in_flight < self._most:
            self._send(job, lane, due_s)
        else:
            lane.queue.append((due_s, job))

    def _finds_full(self, job: Job, lane: Lane) -> bool:
        # Without a turn before it, it is due in all its lanes at once.
        asked = (lane,) if job.turn else job.lanes
        return any(each.in_flight >= self._most for each in asked)

    def _send(self, job: Job, lane: Lane, due_s: float) -> None:
        lane.in_flight += 1
        self._courier.send(job, lane, due_s, max(due_s, lane.freed_s))

    def _over(self, job: Job, lane: Lane, now_s: float) -> None:
        """Let the next turn of the session come, if this was what it waited for."""
        if job.session is None:
            return
        session = lane.sessions[job.session]
        session.running -= 1
        session.ended_s = now_s
        if session.parked and not session.running:
            after = session.parked.popleft()
            self._follow(session, after.lanes.index(lane), after)
        lane.rest(job.session)

    def _give_up(self, now_s: float) -> None:
        for lane in self._lanes:
            while lane.queue and lane.queue[0][0] + self._timeout_s <= now_s:
                due_s, job = lane.queue.popleft()
                self._courier.give_up(job, lane, due_s)
                self._over(job, lane, now_s)
