"""Whatever a file holds, reading it ends in rows or in one sentence."""

import contextlib
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from canary.errors import TrafficError
from canary.traffic.detection import line_format
from canary.traffic.formats import FORMATS, read_trace
from canary.traffic.logs import INGRESS_SCHEMA
from canary.traffic.rows import MAX_TOKENS, LeftOutError, RawRow, RowError, RowParser
from canary.traffic.table import RowsBuilder

Write = Callable[..., Path]
BY_LINES = [name for name in FORMATS if name not in ("servegen", "parquet")]
HEADERS = {
    "azure": "TIMESTAMP,ContextTokens,GeneratedTokens",
    "burstgpt": "Timestamp,Session ID,Elapsed time,Model,Request tokens,"
    "Response tokens,Total tokens,Log Type",
    "tracelab": "session_id,arrival_time,round_idx,prefix_len,input_len,output_len,"
    "tool_wait_after_ms",
    "csv": "arrival,prompt_tokens,output_tokens,session_id,turn,think_s,text,messages",
}
ROWS = {
    "azure": ["2023-11-16 18:15:46.6805900", "374", "44"],
    "burstgpt": ["5", "s", "3", "GPT-4", "472", "18", "490", "API log"],
    "tracelab": ["0", "117", "0", "0", "2318", "200", "300"],
    "csv": ["1.5", "10", "3", "s", "0", "2", "words", ""],
}
OBJECTS: dict[str, dict[str, object]] = {
    "mooncake": {
        "timestamp": 5,
        "input_length": 600,
        "output_length": 5,
        "hash_ids": [0, 1],
        "session_id": "s",
        "delay": 7,
        "text_input": None,
        "messages": None,
    },
    "bailian": {
        "chat_id": 2,
        "parent_chat_id": -1,
        "timestamp": 6.5,
        "input_length": 20,
        "output_length": 5,
        "hash_ids": [0, 1],
    },
    "openai": {
        "ts": 1764000000.5,
        "request": {"prompt": "words", "max_tokens": 9},
        "response": {"usage": {"prompt_tokens": 2, "completion_tokens": 3}},
        "session_id": None,
    },
    "openai-batch": {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"messages": [{"role": "user", "content": "words"}]},
    },
    "ingress": {
        "schema": INGRESS_SCHEMA,
        "arrived_unix_s": 1764.123456,
        "session": None,
        "prompt_tokens": 300,
        "prompt_tokens_from": "ids",
        "max_tokens": 128,
        "capture": "full",
        "weight": 1.0,
        "prompt": "words",
        "messages": None,
    },
    "jsonl": {
        "arrival": 3,
        "prompt_tokens": 10,
        "output_tokens": 4,
        "session_id": "s",
        "turn": 1,
        "think_s": 0.5,
        "text": "words",
        "messages": None,
    },
}
HINTS = st.sampled_from(
    ["lengths", "full", "characters", "prompt", "messages", "role", "content", "usage"]
)
WHOLE = st.integers(-3, 3) | st.integers(-(2**70), 2**70)
VALUES = st.recursive(
    st.none() | st.booleans() | WHOLE | st.floats() | st.text(max_size=5) | HINTS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(HINTS | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
CELLS = st.one_of(
    st.sampled_from(["", "0", "1", "7", "2.5", "2026-01-01T00:00:00Z", "a", '"']),
    st.integers(-(2**70), 2**70).map(str),
    st.text(max_size=6),
)


def lines_of(name: str) -> st.SearchStrategy[bytes]:
    """Lines that are rows but for a field or two, and lines that are anything."""
    if name in HEADERS:
        sound = ROWS[name]
        cells = st.fixed_dictionaries(
            {}, optional=dict.fromkeys(range(len(sound) + 1), CELLS)
        )
        likely = cells.map(
            lambda changed: ",".join((dict(enumerate(sound)) | changed).values())
        )
    else:
        sound_row = OBJECTS[name]
        changes = st.fixed_dictionaries({}, optional=dict.fromkeys(sound_row, VALUES))
        likely = changes.map(lambda changed: json.dumps(sound_row | changed))
    lines = likely.map(lambda text: text.encode("utf-8", "surrogatepass"))
    return lines | st.binary(max_size=60)


def row_or_none(parse: RowParser, line: bytes) -> RawRow | None:
    with contextlib.suppress(RowError, LeftOutError):
        return parse(line)
    return None


@pytest.mark.parametrize("name", BY_LINES)
def test_sound_lines_are_rows(name: str) -> None:
    """What the lines below are made from is sound, so that they can be rows."""
    sound = ",".join(ROWS[name]) if name in ROWS else json.dumps(OBJECTS[name])
    head = [HEADERS[name].encode()] if name in HEADERS else [sound.encode()]

    assert line_format(name, {}).start(head)(sound.encode()).prompt_tokens > 0


@pytest.mark.parametrize("name", BY_LINES)
@given(data=st.data())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_every_line_is_a_row_or_has_a_reason(name: str, data: st.DataObject) -> None:
    """A parser gives a row that the table can hold, or says why there is none."""
    lines = data.draw(st.lists(lines_of(name), min_size=1, max_size=5))
    head = [HEADERS[name].encode()] if name in HEADERS else lines
    kind = line_format(name, {})
    building = RowsBuilder()
    try:
        parse = kind.start(head)
    except RowError:
        return
    for index, line in enumerate(lines):
        row = row_or_none(parse, line)
        if row is None:
            continue
        with contextlib.suppress(RowError):  # a turn without the one before it
            building.add(row, index)
        assert 0 < row.prompt_tokens <= MAX_TOKENS
        assert row.output_tokens is None or 0 < row.output_tokens <= MAX_TOKENS
        assert row.think_ns >= 0

    if len(building):
        rows = building.finish()
        assert len(building) == len(list(rows))
        assert 0.0 == rows[0].arrival_s


PACKINGS = st.sampled_from([bytes, gzip.compress, zstandard.compress])
ANY_LINES = st.sampled_from(BY_LINES).flatmap(
    lambda name: st.lists(lines_of(name), max_size=4).map(
        lambda lines: b"\n".join([HEADERS.get(name, "").encode(), *lines])
    )
)
FILES = st.builds(
    lambda content, pack, cut: pack(content)[: -cut or None],
    st.binary(max_size=300) | ANY_LINES,
    PACKINGS,
    st.just(0) | st.integers(0, 40),
)


@given(
    content=FILES,
    chosen=st.sampled_from(["auto", *FORMATS]),
    share=st.sampled_from([0.0, 0.5, 1.0]),
)
@example(content=b"PAR1" * 9, chosen="auto", share=1.0)
@example(content=b"0,1,1,Gamma,1,1", chosen="auto", share=1.0)
@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_every_file_is_a_trace_or_an_error(
    write: Write, content: bytes, chosen: str, share: float
) -> None:
    """Packed or not, whole or cut off, under any name of a format."""
    path = write(content)
    try:
        trace = read_trace(path, format=chosen, max_bad_share=share)
    except TrafficError:
        return

    arrivals = [row.arrival_s for row in trace.rows]
    assert sorted(arrivals) == arrivals
    assert 0.0 == arrivals[0]


@given(
    window=st.binary(max_size=60)
    | st.lists(CELLS, min_size=6, max_size=6).map(
        lambda cells: ",".join(cells).encode("utf-8", "surrogatepass")
    ),
    lengths=st.text(alphabet="{}0123456789:., e-", max_size=40) | st.text(max_size=20),
)
@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_every_client_is_a_trace_or_an_error(
    write: Write, window: bytes, lengths: str
) -> None:
    """Whatever stands in a client's two files."""
    path = write(b"0,0.1,1,Gamma,1,1\n" + window, "client/trace.csv")
    histograms = {"input_tokens": lengths, "output_tokens": "{5: 1.0}"}
    write(json.dumps({"0": histograms}), "client/dataset.json")
    try:
        trace = read_trace(path, format="servegen")
    except TrafficError:
        return

    assert len(trace.rows)
