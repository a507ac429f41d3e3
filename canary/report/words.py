"""Verdicts, statuses and what would change them, in words and signs."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from canary.decision import Decision, GateResult, GateStatus, Verdict
from canary.policy.model import Policy
from canary.report.facts import moment
from canary.wording import limit_in_words, missing_in_words, rounded_up, seconds

SIGNS = {
    Verdict.PROMOTE: "✔",
    Verdict.ROLLBACK: "✖",
    Verdict.CONTINUE: "…",
    Verdict.INCONCLUSIVE: "?",
    Verdict.INVALID: "!",
}
STATUS_SIGNS = {
    GateStatus.HOLDS: "✔",
    GateStatus.BROKEN: "✖",
    GateStatus.UNDECIDED: "?",
    GateStatus.INSUFFICIENT: "…",
}
MEANINGS = {
    Verdict.PROMOTE: "every limit is shown to hold",
    Verdict.ROLLBACK: "a limit is shown to be broken",
    Verdict.CONTINUE: "not decided yet",
    Verdict.INCONCLUSIVE: "the run ended before it could be decided",
    Verdict.INVALID: "the evidence can't be trusted",
}


def headline(decisions: Sequence[Decision]) -> str:
    """Return how many policies have which verdict, the decided ones first."""
    if len(decisions) == 1:
        return f"{decisions[0].policy}: {decisions[0].verdict}"
    counts = Counter(decision.verdict for decision in decisions)
    return ", ".join(f"{counts[v]} {v}" for v in Verdict if counts[v]) or "no policy"


def why(decision: Decision) -> str:
    """Return the one sentence that explains the verdict."""
    return decision.because[0] if decision.because else "No reason was recorded."


def what_would_change(policy: Policy, decision: Decision) -> tuple[str, ...]:
    """Return what would lead to another verdict, one sentence each."""
    final = "Nothing in this run, the verdict is final."
    if decision.verdict is Verdict.PROMOTE:
        rests_on = "this traffic, these validation sets and this hardware"
        return (f"{final} It rests on {rests_on}; when one changes, run again.",)
    if decision.verdict is Verdict.ROLLBACK:
        broken = [g for g in decision.gates if g.status is GateStatus.BROKEN]
        limits = " and ".join(map(limit_in_words, broken)) or "every limit"
        return (f"{final} A candidate that keeps {limits} needs a run of its own.",)
    if decision.verdict is Verdict.INVALID:
        return ("A new run without the fault named here; this one decides nothing.",)
    return tuple(_still_needed(policy, decision))


def _still_needed(policy: Policy, decision: Decision) -> Iterable[str]:
    rules = policy.decision
    if decision.pairs < rules.min_pairs:
        missing = rules.min_pairs - decision.pairs
        yield f"{missing:,} more pairs, to reach the policy's {rules.min_pairs:,}."
    if decision.elapsed_s < rules.min_duration_s:
        missing_s = rules.min_duration_s - decision.elapsed_s
        yield f"{seconds(missing_s)} more, to reach the policy's minimum duration."
    for gate in decision.gates:
        if gate.status in (GateStatus.UNDECIDED, GateStatus.INSUFFICIENT):
            yield _gate_needs(gate)


def _gate_needs(gate: GateResult) -> str:
    if gate.units_needed is None:
        return (
            f"{gate.name}: not more of the same evidence, only a clearer effect or "
            "another limit."
        )
    return (
        f"{gate.name}: {missing_in_words(gate)} ({gate.units:,} so far), if what "
        "follows looks like what came so far."
    )


def override_in_words(override: Mapping[str, str]) -> str:
    """Return what a person decided beside the verdict: action, who, when, why."""
    action, by, why = (override[key] for key in ("action", "by", "why"))
    return f"{action}, by {by} on {moment(override['when'])}: {why}"


def evidence_in_words(log_e: float, needed: float | None = None) -> str:
    """Return log evidence, beside the threshold that it must reach."""
    value = f"{log_e:+.1f}" if abs(log_e) != float("inf") else "beyond measure"
    return value if needed is None else f"{value} of {needed:.1f}"


def progress_in_words(gate: GateResult) -> str:
    """Return how many units there are and, if more are needed, how many in all."""
    if gate.units_needed is None:
        return f"{gate.units:,}, needed: not known"
    if gate.units_needed <= gate.units:
        return f"{gate.units:,}"
    return f"{gate.units:,} of about {rounded_up(gate.units_needed):,}"


def printable(text: str) -> str:
    """Return the text on one line and without control characters.

    Task names and errors come from files and models; none may steer a terminal or
    break out of a table row.
    """
    kept = (" " if unicodedata.category(c) == "Cc" else c for c in text)
    return " ".join("".join(kept).split())
