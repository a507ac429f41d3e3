import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from canary.errors import TrafficError
from canary.traffic.formats import COLUMNS, read_trace

Write = Callable[..., Path]
COLUMNS_GIVEN = {"arrival": "ts", "prompt_tokens": "in", "output_tokens": "out"}


def test_csv_columns_by_their_own_names(write: Write) -> None:
    """A file that uses our names needs no mapping."""
    text = "arrival,prompt_tokens,output_tokens,session_id,think_ms\n1.5,9,3,a,\n"
    trace = read_trace(write(text + "2.000001,9,,a,250\n3,9,4.0,,\n"))

    assert ("csv", [0.0, 0.500001, 1.5]) == (
        trace.format,
        [row.arrival_s for row in trace.rows],
    )
    assert [3, None, 4] == [row.output_tokens for row in trace.rows]
    assert [("a", 0, 0.0), ("a", 1, 0.25), (None, 0, 0.0)] == [
        (row.session_id, row.turn, row.think_s) for row in trace.rows
    ]


def test_csv_columns_by_mapping(write: Write) -> None:
    """A mapping names the columns; what nobody asked for is said."""
    text = 'ts,"in",out,note\n2026-01-01T00:00:00Z,9,3,"a, b"\n'
    trace = read_trace(
        write(text + '2026-01-01T01:00:00.25+01:00,8,2,""\n'), columns=COLUMNS_GIVEN
    )

    assert [(0.0, 9, 3), (0.25, 8, 2)] == [
        (row.arrival_s, row.prompt_tokens, row.output_tokens) for row in trace.rows
    ]
    assert ("fields that are not used: 'note'",) == trace.warnings


@pytest.mark.parametrize(
    ("unit", "ticks"), [("_ms", 1500), ("_us", 1_500_000), ("_ns", 1_500_000_000)]
)
def test_units_of_arrivals(write: Write, unit: str, ticks: int) -> None:
    """The name of the column says its unit."""
    rows = read_trace(write(f"arrival{unit},prompt_tokens\n0,1\n{ticks},1\n")).rows

    assert 1.5 == rows[1].arrival_s


def test_milliseconds_called_seconds_are_noticed(write: Write) -> None:
    """An epoch in milliseconds is refused, relative ones draw a warning."""
    with pytest.raises(TrafficError, match="is it in a finer unit"):
        read_trace(write("arrival,prompt_tokens\n1764000000000,1\n"))

    rows = "".join(f"{tick * 500},1\n" for tick in range(200))
    trace = read_trace(write("arrival,prompt_tokens\n" + rows))
    assert "may be in a finer unit" in trace.warnings[0]


def test_seconds_called_milliseconds_are_noticed(write: Write) -> None:
    """A rate that no service has draws a warning with what to do."""
    rows = "".join(f"{tick // 4},1\n" for tick in range(200))
    trace = read_trace(write("arrival_ms,prompt_tokens\n" + rows))

    assert "may be in a coarser unit" in trace.warnings[0]
    assert "arrival=timestamp" in trace.warnings[0]


def test_jsonl_columns_may_come_and_go(write: Write) -> None:
    """A field that the first object lacks is read where it comes."""
    rows = [
        {"arrival": 0, "text": "four characters!"},
        {"arrival": 1, "prompt_tokens": 7, "output_tokens": 2, "session_id": 5},
        {"arrival": 2, "messages": [{"role": "user", "content": "abcde"}], "turn": 4},
    ]
    trace = read_trace(write("".join(json.dumps(row) + "\n" for row in rows)))

    assert "jsonl" == trace.format
    assert [4, 7, 2] == [row.prompt_tokens for row in trace.rows]
    assert [None, "5", None] == [row.session_id for row in trace.rows]
    assert ["four characters!", None, None] == [row.text for row in trace.rows]
    assert trace.estimated_lengths
    assert () == trace.warnings


def test_turns_of_one_instant_go_by_their_number(write: Write) -> None:
    """Turns that were numbered are put in that order; by arrival wins, and is said."""
    text = "arrival,prompt_tokens,session_id,turn\n0,1,a,2\n0,2,a,1\n0,3,b,2\n5,4,b,1\n"
    trace = read_trace(write(text))

    assert [(2, 0), (1, 1), (3, 0), (4, 1)] == [
        (row.prompt_tokens, row.turn) for row in trace.rows
    ]
    assert "1 turns arrive before one with a smaller number" in trace.warnings[0]


