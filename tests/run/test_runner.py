"""The loop, with scripted variants and a clock that moves only when told."""

import hashlib
from functools import partial

import pytest

from canary.arms.base import ArmDiedError, ArmsLostError, Completion, OneDevice
from canary.arms.causes import Cause
from canary.arms.local import LocalArm
from canary.errors import ArmError
from canary.evidence.journal import Journal, RunFolder, read_segments
from canary.evidence.observation import Status
from canary.evidence.pairs import CONTROL_ARM
from canary.judge import Ended, judge
from canary.losses import Losses, losses_so_far
from canary.policy.model import Policy
from canary.runner import Runner
from canary.testing import FakeClock, Quiet, ScriptedVariant
from canary.traffic.request import Plan, Request, TokenBlocks
from canary.warmup import busy_s, warm_up
from canary.watches import (
    BUDGET,
    DECIDED,
    END_OF_TRAFFIC,
    INTERRUPTED,
    MAX_DURATION,
    arms_of,
)

DENSE, WINDOW = "reference/dense", "reference/sliding_window(window=256)"


def policy_of(name="one", *, window=256, gates=None, extra=None, **decision):
    return Policy.model_validate(
        {
            **(extra or {}),
            "version": 1,
            "name": name,
            "baseline": {"model": "reference"},
            "candidate": {
                "model": "reference",
                "attention": {"pattern": "sliding_window", "window": window},
            },
            "traffic": {"source": "trace.csv"},
            "validation": ["items.jsonl"],
            "gates": gates or [{"metric": "accuracy", "margin": "5%"}],
            "decision": {
                "min_duration": "0s",
                "max_duration": "1h",
                "min_pairs": 1,
                "look_every": "10s",
                "block": "request",
                **decision,
            },
        }
    )


def plan_of(count, *, every_s=1.0, kind="quality", group_size=1):
    requests = tuple(
        Request(
            request_id=f"q{index}",
            kind=kind,
            arrival_s=index * every_s,
            max_output_tokens=3,
            text="what is it ?" if kind == "quality" else None,
            blocks=None if kind == "quality" else TokenBlocks(length_tokens=10 + index),
            target=("42",),
            task="contracts",
            group=f"g{index // group_size}",
        )
        for index in range(count)
    )
    digest = hashlib.sha256(repr(requests).encode()).hexdigest()
    return Plan(
        requests=requests,
        arm_orders=tuple(range(count)),
        seed=0,
        sha256=digest,
        speed=1.0,
    )


class Stage:
    """A run on scripted arms, and what is left of it."""

    def __init__(
        self,
        tmp_path,
        policies,
        plan,
        *,
        timeout_s=600.0,
        gpus=0,
        commit_every_s=2.0,
        **variants,
    ):
        self.clock = FakeClock()
        self.folder = RunFolder(tmp_path / "run")
        self.folder.create()
        self.listener = Quiet()
        names = dict(zip(("dense", "window"), arms_of(policies), strict=False))
        self.variants = {
            name: variants.get(short, ScriptedVariant())
            for short, name in (
                names | {n: n for n in list(arms_of(policies))[2:]}
            ).items()
        }
        self.arms = {
            name: LocalArm(
                name,
                partial(self.variants.get, name),
                clock=self.clock,
                timeout_s=timeout_s,
            )
            for name, variant in self.variants.items()
        }
        self.runner = Runner(
            policies,
            plan,
            [OneDevice(self.arms)],
            Journal(self.folder, clock=self.clock, every_s=commit_every_s),
            gpus=gpus,
            clock=self.clock,
            sleep=self.clock.sleep,
            listener=self.listener,
        )

    def rows(self, arm):
        """What was recorded of an arm."""
        table = read_segments(self.folder).to_pylist()
        return [row for row in table if row["arm"] == arm]


