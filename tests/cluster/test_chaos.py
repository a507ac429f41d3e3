"""A run on a real cluster of three nodes, of which processes and a node are killed and
another node is drained."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from canary.evidence.journal import RunFolder, read_segments
from canary.evidence.pairs import pair_up

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CHAOS = Path(__file__).parents[1] / "soak" / "chaos.py"
DENSE, WINDOW = "reference/dense", "reference/sliding_window(window=256)"


def test_kills_of_processes_and_nodes_leave_the_evidence_as_it_was(tmp_path):
    """No request twice, none lost in silence, voids alike for all arms and counted, and
    every score as in the calm run in one process. What leaves a draining node in time
    costs no request at all."""
    command = [sys.executable, CHAOS, tmp_path]
    command += ["--pairs", "64", "--processes", "2", "--nodes", "1", "--drains", "1"]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert 0 == done.returncode, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert [] == told["faults"]
    assert {"exclusive"} == {arm["sharing"] for arm in told["arms"].values()}
    assert 1 == len({arm["node_id"] for arm in told["arms"].values()})
    calm, storm = (
        pair_up(
            read_segments(RunFolder(tmp_path / name)), baseline=DENSE, candidate=WINDOW
        )
        for name in ("calm", "storm")
    )
    assert (64, 0) == (len(calm), len(calm.void_arrived_s))
    assert {"node lost": len(storm.void_arrived_s)} == told["voids"]
    assert 64 == len(storm) + len(storm.void_arrived_s)
    assert 0 == len(storm.missing_baseline_s) + len(storm.missing_candidate_s)
    restarts = Counter()
    for causes in told["restarts"].values():
        restarts.update(causes)
    assert 2 == restarts["process died"]
    for cause in ("node lost", "preempted"):
        assert {1} == {causes[cause] for causes in told["restarts"].values()}
    rows = read_segments(RunFolder(tmp_path / "storm")).to_pylist()
    last = {row["arm"]: row["epoch"] for row in rows if row["status"] == "ok"}
    assert last == {arm: sum(told["restarts"][arm].values()) for arm in last}
