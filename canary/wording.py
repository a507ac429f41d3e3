"""Limits and findings in words: the same in verdict, report and terminal."""

from typing import Protocol

from canary.decision import Control, ControlStatus, Decision, GateResult, GateStatus


class Gauge(Protocol):
    """What must be known of a gate to say its values: a result, or a live view's."""

    @property
    def metric(self) -> str:
        """The gate's metric."""
        ...

    @property
    def effect(self) -> str:
        """Whether values are a "difference" or a "ratio"."""
        ...

    @property
    def block_s(self) -> float | None:
        """How long a unit is, if it is a block of time."""
        ...


METRICS = {
    "accuracy": "accuracy",
    "agreement": "agreement with the baseline",
    "errors": "error share",
    "ttft": "time to first token",
    "tpot": "time per output token",
    "latency": "latency",
    "service": "service time",
    "memory": "peak memory",
    "output_tokens": "answer length",
}


ABOUT_THIS_SET = (
    "Accuracy is judged on these very questions, not on all questions like them; once "
    "all are answered, what it says of them is exact."
)
"""What a policy with ``inference: set`` says about its accuracy."""


def limit_in_words(gate: GateResult) -> str:
    """Return the gate's limit as a sentence part: what must be true."""
    scope = "".join(
        [
            f" on {gate.task}" if gate.task else "",
            f" for {gate.regime} tokens" if gate.regime else "",
        ]
    )
    metric = METRICS[gate.metric]
    if gate.effect == "ratio":
        at = f"p{(gate.quantile or 0) * 100:g} "
        return f"{at}{metric}{scope} at most {gate.limit:g}x the baseline's"
    if gate.metric == "accuracy":
        return f"accuracy{scope} at most {points(-gate.limit)} below the baseline's"
    if gate.metric == "agreement":
        return f"{answers_that_differ(abs(gate.limit))}{scope}"
    if gate.over_s is not None:
        slow = f"share of requests with {metric} over {seconds(gate.over_s)}"
        return f"{slow}{scope} at most {points(gate.limit)} above the baseline's"
    return f"{metric}{scope} at most {points(gate.limit)} above the baseline's"


def answers_that_differ(margin: float) -> str:
    """Return the limit on agreement: which share of the answers may be others."""
    share = f"{margin * 100:.10g}%"
    return f"answers that differ from the baseline's on at most {share} of the requests"


def effect_in_words(value: float | None, gate: Gauge) -> str:
    """Return an estimate or a bound on the scale of the gate's limit."""
    if value is None:
        return "not known"
    if gate.effect == "ratio":
        return f"{value:.3g}x"
    rounded = round(value * 100, 1) + 0.0  # no "-0.0"
    return f"{rounded:+.1f} points"


def value_in_words(value: float | None, unit: str) -> str:
    """Return one arm's own value with its unit."""
    if value is None:
        return "not known"
    if unit == "share":
        return f"{value:.1%}"
    if unit == "bytes":
        return f"{value / 2**20:,.0f} MiB"
    if unit == "s/token":
        return f"{seconds(value)}/token"
    if unit == "tokens":
        return f"{value:,.0f} token{'' if round(value) == 1 else 's'}"
    return seconds(value)


def seconds(value: float) -> str:
    """Return a duration in the unit that people would say it in."""
    if value < 1:
        return f"{value * 1000:.3g} ms"
    if value < 120:
        return f"{value:.3g} s"
    if value < 2 * 3600:
        return f"{value / 60:.3g} min"
    return f"{value / 3600:.3g} h"


def points(value: float) -> str:
    """Return a difference of shares as percentage points."""
    number = f"{value * 100:g}"
    return f"{number} point" if number == "1" else f"{number} points"


def units_in_words(count: int, gate: Gauge, more: str = "") -> str:
    """Return a number of what the gate counts: ``1,200 pairs``, ``3 more blocks of
    40 s``."""
    return f"{count:,} {more}{unit_name(gate, plural=count != 1)}"