def test_waiting_comes_from_a_queue_of_each_arm_alone(tmp_path):
    """A slow arm builds a queue of its own; the fast one on the same device doesn't."""
    stage = Stage(
        tmp_path,
        [policy_of()],
        plan_of(4, every_s=1.0),
        dense=ScriptedVariant(service_s=lambda _: 0.25),
        window=ScriptedVariant(service_s=lambda _: 1.5),
    )

    stage.runner.run()

    assert [0.25] * 4 == [row["latency_s"] for row in stage.rows(DENSE)]
    assert [1.5, 2.0, 2.5, 3.0] == [row["latency_s"] for row in stage.rows(WINDOW)]
    assert [0.0, 0.5, 1.0, 1.5] == [row["queue_s"] for row in stage.rows(WINDOW)]
    assert [1.5] * 4 == [row["service_s"] for row in stage.rows(WINDOW)]
    assert [0.75, 1.25, 1.75, 2.25] == [row["ttft_s"] for row in stage.rows(WINDOW)]


def test_a_stall_shows_in_the_arm_that_stalled(tmp_path):
    """Two seconds lost by one request delay those behind it, in that arm only."""
    stage = Stage(
        tmp_path,
        [policy_of()],
        plan_of(6, every_s=0.5),
        window=ScriptedVariant(
            service_s=lambda request: 2.0 if request.request_id == "q1" else 0.1
        ),
    )

    stage.runner.run()

    assert max(row["latency_s"] for row in stage.rows(DENSE)) == pytest.approx(0.1)
    assert stage.rows(WINDOW)[2]["latency_s"] == pytest.approx(1.6)


def test_requests_wait_for_their_time(tmp_path):
    """Nothing is sent before its intended arrival."""
    stage = Stage(tmp_path, [policy_of()], plan_of(4, every_s=3.0))

    stage.runner.run()

    assert stage.clock.now_s == pytest.approx(9.0)


def test_the_order_of_the_arms_changes_from_request_to_request(tmp_path):
    """Neither arm always goes first."""
    stage = Stage(tmp_path, [policy_of()], plan_of(40))

    stage.runner.run()

    first = sum(row["order"] == 0 for row in stage.rows(DENSE))
    assert 10 < first < 30


def test_a_failure_is_evidence_and_the_run_goes_on(tmp_path):
    """What a variant raises becomes an error row with its words; others go on."""
    stage = Stage(
        tmp_path,
        [policy_of()],
        plan_of(5),
        window=ScriptedVariant(fails=lambda request: request.request_id == "q2"),
    )

    stage.runner.run()

    failed = stage.rows(WINDOW)[2]
    assert failed["status"] == "error"
    assert failed["error"] == "RuntimeError: scripted failure of q2"
    assert failed["latency_s"] is failed["score"] is None
    assert [1.0] * 5 == [row["score"] for row in stage.rows(DENSE)]


def test_a_decided_run_stops_early(tmp_path):
    """Once every policy is decided no further request is sent."""
    stage = Stage(
        tmp_path,
        [policy_of()],
        plan_of(200),
        window=ScriptedVariant(right=lambda _: False),
    )

    played = stage.runner.run()

    assert played.reason == DECIDED
    assert stage.listener.done == 10
    assert played.ends["one"].cutoff_s == pytest.approx(10.0)


def test_an_arm_is_released_when_its_policies_are_decided(tmp_path):
    """A candidate that is rolled back no longer costs anything."""
    other = "reference/sliding_window(window=512)"
    policies = [policy_of(), policy_of("two", window=512, min_pairs=60)]
    stage = Stage(
        tmp_path,
        policies,
        plan_of(200),
        window=ScriptedVariant(right=lambda _: False),
    )

    stage.runner.run()

    assert len(stage.rows(WINDOW)) == 10
    assert len(stage.rows(other)) > 60


def test_the_verdict_of_the_run_is_the_verdict_of_its_observations(tmp_path):
    """Judging what was recorded finds the look, and the verdict, of the live run."""
    policy = policy_of(min_duration="1m")
    stage = Stage(tmp_path, [policy], plan_of(300))

    played = stage.runner.run()
    decision = judge(
        policy, read_segments(stage.folder), run="r", ended=played.ends.get("one")
    )

    last = stage.listener.looks[-1][1]
    assert last.verdict == decision.verdict == "promote"
    assert last.elapsed_s == decision.elapsed_s
    assert [look for _, look in stage.listener.looks] == list(decision.looks)


