"""One replica set at work: request by request, all arms answer, come what may.

Arms that share a device take turns, in an order drawn anew for every request; arms with
devices of their own answer side by side. What one waits for the others must not count
against it, so latency comes from a virtual queue of each arm alone over the service
times that were measured: an arm starts a request when it arrives, or when its own
previous one ends.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa

from canary.answers import observation, void
from canary.arms.base import Arm, ArmDiedError, ArmsLostError, Completion, ReplicaSet
from canary.arms.causes import Cause, Meaning
from canary.evidence.observation import Observation
from canary.evidence.pairs import CONTROL_ARM
from canary.losses import Losses, outlast
from canary.playing import control_takes, group_items_of
from canary.queues import Queues
from canary.traffic.feed import Due
from canary.traffic.request import Plan, Request
from canary.traffic.seeds import permuted
from canary.warmup import warm_up

_DEATHS_ARE_EVIDENCE = 2
_REVIVAL_REQUESTS = 3


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of one request: `rows`, one of each arm that took part.

    `warm` are the warm-up rows of arms that were started anew meanwhile, and `revived`
    which those are, and why.
    """

    rows: list[Observation] = field(default_factory=list)
    warm: list[Observation] = field(default_factory=list)
    revived: list[tuple[str, Cause]] = field(default_factory=list)


