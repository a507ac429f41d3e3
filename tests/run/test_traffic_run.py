"""Traffic of a user's own, end to end: named columns, patterns, unreadable text."""

import gzip
import json
from itertools import pairwise

import pyarrow.compute as pc
import pytest

from canary.evidence.journal import RunFolder, read_segments

POLICY = """\
version: 1
name: own
baseline: {{model: reference}}
candidate: {{model: reference, attention: {{pattern: sliding_window, window: 64}}}}
traffic: {{source: {source}, speed: 50x, max_output_tokens: 2{traffic}}}
gates: [{{metric: errors, margin: 10%}}]
decision:
  {{min_duration: 0s, max_duration: 2m, min_pairs: 5, block: request, look_every: 1s}}
"""


@pytest.fixture
def folder(tmp_path):
    """Logs of two days, gzipped, with a user's column names."""
    (tmp_path / "logs").mkdir()
    for day in range(2):
        rows = [
            {"ts": (day * 60 + n) * 1000, "in": 20 + n, "out": 3, "user": f"u{n // 3}"}
            for n in range(30)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        packed = gzip.compress(text.encode())
        (tmp_path / "logs" / f"day{day}.jsonl.gz").write_bytes(packed)
    return tmp_path


def write(folder, **parts):
    parts = {"source": '"logs/day*.jsonl.gz"', "traffic": "", **parts}
    (folder / "p.yaml").write_text(POLICY.format(**parts))


def test_a_log_with_its_own_columns_is_replayed(folder, canary):
    """Two files are one trace; sessions, lengths and order are those of the log."""
    names = "{arrival_ms: ts, prompt_tokens: in, output_tokens: out, session_id: user}"
    write(folder, traffic=f", format: jsonl, columns: {names}")

    done = canary("run", "p.yaml", "--local", "--out", "run", cwd=folder)

    table = read_segments(RunFolder(folder / "run"))
    rows = table.filter(pc.invert(table["warm"])).to_pylist()
    dense = [row for row in rows if row["arm"] == "reference/dense"]
    assert done.returncode in {0, 4}, done.stderr
    assert 60 == json.loads((folder / "run" / "run.json").read_text())["source"]["rows"]
    assert {1.0 / 50} == {
        round(b["arrived_s"] - a["arrived_s"], 9) for a, b in pairwise(dense[:30])
    }
    assert [20 + n for n in range(30)] == [row["prompt_tokens"] for row in dense[:30]]
    assert "u0" == dense[2]["session_id"]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({}, "columns"),
        ({"source": '"logs/day9*.jsonl"'}, "there is no file logs/day9"),
        ({"traffic": ", format: jsonl, columns: {arrival_ms: when}"}, "when"),
        (
            {
                "traffic": ", format: jsonl, columns: "
                "{arrival_ms: ts, prompt_tokens: in}, rate: 900/s"
            },
            "traffic.rate",
        ),
        (
            {
                "traffic": ", format: jsonl, columns: "
                "{arrival_ms: ts, prompt_tokens: in}, crop: {from: 1d}"
            },
            "outside of",
        ),
    ],
    ids=["unknown format", "no file", "no column", "too fast", "cropped away"],
)
def test_what_is_wrong_with_traffic_is_one_sentence(folder, canary, parts, said):
    """Nothing is started, and nothing is left behind."""
    write(folder, **parts)

    done = canary("run", "p.yaml", "--local", "--out", "run", cwd=folder)

    assert 2 == done.returncode
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "run").exists()


def test_text_that_the_model_can_not_read_is_refused(folder, canary):
    """Recorded chats need a server; the model that ships knows its own words only."""
    chat = [{"role": "user", "content": "hello"}]
    row = {"ts": 1.0, "request": {"model": "m", "messages": chat, "max_tokens": 4}}
    (folder / "log.jsonl").write_text(json.dumps(row | {"response": {}}) + "\n")
    write(folder, source="log.jsonl")

    done = canary("run", "p.yaml", "--local", "--out", "run", cwd=folder)

    assert 2 == done.returncode
    assert "carries a prompt's text" in done.stderr
