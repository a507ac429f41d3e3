"""A policy file's values to a Policy, section by section, so that one fault hides none.

The validator's errors are put in our words (`canary.policy.wrong`) and located by the
document; what must hold between values is checked in `canary.policy.check`.
"""

import re
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from canary.errors import Fault
from canary.policy.check import Draft, faults_between
from canary.policy.model import (
    Budget,
    Gate,
    Policy,
    VariantSpec,
)
from canary.policy.placement import Placement
from canary.policy.rules import DecisionRules
from canary.policy.schedule import Hook, Hooks, Schedule
from canary.policy.traffic import UNION_TAGS, Crop, Limit, LoadTarget, Traffic
from canary.policy.tree import Document, below
from canary.policy.wrong import missing_key, unknown_key, written_keys, wrong_value

_MODELS: dict[str, type[BaseModel]] = {
    "": Policy,
    "baseline": VariantSpec,
    "candidate": VariantSpec,
    "traffic": Traffic,
    "traffic.speed": LoadTarget,
    "traffic.limit": Limit,
    "traffic.crop": Crop,
    "gates[]": Gate,
    "budget": Budget,
    "decision": DecisionRules,
    "placement": Placement,
    "schedule": Schedule,
    "hooks": Hooks,
    **{f"hooks.{name}": Hook for name in Hooks.model_fields},
}
"""Which model stands at a path of the document, where one does."""

_SECTIONS = written_keys(Policy)
_ADAPTERS: dict[str, TypeAdapter[Any]] = {
    key: TypeAdapter(Annotated[info.annotation, Field(), *info.metadata])  # type: ignore[arg-type]  # a type that is made at run time
    for key, info in _SECTIONS.items()
}
_GATE: TypeAdapter[Gate] = TypeAdapter(Gate)


def build(document: Document) -> tuple[Policy | None, list[Fault]]:
    """Return the policy that a document says, or None and everything wrong with it."""
    data = document.data
    faults = [
        document.key_fault(key, unknown_key(key, Policy))
        for key in data
        if key not in _SECTIONS
    ]
    values: dict[str, Any] = {}
    for key, info in _SECTIONS.items():
        if key == "gates" and isinstance(data.get(key), list) and data[key]:
            values[key] = []
            for index, gate in enumerate(data[key]):
                read, found = _validated(_GATE, gate, below(key, index), document)
                values[key].append(read)
                faults += found
        elif key in data:
            values[key], found = _validated(_ADAPTERS[key], data[key], key, document)
            faults += found
        elif not document.complete:
            values[key] = None
        elif info.is_required():
            values[key] = None
            faults.append(document.fault(key, missing_key(key, Policy)))
        else:
            values[key] = info.get_default()
    if not document.complete:
        # The other half of these rules stands in a base that couldn't be read.
        values["decision"] = None
    faults += faults_between(_draft(values), document)
    if faults or document.unreadable or not document.complete:
        return None, faults
    return Policy.model_validate(data, by_alias=True, by_name=False), []


def _draft(values: dict[str, Any]) -> Draft:
    return Draft(
        baseline=values["baseline"],
        candidate=values["candidate"],
        traffic=values["traffic"],
        validation=values["validation"],
        regimes=values["regimes"],
        gates=tuple(values["gates"] or ()),
        decision=values["decision"],
        placement=values["placement"],
        schedule=values["schedule"],
        hooks=values["hooks"],
    )


def _validated(
    adapter: TypeAdapter[Any], value: object, where: str, document: Document
) -> tuple[Any, list[Fault]]:
    """Return a value, or None with what is wrong with it and isn't reported yet."""
    try:
        read = adapter.validate_python(value, by_alias=True, by_name=False)
    except ValidationError as error:
        return None, list(_faults(error.errors(), where, document))
    return (None if document.unreadable_in(where) else read), []


def _faults(
    errors: Sequence[ErrorDetails], where: str, document: Document
) -> Iterator[Fault]:
    for error in errors:
        path = [where, *(part for part in error["loc"] if part not in UNION_TAGS)]
        here, parent = reduce(below, path, ""), reduce(below, path[:-1], "")
        key = str(path[-1])
        model = _MODELS.get(re.sub(r"\[\d+\]", "[]", parent))
        if here in document.unreadable:
            continue
        if error["type"] == "extra_forbidden" and model:
            yield document.key_fault(here, unknown_key(key, model))
        elif error["type"] == "missing" and model:
            # What is missing may stand in a base that couldn't be read.
            if document.complete:
                yield document.fault(here, missing_key(key, model))
        else:
            info = written_keys(model).get(key) if model else None
            yield document.fault(here, wrong_value(error, info))
