"""Runs as they might go, each judged like a real one: how often which verdict."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from canary.decision import Decision, Verdict
from canary.judge import Ended, judge
from canary.planning.harm import Harm
from canary.planning.schedule import Schedule
from canary.policy.model import Policy

MOST_REQUESTS = 5000
"""A simulated run ends after so many requests, so that twenty take about a minute."""

_MOST_LOOKS = 100

Sample = Callable[[Schedule, np.random.Generator], pa.Table]
"""Returns what both arms make of a schedule, as chance would have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """How often something happened, and the standard error of that.

    The error is that of the share after two more runs of either kind (Agresti and
    Coull 1998): of a few runs that all end alike it isn't zero.
    """

    value: float
    error: float

    @classmethod
    def of(cls, count: int, runs: int) -> "Share":
        """Return the share of `count` in `runs`."""
        shrunk = (count + 2) / (runs + 4)
        error = math.sqrt(shrunk * (1 - shrunk) / (runs + 4))
        return cls(value=count / runs, error=error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of the simulated runs; `harm` says in words what was done to them.

    `median_s` is the time to a verdict of those that came to promote or rollback. If
    they are `cut`, their `requests` are but the first that the policy sends, and its
    `min_duration` and `min_pairs` are left aside.
    """

    harm: str | None
    runs: int
    requests: int
    span_s: float
    cut: bool
    promoted: Share
    rolled_back: Share
    inconclusive: Share
    invalid: Share
    median_s: float | None


def simulate(
    policy: Policy,
    schedule: Schedule,
    sample: Sample,
    harms: Sequence[Harm],
    *,
    runs: int,
    seed: int,
    ends: str,
) -> Outcome:
    """Play and judge runs of a schedule.

    Args:
        policy: What is to be decided.
        schedule: What each run sends; one that is longer than `MOST_REQUESTS` is cut.
        sample: What the arms make of it.
        harms: What is done to the candidate on top.
        runs: How many runs.
        seed: Equal seeds draw equal runs, whatever the harm.
        ends: Why no more evidence comes after the schedule.
    """
    cut = len(schedule) > MOST_REQUESTS
    schedule = schedule.only(slice(MOST_REQUESTS))
    policy = _seldom_looking(policy, float(schedule.arrived_s[-1]), cut=cut)
    decisions = []
    for number in range(runs):
        rng = np.random.default_rng([seed, number])
        table = sample(schedule, rng)
        for harm in harms:
            table = harm.done_to(table, rng)
        ended = Ended(reason=ends)
        decisions.append(judge(policy, table, run="simulated", ended=ended))
    return _outcome(decisions, schedule, harms, cut=cut)


def _outcome(
    decisions: Sequence[Decision],
    schedule: Schedule,
    harms: Sequence[Harm],
    *,
    cut: bool,
) -> Outcome:
    verdicts = Counter(decision.verdict for decision in decisions)
    final_s = [found.elapsed_s for found in decisions if found.verdict.final]

    def share(verdict: Verdict) -> Share:
        return Share.of(verdicts[verdict], len(decisions))

    return Outcome(
        harm=" and ".join(map(str, harms)) or None,
        runs=len(decisions),
        requests=len(schedule),
        span_s=schedule.span_s,
        cut=cut,
        promoted=share(Verdict.PROMOTE),
        rolled_back=share(Verdict.ROLLBACK),
        inconclusive=share(Verdict.INCONCLUSIVE),
        invalid=share(Verdict.INVALID),
        median_s=float(np.median(final_s)) if final_s else None,
    )


def _seldom_looking(policy: Policy, end_s: float, *, cut: bool) -> Policy:
    """Look at most a hundred times at a run: looking is what judging costs."""
    rules = policy.decision
    update: dict[str, float] = {
        "look_every_s": max(rules.look_every_s, end_s / _MOST_LOOKS)
    }
    if cut:
        update |= {"min_duration_s": 0.0, "min_pairs": 1}
    rules = rules.model_copy(update=update)
    return policy.model_copy(update={"decision": rules})
