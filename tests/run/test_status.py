"""What a run says of itself while it goes on, and what is said once it is gone."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import pytest

from canary.decision import (
    Decision,
    GateResult,
    GateStatus,
    Look,
    Validity,
    Verdict,
)
from canary.errors import UsageError
from canary.evidence.journal import RunFolder
from canary.evidence.lease import Lease
from canary.evidence.observation import Status
from canary.keeper import Expected, StatusKeeper, expected_verdict
from canary.policy.model import Policy
from canary.status import RunState, kept_status, read_status
from canary.testing import FakeClock, observe
from canary.watches import DECIDED, INTERRUPTED

GATE = GateResult(
    name="accuracy contracts",
    metric="accuracy",
    task="contracts",
    regime=None,
    quantile=None,
    over_s=None,
    effect="difference",
    unit="share",
    limit=-0.05,
    at_least=True,
    estimate=-0.017,
    lower=-0.093,
    upper=0.036,
    baseline=0.99,
    candidate=0.973,
    log_e_hold=1.5,
    log_e_broken=-1.2,
    units=50,
    units_needed=150,
    status=GateStatus.UNDECIDED,
    threshold_hold=3.0,
)


def policy_of(name="one", **decision):
    return Policy.model_validate(
        {
            "version": 1,
            "name": name,
            "baseline": {"model": "reference"},
            "candidate": {
                "model": "reference",
                "attention": {"pattern": "sliding_window", "window": 64},
            },
            "traffic": {"source": "trace.csv"},
            "validation": ["items.jsonl"],
            "gates": [{"metric": "accuracy", "margin": "5%"}],
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


def decision_of(*gates, verdict=Verdict.CONTINUE, pairs=100, elapsed_s=100.0):
    return Decision(
        run="r",
        policy="one",
        policy_sha256="",
        verdict=verdict,
        because=(),
        elapsed_s=elapsed_s,
        action="",
        pairs=pairs,
        units=pairs,
        gates=gates or (GATE,),
        validity=Validity(
            valid=True,
            reasons=(),
            void_share=0,
            missing_baseline=0,
            missing_candidate=0,
            baseline_load=None,
            kernels={},
            devices={},
        ),
        routing=(),
        log_e_rollback=0,
        threshold_rollback=3,
        baseline="a",
        candidate="b",
        looks=(),
    )


def look_of(decision):
    return Look(
        elapsed_s=decision.elapsed_s,
        pairs=decision.pairs,
        verdict=decision.verdict,
        log_e_hold=(),
        log_e_broken=(),
    )


class Eyes:
    """A screen that is never due and keeps what it is shown all the same."""

    def __init__(self):
        self.shown = []

    def due(self):
        """Say never."""
        return False

    def show(self, status):
        """Keep it."""
        self.shown.append(status)


@pytest.fixture
def folder(tmp_path):
    """A run folder with the little of a record that a status needs."""
    found = RunFolder(tmp_path)
    record = {
        "schema": "canary.run/1",
        "run": "night",
        "plan": {"span_s": 1000.0, "requests": 1000},
        "policies": {"one": ""},
    }
    found.run_json.write_text(json.dumps(record))
    return found


def keeper_of(folder, clock, *policies, eyes=None):
    return StatusKeeper(
        folder,
        policies or [policy_of()],
        screen=eyes or Eyes(),
        clock=clock,
        wall_clock=lambda: 1_800_000_000.0 + clock(),
    )


def answer(keeper, clock, count, *, done=0, every_s=1.0, lag_s=0.0, **columns):
    for index in range(done, done + count):
        clock.sleep(every_s)
        rows = observe(arm="a", arrived_s=[float(index)], **columns)
        keeper.answered(done=index + 1, planned=1000, rows=rows, lag_s=lag_s)


def test_a_status_survives_its_file(folder):
    """What is read back is what was kept, to the last gate."""
    clock = FakeClock()
    keeper = keeper_of(folder, clock)
    answer(keeper, clock, 101)
    decision = decision_of()
    keeper.looked(policy_of(), look_of(decision), lambda: decision)
    keeper.revived("a", "process died")
    keeper.ended(DECIDED)

    found = kept_status(folder)

    assert keeper.status() == found
    assert found.state is RunState.ENDED
    assert (101, 1000, 100.0) == (found.done, found.planned, found.elapsed_s)
    assert {"a": {"process died": 1}} == found.restarts
    assert 0.5 == found.policies[0].gates[0].progress
    assert "accuracy on contracts" in found.policies[0].gates[0].in_words
    assert "canary.status/1" == json.loads(folder.status_json.read_text())["schema"]


def test_pace_and_lag_are_those_of_the_last_minute(folder):
    """An hour of crawling is forgotten after a minute of running."""
    clock = FakeClock()
    keeper = keeper_of(folder, clock)
    answer(keeper, clock, 60, every_s=60.0, lag_s=9.0)
    answer(keeper, clock, 300, done=60, every_s=0.25, lag_s=0.5)

    found = keeper.status()

    assert 4.0 == pytest.approx(found.pace_per_s)
    assert (0.5, 0.5, 0.5) == dataclasses.astuple(found.lag)


def test_failures_are_counted_by_cause_and_never_grow_without_end(folder):
    """A cause is what stands before the colon; the ninth kind counts as other."""
    clock = FakeClock()
    keeper = keeper_of(folder, clock)
    answer(keeper, clock, 3, status=Status.TIMEOUT)
    for number in range(20):
        error = f"Kind{number}: what happened {number}"
        answer(keeper, clock, 2, status=Status.ERROR, error=error)

    causes = keeper.status().failures["a"]

    assert 9 == len(causes)
    assert (3, 2) == (causes["timeout"], causes["Kind0"])
    assert 2 * 13 == causes["other causes"]


def test_describing_is_rationed_and_final_verdicts_are_always_described(folder):
    """Gates cost at most a fiftieth of the time, except where a verdict is final."""
    clock = FakeClock()
    eyes = Eyes()
    keeper = keeper_of(folder, clock, eyes=eyes)
    calls = []

    def describe(verdict=Verdict.CONTINUE):
        calls.append(clock())
        clock.sleep(1.0)
        return decision_of(verdict=verdict, elapsed_s=clock())

    for _ in range(200):
        clock.sleep(1.0)
        keeper.looked(policy_of(), look_of(decision_of(elapsed_s=clock())), describe)
    rationed = len(calls)
    final = decision_of(verdict=Verdict.PROMOTE, elapsed_s=clock())
    keeper.looked(policy_of(), look_of(final), lambda: describe(Verdict.PROMOTE))

    assert 1 < rationed <= 0.02 * clock() + 1
    assert rationed + 1 == len(calls)
    assert Verdict.PROMOTE is eyes.shown[-1].policies[0].verdict
    assert Verdict.PROMOTE is kept_status(folder).policies[0].verdict


def test_the_file_is_written_every_ten_seconds_at_most(folder):
    """A hundred requests a second don't become a hundred files a second."""
    clock = FakeClock()
    keeper = keeper_of(folder, clock)
    seen = set()
    for index in range(1000):
        answer(keeper, clock, 1, done=index, every_s=0.03125)
        seen.add(kept_status(folder).done)

    assert 4 == len(seen)
    assert 1 in seen


