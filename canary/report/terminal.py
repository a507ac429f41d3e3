"""The report on a terminal: one table, then each policy's sentences."""

from collections import Counter

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from canary.decision import Decision, GateStatus, Verdict
from canary.report.data import ReportData
from canary.report.words import SIGNS, headline, override_in_words, printable
from canary.wording import control_in_words, seconds

_STYLES = {
    Verdict.PROMOTE: "bold green",
    Verdict.ROLLBACK: "bold red",
    Verdict.CONTINUE: "bold blue",
    Verdict.INCONCLUSIVE: "bold yellow",
    Verdict.INVALID: "bold magenta",
}


def render_terminal(data: ReportData, console: Console) -> None:
    """Print verdicts and reasons; signs and words carry them, colour only helps."""
    console.print(Text(printable(headline(data.decisions)), style="bold"))
    console.print(_overview(data.decisions))
    for decision in data.decisions:
        _print_case(decision, console)


def _overview(decisions: tuple[Decision, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("Policy", overflow="fold")
    table.add_column("Verdict", no_wrap=True)
    table.add_column("Limits shown", justify="right", no_wrap=True)
    table.add_column("Pairs", justify="right", no_wrap=True)
    table.add_column("After", justify="right", no_wrap=True)
    for decision in decisions:
        table.add_row(
            Text(printable(decision.policy)),
            _verdict(decision) + _overridden(decision),
            _limits_shown(decision),
            f"{decision.pairs:,}",
            seconds(decision.elapsed_s),
        )
    return table


def _verdict(decision: Decision) -> Text:
    sign = SIGNS[decision.verdict]
    return Text(f"{sign} {decision.verdict}", style=_STYLES[decision.verdict])


def _overridden(decision: Decision) -> Text:
    if not decision.override:
        return Text()
    return Text(f"\n! by hand: {printable(decision.override['action'])}", style="bold")


def _limits_shown(decision: Decision) -> str:
    counts = Counter(gate.status for gate in decision.gates)
    total = len(decision.gates)
    if counts[GateStatus.BROKEN]:
        return f"{counts[GateStatus.BROKEN]} of {total} broken"
    return f"{counts[GateStatus.HOLDS]} of {total} hold"


def _print_case(decision: Decision, console: Console) -> None:
    title = Text.assemble(
        (printable(decision.policy), "bold"), "  ", _verdict(decision)
    )
    console.print(title)
    if decision.override:
        told = override_in_words(decision.override)
        print_item("!", f"overridden by hand: {told}", console)
    for sentence in decision.because:
        print_item("-", sentence, console)
    if decision.validity.control_share:
        print_item("=", f"A/A control: {control_in_words(decision)}.", console)
    print_item("→", decision.action, console)
    console.print()


def print_item(sign: str, sentence: str, console: Console) -> None:
    """Wrapped under its own beginning."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=1)
    grid.add_column()
    grid.add_row(Text(sign), Text(printable(sentence)))
    console.print(Padding(grid, (0, 0, 0, 2)))
