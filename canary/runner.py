"""The loop: due request -> all arms -> observations -> journal -> look.

Arms share the device and take turns, in an order drawn anew for every request. What
one waits for the others must not count against it, so latency comes from a virtual
queue of each arm alone over the service times that were measured: an arm starts a
request when it arrives, or when its own previous one ends.
"""

import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from canary.arms.base import Arm, ArmDiedError, Completion
from canary.clock import Clock
from canary.decision import Look
from canary.evidence.journal import Journal
from canary.evidence.observation import Observation, Status, to_table
from canary.evidence.pairs import pair_up
from canary.judge import Ended, take_look
from canary.policy.model import Policy, VariantSpec, variant_name
from canary.traffic.request import Plan, Request
from canary.variants.scoring import score

END_OF_TRAFFIC = "end of traffic"
DECIDED = "every policy is decided"
MAX_DURATION = "max_duration reached"
INTERRUPTED = "interrupted"

_DEATHS_ARE_EVIDENCE = 2
_REVIVAL_REQUESTS = 3


class Listener(Protocol):
    """Is told what happens while it happens; a progress bar, or nothing."""

    def answered(self, done: int, planned: int) -> None:
        """Say that `done` of `planned` requests have been answered by all arms."""
        ...

    def looked(self, policy: str, found: Look) -> None:
        """Say what one policy's gates look like now."""
        ...


def arms_of(policies: Iterable[Policy]) -> dict[str, VariantSpec]:
    """Return the union of the policies' variants by arm name, the baseline first."""
    specs: dict[str, VariantSpec] = {}
    for policy in policies:
        specs.setdefault(variant_name(policy.baseline), policy.baseline)
    for policy in policies:
        specs.setdefault(variant_name(policy.candidate), policy.candidate)
    return specs


