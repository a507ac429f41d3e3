import dataclasses
import io
from collections.abc import Callable

from rich.console import Console

from canary.compare import compare
from canary.decision import GateStatus, Verdict
from canary.report import ReportData
from canary.report.comparison import render_comparison


def test_golden(report_data: ReportData, golden: Callable[[str, str], None]) -> None:
    """Verdicts, moved limits and turned gates are printed; the rest is only named."""
    before = report_data.decisions[0]
    accuracy, latency, errors = before.gates
    broken = dataclasses.replace(latency, limit=0.8, status=GateStatus.BROKEN)
    narrower = dataclasses.replace(accuracy, limit=-0.01)
    new = dataclasses.replace(errors, name="errors [8k]")
    after = dataclasses.replace(
        before, verdict=Verdict.ROLLBACK, pairs=200, gates=(narrower, broken, new)
    )
    file = io.StringIO()

    render_comparison(compare(before, after), Console(file=file, width=80))

    lines = map(str.rstrip, file.getvalue().splitlines())
    golden("comparison.txt", "\n".join(lines) + "\n")
