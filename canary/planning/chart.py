"""Times to a verdict as a picture: a row for each gate on a log time axis."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from canary.errors import UsageError
from canary.planning.clock import Ends, lasting
from canary.planning.outlook import GateOutlook, PolicyPlan
from canary.planning.words import headline
from canary.report.svg import settings
from canary.report.words import printable

KINDS = (".svg", ".png")
PALETTE = {
    "ink": "#1b1f24",
    "muted": "#59616b",
    "grid": "#ebe8e2",
    "good": "#00735c",
    "bad": "#b8410e",
    "unsure": "#87600a",
}
"""The report's colours on paper, under its names."""

_KEY = (
    "time into the run; \N{WHITE CIRCLE} if nothing is lost, "
    "\N{BLACK DIAMOND} expected, \N{HEAVY MULTIPLICATION X} broken; "
    "grey: after the deadline"
)
_WIDTH, _ROW, _HEAD = 760, 26, 92
_DAY_S = 86_400
_TICKS_S = (
    *(0.1, 1, 10, 60, 600, 3600, 6 * 3600, _DAY_S),
    *(_DAY_S * days for days in (7, 30, 365, 3650)),
)
_MORE_TICKS_S = (2, 5, 20, 30, 120, 300, 1200, 1800, 7200, 12 * 3600, 3 * _DAY_S)
_MORE_UP_TO = 2000


def refuse_kind(path: Path) -> None:
    """Refuse a picture of a kind that can't be drawn.

    Raises:
        UsageError: It is.
    """
    if path.suffix.lower() not in KINDS:
        raise UsageError(f"{path}: charts are SVG or PNG; write FILE.svg or FILE.png")


def draw_plans(plans: Sequence[PolicyPlan], path: Path) -> None:
    """Draw when each gate is decided, a panel for each policy.

    Raises:
        UsageError: The file can't be written.
    """
    heights = [_HEAD + _ROW * len(plan.gates) for plan in plans]
    low_s, high_s = _range(plans)
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(settings(PALETTE))
        figure = Figure(figsize=(_WIDTH / 72, sum(heights) / 72), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(
            len(plans), squeeze=False, height_ratios=heights, sharex=True
        )
        for plan, axes in zip(plans, panels[:, 0], strict=True):
            axes.set_xlim(low_s, high_s)
            _draw(axes, plan)
        panels[-1, 0].set_xlabel(_KEY)
        try:
            figure.savefig(path, dpi=144, metadata={"Date": None} if _svg(path) else {})
        except OSError as error:
            raise UsageError(
                f"{path}: can't be written ({error.strerror or error})"
            ) from error


def _svg(path: Path) -> bool:
    return path.suffix.lower() == ".svg"


def _range(plans: Sequence[PolicyPlan]) -> tuple[float, float]:
    times = [
        at_s
        for plan in plans
        for at_s in (
            plan.min_duration_s,
            plan.max_duration_s,
            *(gate.at_least_s for gate in plan.gates),
            *(gate.expected_s for gate in plan.gates),
        )
        if at_s
    ]
    return min(times) / 2, max(times) * 3


def _draw(axes: Axes, plan: PolicyPlan) -> None:
    axes.set_xscale("log")
    low_s, high_s = axes.get_xlim()
    few = high_s / low_s > _MORE_UP_TO
    axes.xaxis.set_major_locator(
        FixedLocator(_TICKS_S if few else [*_TICKS_S, *_MORE_TICKS_S])
    )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: lasting(value))
    axes.tick_params(labelbottom=True)
    axes.set_ylim(-len(plan.gates) + 0.4, 1.1)
    axes.set_yticks(range(0, -len(plan.gates), -1))
    axes.set_yticklabels([printable(gate.name) for gate in plan.gates])
    axes.tick_params(axis="y", length=0, labelcolor=PALETTE["ink"])
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    title = f"{printable(plan.policy)}: {headline(plan)}"
    axes.set_title(title, loc="left", fontsize=11, color=PALETTE["ink"])
    axes.axvspan(plan.deadline.after_s, high_s, color=PALETTE["grid"], lw=0, zorder=0)
    deadline = plan.deadline
    _mark(axes, "min_duration ", plan.min_duration_s, to="right", top=True)
    _mark(axes, f" {deadline.what}", deadline.after_s, to="left", top=True)
    if deadline.what is not Ends.MAX_DURATION:
        _mark(axes, " max_duration", plan.max_duration_s, to="left", top=False)
    for row, gate in enumerate(plan.gates):
        _gate(axes, gate, -row)


def _mark(
    axes: Axes, name: str, at_s: float, *, to: Literal["left", "right"], top: bool
) -> None:
    """Draw a moment that the policy or its traffic sets; 0 is none."""
    if not at_s:
        return
    axes.axvline(at_s, color=PALETTE["muted"], lw=1, ls=(0, (4, 2)))
    axes.text(
        at_s,
        0.98 if top else 0.03,
        name,
        transform=axes.get_xaxis_transform(),
        ha=to,
        va="top" if top else "bottom",
        color=PALETTE["muted"],
        fontsize=9,
    )


def _gate(axes: Axes, gate: GateOutlook, y: float) -> None:
    """A hollow mark is the least time, a full one what is expected."""
    colour = PALETTE["good"] if gate.reason is None else PALETTE["unsure"]
    colour = colour if gate.holds else PALETTE["bad"]
    known = [at_s for at_s in (gate.at_least_s, gate.expected_s) if at_s is not None]
    if gate.holds and known:
        axes.plot([min(known), max(known)], [y, y], color=colour, lw=2.2)
    if gate.holds and gate.at_least_s is not None:
        axes.plot([gate.at_least_s], [y], "o", ms=7, mec=colour, mfc="white", mew=1.6)
    if gate.expected_s is not None:
        axes.plot(
            [gate.expected_s], [y], "D" if gate.holds else "X", ms=7, color=colour
        )
    said = "not known" if gate.expected_s is None else lasting(gate.expected_s)
    last_s = max(known, default=axes.get_xlim()[0])
    axes.annotate(
        said if gate.holds else f"{said}, broken",
        (last_s if gate.holds else gate.expected_s or last_s, y),
        xytext=(9, 0),
        textcoords="offset points",
        va="center",
        color=colour,
        fontsize=9.5,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
    )
