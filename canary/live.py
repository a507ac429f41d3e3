"""A run's status for people: a view on a terminal, a line a minute elsewhere."""

import math
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from canary.clock import Clock
from canary.decision import GateStatus
from canary.history import RunEntry
from canary.report.facts import moment
from canary.report.words import SIGNS, STATUS_SIGNS, printable
from canary.status import GateState, PolicyStatus, RunState, RunStatus
from canary.wording import effect_in_words, rounded_up, seconds

_REFRESH_S = 0.25
_LINE_EVERY_S = 60.0
_WIDE = 110
_LATE_S = 1.0
_STYLES = {
    GateStatus.HOLDS: "green",
    GateStatus.BROKEN: "red",
    GateStatus.UNDECIDED: "yellow",
    GateStatus.INSUFFICIENT: "dim",
}
# Half of a bar's axis around the limit: so many distances from "no difference" to the
# limit, or this much where the limit itself is "no difference".
_DISTANCES = 3.0
_AT_LEAST = {"ratio": 0.05, "difference": 0.01}


class Screen:
    """Shows a run's status on a console; use it as a context manager.

    On a terminal the view is drawn again at most four times a second and vanishes at
    the end; elsewhere there is a line a minute. Each verdict gets a line that stays.
    """

    def __init__(self, console: Console, *, clock: Clock) -> None:
        self._console = console
        self._clock = clock
        self._every_s = _REFRESH_S if console.is_terminal else _LINE_EVERY_S
        self._shown_s = -math.inf
        self._decided: set[str] = set()
        self._paused: str | None = None
        self._live = Live(
            Text("warming up"), console=console, auto_refresh=False, transient=True
        )

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def due(self) -> bool:
        """Whether the last view is old enough."""
        return self._clock() - self._shown_s >= self._every_s

    def show(self, status: RunStatus) -> None:
        """Show the status if that is due, and verdicts that are new at once."""
        for policy in status.policies:
            if policy.verdict.final and policy.name not in self._decided:
                self._decided.add(policy.name)
                name = printable(policy.name)
                self.say(f"{name}: {policy.verdict} after {policy.pairs:,} pairs")
        self._tell_pause(status)
        if not self.due():
            return
        self._shown_s = self._clock()
        if self._console.is_terminal:
            self._live.update(render(status), refresh=True)
        else:
            self.say(plain_line(status))

    def _tell_pause(self, status: RunStatus) -> None:
        """Say once that a run pauses, and once that it goes on."""
        paused = status.reason if status.state is RunState.PAUSED else None
        if paused == self._paused:
            return
        self._paused = paused
        if paused is not None:
            told = f"{printable(paused)}; goes on by itself once that is put right"
            self.say(f"paused, nothing is sent: {told}")
        elif not status.state.over:
            self.say("goes on: what was pending has been written")

    def say(self, line: str) -> None:
        """Show a line that stays."""
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)


def plain_line(status: RunStatus) -> str:
    """Return the status in one line."""
    policies = status.policies
    decided = [policy for policy in policies if policy.verdict.final]
    parts = [
        _progress(status),
        f"{len(decided)} of {len(policies)} policies decided",
        *(
            f"{printable(policy.name)} {_gates_in_words(policy)}"
            for policy in policies
            if not policy.verdict.final
        ),
    ]
    failed = sum(sum(causes.values()) for causes in status.failures.values())
    if failed:
        parts.append(f"{failed:,} answers failed")
    return "; ".join(parts)


def _gates_in_words(policy: PolicyStatus) -> str:
    held = sum(gate.status is GateStatus.HOLDS for gate in policy.gates)
    known = f"{held} of {len(policy.gates)} limits hold, " if policy.gates else ""
    return f"{known}{_eta(policy.eta_s, policy.eta_reason)}"


def _progress(status: RunStatus) -> str:
    """State, requests, pace and lateness, in words."""
    planned = "" if status.planned is None else f" of {status.planned:,}"
    parts = [f"{status.state}: {status.done:,}{planned} requests"]
    if status.reason:
        parts.append(printable(status.reason))
    if status.state is RunState.RUNNING:
        if status.pace_per_s is not None:
            parts.append(f"{status.pace_per_s:.3g} a second")
        if status.lag is not None:
            late = f"{seconds(status.lag.p99_s)} late at p99"
            parts.append(late if status.lag.p99_s >= _LATE_S else "on schedule")
    return ", ".join(parts)


def _eta(eta_s: float | None, reason: str | None) -> str:
    return reason or "no look yet" if eta_s is None else f"verdict in {_about(eta_s)}"


def _about(value_s: float) -> str:
    """A guess, said as one: minutes without fractions."""
    if value_s < 1:
        return "a moment"
    step_s = 60 if value_s >= 120 else 10 if value_s >= 20 else 1
    return f"about {seconds(round(value_s / step_s) * step_s)}"


def render(status: RunStatus) -> RenderableType:
    """Return the status as something that rich prints, fitted to the console."""
    return _View(status)


class _View:
    def __init__(self, status: RunStatus) -> None:
        self._status = status

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        del console
        status = self._status
        yield Text(printable(status.run), style="bold")
        yield Text(_progress(status))
        if status.state is RunState.RUNNING:
            yield Text(_last_verdict(status))
        wide = options.max_width >= _WIDE
        for policy in status.policies:
            yield Text()
            yield from _policy(policy, running=not status.state.over, wide=wide)
        yield Text()
        yield from _troubles(status)


def _last_verdict(status: RunStatus) -> str:
    if status.eta_s is not None:
        return f"last verdict in {_about(status.eta_s)}"
    return f"last verdict: {printable(status.eta_reason or 'not known yet')}"


