"""Runs that are killed and resumed: nothing lost, nothing twice, the same decision."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from canary.errors import UsageError
from canary.evidence.journal import RunFolder, read_segments
from canary.evidence.lease import LEASE_S, Lease
from canary.testing import FakeClock

SCRIPT = Path(__file__).with_name("scripted_run.py")
POLICY = """\
version: 1
name: quick
baseline: {model: reference, attention: dense}
candidate: {model: reference, attention: {pattern: sliding_window, window: 64}}
traffic: {source: trace.csv, speed: 2x}
validation: [items.jsonl]
gates:
  - {metric: accuracy, task: contracts, margin: 5%}
  - {metric: latency, quantile: p50, max_ratio: 1.1}
decision:
  {min_duration: 0s, max_duration: 1h, min_pairs: 1, look_every: 20s, block: request}
"""


def write_project(folder):
    """Write 600 rows of traffic and 200 questions: some seconds of scripted answers."""
    (folder / "quick.yaml").write_text(POLICY)
    rows = [
        f"2023-11-16 18:{index // 60:02d}:{index % 60:02d}.0000000,{64 + index % 99},2"
        for index in range(600)
    ]
    (folder / "trace.csv").write_text(
        "\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows, ""])
    )
    items = [
        {"id": f"q{n}", "input": "what ?", "target": ["42"], "task": "contracts"}
        for n in range(200)
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(i) + "\n" for i in items))
    return folder


@pytest.fixture
def project(tmp_path):
    return write_project(tmp_path)


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """What a run that nobody kills decides: its document and what it says."""
    folder = write_project(tmp_path_factory.mktemp("calm"))
    said = finish(start("run", "calm", folder))
    return decision(folder / "calm"), said


def start(action, folder, cwd):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), action, folder],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    return stdout.strip()


def decision(folder):
    """The decision document, without the name of the folder that it lies in."""
    document = json.loads((folder / "decision.quick.json").read_text())
    return {key: value for key, value in document.items() if key != "run"}


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_decides_the_same(calm, project):
    """Kill -9 at random points, resumed each time: the same document, bit for bit."""
    chance = random.Random(0)
    expected, said = calm

    process = start("run", "killed", project)
    for _ in range(3):
        wait_until_it_writes(process, project / "killed")
        time.sleep(chance.uniform(0.0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        process = start("resume", "killed", project)
    assert said == finish(process)

    assert expected == decision(project / "killed")
    rows = read_segments(RunFolder(project / "killed")).to_pylist()
    asked = [(row["request_id"], row["arm"]) for row in rows if not row["warm"]]
    assert len(asked) == len(set(asked))


def wait_until_it_writes(process, path):
    """Wait until the folder is its own."""
    lease = RunFolder(path).lease
    while process.poll() is None:
        if lease.exists() and json.loads(lease.read_text())["pid"] == process.pid:
            return
        time.sleep(0.02)


@pytest.mark.slow
def test_a_second_runner_is_refused(project):
    """While one runs, another that wants to resume it is told who does."""
    first = start("run", "one", project)
    while first.poll() is None and not (project / "one/run.json").exists():
        time.sleep(0.05)
    first.send_signal(signal.SIGSTOP)  # alive, but not to finish before it is asked
    second = start("resume", "one", project)
    _, said = second.communicate(timeout=60)
    first.send_signal(signal.SIGCONT)
    finish(first)

    assert f"process {first.pid} on" in said
    assert "is running it" in said


@pytest.mark.slow
def test_changed_traffic_is_refused(project):
    """A run can't go on with other requests than those that it began with."""
    process = start("run", "one", project)
    while process.poll() is None and not (project / "one/run.json").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    trace = (project / "trace.csv").read_text()
    (project / "trace.csv").write_text(trace.replace(",64,2", ",65,2"))

    process = start("resume", "one", project)
    _, said = process.communicate(timeout=60)

    assert process.returncode != 0
    assert "have changed since it began" in said


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def leases(folder):
    clock = FakeClock(1000.0)
    mine, yours = (Lease(folder, wall_clock=clock, boot_clock=clock) for _ in range(2))
    return clock, mine, yours


def test_a_living_lease_keeps_others_out(folder):
    """One owner at a time; letting go makes room."""
    _, mine, yours = leases(folder)
    mine.take()

    with pytest.raises(UsageError, match="is running it"):
        yours.take()
    mine.release()
    yours.take()


def test_a_stale_lease_is_taken_over_and_its_owner_fenced_off(folder):
    """Whoever slept too long finds out before it writes anything."""
    clock, mine, yours = leases(folder)
    mine.take()
    clock.now_s += LEASE_S + 1

    yours.take()

    with pytest.raises(UsageError, match="another runner has taken this run over"):
        mine.renew()
    yours.renew()


def test_a_lease_of_a_process_that_is_gone_is_stale_at_once(folder):
    """After a crash on this machine nobody has to wait."""
    _, mine, yours = leases(folder)
    mine.take()
    found = json.loads(folder.lease.read_text())
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    folder.lease.write_text(json.dumps({**found, "pid": dead.pid}))

    yours.take()


def test_renewing_keeps_a_lease_alive(folder):
    """An owner that commits stays the owner."""
    clock, mine, yours = leases(folder)
    mine.take()
    for _ in range(5):
        clock.now_s += LEASE_S / 2
        mine.renew()

    with pytest.raises(UsageError, match="is running it"):
        yours.take()