@pytest.mark.parametrize("slower", [1.0, 1.4])
def test_a_long_run_looks_at_blocks_as_its_judge_does(tmp_path, slower):
    """Two days of blocks: looks taken while requests come are those of all at once."""
    gates = [
        {"metric": "service", "quantile": "p50", "max_ratio": 1.1},
        {"metric": "errors", "margin": "5%"},
    ]
    rules = {"min_duration": "2h", "max_duration": "2d", "look_every": "30m"}
    policy = policy_of(gates=gates, block="auto", **rules)

    def took(factor):
        return lambda request: factor * (1 + int(request.request_id[1:]) % 89 / 100)

    stage = Stage(
        tmp_path,
        [policy],
        plan_of(4000, every_s=7.0, kind="latency"),
        commit_every_s=600.0,
        dense=ScriptedVariant(service_s=took(1.0)),
        window=ScriptedVariant(service_s=took(slower)),
    )

    played = stage.runner.run()
    decision = judge(
        policy, read_segments(stage.folder), run="r", ended=played.ends["one"]
    )

    assert decision.verdict == ("promote" if slower == 1.0 else "rollback")
    assert [look for _, look in stage.listener.looks] == list(decision.looks)
    assert [80.0, 10.0] == [gate.block_s for gate in decision.gates]  # times repeat


def test_one_look_waits_for_the_end(tmp_path):
    """A policy that looks once is looked at by nobody while its run goes on."""
    policy = policy_of(mode="fixed")
    stage = Stage(tmp_path, [policy], plan_of(100))

    played = stage.runner.run()
    decision = judge(
        policy, read_segments(stage.folder), run="r", ended=Ended(reason=played.reason)
    )

    assert played.reason == END_OF_TRAFFIC
    assert stage.listener.looks == []
    assert decision.verdict == "promote"
    assert len(decision.looks) == 1


def test_traffic_that_ends_is_a_reason(tmp_path):
    """Without a verdict the run ends with its traffic and says so."""
    stage = Stage(tmp_path, [policy_of()], plan_of(20))

    played = stage.runner.run()

    assert played.reason == END_OF_TRAFFIC
    assert played.ends == {}


def test_max_duration_is_wall_time(tmp_path):
    """A run that falls behind its plan ends when its time is over."""
    clock_owner = ScriptedVariant()
    stage = Stage(
        tmp_path,
        [policy_of(max_duration="30s")],
        plan_of(200),
        dense=clock_owner,
        window=ScriptedVariant(),
    )
    stage.variants[WINDOW]._clock = stage.clock
    stage.variants[WINDOW]._service_s = lambda _: 5.0

    played = stage.runner.run()

    assert played.reason == MAX_DURATION
    assert len(stage.rows(DENSE)) == 6


def test_a_deadline_does_not_wait_for_the_next_request(tmp_path):
    """In a long gap of the traffic the run ends when its time is over, not after."""
    policy = policy_of(max_duration="30s")
    stage = Stage(tmp_path, [policy], plan_of(3, every_s=3000.0))

    played = stage.runner.run()

    assert played.reason == stage.listener.reason == MAX_DURATION
    assert stage.clock.now_s == pytest.approx(30.0)
    assert 29 <= stage.listener.heartbeats <= 31


def test_a_budget_ends_the_run_in_order(tmp_path):
    """Wall time times GPUs is what is spent; without a GPU nothing is."""
    spending = {"extra": {"budget": {"gpu_hours": 0.01}}}  # 36 s on one GPU
    played = {}
    for gpus in (0, 1, 2):
        stage = Stage(
            tmp_path / str(gpus), [policy_of(**spending)], plan_of(50), gpus=gpus
        )
        played[gpus] = stage.runner.run(), stage.clock.now_s

    assert played[0][0].reason == END_OF_TRAFFIC
    assert played[1][0].reason == played[2][0].reason == BUDGET
    assert played[1][1] == pytest.approx(36.0)
    assert played[2][1] == pytest.approx(18.0)
    assert played[1][0].ends["one"].reason == BUDGET


def test_a_late_answer_has_failed(tmp_path):
    """What takes longer than its time is a timeout, with the time that it took."""
    stage = Stage(
        tmp_path,
        [policy_of()],
        plan_of(5),
        timeout_s=2.0,
        window=ScriptedVariant(
            service_s=lambda request: 3.0 if request.request_id == "q2" else 0.1
        ),
    )

    stage.runner.run()

    late = stage.rows(WINDOW)[2]
    assert late["status"] == "timeout"
    assert late["error"] == "timeout: took 3 s, over 2 s"
    assert late["service_s"] == pytest.approx(3.0)
    assert late["latency_s"] is late["score"] is None


