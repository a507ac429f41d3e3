"""The charts of one timed metric: its tail, and how it grows with the prompt."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator

from canary.evidence.pairs import Floats, Ints
from canary.report.charts import WIDTH
from canary.report.samples import Timings, tokens_label, trend
from canary.report.svg import COLOURS, to_svg
from canary.wording import METRICS, seconds, value_in_words

HEIGHT = 290
MOST_POINTS = 500
_ARMS = (("baseline", (0, (5, 1.5)), "s"), ("candidate", "-", "o"))
_TAIL = (
    (0.5, "p50"),
    (0.1, "p90"),
    (0.01, "p99"),
    (0.001, "p99.9"),
    (0.0001, "p99.99"),
)


def timing_charts(timing: Timings, key: str) -> tuple[str, ...]:
    """Return the tail of both arms and their medians by prompt length.

    Empty if not one request of either arm was answered.
    """
    answered = np.isfinite(timing.baseline_s) & np.isfinite(timing.candidate_s)
    if not (answered & (timing.baseline_s > 0) & (timing.candidate_s > 0)).any():
        return ()
    return (_tail_chart(timing, f"{key}-tail"), _length_chart(timing, f"{key}-length"))


def _tail_chart(timing: Timings, key: str) -> str:
    count = len(timing.baseline_s)
    name = METRICS[timing.metric]
    least = 0.7 / count

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.set_xscale("log")
        axes.set_yscale("log")
        for (label, dashes, _), values in zip(_ARMS, _both(timing), strict=True):
            x, y = _survival(values)
            axes.plot(
                x,
                y,
                drawstyle="steps-post",
                color=COLOURS[label],
                lw=2,
                ls=dashes,
                label=label,
            )
        axes.set_ylim(least, 1.15)
        shown = [(share, text) for share, text in _TAIL if share >= least]
        _ticks(axes.yaxis.set_major_locator, axes.yaxis.set_major_formatter, shown)
        _time_ticks(axes, "x", np.concatenate(_both(timing)))
        axes.set_xlabel(name)
        axes.set_ylabel("quantile")
        axes.legend(loc="upper right", handlelength=3)

    return to_svg(
        draw,
        width=WIDTH,
        height=HEIGHT,
        key=key,
        title=f"{name.capitalize()}: the tail of both arms",
        finding=f"Distribution of {name} of both arms. {_quantiles_in_words(timing)}",
    )


def _both(timing: Timings) -> tuple[Floats, Floats]:
    return timing.baseline_s, timing.candidate_s


def _quantiles_in_words(timing: Timings) -> str:
    unit = "s/token" if timing.metric == "tpot" else "s"
    return " ".join(
        f"p{row.p * 100:g}: baseline {value_in_words(row.baseline_s, unit)}, candidate "
        f"{value_in_words(row.candidate_s, unit)}."
        for row in timing.quantiles()
        if row.baseline_s is not None or row.candidate_s is not None
    )


def _survival(values: Floats, most: int = 400) -> tuple[Floats, Floats]:
    """Return times and the share of requests beyond each, the tail in full.

    Requests that failed are beyond every time: the curve never falls under their share.
    """
    finite = np.sort(values[np.isfinite(values) & (values > 0)])
    if not len(finite):
        return np.zeros(0), np.zeros(0)
    rank = np.arange(1, len(finite) + 1)
    if len(finite) > most:
        evenly = np.linspace(1, len(finite), most // 2)
        to_the_end = len(finite) + 1 - np.geomspace(1, len(finite), most // 2)
        rank = np.unique(np.rint(np.concatenate([evenly, to_the_end])).astype(np.int64))
    x = np.concatenate([finite[:1], finite[rank - 1]])
    y = np.concatenate([[1.0], (len(values) - rank) / len(values)])
    return x, np.maximum(y, 1e-12)


def _length_chart(timing: Timings, key: str) -> str:
    name = METRICS[timing.metric]
    medians = trend(timing)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.set_xscale("log")
        axes.set_yscale("log")
        lines = (medians.baseline_s, medians.candidate_s)
        for arm, values, line in zip(_ARMS, _both(timing), lines, strict=True):
            _cloud(axes, timing.prompt_tokens, values, COLOURS[arm[0]])
            axes.plot(
                medians.prompt_tokens,
                np.where(np.isfinite(line), line, np.nan),
                color=COLOURS[arm[0]],
                lw=2,
                ls=arm[1],
                marker=arm[2],
                ms=5.5,
                label=f"{arm[0]}, median",
            )
        _time_ticks(axes, "y", np.concatenate(_both(timing)))
        _token_ticks(axes, timing.prompt_tokens)
        axes.set_xlabel("prompt length, tokens")
        axes.set_ylabel(name)
        axes.legend(loc="upper left", handlelength=3)

    return to_svg(
        draw,
        width=WIDTH,
        height=HEIGHT,
        key=key,
        title=f"{name.capitalize()} against prompt length",
        finding=_trend_in_words(
            name, medians.prompt_tokens, medians.baseline_s, medians.candidate_s
        ),
    )


def _trend_in_words(name: str, tokens: Floats, a: Floats, b: Floats) -> str:
    found = [
        f"around {tokens[at]:,.0f} tokens the candidate's median is "
        f"{b[at] / a[at]:.2f} times the baseline's"
        for at in dict.fromkeys((0, len(tokens) - 1))
        if np.isfinite(a[at]) and np.isfinite(b[at]) and a[at] > 0
    ]
    text = "; ".join(found) or "no median is known"
    return f"{name.capitalize()} against prompt length: {text}."


def _cloud(axes: Axes, tokens: Ints, values: Floats, colour: str) -> None:
    """One path of dots: a line without length has a round end on either side."""
    known = np.flatnonzero(np.isfinite(values) & (values > 0))
    chosen = known[:: max(math.ceil(len(known) / MOST_POINTS), 1)]
    gap = np.full(len(chosen), np.nan)
    x = np.column_stack([tokens[chosen], tokens[chosen], gap]).ravel()
    y = np.column_stack([values[chosen], values[chosen], gap]).ravel()
    axes.plot(x, y, color=colour, lw=3, alpha=0.28, solid_capstyle="round")


def _time_ticks(axes: Axes, which: str, values: Floats) -> None:
    known = values[np.isfinite(values) & (values > 0)]
    low, high = float(known.min()) / 1.1, float(known.max()) * 1.1
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    places = [(tick, seconds(tick)) for tick in log_ticks(low, high)]
    _ticks(axis.set_major_locator, axis.set_major_formatter, places)


def _token_ticks(axes: Axes, tokens: Ints) -> None:
    low, high = float(tokens.min()) / 1.1, float(tokens.max()) * 1.1
    axes.set_xlim(max(low, 0.5), max(high, 1))
    exponents = range(
        math.ceil(math.log2(max(low, 1))), int(math.log2(max(high, 1))) + 1
    )
    step = math.ceil(len(exponents) / 7) or 1
    places = [(2.0**e, tokens_label(2.0**e)) for e in exponents[::step]]
    _ticks(axes.xaxis.set_major_locator, axes.xaxis.set_major_formatter, places)


def _ticks(
    set_locator: Callable[[FixedLocator], None],
    set_formatter: Callable[[FixedFormatter], None],
    places: Sequence[tuple[float, str]],
) -> None:
    set_locator(FixedLocator([place for place, _ in places]))
    set_formatter(FixedFormatter([text for _, text in places]))


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round values between the two, as many as fit: 1, 2, 5, or 1, 3, or 1."""
    found: list[float] = []
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [
            s * 10.0**e for e in exponents for s in steps if low <= s * 10.0**e <= high
        ]
        if len(found) <= most:
            return found
    return found[:: math.ceil(len(found) / most)]
