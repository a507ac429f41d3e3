"""When so many units of a run have come, and what ends it if nothing is decided.

Units come in the traffic's own time, deadlines on the wall: `Hours` joins the two.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from canary.planning.hours import ALWAYS, Hours
from canary.planning.schedule import Floats, Schedule
from canary.policy.model import Policy
from canary.wording import seconds as in_seconds

_HOUR_S = 3600.0
_DAY_S = 24 * _HOUR_S


class Ends(StrEnum):
    """What ends a run that decides nothing."""

    MAX_DURATION = "max_duration"
    BUDGET = "budget"
    TRACE = "end of trace"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """When evidence ends, on the wall, and what ends then."""

    after_s: float
    what: Ends

    def __str__(self) -> str:
        """Return it in words that follow "before"."""
        after = lasting(self.after_s)
        if self.what is Ends.TRACE:
            return f"the trace ends after {after}"
        if self.what is Ends.BUDGET:
            return f"the budget is spent, after {after} on one GPU"
        return f"max_duration is over after {after}"


def deadline_of(
    policy: Policy, schedule: Schedule, hours: Hours = ALWAYS
) -> tuple[Deadline, float]:
    """Return what ends the run's evidence first, if nothing is decided before, and when
    that is in the traffic's own time."""
    last_s, longest_s = float(schedule.arrived_s[-1]), policy.decision.max_duration_s
    ends = [
        (last_s, hours.wall_s(last_s), Ends.TRACE),
        (hours.traffic_s(longest_s), longest_s, Ends.MAX_DURATION),
    ]
    if policy.budget is not None:
        spent_s = policy.budget.gpu_hours * _HOUR_S
        ends.append((hours.traffic_s(spent_s), spent_s, Ends.BUDGET))
    traffic_s, after_s, what = min(ends, key=lambda end: end[0])
    return Deadline(after_s=after_s, what=what), traffic_s


class Clock:
    """Tells when so many units of a schedule have come and have been looked at.

    All times but the deadline's are the traffic's own; `hours` says when that is.
    """

    def __init__(
        self, policy: Policy, schedule: Schedule, hours: Hours = ALWAYS
    ) -> None:
        self.policy = policy
        self.schedule = schedule
        self.hours = hours
        self.deadline, self._last_s = deadline_of(policy, schedule, hours)

    def available(self, times_s: Floats) -> int:
        """Return how many of these come before the deadline."""
        return int(np.searchsorted(times_s, self._last_s, side="right"))

    def per_hour(self, count: int) -> float | None:
        """Return the hourly rate of what the whole schedule has so many of."""
        span_s = self.schedule.span_s
        return count / span_s * _HOUR_S if span_s else None

    def look_at_s(self, times_s: Floats, count: int | None) -> float | None:
        """Return the first look at so many; beyond the schedule, at its mean rate."""
        if count is None or not len(times_s):
            return None
        if count <= len(times_s):
            return self.look_after_s(float(times_s[count - 1]))
        return self.look_after_s(self.schedule.span_s * count / len(times_s))

    def look_after_s(self, at_s: float) -> float:
        """Return the first look at what has come by a time; the deadline is one."""
        every_s = self.policy.decision.look_every_s
        look_s = every_s * (math.floor(at_s / every_s) + 1)
        return max(at_s, min(look_s, self._last_s))

    def floors_s(self) -> tuple[float, float]:
        """Return when the policy's minimum duration and number of pairs are reached."""
        rules = self.policy.decision
        pairs_s = self.look_at_s(self.schedule.arrived_s, rules.min_pairs)
        return rules.min_duration_s, pairs_s or 0.0

    def reached(self, at_s: float | None) -> bool:
        """Whether that is before the deadline."""
        return at_s is not None and at_s <= self._last_s

    def on_wall_s(self, at_s: float | None) -> float | None:
        """Return how long after the run's beginning that is."""
        return None if at_s is None else self.hours.wall_s(at_s)


def lasting(seconds: float) -> str:
    """Return a time span, from two days on in days."""
    if seconds >= 2 * _DAY_S:
        return f"{seconds / _DAY_S:.3g} days"
    return in_seconds(seconds)
