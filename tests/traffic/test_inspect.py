import json
from pathlib import Path

import pytest

from canary.traffic.formats import Trace, TraceRow, read_trace
from canary.traffic.inspect import inspect_trace, render_inspection

REPLAY = Path(__file__).parents[2] / "replay"
REGIMES = (8 * 1024, 32 * 1024, 128 * 1024)


def trace_of(
    *arrivals_s: float, prompts: tuple[int, ...] = (), warnings: tuple[str, ...] = ()
) -> Trace:
    prompts = prompts or (100,) * len(arrivals_s)
    rows = tuple(
        TraceRow(index=index, arrival_s=arrival, prompt_tokens=prompt, output_tokens=9)
        for index, (arrival, prompt) in enumerate(zip(arrivals_s, prompts, strict=True))
    )
    return Trace(path="t", sha256="", format="azure", rows=rows, warnings=warnings)


def test_azure_facts() -> None:
    """The code trace's published facts come out."""
    found = inspect_trace(read_trace(REPLAY / "azure-code-2023.csv"), REGIMES)

    assert (8819, 0) == (found["rows"], found["bad_rows"])
    assert {"p50": 1469, "p90": 5188, "p99": 7436, "max": 7437} == found[
        "prompt_tokens"
    ]
    assert (13, 55, 251) == tuple(
        found["output_tokens"][p] for p in ("p50", "p90", "p99")
    )
    assert {"<8k": 8819, "8k-32k": 0, "32k-128k": 0, ">=128k": 0} == found["regimes"]
    assert (2.57, 13.2) == (round(found["rate_rps"], 2), round(found["gap_cv"], 1))
    assert found["prefix_reuse"] is None
    assert any("217.2 s" in warning for warning in found["warnings"])


def test_mooncake_facts() -> None:
    """The conversation trace's published facts come out, with its traps as warnings."""
    found = inspect_trace(
        read_trace(REPLAY / "mooncake-conversation.jsonl.gz"), REGIMES
    )

    assert {"p50": 7284, "p90": 27991, "p99": 89868, "max": 124847} == found[
        "prompt_tokens"
    ]
    assert (356, 606, 1168) == tuple(
        found["output_tokens"][p] for p in ("p50", "p90", "p99")
    )
    assert ["<8k", "8k-32k", "32k-128k", ">=128k"] == list(found["regimes"])
    assert [53.4, 39.5, 7.2, 0] == [
        round(100 * rows / 7851, 1) for rows in found["regimes"].values()
    ]
    assert (3.28, 3.0) == (round(found["rate_rps"], 2), round(found["gap_cv"], 1))
    assert 0.351 == round(found["prefix_reuse"], 3)
    coarse, reuse = found["warnings"]
    assert "90% of rows" in coarse
    assert "about 3 s, up to 23 at once" in coarse
    assert "35.1% of prompt blocks" in reuse


def test_regime_boundaries_belong_to_the_upper_regime() -> None:
    """A prompt of exactly 8k tokens is in 8k-32k, as `<8k` says."""
    found = inspect_trace(
        trace_of(0, 1, 2, 3, prompts=(8191, 8192, 32768, 131072)), REGIMES
    )

    assert {"<8k": 1, "8k-32k": 1, "32k-128k": 1, ">=128k": 1} == found["regimes"]


def test_no_boundaries_make_one_regime() -> None:
    """Without boundaries everything is in one regime."""
    assert {"all": 2} == inspect_trace(trace_of(0, 1), ())["regimes"]


@pytest.mark.parametrize("arrivals_s", [(0.0,), (0.0, 0.0, 0.0)])
def test_no_duration_means_no_rate(arrivals_s: tuple[float, ...]) -> None:
    """A rate over no time is unknown, not zero or infinite, and that is said."""
    found = inspect_trace(trace_of(*arrivals_s), REGIMES)

    assert (None, None) == (found["rate_rps"], found["gap_cv"])
    assert "no timing to replay" in found["warnings"][0]
    assert "not known" in render_inspection(found)


def test_even_traffic_warns_of_nothing() -> None:
    """Evenly spaced requests have no coarse stamps, idle gaps or ramp-up."""
    assert [] == inspect_trace(trace_of(*range(100)), REGIMES)["warnings"]


def test_idle_gap_is_located() -> None:
    """A gap far beyond the usual is named with its length and its place."""
    arrivals = [0.1 * n for n in range(200)] + [119.9 + 0.1 * n for n in range(200)]
    (warning,) = inspect_trace(trace_of(*arrivals), REGIMES)["warnings"]

    assert "1 idle gap makes up 72% of the duration" in warning
    assert "100.0 s after 19.9 s" in warning


def test_slow_regular_traffic_is_not_idle() -> None:
    """A gap counts as idle against the trace's own rate, not by seconds alone."""
    assert [] == inspect_trace(trace_of(0, 60, 120, 300, 330), REGIMES)["warnings"]


