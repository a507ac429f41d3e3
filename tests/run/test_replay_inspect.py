"""`canary replay inspect` as a user calls it."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def logged(tmp_path):
    """A CSV whose columns have names of their own."""
    rows = "".join(f"{n},{100 + n},{n + 1}\n" for n in range(50))
    (tmp_path / "log.csv").write_text("when,tokens_in,tokens_out\n" + rows)
    return tmp_path


def test_columns_and_picture(canary, logged):
    """Columns are named on the command line; the picture is drawn beside the words."""
    columns = "arrival_ms=when, prompt_tokens=tokens_in,output_tokens=tokens_out"
    arguments = ("--columns", columns, "--format", "csv", "--picture", "log.png")
    result = canary("replay", "inspect", "log.csv", "--json", *arguments, cwd=logged)
    found = json.loads(result.stdout)

    assert 0 == result.returncode
    assert ("csv", 50, 0.049) == (found["format"], found["rows"], found["duration_s"])
    assert {"p50": 124, "p90": 144, "p99": 149, "max": 149} == found["prompt_tokens"]
    assert (logged / "log.png").read_bytes().startswith(b"\x89PNG")


def test_seed_of_what_is_drawn(canary):
    """A rate process is drawn by the seed; the hash of its files stays."""
    folder = "replay/servegen-m-mid-client64"
    one, two = (
        json.loads(
            canary(
                "replay", "inspect", folder, "--json", "--seed", seed, cwd=ROOT
            ).stdout
        )
        for seed in (1, 2)
    )

    assert one["sha256"] == two["sha256"]
    assert one["rows"] != two["rows"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--columns", "arrival"], "'arrival' is not NAME=COLUMN"),
        (["--columns", "arrival=a,arrival=b"], "or NAME stands twice"),
        (["--columns", "time=when"], "columns: there is no 'time'"),
        (["--columns", "arrival=when"], "log.csv:1: no column for the prompt"),
        (["--format", "parquet"], "log.csv: can't be read as Parquet"),
        (["--format", "xml"], "there is no trace format 'xml'"),
        (["--picture", "log.pdf"], "log.pdf: charts are SVG or PNG"),
        ([], "log.csv is in no known trace format"),
    ],
)
def test_what_a_user_gets_wrong_is_one_sentence(canary, logged, arguments, said):
    """Exit code 2, one line that says what to do, and no picture."""
    result = canary("replay", "inspect", "log.csv", *arguments, cwd=logged)

    assert result.returncode == 2, result.stderr
    assert said in result.stderr
    assert 1 == len(result.stderr.strip().splitlines())
    assert not (logged / "log.pdf").exists()
