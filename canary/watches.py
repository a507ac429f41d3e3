"""Policies under way: what has been folded of each, its looks, and when it ends."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import pyarrow as pa

from canary.assessment import Assessment
from canary.decision import Decision, Look
from canary.evidence.observation import Observation
from canary.evidence.pairs import CONTROL_ARM
from canary.evidence.store import PairStore
from canary.gates import Evidence
from canary.judge import Ended, describe_look
from canary.policy.model import Policy, VariantSpec, variant_name

END_OF_TRAFFIC = "end of traffic"
DECIDED = "every policy is decided"
MAX_DURATION = "max_duration reached"
BUDGET = "budget spent"
INTERRUPTED = "interrupted"

_MOST_KEPT = 65_536  # requests that wait for a look; then they are folded without one


Doubts = Callable[[], tuple[str, ...]]
"""Says why the traffic is no fair sample, in sentences; none if nothing does."""


class Listener(Protocol):
    """Is told what happens while it happens: a live view, or nothing."""

    def answered(
        self,
        *,
        done: int,
        planned: int | None,
        rows: Sequence[Observation],
        lag_s: float,
    ) -> None:
        """Say that `done` of `planned` requests have been answered by all arms.

        `rows` are those of the last one, which was sent `lag_s` later than planned.
        Nobody knows how many are planned of live traffic.
        """
        ...

    def looked(
        self, policy: Policy, found: Look, describe: Callable[[], Decision]
    ) -> None:
        """Say what one policy's gates look like now.

        `describe` costs much more, and tells of now: it is for calling at once.
        """
        ...

    def revived(self, arm: str, cause: str) -> None:
        """Say that an arm died, hung or was lost, and has been started anew."""
        ...

    def waiting(self, why: str | None = None) -> None:
        """Say, every second, that nothing is due, or why nothing may be sent."""
        ...

    def paused(self, why: str) -> None:
        """Say, every second, that nothing is sent since nothing can be written.

        `why` is some words. Whatever is said next says that the run goes on.
        """
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
    baseline: str
    candidate: str
    evidence: Evidence
    assessment: Assessment
    looks: list[Look] = field(default_factory=list)
    ended: Ended | None = None
    folded: int = 0

    @classmethod
    def over(cls, policy: Policy, questions: Mapping[str, int]) -> "_Watch":
        evidence = Evidence(policy, questions=questions)
        return cls(
            policy,
            # Names cost more than all else that is asked of a watch at every request.
            variant_name(policy.baseline),
            variant_name(policy.candidate),
            evidence,
            Assessment(policy, evidence),
        )

    @property
    def next_look_s(self) -> float:
        if not self.looks_on:  # one in mode fixed is the judge's, at the end
            return math.inf
        return self.policy.decision.look_every_s * (len(self.looks) + 1)

    @property
    def looks_on(self) -> bool:
        """Whether it will look again."""
        return self.ended is None and self.policy.decision.mode != "fixed"

    @property
    def arms(self) -> set[str]:
        control = {CONTROL_ARM} if self.policy.aa_control else set()
        return control | {self.baseline, self.candidate}

    def overdue(self, elapsed_s: float, gpus: int) -> str | None:
        """Return which limit on the run's time or cost is reached, if one is."""
        if elapsed_s >= self.policy.decision.max_duration_s:
            return MAX_DURATION
        budget = self.policy.budget
        if budget is not None and elapsed_s * gpus >= budget.gpu_hours * 3600:
            return BUDGET
        return None


class Watches:
    """All policies of a run, over what it has recorded so far.

    Args:
        policies: What is to be decided.
        questions: How many groups each task's questions are.
        gpus: How many GPUs the arms hold, which budgets are counted in.
        run: The run's name, for the decisions that the listener may ask for.
        doubts: Says, at each look, why the traffic is no fair sample.
        listener: Is told of looks.
        looks: Whether there are any: a shard's own evidence decides nothing, so that
            none of them stops because of what it has seen.

    Attributes:
        needed_arms: The arms that an undecided policy needs.
    """

    def __init__(
        self,
        policies: Sequence[Policy],
        questions: Mapping[str, int],
        *,
        gpus: int,
        run: str,
        doubts: Doubts,
        listener: Listener,
        looks: bool = True,
    ) -> None:
        self._looks = looks
        self._doubts = doubts
        self._watches = [_Watch.over(policy, questions) for policy in policies]
        self._gpus = gpus
        self._run = run
        self._listener = listener
        self.store = PairStore()
        self.needed_arms = self._needed()

    def look_before(self, arrival_s: float) -> None:
        """Take every look that is due before a request that arrives then counts."""
        for watch in self._watches if self._looks else ():
            while watch.next_look_s <= arrival_s:
                self._look(watch)
                self._forget()

    def look_is_due(self, arrival_s: float) -> bool:
        """Whether a look comes before a request that arrives then."""
        return self._looks and any(
            watch.next_look_s <= arrival_s for watch in self._watches
        )

    def end_late(self, elapsed_s: float, cutoff_s: float) -> None:
        """End what has run out of time or money; requests from `cutoff_s` on, the next
        that would be sent, count no more."""
        for watch in self._watches:
            reason = watch.overdue(elapsed_s, self._gpus)
            if reason is not None and watch.ended is None:
                self._end(watch, Ended(reason=reason, cutoff_s=cutoff_s))

    @property
    def all_ended(self) -> bool:
        """Whether nobody waits for anything more."""
        return not self.needed_arms

    def _end(self, watch: _Watch, ended: Ended) -> None:
        watch.ended = ended
        self.needed_arms = self._needed()

    def _needed(self) -> frozenset[str]:
        undecided = [watch.arms for watch in self._watches if watch.ended is None]
        return frozenset().union(*undecided)

    @property
    def ends(self) -> dict[str, Ended]:
        """Why and where the evidence of each policy that has ended does."""
        return {w.policy.name: w.ended for w in self._watches if w.ended}

    def why_all_ended(self) -> str:
        """Return the reason that ends the run, once all have ended."""
        reasons = {end.reason for end in self.ends.values()}
        return next((why for why in (BUDGET, MAX_DURATION) if why in reasons), DECIDED)

    def _look(self, watch: _Watch) -> None:
        self._fold(watch)
        watch.evidence.doubts = self._doubts()
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
            self._end(watch, Ended(reason=DECIDED, cutoff_s=found.elapsed_s))

    def append(self, rows: Sequence[Observation]) -> None:
        """Take the rows of one request, of all arms that answered it."""
        self.store.append(rows)
        if self.store.kept >= _MOST_KEPT:
            self._fold_all()

    def take_up(self, part: pa.Table) -> None:
        """Take recorded rows of whole requests, as `append` takes them one by one."""
        self.store.take_up(part)
        self._fold_all()

    def _fold_all(self) -> None:
        """Leave nothing to look at but evidence."""
        for watch in self._watches:
            if watch.looks_on:
                self._fold(watch)
        self._forget()

    def _fold(self, watch: _Watch) -> None:
        """Add what has come since the last look to a policy's evidence."""
        if watch.folded < len(self.store):
            pairs = self.store.pairs(
                baseline=watch.baseline,
                candidate=watch.candidate,
                since=watch.folded,
            )
            watch.evidence.fold(pairs)
            watch.folded = len(self.store)

    def _forget(self) -> None:
        """Keep in memory only what somebody still has to fold."""
        folded = [watch.folded for watch in self._watches if watch.looks_on]
        self.store.forget(min(folded, default=len(self.store)))
