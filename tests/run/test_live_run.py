"""Live traffic on a virtual clock: gaps, overload, pauses, deadlines, known biases."""

import json
from functools import partial
from pathlib import Path

import pyarrow.compute as pc
import pytest

from canary import experiment
from canary.arms.local import start_local_arms
from canary.errors import TrafficError
from canary.evidence.journal import RunFolder, read_segments
from canary.policy.load import load_policies
from canary.prepare import prepare
from canary.record import read_run
from canary.testing import FakeClock, Quiet, ScriptedVariant

ROOT = Path(__file__).parents[2]
BEGAN = 1_764_000_000.0
POLICY = """\
version: 1
name: live
baseline: {model: reference}
candidate: {model: reference, attention: {pattern: sliding_window, window: 256}}
traffic: {source: spool, follow: true, max_output_tokens: 4}
gates: [{metric: ttft, quantile: p50, max_ratio: 1.5}]
decision:
  min_duration: 0s
  max_duration: 10m
  min_pairs: 5000
  look_every: 10s
  block: request
"""


class Ingress:
    """Writes a request when its time comes: a clock that others' waiting moves on."""

    def __init__(self, root):
        """Record into a folder from now on."""
        self.root = root
        self.root.mkdir()
        self.clock = FakeClock(500.0)
        self.coming = []
        self.written = 0
        self.break_at_s = None

    @property
    def now_s(self):
        """Seconds since the run began."""
        return self.clock() - 500.0

    def wall_clock(self):
        """Return seconds since the epoch."""
        return BEGAN + self.now_s

    def record(self, *times_s, **more):
        """Let requests come at these times."""
        for at_s in times_s:
            row = {
                "schema": "canary.ingress/1",
                "id": f"r{at_s:08.2f}",
                "arrived_unix_s": BEGAN + at_s,
                "kind": "chat",
                "session": None,
                "prompt_tokens": 50,
                "prompt_tokens_from": "characters",
                "body_bytes": 200,
                "max_tokens": None,
                "capture": "lengths",
                "weight": 1.0,
            }
            self.coming.append((at_s, json.dumps(row | more) + "\n"))
        self.coming.sort()
        self._write()

    def sleep(self, seconds):
        """Let time pass, and write what comes in it."""
        self.clock.sleep(seconds)
        self._write()
        if self.break_at_s is not None and self.now_s >= self.break_at_s:
            self.break_at_s = None
            raise KeyboardInterrupt

    def _write(self):
        with (self.root / f"requests-{int(self.now_s // 60):04d}.jsonl").open("a") as f:
            while self.coming and self.coming[0][0] <= self.now_s:
                f.write(self.coming.pop(0)[1])
                self.written += 1


