"""What must hold between the values of a policy, beyond the form of each."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

from canary.errors import AttentionError, Fault
from canary.policy.check_placement import placement_faults
from canary.policy.check_schedule import hook_faults, schedule_faults
from canary.policy.check_traffic import (
    endpoint_faults,
    place_faults,
    traffic_faults,
)
from canary.policy.model import (
    GATE_FORMS,
    MODEL_LAYERS,
    Gate,
    VariantSpec,
    regime_names,
    variant_name,
)
from canary.policy.placement import Placement
from canary.policy.rules import LEAST_BLOCKS, DecisionRules
from canary.policy.schedule import Hooks, Schedule
from canary.policy.traffic import Traffic
from canary.policy.tree import Document, below
from canary.policy.units import BASE_BLOCK_S, LONGEST_S, duration_text, tokens_text
from canary.policy.wrong import nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """As much of a policy as could be read; None stands for what could not."""

    baseline: VariantSpec | None
    candidate: VariantSpec | None
    traffic: Traffic | None
    validation: tuple[str, ...] | None
    regimes: tuple[int, ...] | None
    gates: tuple[Gate | None, ...]
    decision: DecisionRules | None
    placement: Placement | None
    schedule: Schedule | None
    hooks: Hooks | None


def faults_between(draft: Draft, document: Document) -> Iterator[Fault]:
    """Yield what can't be, or can't be decided, in a policy whose values are sound."""
    yield from _variant_faults(draft, document)
    yield from _traffic_faults(draft, document)
    if draft.placement is not None and draft.baseline is not None:
        servers = draft.baseline.is_endpoint
        yield from placement_faults(draft.placement, servers, document)
    unordered = list(_regime_faults(draft, document))
    yield from unordered
    for index, gate in enumerate(draft.gates):
        if gate is not None:
            where = below("gates", index)
            yield from _gate_faults(where, gate, draft, document)
            if not unordered:
                yield from _scope_faults(where, gate, draft, document)
    yield from _repeated_gates(draft, document)
    if draft.decision is not None:
        unsound = list(_decision_faults(draft.decision, document))
        yield from unsound
        if not unsound:
            yield from _reach_faults(draft.decision, draft.gates, document)
        yield from _inference_faults(draft.decision, draft.gates, document)
        if draft.schedule is not None and not unsound:
            yield from schedule_faults(draft.schedule, draft.decision, document)
    if draft.hooks is not None:
        yield from hook_faults(draft.hooks, document)


def _traffic_faults(draft: Draft, document: Document) -> Iterator[Fault]:
    traffic, baseline = draft.traffic, draft.baseline
    if traffic is None:
        return
    yield from traffic_faults(traffic, draft.regimes, document)
    if baseline is not None:
        servers = baseline.is_endpoint
        yield from place_faults(
            traffic, draft.gates, endpoints=servers, document=document
        )


def _variant_faults(draft: Draft, document: Document) -> Iterator[Fault]:
    found = []
    for role, spec in (("baseline", draft.baseline), ("candidate", draft.candidate)):
        layers = None
        if spec is not None and not spec.is_endpoint:
            layers = MODEL_LAYERS.get(spec.model)
            if layers is None:
                message = f"no model of this name; {nearest(spec.model, MODEL_LAYERS)}"
                found.append(document.fault(f"{role}.model", message))
        if spec is None or not spec.is_endpoint:
            found += _attention_faults(role, layers, document)
    if draft.baseline and draft.candidate:
        found += endpoint_faults(draft.baseline, draft.candidate, document)
    yield from found
    if found or not draft.baseline or not draft.candidate:
        return
    name = variant_name(draft.candidate)
    if name == variant_name(draft.baseline):
        message = (
            f"baseline and candidate are both {name}; change one of them, or "
            "write label: copy into the candidate for an A/A run"
        )
        yield document.fault("candidate", message)


def _attention_faults(
    role: str, layers: int | None, document: Document
) -> Iterator[Fault]:
    """Check what is written, even where something else of the variant is wrong."""
    from canary.attention import (  # noqa: PLC0415 - values need no patterns
        PatternSpecError,
        pattern,
    )

    where = f"{role}.attention"
    written = document.data.get(role)
    spec = written.get("attention") if isinstance(written, dict) else None
    if not spec or not isinstance(spec, (str, dict)) or document.unreadable_in(where):
        return
    try:
        attention = pattern(spec)
        for layer in range(layers or 0):
            attention.at(layer)
    except PatternSpecError as error:
        yield document.fault(reduce(below, error.where, where), error.message)
    except AttentionError as error:
        yield document.fault(where, str(error))


def _regime_faults(draft: Draft, document: Document) -> Iterator[Fault]:
    for index, (low, high) in enumerate(pairwise(draft.regimes or ())):
        if high <= low:
            message = (
                f"boundaries must increase, but {tokens_text(high)} follows "
                f"{tokens_text(low)}; write them in order"
            )
            yield document.fault(below("regimes", index + 1), message)


def _gate_faults(
    where: str, gate: Gate, draft: Draft, document: Document
) -> Iterator[Fault]:
    form_message = _form_message(gate)
    if form_message:
        yield document.fault(where, form_message)
    if gate.task is not None and gate.metric != "accuracy":
        message = f"{gate.metric} isn't measured by task, only accuracy is; remove it"
        yield document.fault(f"{where}.task", message)
    if gate.metric == "accuracy" and draft.validation == ():
        message = (
            "accuracy needs answers that are known; "
            "write validation: [replay/validation/NAME.jsonl]"
        )
        yield document.fault(where, message)


def _scope_faults(
    where: str, gate: Gate, draft: Draft, document: Document
) -> Iterator[Fault]:
    if gate.regime is not None and draft.regimes is not None:
        names = regime_names(draft.regimes)
        if gate.regime not in names:
            message = f"no regime of this name; {nearest(gate.regime, names)}"
            yield document.fault(f"{where}.regime", message)


def _form_message(gate: Gate) -> str | None:
    """Return which keys to add or remove so that the gate states one limit."""
    values = {
        "quantile": gate.quantile,
        "over": gate.over_s,
        "margin": gate.margin,
        "max_ratio": gate.max_ratio,
    }
    given = {key for key, value in values.items() if value is not None}
    forms = GATE_FORMS[gate.metric]
    form = min(forms, key=lambda form: len(given.symmetric_difference(form)))
    if given == set(form):
        return None
    needs = ", or ".join(" and ".join(form) for form in forms)
    advice = [f"add {key}" for key in form if key not in given]
    advice += [f"remove {key}" for key in values if key in given - set(form)]
    return f"a limit on {gate.metric} needs {needs}; {', '.join(advice)}"


def _repeated_gates(draft: Draft, document: Document) -> Iterator[Fault]:
    first: dict[str, int] = {}
    for index, gate in enumerate(draft.gates):
        if gate is None:
            continue
        earlier = first.setdefault(gate.name, index)
        if earlier != index:
            message = (
                f"gates[{earlier}] is a limit on the same thing ({gate.name}); "
                "remove one of them"
            )
            yield document.fault(below("gates", index), message)


def _decision_faults(rules: DecisionRules, document: Document) -> Iterator[Fault]:
    longest = duration_text(rules.max_duration_s)
    durations_s = {"min_duration": rules.min_duration_s}
    if rules.mode == "sequential":
        durations_s["look_every"] = rules.look_every_s
    elif "decision.look_every" in document.places:
        message = "not used by mode: fixed, which looks once, at the end; remove it"
        yield document.fault("decision.look_every", message)
    for key, seconds in durations_s.items():
        if seconds <= rules.max_duration_s:
            continue
        where, text = f"decision.{key}", duration_text(seconds)
        if where in document.places:
            message = f"{text} is longer than max_duration; write at most {longest}"
            yield document.fault(where, message)
        else:
            message = (
                f"{key} is {text} by default, longer than this; "
                f"write {key}, at most {longest}"
            )
            yield document.fault("decision.max_duration", message)
    if isinstance(rules.block, float):
        yield from _block_faults(rules.block, rules, document)


def _inference_faults(
    rules: DecisionRules, gates: tuple[Gate | None, ...], document: Document
) -> Iterator[Fault]:
    metrics = {"accuracy" if gate is None else gate.metric for gate in gates}
    if rules.inference == "set" and metrics and "accuracy" not in metrics:
        message = (
            "set is about the accuracy on a validation set, and no gate asks for it; "
            "add {metric: accuracy, margin: 1%} to gates, or remove it"
        )
        yield document.fault("decision.inference", message)


def _block_faults(
    block_s: float, rules: DecisionRules, document: Document
) -> Iterator[Fault]:
    if block_s * LEAST_BLOCKS <= rules.max_duration_s:
        return
    longest_s = rules.max_duration_s / LEAST_BLOCKS // BASE_BLOCK_S * BASE_BLOCK_S
    advice = f"at most {duration_text(longest_s)}" if longest_s else "request"
    enough_s = block_s * LEAST_BLOCKS
    if enough_s <= LONGEST_S:
        advice += f", or max_duration: {duration_text(enough_s)} or more"
    message = (
        f"a run of up to {duration_text(rules.max_duration_s)} holds fewer than "
        f"{LEAST_BLOCKS} blocks of {duration_text(block_s)}; write {advice}"
    )
    yield document.fault("decision.block", message)


def _reach_faults(
    rules: DecisionRules, gates: tuple[Gate | None, ...], document: Document
) -> Iterator[Fault]:
    if rules.by_request or rules.mode == "fixed":
        return
    # scipy takes a second to import, which policies without blocks needn't pay
    from canary.policy.reach import shortfall  # noqa: PLC0415

    for index, gate in enumerate(gates):
        if gate is not None and not _form_message(gate):
            message = shortfall(gate, rules)
            if message:
                yield document.fault(below("gates", index), message)
