"""A trace as a picture: rate over time, lengths with their regimes, gaps."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from canary.errors import UsageError
from canary.planning.chart import PALETTE
from canary.planning.clock import lasting
from canary.policy.model import regime_names
from canary.report.svg import settings
from canary.report.words import printable
from canary.traffic.formats import Trace
from canary.traffic.inspect import columns, timed
from canary.traffic.table import TraceRows

Numbers = npt.NDArray[Any]

_SIZE = (10.5, 6.4)
_MOST_BINS, _LEAST_BINS, _ROWS_PER_BIN = 240, 8, 4
_SHORTEST_OF_MEAN = 1e-4
_MOST_POINTS = 1000
_LONGEST_NAME = 90
_LENGTH_BINS_PER_DOUBLING = 4
_MOST_TICKS = 6
_STEPS_S = (
    *(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30),
    *(60, 120, 300, 600, 900, 1800),
    *(3600 * hours for hours in (1, 2, 3, 6, 12, 24, 48, 168, 720)),
)


def draw_inspection(trace: Trace, regimes: tuple[int, ...], path: Path) -> None:
    """Draw what a trace holds into an SVG or PNG.

    Args:
        trace: What `read_trace` gave.
        regimes: Boundaries of the regimes in tokens, ascending.
        path: The file; its ending decides the kind.

    Raises:
        UsageError: The file can't be written.
    """
    rows = columns(trace.rows)
    svg = path.suffix.lower() == ".svg"
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(settings(PALETTE))
        figure = Figure(figsize=_SIZE, layout="constrained")
        FigureCanvasAgg(figure)
        name = printable(trace.path)[-_LONGEST_NAME:]
        title = f"{name} ({trace.format}), {len(rows):,} rows"
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5)
        (rate, prompts), (outputs, gaps) = figure.subplots(2, 2)
        arrival_s = rows.arrival_s[timed(rows)]
        _rate(rate, arrival_s)
        _prompts(prompts, rows, regimes, estimated=trace.estimated_lengths)
        _outputs(outputs, rows)
        _gaps(gaps, arrival_s)
        try:
            figure.savefig(path, dpi=144, metadata={"Date": None} if svg else {})
        except OSError as error:
            raise UsageError(
                f"{path}: can't be written ({error.strerror or error})"
            ) from error


def _rate(axes: Axes, arrival_s: Numbers) -> None:
    _title(axes, "Rate over time")
    end_s = float(arrival_s[-1])
    if not end_s:
        _nothing(axes, "all rows arrive at one instant")
        return
    bins = min(_MOST_BINS, max(_LEAST_BINS, len(arrival_s) // _ROWS_PER_BIN))
    width_s = next((s for s in _STEPS_S if end_s / s <= bins), end_s / bins)
    edges = np.arange(0, end_s + width_s, width_s)
    counts, _ = np.histogram(arrival_s, edges)
    # The last bin is as long as the trace lets it be: its rate is over that much.
    widths = np.diff(np.minimum(edges, max(end_s, float(edges[-2]) + width_s / 10)))
    axes.stairs(counts / widths, edges, fill=True, color=PALETTE["good"], alpha=0.75)
    axes.set_xlim(0, end_s)
    axes.set_ylim(0)
    axes.set_ylabel(f"requests/s, in {lasting(width_s)}")
    step = next((s for s in _STEPS_S if end_s / s <= _MOST_TICKS), end_s / _MOST_TICKS)
    axes.set_xticks(np.arange(0, end_s + step / 100, step))
    axes.xaxis.set_major_formatter(lambda value, _: lasting(value) if value else "0")


def _prompts(
    axes: Axes, rows: TraceRows, regimes: tuple[int, ...], *, estimated: bool
) -> None:
    how = " (estimated from characters)" if estimated else ""
    _title(axes, f"Prompt length{how}")
    _lengths(axes, rows.prompt_tokens, PALETTE["good"])
    low, high = axes.get_xlim()
    high = max(high, 1.3 * max([0, *(edge for edge in regimes if edge < high)]))
    axes.set_xlim(low, high)
    counts = np.bincount(
        np.searchsorted(np.array(regimes), rows.prompt_tokens, side="right"),
        minlength=len(regimes) + 1,
    )
    edges = [low, *regimes, np.inf]
    for name, count, begin, end in zip(
        regime_names(regimes), counts, edges[:-1], edges[1:], strict=True
    ):
        begin, end = max(begin, low), min(end, high)  # noqa: PLW2901 - cut to the axis
        if begin >= end:
            continue
        if begin > low:
            axes.axvline(begin, color=PALETTE["bad"], lw=1, ls=(0, (4, 2)))
        middle = np.log(np.sqrt(begin * end) / low) / np.log(high / low)
        if np.log(end / begin) / np.log(high / low) > 0.1:
            axes.text(
                middle,
                0.99,
                f"{name}\n{count / len(rows):.1%}",
                transform=axes.transAxes,
                ha="center",
                va="top",
                fontsize=9,
                color=PALETTE["bad"],
            )
    axes.set_ylim(0, axes.get_ylim()[1] * 1.25)


def _outputs(axes: Axes, rows: TraceRows) -> None:
    _title(axes, "Output length")
    known = rows.output_tokens[rows.output_tokens >= 0]
    if not len(known):
        _nothing(axes, "the trace tells no output lengths")
        return
    _lengths(axes, known, PALETTE["unsure"])


def _lengths(axes: Axes, tokens: Numbers, colour: str) -> None:
    low = np.floor(np.log2(tokens.min()))
    high = max(low + 1, np.ceil(np.log2(tokens.max() + 1)))
    bins = int(high - low) * _LENGTH_BINS_PER_DOUBLING + 1
    # Whole tokens: short lengths would fall between bins finer than one token.
    edges = np.unique(np.ceil(np.logspace(low, high, bins, base=2)))
    counts, _ = np.histogram(tokens, edges)
    axes.set_xscale("log", base=2)
    axes.stairs(counts / len(tokens), edges, fill=True, color=colour, alpha=0.75)
    axes.set_xlim(edges[0], edges[-1])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: _tokens(value))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    axes.set_xlabel("tokens, log scale")
    axes.set_ylabel("share of requests")
    for share, name in ((50, "p50"), (99, "p99")):
        at = float(np.percentile(tokens, share))
        axes.plot([at], [0], marker="^", color=PALETTE["ink"], ms=7, clip_on=False)
        axes.annotate(
            name,
            (at, 0),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )


def _gaps(axes: Axes, arrival_s: Numbers) -> None:
    """Draw the share of gaps that are at least so long, beside that of Poisson gaps."""
    _title(axes, "Gaps between arrivals")
    gaps_s = np.sort(np.diff(arrival_s))
    positive = gaps_s[gaps_s > 0]
    if not len(positive):
        _nothing(axes, "there are no gaps")
        return
    mean_s = float(gaps_s.mean())
    longer = 1 - np.arange(len(gaps_s) - len(positive), len(gaps_s)) / len(gaps_s)
    axes.set_xscale("log")
    axes.set_yscale("log")
    # Whole powers of ten; the shortest gaps of a long trace are of no interest.
    low = 10 ** np.floor(np.log10(max(positive[0], mean_s * _SHORTEST_OF_MEAN)))
    high = 10 ** np.ceil(np.log10(positive[-1] * 1.01))
    axes.set_ylim(0.5 / len(gaps_s), 1.3)
    axes.set_xlim(low, high)
    # Closer together towards the longest, where each one counts on a log scale.
    back = np.unique(np.geomspace(1, len(positive), _MOST_POINTS).astype(int))
    shown = len(positive) - back[::-1]
    axes.plot(
        [low, *positive[shown]],
        [longer[0], *longer[shown]],
        drawstyle="steps-pre",
        color=PALETTE["good"],
        lw=2,
        label="this trace",
    )
    times_s = np.geomspace(low, high, 200)
    axes.plot(
        times_s,
        np.exp(-times_s / mean_s),
        color=PALETTE["muted"],
        lw=1.2,
        ls=(0, (4, 2)),
        label="Poisson, same rate",
    )
    axes.xaxis.set_major_formatter(
        lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
    )
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("gap in seconds, log scale")
    axes.set_ylabel("share of gaps at least so long")
    axes.legend(loc="lower left")


def _title(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10.5, color=PALETTE["ink"])


def _nothing(axes: Axes, why: str) -> None:
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center")
    axes.set_axis_off()


def _tokens(value: float) -> str:
    return f"{value / 1024:g}k" if value >= 1024 else f"{value:g}"
