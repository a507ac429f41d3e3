"""All replica sets of a run: traffic is split between them by session.

One set answers where it is asked, one request after the other. Several answer side by
side, each in a thread of its own, and what they answered comes back in the order of the
traffic: only whole beginnings of it are ever recorded, so that a run can be resumed.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from canary.arms.base import ReplicaSet
from canary.evidence.store import request_begins
from canary.losses import Losses
from canary.replica import Answered, Replica
from canary.traffic.feed import Due
from canary.traffic.request import Plan, Request
from canary.traffic.seeds import stable_uniform

_AHEAD = 4
"""How many requests each set may have before it, on average: enough that one that is
busy for long keeps few others waiting, and little is lost by a crash."""


class Replicas:
    """Hands requests to replica sets and gives back what came of them, in order.

    Args:
        sets: The replica sets, all of the same arms.
        plan: What is sent, to warm up with.
        control_share: The share of requests that the A/A control answers.
        losses: What was lost before.
        keep: Makes sure of what was answered, before a set's arms are started anew;
            only where there is one set, for several never stand still together.

    Attributes:
        arrangement: How the arms are arranged.
    """

    def __init__(
        self,
        sets: Sequence[ReplicaSet],
        plan: Plan,
        *,
        control_share: float,
        keep: Callable[[], None],
        losses: Losses | None = None,
    ) -> None:
        self._lost_before = Losses() if losses is None else losses
        several = len(sets) > 1
        self._replicas = [
            Replica(
                one,
                plan,
                control_share=control_share,
                keep=_nothing if several else keep,
            )
            for one in sets
        ]
        self._threads = [ThreadPoolExecutor(1) for _ in sets] if several else []
        self._seed = plan.seed
        self._sent: deque[tuple[float, Answered | Future[Answered]]] = deque()
        self._needed: frozenset[str] | None = None
        self.arrangement = 0

    def recall(
        self, table: pa.Table, requests: Sequence[Request] | None, *, first: int
    ) -> None:
        """Take up what was recorded before a pause, as `Queues.recall` does."""
        if not self._threads:
            self._replicas[0].recall(table, requests, first=first)
            return
        number = np.cumsum(request_begins(table)) - 1
        ids, sessions = (table[n].to_pylist() for n in ("request_id", "session_id"))
        whose = [
            self._whose(session or request_id)
            for request_id, session in zip(ids, sessions, strict=True)
        ]
        for index, replica in enumerate(self._replicas):
            mine = np.array(whose) == index
            chosen = None
            if requests is not None:
                mine_of_all = sorted(set(number[mine].tolist()))
                chosen = [requests[first + at] for at in mine_of_all]
            replica.recall(table.filter(pa.array(mine)), chosen, first=0)

    @property
    def full(self) -> bool:
        """Whether it is better to wait for answers before more is sent."""
        return len(self._sent) >= _AHEAD * len(self._replicas)

    @property
    def in_flight(self) -> int:
        """How many requests haven't come back."""
        return len(self._sent)

    def send(self, due: Due, lag_s: float) -> None:
        """Hand a request over, so much later than planned; where there is one set, let
        it answer.

        Raises:
            ArmError: Arms can't be brought back; of several sets `back` raises it.
        """
        if self._threads:
            whose = self._whose(due.request.session_id or due.request.request_id)
            answer = self._replicas[whose].answer_in_time
            self._sent.append((lag_s, self._threads[whose].submit(answer, due)))
            return
        self._sent.append((lag_s, self._replicas[0].answer(due)))

    def back(self) -> Iterator[tuple[float, Answered]]:
        """Yield what has come back and was sent before all that hasn't, each with how
        much later than planned that was.

        Raises:
            ArmError: Arms can't be brought back.
        """
        while self._sent:
            lag_s, answered = self._sent[0]
            if isinstance(answered, Future):
                if not answered.done():
                    return
                answered = answered.result()
            self._sent.popleft()
            yield lag_s, answered

    def wait(self, timeout_s: float) -> bool:
        """Wait for the first that hasn't come back; return whether it has."""
        first = self._sent[0][1] if self._sent else None
        if not isinstance(first, Future):
            return True
        try:
            first.exception(timeout_s)
        except TimeoutError:
            return False
        return True

    def leave_in_time(self) -> Answered | None:
        """Begin anew elsewhere if what the arms run on is about to be taken away.

        Returns what that leaves, or None. Several sets see to it themselves.

        Raises:
            ArmError: They can't be brought back.
        """
        if self._threads or not self._replicas[0].leave_in_time():
            return None
        return self._replicas[0].left()

    def arrange(self, number: int) -> list[Answered]:
        """Move all arms; nothing may be in flight.

        Raises:
            ArmError: They can't be brought back.
        """
        self.arrangement = number
        if not self._threads:
            return [self._replicas[0].arrange(number)]
        moved = [
            thread.submit(replica.arrange, number)
            for thread, replica in zip(self._threads, self._replicas, strict=True)
        ]
        return [one.result() for one in moved]

    def taking_part(self, request: Request) -> list[str]:
        """Return the names of the arms that answer a request."""
        return self._replicas[0].taking_part(request)

    def release(self, needed: Iterable[str]) -> None:
        """Close the arms that nobody needs any more."""
        wanted = frozenset(needed)
        if wanted == self._needed:
            return
        self._needed = wanted
        for index, replica in enumerate(self._replicas):
            if self._threads:  # not while they answer
                self._threads[index].submit(replica.release, wanted).result()
            else:
                replica.release(wanted)

    def losses(self) -> Losses:
        """Return what all sets have lost."""
        each = [replica.losses for replica in self._replicas]
        return Losses.of_all([self._lost_before, *each])

    def close(self) -> None:
        """Let go of the threads; what is in flight is dropped."""
        for thread in self._threads:
            thread.shutdown(wait=False, cancel_futures=True)

    def _whose(self, key: str) -> int:
        return int(stable_uniform("replica", self._seed, key) * len(self._replicas))


def _nothing() -> None:
    """What several sets keep before a restart: others' answers come all the time."""