class Moves(ScriptedVariant):
    """Takes time on the ingress's clock, too."""

    def __init__(self, ingress, took_s):
        """Answer each request in so many seconds."""
        super().__init__(service_s=lambda _: took_s)
        self._ingress, self._took_s = ingress, took_s

    def generate(self, request):
        """Answer as scripted."""
        self._ingress.sleep(self._took_s)
        return super().generate(request)


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """A policy that follows a spool, and arms on its clock."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "live.yaml").write_text(POLICY)
    ingress = Ingress(tmp_path / "spool")
    folder = RunFolder(tmp_path / "run")

    def place(took_s):
        return experiment.Place(
            where="in this process",
            start_arms=partial(
                start_local_arms, build=lambda _: Moves(ingress, took_s)
            ),
            clock=ingress.clock,
            wall_clock=ingress.wall_clock,
            sleep=ingress.sleep,
        )

    def run(took_s=0.01):
        prepared = prepare(load_policies([Path("live.yaml")]), seed=1)
        listener = Quiet()
        decisions = experiment.execute(
            prepared, folder, place(took_s), command="test", listener=listener
        )
        return decisions[0], listener

    def resume(took_s=0.01):
        return experiment.resume(folder, place(took_s), listener=Quiet())[0]

    return ingress, folder, run, resume


def rows_of(folder):
    table = read_segments(folder)
    return table.filter(pc.invert(table["warm"])).to_pylist()


def test_a_run_follows_through_gaps_until_its_deadline(stage):
    """It takes what comes, waits where nothing does, and ends when its time is up."""
    ingress, folder, run, _ = stage
    ingress.record(0.0)
    ingress.record(*range(10, 60), *range(400, 500))

    decision, listener = run()

    rows = rows_of(folder)
    assert "inconclusive" == decision.verdict
    assert 150 == len({row["request_id"] for row in rows if row["arrived_s"] > 12})
    assert listener.heartbeats > 300
    assert "max_duration reached" == read_run(folder)["ended"]
    stamps = sorted({row["arrived_s"] for row in rows})
    assert 1.0 == pytest.approx(stamps[-1] - stamps[-2])


def test_a_request_is_sent_at_its_distance(stage):
    """What comes half a second apart is due half a second apart."""
    ingress, folder, run, _ = stage
    ingress.record(0.0)
    ingress.record(*(20 + n / 2 for n in range(40)))

    _, listener = run()

    arrived = [r["arrived_s"] for r in rows_of(folder) if r["arm"] == "reference/dense"]
    assert [0.5] * 39 == [
        pytest.approx(b - a) for a, b in zip(arrived[-40:], arrived[-39:], strict=False)
    ]
    assert max(listener.lags_s[-40:]) < 1.1  # a heartbeat on this clock


def test_arms_that_can_not_keep_up_shed_pairs_alike(stage):
    """More than half a minute behind, requests are dropped on both arms and counted."""
    ingress, folder, run, _ = stage
    ingress.record(0.0)
    ingress.record(*(10 + n / 4 for n in range(800)))

    decision, _ = run(took_s=0.5)

    rows = rows_of(folder)
    by_request = {}
    for row in rows:
        by_request.setdefault(row["request_id"], set()).add(row["status"])
    assert {frozenset({"ok"}), frozenset({"shed"})} == {
        frozenset(found) for found in by_request.values()
    }
    assert "invalid" == decision.verdict
    assert decision.validity.void_share > 0.3
    assert 800 <= len(by_request) <= 801


def test_a_pause_is_skipped_and_said(stage):
    """A run that goes on neither catches up nor repeats: what it missed is counted."""
    ingress, folder, run, resume = stage
    ingress.record(0.0)
    ingress.record(*range(10, 500))
    ingress.break_at_s = 100.0
    run()
    before = rows_of(folder)
    ingress.sleep(60.0)

    resume()

    rows = rows_of(folder)
    live = read_run(folder)["live"]
    ids = [r["request_id"] for r in rows if r["arm"] == "reference/dense"]
    assert before == rows[: len(before)]
    assert len(ids) == len(set(ids))
    assert 55 < live["skipped"] < 70
    assert 490 == len(ids) - len([i for i in ids if i < "r00010"]) + live["skipped"]


def with_questions(folder, text):
    """Give a policy a schedule, 20 questions in five minutes, and a limit on them."""
    lines = (ROOT / "replay/validation/contracts.jsonl").read_text().splitlines()
    (folder / "items.jsonl").write_text("\n".join(lines[:20]) + "\n")
    text = text.replace("min_duration: 0s", "min_duration: 5m")
    text = text.replace("gates: [", "gates: [{metric: accuracy, margin: 50%}, ")
    return f"{text}validation: [items.jsonl]\n"


def test_what_comes_while_the_window_is_closed_is_skipped(stage):
    """Live traffic of closed hours is counted and never sent; questions wait instead,
    so that none is lost, and a second window closes after the first."""
    ingress, folder, run, _ = stage
    here = folder.root.parent
    text = with_questions(here, (here / "live.yaml").read_text())
    # The run begins at 16:00 UTC, a Monday: it is closed from a minute to the third.
    text += "schedule: {only: 'daily 16:03-16:01 UTC'}\n"
    (here / "live.yaml").write_text(text)
    ingress.record(0.0)
    ingress.record(*range(10, 400, 5))

    _, listener = run()

    rows = [r for r in rows_of(folder) if r["arm"] == "reference/dense"]
    live = [r["arrived_s"] for r in rows if r["kind"] != "quality"]
    asked = [r["arrived_s"] for r in rows if r["kind"] == "quality"]
    assert {"ok"} == {r["status"] for r in rows}
    zero_s = read_run(folder)["live"]["began_unix_s"] - BEGAN
    assert [] == [s for s in live + asked if 60 < s + zero_s < 180 - 1e-3]
    assert 20 == len(asked)
    assert 24 == read_run(folder)["live"]["skipped"]
    assert 78 - 24 == len([at_s for at_s in live if at_s > 14])
    assert ["waiting until Mon 24 November 16:03"] == [
        why.split(":", 2)[0] + ":" + why.split(":", 2)[1] for why in listener.reasons
    ]


def test_questions_wait_for_the_end_of_a_pause(stage):
    """Those that would have been asked while nobody ran are asked afterwards."""
    ingress, folder, run, resume = stage
    here = folder.root.parent
    (here / "live.yaml").write_text(
        with_questions(here, (here / "live.yaml").read_text())
    )
    ingress.record(0.0)
    ingress.record(*range(10, 250, 10))
    ingress.break_at_s = 100.0
    run()
    ingress.sleep(90.0)

    resume()

    rows = [r for r in rows_of(folder) if r["arm"] == "reference/dense"]
    asked = [r["request_id"] for r in rows if r["kind"] == "quality"]
    assert {"ok"} == {r["status"] for r in rows}
    assert 20 == len(asked) == len(set(asked))


def test_nothing_recorded_yet_is_one_sentence(stage):
    """There is nothing to warm up with; it says what to do."""
    _, _, run, _ = stage

    with pytest.raises(TrafficError, match="spool"):
        run()


def test_a_biased_sample_is_never_promoted(stage):
    """What the ingress says of its own sample makes the run invalid, at every look."""
    ingress, folder, run, _ = stage
    text = (folder.root.parent / "live.yaml").read_text()
    text = text.replace("min_pairs: 5000", "min_pairs: 50")
    (folder.root.parent / "live.yaml").write_text(text)
    ingress.record(0.0)
    ingress.record(*range(10, 500))
    audit = {
        "schema": "canary.ingress-audit/1",
        "biased": True,
        "because": ["no body is larger than 1 MiB"],
        "findings": [],
        "body_bytes": {},
        "requests": {},
        "lost": {},
    }
    (ingress.root / "audit.json").write_text(json.dumps(audit))

    decision, listener = run()

    assert "invalid" == decision.verdict
    assert "no body is larger than 1 MiB" in decision.because
    assert {"invalid"} == {found.verdict for _, found in listener.looks}


def test_a_plan_takes_live_traffic_to_go_on(stage, canary):
    """What comes is counted as if what was recorded came again and again."""
    ingress, folder, _, _ = stage
    ingress.record(*(-100.0 + n for n in range(50)))

    done = canary("plan", "live.yaml", "--json", cwd=folder.root.parent)

    [found] = json.loads(done.stdout)["policies"]
    assert 0 == done.returncode
    assert 595 <= found["requests"] <= 605
    assert any("as it was recorded last" in note for note in found["notes"])
