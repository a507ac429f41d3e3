"""Arms side by side, replica sets side by side, and arms that change places."""

import hashlib
import threading
from functools import partial
from itertools import pairwise

import pytest

from canary.arms.base import ArmDiedError, ArmsLostError, Completion
from canary.arms.causes import Cause
from canary.arms.local import LocalArm
from canary.evidence.journal import Journal, RunFolder, iter_segments, read_segments
from canary.judge import Ended, judge
from canary.policy.model import Policy
from canary.runner import Runner
from canary.testing import FakeClock, Quiet, ScriptedVariant
from canary.traffic.request import Plan, Request, TokenBlocks
from canary.watches import END_OF_TRAFFIC, arms_of

DENSE, WINDOW = "reference/dense", "reference/sliding_window(window=256)"
PATIENCE_S = 20.0


def policy_of(**placement):
    return Policy.model_validate(
        {
            "version": 1,
            "name": "one",
            "baseline": {"model": "reference"},
            "candidate": {
                "model": "reference",
                "attention": {"pattern": "sliding_window", "window": 256},
            },
            "traffic": {"source": "trace.csv"},
            "gates": [{"metric": "latency", "quantile": "p50", "max_ratio": 1.05}],
            "placement": placement,
            "decision": {
                "min_duration": "1h",
                "max_duration": "2h",
                "min_pairs": 1,
                "look_every": "20m",
                "block": "request",
            },
        }
    )


def plan_of(count, *, every_s=1.0, sessions=7):
    requests = tuple(
        Request(
            request_id=f"q{index}",
            kind="latency",
            arrival_s=index * every_s,
            max_output_tokens=3,
            blocks=TokenBlocks(length_tokens=10 + index),
            session_id=f"s{index % sessions}",
        )
        for index in range(count)
    )
    digest = hashlib.sha256(repr(requests).encode()).hexdigest()
    orders = tuple(range(count))
    return Plan(requests=requests, arm_orders=orders, seed=0, sha256=digest, speed=1.0)


class Cards:
    """A replica set of scripted arms, each on a card of its own."""

    def __init__(self, policy, clock, variants, *, arrange_s=0.0):
        self.clock = clock
        self.arrange_s = arrange_s
        self.moves = []
        self.arms = {
            name: LocalArm(name, partial(variants.get, name), clock=clock)
            for name in arms_of([policy])
        }
        self.arrangements = len(self.arms)

    def lane(self, arm):
        """A card each."""
        return list(self.arms).index(arm)

    def arrange(self, number):
        """Take as long as loading does."""
        self.moves.append((self.clock.now_s, number))
        self.clock.sleep(self.arrange_s)


def run(folder, policy, plan, sets, *, clock, earlier=()):
    """Play the plan; return how it ended and what was recorded, in order."""
    place = RunFolder(folder)
    if not place.observations.exists():
        place.create()
    listener = Quiet()
    runner = Runner(
        [policy],
        plan,
        sets,
        Journal(place, clock=clock, every_s=5.0),
        earlier=earlier,
        clock=clock,
        sleep=clock.sleep,
        listener=listener,
    )
    played = runner.run()
    rows = [row for row in read_segments(place).to_pylist() if not row["warm"]]
    return played, rows, listener


def scripted(**given):
    return {name: ScriptedVariant(**given) for name in (DENSE, WINDOW)}


def test_arms_with_cards_of_their_own_answer_at_the_same_time(tmp_path):
    """Each waits until the other is at work, too: in turns that would never be."""
    both = threading.Barrier(2, timeout=PATIENCE_S)

    def meet(_):
        both.wait()
        return 0.1

    clock = FakeClock()
    policy = policy_of()
    cards = Cards(policy, clock, scripted(service_s=meet))

    played, rows, _ = run(tmp_path / "run", policy, plan_of(20), [cards], clock=clock)

    assert END_OF_TRAFFIC == played.reason
    assert ["ok"] * 40 == [row["status"] for row in rows]


def test_a_death_on_one_card_has_all_arms_asked_once_more(tmp_path):
    """The other's answer to the first try is not what counts."""
    clock, policy = FakeClock(), policy_of()
    cards = Cards(policy, clock, scripted())
    arm, answer = cards.arms[WINDOW], cards.arms[WINDOW].serve
    deaths = []

    def serve(request):
        if request.request_id == "q5" and not deaths:
            deaths.append(request)
            failed = Completion(status="error", service_s=0.0, device="none", error="x")
            raise ArmDiedError("gone", failed, Cause.PROCESS_DIED)
        return answer(request)

    arm.serve = serve
    played, rows, listener = run(
        tmp_path / "run", policy, plan_of(9), [cards], clock=clock
    )

    tried = {row["request_id"]: row["attempt"] for row in rows}
    assert {2} == {row["attempt"] for row in rows if row["request_id"] == "q5"}
    assert 1 == max(attempt for one, attempt in tried.items() if one != "q5")
    assert [(WINDOW, "process died")] == listener.revivals
    assert {WINDOW: {"process died": 1}} == played.losses.restarts


