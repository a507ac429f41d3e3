"""What a policy will do, in sentences, for `canary validate`."""

from canary.policy.explain_placement import placement_sentences
from canary.policy.explain_schedule import hook_sentences, schedule_sentences
from canary.policy.explain_traffic import traffic_sentences
from canary.policy.model import (
    Gate,
    Policy,
    variant_name,
)
from canary.policy.reach import least_units
from canary.policy.rules import DecisionRules
from canary.policy.units import (
    duration_text,
    percentile_text,
    share_text,
)
from canary.wording import ABOUT_THIS_SET, METRICS, answers_that_differ, seconds


def explain(policy: Policy) -> str:
    """Return what `policy` compares and when it promotes, rolls back and ends."""
    baseline, candidate = variant_name(policy.baseline), variant_name(policy.candidate)
    lines = [
        *traffic_sentences(policy),
        *placement_sentences(policy),
        *schedule_sentences(policy),
    ]
    if policy.validation:
        lines.append(f"Answers are scored on {', '.join(policy.validation)}.")
    lines.append(f"It promotes only if {_condition(policy)}:")
    lines += [
        f"  - {limit_text(gate)}{_least_text(gate, policy.decision)}"
        for gate in policy.gates
    ]
    if policy.decision.mode == "sequential":
        lines.append(_IN_BRACKETS)
    lines += [
        _rollback(policy.decision),
        *_control(policy),
        _ending(policy),
        _certainty(policy),
        *hook_sentences(policy),
    ]
    if policy.decision.inference == "set":
        lines.append(ABOUT_THIS_SET)
    question = f"{policy.name}: may {candidate} replace {baseline}?"
    return "\n  ".join([question, *lines])


_IN_BRACKETS = (
    "In brackets is how much that takes if nothing at all goes wrong; where the "
    "candidate does worse than the baseline it takes more, where better perhaps less."
)


def _least_text(gate: Gate, rules: DecisionRules) -> str:
    if rules.mode == "fixed":
        return ""
    needed = least_units(gate, rules)
    if gate.metric == "accuracy":
        enough = "or the whole set" if rules.inference == "set" else "or more"
        return f" ({needed:,} validation groups {enough})"
    if rules.by_request:
        return f" ({needed:,} requests or more)"
    longer = seconds(needed * rules.least_block_s)
    return f" ({needed:,} blocks of time or more, at least {longer})"


def _condition(policy: Policy) -> str:
    rules, count = policy.decision, len(policy.gates)
    least = f"{rules.min_pairs:,} requests answered by both"
    if rules.min_duration_s:
        least = f"{duration_text(rules.min_duration_s)} and {least}"
    limits = {1: "this limit is", 2: "both limits are"}
    return (
        f"{limits.get(count, f'all {count} limits are')} shown to hold, after {least}"
    )


def _rollback(rules: DecisionRules) -> str:
    if rules.mode == "fixed":
        return "It rolls back if a limit is shown to be broken at its one look."
    return "It rolls back as soon as a limit is shown to be broken."


def _control(policy: Policy) -> list[str]:
    if not policy.aa_control:
        return []
    share = share_text(policy.aa_control)
    told = (
        f"A second copy of the baseline answers {share} of the requests; if that is "
        "shown to differ from the baseline, the run is invalid."
    )
    return [told]


def _ending(policy: Policy) -> str:
    rules = policy.decision
    spent = f", after {policy.budget.gpu_hours:g} GPU-hours" if policy.budget else ""
    undecided = {
        "rollback": "the candidate is rolled back",
        "hold": "the rollout stays where it is",
    }[rules.at_deadline]
    looks = f"every {duration_text(rules.look_every_s)} and ends"
    if rules.mode == "fixed":
        looks = "once, at the end:"
    trace = policy.traffic
    end = "" if trace.loop or trace.follow else " or with the trace"
    return (
        f"It looks {looks} after {duration_text(rules.max_duration_s)}{spent}{end}; "
        f"if that settles nothing, {undecided}."
    )


def _certainty(policy: Policy) -> str:
    rules = policy.decision
    return (
        f"The chance to promote although a limit is broken is at most "
        f"{share_text(rules.alpha)}, to roll back although all hold at most "
        f"{share_text(rules.harm_alpha)}, if {_assumed(policy)}."
    )


def _assumed(policy: Policy) -> str:
    """Return what limits on accuracy and on traffic each take for granted."""
    metrics = {gate.metric for gate in policy.gates}
    alike, more, parts = [], "", []
    if "accuracy" in metrics and policy.decision.inference == "set":
        parts.append("questions come in random order")
    elif "accuracy" in metrics:
        alike.append("validation groups")
    if metrics - {"accuracy"}:
        units, more = _traffic_units(policy.decision)
        alike.append(units)
    if alike:
        parts.append(f"{' and '.join(alike)} are independent")
    return f"{' and '.join(parts)}{more}"


def _traffic_units(rules: DecisionRules) -> tuple[str, str]:
    if isinstance(rules.block, float):
        return f"blocks of {duration_text(rules.block)}", ""
    if rules.by_request:
        short = ", which a run of up to 1h takes for granted"
        return "requests", short if rules.block == "auto" else ""
    sets = f"the first {duration_text(rules.calibration_s)} (5% of min_duration)"
    return "blocks of time", f"; {sets} set their length and count for no limit"


def limit_text(gate: Gate) -> str:
    """Return what a gate demands: ``accuracy on code at most 1 point below ...``."""
    metric = METRICS[gate.metric]
    task = f" on {gate.task}" if gate.task else ""
    regime = f" for prompts of {gate.regime} tokens" if gate.regime else ""
    if gate.quantile is not None and gate.max_ratio is not None:
        what = f"{percentile_text(gate.quantile)} {metric}{regime}"
        return f"{what} at most {gate.max_ratio:g} times the baseline's"
    if gate.metric == "agreement":
        return f"{answers_that_differ(gate.margin or 0)}{regime}"
    points = f"{(gate.margin or 0) * 100:.10g}"
    margin = f"{points} {'point' if points == '1' else 'points'}"
    if gate.metric == "accuracy":
        return f"{metric}{task}{regime} at most {margin} below the baseline's"
    if gate.over_s is not None:
        metric = f"share of requests with {metric} over {duration_text(gate.over_s)}"
    return f"{metric}{regime} at most {margin} above the baseline's"
