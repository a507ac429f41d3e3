"""Shards of one run, judged together: as if one machine had recorded all of it."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from canary.cli import app
from canary.evidence.reading import Shards, read_observations

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "reports/samples/demo"
POLICY = ROOT / "policies/sparse-layers.yaml"


@pytest.fixture
def shards(tmp_path):
    """The sample on three machines, each with a third of the requests."""
    table = read_observations(SAMPLE)
    ids = table["request_id"].to_pylist()
    drawn = np.random.default_rng(0).integers(0, 3, len(set(ids)))
    machine = dict(zip(dict.fromkeys(ids), drawn, strict=True))
    at = np.array([machine[name] for name in ids])
    paths = [tmp_path / f"machine-{number}.parquet" for number in range(3)]
    for number, path in enumerate(paths):
        pq.write_table(table.filter(pa.array(at == number)), path)
    return paths


def decided(paths):
    command = ["judge", *map(str, paths), "--policy", str(POLICY), "--json"]
    result = CliRunner().invoke(app, command)
    document = json.loads(result.stdout)
    document.pop("run")
    return result.exit_code, document


def test_shards_give_the_verdict_of_the_whole(shards, tmp_path, monkeypatch):
    """Three files in any order decide what one file with everything decides."""
    monkeypatch.chdir(ROOT)
    whole = tmp_path / "whole.parquet"
    tables = [pq.read_table(path) for path in shards]
    pq.write_table(pa.concat_tables(tables), whole)

    expected = decided([whole])

    assert expected == decided(shards)
    assert expected == decided(shards[::-1])


def test_arrivals_count_from_the_first_of_all_shards(shards, tmp_path):
    """Each machine's clock says the same time; none of them is zero by itself."""
    moved = []
    for path in shards:
        table = pq.read_table(path)
        index = table.column_names.index("arrived_s")
        later = pc.add(table["arrived_s"], 1.7e9)
        moved.append(tmp_path / f"moved-{path.name}")
        pq.write_table(table.set_column(index, "arrived_s", later), moved[-1])

    parts = list(Shards(moved))

    firsts = [pc.min(part["arrived_s"]).as_py() for part in parts]
    assert min(firsts) == 0
    assert max(firsts) > 0


def test_a_run_folder_is_read_in_parts_of_whole_requests():
    """Small segments are put together, and both arms of a request stay together."""
    parts = list(Shards([SAMPLE]))

    assert sum(part.num_rows for part in parts) == read_observations(SAMPLE).num_rows
    seen = set()
    for part in parts:
        ids = set(part["request_id"].to_pylist())
        assert not ids & seen
        seen |= ids


def test_a_missing_shard_is_named(shards):
    """One of several paths that isn't there is one sentence and exit code 2."""
    paths = [*map(str, shards), "nowhere.parquet"]

    result = CliRunner().invoke(app, ["judge", *paths, "--policy", str(POLICY)])

    assert "nowhere.parquet: no such file or folder" in str(result.exception)


def test_a_table_that_is_named_twice_is_refused(shards):
    """Its evidence would count twice, whatever it is called."""
    again = shards[0].parent / ".." / shards[0].parent.name / shards[0].name
    command = ["judge", str(shards[0]), str(again), "--policy", str(POLICY)]

    result = CliRunner().invoke(app, command)

    assert "are the same, which would count twice" in str(result.exception)
