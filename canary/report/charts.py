"""The charts of a decision: limits as intervals, evidence as it grew over the looks."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from canary.decision import Decision, GateResult, GateStatus
from canary.report.svg import COLOURS, to_svg
from canary.wording import effect_in_words, seconds

WIDTH = 420
_ROW = 46
_SPREAD = 20
"""The axis shows at most so many times the distance from "no difference" to a limit."""

_HOUR_S = 3600
_TIME_STEPS_S = (
    *(1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800),
    *(_HOUR_S * hours for hours in (1, 2, 4, 6, 12, 24, 48, 168)),
)
_STATUS_STYLE = {
    GateStatus.HOLDS: ("good", "o"),
    GateStatus.BROKEN: ("bad", "X"),
    GateStatus.UNDECIDED: ("unsure", "D"),
    GateStatus.INSUFFICIENT: ("unsure", "s"),
}
_DASHES: tuple[str | tuple[int, tuple[float, ...]], ...] = (
    "-",
    (0, (5, 2)),
    (0, (1.5, 1.5)),
    (0, (6, 2, 1.5, 2)),
)


def gate_charts(decision: Decision, key: str) -> dict[str, str]:
    """Return a chart of the limits on differences and one of those on ratios, by title.

    Their scales differ; a kind that no gate has is left out.
    """
    charts = {}
    for effect, title in (
        ("difference", "Difference: candidate minus baseline"),
        ("ratio", "Ratio: candidate over baseline"),
    ):
        gates = [gate for gate in decision.gates if gate.effect == effect]
        if gates:
            charts[title] = _gate_chart(gates, effect, title, f"{key}-{effect}")
    return charts


def _gate_chart(gates: Sequence[GateResult], effect: str, title: str, key: str) -> str:
    neutral = 1.0 if effect == "ratio" else 0.0
    low, high = _range(gates, neutral)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.set_xlim(low, high)
        axes.set_ylim(-len(gates) + 0.38, 0.62)
        axes.yaxis.set_visible(False)
        axes.spines["left"].set_visible(False)
        axes.axvline(neutral, color=COLOURS["muted"], lw=0.8, ls=(0, (2, 2)))
        for row, gate in enumerate(gates):
            _gate_row(axes, gate, -row, low, high)
        axes.xaxis.set_major_formatter(
            lambda value, _: f"{value:g}x" if effect == "ratio" else f"{value * 100:g}"
        )
        axes.set_xlabel(
            "times the baseline's" if effect == "ratio" else "percentage points"
        )

    return to_svg(
        draw,
        width=WIDTH,
        height=_ROW * len(gates) + 44,
        key=key,
        title=title,
        finding=f"{title}. " + " ".join(_gate_finding(gate) for gate in gates),
    )


def _gate_finding(gate: GateResult) -> str:
    measured, low, high, limit = (
        effect_in_words(value, gate)
        for value in (gate.estimate, gate.lower, gate.upper, gate.limit)
    )
    return (
        f"{gate.name}: {measured}, between {low} and {high}, limit {limit}: "
        f"{gate.status}."
    )


def _range(gates: Sequence[GateResult], neutral: float) -> tuple[float, float]:
    limits = [gate.limit for gate in gates]
    furthest = max([0.01, *(abs(limit - neutral) for limit in limits)])
    values = [neutral, *limits]
    for gate in gates:
        values += [v for v in (gate.lower, gate.estimate, gate.upper) if v is not None]
    low = max(min(values), neutral - _SPREAD * furthest)
    high = min(max(values), neutral + _SPREAD * furthest)
    # Without a measurement, and with a limit that is "no change", there is one value.
    pad = 0.08 * (high - low or furthest)
    return low - pad, high + pad


def _gate_row(axes: Axes, gate: GateResult, y: float, low: float, high: float) -> None:
    colour_name, marker = _STATUS_STYLE[gate.status]
    colour = COLOURS[colour_name]
    start, end = (gate.limit, high) if gate.at_least else (low, gate.limit)
    axes.add_patch(
        Rectangle(
            (start, y - 0.24),
            end - start,
            0.48,
            facecolor=COLOURS["good"],
            alpha=0.13,
            linewidth=0,
        )
    )
    limit = [gate.limit, gate.limit]
    axes.plot(limit, [y - 0.24, y + 0.24], color=COLOURS["ink"], lw=2.2)
    _whiskers(axes, gate, y, (low, high), colour)
    if gate.estimate is not None:
        shown = min(max(gate.estimate, low), high)
        outside = {low: "<", high: ">"}.get(shown, marker)
        axes.plot([shown], [y], marker=outside, ms=8, color=colour, clip_on=False)
    across = axes.get_yaxis_transform()
    axes.text(0, y + 0.3, gate.name, transform=across)
    measured = effect_in_words(gate.estimate, gate)
    axes.text(1, y + 0.3, measured, transform=across, ha="right")


def _whiskers(
    axes: Axes,
    gate: GateResult,
    y: float,
    view: tuple[float, float],
    colour: str,
) -> None:
    """A known bound ends in a cap; an unknown one is a dotted line to the edge."""
    if gate.estimate is None and gate.lower is None and gate.upper is None:
        return
    low, high = view
    middle = gate.estimate
    if middle is None:
        middle = gate.lower if gate.lower is not None else gate.upper
    for bound, edge in ((gate.lower, low), (gate.upper, high)):
        end = edge if bound is None else min(max(bound, low), high)
        axes.plot(
            [min(max(middle or 0.0, low), high), end],
            [y, y],
            color=colour,
            lw=2,
            ls=(0, (1, 2)) if bound is None else "-",
            solid_capstyle="butt",
        )
        if bound is not None and low < bound < high:
            axes.plot([bound, bound], [y - 0.1, y + 0.1], color=colour, lw=2)


def evidence_charts(decision: Decision, key: str) -> tuple[str, ...]:
    """Return how evidence for promote and rollback grew; empty without looks."""
    if not decision.looks:
        return ()
    return (_hold_chart(decision, f"{key}-hold"), _harm_chart(decision, f"{key}-harm"))


def _hold_chart(decision: Decision, key: str) -> str:
    curves = [
        [look.log_e_hold[i] / gate.threshold_hold for look in decision.looks]
        for i, gate in enumerate(decision.gates)
    ]
    ends = ", ".join(
        f"{gate.name} at {curve[-1]:.0%}" if math.isfinite(curve[-1]) else gate.name
        for gate, curve in zip(decision.gates, curves, strict=True)
    )

    def draw(figure: Figure) -> None:
        axes = _look_axes(figure, decision)
        for i, (gate, curve) in enumerate(zip(decision.gates, curves, strict=True)):
            _curve(axes, decision, curve, index=i, label=gate.name)
        _threshold(axes, "shown to hold")
        figure.legend(loc="outside lower left", handlelength=3)

    rows = len(decision.gates)
    return to_svg(
        draw,
        width=WIDTH,
        height=222 + 15 * rows,
        key=key,
        title="Evidence that each limit holds",
        finding="Evidence that each limit holds, as a share of what is needed, at the "
        f"last look: {ends}.",
    )


def _harm_chart(decision: Decision, key: str) -> str:
    curve = [
        _log_mean_exp(look.log_e_broken) / decision.threshold_rollback
        for look in decision.looks
    ]
    curve[-1] = decision.log_e_rollback / decision.threshold_rollback

    def draw(figure: Figure) -> None:
        axes = _look_axes(figure, decision)
        label = "all limits together"
        _curve(axes, decision, curve, index=0, label=label, colour="bad")
        _threshold(axes, "rollback")

    return to_svg(
        draw,
        width=WIDTH,
        height=237,
        key=key,
        title="Evidence that a limit is broken",
        finding="Combined evidence that a limit is broken, at the last look: "
        f"{curve[-1]:.0%} of what a rollback needs."
        if math.isfinite(curve[-1])
        else "Combined evidence that a limit is broken.",
    )


def _log_mean_exp(values: Sequence[float]) -> float:
    return float(np.logaddexp.reduce(values)) - math.log(len(values))


def _look_axes(figure: Figure, decision: Decision) -> Axes:
    axes = figure.add_subplot()
    axes.set_ylim(-0.6, 2.1)
    axes.set_yticks([-0.5, 0, 0.5, 1, 1.5, 2])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_ylabel("share of what is needed")
    end_s = max(look.elapsed_s for look in decision.looks)
    axes.set_xlim(0, end_s * 1.04 if end_s > 0 else 1)
    axes.set_xticks(round_times(end_s))
    axes.xaxis.set_major_formatter(lambda value, _: seconds(value) if value else "0")
    axes.set_xlabel("time into the run")
    return axes


def round_times(end_s: float, most: int = 6) -> list[float]:
    """Return round times from 0 up to `end_s`, at most so many after the zero."""
    step = next(
        (s for s in _TIME_STEPS_S if s * most >= end_s), math.ceil(end_s / most)
    )
    return [step * i for i in range(int(end_s / step) + 1)]


def _curve(
    axes: Axes,
    decision: Decision,
    curve: Sequence[float],
    *,
    index: int,
    label: str,
    colour: str | None = None,
) -> None:
    """Cut off at the chart's edges, where a curve's exact height no longer matters."""
    axes.plot(
        [look.elapsed_s for look in decision.looks],
        np.clip(np.nan_to_num(np.array(curve, dtype=float)), -0.55, 2.05),
        color=COLOURS[colour or f"series-{index % 6 + 1}"],
        ls=_DASHES[index % len(_DASHES)],
        lw=2,
        marker="o" if len(curve) <= 12 else None,
        ms=4.5,
        label=label,
    )


def _threshold(axes: Axes, label: str) -> None:
    axes.axhline(1, color=COLOURS["ink"], lw=1.2)
    axes.annotate(
        label,
        (0, 1),
        xycoords=("axes fraction", "data"),
        xytext=(4, 3),
        textcoords="offset points",
        fontsize=10,
    )
