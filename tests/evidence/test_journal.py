import json

import pyarrow.parquet as pq
import pytest

from canary.errors import ObservationError, UsageError
from canary.evidence.journal import Journal, RunFolder, read_segments
from canary.evidence.observation import SCHEMA, from_table, to_table
from canary.testing import FakeClock, observe


@pytest.fixture
def folder(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.create()
    return run


def test_rows_survive_a_round_trip(folder):
    """What is committed is read back in order, with every column as it was."""
    rows = observe(
        arm="a", arrived_s=[0.0, 1.5], score=[1.0, None], answer="14 15", warm=True
    )
    journal = Journal(folder, clock=FakeClock())

    journal.append(rows)
    journal.commit()

    table = read_segments(folder)
    assert SCHEMA == table.schema
    assert [1.0, None] == table["score"].to_pylist()
    assert ["r0", "r1"] == table["request_id"].to_pylist()
    assert [True, True] == table["warm"].to_pylist()


def test_a_run_recorded_before_a_column_existed_can_be_read_and_resumed(folder):
    """What an earlier version recorded lacks a column: its rows don't know the value.

    A run that goes on under this version holds both kinds of segments.
    """
    earlier = observe(arm="a", arrived_s=[0.0], score=1.0)
    old = to_table(earlier).drop_columns(["agreement"])
    pq.write_table(old, folder.segment(0))
    later = observe(arm="a", arrived_s=[1.0], request_id="later", agreement=1.0)
    journal = Journal(folder, clock=FakeClock(), every_s=0.0)
    journal.append(later)

    table = read_segments(folder)

    assert SCHEMA == table.schema
    assert [None, 1.0] == table["agreement"].to_pylist()
    assert [*earlier, *later] == from_table(table)


def test_nothing_is_written_before_it_is_due(folder):
    """Observations wait for the interval, then go out as one segment."""
    clock = FakeClock()
    journal = Journal(folder, clock=clock, every_s=2.0)

    journal.append(observe(arm="a", arrived_s=[0.0]))
    waiting = read_segments(folder).num_rows
    clock.now_s = 2.0
    journal.append(observe(arm="a", arrived_s=[1.0], request_id="late"))

    assert waiting == 0
    assert ["r0", "late"] == read_segments(folder)["request_id"].to_pylist()
    assert len(list(folder.observations.glob("part-*"))) == 1


def test_a_segment_that_the_manifest_misses_still_counts(folder):
    """A crash between segment and manifest loses nothing."""
    journal = Journal(folder, clock=FakeClock(), every_s=0.0)
    journal.append(observe(arm="a", arrived_s=[0.0]))
    before = folder.manifest.read_bytes()
    journal.append(observe(arm="a", arrived_s=[1.0], request_id="second"))
    folder.manifest.write_bytes(before)

    assert ["r0", "second"] == read_segments(folder)["request_id"].to_pylist()


def test_leftovers_of_a_crash_are_not_read(folder):
    """A temporary file that was never renamed is no segment."""
    (folder.observations / ".part-000000.parquet.tmp").write_bytes(b"half")

    assert read_segments(folder).num_rows == 0


def test_a_missing_segment_is_an_error(folder):
    """A run with a gap is refused, and the gap is named."""
    journal = Journal(folder, clock=FakeClock(), every_s=0.0)
    journal.append(observe(arm="a", arrived_s=[0.0]))
    folder.segment(0).unlink()

    with pytest.raises(ObservationError, match=r"part-000000.parquet: listed in the"):
        read_segments(folder)


def test_a_changed_segment_is_an_error(folder):
    """Evidence that was changed after it was committed is refused."""
    journal = Journal(folder, clock=FakeClock(), every_s=0.0)
    journal.append(observe(arm="a", arrived_s=[0.0]))
    manifest = json.loads(folder.manifest.read_text())
    manifest["segments"][0]["sha256"] = "0" * 64
    folder.manifest.write_text(json.dumps(manifest))

    with pytest.raises(ObservationError, match="not what the manifest lists"):
        read_segments(folder)


def test_a_lost_manifest_is_an_error(folder):
    """A crash leaves one segment unlisted, not several."""
    journal = Journal(folder, clock=FakeClock(), every_s=0.0)
    journal.append(observe(arm="a", arrived_s=[0.0]))
    journal.append(observe(arm="a", arrived_s=[1.0], request_id="second"))
    folder.manifest.unlink()

    with pytest.raises(ObservationError, match="lists 0 of 2 segments"):
        read_segments(folder)


def test_a_folder_in_use_is_refused(tmp_path):
    """A run never writes into a folder that holds something."""
    (tmp_path / "precious.txt").write_text("x")

    with pytest.raises(UsageError, match="already exists and is not empty"):
        RunFolder(tmp_path).create()


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    """A path below a file is refused with the reason."""
    (tmp_path / "file").write_text("x")

    with pytest.raises(UsageError, match="can't be created"):
        RunFolder(tmp_path / "file" / "run").create()