def _policy(
    policy: PolicyStatus, *, running: bool, wide: bool
) -> Iterable[RenderableType]:
    title = Text(printable(policy.name), style="bold")
    title.append(f"  {SIGNS[policy.verdict]} {policy.verdict}")
    after = []
    if policy.elapsed_s:
        after.append(f"{policy.pairs:,} pairs after {seconds(policy.elapsed_s)}")
    if policy.gates_elapsed_s not in (None, policy.elapsed_s):
        after.append(f"limits as of {seconds(policy.gates_elapsed_s or 0)}")
    if running and not policy.verdict.final:
        after.append(_eta(policy.eta_s, policy.eta_reason))
    title.append(f"  {'; '.join(after)}", style="not bold")
    yield title
    if policy.gates:
        yield _gates(policy.gates, wide=wide)
    if policy.control:
        yield Text(f"  A/A control: {policy.control}")


def _gates(gates: Iterable[GateState], *, wide: bool) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=14, no_wrap=True)
    table.add_column(width=24 if wide else 18, no_wrap=True, overflow="ellipsis")
    bar_width = 27 if wide else 15
    table.add_column(width=bar_width, no_wrap=True)
    table.add_column(width=13, no_wrap=True, justify="right")
    if wide:
        table.add_column(width=18, no_wrap=True, justify="right")
    table.add_column(width=15, no_wrap=True, overflow="ellipsis", justify="right")
    for gate in gates:
        limit = [f"limit {effect_in_words(gate.limit, gate)}"] if wide else []
        table.add_row(
            Text(f"{STATUS_SIGNS[gate.status]} {gate.status}"),
            Text(printable(gate.name)),
            Text(bar(gate, bar_width), style=_STYLES[gate.status]),
            effect_in_words(gate.estimate, gate),
            *limit,
            _units(gate),
        )
    return table


def _units(gate: GateState) -> str:
    of = "" if gate.block_s is None else f" \N{MULTIPLICATION SIGN} {gate.block_s:g} s"
    if gate.status in (GateStatus.HOLDS, GateStatus.BROKEN):
        return f"{gate.units:,}{of}"
    if gate.units_needed is None:
        return f"{gate.units:,} of ?{of}"
    return f"{gate.units:,} of {rounded_up(gate.units_needed):,}{of}"


def bar(gate: GateState, width: int) -> str:
    """Return estimate and bounds against the limit, on an axis of `width` characters.

    The limit stands in the middle; the axis is the same at every look, so that bounds
    are seen to close in. An arrow is what lies beyond the axis, or has no bound yet.
    """
    neutral = 1.0 if gate.effect == "ratio" else 0.0
    half = _DISTANCES * max(abs(gate.limit - neutral), _AT_LEAST[gate.effect])
    cells = [" "] * width

    def cell(value: float) -> int:
        share = (value - gate.limit) / (2 * half) + 0.5
        return min(max(math.floor(share * width), -1), width)

    if gate.estimate is not None:
        first = -1 if gate.lower is None else cell(gate.lower)
        last = width if gate.upper is None else cell(gate.upper)
        for index in range(max(first, 0), min(last + 1, width)):
            cells[index] = "─"
        _put(cells, first, "├")
        _put(cells, last, "┤")
    _put(cells, width // 2, "┊")
    if gate.estimate is not None:
        _put(cells, cell(gate.estimate), "●")
    return "".join(cells)


def _put(cells: list[str], index: int, sign: str) -> None:
    """Put a sign at its place, or an arrow at the end that it lies beyond."""
    if index < 0:
        cells[0] = "◄"
    elif index >= len(cells):
        cells[-1] = "►"
    else:
        cells[index] = sign


def _troubles(status: RunStatus) -> Iterable[Text]:
    if status.unwritten is not None:
        yield Text(f"status.json can't be written: {printable(status.unwritten)}")
    if status.lag is not None:
        lag = status.lag
        yield Text(
            f"sent late: p50 {seconds(max(lag.p50_s, 0))}, "
            f"p99 {seconds(max(lag.p99_s, 0))}, most {seconds(max(lag.max_s, 0))}"
        )
    yield Text(f"failures: {_by_arm(status.failures)}")
    if status.restarts:
        yield Text(f"restarts: {_by_arm(status.restarts)}")
    if status.voids:
        yield Text(f"void: {_counted(status.voids)}")


def render_runs(entries: Iterable[RunEntry]) -> RenderableType:
    """Return the runs with a row per policy; broken ones with what is wrong."""
    return Group(*(part for entry in entries for part in _run(entry)))


def _run(entry: RunEntry) -> Iterable[RenderableType]:
    title = Text(printable(entry.path), style="bold")
    if entry.broken is not None:
        title.append("  broken", style="red")
        yield title
        yield Text(f"  {printable(entry.broken)}")
        return
    title.append(f"  {entry.state}, started {moment(entry.started)}", style="not bold")
    yield title
    table = Table.grid(padding=(0, 1))
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(overflow="fold")
    for policy in entry.policies:
        name = Text(printable(policy.name))
        if policy.override:
            action = printable(policy.override["action"])
            name.append(f"  ! by hand: {action}", style="bold")
        pairs = "" if policy.pairs is None else f"{policy.pairs:,} pairs"
        verdict = Text(f"{SIGNS[policy.verdict]} {policy.verdict}")
        table.add_row("", verdict, pairs, name)
    yield table


def _by_arm(counts: Mapping[str, Mapping[str, int]]) -> str:
    arms = (f"{printable(arm)}: {_counted(one)}" for arm, one in counts.items())
    return "; ".join(arms) or "none"


def _counted(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {printable(name)}" for name, count in ordered)
