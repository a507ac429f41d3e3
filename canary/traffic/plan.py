"""From a trace and validation sets to every request of a run, before the first is sent.

Nothing here depends on a clock or on a library's random generator: the same files,
limits and seed give the same plan, byte for byte, on every machine.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace

from canary.errors import TrafficError
from canary.traffic.formats import Trace, TraceRow
from canary.traffic.request import Plan, Request, TokenBlocks
from canary.traffic.seeds import stable_seed, stable_uniform
from canary.traffic.validation import ValidationItem


def make_plan(
    trace: Trace,
    items: Sequence[ValidationItem],
    *,
    limit_prompt_tokens: int | None = None,
    limit_output_tokens: int | None = None,
    limit_requests: int | None = None,
    max_output_tokens: int | None = None,
    speed: float = 1.0,
    seed: int,
) -> Plan:
    """Plan every request of a run, in order of arrival.

    The trace's rows within the limits become requests of kind ``latency``: the first
    `limit_requests` of them, at their recorded distances, the first at 0 seconds. The
    items become requests of kind ``quality`` at uniformly random times over the same
    span. Their order keeps each task's share the same in any beginning of the run, and
    keeps the items of a group together, so that groups complete all along.

    Args:
        trace: Lengths and times.
        items: Questions with known answers; may be empty.
        limit_prompt_tokens: The longest prompt that is used.
        limit_output_tokens: The longest output that is used.
        limit_requests: How many rows are used at most.
        max_output_tokens: Longer outputs are cut to this many tokens.
        speed: Recorded time over replayed time; 4 is four times faster.
        seed: Decides times and order of the items, the order of arms, and tokens.

    Raises:
        TrafficError: No row is within the limits, or a request id is used twice.
    """
    kept, notes = _within_limits(
        trace, limit_prompt_tokens, limit_output_tokens, limit_requests
    )
    kept, cut = _cut(kept, max_output_tokens)
    notes += cut
    zero_s = kept[0].arrival_s
    requests = [_latency_request(trace, row, zero_s, seed) for row in kept]
    span_s = requests[-1].arrival_s
    requests += _quality_requests(items, span_s, seed)
    # The canonical order of evidence, so that what is sent is in it.
    requests.sort(key=lambda request: (request.arrival_s, request.request_id))
    _refuse_twins(requests)
    if items:
        counts = Counter(item.task for item in items)
        tasks = ", ".join(f"{count:,} {task}" for task, count in counts.items())
        notes += (f"{len(items):,} validation items are mixed in: {tasks}",)
    orders = tuple(stable_seed("order", seed, r.request_id) for r in requests)
    return _sealed(
        Plan(
            requests=tuple(requests),
            arm_orders=orders,
            seed=seed,
            sha256="",
            speed=1.0,
            notes=notes,
        ),
        speed,
    )


def with_speed(plan: Plan, speed: float) -> Plan:
    """Return the plan at another speed: arrivals scale, order and all else stay.

    From a plan at speed 1 the result equals the one that `make_plan` gives for that
    speed; from another it may differ in the last bit of an arrival.
    """
    return _sealed(plan, speed)


def _sealed(plan: Plan, speed: float) -> Plan:
    """Scale the arrivals to `speed` and hash everything that an arm will see."""
    if not 0 < speed < float("inf"):
        raise TrafficError(f"a speed must be above 0, got {speed:g}; write 1x or 4x")
    requests = tuple(
        replace(request, arrival_s=request.arrival_s * plan.speed / speed)
        for request in plan.requests
    )
    digest = hashlib.sha256()
    for request, order in zip(requests, plan.arm_orders, strict=True):
        line = json.dumps([asdict(request), order], sort_keys=True)
        digest.update(line.encode() + b"\n")
    digest.update(json.dumps([plan.seed, float(speed)]).encode())
    return replace(
        plan, requests=requests, speed=float(speed), sha256=digest.hexdigest()
    )


def _within_limits(
    trace: Trace, prompt_tokens: int | None, output_tokens: int | None, most: int | None
) -> tuple[list[TraceRow], tuple[str, ...]]:
    """Return the rows that are used, and in words what is left out and why."""
    total = len(trace.rows)
    rows, left_out = list(trace.rows), []

    def cut(limit: int | None, what: str, size: Callable[[TraceRow], int]) -> None:
        if limit is None:
            return
        before = len(rows)
        rows[:] = [row for row in rows if size(row) <= limit]
        if before > len(rows):
            gone = before - len(rows)
            over = f"{what} over {limit:,} tokens"
            left_out.append(f"{gone:,} with {over} ({gone / total:.1%})")

    cut(prompt_tokens, "prompts", lambda row: row.prompt_tokens)
    cut(output_tokens, "outputs", lambda row: row.output_tokens)
    if not rows:
        raise TrafficError(
            f"{trace.path}: none of {total:,} rows is within the limits: left out "
            f"{', '.join(left_out)}; raise traffic.limit"
        )
    if most is not None and len(rows) > most:
        late = len(rows) - most
        left_out.append(f"{late:,} after the first {most:,} ({late / total:.1%})")
        del rows[most:]
    used = f"uses {len(rows):,} of {total:,} rows of {trace.path}"
    notes = [f"{used}: left out {', '.join(left_out)}" if left_out else used]
    if trace.bad_row_count:
        notes.append(f"{trace.bad_row_count:,} further rows are broken and left out")
    if rows[0].arrival_s > 0:
        notes.append(
            f"starts with the row at {rows[0].arrival_s:.1f} s, the first that is used"
        )
    return rows, tuple(notes)


def _cut(
    rows: list[TraceRow], most_tokens: int | None
) -> tuple[list[TraceRow], tuple[str, ...]]:
    """Return the rows with no output longer than asked for, and how many were."""
    if most_tokens is None:
        return rows, ()
    longer = sum(row.output_tokens > most_tokens for row in rows)
    cut = [
        replace(row, output_tokens=min(row.output_tokens, most_tokens)) for row in rows
    ]
    return cut, (f"{longer:,} longer outputs are cut to {most_tokens:,} tokens",)


def _latency_request(trace: Trace, row: TraceRow, zero_s: float, seed: int) -> Request:
    request_id = f"{trace.format}-{row.index:06d}"
    blocks = TokenBlocks(length_tokens=row.prompt_tokens, seed=seed)
    if trace.block_tokens is not None:
        blocks = replace(
            blocks, block_ids=row.block_ids, block_tokens=trace.block_tokens
        )
    return Request(
        request_id=request_id,
        kind="latency",
        arrival_s=row.arrival_s - zero_s,
        max_output_tokens=row.output_tokens,
        blocks=blocks,
        session_id=row.session_id,
        seed=stable_seed("request", seed, request_id),
    )


def _quality_requests(
    items: Sequence[ValidationItem], span_s: float, seed: int
) -> list[Request]:
    times = sorted(span_s * stable_uniform("time", seed, item.id) for item in items)
    return [
        Request(
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
        for arrival_s, item in zip(times, _mixed(items, seed), strict=True)
    ]


def _mixed(items: Sequence[ValidationItem], seed: int) -> list[ValidationItem]:
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


def _refuse_twins(requests: Iterable[Request]) -> None:
    counts = Counter(request.request_id for request in requests)
    name, count = counts.most_common(1)[0]
    if count > 1:
        raise TrafficError(
            f"request id {name!r} stands for {count} requests; validation items need "
            "ids of their own"
        )
