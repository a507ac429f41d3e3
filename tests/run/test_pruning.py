"""Making room: what goes first, what never goes, and what is said before it does."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from canary.errors import UsageError
from canary.evidence.journal import RunFolder
from canary.evidence.lease import Lease
from canary.pruning import size_bytes

ROOT = Path(__file__).parents[2]
DAY_S = 86400.0


@pytest.fixture
def reports(tmp_path):
    """Three runs, the oldest first, and one that is broken."""
    found = tmp_path / "reports"
    for name, age_days in (("old", 90), ("middle", 40), ("new", 1), ("broken", 90)):
        shutil.copytree(ROOT / "reports/samples/demo", found / name)
        written_s = time.time() - age_days * DAY_S
        for path in (found / name).rglob("*"):
            os.utime(path, (written_s, written_s))
    (found / "broken/run.json").write_text("{")
    return found


def raw(reports):
    """The runs that still have raw observations."""
    return sorted(path.parent.name for path in reports.glob("*/observations"))


def test_old_observations_go_and_decisions_stay(canary, reports):
    """It is said first and done with --yes; what was pruned can't be judged anew."""
    prune = ("runs", "--prune", "--older-than", "30d")
    said = canary(*prune, cwd=reports.parent)
    before = raw(reports)
    done = canary(*prune, "--yes", cwd=reports.parent)

    assert (0, 0) == (said.returncode, done.returncode), done.stderr
    assert [["reports/old: raw observations", " it is old enough"]] * 1 == [
        line.split(",")[::2] for line in said.stdout.splitlines()[:1]
    ]
    assert "Nothing was removed yet; add --yes to remove it." in said.stdout
    assert ["broken", "middle", "new", "old"] == before
    assert ["broken", "new"] == raw(reports)
    assert (reports / "old/decision.window.json").exists()
    assert (reports / "old/report.html").exists()
    assert "pruned" in json.loads((reports / "old/run.json").read_text())
    for command in (["report", "reports/old"], ["resume", "reports/old", "--local"]):
        refused = canary(*command, cwd=reports.parent)
        assert 2 == refused.returncode
        assert "its raw observations were pruned at" in refused.stderr
    assert "reports/old  ended" in canary("runs", cwd=reports.parent).stdout
    again = canary(*prune, "--yes", cwd=reports.parent)
    assert "reports: nothing to prune\n" == again.stdout


def test_room_is_made_from_raw_observations_before_whole_runs(canary, reports):
    """The oldest first; whole runs only when no raw observations are left."""
    total = sum(path.stat().st_size for path in reports.rglob("*") if path.is_file())
    one = sum(p.stat().st_size for p in (reports / "new").rglob("*") if p.is_file())
    held = sum(p.stat().st_size for p in (reports / "new/observations").rglob("*"))

    def prune(keep):
        size = f"{keep}B"
        return canary(
            *("runs", "--prune", "--keep-bytes", size, "--yes"), cwd=reports.parent
        )

    assert "nothing to prune" in prune(total).stdout
    prune(total - held)
    assert ["broken", "middle", "new"] == raw(reports)
    prune(total - 3 * held - 1)
    assert ["broken"] == raw(reports)
    assert not (reports / "old").exists()
    assert (reports / "middle/report.md").exists()
    prune(one)
    assert ["broken"] == [path.name for path in reports.iterdir()]


def test_a_run_that_somebody_runs_is_never_touched(canary, reports):
    """Its lease is held: neither age nor size takes anything from it."""
    folder = RunFolder(reports / "old")
    with Lease(folder, wall_clock=time.time).held():
        done = canary(
            *("runs", "--prune", "--older-than", "0s", "--keep-bytes", "0B", "--yes"),
            cwd=reports.parent,
        )

    assert 0 == done.returncode
    assert ["broken", "old"] == raw(reports)
    assert ["broken", "old"] == sorted(path.name for path in reports.iterdir())


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--prune"], "--prune: say what may stay"),
        (["--yes"], "are about --prune; add it"),
        (["--prune", "--older-than", "30"], "--older-than: expected a duration"),
        (["--prune", "--keep-bytes", "10"], "--keep-bytes 10: expected a size"),
    ],
)
def test_what_is_off_about_pruning_is_one_sentence(canary, tmp_path, flags, said):
    """Units are asked for, and nothing is pruned by accident."""
    result = canary("runs", *flags, cwd=tmp_path)

    assert 2 == result.returncode
    assert said in result.stderr


def test_sizes_are_read_with_their_units():
    """Powers of a thousand and of 1,024, as they are written."""
    assert [10 * 2**30, 500_000_000, 1536] == [
        size_bytes(text) for text in ("10GiB", "500MB", "1.5KiB")
    ]
    with pytest.raises(UsageError, match="expected a size"):
        size_bytes("10 gigs")