def test_parquet_keeps_types(tmp_path: Path) -> None:
    """Stamps keep their nanoseconds, nulls are unknown, messages may be lists."""
    second = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * 10**9
    table = pa.table(
        {
            "ts": pa.array([second, second + 1_000_000_001], pa.timestamp("ns", "UTC")),
            "in": pa.array([9, None], pa.int32()),
            "out": pa.array([3.0, None]),
            "messages": [None, [{"role": "user", "content": "12345678"}]],
            "model": ["a", "b"],
        }
    )
    path = tmp_path / "trace"
    pq.write_table(table, path)
    trace = read_trace(path, columns=COLUMNS_GIVEN)

    assert "parquet" == trace.format
    assert [0.0, 1.000000001] == [row.arrival_s for row in trace.rows]
    assert [(9, 3), (2, None)] == [
        (row.prompt_tokens, row.output_tokens) for row in trace.rows
    ]
    assert ("fields that are not used: 'model'",) == trace.warnings
    assert [{"role": "user", "content": "12345678"}] == json.loads(
        trace.rows[1].messages or ""
    )


def test_broken_parquet_rows_and_files(tmp_path: Path) -> None:
    """Rows are named by number; a file that is cut off, or lacks a column, is said."""
    path = tmp_path / "trace"
    table = pa.table({"arrival": [1.0, -2.0, 3.0], "prompt_tokens": [1, 2, 3]})
    pq.write_table(table, path)
    trace = read_trace(path, max_bad_share=0.5)

    assert [(2, "arrival is negative")] == [
        (bad.line, bad.reason.partition(" in ")[0]) for bad in trace.bad_rows
    ]
    with pytest.raises(TrafficError, match="there is no column 'ts'"):
        read_trace(path, columns={"arrival": "ts"})
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(TrafficError, match="can't be read as Parquet"):
        read_trace(path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"arival": "ts"}, "there is no 'arival'; name some of arrival"),
        ({"arrival": "ts", "arrival_ms": "in"}, "arrival and arrival_ms both name"),
        ({"arrival": "time"}, "there is no column 'time', got 'ts,in'"),
        ({"arrival": "ts"}, "no column for the prompt; say which is prompt_tokens"),
        ({"prompt_tokens": "in"}, "no column for the arrival; say which is arrival,"),
    ],
)
def test_mappings_that_do_not_fit(write: Write, columns: dict, message: str) -> None:
    """What is wrong with a mapping is one sentence."""
    with pytest.raises(TrafficError, match=message):
        read_trace(write("ts,in\n1,2\n"), columns=columns)


def test_formats_of_their_own_take_no_columns(write: Write) -> None:
    """A published format has its columns; a mapping beside it is a mistake."""
    with pytest.raises(TrafficError, match="azure has its own"):
        read_trace(write("x"), format="azure", columns={"arrival": "ts"})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("x,1", "arrival is not a time"),
        (",1", "arrival is missing"),
        ("-1,1", "arrival is negative"),
        ("1,", "prompt_tokens is missing"),
        ("1,0", "prompt_tokens is zero"),
        ("1,1.5", "prompt_tokens is not a whole number"),
        ("1,2,3", "expected 2 fields, got 3"),
        ('1,"2', "not a line of CSV"),
    ],
)
def test_broken_csv_rows(write: Write, row: str, reason: str) -> None:
    """Each broken row is told with its line and reason."""
    trace = read_trace(write(f"arrival,prompt_tokens\n1,1\n{row}\n"), max_bad_share=0.5)

    (bad,) = trace.bad_rows
    assert 3 == bad.line
    assert bad.reason.startswith(reason)


def test_columns_have_names_of_row_fields() -> None:
    """The public names are those that the policy's schema and the README list."""
    expected = "arrival arrival_ms arrival_us arrival_ns prompt_tokens output_tokens"
    expected += " session_id turn think_s think_ms text messages"

    assert tuple(expected.split()) == COLUMNS