@pytest.mark.parametrize(
    ("changes", "rules", "expected"),
    [
        ({}, {}, Expected(300.0, None)),
        ({}, {"min_pairs": 445}, Expected(450.0, None)),
        ({}, {"min_duration": "400s"}, Expected(400.0, None)),
        ({"units_needed": 501}, {}, Expected(None, "not before the traffic ends")),
        (
            {"units_needed": 151},
            {"max_duration": "5m"},
            Expected(None, "not before max_duration is reached"),
        ),
        (
            {"units_needed": None},
            {},
            Expected(None, "more of the same would not decide accuracy contracts"),
        ),
        (
            {"units": 0},
            {},
            Expected(None, "nothing measured yet for accuracy contracts"),
        ),
        ({"status": GateStatus.HOLDS}, {}, Expected(100.0, None)),
    ],
)
def test_the_slowest_demand_says_when(changes, rules, expected):
    """Gates, pairs and time all count, up to where the run ends anyhow."""
    gate = dataclasses.replace(GATE, **changes)
    found = expected_verdict(
        policy_of(**rules), decision_of(GATE_HELD, gate), end_s=1000.0
    )

    assert expected == found


GATE_HELD = dataclasses.replace(GATE, status=GateStatus.HOLDS, units_needed=20)


def test_time_to_the_verdict_counts_down_and_stretches_when_arms_fall_behind(folder):
    """At half the planned speed the rest takes twice as long."""
    clock = FakeClock()
    keeper = keeper_of(folder, clock)
    answer(keeper, clock, 101)
    decision = decision_of()
    keeper.looked(policy_of(), look_of(decision), lambda: decision)
    at_speed = keeper.status().eta_s
    answer(keeper, clock, 50, done=101)
    later = keeper.status().eta_s
    answer(keeper, clock, 49, done=151, every_s=2.0)
    slow = keeper.status().eta_s

    assert (200.0, 150.0) == pytest.approx((at_speed, later))
    assert 200.0 == pytest.approx(slow, rel=0.02)


