"""The loop for servers: all arms get a request at its moment, several at a time.

A process of its own sends (`canary.arms.endpoint`), so that no look and no disk delays
it. This one hands requests over ahead of their time, takes back what came of them in
whatever order, and records and judges them in the plan's order.
"""

import time
from collections import deque
from collections.abc import Iterable, Sequence

import pyarrow as pa

from canary.answers import observation, prompt_size, unsent
from canary.arms.endpoint.base import Delivery
from canary.arms.endpoint.sender import EndpointSender
from canary.evidence.journal import Journal
from canary.evidence.observation import Observation
from canary.evidence.pairs import CONTROL_ARM
from canary.orders import Orders
from canary.playing import (
    Lags,
    Played,
    control_takes,
    group_items_of,
    play_out,
    questions_of,
    try_again,
)
from canary.policy.model import Policy
from canary.traffic.feed import Due, Feed, PlanFeed
from canary.traffic.live import MOST_BEHIND_S, LiveFeed
from canary.traffic.request import Plan
from canary.traffic.seeds import permuted
from canary.watches import (
    DECIDED,
    END_OF_TRAFFIC,
    INTERRUPTED,
    Doubts,
    Listener,
    Watches,
)

_LEAD_S = 0.5
_AHEAD_S = 10.0
_AHEAD_TOKENS = 4_000_000
_HEARTBEAT_S = 1.0
_BRIEF_S = 0.05
# What is offered again, after a pause, must not be taken for what was offered before.
_NUMBERS = 2**40


