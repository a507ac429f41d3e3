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
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from canary.answers import observation
from canary.arms.base import Arm, ArmDiedError, Completion
from canary.assessment import Assessment
from canary.clock import Clock
from canary.decision import Decision, Look
from canary.evidence.journal import Journal
from canary.evidence.observation import Observation, Status
from canary.evidence.pairs import CONTROL_ARM
from canary.evidence.store import PairStore
from canary.gates import Evidence
from canary.judge import Ended, describe_look
from canary.policy.model import Policy, VariantSpec, variant_name
from canary.traffic.request import Plan, Request
from canary.traffic.seeds import stable_uniform
from canary.warmup import warm_up

END_OF_TRAFFIC = "end of traffic"
DECIDED = "every policy is decided"
MAX_DURATION = "max_duration reached"
BUDGET = "budget spent"
INTERRUPTED = "interrupted"

_DEATHS_ARE_EVIDENCE = 2
_REVIVAL_REQUESTS = 3
_HEARTBEAT_S = 1.0


class Listener(Protocol):
    """Is told what happens while it happens: a live view, or nothing."""

    def answered(
        self, *, done: int, planned: int, rows: Sequence[Observation], lag_s: float
    ) -> None:
        """Say that `done` of `planned` requests have been answered by all arms.

        `rows` are those of the last one, which was sent `lag_s` later than planned.
        """
        ...

    def looked(
        self, policy: Policy, found: Look, describe: Callable[[], Decision]
    ) -> None:
        """Say what one policy's gates look like now.

        `describe` costs much more, and tells of now: it is for calling at once.
        """
        ...

    def revived(self, arm: str, why: str) -> None:
        """Say that an arm died or hung and has been started anew."""
        ...

    def waiting(self) -> None:
        """Say, every second, that nothing is due."""
        ...

    def ended(self, reason: str) -> None:
        """Say that nothing more will be sent, and why."""
        ...


def arms_of(policies: Iterable[Policy]) -> dict[str, VariantSpec]:
    """Return the union of the policies' variants by arm name, the baseline first.

    The A/A control, if any policy wants one, is an arm of its own.
    """
    specs: dict[str, VariantSpec] = {}
    for policy in policies:
        specs.setdefault(variant_name(policy.baseline), policy.baseline)
    for policy in policies:
        specs.setdefault(variant_name(policy.candidate), policy.candidate)
        if policy.aa_control:
            specs.setdefault(CONTROL_ARM, policy.baseline)
    return specs


@dataclass(slots=True)
class _Watch:
    """One policy under way: its looks so far and when the next is due."""

    policy: Policy
    evidence: Evidence
    assessment: Assessment
    looks: list[Look] = field(default_factory=list)
    ended: Ended | None = None
    folded: int = 0

    @classmethod
    def over(cls, policy: Policy, questions: Mapping[str, int]) -> "_Watch":
        evidence = Evidence(policy, questions=questions)
        return cls(policy, evidence, Assessment(policy, evidence))

    @property
    def next_look_s(self) -> float:
        rules = self.policy.decision
        if rules.mode == "fixed":  # looks once, at the end: the judge's look
            return math.inf
        return rules.look_every_s * (len(self.looks) + 1)

    @property
    def arms(self) -> set[str]:
        control = {CONTROL_ARM} if self.policy.aa_control else set()
        return control | {self.baseline, self.candidate}

    @property
    def baseline(self) -> str:
        return variant_name(self.policy.baseline)

    @property
    def candidate(self) -> str:
        return variant_name(self.policy.candidate)

    def overdue(self, elapsed_s: float, gpus: int) -> str | None:
        """Return which limit on the run's time or cost is reached, if one is."""
        if elapsed_s >= self.policy.decision.max_duration_s:
            return MAX_DURATION
        budget = self.policy.budget
        if budget is not None and elapsed_s * gpus >= budget.gpu_hours * 3600:
            return BUDGET
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """How a run ended, after how much of the plan's time; `ends` holds the policies
    whose evidence ended before the run did.

    `peak_bytes` is the peak memory of each arm that has a process of its own.
    """

    reason: str
    ends: dict[str, Ended]
    elapsed_s: float
    peak_bytes: dict[str, int]