def test_the_control_answers_its_share(tmp_path):
    """A second copy of the baseline answers the share asked for, the same each time,
    and says nothing of queues, for its own is shorter than the baseline's."""
    policy = policy_of(extra={"aa_control": "25%"})
    asked = []
    for again in ("a", "b"):
        stage = Stage(tmp_path / again, [policy], plan_of(200))
        stage.runner.run()
        asked.append([row["request_id"] for row in stage.rows(CONTROL_ARM)])

    rows = stage.rows(CONTROL_ARM)
    assert asked[0] == asked[1]
    assert 0.15 < len(rows) / len(stage.rows(DENSE)) < 0.35
    assert {None} == {row["latency_s"] for row in rows}
    assert {0.1} == {row["service_s"] for row in rows}


@pytest.mark.parametrize(
    ("on_device", "verdict"), [(True, "invalid"), (False, "rollback")]
)
def test_a_slow_device_is_not_the_variants_fault(tmp_path, on_device, verdict):
    """A delay on the candidate's device hits the baseline's copy there too: the run is
    invalid. The same delay of the variant alone is rolled back."""
    gates = [{"metric": "service", "quantile": "p50", "max_ratio": 1.1}]
    policy = policy_of(gates=gates, extra={"aa_control": "100%"})

    def delayed(factor):
        return ScriptedVariant(
            service_s=lambda r: factor * (0.1 + r.blocks.length_tokens / 10_000)
        )

    stage = Stage(
        tmp_path,
        [policy],
        plan_of(400, kind="latency"),
        dense=delayed(1.0),
        window=delayed(1.5),
        **{CONTROL_ARM: delayed(1.5 if on_device else 1.0)},
    )

    played = stage.runner.run()
    decision = judge(
        policy, read_segments(stage.folder), run="r", ended=played.ends.get("one")
    )

    verdicts = {look.verdict for _, look in stage.listener.looks}
    assert decision.verdict == verdict
    assert verdicts & {"invalid", "rollback"} == {verdict}


def test_ctrl_c_keeps_what_was_answered(tmp_path):
    """An interrupt drops the request in flight for all arms and ends in order."""

    def interrupt(request):
        if request.request_id == "q7":
            raise KeyboardInterrupt
        return 0.1

    stage = Stage(
        tmp_path,
        [policy_of()],
        plan_of(20),
        window=ScriptedVariant(service_s=interrupt),
    )

    played = stage.runner.run()

    assert played.reason == INTERRUPTED
    assert len(stage.rows(DENSE)) == len(stage.rows(WINDOW)) == 7


def test_a_dead_arm_keeps_what_was_answered(tmp_path):
    """What breaks a run leaves everything before it committed."""
    stage = Stage(tmp_path, [policy_of()], plan_of(20))
    answer = stage.arms[WINDOW].serve

    def dies(request):
        if request.request_id == "q5":
            raise ArmError("arm window died")
        return answer(request)

    stage.arms[WINDOW].serve = dies

    with pytest.raises(ArmError, match="window died"):
        stage.runner.run()

    assert len(stage.rows(DENSE)) == len(stage.rows(WINDOW)) == 5


def kill(stage, arm, times, status=Status.ERROR, cause=Cause.PROCESS_DIED):
    """Let an arm's process die, or hang, of request q5, so many times."""
    answer = stage.arms[arm].serve
    deaths = iter(range(times))

    def serve(request):
        if request.request_id == "q5" and next(deaths, None) is not None:
            died = Completion(status=status, service_s=0.3, device="none", error="died")
            raise ArmDiedError(f"{arm}: died", died, cause)
        return answer(request)

    stage.arms[arm].serve = serve


