import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from canary.errors import TrafficError
from canary.traffic.formats import read_trace

Write = Callable[..., Path]
REPLAY = Path(__file__).parents[2] / "replay"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
BURST_SESSIONS = (
    "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,"
    "Total tokens,Log Type\n"
)
TRACELAB = (
    "session_id,arrival_time,round_idx,prefix_len,input_len,output_len,"
    "tool_wait_after_ms\n"
)


def jsonl(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def bailian(chat: int, parent: int = -1, **changes: object) -> dict:
    row = {"chat_id": chat, "parent_chat_id": parent, "timestamp": 61.114}
    row |= {"input_length": 20, "output_length": 5, "type": "text", "turn": 1}
    return row | {"hash_ids": [1, 2]} | changes


def test_bailian_counts_seconds_and_blocks_of_16(write: Write) -> None:
    """The same field names as Mooncake's, in another unit and block size."""
    trace = read_trace(write(jsonl(bailian(1), bailian(2, timestamp=62.5))))

    assert ("bailian", 16) == (trace.format, trace.block_tokens)
    assert [0.0, 1.386] == [row.arrival_s for row in trace.rows]
    assert ("1", "2") == trace.rows[0].block_ids


def test_bailian_chats_of_one_parent_are_a_session(write: Write) -> None:
    """A session goes by its first chat, turns are counted as they come."""
    chats = [bailian(7), bailian(9, 7), bailian(8), bailian(11, 9), bailian(5, 3)]
    rows = read_trace(write(jsonl(*chats))).rows

    expected = [("7", 0), ("7", 1), ("8", 0), ("7", 2), ("3", 0)]
    assert expected == [(row.session_id, row.turn) for row in rows]


def test_bailian_rows_by_the_name_mooncake_are_no_rows_in_milliseconds(
    write: Write,
) -> None:
    """Read as Mooncake, stamps in seconds are refused: they are not whole."""
    with pytest.raises(TrafficError, match="timestamp is not a whole number"):
        read_trace(write(jsonl(bailian(1))), format="mooncake")


def test_mooncake_sessions_with_delays(write: Write) -> None:
    """A later turn without a stamp has the arrival of the turn before, and thinks."""
    row = {"input_length": 9, "output_length": 5, "hash_ids": [1], "session_id": "a"}
    text = jsonl({**row, "timestamp": 500}, {**row, "delay": 1500})
    first, second = read_trace(write(text), format="mooncake").rows

    assert ("a", 0, 0.0) == (first.session_id, first.turn, first.think_s)
    assert ("a", 1, 1.5, 0.0) == (
        second.session_id,
        second.turn,
        second.think_s,
        second.arrival_s,
    )


def test_mooncake_text_stands_for_lengths(write: Write) -> None:
    """Where only text is given, its length is estimated and the trace says so."""
    said = [{"role": "user", "content": "x" * 41}]
    text = jsonl(
        {"timestamp": 0, "text_input": "abcd" * 10, "output_length": 5},
        {"timestamp": 1, "messages": said},
    )
    trace = read_trace(write(text))

    assert ("mooncake", None, True) == (
        trace.format,
        trace.block_tokens,
        trace.estimated_lengths,
    )
    first, second = trace.rows
    assert ("abcd" * 10, 10, 5) == (
        first.text,
        first.prompt_tokens,
        first.output_tokens,
    )
    assert (said, 11, None) == (
        json.loads(second.messages or ""),
        second.prompt_tokens,
        second.output_tokens,
    )


def test_burstgpt_with_six_columns(write: Write) -> None:
    """Seconds, no sessions."""
    trace = read_trace(
        write(BURST + "5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,1087,230,1317,x")
    )

    assert ("burstgpt", [0.0, 40.0]) == (
        trace.format,
        [row.arrival_s for row in trace.rows],
    )
    assert (1087, 230, None) == (
        trace.rows[1].prompt_tokens,
        trace.rows[1].output_tokens,
        trace.rows[1].session_id,
    )


def test_burstgpt_failed_requests_are_counted_apart(write: Write) -> None:
    """No response is a failed request: left out with a warning, and not broken."""
    rows = "1,ChatGPT,472,0,472,API log\n" * 3 + "2,ChatGPT,472,18,490,API log\n"
    trace = read_trace(write(BURST + rows), max_bad_share=0.0)

    assert (1, 0, 3) == (len(trace.rows), trace.bad_row_count, trace.left_out_count)
    assert ("3 requests failed (Response tokens 0): left out",) == trace.warnings
    assert 3 == trace.rows[0].index


def test_burstgpt_of_failures_alone_is_refused(write: Write) -> None:
    """With nothing left to replay the reason is said."""
    with pytest.raises(TrafficError, match="nothing to replay: 1 requests failed"):
        read_trace(write(BURST + "1,ChatGPT,472,0,472,API log\n"))


def test_burstgpt_with_sessions(write: Write) -> None:
    """With eight columns the pause runs from the answer before to the request."""
    rows = "10,s,4,GPT-4,9,9,18,x\n20,s,30,GPT-4,9,9,18,x\n25,s,1,GPT-4,9,9,18,x\n"
    trace = read_trace(write(BURST_SESSIONS + rows + "26,,1,GPT-4,9,9,18,x\n"))

    expected = [("s", 0, 0.0), ("s", 1, 6.0), ("s", 2, 0.0), (None, 0, 0.0)]
    assert expected == [(row.session_id, row.turn, row.think_s) for row in trace.rows]


def test_shipped_tracelab_file() -> None:
    """48 sessions of 303 rounds; a round is due by the wait after the one before."""
    trace = read_trace(REPLAY / "tracelab-multi-session.csv")

    assert ("tracelab", 303, ()) == (trace.format, len(trace.rows), trace.warnings)
    assert 48 == len({row.session_id for row in trace.rows})
    first = [row for row in trace.rows if row.session_id == "0"]
    assert [(0, 2318, 0.0), (1, 2866, 0.3), (2, 3809, 0.154)] == [
        (row.turn, row.prompt_tokens, row.think_s) for row in first
    ]
    assert {0.0} == {row.arrival_s for row in first}


def test_tracelab_rounds_share_their_prefix() -> None:
    """Every prompt of a session begins with all blocks of the prompt before it."""
    trace = read_trace(REPLAY / "tracelab-multi-session.csv")
    sessions: dict[str, list[tuple[str, ...]]] = {}
    for row in trace.rows:
        sessions.setdefault(row.session_id or "", []).append(row.block_ids)

    for rounds in sessions.values():
        for before, after in pairwise(rounds):
            assert before == after[: len(before)]
    firsts = [set(rounds[-1]) for rounds in sessions.values()]
    assert sum(map(len, firsts)) == len(set().union(*firsts))
    assert 256 == trace.block_tokens
    assert all(-(-row.prompt_tokens // 256) == len(row.block_ids) for row in trace.rows)


def test_tracelab_context_that_was_cut(write: Write) -> None:
    """What is kept of a context is shared in whole blocks, and the trace says so."""
    rows = "a,0,0,0,1000,9,0\na,0,1,600,500,9,0\n"
    trace = read_trace(write(TRACELAB + rows))

    before, after = (row.block_ids for row in trace.rows)
    assert before[:2] == after[:2]
    assert not {*before[2:]} & {*after[2:]}
    assert "1 rounds keep a part of the prompt" in trace.warnings[0]


def test_tracelab_canonical_form(write: Write) -> None:
    """The simulator's form calls the session `id` and orders columns differently."""
    text = (
        "id,input_len,output_len,arrival_time,round_idx,tool_wait_after_ms,prefix_len\n"
        "7,100,5,2000,0,250,0\n7,10,5,2000,1,,105\n"
    )
    rows = read_trace(write(text)).rows

    assert [("7", 100, 0.0), ("7", 115, 0.25)] == [
        (row.session_id, row.prompt_tokens, row.think_s) for row in rows
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a,0,0,0,10,9,0", "round_idx 0 comes after 0"),
        ("a,0,1,-1,10,9,0", "prefix_len is negative"),
        ("a,0,1,0,0,9,0", r"prefix_len \+ input_len is zero"),
        ("a,0,1,0,10,0,0", "output_len is zero"),
        (",0,1,0,10,9,0", "session_id is missing"),
        ("a,x,1,0,10,9,0", "arrival_time is not a number"),
        ("a,0,99999999999,0,10,9,0", "round_idx is too large"),
        ("a,0,1,0,10,9", "expected 7 fields, got 6"),
        ('a,"0,1,0,10,9,0', "not a line of CSV"),
    ],
)
def test_broken_tracelab_rows(write: Write, row: str, reason: str) -> None:
    """Each is told with its place and its reason."""
    path = write(TRACELAB + "a,0,0,0,10,9,0\n" + row)

    with pytest.raises(TrafficError, match=f"trace:3: {reason}"):
        read_trace(path)
