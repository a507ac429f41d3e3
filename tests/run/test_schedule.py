"""Runs that may send at some hours only, or are asked to stop, on a clock that moves
only when told."""

from functools import partial
from pathlib import Path

import pytest

from canary import experiment
from canary.arms.local import start_local_arms
from canary.errors import PolicyError
from canary.evidence.journal import RunFolder, read_segments
from canary.orders import ask_to_stop, stop_file
from canary.policy.load import comparable, load_policies
from canary.prepare import prepare
from canary.record import read_run
from canary.testing import FakeClock, Quiet, ScriptedVariant

MONDAY_8_S = 1_796_022_000.0  # 30 November 2026 in Berlin
HOUR_S = 3600.0
SENT = "Mon-Fri 08:00-20:00 Europe/Berlin only"
POLICY = """\
version: 1
name: quick
baseline: {model: reference}
candidate: {model: reference, attention: {pattern: sliding_window, window: 64}}
traffic: {source: trace.csv}
gates: [{metric: service, quantile: p50, max_ratio: 1.5}]
schedule: {only: "Mon-Fri 08:00-20:00 Europe/Berlin"}
decision:
  min_duration: 0s
  max_duration: 7d
  min_pairs: 100000
  look_every: 1h
  block: request
"""


class Week:
    """A clock that shows Berlin's Monday morning, and what happens at a time on it."""

    def __init__(self, began_unix_s=MONDAY_8_S):
        """Begin then."""
        self.clock = FakeClock(1000.0)
        self._began_unix_s = began_unix_s
        self.happens = []

    def wall_clock(self):
        """Return seconds since the epoch."""
        return self._began_unix_s + self.clock() - 1000.0

    def sleep(self, seconds):
        """Let time pass, a heartbeat as long as a minute, and happen what is due."""
        self.clock.sleep(max(seconds, 60.0) if seconds >= 1.0 else seconds)
        while self.happens and self.clock() - 1000.0 >= self.happens[0][0]:
            self.happens.pop(0)[1]()


class Variant(ScriptedVariant):
    """Keeps when it was asked, by the clock on the wall."""

    def __init__(self, week, asked):
        """Answer at once."""
        super().__init__()
        self._week, self._asked = week, asked

    def generate(self, request):
        """Answer as scripted."""
        self._asked.append(self._week.wall_clock())
        return super().generate(request)


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Run or resume, on a clock of its own, with a request every hour."""
    monkeypatch.chdir(tmp_path)
    rows = [f"2026-01-0{1 + n // 24} {n % 24:02d}:00:00,64,2" for n in range(5 * 24)]
    header = "TIMESTAMP,ContextTokens,GeneratedTokens"
    Path("trace.csv").write_text("\n".join([header, *rows]) + "\n")
    Path("quick.yaml").write_text(POLICY)
    return Stage(RunFolder(tmp_path / "run"))


class Stage:
    """A folder, and how to run and to resume in it."""

    def __init__(self, folder):
        """Begin on Monday morning."""
        self.folder, self.week, self.asked = folder, Week(), []
        self.listener = Quiet()

    def _place(self):
        build = partial(Variant, self.week, self.asked)
        return experiment.Place(
            where="in this process",
            start_arms=partial(start_local_arms, build=lambda _: build()),
            clock=self.week.clock,
            wall_clock=self.week.wall_clock,
            sleep=self.week.sleep,
        )

    def run(self):
        """Run it to its end."""
        prepared = prepare(load_policies([Path("quick.yaml")]), seed=1)
        return experiment.execute(
            prepared, self.folder, self._place(), command="test", listener=self.listener
        )[0]

    def resume(self):
        """Go on with it."""
        return experiment.resume(self.folder, self._place(), listener=self.listener)[0]

    def arrivals(self):
        """Intended arrivals of what was sent to the baseline, in order."""
        rows = read_segments(self.folder).to_pylist()
        return [
            r["arrived_s"]
            for r in rows
            if r["arm"] == "reference/dense" and not r["warm"]
        ]


def test_nothing_is_sent_while_the_window_is_closed(stage):
    """Five days of twelve hours: the plan goes on in the morning where it stopped in
    the evening, no request is late, and the deadline is one of wall time."""
    stage.week = Week(MONDAY_8_S - HOUR_S)

    decision = stage.run()

    hours = {
        (at_s - MONDAY_8_S) % (24 * HOUR_S) // HOUR_S for at_s in stage.asked[-120:]
    }
    assert set(range(12)) == hours
    assert [HOUR_S] * 59 == [
        b - a for a, b in zip(stage.arrivals(), stage.arrivals()[1:], strict=False)
    ]
    assert 60 == len(stage.arrivals())
    assert max(stage.listener.lags_s) < 1.0
    assert [f"waiting until Mon 30 November 08:00: it sends {SENT}"] == (
        stage.listener.reasons[:1]
    )
    assert 6 == len(stage.listener.reasons)
    assert "inconclusive" == decision.verdict
    assert "max_duration reached" == read_run(stage.folder)["ended"]
    assert 60 == len(decision.looks)


def test_a_run_that_is_interrupted_at_night_goes_on_in_the_morning(stage):
    """A pause and a closed window together lose nothing and repeat nothing, and the
    night counts for the deadline although nothing was recorded in it."""
    ask = partial(ask_to_stop, stage.folder, wall_clock=stage.week.wall_clock)
    stage.week.happens.append((14 * HOUR_S, ask))

    stage.run()
    sent = len(stage.arrivals())
    stopped_s = stage.week.clock() - 1000.0
    stage.week.sleep(3 * HOUR_S)
    stage.resume()

    assert 12 == sent
    assert 14 * HOUR_S == pytest.approx(stopped_s, abs=61.0)
    assert len(stage.arrivals()) == len(set(stage.arrivals()))
    # The deadline moves by the three hours for which nobody ran it, to Monday 11:00.
    assert 60 + 3 == len(stage.arrivals())


def test_a_stop_request_ends_a_run_in_order(stage):
    """It is seen between two requests, even far apart ones, and only once."""
    ask = partial(ask_to_stop, stage.folder, wall_clock=stage.week.wall_clock)
    stage.week.happens.append((HOUR_S + 60.0, ask))

    decision = stage.run()

    assert 2 == len(stage.arrivals())
    assert HOUR_S + 60.0 == pytest.approx(stage.week.clock() - 1000.0, abs=61.0)
    assert "interrupted" == read_run(stage.folder)["ended"] == stage.listener.reason
    assert "continue" == decision.verdict
    assert stop_file(stage.folder).exists()
    assert "inconclusive" == stage.resume().verdict
    assert not stop_file(stage.folder).exists()


@pytest.mark.usefixtures("stage")
def test_policies_of_a_run_share_its_hours():
    """One run can't be open for one policy and closed for another."""
    text = POLICY.replace("20:00", "21:00").replace("name: quick", "name: other")
    Path("other.yaml").write_text(text)

    with pytest.raises(PolicyError, match=r"other.yaml:7:11: schedule: differs from"):
        comparable(load_policies([Path("quick.yaml"), Path("other.yaml")]))