class SideBySide:
    """Plays traffic through servers until every policy is decided or traffic ends.

    Args:
        policies: Compared on the same traffic; each gets its own verdict.
        plan: What is sent, and when; of live traffic what has come before, and the
            questions.
        arms: The names of the arms.
        sender: Sends to them.
        journal: Where observations go.
        earlier: What this run has recorded before, in parts of whole requests, if it
            goes on after a pause; no warm-up.
        live: Live traffic, if that is what is sent.
        run: The run's name, for the decisions that the listener may ask for.
        doubts: Says why the traffic is no fair sample.
        orders: When it may send, and whether it is to stop.
        listener: Is told what happens.
    """

    def __init__(
        self,
        policies: Sequence[Policy],
        plan: Plan,
        arms: Iterable[str],
        sender: EndpointSender,
        journal: Journal,
        *,
        earlier: Iterable[pa.Table] = (),
        live: LiveFeed | None = None,
        run: str = "",
        doubts: Doubts = tuple,
        orders: Orders | None = None,
        listener: Listener,
    ) -> None:
        self._watches = Watches(
            policies,
            questions_of(plan),
            gpus=0,
            run=run,
            doubts=doubts,
            listener=listener,
            looks=plan.shard is None,
        )
        self._plan = plan
        self._arms = tuple(arms)
        self._sender = sender
        self._journal = journal
        self._listener = listener
        self._control_share = max(policy.aa_control for policy in policies)
        self._group_items = group_items_of(plan)
        for part in earlier:
            self._watches.take_up(part)
        self._orders = orders or Orders()
        self._closed_s: float | None = None
        self._next = len(self._watches.store)
        self._live = live
        self._feed: Feed = live or PlanFeed(plan, self._next)
        self._offered: dict[int, tuple[Due, list[str]]] = {}
        self._back: dict[int, Delivery] = {}
        self._again: deque[Due] = deque()
        self._round = 0
        self._zero_s = 0.0
        self._lags = Lags()
        self._ahead: deque[tuple[float, int]] = deque()
        self._ahead_tokens = 0

    def run(self) -> Played:
        """Play the traffic; return for each policy why and where its evidence ends.

        Raises:
            StorageError: As `play_out`, which says what an interrupt does.
        """
        reason = play_out(self._play, self._journal, self._listener, time.sleep)
        return Played(
            reason=reason,
            ends=self._watches.ends,
            elapsed_s=self._watches.store.last_arrived_s,
            peak_bytes={},
            answered=len(self._watches.store),
            late_p99_s=self._lags.p99_s(),
        )

    def _play(self) -> str:
        self._zero_s = self._first_zero_s()
        self._sender.begin(self._zero_s)
        while True:
            if self._journal.trouble is not None:
                self._pause()
            now_s = self._now_s()
            if self._feed.over and not (self._offered or self._again):
                return END_OF_TRAFFIC
            self._watches.end_late(self._journal.elapsed_s, now_s)
            if self._watches.all_ended:
                reason = self._watches.why_all_ended()
                if reason != DECIDED:
                    self._drain()
                return reason
            if self._orders.stop_asked():
                return INTERRUPTED
            why = self._why_closed()
            if why is None:
                self._offer(now_s)
            self._take(_BRIEF_S if self._offered else _HEARTBEAT_S, why)

    def _now_s(self) -> float:
        """How far the traffic's time has come; while closed that of a plan stands."""
        if self._live is not None or self._closed_s is None:
            return time.monotonic() - self._zero_s
        return self._closed_s - self._zero_s

    def _why_closed(self) -> str | None:
        """Return why nothing may be sent now; go on where it stopped once it may.

        What was handed over before comes back first, for arrivals count from one zero.
        """
        why = self._orders.closed()
        if self._live is not None:
            if why is not None or self._closed_s is not None:
                self._live.skip()
            self._closed_s = None if why is None else time.monotonic()
            return why
        if why is not None:
            self._closed_s = self._closed_s or time.monotonic()
        elif self._closed_s is not None:
            if self._offered:
                return "waiting for the last answers from before it closed"
            self._zero_s += time.monotonic() - self._closed_s
            self._closed_s = None
            self._sender.begin(self._zero_s)
        return why

    def _pause(self) -> None:
        """Send nothing while nothing can be kept; what is in flight comes back.

        Recorded traffic waits meanwhile, live traffic doesn't.
        """
        began_s = time.monotonic()
        dropped = sorted(number % _NUMBERS for number in self._sender.drop())
        self._again.extendleft(self._offered.pop(i)[0] for i in reversed(dropped))
        self._round += 1
        self._ahead.clear()
        self._ahead_tokens = 0
        while self._journal.trouble is not None and not self._watches.all_ended:
            try_again(self._journal, self._listener, self._fetch)
            self._watches.end_late(self._journal.elapsed_s, began_s - self._zero_s)
        if self._live is None and self._closed_s is None:
            self._zero_s += time.monotonic() - began_s
            self._sender.begin(self._zero_s)

    def _first_zero_s(self) -> float:
        """Return when the run's time begins, on the clock that all processes share.

        What was recorded before a pause isn't sent again: the schedule shifts.
        """
        recorded = self._next
        if self._live is not None:
            return self._live.zero_s
        zero_s = time.monotonic() + _LEAD_S
        if recorded and not self._feed.over:
            self._watches.look_before(self._watches.store.last_arrived_s)
            zero_s -= self._plan.requests[recorded].arrival_s
        return zero_s

    def _offer(self, now_s: float) -> None:
        """Hand over what is due soon: not all, for bodies are large."""
        while self._ahead and self._ahead[0][0] <= now_s:
            self._ahead_tokens -= self._ahead.popleft()[1]
        until_s = now_s + min(_AHEAD_S, self._orders.open_for_s())
        while self._ahead_tokens < _AHEAD_TOKENS:
            due = self._next_due(until_s)
            if due is None:
                return
            request = due.request
            taking_part = [n for n in self._arms if self._takes_part(n, due)]
            names = permuted(taking_part, due.order)
            self._offered[due.index] = due, names
            if self._live is not None and now_s - request.arrival_s > MOST_BEHIND_S:
                shed = Delivery(index=due.index, shed=True, answers={})
                self._back[due.index] = shed
                continue
            number = self._round * _NUMBERS + due.index
            self._sender.offer(number, request, names)
            tokens = prompt_size(request)
            self._ahead.append((request.arrival_s, tokens))
            self._ahead_tokens += tokens

    def _next_due(self, until_s: float) -> Due | None:
        return self._again.popleft() if self._again else self._feed.next(until_s)

    def _takes_part(self, name: str, due: Due) -> bool:
        if name not in self._watches.needed_arms:
            return False
        if name != CONTROL_ARM:
            return True
        return control_takes(due.request, self._control_share, self._plan.seed)

    def _take(self, timeout_s: float, why: str | None = None) -> None:
        self._collect(timeout_s, why)
        while self._next in self._back:
            self._record(self._next)
            self._next += 1

    def _collect(self, timeout_s: float, why: str | None = None) -> None:
        if not self._fetch(timeout_s):
            self._listener.waiting(why)
            self._journal.commit_if_due()

    def _fetch(self, timeout_s: float) -> int:
        """Take back what has come, after waiting for the first; return how many."""
        deliveries = self._sender.taken(timeout_s)
        for delivery in deliveries:
            self._back[delivery.index % _NUMBERS] = delivery
        return len(deliveries)

    def _record(self, index: int) -> None:
        delivery = self._back.pop(index)
        due, names = self._offered.pop(index)
        self._watches.look_before(due.request.arrival_s)
        rows = self._rows(due, names, delivery)
        lag_s = max((row.send_lag_s or 0.0 for row in rows), default=0.0)
        self._lags.add(lag_s)
        self._watches.append(rows)
        self._journal.append(rows)
        self._listener.answered(
            done=len(self._watches.store),
            planned=self._feed.planned,
            rows=rows,
            lag_s=lag_s,
        )

    def _rows(
        self, due: Due, names: Sequence[str], delivery: Delivery
    ) -> list[Observation]:
        request = due.request
        if delivery.shed:
            return [unsent(request, name) for name in names]
        return [
            observation(
                request,
                name,
                delivery.answers[name].completion,
                queue_s=delivery.answers[name].queue_s,
                send_lag_s=delivery.answers[name].send_lag_s,
                order=order,
                group_items=self._group_items[request.task, request.group] or None,
            )
            for order, name in enumerate(names)
        ]

    def _drain(self) -> None:
        """Wait for what has been sent: leaving out what is slow would be unfair."""
        for number in self._sender.drop():
            del self._offered[number % _NUMBERS]
        for index in sorted(self._offered):
            while index not in self._back:
                self._collect(_HEARTBEAT_S)
            self._record(index)