def test_a_resumed_run_goes_on_counting(folder):
    """Failures, restarts and time of the runner before are kept."""
    clock = FakeClock()
    first = keeper_of(folder, clock)
    answer(first, clock, 5, status=Status.TIMEOUT)
    answer(first, clock, 1, done=5, status=Status.VOID, error="node lost: gone")
    first.revived("a", "deadline")
    first.ended(INTERRUPTED)
    clock.sleep(1000)

    second = keeper_of(folder, clock)
    answer(second, clock, 2, done=6, status=Status.TIMEOUT)
    found = second.status()

    assert {"a": {"timeout": 7}} == found.failures
    assert {"a": {"deadline": 1}} == found.restarts
    assert {"node lost": 1} == found.voids
    assert found.wall_s < 10


KILLED = """\
import os, signal, sys, time
from pathlib import Path
from canary.evidence.journal import RunFolder
from canary.evidence.lease import Lease
sys.path.insert(0, sys.argv[2])
import test_status
folder = RunFolder(Path(sys.argv[1]))
Lease(folder, wall_clock=time.time).take()
clock = test_status.FakeClock()
keeper = test_status.keeper_of(folder, clock)
test_status.answer(keeper, clock, 30)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_after_kill_9_the_status_says_interrupted(folder):
    """Whatever the file says: a process that is gone isn't running."""
    here = os.path.dirname(__file__)  # noqa: PTH120 - goes into another interpreter
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder.root), here], check=False
    )
    assert -signal.SIGKILL == killed.returncode
    assert kept_status(folder).state is RunState.RUNNING

    found = read_status(folder, wall_clock=lambda: 0.0)
    told = subprocess.run(
        [sys.executable, "-m", "canary.cli", "status", str(folder.root)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )

    assert found.state is RunState.INTERRUPTED
    assert f"canary resume {folder.root}" in found.reason
    assert 0 == told.returncode, told.stderr
    assert "interrupted: 21 of 1,000 requests" in told.stdout
    assert f"canary resume {folder.root}" in told.stdout


def test_a_pause_is_shown_at_once_and_ends_with_the_next_word(folder):
    """Whoever watches sees why nothing is sent, and that it goes on."""
    clock, eyes = FakeClock(), Eyes()
    keeper = keeper_of(folder, clock, eyes=eyes)
    answer(keeper, clock, 3)
    keeper.paused("the disk is full")
    paused = kept_status(folder)
    keeper.paused("the disk is full")
    keeper.waiting()
    going = kept_status(folder)

    assert (RunState.PAUSED, "the disk is full") == (paused.state, paused.reason)
    assert (RunState.RUNNING, None) == (going.state, going.reason)


def test_a_status_that_cannot_be_written_stops_nothing(folder):
    """No evidence depends on the file; what is shown says why the file is old."""
    clock, eyes = FakeClock(), Eyes()
    keeper = keeper_of(folder, clock, eyes=eyes)
    answer(keeper, clock, 3)
    folder.status_json.unlink()
    folder.status_json.mkdir()
    answer(keeper, clock, 30, done=3)
    broken = keeper.status().unwritten
    folder.status_json.rmdir()
    answer(keeper, clock, 30, done=33)

    assert "Is a directory" == broken
    assert keeper.status().unwritten is None
    assert kept_status(folder).unwritten is None


def test_a_run_that_is_being_resumed_is_warming_up(folder):
    """Between taking the lease and the first request the old status doesn't count."""
    keeper_of(folder, FakeClock()).ended(INTERRUPTED)
    with Lease(folder, wall_clock=lambda: 0.0).held():
        found = read_status(folder, wall_clock=lambda: 0.0)

    assert found.state is RunState.WARMING_UP


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda folder: folder.lease.unlink(missing_ok=True),
            "left no status.json; go on with `canary resume",
        ),
        (lambda folder: folder.status_json.write_text("{"), "is damaged"),
        (lambda folder: folder.status_json.write_text("{}"), "delete it"),
        (lambda folder: folder.run_json.unlink(), "not a run folder"),
    ],
)
def test_what_can_t_be_read_is_one_sentence(folder, damage, said):
    """No status, half a status, no run: each says what to do."""
    damage(folder)

    with pytest.raises(UsageError, match=said) as caught:
        read_status(folder, wall_clock=lambda: 0.0)

    assert 1 == len(str(caught.value).splitlines())
