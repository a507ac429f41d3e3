"""Before anything counts: every arm answers a sample of the plan, and what that tells.

What only a first time needs (compiling a kernel for a length, a page fault, a cold
cache) is paid here, and the second answers say what a request costs.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy.optimize import nnls

from canary.answers import observation, prompt_size
from canary.arms.base import Arm, ArmDiedError, ArmsLostError, Completion, ReplicaSet
from canary.errors import ArmError
from canary.evidence.observation import Observation, Status
from canary.losses import Losses, outlast
from canary.policy.model import variant_name
from canary.policy.traffic import LoadTarget
from canary.prepare import Prepared
from canary.traffic.plan import with_speed
from canary.traffic.request import Plan, Request


def warm_up(arms: Mapping[str, Arm], plan: Plan, count: int) -> list[Observation]:
    """Let every arm answer a sample of the plan, the longest first, and then all of it
    again: the first time pays for what only a first time needs.

    The sample holds a request of every doubling of prompt length that the plan has, and
    at least `count` in all if there are as many. An arm that dies of one is started
    anew. The rows are marked `warm` and count nowhere; their times tell what a request
    costs.

    Raises:
        ArmError: An arm that died can't be started again.
        ArmsLostError: What the arms run on is gone.
    """
    sample = _sample(plan, count)
    return [
        observation(request, name, _answer(arm, request), warm=True)
        for request in [*sample, *sample]
        for name, arm in arms.items()
    ]


def warm_up_all(
    sets: Sequence[ReplicaSet], plan: Plan, count: int, losses: Losses
) -> list[list[Observation]]:
    """Warm up all replica sets that have just started, several side by side; return
    the rows of each.

    Whenever what a set runs on is lost it begins once more: `losses` bears that as it
    does later in the run.

    Raises:
        ArmError: As `warm_up`, or too much was lost in a row.
    """

    def warm(one: ReplicaSet) -> list[Observation]:
        return _first_warm_up(one.arms, plan, count, losses)

    if len(sets) == 1:  # in this thread, where its arms may have been loaded
        return [warm(sets[0])]
    with ThreadPoolExecutor(len(sets)) as pool:
        return list(pool.map(warm, sets))


def _first_warm_up(
    arms: Mapping[str, Arm], plan: Plan, count: int, losses: Losses
) -> list[Observation]:
    while True:
        try:
            rows = warm_up(arms, plan, count)
        except ArmsLostError as lost:
            last = outlast(losses, lost, lambda one: arms[one.arm].restart())
            for name in arms:
                losses.restarted(name, last.cause)
        else:
            losses.answered()
            return rows


def _sample(plan: Plan, count: int) -> list[Request]:
    step = max(1, len(plan.requests) // count)
    spread = plan.requests[::step][:count]
    doublings: dict[int, Request] = {}
    for request in (*spread, *plan.requests):
        doublings.setdefault(prompt_size(request).bit_length(), request)
    chosen = {r.request_id: r for r in (*spread, *doublings.values())}
    return sorted(chosen.values(), key=prompt_size, reverse=True)


def _answer(arm: Arm, request: Request) -> Completion:
    try:
        return arm.serve(request)
    except ArmDiedError as death:
        arm.restart()
        return death.completion


def busy_s(rows: Sequence[Observation], arm: str, plan: Plan) -> float | None:
    """Return how long an arm would be busy with the whole plan, going by its warm-up.

    Service time is taken to be so much per request, per prompt token and per output
    token, as fits the second answers best by relative error: one that something else
    on the machine held up hardly counts. None without an answer.
    """
    mine = [row for row in rows if row.arm == arm]
    known = [
        (1, row.prompt_tokens, row.output_tokens or 0, row.service_s)
        for row in mine[len(mine) // 2 :]
        if row.status == Status.OK and row.service_s
    ]
    if not known:
        return None
    sizes = np.array([size for *size, _ in known], float)
    took_s = np.array([service_s for *_, service_s in known])
    cost_s, _ = nnls(sizes / took_s[:, None], np.ones(len(known)))
    planned = [(1, prompt_size(r), r.max_output_tokens) for r in plan.requests]
    return float((np.array(planned, float) @ cost_s).sum())


def speed_for(
    load: float, rows: Sequence[Observation], arm: str, plan: Plan
) -> float | None:
    """Return the speed at which an arm would be busy for a share of a plan's time.

    Going by its rows, as `busy_s` does; None without an answer. `plan` is at speed 1.
    """
    needed_s = busy_s(rows, arm, plan)
    if needed_s is None:
        return None
    span_s = plan.requests[-1].arrival_s - plan.requests[0].arrival_s
    return load * span_s / needed_s


def at_speed(prepared: Prepared, warm: Sequence[Observation], *, sets: int) -> Plan:
    """Return the plan at the speed that its policies ask for, which may be a load of
    the baseline alone, going by its rows; so many sets bear it together.

    Raises:
        ArmError: The baseline answered nothing, so that its load can't be known.
    """
    policy = prepared.policies[0]
    speed, plan = policy.traffic.speed, prepared.plan
    if not isinstance(speed, LoadTarget):
        return plan
    baseline = variant_name(policy.baseline)
    found = speed_for(speed.baseline_load, warm, baseline, plan)
    if found is None:
        raise ArmError(
            f"arm {baseline} failed every warm-up request, so its load can't be known; "
            f"the first error was: {next(row.error for row in warm if row.error)}"
        )
    return with_speed(plan, found * sets)
