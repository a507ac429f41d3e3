"""The report as one HTML file: no script, no request, light and dark, printable."""

import re
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from canary.decision import Decision
from canary.evidence.pairs import pair_up
from canary.policy.model import Policy
from canary.report import facts, words
from canary.report.cards import Arrangement, arrangements
from canary.report.data import NOT_RECORDED, ReportData, recorded
from canary.report.samples import (
    AccuracyTable,
    Cell,
    Timings,
    accuracy_table,
    timings,
)
from canary.wording import (
    METRICS,
    control_metric_in_words,
    control_tolerance_in_words,
    effect_in_words,
    limit_in_words,
    requests_in_words,
    unit_name,
    units_in_words,
    value_in_words,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _TimingView:
    timing: Timings
    charts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _CaseView:
    """One policy with all that its part of the page shows."""

    key: str
    policy: Policy
    decision: Decision
    change: tuple[str, ...]
    pairs_shown: int
    gate_charts: dict[str, str]
    evidence_charts: tuple[str, ...]
    accuracy: AccuracyTable | None
    timings: tuple[_TimingView, ...]
    cards: tuple[Arrangement, ...]


def render_html(data: ReportData) -> str:
    """Return the report as one self-contained HTML document, equal for equal data.

    Every name, sentence and error in it is escaped: they come from files and models.
    """
    cases = tuple(
        _case(data, policy, decision, f"policy-{number}")
        for number, (policy, decision) in enumerate(data.cases(), start=1)
    )
    page = _environment().get_template("report.html.j2")
    return page.render(
        data=data,
        cases=cases,
        run_name=recorded(data.run, "run") or NOT_RECORDED,
        notes=recorded(data.run, "plan", "notes") or (),
        shared_device={facts.shares_device(case.decision) for case in cases},
        by_request={case.policy.decision.by_request for case in cases},
        quantiles=any(g.quantile for case in cases for g in case.decision.gates),
    )


def _case(data: ReportData, policy: Policy, decision: Decision, key: str) -> _CaseView:
    # matplotlib takes half a second to import, which only those who draw should pay
    from canary.report.charts import evidence_charts, gate_charts  # noqa: PLC0415
    from canary.report.timing_charts import timing_charts  # noqa: PLC0415

    pairs = pair_up(
        data.observations, baseline=decision.baseline, candidate=decision.candidate
    ).until(decision.elapsed_s)
    return _CaseView(
        key=key,
        policy=policy,
        decision=decision,
        change=words.what_would_change(policy, decision),
        pairs_shown=len(pairs),
        gate_charts=gate_charts(decision, key),
        evidence_charts=evidence_charts(decision, key),
        accuracy=accuracy_table(pairs),
        timings=tuple(
            _TimingView(
                timing=timing, charts=timing_charts(timing, f"{key}-{timing.metric}")
            )
            for timing in timings(policy, pairs)
        ),
        cards=arrangements(data, decision),
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("canary.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "effect": effect_in_words,
        "limit": limit_in_words,
        "compared": control_metric_in_words,
        "tolerance": control_tolerance_in_words,
        "units": units_in_words,
        "unit_name": unit_name,
        "requests": requests_in_words,
        "value": value_in_words,
        "evidence": words.evidence_in_words,
        "tint": _tint,
        "breakable": _breakable,
    }
    environment.globals |= {
        "facts": facts,
        "words": words,
        "metrics": METRICS,
        "recorded": recorded,
        "not_recorded": NOT_RECORDED,
    }
    return environment


def _breakable(name: str) -> Markup:
    """Let a long variant name wrap at its joints rather than anywhere."""
    return Markup(re.sub(r"(?<=[/:(,+=_])", "<wbr>", str(escape(name))))  # noqa: S704 - escaped


def _tint(cell: Cell) -> str:
    """How strongly a cell of the heat table is coloured, as a CSS declaration."""
    if cell.baseline is None or cell.candidate is None:
        return ""
    difference = cell.candidate - cell.baseline
    strength = 0.08 + 0.42 * abs(difference) if abs(difference) >= 0.005 else 0
    colour = "--loss" if difference < 0 else "--gain"
    return f"{colour}: {strength:.0%}" if strength else ""