def missing_in_words(gate: GateResult) -> str:
    """Return how much more of the same it takes: ``about 30 more pairs``."""
    missing = rounded_up(max((gate.units_needed or 0) - gate.units, 0))
    if not missing:  # as many as were expected to be enough are there
        return f"a few more {unit_name(gate)}"
    return f"about {units_in_words(missing, gate, 'more ')}"


def unit_name(gate: Gauge, *, plural: bool = True) -> str:
    """Return what the gate counts: ``pairs``, ``blocks of 40 s``."""
    name, of = "validation group" if gate.metric == "accuracy" else "pair", ""
    if gate.block_s is not None:
        name, of = "block", f" of {gate.block_s:g} s"
    return f"{name}{'s' if plural else ''}{of}"


def finding_in_words(gate: GateResult) -> str:
    """Return what the evidence says about one gate, in one sentence."""
    limit = limit_in_words(gate)
    estimate = effect_in_words(gate.estimate, gate)
    lower, upper = effect_in_words(gate.lower, gate), effect_in_words(gate.upper, gate)
    if gate.status is GateStatus.HOLDS:
        bound = f"at least {lower}" if gate.at_least else f"at most {upper}"
        return f"Shown to hold: {limit} (measured {estimate}, {bound}, {_over(gate)})."
    if gate.status is GateStatus.BROKEN:
        bound = f"at most {upper}" if gate.at_least else f"at least {lower}"
        measured = f"measured {estimate}, {bound}, {_over(gate)}"
        return f"Shown to be broken: {limit} ({measured})."
    if gate.status is GateStatus.INSUFFICIENT:
        needs = f" {_needed(gate)}" if gate.units_needed else ""
        return f"Too little evidence: {limit}; {gate.reason}.{needs}"
    return (
        f"Not shown yet: {limit} (measured {estimate}, between {lower} and {upper} "
        f"{_over(gate)}). {_needed(gate)}"
    )


def _over(gate: GateResult) -> str:
    """Return what the limit was judged on: how many units, and what they were worth."""
    parts = [f"over {units_in_words(gate.units, gate)}"]
    if gate.block_s is not None:
        parts.append(f"with {requests_in_words(gate)}")
    if gate.weighted_estimate is not None:
        weighted = effect_in_words(gate.weighted_estimate, gate)
        parts.append(f"and {weighted} with the weights they were stored with")
    return " ".join(parts)


def requests_in_words(gate: GateResult) -> str:
    """Return how many requests the units hold, and what they are worth."""
    worth = ""
    if gate.effective_pairs is not None:
        worth = f" worth {gate.effective_pairs:,.0f} independent ones"
    return f"{gate.requests:,} requests{worth}"


def _needed(gate: GateResult) -> str:
    if gate.units_needed is None:
        return "More of the same evidence would not decide it."
    more = missing_in_words(gate)
    return f"Needs {more} if what follows looks like what came so far."


