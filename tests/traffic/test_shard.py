"""Shards: every session and every group in exactly one, at the times of the whole."""

from collections import Counter
from dataclasses import replace

import pytest

from canary.errors import TrafficError, UsageError
from canary.traffic.formats import Trace, TraceRow
from canary.traffic.plan import make_plan, with_speed
from canary.traffic.selection import Selection
from canary.traffic.shard import Shard, shard_of
from canary.traffic.validation import ValidationItem

TRACE = Trace(
    path="t.csv",
    sha256="",
    format="azure",
    rows=tuple(
        TraceRow(
            index=index,
            arrival_s=index * 0.5,
            prompt_tokens=10 + index % 90,
            output_tokens=3,
            session_id=None if index % 3 else f"s{index // 30}",
        )
        for index in range(600)
    ),
)
ITEMS = tuple(
    ValidationItem(
        id=f"{task}-{n}", input="ask", target=("1",), task=task, group=f"doc{n // 4}"
    )
    for task in ("sums", "code")
    for n in range(80)
)
LOOPED = Selection(loop_for_s=500.0, items_for_s=200.0)


def plans(selection, count, *, speed=2.0):
    whole = make_plan(TRACE, ITEMS, selection, speed=speed, seed=7)
    shards = [
        make_plan(
            TRACE, ITEMS, selection, speed=speed, seed=7, shard=Shard(number, count)
        )
        for number in range(1, count + 1)
    ]
    return whole, shards


@pytest.mark.parametrize("selection", [Selection(), LOOPED])
def test_shards_are_the_whole_taken_apart(selection):
    """Together they send each request of the whole once, at its time; each arm's order
    and the plan's hash are the same."""
    whole, shards = plans(selection, 4)

    sent = [request for shard in shards for request in shard.requests]
    orders = {
        request.request_id: order
        for shard in shards
        for request, order in zip(shard.requests, shard.arm_orders, strict=True)
    }
    assert sorted(sent, key=lambda r: (r.arrival_s, r.request_id)) == list(
        whole.requests
    )
    assert [orders[r.request_id] for r in whole.requests] == list(whole.arm_orders)
    assert {whole.sha256} == {shard.sha256 for shard in shards}


def test_sessions_and_groups_are_never_divided():
    """All turns of a session, in every round of the trace, and all items of a group go
    to one shard; tasks that name their groups alike are told apart."""
    _, shards = plans(LOOPED, 4)
    places = {}
    for number, shard in enumerate(shards):
        for r in shard.requests:
            session = (r.session_id or "").partition("~")[0]
            name = (r.task, r.group) if r.kind == "quality" else session
            if name:
                places.setdefault(name, set()).add(number)

    assert 20 + 40 == len(places)
    assert {1} == {len(where) for where in places.values()}


def test_shards_are_about_equal():
    """Hashes deal evenly: no shard of 400 sessions is far from its quarter."""
    _, shards = plans(Selection(), 4)

    sizes = Counter(len(shard.requests) for shard in shards)
    assert 760 == sum(size * count for size, count in sizes.items())
    assert min(sizes) > 120


def test_a_shard_keeps_its_part_at_another_speed():
    """What sets the speed later doesn't bring the other shards' requests back."""
    _, shards = plans(Selection(), 3)
    _, faster = plans(Selection(), 3, speed=4.0)

    again = with_speed(shards[1], 4.0)

    assert list(faster[1].requests) == list(again.requests)
    assert faster[1] == again


def test_too_many_shards_are_refused():
    """A shard without traffic is no shard."""
    few = replace(TRACE, rows=TRACE.rows[:2])

    with pytest.raises(TrafficError, match="too few sessions to leave any for shard"):
        [make_plan(few, [], seed=1, shard=Shard(number, 3)) for number in (1, 2, 3)]


@pytest.mark.parametrize("text", ["0/3", "4/3", "1/1", "3", "a/b", "-1/3", "1/99999"])
def test_what_is_no_shard_is_refused(text):
    """One sentence that says what to write."""
    with pytest.raises(UsageError, match=r"--shard .*write for example 3/100"):
        shard_of(text)
