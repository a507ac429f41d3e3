"""The view of a run: bars, words and widths, and lines where there is no terminal."""

import dataclasses
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from canary.decision import GateStatus, Verdict
from canary.evidence.journal import RunFolder
from canary.live import Screen, bar, plain_line, render
from canary.status import (
    GateState,
    Lag,
    PolicyStatus,
    RunState,
    RunStatus,
    write_status,
)
from canary.testing import FakeClock

ROOT = Path(__file__).parents[2]
ACCURACY = GateState(
    name="accuracy contracts",
    metric="accuracy",
    effect="difference",
    in_words="accuracy on contracts at most 5 points below the baseline's",
    status=GateStatus.UNDECIDED,
    estimate=-0.017,
    lower=-0.093,
    upper=0.036,
    limit=-0.05,
    at_least=True,
    progress=0.4,
    units=58,
    units_needed=171,
    reason=None,
)
LATENCY = dataclasses.replace(
    ACCURACY,
    name="latency p50",
    metric="latency",
    effect="ratio",
    status=GateStatus.HOLDS,
    estimate=0.63,
    lower=0.6,
    upper=0.71,
    limit=1.25,
    at_least=False,
    units=640,
    units_needed=96,
)
TAIL = dataclasses.replace(
    LATENCY,
    name="latency p99",
    status=GateStatus.INSUFFICIENT,
    estimate=0.93,
    lower=None,
    upper=None,
    limit=1.1,
    units_needed=5400,
)
LOST = dataclasses.replace(
    ACCURACY,
    status=GateStatus.BROKEN,
    estimate=-0.39,
    lower=-0.54,
    upper=-0.14,
    units=60,
)
STATUS = RunStatus(
    run="night-20261123",
    state=RunState.RUNNING,
    planned=2400,
    done=1204,
    elapsed_s=410.0,
    wall_s=433.0,
    pace_per_s=8.3,
    lag=Lag(p50_s=0.0004, p99_s=2.1, max_s=3.4),
    failures={"reference/dense": {"timeout": 3, "RuntimeError": 1}},
    restarts={"reference/dense": {"process died": 2}},
    voids={"node lost": 1},
    policies=(
        PolicyStatus(
            name="contracts-local-global",
            pairs=700,
            elapsed_s=408.0,
            gates=(ACCURACY, LATENCY, TAIL),
            gates_elapsed_s=408.0,
            eta_s=190.0,
            eta_reason=None,
            control="asked for 10% of the requests; 2 of 2 agrees",
        ),
        PolicyStatus(
            name="window",
            verdict=Verdict.ROLLBACK,
            pairs=26,
            elapsed_s=8.0,
            gates=(LOST,),
            gates_elapsed_s=8.0,
            eta_reason="decided",
        ),
        PolicyStatus(name="late"),
    ),
    eta_reason="late: no look yet",
)


def printed(status, width):
    file = io.StringIO()
    console = Console(file=file, width=width, no_color=True, legacy_windows=False)
    console.print(render(status))
    return "\n".join(map(str.rstrip, file.getvalue().splitlines())) + "\n"


@pytest.mark.parametrize("width", [80, 120])
def test_golden(width, golden):
    """The view reads as it was last approved; no line is wider than the terminal."""
    text = printed(STATUS, width)

    assert max(map(len, text.splitlines())) <= width
    golden(f"live-{width}.txt", text)


def test_text_from_outside_steers_no_terminal():
    """Causes of failures come from models and libraries: no markup, no escapes."""
    hostile = {"a": {"[red]no[/red] \x1b[2J": 1}}
    text = printed(dataclasses.replace(STATUS, failures=hostile), 80)

    assert "[red]no[/red]" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("estimate", "lower", "upper", "drawn"),
    [
        (0.0, -0.1, 0.06, "       ├──┊───●───┤  "),
        (None, None, None, "          ┊          "),
        (0.0, None, None, "◄─────────┊───●─────►"),
        (-0.9, -1.0, -0.5, "◄         ┊          "),
        (0.5, 0.02, 0.9, "          ┊    ├────►"),
        (-0.05, -0.06, -0.04, "         ├●┤         "),
    ],
)
def test_a_bar_shows_bounds_against_the_limit(estimate, lower, upper, drawn):
    """The limit is in the middle; an arrow points to what has no place or no bound."""
    gate = dataclasses.replace(ACCURACY, estimate=estimate, lower=lower, upper=upper)

    assert drawn == bar(gate, 21)


