import gc
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from canary.traffic.formats import read_trace
from canary.traffic.rows import RawRow
from canary.traffic.table import RowsBuilder

Write = Callable[..., Path]


def test_rows_are_a_sequence() -> None:
    """Index from both ends, slices, iteration and equality as of a tuple."""
    building = RowsBuilder()
    for second in range(3):
        building.add(RawRow(second * 10**9, second + 1), second)
    rows = building.finish()

    assert (3, 1, 3) == (len(rows), rows[0].prompt_tokens, rows[-1].prompt_tokens)
    assert tuple(rows) == rows[:] == tuple(rows[i] for i in range(3))
    assert rows == tuple(rows)
    assert rows != tuple(rows)[:2]
    with pytest.raises(IndexError):
        rows[3]


def test_a_million_numbers_cost_what_numpy_takes(write: Write) -> None:
    """Rows of lengths and times take some 32 bytes each, not an object each."""
    lines = (f"{n},{n % 99 + 1},5\n" for n in range(20_000))
    path = write("arrival,prompt_tokens,output_tokens\n" + "".join(lines))
    read_trace(path)  # what is imported and cached by the first is not the rows'
    gc.collect()
    tracemalloc.start()
    trace = read_trace(path)
    held_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert 20_000 == len(trace.rows)
    assert held_bytes < 20_000 * 80


def test_text_stays_on_disk(write: Write) -> None:
    """Recorded text is read back when it is asked for, not kept in memory."""
    texts = [f"{n} " * 50_000 for n in range(40)]
    lines = [json.dumps({"arrival": n, "text": t}) for n, t in enumerate(texts)]
    path = write("\n".join(lines))
    del lines
    gc.collect()
    tracemalloc.start()
    trace = read_trace(path)
    held_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert held_bytes < sum(map(len, texts)) / 4
    assert texts == [row.text for row in trace.rows]


def test_a_closed_loop_needs_its_first_turn(write: Write) -> None:
    """A turn that is due by a session whose first turn is broken can't be placed."""
    row = {"input_length": 9, "output_length": 5, "hash_ids": [1], "session_id": "a"}
    lines = [{**row, "timestamp": 0, "output_length": 0}, {**row, "delay": 5}]
    lines += [{**row, "timestamp": 5, "session_id": "b"}]
    path = write("\n".join(map(json.dumps, lines)))
    trace = read_trace(path, max_bad_share=0.9)

    assert ["b"] == [row.session_id for row in trace.rows]
    assert trace.bad_rows[1].reason.startswith("the first turn of its session")
