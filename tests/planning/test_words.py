"""A plan in words and as a picture, made by hand so that nothing else moves it."""

import dataclasses
import html
import io
from pathlib import Path

import pytest
from rich.console import Console

from canary.errors import UsageError
from canary.planning.chart import PALETTE, draw_plans, refuse_kind
from canary.planning.needs import Expected
from canary.planning.outlook import plan_policy
from canary.planning.simulate import Outcome, Share
from canary.planning.words import render_plan

ROOT = Path(__file__).parents[2]
GATES = (
    {"metric": "accuracy", "task": "code", "margin": "5%"},
    {"metric": "latency", "quantile": "p50", "max_ratio": 1.25},
    {"metric": "latency", "quantile": "p99", "max_ratio": 1.1, "regime": "<8k"},
    {"metric": "errors", "margin": "5%"},
)
OUTCOME = Outcome(
    harm=None,
    runs=20,
    requests=5000,
    span_s=1200.0,
    cut=True,
    promoted=Share.of(17, 20),
    rolled_back=Share.of(1, 20),
    inconclusive=Share.of(1, 20),
    invalid=Share.of(1, 20),
    median_s=840.0,
)


@pytest.fixture
def plans(policy_of, schedule_with):
    """Four policies: to be promoted, to be rolled back, out of reach, and unknown."""
    schedule = schedule_with(5000, every_s=0.5, groups=150)

    def plan(name, *needs, piloted=True, simulated=(), **rules):
        policy = policy_of(*GATES[: len(needs)], **rules)
        found = plan_policy(
            policy.model_copy(update={"name": name}),
            schedule,
            {gate.name: need for gate, need in zip(policy.gates, needs, strict=True)},
            piloted=piloted,
            basis=["expected, if all is as in the pilot (638 pairs over 86.4 s)"],
            notes=["at 2x the recorded speed"],
        )
        return dataclasses.replace(found, simulated=simulated)

    holds = Expected(units=120, holds=True, reason=None)
    tail = Expected(units=9200, holds=True, reason=None)
    broken = Expected(units=9, holds=False, reason=None)
    unknown = Expected(units=None, holds=True, reason="nobody has answered any")
    harmed = dataclasses.replace(
        OUTCOME,
        harm="accuracy -3 points",
        promoted=Share.of(0, 20),
        rolled_back=Share.of(0, 20),
        inconclusive=Share.of(20, 20),
        invalid=Share.of(0, 20),
        median_s=None,
    )
    return (
        plan("good", holds, holds, min_duration="5m", simulated=(OUTCOME, harmed)),
        plan("bad", broken, holds),
        plan("tail", holds, holds, tail, holds, max_duration="30m", piloted=False),
        plan("unasked", unknown, holds),
    )


def printed(plans, *, terminal):
    file = io.StringIO()
    console = Console(
        file=file,
        width=80,
        force_terminal=terminal,
        no_color=True,
        legacy_windows=False,
    )
    console._color_system = None  # bold would put escape sequences in the golden file
    for plan in plans:
        render_plan(plan, console)
    return "\n".join(map(str.rstrip, file.getvalue().splitlines())) + "\n"


def test_golden_lines(plans, golden):
    """Where there is no terminal, each gate and each sentence is one line."""
    golden("plan-lines.txt", printed(plans, terminal=False))


def test_golden_table(plans, golden):
    """On a terminal of 80 columns gates stand in a table, and no line is longer."""
    text = printed(plans, terminal=True)

    golden("plan-table.txt", text)
    titles = {plan.policy for plan in plans}
    lines = [line for line in text.splitlines() if line[2:].split(":")[0] not in titles]
    assert max(map(len, lines)) <= 80


def test_a_chart_names_gates_and_moments(plans, tmp_path):
    """Text stays text in an SVG, equal plans give equal bytes, and a PNG is one."""
    first, again, png = (tmp_path / name for name in ("a.svg", "b.svg", "c.png"))

    draw_plans(plans, first)
    draw_plans(plans, again)
    draw_plans(plans[:1], png)

    text = html.unescape(first.read_text())
    for word in ("latency p99 <8k", "min_duration", "max_duration", "end of trace"):
        assert word in text
    assert "good: expect promote after" in text
    assert "broken" in text
    assert "not known" in text
    assert first.read_bytes() == again.read_bytes()
    assert png.read_bytes().startswith(b"\x89PNG")


def test_a_chart_wears_the_colours_of_a_report():
    """Each colour is the one that the style sheet has under the same name."""
    style = (ROOT / "canary/report/templates/style.css").read_text()

    assert [] == [
        name for name, colour in PALETTE.items() if f"--{name}: {colour};" not in style
    ]


def test_a_chart_that_can_not_be_written_is_one_sentence(plans, tmp_path):
    """Another kind of file, or a folder that isn't there."""
    with pytest.raises(UsageError, match="charts are SVG or PNG"):
        refuse_kind(tmp_path / "plan.pdf")
    with pytest.raises(UsageError, match="can't be written"):
        draw_plans(plans[:1], tmp_path / "nowhere" / "plan.svg")