def test_a_limit_of_no_difference_has_an_axis_too():
    """A ratio of at most 1 has no distance to take the axis from."""
    gate = dataclasses.replace(LATENCY, limit=1.0, estimate=0.95, lower=0.9, upper=1.0)

    assert "┊" in bar(gate, 21)
    assert bar(gate, 21).index("├") < bar(gate, 21).index("●") < 10


def test_one_line_holds_what_counts():
    """Without a terminal: state, pace, verdicts to come, failures, in one line."""
    line = plain_line(STATUS)

    assert 1 == len(line.splitlines())
    assert line.startswith("running: 1,204 of 2,400 requests, 8.3 a second, 2.1 s late")
    assert "1 of 3 policies decided" in line
    assert "contracts-local-global 1 of 3 limits hold, verdict in about 3 min" in line
    assert line.endswith("4 answers failed")


def test_without_a_terminal_there_is_a_line_a_minute_and_one_per_verdict():
    """Four minutes of a status every second: five lines, each verdict once."""
    clock = FakeClock()
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=False)
    with Screen(console, clock=clock) as screen:
        for _ in range(241):
            screen.show(STATUS)
            clock.sleep(1.0)
    lines = file.getvalue().splitlines()

    assert 5 == sum(line.startswith("running") for line in lines)
    assert 1 == lines.count("window: rollback after 26 pairs")
    assert 6 == len(lines)


def test_a_terminal_is_drawn_four_times_a_second_at_most():
    """A thousand requests a second don't redraw a thousand times."""
    clock = FakeClock()
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True)
    with Screen(console, clock=clock) as screen:
        for _ in range(1025):
            if screen.due():
                screen.show(STATUS)
            clock.sleep(2**-10)

    at_the_end = 1  # rich draws what it then takes away
    assert 5 + at_the_end == file.getvalue().count("night-20261123")


def canary(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "canary.cli", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "COLUMNS": "80"},
    )


def ended_run(path):
    """The demo's run with the status that a run of today leaves."""
    shutil.copytree(ROOT / "reports/samples/demo", path)
    names = [file.stem for file in sorted((path / "policies").iterdir())]
    status = RunStatus(
        run="demo",
        state=RunState.ENDED,
        reason="end of traffic",
        planned=638,
        done=638,
        updated_unix_s=1.0,
        pid=2**22 + 1,
        host="elsewhere",
        policies=tuple(PolicyStatus(name=name) for name in names),
    )
    write_status(RunFolder(path), status)


def test_watching_a_run_that_ended_exits_with_its_verdicts(tmp_path):
    """The demo rolls back and leaves open: 3, as the run itself exited."""
    ended_run(tmp_path / "demo")

    watched = canary("watch", "demo", cwd=tmp_path)
    told = canary("status", "demo", "--json", cwd=tmp_path)

    assert 3 == watched.returncode, watched.stderr
    assert 1 == watched.stdout.count("ended: 638 of 638 requests, end of traffic")
    assert "window: rollback\n" in watched.stdout
    assert "tail-latency: inconclusive\n" in watched.stdout
    assert 0 == told.returncode
    assert '"state": "ended"' in told.stdout


def test_watching_a_run_that_died_before_its_decisions_says_so(tmp_path):
    """Nobody waits for documents that nobody will write."""
    ended_run(tmp_path / "demo")
    (tmp_path / "demo/decision.window.json").unlink()

    watched = canary("watch", "demo", cwd=tmp_path)

    assert 2 == watched.returncode
    assert "write them with `canary report demo`" in watched.stderr
