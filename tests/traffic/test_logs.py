import json
from collections.abc import Callable
from pathlib import Path

import pytest

from canary.errors import TrafficError
from canary.traffic.formats import read_trace
from canary.traffic.logs import ingress_row
from canary.traffic.rows import RowError

Write = Callable[..., Path]
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Why is the sky blue?"}]},
]


def jsonl(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def logged(ts: object = 1764000000.5, **changes: object) -> dict:
    row = {
        "ts": ts,
        "request": {"model": "m", "messages": MESSAGES, "max_tokens": 64},
        "response": {"usage": {"prompt_tokens": 21, "completion_tokens": 7}},
    }
    return row | changes


def ingress(**changes: object) -> dict:
    row = {
        "schema": "canary.ingress/1",
        "id": "r1",
        "arrived_unix_s": 1764.123456,
        "kind": "chat",
        "session": None,
        "prompt_tokens": 300,
        "prompt_tokens_from": "characters",
        "body_bytes": 1234,
        "max_tokens": 128,
        "capture": "lengths",
        "weight": 1.0,
    }
    return row | changes


def test_logged_requests_keep_text_times_and_lengths(write: Write) -> None:
    """Usage tells the lengths, the messages come back as JSON text."""
    trace = read_trace(write(jsonl(logged(), logged("2025-11-24T16:00:01.75Z"))))

    assert ("openai", False) == (trace.format, trace.estimated_lengths)
    assert [0.0, 1.25] == [row.arrival_s for row in trace.rows]
    row = trace.rows[1]
    assert (21, 7, 64) == (row.prompt_tokens, row.output_tokens, row.max_tokens)
    assert MESSAGES == json.loads(row.messages or "")


def test_epoch_seconds_are_exact_to_the_microsecond(write: Write) -> None:
    """A float of 16 digits loses nothing: offsets are those that were written."""
    stamps = (1764000000.000001, 1764000000.123456, 1764000003.999999)
    rows = read_trace(write(jsonl(*map(logged, stamps)))).rows

    assert [0.0, 0.123455, 3.999998] == [row.arrival_s for row in rows]


def test_lengths_are_estimated_where_no_usage_was_logged(write: Write) -> None:
    """A fourth of the characters, rounded up; the answer's length stays unknown."""
    row = logged(request={"prompt": "x" * 9, "max_completion_tokens": 5}, response=None)
    trace = read_trace(write(jsonl(row)))

    (found,) = trace.rows
    assert (3, None, 5) == (
        found.prompt_tokens,
        found.output_tokens,
        found.max_tokens,
    )
    assert trace.estimated_lengths


def test_token_ids_tell_a_length_without_text(write: Write) -> None:
    """A prompt of ids is as long as there are ids, which is no estimate."""
    trace = read_trace(write(jsonl(logged(request={"prompt": [5, 6, 7]}, response={}))))

    assert (3, None) == (trace.rows[0].prompt_tokens, trace.rows[0].text)
    assert not trace.estimated_lengths


def test_failed_requests_of_a_log_are_left_out(write: Write) -> None:
    """A response that is an error, or empty, is no load that was served."""
    failed = logged(response={"error": {"message": "overloaded"}})
    empty = logged(response={"usage": {"prompt_tokens": 3, "completion_tokens": 0}})
    trace = read_trace(write(jsonl(logged(), failed, empty)), max_bad_share=0)

    assert (1, 2) == (len(trace.rows), trace.left_out_count)


def test_batch_files_have_no_arrivals(write: Write) -> None:
    """All rows arrive at 0, and a warning says so."""
    body = {"messages": MESSAGES, "max_tokens": 9}
    url = "/v1/chat/completions"
    row = {"custom_id": "a", "method": "POST", "url": url, "body": body}
    trace = read_trace(write(jsonl(row, {**row, "custom_id": "b"})))

    assert ("openai-batch", [0.0, 0.0]) == (
        trace.format,
        [row.arrival_s for row in trace.rows],
    )
    assert "no arrival times" in trace.warnings[0]


def test_ingress_rows_of_all_captures(write: Write) -> None:
    """Lengths, text and messages are read; sessions, limits and weights are kept."""
    text = jsonl(
        ingress(),
        ingress(capture="full", prompt="hé", kind="completion", session="s"),
        ingress(capture="redacted", messages=MESSAGES, weight=20, max_tokens=None),
    )
    trace = read_trace(write(text, "spool/requests-000001.jsonl").parent)

    assert ("ingress", True) == (trace.format, trace.estimated_lengths)
    lengths, full, redacted = trace.rows
    assert (None, None, 128) == (lengths.text, lengths.messages, lengths.max_tokens)
    assert ("hé", "s") == (full.text, full.session_id)
    assert (MESSAGES, 20.0, None) == (
        json.loads(redacted.messages or ""),
        redacted.weight,
        redacted.max_tokens,
    )


def test_a_spool_may_still_grow(write: Write) -> None:
    """An unfinished last line waits for its end; files begun but empty are none."""
    path = write(jsonl(ingress()), "spool/requests-000001.jsonl")
    write(jsonl(ingress()) + jsonl(ingress())[:40], "spool/requests-000002.jsonl")
    write(jsonl(ingress())[:20], "spool/requests-000003.jsonl")
    write("", "spool/requests-000004.jsonl")
    write("{}", "spool/counters.json")
    trace = read_trace(path.parent, max_bad_share=0)

    assert (2, 0) == (len(trace.rows), trace.bad_row_count)
    assert "ends within line 2: left out" in trace.warnings[0]


def test_a_spool_without_a_whole_line_is_said(write: Write) -> None:
    """Before the first line is whole there is nothing to replay."""
    path = write(jsonl(ingress())[:20], "spool/requests-000001.jsonl")

    with pytest.raises(TrafficError, match="spool is empty"):
        read_trace(path.parent)
    with pytest.raises(TrafficError, match="no line that is finished"):
        read_trace(path, format="ingress")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema": "canary.ingress/9"}, "schema is not canary.ingress/1"),
        ({"arrived_unix_s": "1764"}, "arrived_unix_s is not a number"),
        ({"arrived_unix_s": 1764123456789}, "is it in a finer unit"),
        ({"prompt_tokens": 0}, "prompt_tokens is zero"),
        ({"prompt_tokens": None}, "prompt_tokens is missing"),
        ({"prompt_tokens_from": "guess"}, "is none of characters, ids, declared"),
        ({"capture": "all"}, "is none of lengths, redacted, full"),
        ({"capture": "full"}, "messages and prompt are missing"),
        ({"weight": 0}, "weight is not a number above 0"),
        ({"weight": float("inf")}, "weight is not a number above 0"),
        ({"session": ["a"]}, "session is not text"),
        ({"max_tokens": 1.5}, "max_tokens is not a whole number"),
        ({"capture": "full", "messages": []}, "is not a list of messages"),
        ({"capture": "full", "messages": [{}]}, "a message without a role"),
        (
            {"capture": "full", "messages": [{"role": "user", "content": [{}]}]},
            "holds more than text",
        ),
        ({"capture": "full", "prompt": "\ud800"}, "half a character"),
    ],
)
def test_broken_ingress_lines(changes: dict, reason: str) -> None:
    """The reader of one line says why it is no row, for whoever tails the file."""
    with pytest.raises(RowError, match=reason):
        ingress_row(json.dumps(ingress(**changes)).encode())


def test_a_limit_beyond_any_model_is_none(write: Write) -> None:
    """A client that allows a billion tokens sets no limit; its row is sound."""
    path = write(jsonl(ingress(max_tokens=10**9)), "requests-1.jsonl")

    assert read_trace(path).rows[0].max_tokens is None


def test_a_broken_row_that_may_hold_text_is_not_quoted(tmp_path: Path) -> None:
    """The line and the reason are told, nobody's words."""
    rows = [{"ts": n, "request": {"prompt": "hi"}, "response": {}} for n in range(200)]
    rows[3]["request"] = {"messages": "my secret"}
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    trace = read_trace(path, format="openai")

    assert 1 == trace.bad_row_count
    assert "messages is not a list" in trace.bad_rows[0].reason
    assert "secret" not in repr((trace.bad_rows, trace.warnings))
