"""Virtual queues: what each arm would have done alone."""

import heapq
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canary.evidence.observation import Observation, Status, to_table
from canary.queues import Queues
from canary.testing import observe
from canary.traffic.request import Request, TokenBlocks


def request(arrival_s, *, session=None, turn=0, think_s=0.0):
    return Request(
        request_id=f"r{arrival_s}{session}{turn}",
        kind="latency",
        arrival_s=arrival_s,
        max_output_tokens=1,
        blocks=TokenBlocks(length_tokens=1),
        session_id=session,
        turn=turn,
        think_s=think_s,
    )


@given(
    gaps=st.lists(st.floats(0, 3), min_size=1, max_size=40),
    services=st.lists(st.floats(1e-6, 3), min_size=40, max_size=40),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_without_sessions_it_is_first_come_first_served(gaps, services):
    """Each request starts when it arrives or when the one before it ends."""
    queues = Queues(["a"])
    at_s = free_s = 0.0
    for gap_s, service_s in zip(gaps, services, strict=False):
        at_s += gap_s
        start_s = max(at_s, free_s)
        free_s = start_s + service_s
        assert start_s - at_s == queues.take("a", request(at_s), service_s)


def test_a_turn_waits_for_the_answer_before_it_and_the_time_to_think():
    """It is due later, so that the time until then is no wait."""
    queues = Queues(["fast", "slow"])
    for arm, service_s in (("fast", 1.0), ("slow", 4.0)):
        assert 0.0 == queues.take(arm, request(0.0, session="s"), service_s)
        later = request(0.0, session="s", turn=1, think_s=2.0)
        assert 0.0 == queues.take(arm, later, service_s)
        # Due at 3 and at 6; the next of another session finds the arm so.
        other = request(3.5)
        assert {"fast": 0.5, "slow": 0.5}[arm] == queues.take(arm, other, 0.5)


def test_while_a_session_thinks_others_are_served():
    """A request that fits before a turn that is due later doesn't wait for it."""
    queues = Queues(["a"])
    queues.take("a", request(0.0, session="s"), 1.0)
    queues.take("a", request(0.0, session="s", turn=1, think_s=10.0), 1.0)

    assert 0.0 == queues.take("a", request(2.0), 9.0)
    assert 9.5 == queues.take("a", request(2.5), 1.0)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_recalled_goes_on_as_if_nothing_had_happened(seed):
    """After a pause, waits are those of a run without one, to the last bit."""
    plan = [
        request(i * 0.7, session=f"s{i % 4}", turn=i // 4, think_s=0.3 * seed)
        for i in range(40)
    ]
    services = [0.1 + (i * 37 % 11) / 7 for i in range(40)]
    whole, resumed = Queues(["a"]), Queues(["a"])
    waits = [whole.take("a", r, s) for r, s in zip(plan, services, strict=True)]
    rows = observe(
        arm="a",
        arrived_s=[one.arrival_s for one in plan[:25]],
        service_s=services[:25],
        session_id=[one.session_id for one in plan[:25]],
    )
    resumed.recall(to_table([]), plan)
    resumed.recall(to_table(rows[:10]), plan)
    resumed.recall(to_table(rows[10:]), plan, first=10)

    again = [
        resumed.take("a", r, s) for r, s in zip(plan[25:], services[25:], strict=True)
    ]
    assert waits[25:] == again


@pytest.mark.parametrize("gap_s", [0.3, 1.0, 4.0])
def test_without_turns_what_is_recalled_goes_on_from_the_last_rest(gap_s):
    """Where arms were free in between, and where they never were: to the last bit."""
    arms = ("a", "b", "baseline_aa")
    plan = [request(gap_s * (i + (i * 13 % 7) / 5)) for i in range(60)]
    plan.sort(key=lambda one: one.arrival_s)
    services = [[0.1 + ((i + n) * 37 % 11) / 7 for n in range(3)] for i in range(60)]
    whole, resumed = Queues(arms[:2]), Queues(arms[:2])
    waits = [
        [whole.take(arm, one, took_s) for arm, took_s in zip(arms, took, strict=True)]
        for one, took in zip(plan, services, strict=True)
    ]
    rows = [
        Observation(
            request_id=one.request_id,
            arm=arm,
            arrived_s=one.arrival_s,
            status=Status.OK,
            prompt_tokens=1,
            queue_s=waits[i][n],
            service_s=services[i][n],
        )
        for i, one in enumerate(plan[:40])
        for n, arm in enumerate(arms)
    ]
    resumed.recall(to_table(rows[:30]), plan)
    resumed.recall(to_table(rows[30:]), plan, first=10)

    again = [
        [resumed.take(arm, one, took_s) for arm, took_s in zip(arms, took, strict=True)]
        for one, took in zip(plan[40:], services[40:], strict=True)
    ]
    assert waits[40:] == again
    assert {None} == {waited[2] for waited in waits}


def test_busy_stretches_never_overlap():
    """However turns and thinking fall, one arm answers one request at a time."""
    queues = Queues(["a"])
    busy = []
    for i in range(300):
        one = request(
            i * 0.5, session=f"s{i % 7}", turn=i // 7, think_s=(i * 31 % 13) / 3
        )
        service_s = 0.2 + (i * 17 % 5) / 10
        due_s = one.arrival_s
        before = [end for _, end, session in busy if session == one.session_id]
        if one.turn and before:
            due_s = max(due_s, before[-1] + one.think_s)
        start_s = due_s + queues.take("a", one, service_s)
        busy.append((start_s, start_s + service_s, one.session_id))
    heapq.heapify(busy)
    ordered = [heapq.heappop(busy) for _ in range(len(busy))]

    for (_, end_s, _), (start_s, _, _) in pairwise(ordered):
        assert start_s >= end_s - 1e-9


def test_unanswered_requests_take_no_time():
    """A row without a service time leaves the queue as it was."""
    queues = Queues(["a"])
    rows = observe(arm="a", arrived_s=[0.0], status=Status.SHED)
    queues.recall(to_table(rows), None)

    assert 0.0 == queues.take("a", request(0.0), 1.0)
