"""Arms that begin: for the first time, again after a resume, and elsewhere in time."""

import json
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from canary import experiment
from canary.arms.base import ArmsLostError
from canary.arms.causes import Cause
from canary.arms.local import start_local_arms
from canary.errors import ArmError
from canary.evidence.journal import RunFolder, read_segments
from canary.policy.load import load_policies
from canary.prepare import prepare
from canary.record import read_run
from canary.testing import FakeClock, Quiet, ScriptedVariant

DENSE, WINDOW = "reference/dense", "reference/sliding_window(window=64)"
POLICY = """\
version: 1
name: quick
baseline: {model: reference}
candidate: {model: reference, attention: {pattern: sliding_window, window: 64}}
traffic: {source: trace.csv}
gates: [{metric: service, quantile: p50, max_ratio: 1.5}]
decision:
  {min_duration: 1h, max_duration: 2h, min_pairs: 1000, look_every: 1m, block: request}
"""


class Stage:
    """A run of 20 requests, one a second, and what happens to it.

    `happens` are called before every request that an arm answers, with its id.
    `leaving` says, before each request, whether the arms must leave their place.
    """

    def __init__(self, root):
        self.folder = RunFolder(root / "run")
        self.clock, self.listener = FakeClock(), Quiet()
        self.happens = self.leaving = lambda *_: None
        self.committed = []

    def _start_arms(self, specs, **given):
        def build(_):
            return ScriptedVariant(service_s=lambda _: 0.01, clock=self.clock)

        sets = start_local_arms(specs, build=build, clock=self.clock, **given)
        arms = sets[0].arms
        restarts = {name: arm.restart for name, arm in arms.items()}

        def restart():
            if self.folder.root.exists():
                self.committed.append(len(self.answered(DENSE)))
            self.clock.sleep(60.0)  # a node takes its time
            for again in restarts.values():
                again()

        for arm in arms.values():
            arm.restart = restart
            arm.serve = partial(self._serve, arm.serve)
        arms[WINDOW].check = self.leaving
        return sets

    def _serve(self, answer, request):
        self.happens(request.request_id)
        return answer(request)

    def _act(self, action):
        place = experiment.Place(
            where="in this process",
            start_arms=self._start_arms,
            clock=self.clock,
            sleep=self.clock.sleep,
        )
        return action(place)

    def run(self):
        """Run it to its end."""
        prepared = prepare(load_policies([Path("quick.yaml")]), seed=1)
        begin = partial(experiment.execute, prepared, self.folder, command="test")
        return self._act(partial(begin, listener=self.listener))

    def resume(self):
        """Go on with it."""
        go_on = partial(experiment.resume, self.folder, listener=self.listener)
        return self._act(go_on)

    def rows(self, arm):
        """Return what was recorded of an arm."""
        rows = read_segments(self.folder).to_pylist()
        return [row for row in rows if row["arm"] == arm]

    def answered(self, arm):
        """Return what counts of it."""
        return [row for row in self.rows(arm) if not row["warm"]]


@pytest.fixture
def stage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"2026-01-01 00:00:{n:02d},64,2" for n in range(20)]
    header = "TIMESTAMP,ContextTokens,GeneratedTokens"
    Path("trace.csv").write_text("\n".join([header, *rows]) + "\n")
    Path("quick.yaml").write_text(POLICY)
    return Stage(tmp_path)


def lost(cause=Cause.NODE_LOST):
    return ArmsLostError(f"{cause}: pulled out", arm=WINDOW, cause=cause)


def test_epochs_go_on_after_a_resume(stage):
    """Arm and epoch tell each process of a run from all others, whichever attempt
    started it."""
    last = {"azure-000012": KeyboardInterrupt}

    def interrupt(name):
        if stage.folder.run_json.exists() and name in last:
            raise last.pop(name)

    stage.happens = interrupt
    stage.run()
    stage.resume()

    for arm in (DENSE, WINDOW):
        assert [0] * 12 + [1] * 8 == [row["epoch"] for row in stage.answered(arm)]
        warm = [row["epoch"] for row in stage.rows(arm) if row["warm"]]
        assert {0, 1} == set(warm)


def test_a_loss_during_the_first_warm_up_is_one_of_those_that_a_run_bears(stage):
    """All arms begin anew and warm up from the beginning; nothing of what was lost is
    recorded but that it was."""
    calls = iter([None, None, None, lost(), None, lost(Cause.PREEMPTED)])

    def fail(_):
        error = next(calls, None)
        if error is not None:
            raise error

    stage.happens = fail
    stage.run()

    assert ["ok"] * 20 == [row["status"] for row in stage.answered(DENSE)]
    assert {2} == {row["epoch"] for row in stage.rows(DENSE)}
    restarts = read_run(stage.folder)["restarts"]
    assert {"node lost": 1, "preempted": 1} == restarts[DENSE] == restarts[WINDOW]


def test_a_cluster_that_never_lets_the_arms_begin_ends_the_run(stage):
    """The budget is that of later losses, and no folder is left behind."""

    def fail(_):
        raise lost()

    stage.happens = fail

    with pytest.raises(ArmError, match=r"lost 6 times in a row, .*node lost"):
        stage.run()

    assert not stage.folder.root.exists()


def test_arms_leave_a_node_before_it_is_taken_away(stage):
    """Between two requests: what was answered is committed, all arms begin elsewhere,
    no request is void or failed, and the schedule waits for it."""
    asked = iter([False] * 7 + [True])

    def leaving():
        if next(asked, False):
            raise lost(Cause.PREEMPTED)

    stage.leaving = leaving
    stage.run()

    rows = stage.answered(WINDOW)
    before = sum(row["epoch"] == 0 for row in rows)
    assert ["ok"] * 20 == [row["status"] for row in rows]
    assert [0] * before + [1] * (20 - before) == [row["epoch"] for row in rows]
    assert 0 < before < 20
    assert [before] == stage.committed
    assert [(DENSE, "preempted"), (WINDOW, "preempted")] == stage.listener.revivals
    assert {"preempted": 1} == read_run(stage.folder)["restarts"][DENSE]
    assert {} == read_run(stage.folder)["voids"]
    assert max(stage.listener.lags_s) < 1.0
    status = json.loads(stage.folder.run_json.read_text())
    assert "end of traffic" == status["ended"]
    assert all(b > a for a, b in pairwise(row["arrived_s"] for row in rows))
