"""A person's word beside the verdict: recorded, shown, and changing nothing else."""

import json
import shutil
import time
from pathlib import Path

import pytest

from canary.errors import UsageError
from canary.evidence.journal import RunFolder
from canary.evidence.lease import Lease
from canary.overrides import read_overrides, record_override

ROOT = Path(__file__).parents[2]


@pytest.fixture
def demo(tmp_path):
    """The demo's run with two of its policies, to be overridden."""
    shutil.copytree(ROOT / "reports/samples/demo", tmp_path / "demo")
    path = tmp_path / "demo/run.json"
    record = json.loads(path.read_text())
    for part in ("policies", "ends"):
        record[part] = {name: record[part][name] for name in ("window", "latency-only")}
    path.write_text(json.dumps(record))
    return tmp_path / "demo"


@pytest.fixture
def override(canary, demo):
    """Run `canary override` on the demo."""

    def run(action="promote", policy="window", by="Ada", why="a | reason"):
        return canary(
            *("override", "demo", "--policy", policy, "--action", action),
            *("--by", by, "--why", why),
            cwd=demo.parent,
        )

    return run


def test_an_override_is_kept_and_shown_and_changes_no_verdict(canary, override, demo):
    """Both lines stay, the last one counts, the exit code is still the verdict's."""
    first = override("hold", why="wait for legal")
    second = override()
    report = canary("report", "demo", cwd=demo.parent)
    document = json.loads((demo / "decision.window.json").read_text())

    assert 0 == first.returncode == second.returncode, first.stderr + second.stderr
    assert 3 == report.returncode
    assert "rollback" == document["verdict"]
    assert ("promote", "Ada") == (
        document["override"]["action"],
        document["override"]["by"],
    )
    lines = (demo / "overrides.jsonl").read_text().splitlines()
    assert ["hold", "promote"] == [json.loads(line)["action"] for line in lines]
    assert "overridden by hand: promote, by Ada on" in " ".join(report.stdout.split())
    assert "Overridden by hand" in (demo / "report.html").read_text()
    assert "**Overridden by hand**: promote, by Ada" in (demo / "report.md").read_text()
    other = json.loads((demo / "decision.latency-only.json").read_text())
    assert other["override"] is None


def test_a_run_that_somebody_writes_gets_the_line_only(override, demo):
    """Reports belong to the writer until it is done."""
    before = (demo / "report.md").read_bytes()
    with Lease(RunFolder(demo), wall_clock=time.time).held():
        told = override()

    assert 0 == told.returncode, told.stderr
    assert "once the run is over" in told.stdout
    assert 1 == len(read_overrides(RunFolder(demo)))
    assert before == (demo / "report.md").read_bytes()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"policy": "windwo"}, "has no such policy; write window"),
        ({"action": "promotes"}, "no such action; write promote"),
        ({"action": "xyz"}, "write one of promote, rollback, hold"),
        ({"by": " "}, "--by: is empty"),
        ({"why": ""}, "--why: is empty"),
    ],
)
def test_what_is_wrong_with_an_override_is_one_sentence(override, demo, changes, said):
    """Exit code 2, one line, and nothing recorded."""
    result = override(**changes)

    assert 2 == result.returncode
    assert said in result.stderr
    assert 1 == len(result.stderr.splitlines())
    assert not (demo / "overrides.jsonl").exists()


def test_a_damaged_line_is_named(demo):
    """A line that is no override stops the report: it might have been the last word."""
    folder = RunFolder(demo)
    record_override(
        folder,
        policy="window",
        action="hold",
        by="Ada",
        why="so",
        wall_clock=lambda: 0.0,
    )
    with folder.overrides.open("a") as file:
        file.write('{"policy": "window"\n')

    with pytest.raises(UsageError, match=r"overrides\.jsonl:2: is no override"):
        read_overrides(folder)
