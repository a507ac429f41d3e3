import dataclasses
import io
from collections.abc import Callable

from rich.console import Console

from canary.report import ReportData, render_terminal


def printed(data: ReportData, width: int = 80) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, no_color=True, legacy_windows=False)
    render_terminal(data, console)
    return "\n".join(map(str.rstrip, file.getvalue().splitlines())) + "\n"


def test_golden(report_data: ReportData, golden: Callable[[str, str], None]) -> None:
    """At 80 columns and without colour the summary reads as it was last approved."""
    golden("terminal.txt", printed(report_data))


def test_fits_narrow_and_wide(report_data: ReportData) -> None:
    """No line is longer than the terminal, and no word of a verdict is cut."""
    for width in (60, 80, 160):
        text = printed(report_data, width)

        assert max(map(len, text.splitlines())) <= width
        for decision in report_data.decisions:
            assert str(decision.verdict) in text


def test_text_from_outside_is_not_markup(report_data: ReportData) -> None:
    """Square brackets and escape sequences in a sentence are printed or dropped."""
    decision = dataclasses.replace(
        report_data.decisions[0], because=("[bold]kernel[/bold] \x1b[2J gone",)
    )
    text = printed(
        dataclasses.replace(
            report_data, policies=report_data.policies[:1], decisions=(decision,)
        )
    )

    assert "[bold]kernel[/bold]" in text
    assert "\x1b" not in text


def test_override_is_never_hidden(report_data: ReportData) -> None:
    """Who overrode a verdict, and why, stands under the verdict."""
    override = {
        "action": "hold",
        "by": "Ada",
        "when": "2026-11-24T02:10:00+00:00",
        "why": "freeze",
    }
    decision = dataclasses.replace(report_data.decisions[0], override=override)
    text = printed(
        dataclasses.replace(
            report_data, policies=report_data.policies[:1], decisions=(decision,)
        )
    )

    said = "overridden by hand: hold, by Ada on 24 November 2026, 02:10 UTC: freeze"
    assert said in " ".join(text.split())
    assert "! by hand: hold" in text
