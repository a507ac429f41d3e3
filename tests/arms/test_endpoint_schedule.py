import math
import random

import pytest

from canary.arms.endpoint import schedule as module
from canary.arms.endpoint.schedule import Job, Lane, Schedule


class Notes:
    """Writes down what it is told to do."""

    def __init__(self):
        self.sent = []
        self.given_up = []
        self.shed_jobs = []

    def send(self, job, lane, due_s, could_s):
        """Note which, to whom and when it was due and possible."""
        self.sent.append((job.index, lane.name, due_s, could_s))

    def give_up(self, job, lane, due_s):
        """Note which, whose and when it was due."""
        self.given_up.append((job.index, lane.name, due_s))

    def shed(self, job):
        """Note which."""
        self.shed_jobs.append(job.index)

    def order(self, lane):
        """Return what was sent to one arm."""
        return [index for index, name, _, _ in self.sent if name == lane]


@pytest.fixture
def made():
    def make(*, arms=("a", "b"), timeout_s=10.0, most=1, shed=False):
        notes, lanes = Notes(), [Lane(name=arm) for arm in arms]
        schedule = Schedule(notes, lanes, timeout_s=timeout_s, most=most, shed=shed)
        return schedule, notes, lanes

    return make


def job(index, arrival_s, lanes, **fields):
    return Job(
        index=index,
        arrival_s=arrival_s,
        lanes=lanes,
        path="/completions",
        label=str(index),
        rest=b"",
        **fields,
    )


def run(schedule, now_s):
    """Do all that is due at a time, as often as it takes."""
    while schedule.next_s() <= now_s:
        schedule.run(now_s)


def test_silent_sessions_are_forgotten_in_the_end(made, monkeypatch):
    """However many sessions a week has, a lane knows those that spoke last."""
    monkeypatch.setattr(module, "_MOST_SESSIONS", 3)
    schedule, notes, (a, _) = made()
    jobs = [job(n, float(n), [a], session=f"s{n}") for n in range(10)]
    for each in jobs:
        schedule.add(each)
        run(schedule, each.arrival_s)
        schedule.ended(each, a, each.arrival_s + 0.5)
    late = job(10, 10.0, [a], session="s9", turn=1, think_s=4.0)
    schedule.add(late)

    assert {} == {n: s for n, s in a.sessions.items() if n != "s9"}
    assert ["s7", "s8"] == list(a.ended_s)
    assert 9.5 + 4.0 == schedule.next_s()
    run(schedule, 14.0)
    assert list(range(11)) == notes.order("a")


def test_nothing_is_due_before_its_time(made):
    """The next moment is the first arrival; until then nothing is sent."""
    schedule, notes, lanes = made()
    schedule.add(job(0, 5.0, lanes))
    run(schedule, 4.999)

    assert ([], 5.0) == (notes.sent, schedule.next_s())
    run(schedule, 5.0)
    assert [(0, "a", 5.0, 5.0), (0, "b", 5.0, 5.0)] == notes.sent
    assert math.inf == schedule.next_s()


def test_a_queue_is_served_in_order_and_knows_since_when(made):
    """What waits is sent as soon as there is room, first come, first served."""
    schedule, notes, (a, _) = made()
    jobs = [job(index, float(index), [a]) for index in range(3)]
    for each in jobs:
        schedule.add(each)
    run(schedule, 2.5)
    schedule.ended(jobs[0], a, 2.6)
    schedule.ended(jobs[1], a, 7.0)

    assert [(0, "a", 0, 0), (1, "a", 1, 2.6), (2, "a", 2, 7.0)] == notes.sent


def test_lag_counts_from_the_moment_there_was_room(made):
    """A slot that got free after a request was due, but before it was seen, counts."""
    schedule, notes, (a, _) = made()
    jobs = [job(0, 0.0, [a]), job(1, 1.0, [a])]
    for each in jobs:
        schedule.add(each)
    run(schedule, 0.0)
    schedule.ended(jobs[0], a, 1.2)
    run(schedule, 1.3)

    assert (1, "a", 1.0, 1.2) == notes.sent[-1]


def test_a_full_arm_holds_up_no_other(made):
    """Each arm has a queue of its own."""
    schedule, notes, (a, b) = made()
    jobs = [job(index, float(index), [a, b]) for index in range(3)]
    for each in jobs:
        schedule.add(each)
        run(schedule, each.arrival_s)
        schedule.ended(each, b, each.arrival_s + 0.5)

    assert ([0], [0, 1, 2]) == (notes.order("a"), notes.order("b"))