def rounded_up(count: int) -> int:
    """Return a projected count with two digits that mean something, never less."""
    step: int = 10 ** max(len(str(count)) - 2, 0)
    return -(-count // step) * step


def _findings(gates: tuple[GateResult, ...], *statuses: GateStatus) -> tuple[str, ...]:
    return tuple(finding_in_words(gate) for gate in gates if gate.status in statuses)


def because_rollback(gates: tuple[GateResult, ...]) -> tuple[str, ...]:
    """Return which limits are broken and how we know."""
    return _findings(gates, GateStatus.BROKEN)


def because_promote(gates: tuple[GateResult, ...]) -> tuple[str, ...]:
    """Return that every limit holds, limit by limit, and what no limit asks about."""
    every = {1: "The only limit is", 2: "Both limits are"}.get(
        len(gates), f"All {len(gates)} limits are"
    )
    blind = all(gate.metric not in ("accuracy", "agreement") for gate in gates)
    caveat = ", but no limit asks whether answers are still right" if blind else ""
    return (f"{every} shown to hold{caveat}.", *_findings(gates, GateStatus.HOLDS))


def because_continue(
    gates: tuple[GateResult, ...], missing: tuple[str, ...]
) -> tuple[str, ...]:
    """Return what is not known yet and how much more it takes."""
    waiting = (f"The policy asks for more: {', '.join(missing)}.",) if missing else ()
    undecided = _findings(gates, GateStatus.UNDECIDED, GateStatus.INSUFFICIENT)
    broken = _findings(gates, GateStatus.BROKEN)
    return (*waiting, *broken, *undecided)


def because_inconclusive(
    gates: tuple[GateResult, ...], missing: tuple[str, ...], ended: str
) -> tuple[str, ...]:
    """Return why the run ended without a verdict, and what would have settled it."""
    return (
        f"The run ended ({ended}) before this could be decided.",
        *because_continue(gates, missing),
    )


_COLUMNS = {
    "score": "accuracy",
    "agreement": "agreement with the baseline",
    "status": "error share",
    "ttft_send_s": "time to first token since the send",
    "ttft_s": "time to first token",
    "tpot_s": "time per output token",
    "service_s": "service time",
    "latency_s": "latency",
    "output_tokens": "answer length",
}


def control_in_words(decision: Decision) -> str:
    """Return how much of the run the A/A control saw, and what it found."""
    validity = decision.validity
    if not validity.control_share:
        return "none ran; the policy asks for none"
    asked = f"asked for {validity.control_share * 100:.3g}% of the requests"
    if not validity.control_pairs:
        return f"{asked}, but the baseline's second copy has answered none so far"
    seen = f"the baseline's second copy answered {validity.control_pairs:,}"
    if not validity.control:
        return f"{asked}; {seen}, and no limit is one that it can check"
    found = [control.status for control in validity.control]
    counts = [
        f"{found.count(status)} of {len(found)} {status}"
        for status in ControlStatus
        if status in found
    ]
    return f"{asked}; {seen} so far. Metrics: {', '.join(counts)}"


def control_metric_in_words(control: Control) -> str:
    """Return what of the two copies was compared."""
    column = _COLUMNS[control.column]
    if control.over_s is not None:
        return f"share of requests with {column} over {seconds(control.over_s)}"
    at = "" if control.quantile is None else f"p{control.quantile * 100:g} "
    return f"{at}{column}"


def control_tolerance_in_words(control: Control) -> str:
    """Return between which values two copies count as equal."""
    if control.effect == "ratio":
        return f"{1 / control.tolerance:.3g}x to {control.tolerance:.3g}x"
    return f"\N{PLUS-MINUS SIGN}{points(control.tolerance)}"


def control_reasons(controls: tuple[Control, ...]) -> tuple[str, ...]:
    """Return why a control that differs makes a run invalid, in one sentence."""
    found = [_differs(c) for c in controls if c.status is ControlStatus.DIFFERS]
    if not found:
        return ()
    reason = (
        f"the A/A control differs: {'; '.join(found)}; the device or its place, not "
        "the variant, makes the difference"
    )
    return (reason,)


def _differs(control: Control) -> str:
    ratio = control.effect == "ratio"
    more = control.estimate is None or control.estimate > (1 if ratio else 0)
    bound = effect_in_words(control.lower if more else control.upper, control)
    at = f"at {'least' if more else 'most'} {bound}"
    tolerance = points(control.tolerance)
    if ratio:
        tolerance = f"{control.tolerance if more else 1 / control.tolerance:.3g}x"
    estimate = effect_in_words(control.estimate, control)
    is_it = f"is {estimate} that of" if ratio else f"is {estimate} beside that of"
    return (
        f"{control_metric_in_words(control)} of the baseline's second copy {is_it} the "
        f"baseline ({at}, tolerance {tolerance}) over "
        f"{units_in_words(control.pairs, control)}"
    )
