from pathlib import Path

import pytest

from canary.errors import UsageError
from canary.traffic.formats import Trace, TraceRow, read_trace
from canary.traffic.picture import draw_inspection

REPLAY = Path(__file__).parents[2] / "replay"
REGIMES = (8 * 1024, 32 * 1024, 128 * 1024)


def words_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_picture_shows_the_four_views(tmp_path: Path) -> None:
    """Rate, prompt lengths with the share of each regime, outputs and gaps."""
    path = tmp_path / "trace.svg"
    trace = read_trace(REPLAY / "mooncake-conversation.jsonl.gz")
    draw_inspection(trace, REGIMES, path)

    text = words_of(path)
    for words in (
        "7,851 rows",
        "Rate over time",
        "Prompt length",
        "Output length",
        "Gaps between arrivals",
        "53.4%",
        "39.5%",
        "7.2%",
        "Poisson, same rate",
    ):
        assert words in text


def test_pictures_are_repeatable(tmp_path: Path) -> None:
    """The same trace gives the same bytes: no dates, no random ids."""
    trace = read_trace(REPLAY / "tracelab-multi-session.csv")
    for name in ("a.svg", "b.svg", "c.png"):
        draw_inspection(trace, REGIMES, tmp_path / name)

    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("arrivals_s", [(0.0,), (0.0, 0.0), (0.0, 5.0), (0.0, 1e-9)])
def test_small_traces_can_be_drawn(
    tmp_path: Path, arrivals_s: tuple[float, ...]
) -> None:
    """A trace without gaps, times or outputs has panels that say so."""
    rows = tuple(
        TraceRow(index=n, arrival_s=at, prompt_tokens=1, output_tokens=None)
        for n, at in enumerate(arrivals_s)
    )
    path = tmp_path / "trace.svg"
    trace = Trace(path="$t$", sha256="", format="csv", rows=rows)
    draw_inspection(trace, REGIMES, path)

    assert "the trace tells no output lengths" in words_of(path)
    assert ("all rows arrive at one instant" in words_of(path)) == (not arrivals_s[-1])


def test_unwritable_pictures_are_said(tmp_path: Path) -> None:
    """A folder that isn't there is one sentence."""
    rows = (TraceRow(index=0, arrival_s=0.0, prompt_tokens=1, output_tokens=1),)
    trace = Trace(path="t", sha256="", format="csv", rows=rows)

    with pytest.raises(UsageError, match="can't be written"):
        draw_inspection(trace, REGIMES, tmp_path / "gone" / "trace.png")