def test_waiting_ends_with_the_timeout(made):
    """A request that waited its whole timeout is given up at that moment."""
    schedule, notes, (a, _) = made(timeout_s=3.0)
    schedule.add(job(0, 0.0, [a]))
    schedule.add(job(1, 1.0, [a]))
    run(schedule, 1.0)

    assert 4.0 == schedule.next_s()
    run(schedule, 4.0)
    assert [(1, "a", 1.0)] == notes.given_up
    assert [0] == notes.order("a")


def test_shedding_looks_at_all_arms_first(made):
    """With the second arm full nothing is sent to the first either."""
    schedule, notes, (a, b) = made(shed=True)
    schedule.add(job(0, 0.0, [b]))
    schedule.add(job(1, 1.0, [a, b]))
    schedule.add(job(2, 2.0, [a]))
    run(schedule, 2.0)

    assert [1] == notes.shed_jobs
    assert ([2], [0]) == (notes.order("a"), notes.order("b"))


def test_a_turn_comes_after_the_end_and_the_thinking_in_each_arm(made):
    """Arms go their own ways through a session; an arrival that is later stands."""
    schedule, notes, (a, b) = made(most=9)
    turns = [
        job(turn, turn * 1.0, [a, b], session="s", turn=turn, think_s=0.25)
        for turn in range(3)
    ]
    for each in turns:
        schedule.add(each)
    run(schedule, 0.0)
    schedule.ended(turns[0], a, 0.5)
    schedule.ended(turns[0], b, 5.0)
    run(schedule, 1.0)
    schedule.ended(turns[1], a, 3.0)
    run(schedule, 6.0)

    assert [(0, 0.0), (1, 1.0), (2, 3.25)] == [
        (index, due_s) for index, name, due_s, _ in notes.sent if name == "a"
    ]
    assert [(0, 0.0), (1, 5.25)] == [
        (index, due_s) for index, name, due_s, _ in notes.sent if name == "b"
    ]


def test_a_turn_offered_after_the_end_still_waits_for_the_thinking(made):
    """The end of the turn before is remembered."""
    schedule, notes, (a, _) = made()
    first = job(0, 0.0, [a], session="s")
    schedule.add(first)
    run(schedule, 0.0)
    schedule.ended(first, a, 4.0)
    schedule.add(job(1, 1.0, [a], session="s", turn=1, think_s=2.0))
    run(schedule, 9.0)

    assert (1, "a", 6.0, 6.0) == notes.sent[-1]


def test_a_shed_turn_ends_where_it_was_shed(made):
    """The turn after one that was shed is sent when it is due."""
    schedule, notes, (a, b) = made(shed=True)
    schedule.add(job(0, 0.0, [b]))
    schedule.add(job(1, 1.0, [a, b], session="s"))
    schedule.add(job(2, 1.1, [a], session="s", turn=1, think_s=0.5))
    run(schedule, 1.0)
    run(schedule, 1.5)

    assert [1] == notes.shed_jobs
    assert (2, "a", 1.5, 1.5) == notes.sent[-1]


def test_a_drop_forgets_all_that_was_not_sent(made):
    """What comes, waits or is parked is gone; its session goes on with new turns."""
    schedule, notes, (a, _) = made()
    first = job(0, 0.0, [a], session="s")
    schedule.add(first)
    schedule.add(job(1, 0.0, [a]))
    schedule.add(job(2, 0.0, [a], session="s", turn=1))
    schedule.add(job(3, 9.0, [a], session="t"))
    run(schedule, 0.0)
    dropped = schedule.drop()
    schedule.ended(first, a, 1.0)
    schedule.add(job(4, 2.0, [a], session="t", turn=1))
    run(schedule, 99.0)

    assert {1, 2, 3} == dropped
    assert [0, 4] == notes.order("a")


def test_no_arm_ever_has_more_than_it_may(made):
    """Over a random day each arm gets each request once, and never too many at once."""
    draw = random.Random(3)
    schedule, notes, lanes = made(timeout_s=math.inf, most=3)
    jobs = [job(index, draw.random() * 50, lanes) for index in range(400)]
    for each in sorted(jobs, key=lambda each: each.arrival_s):
        schedule.add(each)
    ends, begun = [], 0
    while ends or schedule.next_s() < math.inf:
        now_s = min([schedule.next_s(), *(end_s for end_s, *_ in ends)])
        for end in [end for end in ends if end[0] == now_s]:
            ends.remove(end)
            schedule.ended(end[1], end[2], now_s)
        run(schedule, now_s)
        for index, name, due_s, could_s in notes.sent[begun:]:
            assert jobs[index].arrival_s == due_s <= could_s == now_s
            lane = lanes[("a", "b").index(name)]
            ends.append((now_s + draw.random(), jobs[index], lane))
        begun = len(notes.sent)
        assert all(lane.in_flight <= 3 for lane in lanes)

    by_arrival = sorted(range(400), key=lambda index: jobs[index].arrival_s)
    assert by_arrival == notes.order("a") == notes.order("b")