def warm_up(arms: Mapping[str, Arm], plan: Plan, count: int) -> list[Observation]:
    """Let every arm answer `count` requests spread over the plan, the longest first,
    and then all of them again: the first time pays for what only a first time needs.

    The rows are marked `warm` and count nowhere; their times tell what a request costs.
    """
    step = max(1, len(plan.requests) // count)
    sample = sorted(plan.requests[::step][:count], key=_prompt_size, reverse=True)
    rows = []
    for request in [*sample, *sample]:
        for name, arm in arms.items():
            completion = arm.serve(request)
            rows.append(_observation(request, name, completion, warm=True))
    return rows


def busy_s(rows: Sequence[Observation], arm: str, plan: Plan) -> float | None:
    """Return how long an arm would be busy with the whole plan, going by its warm-up.

    Service time is taken to grow with the prompt, by the median of the second answers:
    one that something else on the machine held up doesn't count. None without one.
    """
    mine = [row for row in rows if row.arm == arm]
    costs = [
        row.service_s / row.prompt_tokens
        for row in mine[len(mine) // 2 :]
        if row.status == Status.OK and row.service_s is not None
    ]
    if not costs:
        return None
    return statistics.median(costs) * sum(map(_prompt_size, plan.requests))


def _prompt_size(request: Request) -> int:
    if request.blocks is not None:
        return request.blocks.length_tokens
    return len((request.text or "").split())


@dataclass(slots=True)
class _Watch:
    """One policy under way: its looks so far and when the next is due."""

    policy: Policy
    looks: list[Look] = field(default_factory=list)
    ended: Ended | None = None

    @property
    def next_look_s(self) -> float:
        return self.policy.decision.look_every_s * (len(self.looks) + 1)

    @property
    def arms(self) -> set[str]:
        return {variant_name(self.policy.baseline), variant_name(self.policy.candidate)}


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
        arms: The running variants by arm name, at least those of the policies. An arm
            whose policies are all decided is closed.
        journal: Where observations go.
        earlier: What this run has recorded before, if it goes on after a pause.
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
        earlier: Sequence[Observation] = (),
        clock: Clock,
        sleep: Callable[[float], None],
        listener: Listener,
    ) -> None:
        self._watches = [_Watch(policy) for policy in policies]
        self._plan = plan
        self._arms = dict(arms)
        self._journal = journal
        self._clock = clock
        self._sleep = sleep
        self._listener = listener
        self._rows: list[Observation] = []
        self._free_s = dict.fromkeys(arms, 0.0)
        self._recall(earlier)
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
        return Played(
            reason=reason,
            ends={
                watch.policy.name: watch.ended for watch in self._watches if watch.ended
            },
            elapsed_s=self._rows[-1].arrived_s if self._rows else 0.0,
            peak_bytes=_peaks(self._rows),
        )

    def _play(self) -> str:
        planned = len(self._plan.requests)
        # What was recorded before a pause isn't sent again: the schedule shifts.
        first = len({row.request_id for row in self._rows})
        left = self._plan.requests[first:]
        zero_s = self._clock() - (left[0].arrival_s if first and left else 0.0)
        if first:
            self._look_before(self._rows[-1].arrived_s)
        for index, request in enumerate(left, first):
            self._look_before(request.arrival_s)
            self._end_late(self._journal.elapsed_s, request.arrival_s)
            if all(watch.ended for watch in self._watches):
                late = any(
                    watch.ended and watch.ended.reason == MAX_DURATION
                    for watch in self._watches
                )
                return MAX_DURATION if late else DECIDED
            wait_s = zero_s + request.arrival_s - self._clock()
            if wait_s > 0:
                self._sleep(wait_s)
            rows = self._answer(request, self._plan.arm_orders[index])
            self._rows.extend(rows)
            self._journal.append(rows)
            self._listener.answered(index + 1, planned)
        return END_OF_TRAFFIC

    def _recall(self, earlier: Sequence[Observation]) -> None:
        """Take up what was recorded: rows, and when each arm's queue is free again.

        The queue is worked out anew from the service times, by the very steps of a run
        without a pause, so that what follows is the same to the last bit.
        """
        for row in earlier:
            if not row.warm and row.service_s is not None:
                start_s = max(row.arrived_s, self._free_s.get(row.arm, 0.0))
                self._free_s[row.arm] = start_s + row.service_s
        self._rows = [row for row in earlier if not row.warm]

    def _answer(self, request: Request, order_seed: int) -> list[Observation]:
        names = list(self._arms)
        random.Random(order_seed).shuffle(names)  # noqa: S311 - repeatable, not secret
        completions, attempt = self._serve(request, names)
        rows = []
        for order, name in enumerate(names):
            completion = completions[name]
            start_s = max(request.arrival_s, self._free_s[name])
            self._free_s[name] = start_s + completion.service_s
            rows.append(
                _observation(
                    request,
                    name,
                    completion,
                    queue_s=start_s - request.arrival_s,
                    order=order,
                    attempt=attempt,
                    group_items=self._group_items[request.task, request.group] or None,
                )
            )
        return rows

    def _serve(
        self, request: Request, names: Sequence[str]
    ) -> tuple[dict[str, Completion], int]:
        """Let all arms answer. When one dies, all are asked once more; if the same one
        dies again of the same request, that is its answer: crashes are evidence."""
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
                    self._revive(name)
                    if deaths[name] < _DEATHS_ARE_EVIDENCE:
                        break
                    completions[name] = death.completion
            else:
                return completions, attempt

    def _revive(self, name: str) -> None:
        arm = self._arms[name]
        arm.restart()
        self._journal.append(warm_up({name: arm}, self._plan, _REVIVAL_REQUESTS))

    def _look_before(self, arrival_s: float) -> None:
        """Take every look that is due before the next request counts."""
        table = None
        for watch in self._watches:
            while watch.ended is None and watch.next_look_s <= arrival_s:
                table = table or to_table(self._rows)
                baseline = variant_name(watch.policy.baseline)
                candidate = variant_name(watch.policy.candidate)
                pairs = pair_up(table, baseline=baseline, candidate=candidate)
                found = take_look(watch.policy, pairs, cutoff_s=watch.next_look_s).look
                watch.looks.append(found)
                self._listener.looked(watch.policy.name, found)
                if found.verdict.final:
                    watch.ended = Ended(reason=DECIDED, cutoff_s=found.elapsed_s)
                    self._release()

    def _end_late(self, elapsed_s: float, arrival_s: float) -> None:
        for watch in self._watches:
            late = elapsed_s >= watch.policy.decision.max_duration_s
            if late and watch.ended is None:
                watch.ended = Ended(reason=MAX_DURATION, cutoff_s=arrival_s)
                self._release()

    def _release(self) -> None:
        """Close the arms that no undecided policy needs."""
        needed: set[str] = set()
        for watch in self._watches:
            if watch.ended is None:
                needed |= watch.arms
        for name in set(self._arms) - needed:
            self._arms.pop(name).close()


def _peaks(rows: Sequence[Observation]) -> dict[str, int]:
    peaks: dict[str, int] = {}
    for row in rows:
        if row.peak_memory_bytes is not None:
            peaks[row.arm] = max(row.peak_memory_bytes, peaks.get(row.arm, 0))
    return peaks


def _observation(
    request: Request,
    arm: str,
    completion: Completion,
    *,
    queue_s: float | None = None,
    order: int | None = None,
    attempt: int = 1,
    group_items: int | None = None,
    warm: bool = False,
) -> Observation:
    made = completion.generation
    answered = made is not None and queue_s is not None
    wait_s = queue_s or 0.0
    tpot_s = None
    if made is not None and made.output_tokens >= 2:
        tpot_s = (made.end_s - made.first_token_s) / (made.output_tokens - 1)
    scored = made is not None and made.answer is not None and request.kind == "quality"
    return Observation(
        request_id=request.request_id,
        arm=arm,
        arrived_s=request.arrival_s,
        status=completion.status,
        prompt_tokens=made.prompt_tokens if made else _prompt_size(request),
        kind=request.kind,
        session_id=request.session_id,
        group=request.group,
        group_items=group_items,
        task=request.task,
        score=score(made.answer or "", request.target, request.scorer)
        if made and scored
        else None,
        ttft_s=wait_s + made.first_token_s if made and answered else None,
        ttft_send_s=made.first_token_s if made else None,
        tpot_s=tpot_s,
        queue_s=queue_s,
        service_s=completion.service_s,
        latency_s=wait_s + completion.service_s if answered else None,
        output_tokens=made.output_tokens if made else None,
        peak_memory_bytes=completion.peak_memory_bytes,
        density=made.density if made else None,
        kernel="+".join(made.kernels) if made else None,
        device=completion.device,
        attempt=attempt,
        warm=warm,
        weight=request.weight,
        order=order,
        answer=made.answer if made else None,
        error=completion.error,
    )
