"""What another policy makes of the same evidence, on a terminal."""

from collections.abc import Callable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from canary.compare import Change, Comparison
from canary.decision import Decision, GateResult
from canary.report.words import STATUS_SIGNS, printable
from canary.wording import points, seconds

_HYPOTHESIS = (
    "A policy that was changed after looking at this evidence is a hypothesis: its "
    "error rates hold for fresh evidence."
)


def render_comparison(comparison: Comparison, console: Console) -> None:
    """Print both verdicts and every gate that turned or whose limit moved."""
    before, after = comparison.before, comparison.after
    console.print(Text("Before and after", style="bold"))
    for word, decision in (("before", before), ("after", after)):
        console.print(Text(f"  {word:7} {_verdict(decision)}"))
    shown = [
        c for c in comparison.changes if c.turned or _limits(c)[0] != _limits(c)[1]
    ]
    if shown:
        console.print(_table(shown))
    same = [change.name for change in comparison.changes if change not in shown]
    if same:
        console.print(Text(f"As before: {printable(', '.join(same))}."))
    console.print(Text(_HYPOTHESIS))


def _verdict(decision: Decision) -> str:
    return (
        f"{printable(decision.policy)}: {decision.verdict} after "
        f"{decision.pairs:,} pairs, {seconds(decision.elapsed_s)}"
    )


def _table(changes: list[Change]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("Gate", overflow="fold")
    table.add_column("Limit", no_wrap=True)
    table.add_column("Status", no_wrap=True)
    for change in changes:
        table.add_row(
            Text(printable(change.name)),
            _arrow(*_limits(change)),
            _arrow(*_both(change, _status)),
        )
    return table


def _limits(change: Change) -> tuple[str, str]:
    return _both(change, _limit)


def _both(change: Change, what: Callable[[GateResult], str]) -> tuple[str, str]:
    before, after = change.before, change.after
    return what(before) if before else "none", what(after) if after else "none"


def _arrow(before: str, after: str) -> str:
    return before if before == after else f"{before} → {after}"


def _status(gate: GateResult) -> str:
    return f"{STATUS_SIGNS[gate.status]} {gate.status}"


def _limit(gate: GateResult) -> str:
    return f"{gate.limit:g}x" if gate.effect == "ratio" else points(abs(gate.limit))