def test_empty_head_is_said() -> None:
    """A head with a tiny share of the later rate is reported as a ramp-up."""
    arrivals = [0.0, 5.0, *(10 + 0.1 * n for n in range(901))]
    (warning,) = inspect_trace(trace_of(*arrivals), REGIMES)["warnings"]

    assert warning.startswith("the first 10.0 s")


def test_reading_warnings_come_first() -> None:
    """What the reader found is passed on."""
    found = inspect_trace(trace_of(*range(9), warnings=("odd",)), REGIMES)

    assert ["odd"] == found["warnings"]


def test_result_is_json_and_text() -> None:
    """The result is strict JSON, and the text shows the same numbers."""
    found = inspect_trace(read_trace(REPLAY / "azure-code-2023-busy.csv"), REGIMES)
    text = render_inspection(found)

    assert found == json.loads(json.dumps(found, allow_nan=False))
    for part in ("531", "52.9 s", "1,364", "100.0%", "(one per request)"):
        assert part in text


def test_sessions_and_turns() -> None:
    """Later turns without a time of their own are counted, but have no gaps."""
    found = inspect_trace(read_trace(REPLAY / "tracelab-multi-session.csv"), REGIMES)

    assert (303, 48, 6.3) == (
        found["rows"],
        found["sessions"],
        round(found["turns_per_session"], 1),
    )
    assert (9.877, 4.9) == (found["duration_s"], round(found["rate_rps"], 1))
    assert 0.776 == round(found["prefix_reuse"], 3)
    assert found["warnings"][0].startswith("255 rows are later turns")
    assert "48 (6.3 turns on average)" in render_inspection(found)


def test_conversation_facts() -> None:
    """The conversation trace's published facts come out."""
    path = REPLAY / "azure-conversation-2023.csv.gz"
    found = inspect_trace(read_trace(path), REGIMES)

    assert {"p50": 1015, "p90": 4074, "p99": 4121, "max": 14050} == found[
        "prompt_tokens"
    ]
    assert (115, 421, 598) == tuple(
        found["output_tokens"][p] for p in ("p50", "p90", "p99")
    )
    assert [14177, 1, 0, 0] == list(found["regimes"].values())
    assert (5.91, 1.1) == (round(found["rate_rps"], 2), round(found["gap_cv"], 1))


def test_what_a_trace_does_not_tell_is_said(tmp_path: Path) -> None:
    """Unknown outputs are null, not zero, and estimated lengths are called so."""
    path = tmp_path / "log.jsonl"
    path.write_text('{"arrival": 0, "text": "abcdefgh"}\n{"arrival": 1, "text": "x"}\n')
    found = inspect_trace(read_trace(path), REGIMES)
    text = render_inspection(found)

    assert (None, True) == (found["output_tokens"], found["estimated_lengths"])
    assert "doesn't tell how long the answers were" in found["warnings"][0]
    assert "estimated from characters" in found["warnings"][1]
    assert "output   not known" in text
    assert "(estimated)" in text


def test_rows_left_out_are_counted(tmp_path: Path) -> None:
    """Failed requests are neither rows nor broken ones."""
    path = tmp_path / "burst.csv"
    head = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    path.write_text(f"{head}1,m,5,0,5,x\n1,m,5,2,7,x\n9,m,5,2,7,x\n")
    found = inspect_trace(read_trace(path), REGIMES)

    assert (2, 0, 1) == (found["rows"], found["bad_rows"], found["left_out"])
    assert "1 not replayed" in render_inspection(found)


def test_a_sample_is_called_one() -> None:
    """Rows with weights stand for more requests than there are rows."""
    rows = [
        TraceRow(index=n, arrival_s=n, prompt_tokens=9, output_tokens=9, weight=w)
        for n, w in enumerate((1.0, 20.0, 4.0))
    ]
    trace = Trace(path="t", sha256="", format="ingress", rows=tuple(rows))
    (warning,) = inspect_trace(trace, REGIMES)["warnings"]

    assert "its rows stand for 25 requests" in warning


def test_turns_with_a_time_of_their_own_have_gaps(tmp_path: Path) -> None:
    """A later turn counts for the rate if it was timed, and not if it follows."""
    row = {"input_length": 9, "output_length": 5, "hash_ids": [1], "session_id": "a"}
    stamps: tuple[dict, ...] = ({"timestamp": 0}, {"timestamp": 4000}, {"delay": 9})
    path = tmp_path / "trace"
    path.write_text("".join(json.dumps(row | stamp) + "\n" for stamp in stamps))
    found = inspect_trace(read_trace(path), REGIMES)

    assert (4.0, 0.5, 3.0) == (
        found["duration_s"],
        found["rate_rps"],
        found["turns_per_session"],
    )
    assert found["warnings"][0].startswith("1 rows are later turns")
