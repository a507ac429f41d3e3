"""The loop: due request -> all arms -> observations -> journal -> look.

How arms answer, and what their failures mean, is in `canary.replica`; here is when they
are asked, what is kept of it, and when it ends.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import pyarrow as pa

from canary.answers import unsent
from canary.arms.base import ReplicaSet
from canary.clock import Clock
from canary.evidence.journal import Journal
from canary.evidence.observation import Observation
from canary.losses import Losses
from canary.orders import Orders
from canary.playing import (
    HEARTBEAT_S,
    Lags,
    Played,
    play_out,
    questions_of,
    try_again,
)
from canary.policy.model import Policy
from canary.replica import Answered
from canary.replicas import Replicas
from canary.swaps import Swaps
from canary.traffic.feed import Due, Feed, PlanFeed
from canary.traffic.live import MOST_BEHIND_S, LiveFeed
from canary.traffic.request import Plan
from canary.watches import END_OF_TRAFFIC, INTERRUPTED, Doubts, Listener, Watches

_BRIEF_S = 0.05


class Runner:
    """Plays traffic through the arms until every policy is decided or traffic ends.

    Args:
        policies: Compared on the same traffic; each gets its own verdict.
        plan: What is sent, and when; of live traffic what has come before, and the
            questions.
        sets: The running variants, those of `arms_of`, once or several times. An arm
            whose policies are all decided is closed.
        journal: Where observations go.
        earlier: What this run has recorded before, in parts of whole requests, if it
            goes on after a pause; no warm-up.
        live: Live traffic, if that is what is sent.
        gpus: How many GPUs the arms hold, which budgets are counted in.
        losses: What was lost before, while the arms started.
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
        sets: Sequence[ReplicaSet],
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
        self._journal = journal
        self._live = live
        self._orders = orders or Orders()
        self._clock = clock
        self._sleep = sleep
        self._listener = listener
        self._lags = Lags()
        self._zero_s: float | None = None
        self._planned: int | None = None
        self._replicas = Replicas(
            sets,
            plan,
            control_share=max(policy.aa_control for policy in policies),
            keep=journal.commit,
            losses=losses,
        )
        self._swaps = _swaps(policies, sets[0].arrangements, plan.seed)
        for part in earlier:
            known = None if live is not None else plan.requests
            self._replicas.recall(part, known, first=len(self._watches.store))
            self._watches.take_up(part)

    def run(self) -> Played:
        """Play the traffic; return for each policy why and where its evidence ends.

        Raises:
            StorageError: As `play_out`, which says what an interrupt does.
        """
        try:
            reason = play_out(self._play, self._journal, self._listener, self._sleep)
        finally:
            self._replicas.close()
        return Played(
            reason=reason,
            ends=self._watches.ends,
            elapsed_s=self._watches.store.last_arrived_s,
            peak_bytes=self._watches.store.peak_bytes(),
            losses=self._replicas.losses(),
            answered=len(self._watches.store),
            late_p99_s=self._lags.p99_s(),
        )

    def _play(self) -> str:
        # What was recorded before a pause isn't sent again: the schedule shifts.
        first = len(self._watches.store)
        feed: Feed = self._live or PlanFeed(self._plan, first)
        if first:
            self._watches.look_before(self._watches.store.last_arrived_s)
        self._planned = feed.planned
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
            self._look_before(arrival_s)
            self._swap(arrival_s)
            if not self._ready(arrival_s):
                if self._over():
                    return self._why_over()
                feed.put_back(due)
                continue
            self._answer_one(due, self._now_s() - arrival_s)
        self._take_all()
        return END_OF_TRAFFIC

    def _look_before(self, arrival_s: float) -> None:
        if self._watches.look_is_due(arrival_s):
            self._take_all()
            self._watches.look_before(arrival_s)
        self._release()

    def _swap(self, arrival_s: float) -> None:
        """Let the arms change places if that is planned: the traffic's time stands
        still meanwhile or, if it is live, is skipped."""
        number = self._swaps.at(arrival_s) if self._swaps else 0
        if number == self._replicas.arrangement or self._over():
            return
        self._take_all()
        self._listener.waiting("the arms change places")
        began_s = self._clock()
        for moved in self._replicas.arrange(number):
            self._record(moved)
        self._skip()
        if self._live is None and self._zero_s is not None:
            self._zero_s += self._clock() - began_s

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
            self._take_all()  # leaving out what is slow would be unfair
            return self._watches.why_all_ended()
        return INTERRUPTED

    def _answer_one(self, due: Due, lag_s: float) -> None:
        if self._live is not None and lag_s > MOST_BEHIND_S:
            self._take_all()
            names = self._replicas.taking_part(due.request)
            self._count(lag_s, [unsent(due.request, n) for n in names])
            return
        while self._replicas.full:
            if self._orders.stop_asked():  # and whoever goes on sends it
                return
            self._await()
        self._replicas.send(due, lag_s)
        self._take()

    def _take_all(self) -> None:
        """Wait for all that is in flight."""
        while self._replicas.in_flight:
            self._await()

    def _await(self) -> None:
        if not self._replicas.wait(HEARTBEAT_S):
            self._listener.waiting(None)
            self._journal.commit_if_due()
        self._take()

    def _take(self) -> None:
        """Record what has come back, in order."""
        for lag_s, answered in self._replicas.back():
            self._record(answered)
            self._count(lag_s, answered.rows)

    def _record(self, answered: Answered) -> None:
        """Keep what a restart of arms has left."""
        for arm, cause in answered.revived:
            self._listener.revived(arm, cause)
        if answered.warm:
            self._journal.append(answered.warm)

    def _count(self, lag_s: float, rows: list[Observation]) -> None:
        self._lags.add(lag_s)
        self._watches.append(rows)
        self._journal.append(rows)
        self._listener.answered(
            done=len(self._watches.store),
            planned=self._planned,
            rows=rows,
            lag_s=lag_s,
        )

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
        arms run on is about to be taken away."""
        began_s = self._clock()
        moved = self._replicas.leave_in_time()
        if moved is None:
            return
        self._record(moved)
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
        if self._replicas.in_flight:
            self._replicas.wait(min(left_s, _BRIEF_S))
            self._take()
            return
        self._sleep(min(left_s, HEARTBEAT_S))

    def _release(self) -> None:
        """Close the arms that no undecided policy needs."""
        self._replicas.release(self._watches.needed_arms)


def _swaps(policies: Sequence[Policy], arrangements: int, seed: int) -> Swaps | None:
    """Return when the arms change places; None if they don't."""
    least_s = min(policy.decision.min_duration_s for policy in policies)
    every_s = policies[0].placement.swap_period_s(least_s)
    if every_s is None or arrangements == 1:
        return None
    return Swaps(arrangements, every_s=every_s, seed=seed)
