"""Validation items among the traffic: in which order, and as which requests."""

from collections.abc import Sequence

from canary.traffic.request import Request
from canary.traffic.seeds import stable_seed, stable_uniform
from canary.traffic.validation import ValidationItem


def quality_request(item: ValidationItem, arrival_s: float, seed: int) -> Request:
    """Return the request that asks a question."""
    return Request(
        request_id=item.id,
        kind="quality",
        arrival_s=arrival_s,
        max_output_tokens=item.max_tokens,
        text=item.input + item.answer_prefix,
        target=item.target,
        scorer=item.scorer,
        stop=item.stop,
        task=item.task,
        group=item.group,
        weight=float(item.weight),
        seed=stable_seed("request", seed, item.id),
    )


def mixed(items: Sequence[ValidationItem], seed: int) -> list[ValidationItem]:
    """Order items so that each beginning holds every task in proportion.

    Within a task, groups come in random order with their items side by side. Item j of
    the n of a task goes to (j + u) / n, u being the task's own random offset: tasks
    interleave like the teeth of combs.
    """

    def group_order(item: ValidationItem) -> tuple[float, str]:
        group = item.group or item.id
        return stable_uniform("group", seed, item.task, group), group

    by_task: dict[str, list[ValidationItem]] = {}
    for item in items:
        by_task.setdefault(item.task, []).append(item)
    placed = [
        ((position + stable_uniform("task", seed, task)) / len(members), task, item)
        for task, members in by_task.items()
        for position, item in enumerate(sorted(members, key=group_order))
    ]
    placed.sort(key=lambda place: place[:2])
    return [item for _, _, item in placed]
