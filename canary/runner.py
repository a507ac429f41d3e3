"""The loop: due request -> all arms -> observations -> journal -> look.

Arms share the device and take turns, in an order drawn anew for every request. What
one waits for the others must not count against it, so latency comes from a virtual
queue of each arm alone over the service times that were measured: an arm starts a
request when it arrives, or when its own previous one ends.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import pyarrow as pa

from canary.answers import observation, unsent, void
from canary.arms.base import Arm, ArmDiedError, ArmsLostError, Completion
from canary.arms.causes import Cause, Meaning
from canary.clock import Clock
from canary.evidence.journal import Journal
from canary.evidence.observation import Observation
from canary.evidence.pairs import CONTROL_ARM
from canary.losses import Losses
from canary.orders import Orders
from canary.playing import (
    HEARTBEAT_S,
    Played,
    control_takes,
    group_items_of,
    play_out,
    questions_of,
    try_again,
)
from canary.policy.model import Policy
from canary.queues import Queues
from canary.traffic.feed import Due, Feed, PlanFeed
from canary.traffic.live import MOST_BEHIND_S, LiveFeed
from canary.traffic.request import Plan, Request
from canary.warmup import warm_up
from canary.watches import END_OF_TRAFFIC, INTERRUPTED, Doubts, Listener, Watches

_DEATHS_ARE_EVIDENCE = 2
_REVIVAL_REQUESTS = 3


class Runner:
    """Plays traffic through the arms until every policy is decided or traffic ends.

    Args:
        policies: Compared on the same traffic; each gets its own verdict.
        plan: What is sent, and when; of live traffic what has come before, and the
            questions.
        arms: The running variants by arm name, those of `arms_of`. An arm whose
            policies are all decided is closed.
        journal: Where observations go.
        earlier: What this run has recorded before, in parts of whole requests, if it
            goes on after a pause; no warm-up.
        live: Live traffic, if that is what is sent.
        gpus: How many GPUs the arms hold, which budgets are counted in.
        losses: What was lost before, while the arms started, and what may be yet.
        run: The run's name, for the decisions that the listener may ask for.
        doubts: Says why the traffic is no fair sample.
        orders: When it may send, and whether it is to stop.
        clock: Monotonic seconds.
        sleep: Waits for so many seconds.
        listener: Is told what happens.
    """

    def __init__(
        self,
        policies: Sequence[Policy],
        plan: Plan,
        arms: Mapping[str, Arm],
        journal: Journal,
        *,
        earlier: Iterable[pa.Table] = (),
        live: LiveFeed | None = None,
        gpus: int = 0,
        losses: Losses | None = None,
        run: str = "",
        doubts: Doubts = tuple,
        orders: Orders | None = None,
        clock: Clock,
        sleep: Callable[[float], None],
        listener: Listener,
    ) -> None:
        self._watches = Watches(
            policies,
            questions_of(plan),
            gpus=gpus,
            run=run,
            doubts=doubts,
            listener=listener,
            looks=plan.shard is None,
        )
        self._plan = plan
        self._arms = dict(arms)
        self._journal = journal
        self._live = live
        self._orders = orders or Orders()
        self._clock = clock
        self._sleep = sleep
        self._listener = listener
        self._control_share = max(policy.aa_control for policy in policies)
        self._zero_s: float | None = None
        self._queues = Queues(arms)
        for part in earlier:
            known = None if live is not None else plan.requests
            self._queues.recall(part, known, first=len(self._watches.store))
            self._watches.store.take_up(part)
        self._group_items = group_items_of(plan)
        self._losses = Losses() if losses is None else losses

    def run(self) -> Played:
        """Play the traffic; return for each policy why and where its evidence ends.

        Raises:
            StorageError: As `play_out`, which says what an interrupt does.
        """
        reason = play_out(self._play, self._journal, self._listener, self._sleep)
        return Played(
            reason=reason,
            ends=self._watches.ends,
            elapsed_s=self._watches.store.last_arrived_s,
            peak_bytes=self._watches.store.peak_bytes(),
            losses=self._losses,
        )

    def _play(self) -> str:
        # What was recorded before a pause isn't sent again: the schedule shifts.
        first = len(self._watches.store)
        feed: Feed = self._live or PlanFeed(self._plan, first)
        if first:
            self._watches.look_before(self._watches.store.last_arrived_s)
        self._zero_s = None if self._live is None else self._live.zero_s
        while not feed.over:
            if self._orders.closed() is not None:
                self._await_opening()
            due = feed.next(math.inf)
            if due is None:
                if not self._idle(self._now_s()):
                    return self._why_over()
                continue
            arrival_s = due.request.arrival_s
            if self._zero_s is None:
                self._zero_s = self._clock() - (arrival_s if first else 0.0)
            self._watches.look_before(arrival_s)
            self._release()
            if not self._ready(arrival_s):
                if self._over():
                    return self._why_over()
                feed.put_back(due)
                continue
            self._answer_one(due, self._now_s() - arrival_s, feed.planned)
        return END_OF_TRAFFIC

    def _now_s(self) -> float:
        """How far the traffic's time has come."""
        return 0.0 if self._zero_s is None else self._clock() - self._zero_s

    def _await_opening(self) -> None:
        """Wait while the schedule lets nothing be sent: the traffic's time stands still
        or, if it is live, is skipped."""
        closed_s, at_s = self._clock(), self._now_s()
        while self._goes_on(at_s) and (why := self._orders.closed()) is not None:
            self._rest(HEARTBEAT_S, why)
            self._skip()
        self._skip()
        if self._live is None and self._zero_s is not None:
            self._zero_s += self._clock() - closed_s

    def _skip(self) -> None:
        if self._live is not None:
            self._live.skip()

    def _over(self) -> bool:
        return self._watches.all_ended or self._orders.stop_asked()

    def _why_over(self) -> str:
        if self._watches.all_ended:
            return self._watches.why_all_ended()
        return INTERRUPTED

    def _answer_one(self, due: Due, lag_s: float, planned: int | None) -> None:
        behind = self._live is not None and lag_s > MOST_BEHIND_S
        rows = self._shed(due) if behind else self._answer(due.request, due.order)
        self._watches.store.append(rows)
        self._journal.append(rows)
        self._listener.answered(
            done=len(self._watches.store), planned=planned, rows=rows, lag_s=lag_s
        )

    def _shed(self, due: Due) -> list[Observation]:
        names = [n for n in self._arms if self._takes_part(n, due.request)]
        return [unsent(due.request, name) for name in names]

    def _ready(self, arrival_s: float) -> bool:
        """Wait until a request is due and what comes back can be kept; return False if
        it may not be sent any more, or not yet."""
        if not self._wait(arrival_s):
            return False
        if self._journal.trouble is not None:
            self._zero_s = (self._zero_s or 0.0) + self._pause(arrival_s)
        return not self._over()

    def _wait(self, arrival_s: float) -> bool:
        """Wait until a request is due; return False if it may not be sent any more, or
        not yet."""
        while self._goes_on(arrival_s) and self._orders.closed() is None:
            self._leave_in_time()
            left_s = (self._zero_s or 0.0) + arrival_s - self._clock()
            if left_s <= 0:
                return True
            self._rest(left_s)
        return False

    def _leave_in_time(self) -> None:
        """Begin anew elsewhere, and let recorded traffic wait for that, if what the
        arms run on is about to be taken away: nothing is in flight now."""
        try:
            for arm in self._arms.values():
                arm.check()
        except ArmsLostError as leaving:
            began_s = self._clock()
            self._rebuild(leaving)
            self._losses.answered()  # it was no failure
            if self._live is None and self._zero_s is not None:
                self._zero_s += self._clock() - began_s

    def _pause(self, arrival_s: float) -> float:
        """Wait until what comes back can be kept, or nobody waits for it.

        Returns how much later the schedule goes on: recorded traffic waits, live
        traffic doesn't.
        """
        began_s = self._clock()
        while self._journal.trouble is not None and self._goes_on(arrival_s):
            try_again(self._journal, self._listener, self._sleep)
        return self._clock() - began_s if self._live is None else 0.0

    def _idle(self, now_s: float) -> bool:
        """Wait for traffic that nobody knows of; return False once nobody waits."""
        if not self._goes_on(now_s):
            return False
        self._rest(HEARTBEAT_S)
        return True

    def _goes_on(self, arrival_s: float) -> bool:
        self._watches.end_late(self._journal.elapsed_s, arrival_s)
        self._release()
        return not self._over()

    def _rest(self, left_s: float, why: str | None = None) -> None:
        if self._journal.trouble is not None:
            try_again(self._journal, self._listener, self._sleep)
            return
        self._listener.waiting(why)
        self._journal.commit_if_due()
        self._sleep(min(left_s, HEARTBEAT_S))

    def _answer(self, request: Request, order_seed: int) -> list[Observation]:
        names = [name for name in self._arms if self._takes_part(name, request)]
        random.Random(order_seed).shuffle(names)  # noqa: S311 - repeatable, not secret
        try:
            completions, attempt = self._serve(request, names)
        except ArmsLostError as lost:
            rows = [
                void(request, name, str(lost), epoch=self._arms[name].epoch)
                for name in names
            ]
            self._losses.void(lost.cause)
            self._rebuild(lost)
            return rows
        self._losses.answered()
        rows = []
        for order, name in enumerate(names):
            completion = completions[name]
            waited_s = self._queues.take(name, request, completion.service_s)
            # The control answers a share only: its own queue would be shorter than
            # the baseline's, so nothing that counts from the arrival is said of it.
            rows.append(
                observation(
                    request,
                    name,
                    completion,
                    queue_s=None if name == CONTROL_ARM else waited_s,
                    order=order,
                    attempt=attempt,
                    group_items=self._group_items[request.task, request.group] or None,
                )
            )
        return rows

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
        deaths: Counter[str] = Counter()
        attempt = 0
        while True:
            attempt += 1
            completions: dict[str, Completion] = {}
            for name in names:
                try:
                    completions[name] = self._arms[name].serve(request)
                except ArmDiedError as death:
                    deaths[name] += 1
                    self._revive(name, death.cause)
                    own = death.cause.ruling.meaning is Meaning.OWN
                    if deaths[name] < _DEATHS_ARE_EVIDENCE and not own:
                        break
                    completions[name] = death.completion
            else:
                return completions, attempt

    def _rebuild(self, lost: ArmsLostError) -> None:
        """Get all arms back after what they ran on was lost, if need be repeatedly."""
        while True:
            self._losses.spend(lost)
            try:
                self._revive(lost.arm, lost.cause)
            except ArmsLostError as again:
                lost = again
            else:
                return

    def _revive(self, name: str, cause: Cause) -> None:
        """Restart an arm, and warm up whatever has been started anew by that."""
        # What was answered is safe, however long it takes and whatever comes of it.
        self._journal.commit()
        before = {one: arm.epoch for one, arm in self._arms.items()}
        self._arms[name].restart()
        fresh = {n: arm for n, arm in self._arms.items() if arm.epoch != before[n]}
        for one in fresh:
            self._losses.restarted(one, cause)
            self._listener.revived(one, cause)
        self._journal.append(warm_up(fresh, self._plan, _REVIVAL_REQUESTS))

    def _release(self) -> None:
        """Close the arms that no undecided policy needs."""
        for name in self._arms.keys() - self._watches.needed_arms:
            self._arms.pop(name).close()