def test_a_process_that_dies_once_costs_nothing_but_the_attempt(tmp_path):
    """A death that doesn't repeat is no evidence: all arms are asked once more."""
    stage = Stage(tmp_path, [policy_of()], plan_of(10))
    kill(stage, WINDOW, times=1)

    stage.runner.run()

    for arm in (DENSE, WINDOW):
        rows = [row for row in stage.rows(arm) if not row["warm"]]
        assert ["ok"] * 10 == [row["status"] for row in rows]
        assert [1] * 5 + [2] + [1] * 4 == [row["attempt"] for row in rows]
    assert [True] * 6 == [row["warm"] for row in stage.rows(WINDOW) if row["warm"]]
    assert stage.listener.revivals == [(WINDOW, Cause.PROCESS_DIED)]


def test_dying_twice_of_the_same_request_is_the_arms_error(tmp_path):
    """A candidate whose kernel dies of a prompt fails it, and the run goes on."""
    stage = Stage(tmp_path, [policy_of()], plan_of(10))
    kill(stage, WINDOW, times=2)

    stage.runner.run()

    failed = [row for row in stage.rows(WINDOW) if row["status"] == "error"]
    assert [("q5", 2, "died")] == [
        (row["request_id"], row["attempt"], row["error"]) for row in failed
    ]
    dense = [row for row in stage.rows(DENSE) if not row["warm"]]
    assert ["ok"] * 10 == [row["status"] for row in dense]


def test_an_arm_that_hangs_is_not_asked_again(tmp_path):
    """It had its time: the request is a timeout, and the arm is started anew."""
    stage = Stage(tmp_path, [policy_of()], plan_of(10))
    kill(stage, WINDOW, times=1, status=Status.TIMEOUT, cause=Cause.DEADLINE)

    stage.runner.run()

    rows = [row for row in stage.rows(WINDOW) if not row["warm"]]
    assert ["ok"] * 5 + ["timeout"] + ["ok"] * 4 == [row["status"] for row in rows]
    assert {1} == {row["attempt"] for row in rows}
    assert [arm for arm, _ in stage.listener.revivals] == [WINDOW]


def test_a_kernel_that_dies_of_long_prompts_is_rolled_back(tmp_path):
    """Deaths in every other request, warm-ups included, wedge nothing."""
    gates = [{"metric": "errors", "margin": "5%"}]
    plan = plan_of(400, kind="latency")
    stage = Stage(tmp_path, [policy_of(gates=gates)], plan)
    answer = stage.arms[WINDOW].serve

    def serve(request):
        if request.blocks.length_tokens % 2:
            died = Completion(
                status=Status.ERROR, service_s=0.1, device="none", error="died"
            )
            raise ArmDiedError(f"{WINDOW}: died", died, Cause.PROCESS_DIED)
        return answer(request)

    stage.arms[WINDOW].serve = serve

    played = stage.runner.run()

    assert played.reason == DECIDED
    assert stage.listener.looks[-1][1].verdict == "rollback"
    assert {"ok"} == {row["status"] for row in stage.rows(DENSE)}


def lose(stage, arm, times, cause=Cause.NODE_LOST):
    """Take away what all arms run on, at request q5 and while they come back."""
    answer, restart = stage.arms[arm].serve, stage.arms[arm].restart
    losses = iter(range(times))

    def serve(request):
        if request.request_id == "q5" and next(losses, None) is not None:
            raise ArmsLostError(f"{cause}: pulled out", arm=arm, cause=cause)
        return answer(request)

    def again():
        if next(losses, None) is not None:
            raise ArmsLostError(f"{cause}: once more", arm=arm, cause=cause)
        for name in stage.arms:
            (restart if name == arm else stage.arms[name].restart)()

    stage.arms[arm].serve, stage.arms[arm].restart = serve, again


def test_a_lost_node_makes_the_request_void_for_all_arms(tmp_path):
    """It is no arm's doing: nobody is blamed, all come back, and the run goes on."""
    stage = Stage(tmp_path, [policy_of()], plan_of(10))
    lose(stage, WINDOW, times=3)

    played = stage.runner.run()

    for arm in (DENSE, WINDOW):
        rows = [row for row in stage.rows(arm) if not row["warm"]]
        assert ["ok"] * 5 + ["void"] + ["ok"] * 4 == [row["status"] for row in rows]
        assert [0] * 6 + [1] * 4 == [row["epoch"] for row in rows]
        assert "node lost: pulled out" == rows[5]["error"]
        assert [1] * 6 == [row["epoch"] for row in stage.rows(arm) if row["warm"]]
    assert {"node lost": 1} == played.losses.voids
    assert {DENSE: {"node lost": 1}, WINDOW: {"node lost": 1}} == played.losses.restarts
    assert [(DENSE, "node lost"), (WINDOW, "node lost")] == stage.listener.revivals