def test_what_is_lost_is_void_for_the_other_card_too(tmp_path):
    """Also where the other arm had an answer."""
    clock, policy = FakeClock(), policy_of()
    cards = Cards(policy, clock, scripted())
    arm, answer = cards.arms[DENSE], cards.arms[DENSE].serve
    losses = []

    def serve(request):
        if request.request_id == "q3" and not losses:
            losses.append(request)
            raise ArmsLostError("node lost: x", arm=DENSE, cause=Cause.NODE_LOST)
        return answer(request)

    arm.serve = serve
    played, rows, _ = run(tmp_path / "run", policy, plan_of(9), [cards], clock=clock)

    voids = [(r["request_id"], r["arm"]) for r in rows if r["status"] == "void"]
    assert {("q3", DENSE), ("q3", WINDOW)} == set(voids)
    assert 18 == len(rows)
    assert {"node lost": 1} == played.losses.voids


def test_arms_change_places_when_planned_and_time_stands_still(tmp_path):
    """No request waits for it in the record, and each arrangement has its time."""
    clock, policy = FakeClock(), policy_of(swap_every="1m")
    cards = Cards(policy, clock, scripted(), arrange_s=30.0)

    _, rows, listener = run(
        tmp_path / "run", policy, plan_of(600), [cards], clock=clock
    )

    moves = [number for _, number in cards.moves]
    assert len(moves) >= 5
    assert all(a != b for a, b in pairwise(moves))
    assert [1, 0] == moves[:2] or [1] == moves[:1]
    assert 0.0 == max(listener.lags_s)
    assert 1200 == len(rows)
    assert clock.now_s == pytest.approx(599 + 30 * len(moves))


@pytest.mark.parametrize("never", [{"swap_every": "off"}, {}])
def test_no_place_is_changed_where_that_is_not_asked_or_not_due(tmp_path, never):
    """A tenth of an eighth of `min_duration` passes without a move."""
    clock, policy = FakeClock(), policy_of(**never)
    cards = Cards(policy, clock, scripted())

    run(tmp_path / "run", policy, plan_of(40), [cards], clock=clock)

    assert [] == cards.moves


def test_sets_answer_side_by_side_and_are_recorded_in_the_order_of_the_traffic(
    tmp_path,
):
    """A session stays with its set; both sets are at work; nothing is out of order."""
    at_work = threading.Barrier(2, timeout=PATIENCE_S)
    met = threading.Event()
    served = {}

    def build(number):
        def service_s(request):
            if request.session_id is None:
                return 0.1
            served.setdefault(request.session_id, set()).add(number)
            if not met.is_set():
                at_work.wait()
                met.set()
            return 0.1

        return {DENSE: ScriptedVariant(service_s=service_s), WINDOW: ScriptedVariant()}

    clock, policy = FakeClock(), policy_of(replicas=2)
    sets = [Cards(policy, clock, build(number)) for number in range(2)]
    # All due at once: while something is in flight nobody moves this clock.
    plan = plan_of(60, every_s=0.0, sessions=20)

    played, rows, _ = run(tmp_path / "run", policy, plan, sets, clock=clock)

    assert END_OF_TRAFFIC == played.reason
    assert ["ok"] * 120 == [row["status"] for row in rows]
    order = list(dict.fromkeys(row["request_id"] for row in rows))
    assert [f"q{index}" for index in range(60)] == order
    assert {1} == {len(numbers) for numbers in served.values()}
    assert {0, 1} == {number for numbers in served.values() for number in numbers}


def test_a_run_on_several_sets_goes_on_where_it_stopped(tmp_path):
    """What was recorded of each set is its own queue's past: as if never stopped."""
    clock, policy = FakeClock(), policy_of(replicas=3)
    plan = plan_of(90, every_s=0.2, sessions=11)
    half = Plan(
        requests=plan.requests[:40],
        arm_orders=plan.arm_orders[:40],
        seed=0,
        sha256=plan.sha256,
        speed=1.0,
    )

    def sets():
        # slow enough to build queues, with times that are the request's own
        times = {"service_s": lambda r: 0.3 + r.blocks.length_tokens % 5 / 10}
        return [Cards(policy, clock, scripted(**times)) for _ in range(3)]

    _, calm, _ = run(tmp_path / "calm", policy, plan, sets(), clock=clock)
    run(tmp_path / "run", policy, half, sets(), clock=clock)
    earlier = list(iter_segments(RunFolder(tmp_path / "run")))
    _, rows, _ = run(
        tmp_path / "run", policy, plan, sets(), clock=clock, earlier=earlier
    )

    def told(row):
        return row["request_id"], row["arm"], row["queue_s"], row["latency_s"]

    assert any(row["queue_s"] for row in calm)
    assert [told(row) for row in calm] == [told(row) for row in rows]


def test_the_load_is_that_of_one_copy(tmp_path):
    """Two sets that are busy half the time each aren't one that is always busy."""
    plan = plan_of(400, every_s=0.5, sessions=40)
    loads = []
    for replicas in (1, 2):
        clock, policy = FakeClock(), policy_of(replicas=replicas)
        sets = [
            Cards(policy, clock, scripted(service_s=lambda _: 0.4))
            for _ in range(replicas)
        ]
        folder = tmp_path / str(replicas)
        played, _, _ = run(folder, policy, plan, sets, clock=clock)
        found = judge(
            policy,
            read_segments(RunFolder(folder)),
            run="r",
            ended=Ended(reason=played.reason),
        )
        loads.append(found.validity.baseline_load)

    assert loads == pytest.approx([0.8, 0.4], rel=0.02)
