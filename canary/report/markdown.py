"""The report as Markdown that fits a pull request comment."""

import re
from collections.abc import Iterable, Sequence

from canary.decision import Control, Decision, GateResult
from canary.policy.model import Policy
from canary.report.cards import arrangements
from canary.report.data import NOT_RECORDED, ReportData, recorded
from canary.report.facts import moment
from canary.report.words import (
    MEANINGS,
    SIGNS,
    STATUS_SIGNS,
    headline,
    override_in_words,
    printable,
    progress_in_words,
    what_would_change,
    why,
)
from canary.wording import (
    control_in_words,
    control_metric_in_words,
    control_tolerance_in_words,
    effect_in_words,
    limit_in_words,
    seconds,
    unit_name,
    units_in_words,
    value_in_words,
)


def render_markdown(data: ReportData) -> str:
    """Return the report as GitHub-flavoured Markdown, equal for equal data."""
    lines = [f"## Canary: {_text(headline(data.decisions))}", ""]
    lines += _table(
        ("Policy", "Verdict", "Why", "Pairs", "What would change it"),
        [_overview_row(policy, decision) for policy, decision in data.cases()],
    )
    for policy, decision in data.cases():
        lines += ["", *_case(policy, decision), *_cards(data, decision)]
    lines += ["", *_footer(data)]
    return "\n".join(lines) + "\n"


def _overview_row(policy: Policy, decision: Decision) -> tuple[str, ...]:
    by_hand = decision.override
    overridden = f"<br>**overridden: {_text(by_hand['action'])}**" if by_hand else ""
    arms = f"{_code(decision.baseline)} → {_code(decision.candidate)}"
    return (
        f"**{_text(decision.policy)}**<br>{arms}",
        f"{SIGNS[decision.verdict]}&nbsp;{decision.verdict}{overridden}",
        _text(why(decision)),
        f"{decision.pairs:,}",
        "<br>".join(_text(line) for line in what_would_change(policy, decision)),
    )


def _case(policy: Policy, decision: Decision) -> Iterable[str]:
    verdict = f"{SIGNS[decision.verdict]} {decision.verdict}"
    yield f"### {_text(decision.policy)}: {verdict}"
    yield ""
    yield f"*{MEANINGS[decision.verdict].capitalize()}.* {_text(decision.action)}."
    if decision.override:
        told = _text(override_in_words(decision.override))
        yield ""
        yield f"**Overridden by hand**: {told}"
    yield ""
    yield from (f"- {_text(sentence)}" for sentence in decision.because)
    yield ""
    yield from _table(
        ("Limit", "Status", "Measured", "Bounds", "Baseline", "Candidate", "Units"),
        [_gate_row(gate) for gate in decision.gates],
    )
    yield ""
    yield (
        f"Each bound is one-sided at {policy.decision.alpha * 100:g}% and holds at "
        f"{'its one' if policy.decision.mode == 'fixed' else 'every'} look; "
        f"{decision.pairs:,} pairs in {seconds(decision.elapsed_s)}."
    )
    yield from _control(decision)
    yield from _routing(decision)


def _control(decision: Decision) -> Iterable[str]:
    yield ""
    yield f"A/A control: {_text(control_in_words(decision))}."
    if not decision.validity.control:
        return
    yield "Times show the median of the requests' ratios, unless a quantile is named."
    yield ""
    yield from _table(
        ("Second copy", "Status", "Measured", "Bounds", "Counts as equal", "Units"),
        [_control_row(control) for control in decision.validity.control],
    )


def _control_row(control: Control) -> tuple[str, ...]:
    bounds = (effect_in_words(v, control) for v in (control.lower, control.upper))
    return (
        control_metric_in_words(control),
        control.status,
        effect_in_words(control.estimate, control),
        " to ".join(bounds),
        control_tolerance_in_words(control),
        units_in_words(control.pairs, control),
    )


def _gate_row(gate: GateResult) -> tuple[str, ...]:
    measured = effect_in_words(gate.estimate, gate)
    if gate.weighted_estimate is not None:
        weighted = effect_in_words(gate.weighted_estimate, gate)
        measured = f"{measured} (weighted {weighted})"
    if gate.reason:
        measured = f"{measured} ({gate.reason})"
    lower, upper = effect_in_words(gate.lower, gate), effect_in_words(gate.upper, gate)
    return (
        _text(limit_in_words(gate)),
        f"{STATUS_SIGNS[gate.status]}&nbsp;{gate.status}",
        _text(measured),
        f"{lower} to {upper}",
        value_in_words(gate.baseline, gate.unit),
        value_in_words(gate.candidate, gate.unit),
        f"{progress_in_words(gate)} {unit_name(gate)}",
    )


def _cards(data: ReportData, decision: Decision) -> Iterable[str]:
    found = arrangements(data, decision)
    if not found:
        return
    yield ""
    yield "Where the arms were; median service times, and the median ratio:"
    yield ""
    yield from _table(
        ("Baseline on", "Candidate on", "Pairs", "Baseline", "Candidate", "Ratio"),
        [
            (
                _text(one.baseline_device or "all together"),
                _text(one.candidate_device or "all together"),
                f"{one.pairs:,}",
                value_in_words(one.baseline_s, "s"),
                value_in_words(one.candidate_s, "s"),
                f"{one.ratio:.3f}x",
            )
            for one in found
        ],
    )


def _routing(decision: Decision) -> Iterable[str]:
    if not decision.routing:
        return
    yield ""
    yield from _table(
        ("Prompt length, tokens", "Served by", "Pairs", "Why"),
        [
            (_text(r.regime), _code(r.serve), f"{r.pairs:,}", _text(r.why))
            for r in decision.routing
        ],
    )


def _footer(data: ReportData) -> Iterable[str]:
    created = _text(moment(recorded(data.run, "created")))
    yield (
        f"<sub>Run {_recorded(data, 'run')}, {created}, seed "
        f"{_recorded(data, 'seed')}. Repeat it with {_recorded(data, 'command')}.</sub>"
    )


def _recorded(data: ReportData, key: str) -> str:
    value = recorded(data.run, key)
    return NOT_RECORDED if value is None else _code(str(value))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    yield f"| {' | '.join(head)} |"
    yield f"| {' | '.join('---' for _ in head)} |"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _text(text: str) -> str:
    """Escape what Markdown, a table or HTML would take for its own."""
    escaped = re.sub(r"([\\`*\[\]<>|~#])|(?<!\w)_|_(?!\w)", r"\\\g<0>", printable(text))
    return escaped.replace("&", "&amp;")


def _code(text: str) -> str:
    """Return a code span; inside a table even that must escape its pipes."""
    text = printable(text).replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if longest else ""
    return f"{fence}{pad}{text}{pad}{fence}"