class Replica:
    """One replica set, and what it has answered so far.

    Args:
        arms: Its arms.
        plan: What is sent, to warm up with.
        control_share: The share of requests that the A/A control answers.
        keep: Makes sure of what was answered, before anything takes its time.
    """

    def __init__(
        self,
        arms: ReplicaSet,
        plan: Plan,
        *,
        control_share: float,
        keep: Callable[[], None],
    ) -> None:
        self._set = arms
        self._arms = dict(arms.arms)
        self._plan = plan
        self._control_share = control_share
        self._keep = keep
        self._group_items = group_items_of(plan)
        # The control answers a share only: its own queue would be shorter than the
        # baseline's, so nothing that counts from the arrival is said of it.
        self._queues = Queues(name for name in self._arms if name != CONTROL_ARM)
        self._lock = threading.Lock()
        self._warm: list[Observation] = []
        self._revived: list[tuple[str, Cause]] = []
        lanes = {arms.lane(name) for name in self._arms}
        self._lanes = ThreadPoolExecutor(len(lanes)) if len(lanes) > 1 else None
        self.losses = Losses()

    def recall(
        self, table: pa.Table, requests: Sequence[Request] | None, *, first: int
    ) -> None:
        """Take up what it has answered before, as `Queues.recall` does."""
        self._queues.recall(table, requests, first=first)

    def release(self, needed: Iterable[str]) -> None:
        """Close the arms that nobody needs any more."""
        for name in self._arms.keys() - set(needed):
            self._arms.pop(name).close()

    def taking_part(self, request: Request) -> list[str]:
        """Return the names of the arms that answer a request."""
        return [name for name in self._arms if self._takes_part(name, request)]

    def answer(self, due: Due) -> Answered:
        """Let all arms answer, whatever becomes of them.

        Raises:
            ArmError: They can't be brought back.
        """
        request = due.request
        names = permuted(self.taking_part(request), due.order)
        try:
            completions, attempt = self._serve(request, names)
        except ArmsLostError as lost:
            rows = [
                void(request, name, str(lost), epoch=self._arms[name].epoch)
                for name in names
            ]
            self.losses.void(lost.cause)
            self._rebuild(lost)
            return self._answered(rows)
        self.losses.answered()
        rows = [
            self._row(request, name, completions[name], order, attempt)
            for order, name in enumerate(names)
        ]
        return self._answered(rows)

    def leave_in_time(self) -> bool:
        """Begin anew elsewhere if what the arms run on is about to be taken away.

        Returns whether it was; what that leaves comes with what is answered next.

        Raises:
            ArmError: They can't be brought back.
        """
        try:
            for arm in self._arms.values():
                arm.check()
        except ArmsLostError as leaving:
            self._rebuild(leaving)
            self.losses.answered()  # it was no failure
            return True
        return False

    def answer_in_time(self, due: Due) -> Answered:
        """Answer, elsewhere if need be.

        Raises:
            ArmError: The arms can't be brought back.
        """
        self.leave_in_time()
        return self.answer(due)

    def left(self) -> Answered:
        """Return what restarts have left since the last answer."""
        return self._answered([])

    def arrange(self, number: int) -> Answered:
        """Move the arms to other devices and warm them up there.

        Raises:
            ArmError: They can't be brought back.
        """
        self._keep()
        try:
            self._set.arrange(number)
        except ArmsLostError as lost:
            self._rebuild(lost)
        else:
            self._warm += warm_up(self._arms, self._plan, _REVIVAL_REQUESTS)
        return self.left()

    def _answered(self, rows: list[Observation]) -> Answered:
        warm, revived = self._warm, self._revived
        self._warm, self._revived = [], []
        return Answered(rows, warm, revived)

    def _row(
        self,
        request: Request,
        name: str,
        completion: Completion,
        order: int,
        attempt: int,
    ) -> Observation:
        return observation(
            request,
            name,
            completion,
            queue_s=self._queues.take(name, request, completion.service_s),
            order=order,
            attempt=attempt,
            group_items=self._group_items[request.task, request.group] or None,
        )

    def _takes_part(self, name: str, request: Request) -> bool:
        if name != CONTROL_ARM:
            return True
        return control_takes(request, self._control_share, self._plan.seed)

    def _serve(
        self, request: Request, names: Sequence[str]
    ) -> tuple[dict[str, Completion], int]:
        """Let all arms answer. When one dies, all are asked once more; if the same one
        dies again of the same request, that is its answer: crashes are evidence. So is
        an arm that hangs, at once: its time is over."""
        lanes: dict[int, list[str]] = {}
        for name in names:
            lanes.setdefault(self._set.lane(name), []).append(name)
        deaths = dict.fromkeys(names, 0)
        attempt = 0
        while True:
            attempt += 1
            answers = self._ask_all(request, lanes.values(), deaths)
            if None not in answers:
                found = {n: c for lane in answers for n, c in (lane or {}).items()}
                return found, attempt

    def _ask_all(
        self,
        request: Request,
        lanes: Iterable[Sequence[str]],
        deaths: dict[str, int],
    ) -> list[dict[str, Completion] | None]:
        if self._lanes is None:
            return [self._ask(request, names, deaths) for names in lanes]
        asked = [self._lanes.submit(self._ask, request, n, deaths) for n in lanes]
        # All come to an end before anything is made of the failure of one.
        for one in asked:
            one.exception()
        return [one.result() for one in asked]

    def _ask(
        self, request: Request, names: Sequence[str], deaths: dict[str, int]
    ) -> dict[str, Completion] | None:
        """Ask the arms of one lane in turn; None if all arms are to be asked again."""
        completions: dict[str, Completion] = {}
        for name in names:
            try:
                completions[name] = self._arms[name].serve(request)
            except ArmDiedError as death:
                deaths[name] += 1
                self._revive(name, death.cause)
                own = death.cause.ruling.meaning is Meaning.OWN
                if deaths[name] < _DEATHS_ARE_EVIDENCE and not own:
                    return None
                completions[name] = death.completion
        return completions

    def _rebuild(self, lost: ArmsLostError) -> None:
        outlast(self.losses, lost, lambda one: self._revive(one.arm, one.cause))

    def _revive(self, name: str, cause: Cause) -> None:
        """Restart an arm, and warm up whatever has been started anew by that."""
        with self._lock:
            # What was answered is safe, however long it takes and whatever comes of it.
            self._keep()
            before = {one: arm.epoch for one, arm in self._arms.items()}
            self._arms[name].restart()
            fresh: Mapping[str, Arm] = {
                one: arm for one, arm in self._arms.items() if arm.epoch != before[one]
            }
            for one in fresh:
                self.losses.restarted(one, cause)
                self._revived.append((one, cause))
            self._warm += warm_up(fresh, self._plan, _REVIVAL_REQUESTS)
