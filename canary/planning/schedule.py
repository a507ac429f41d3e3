"""What a run will send, in columns, and when the units of each gate come."""

from collections import Counter
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from canary.answers import prompt_size
from canary.policy.model import Gate, Policy, regime_names
from canary.policy.units import BASE_BLOCK_S
from canary.traffic.request import Plan

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Texts = npt.NDArray[np.object_]

_LONGEST_WITHOUT_BLOCKS_S = 3600.0
_CALIBRATION_BLOCKS = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Schedule:
    """The requests of a run in order of arrival.

    `quality` marks questions with known answers; `group` is what an accuracy gate
    counts (the item itself where it has no group), with `group_items` items in all.
    """

    arrived_s: Floats
    prompt_tokens: Ints
    quality: Bools
    task: Texts
    group: Texts
    group_items: Ints

    def __len__(self) -> int:
        """Return the number of requests."""
        return len(self.arrived_s)

    @property
    def span_s(self) -> float:
        """The time from the first arrival to the last."""
        return float(self.arrived_s[-1] - self.arrived_s[0])

    def only(self, which: Bools | slice) -> "Schedule":
        """Return some of the requests."""
        return Schedule(**{f.name: getattr(self, f.name)[which] for f in fields(self)})


def schedule_of(plan: Plan) -> Schedule:
    """Return what a plan sends."""
    requests = plan.requests
    groups = [(r.task or "", r.group or r.request_id) for r in requests]
    counts = Counter(groups)
    return Schedule(
        arrived_s=np.array([r.arrival_s for r in requests]),
        prompt_tokens=np.array([prompt_size(r) for r in requests]),
        quality=np.array([r.kind == "quality" for r in requests]),
        task=np.array([r.task or "" for r in requests], dtype=object),
        group=np.array([f"{task}/{name}" for task, name in groups], dtype=object),
        group_items=np.array([counts[group] for group in groups]),
    )


def regimes_of(schedule: Schedule, policy: Policy) -> Ints:
    """Return which of `regime_names(policy.regimes)` each request belongs to."""
    return np.searchsorted(policy.regimes, schedule.prompt_tokens, side="right")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Units:
    """When a gate's units come.

    `name` is what one of them is; `requests_each` how many requests one holds on
    average (1 for a request, and for a validation group, which counts as one).
    """

    name: str
    times_s: Floats
    requests_each: float = 1.0


def units_of(gate: Gate, policy: Policy, schedule: Schedule) -> Units:
    """Return what a gate counts and when each of it is complete."""
    which = np.ones(len(schedule), dtype=bool)
    if gate.regime is not None:
        wanted = regime_names(policy.regimes).index(gate.regime)
        which = regimes_of(schedule, policy) == wanted
    if gate.metric == "accuracy":
        which = which & schedule.quality
        if gate.task is not None:
            which = which & (schedule.task == gate.task)
        return Units(name="validation group", times_s=_completed_s(schedule, which))
    if gate.metric != "errors":
        which = which & ~schedule.quality
    times_s = schedule.arrived_s[which]
    if policy.decision.by_request:
        return Units(name="pair", times_s=times_s)
    return _blocks(policy, times_s, float(schedule.arrived_s[-1]))


def _blocks(policy: Policy, times_s: Floats, last_s: float) -> Units:
    """Return the blocks that hold requests, as short as the judge would have them.

    A first stretch counts for nothing but their length. A block counts once the last
    of its requests would have timed out, at the latest when the traffic ends.
    """
    length_s = policy.decision.least_block_s
    base, requests = np.unique(np.floor(times_s / BASE_BLOCK_S), return_counts=True)
    calibration_s = policy.decision.calibration_s
    counting = base * BASE_BLOCK_S >= calibration_s
    counting[:_CALIBRATION_BLOCKS] = False
    base, requests = base[counting], requests[counting]
    if not len(base):
        return Units(name="block", times_s=np.empty(0))
    first_s = float(base[0]) * BASE_BLOCK_S
    index = np.unique((base * BASE_BLOCK_S - first_s) // length_s)
    closed_s = first_s + (index + 1) * length_s + policy.traffic.timeout_s
    return Units(
        name="block",
        times_s=np.minimum(closed_s, last_s),
        requests_each=float(requests.sum() / len(index)),
    )


def _completed_s(schedule: Schedule, which: Bools) -> Floats:
    """Return, in order, when the last item of each group arrives."""
    _, group = np.unique(schedule.group[which].astype(str), return_inverse=True)
    last_s = np.zeros(group.max(initial=-1) + 1)
    np.maximum.at(last_s, group, schedule.arrived_s[which])
    return np.sort(last_s)