class Runner:
    """Plays a plan through the arms until every policy is decided or traffic ends.

    Args:
        policies: Compared on the same traffic; each gets its own verdict.
        plan: What is sent, and when.
        arms: The running variants by arm name, those of `arms_of`. An arm whose
            policies are all decided is closed.
        journal: Where observations go.
        earlier: What this run has recorded before, request by request, if it goes on
            after a pause.
        gpus: How many GPUs the arms hold, which budgets are counted in.
        run: The run's name, for the decisions that the listener may ask for.
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
        earlier: Iterable[Sequence[Observation]] = (),
        gpus: int = 0,
        run: str = "",
        clock: Clock,
        sleep: Callable[[float], None],
        listener: Listener,
    ) -> None:
        questions = _questions(plan)
        self._watches = [_Watch.over(policy, questions) for policy in policies]
        self._plan = plan
        self._arms = dict(arms)
        self._journal = journal
        self._gpus = gpus
        self._run = run
        self._clock = clock
        self._sleep = sleep
        self._listener = listener
        self._control_share = max(policy.aa_control for policy in policies)
        self._store = PairStore()
        self._free_s = dict.fromkeys(arms, 0.0)
        for rows in earlier:
            self._recall(rows)
        self._group_items: Counter[tuple[str | None, str | None]] = Counter(
            (request.task, request.group) for request in plan.requests if request.group
        )

    def run(self) -> Played:
        """Play the plan; return for each policy why and where its evidence ends.

        A Ctrl-C drops the request in flight, of all arms alike, and ends the run in
        order; whatever else is raised leaves what was answered committed.
        """
        reason = INTERRUPTED
        try:
            reason = self._play()
        except KeyboardInterrupt:
            pass
        finally:
            self._journal.commit()
            self._listener.ended(reason)
        return Played(
            reason=reason,
            ends={
                watch.policy.name: watch.ended for watch in self._watches if watch.ended
            },
            elapsed_s=self._store.last_arrived_s,
            peak_bytes=self._store.peak_bytes(),
        )

    def _play(self) -> str:
        planned = len(self._plan.requests)
        # What was recorded before a pause isn't sent again: the schedule shifts.
        first = len(self._store)
        left = self._plan.requests[first:]
        zero_s = self._clock() - (left[0].arrival_s if first and left else 0.0)
        if first:
            self._look_before(self._store.last_arrived_s)
        for index, request in enumerate(left, first):
            self._look_before(request.arrival_s)
            if not self._wait(zero_s + request.arrival_s, request.arrival_s):
                return self._why_all_ended()
            lag_s = self._clock() - zero_s - request.arrival_s
            rows = self._answer(request, self._plan.arm_orders[index])
            self._store.append(rows)
            self._journal.append(rows)
            self._listener.answered(
                done=index + 1, planned=planned, rows=rows, lag_s=lag_s
            )
        return END_OF_TRAFFIC

    def _wait(self, due_s: float, arrival_s: float) -> bool:
        """Wait until a request is due; return False once nobody waits for it."""
        while True:
            self._end_late(arrival_s)
            if all(watch.ended for watch in self._watches):
                return False
            left_s = due_s - self._clock()
            if left_s <= 0:
                return True
            self._listener.waiting()
            self._journal.commit_if_due()
            self._sleep(min(left_s, _HEARTBEAT_S))

    def _why_all_ended(self) -> str:
        reasons = {watch.ended.reason for watch in self._watches if watch.ended}
        return next((why for why in (BUDGET, MAX_DURATION) if why in reasons), DECIDED)

    def _recall(self, rows: Sequence[Observation]) -> None:
        """Take up what was recorded of one request.

        The queues are worked out anew from the service times, by the very steps of a
        run without a pause, so that what follows is the same to the last bit.
        """
        for row in rows:
            if row.service_s is not None and row.arm in self._free_s:
                start_s = max(row.arrived_s, self._free_s[row.arm])
                self._free_s[row.arm] = start_s + row.service_s
        self._store.append(rows)

    def _answer(self, request: Request, order_seed: int) -> list[Observation]:
        names = [name for name in self._arms if self._takes_part(name, request)]
        random.Random(order_seed).shuffle(names)  # noqa: S311 - repeatable, not secret
        completions, attempt = self._serve(request, names)
        rows = []
        for order, name in enumerate(names):
            completion = completions[name]
            start_s = max(request.arrival_s, self._free_s[name])
            self._free_s[name] = start_s + completion.service_s
            # The control answers a share only: its own queue would be shorter than
            # the baseline's, so nothing that counts from the arrival is said of it.
            queue_s = None if name == CONTROL_ARM else start_s - request.arrival_s
            rows.append(
                observation(
                    request,
                    name,
                    completion,
                    queue_s=queue_s,
                    order=order,
                    attempt=attempt,
                    group_items=self._group_items[request.task, request.group] or None,
                )
            )
        return rows

    def _takes_part(self, name: str, request: Request) -> bool:
        if name != CONTROL_ARM:
            return True
        drawn = stable_uniform("control", self._plan.seed, request.request_id)
        return drawn < self._control_share

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
                    self._revive(name, str(death))
                    hung = death.completion.status is Status.TIMEOUT
                    if deaths[name] < _DEATHS_ARE_EVIDENCE and not hung:
                        break
                    completions[name] = death.completion
            else:
                return completions, attempt

    def _revive(self, name: str, why: str) -> None:
        arm = self._arms[name]
        arm.restart()
        self._listener.revived(name, why)
        self._journal.append(warm_up({name: arm}, self._plan, _REVIVAL_REQUESTS))

    def _look_before(self, arrival_s: float) -> None:
        """Take every look that is due before the next request counts."""
        for watch in self._watches:
            while watch.ended is None and watch.next_look_s <= arrival_s:
                self._fold(watch)
                weighed = watch.assessment.look(watch.next_look_s)
                found = weighed.look
                watch.looks.append(found)
                describe = partial(
                    describe_look,
                    watch.policy,
                    watch.assessment,
                    weighed,
                    tuple(watch.looks),
                    run=self._run,
                )
                self._listener.looked(watch.policy, found, describe)
                if found.verdict.final:
                    watch.ended = Ended(reason=DECIDED, cutoff_s=found.elapsed_s)
                    self._release()

    def _fold(self, watch: _Watch) -> None:
        """Add what has come since the last look to a policy's evidence."""
        if watch.folded < len(self._store):
            pairs = self._store.pairs(
                baseline=watch.baseline,
                candidate=watch.candidate,
                since=watch.folded,
            )
            watch.evidence.fold(pairs)
            watch.folded = len(self._store)

    def _end_late(self, arrival_s: float) -> None:
        elapsed_s = self._journal.elapsed_s
        for watch in self._watches:
            reason = watch.overdue(elapsed_s, self._gpus)
            if reason is not None and watch.ended is None:
                watch.ended = Ended(reason=reason, cutoff_s=arrival_s)
                self._release()

    def _release(self) -> None:
        """Close the arms that no undecided policy needs."""
        needed: set[str] = set()
        for watch in self._watches:
            if watch.ended is None:
                needed |= watch.arms
        for name in set(self._arms) - needed:
            self._arms.pop(name).close()


def _questions(plan: Plan) -> dict[str, int]:
    """Return how many groups each task's questions are."""
    groups = {
        (request.task or "", request.group or request.request_id)
        for request in plan.requests
        if request.kind == "quality"
    }
    return dict(Counter(task for task, _ in groups))
