"""Small segments become large ones: no row lost or doubled, whoever dies or reads."""

import json
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from canary.errors import ObservationError
from canary.evidence import segments
from canary.evidence.journal import Journal, RunFolder, iter_segments, read_segments
from canary.testing import FakeClock, observe

WRITER = """\
import sys
from pathlib import Path
from canary.evidence.journal import Journal, RunFolder, read_segments
from canary.testing import FakeClock, observe

folder = RunFolder(Path(sys.argv[1]))
journal = Journal(folder, clock=FakeClock(), every_s=0.0)
number = read_segments(folder).num_rows
while True:
    journal.append(observe(arm="a", arrived_s=[0.0], request_id=f"r{number}"))
    number += 1
    print(number, flush=True)
"""


@pytest.fixture
def folder(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.create()
    return run


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Put eight segments together, not 64, so that a test commits less often."""
    monkeypatch.setattr(segments, "_TOGETHER", 8)


def write(folder, count, *, first=0):
    """Commit so many requests, each on its own."""
    journal = Journal(folder, clock=FakeClock(), every_s=0.0)
    for number in range(first, first + count):
        journal.append(observe(arm="a", arrived_s=[0.0], request_id=f"r{number}"))
    return journal


def ids(folder):
    return read_segments(folder)["request_id"].to_pylist()


def names(count):
    return [f"r{number}" for number in range(count)]


def files(folder):
    return sorted(path.name for path in folder.observations.glob("*.parquet"))


def test_small_segments_become_one(folder):
    """After eight commits there is one file, and the rows are where they were."""
    write(folder, 10)

    assert [
        "part-000000-000007.parquet",
        "part-000008.parquet",
        "part-000009.parquet",
    ] == files(folder)
    assert names(10) == ids(folder)


def test_a_long_run_has_few_files_and_a_small_manifest(folder, monkeypatch):
    """Whatever its length: some of each size, and full ones that stay as they are."""
    monkeypatch.setattr(segments, "_TOGETHER", 3)
    monkeypatch.setattr(segments, "_FULL_ROWS", 30)
    most = 0
    journal = Journal(folder, clock=FakeClock(), every_s=0.0)
    for number in range(80):
        journal.append(observe(arm="a", arrived_s=[0.0], request_id=f"r{number}"))
        most = max(most, len(files(folder)))

    listed = json.loads(folder.manifest.read_text())["segments"]
    assert names(80) == ids(folder)
    assert most <= 2 + 3 * 3
    assert len(files(folder)) == len(listed)
    assert [30, 30, 9, 9, 1, 1] == [each["rows"] for each in listed]


def test_a_run_goes_on_with_what_was_merged(folder):
    """The next runner counts on after the last commit in a merged segment."""
    write(folder, 8)

    write(folder, 3, first=8)

    assert names(11) == ids(folder)
    assert "part-000010.parquet" == files(folder)[-1]


@pytest.mark.parametrize("step", ["merged", "listed"])
def test_what_a_crash_leaves_is_ignored_and_then_removed(folder, step):
    """Before the manifest changes the small ones count, afterwards the large one."""
    write(folder, 7)
    before = {path: path.read_bytes() for path in folder.observations.iterdir()}
    write(folder, 1, first=7)
    if step == "merged":
        last = folder.segment(7)
        write_single(folder, last)
        before[last] = last.read_bytes()
        last.unlink()
    else:
        del before[folder.manifest]
    for path, content in before.items():
        path.write_bytes(content)
    left = files(folder)

    assert names(8) == ids(folder)
    write(folder, 1, first=8)
    assert len(left) >= 8
    assert names(9) == ids(folder)
    listed = json.loads(folder.manifest.read_text())["segments"]
    assert [each["file"] for each in listed] == files(folder)


def write_single(folder, path):
    table = read_segments(folder).slice(7)
    path.write_bytes(segments.packed(table))


def test_a_damaged_segment_is_not_merged(folder):
    """Merging would give a changed segment a new hash, and nobody would ever know."""
    write(folder, 7)
    path = folder.segment(3)
    path.write_bytes(path.read_bytes()[:-1] + b"x")

    with pytest.raises(ObservationError, match=r"part-000003.*not what the manifest"):
        write(folder, 3, first=7)


def test_a_gap_in_the_manifest_is_an_error(folder):
    """A segment that is taken off the list is missed."""
    write(folder, 5)
    manifest = json.loads(folder.manifest.read_text())
    del manifest["segments"][2]
    folder.manifest.write_text(json.dumps(manifest))

    with pytest.raises(ObservationError, match="where part-000002 is to come"):
        read_segments(folder)


def test_a_damaged_manifest_is_one_sentence(folder):
    """Half a manifest is no list."""
    write(folder, 2)
    folder.manifest.write_text(folder.manifest.read_text()[:40])

    with pytest.raises(ObservationError, match="restore it from a copy") as caught:
        read_segments(folder)

    assert 1 == len(str(caught.value).splitlines())


def test_a_reader_that_is_slow_sees_each_row_once(folder):
    """What is merged away under a reader is found again at the same row."""
    write(folder, 14)
    reader = iter_segments(folder)
    seen = [next(reader) for _ in range(3)]

    write(folder, 20, first=14)
    seen += reader

    found = [name for table in seen for name in table["request_id"].to_pylist()]
    assert names(len(found)) == found
    assert len(found) >= 14


@pytest.mark.slow
def test_kill_9_at_any_point_loses_nothing_that_was_committed(folder):
    """A writer is killed again and again while others read: rows are always the first
    so many, each once, and never fewer than it had said were kept."""
    chance = random.Random(0)
    kept = 0
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder.root)],
            stdout=subprocess.PIPE,
            text=True,
        )
        said = []
        listener = threading.Thread(target=lambda w=writer, s=said: s.extend(w.stdout))
        listener.start()
        while len(said) < 20:
            time.sleep(0.01)
        until_s = time.monotonic() + chance.uniform(0.3, 0.8)
        while time.monotonic() < until_s:
            found = ids(folder)
            assert names(len(found)) == found
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        listener.join()
        writer.stdout.close()
        kept = max(kept, *(int(line) for line in said if line.endswith("\n")))

    found = ids(folder)
    assert names(len(found)) == found
    assert kept <= len(found) <= kept + 1
    assert any(name.count("-") == 2 for name in files(folder))
