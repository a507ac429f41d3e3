import dataclasses
import re
from collections.abc import Callable

from canary.report import ReportData, render_markdown


def test_golden(report_data: ReportData, golden: Callable[[str, str], None]) -> None:
    """The comment for a pull request reads as it was last approved."""
    golden("report.md", render_markdown(report_data))


def test_tables_keep_their_shape(report_data: ReportData) -> None:
    """Every row of a table has as many cells as its head, whatever text is in it."""
    policy, decision = report_data.policies[1], report_data.decisions[1]
    hostile = dataclasses.replace(
        decision,
        policy="a|b",
        baseline="ref`x`|dense",
        because=("line one\nline | two <script>alert(1)</script>",),
        gates=tuple(
            dataclasses.replace(gate, task="co|de", reason="a\n| b |")
            for gate in decision.gates
        ),
    )
    text = render_markdown(
        ReportData(
            run=report_data.run,
            policies=(policy,),
            decisions=(hostile,),
            observations=report_data.observations,
        )
    )
    tables = [
        [row.replace("\\|", "").count("|") for row in block.splitlines()]
        for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    ]

    assert 3 == len(tables)
    assert all(1 == len(set(columns)) for columns in tables)
    assert "<script" not in text.replace("\\<script", "")


def test_control_characters_are_dropped(report_data: ReportData) -> None:
    """Nothing that steers a terminal or a renderer survives in a sentence."""
    decision = dataclasses.replace(
        report_data.decisions[0], because=("all\x1b[31m good\x07",)
    )
    text = render_markdown(
        dataclasses.replace(
            report_data, decisions=(decision, *report_data.decisions[1:])
        )
    )

    assert "\x1b" not in text
    assert "\x07" not in text


def test_seed_zero_is_a_seed(report_data: ReportData) -> None:
    """A recorded zero is shown as zero, only what is missing as not recorded."""
    missing = dataclasses.replace(report_data, run={})

    assert "seed `0`" in render_markdown(report_data)
    assert "seed not recorded" in render_markdown(missing)


def test_override_is_never_hidden(report_data: ReportData) -> None:
    """Who overrode a verdict stands beside it in the table and under it in the text."""
    override = {
        "action": "hold",
        "by": "Ada",
        "when": "2026-11-24T02:10:00+00:00",
        "why": "a | b",
    }
    decision = dataclasses.replace(report_data.decisions[0], override=override)
    text = render_markdown(
        dataclasses.replace(
            report_data, decisions=(decision, *report_data.decisions[1:])
        )
    )

    said = "hold, by Ada on 24 November 2026, 02:10 UTC: a \\| b"
    assert f"**Overridden by hand**: {said}" in text
    assert "promote<br>**overridden: hold**" in text
