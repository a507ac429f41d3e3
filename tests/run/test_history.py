"""All runs below a folder, the broken ones too."""

import json
import shutil
import time
from pathlib import Path

import pytest

from canary.decision import Verdict
from canary.evidence.journal import RunFolder
from canary.evidence.lease import Lease
from canary.history import list_runs
from canary.overrides import record_override
from canary.status import RunState

ROOT = Path(__file__).parents[2]


@pytest.fixture
def reports(tmp_path):
    """A run, a newer one that was interrupted, and three kinds of broken ones."""
    found = tmp_path / "reports"
    for name in ("old", "deep/er/new", "no-json", "no-record", "bad-decision"):
        shutil.copytree(ROOT / "reports/samples/demo", found / name)
    change(found / "deep/er/new", created="2027-01-01T00:00:00+00:00", ended=None)
    (found / "no-json/run.json").write_text("{")
    (found / "no-record/run.json").unlink()
    (found / "bad-decision/decision.window.json").write_text("[]")
    return found


def change(path, **values):
    record = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(record | values))


def test_runs_are_listed_newest_first_and_broken_ones_last(reports):
    """One broken folder hides no other, and says what is wrong with it."""
    record_override(
        RunFolder(reports / "old"),
        policy="window",
        action="hold",
        by="Ada",
        why="so",
        wall_clock=lambda: 0.0,
    )
    new, old, *broken = list_runs(reports, wall_clock=lambda: 0.0)

    assert str(reports / "deep/er/new") == new.path
    assert (RunState.INTERRUPTED, RunState.ENDED) == (new.state, old.state)
    window = next(policy for policy in old.policies if policy.name == "window")
    assert (Verdict.ROLLBACK, 26) == (window.verdict, window.pairs)
    assert "hold" == window.override["action"]
    why = {Path(entry.path).name: entry.broken for entry in broken}
    assert {"no-json", "no-record", "bad-decision"} == set(why)
    assert "run.json: can't be read" in why["no-json"]
    assert "not a run folder" in why["no-record"]
    assert "decision.window.json: is damaged" in why["bad-decision"]


def test_a_run_that_is_being_written_is_running(reports):
    """Documents of an earlier stop don't count while a runner goes on."""
    folder = RunFolder(reports / "old")
    with Lease(folder, wall_clock=time.time).held():
        found = {e.path: e for e in list_runs(reports, wall_clock=time.time)}

    entry = found[str(reports / "old")]
    assert entry.state is RunState.RUNNING
    assert {(Verdict.CONTINUE, None)} == {(p.verdict, p.pairs) for p in entry.policies}


def test_the_command_lists_them_in_words_and_as_json(canary, reports):
    """Default folder, another folder, an empty one: never a traceback."""
    words = canary("runs", cwd=reports.parent)
    found = json.loads(canary("runs", "reports", "--json", cwd=reports.parent).stdout)
    empty = canary("runs", "nowhere", cwd=reports.parent)

    assert 0 == words.returncode == empty.returncode, words.stderr
    assert "reports/old  ended, started 23 November 2026" in words.stdout
    assert "✖ rollback" in words.stdout
    assert 3 == words.stdout.count("  broken")
    assert 5 == len(found)
    assert "ended" == found[1]["state"]
    assert "nowhere: no runs here; `canary run POLICY` makes one\n" == empty.stdout
