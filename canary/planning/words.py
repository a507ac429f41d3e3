"""A plan for people: a table where there is a terminal, lines elsewhere."""

from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from canary.decision import Verdict
from canary.planning.clock import lasting
from canary.planning.outlook import Expect, GateOutlook, PolicyPlan
from canary.planning.simulate import Outcome, Share
from canary.report.terminal import print_item
from canary.report.words import SIGNS, printable
from canary.wording import rounded_up

_SIGNS = {
    Expect.PROMOTE: SIGNS[Verdict.PROMOTE],
    Expect.ROLLBACK: SIGNS[Verdict.ROLLBACK],
    Expect.INCONCLUSIVE: SIGNS[Verdict.INCONCLUSIVE],
    Expect.UNKNOWN: SIGNS[Verdict.INVALID],
}


def render_plan(plan: PolicyPlan, console: Console) -> None:
    """Print when a policy is expected to be decided, and on what that rests."""
    title = f"{_SIGNS[plan.expect]} {printable(plan.policy)}: {headline(plan)}"
    console.print(Text(title, style="bold"), soft_wrap=True)
    lines = [
        *(("-", sentence) for sentence in plan.reasons),
        *(("=", sentence) for sentence in (*plan.basis, *plan.notes)),
        *(("~", sentence) for sentence in _simulated(plan)),
    ]
    if console.is_terminal:
        print_item(" ", _traffic(plan), console)
        console.print(_table(plan.gates))
        for sign, sentence in lines:
            print_item(sign, sentence, console)
        return
    gates = [(" ", _gate(gate)) for gate in plan.gates]
    for sign, sentence in [(" ", _traffic(plan)), *gates, *lines]:
        console.print(Text(f"  {sign} {printable(sentence)}"), soft_wrap=True)


def headline(plan: PolicyPlan) -> str:
    """Return what to expect of a policy and when, in one line."""
    about = "" if plan.expected_s is None else f"about {lasting(plan.expected_s)}"
    expect = "expect" if plan.piloted else "of equal arms expect"
    if plan.expect is Expect.ROLLBACK:
        return f"{expect} rollback after {about}"
    if plan.expect is Expect.PROMOTE:
        soonest = ""
        if plan.at_least_s is not None and plan.at_least_s < (plan.expected_s or 0):
            soonest = f", no sooner than {lasting(plan.at_least_s)}"
        return f"{expect} promote after {about}{soonest}"
    if plan.expect is Expect.UNKNOWN:
        return "can't say when it will be decided"
    never = "can't be promoted" if plan.at_least_s is None else f"{expect} no verdict"
    longer = f"; at this rate it takes {about}" if about else ""
    return f"{never} before {plan.deadline}{longer}"


def _traffic(plan: PolicyPlan) -> str:
    """Return what the run sends, and to which regimes."""
    regimes = ", ".join(
        f"{one.regime} {one.requests:,}{_hourly(one.per_hour)}"
        for one in plan.regimes
        if one.requests
    )
    sent = f"{plan.requests:,} requests over {lasting(plan.span_s)}"
    return f"sends {sent}; by prompt length: {regimes}"


def _hourly(rate: float | None) -> str:
    return "" if rate is None else f" ({_count(rate)} an hour)"


def _count(value: float) -> str:
    """Three digits mean something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _gate(gate: GateOutlook) -> str:
    """Return what a gate needs and gets, in one line."""
    needs = f"expected {_expected(gate)}"
    if gate.holds:
        needs = f"at least {_least(gate)}, {needs}"
    come = f"{gate.available:,} {gate.unit}s come{_hourly(gate.per_hour)}"
    shown = "to hold" if gate.holds else "to be broken"
    when = "not known when" if gate.expected_s is None else lasting(gate.expected_s)
    verb = "shown" if gate.reason is None else "would be shown"
    return f"{gate.name}: {needs}; {come}; {verb} {shown} after: {when}"


def _least(gate: GateOutlook) -> str:
    """What a limit needs to be shown to hold, even if all goes well."""
    if not gate.holds:
        return "-"
    return "?" if gate.at_least is None else f"{gate.at_least:,}"


def _expected(gate: GateOutlook) -> str:
    return "?" if gate.expected is None else f"{rounded_up(gate.expected):,}"


def _table(gates: Iterable[GateOutlook]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("Gate", overflow="fold")
    table.add_column("Counts", no_wrap=True)
    for name in ("At least", "Expected", "Come", "An hour", "Shown after"):
        table.add_column(name, justify="right", no_wrap=True)
    for gate in gates:
        late = "" if gate.reason is None else "! "
        shown = "?" if gate.expected_s is None else lasting(gate.expected_s)
        table.add_row(
            Text(printable(gate.name)),
            f"{gate.unit.removeprefix('validation ')}s",
            _least(gate),
            _expected(gate),
            f"{gate.available:,}",
            "?" if gate.per_hour is None else _count(gate.per_hour),
            f"{late}{shown}{'' if gate.holds else ' broken'}",
        )
    return table


def _simulated(plan: PolicyPlan) -> Iterable[str]:
    """Yield what became of the simulated runs, a line each kind."""
    for index, outcome in enumerate(plan.simulated):
        if not index:
            yield _runs_in_words(plan, outcome)
        when = "none decided"
        if outcome.median_s is not None:
            when = f"half of the verdicts within {lasting(outcome.median_s)}"
        parts = [
            f"promoted {_share(outcome.promoted)}",
            f"rolled back {_share(outcome.rolled_back)}",
            f"not decided {_share(outcome.inconclusive)}",
        ]
        if outcome.invalid.value:
            parts.append(f"invalid {_share(outcome.invalid)}")
        yield f"{outcome.harm or 'as it is'}: {', '.join(parts)}; {when}"


def _runs_in_words(plan: PolicyPlan, outcome: Outcome) -> str:
    told = (
        f"simulated {outcome.runs:,} runs of {outcome.requests:,} requests over "
        f"{lasting(outcome.span_s)}"
    )
    if not outcome.cut:
        sent = f" (of {plan.requests:,} that are sent)"
        return told + (sent if outcome.requests < plan.requests else "")
    return (
        f"{told}, the first of {plan.requests:,}: min_duration and min_pairs are left "
        "aside, and what isn't decided there may be later"
    )


def _share(share: Share) -> str:
    return f"{share.value:.0%} ± {share.error:.0%}"