def test_a_cluster_that_does_not_come_back_ends_the_run(tmp_path):
    """Whoever reads it knows what happened; what was answered stays."""
    stage = Stage(tmp_path, [policy_of()], plan_of(10))
    lose(stage, WINDOW, times=99)

    with pytest.raises(ArmError, match=r"6 times in a row, .* node lost: once more"):
        stage.runner.run()

    assert len(stage.rows(DENSE)) == len(stage.rows(WINDOW)) == 5


def test_losses_are_counted_across_pauses():
    """What a run lost before it was resumed stays in its record."""
    now = Losses()
    now.restarted("dense", Cause.PROCESS_DIED)
    now.restarted("window", Cause.NODE_LOST)
    now.void(Cause.NODE_LOST)
    earlier = {
        "restarts": {"dense": {"process died": 2}, "old": {"deadline": 1}},
        "voids": {"preempted": 1},
    }

    told = losses_so_far(earlier, now)

    assert {
        "restarts": {
            "dense": {"process died": 3},
            "old": {"deadline": 1},
            "window": {"node lost": 1},
        },
        "voids": {"node lost": 1, "preempted": 1},
    } == told


def test_a_run_goes_on_where_it_stopped(tmp_path):
    """What was recorded is not asked again, and the queue is as it was."""
    slow = ScriptedVariant(service_s=lambda _: 1.5)
    calm = Stage(tmp_path / "calm", [policy_of()], plan_of(9), window=slow)
    calm.runner.run()
    known = read_segments(calm.folder).slice(0, 4 * 2)
    rest = Stage(tmp_path / "rest", [policy_of()], plan_of(9), window=slow)
    again = Runner(
        [policy_of()],
        plan_of(9),
        [OneDevice(rest.arms)],
        Journal(rest.folder, clock=rest.clock),
        earlier=[known],
        clock=rest.clock,
        sleep=rest.clock.sleep,
        listener=rest.listener,
    )

    again.run()

    assert rest.rows(WINDOW) == calm.rows(WINDOW)[4:]


def test_groups_know_their_size(tmp_path):
    """Rows say how many items their group will have, so that judges can wait."""
    stage = Stage(tmp_path, [policy_of()], plan_of(8, group_size=4))

    stage.runner.run()

    assert [4] * 8 == [row["group_items"] for row in stage.rows(DENSE)]


def test_warm_up_is_marked_and_starts_with_the_longest():
    """Warm-up answers a sample spread over the plan, longest first, marked warm."""
    variant = ScriptedVariant(service_s=lambda request: request.blocks.length_tokens)
    arms = {"dense": LocalArm("dense", lambda: variant, clock=FakeClock())}

    rows = warm_up(arms, plan_of(30, kind="latency"), 6)

    assert [35, 30, 25, 20, 15, 10] * 2 == [row.prompt_tokens for row in rows]
    assert all(row.warm and row.latency_s is None for row in rows)


def test_warm_up_meets_every_doubling_of_length():
    """Kernels are compiled for lengths: each is met before anything counts."""
    arms = {"dense": LocalArm("dense", ScriptedVariant, clock=FakeClock())}

    rows = warm_up(arms, plan_of(600, kind="latency"), 2)

    lengths = {row.prompt_tokens.bit_length() for row in rows}
    assert lengths == {4, 5, 6, 7, 8, 9, 10}


def test_the_load_of_a_plan_is_told_by_the_warm_up():
    """Service grows with the prompt, outliers do not count, unknown is not zero."""
    first = iter([90.0] * 6)
    variant = ScriptedVariant(
        service_s=lambda request: next(first, request.blocks.length_tokens / 100)
    )
    arms = {"dense": LocalArm("dense", lambda: variant, clock=FakeClock())}
    plan = plan_of(6, kind="latency")

    rows = warm_up(arms, plan, 6)

    assert busy_s(rows, "dense", plan) == pytest.approx(
        (10 + 11 + 12 + 13 + 14 + 15) / 100
    )
    assert busy_s(rows, "other", plan) is None
