"""The JSON Schema of a policy file, for editors (`canary schema`)."""

from typing import Any

import yaml
from pydantic import BaseModel

from canary.policy.model import (
    GATE_FORMS,
    MODEL_LAYERS,
    Budget,
    Gate,
    Policy,
    VariantSpec,
)
from canary.policy.placement import Placement
from canary.policy.rules import DecisionRules
from canary.policy.schedule import Hook, Hooks, Schedule
from canary.policy.traffic import Crop, Limit, Traffic
from canary.policy.wrong import written_keys

_LIMIT_KEYS = ("quantile", "over", "margin", "max_ratio")
_EXTENDS = {
    "type": "string",
    "minLength": 1,
    "description": "Another policy file, relative to this one. What this file writes "
    "is merged into its mappings, and replaces its lists and single values.",
    "examples": ["base.yaml"],
}


def json_schema() -> dict[str, Any]:
    """Return a JSON Schema (2020-12) that describes policy files.

    It knows forms and units and which keys a gate needs, not what only `load_policies`
    can know: regimes by name, repeated gates, files. A policy that extends another may
    leave out what it needs, for the base may have it.
    """
    raw: dict[str, Any] = Policy.model_json_schema(by_alias=True)
    schema: dict[str, Any] = _plain(raw)
    definitions = schema["$defs"]
    written = written_keys(Policy)
    schema["properties"] = {
        key: value for key, value in schema["properties"].items() if key in written
    }
    del definitions["Place"]
    for model in (
        Budget,
        Crop,
        DecisionRules,
        Gate,
        Hook,
        Hooks,
        Limit,
        Placement,
        Schedule,
        Traffic,
        VariantSpec,
    ):
        _show_defaults(definitions[model.__name__], model)
    _show_defaults(schema, Policy)
    schema["properties"]["extends"] = _EXTENDS
    definitions["VariantSpec"]["properties"]["model"] |= {
        "anyOf": [{"enum": list(MODEL_LAYERS)}, {"pattern": "^https?://"}]
    }
    definitions["Gate"]["allOf"] = [_gate_rule(metric) for metric in GATE_FORMS]
    definitions["DecisionRules"] |= {
        "if": {"properties": {"mode": {"const": "fixed"}}, "required": ["mode"]},
        "then": {"properties": {"look_every": False}},
    }
    schema["if"] = {"not": {"required": ["extends"]}}
    schema["then"] = _all_required(schema, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "canary policy",
        "description": "One rollout decision: who replaces whom, on what traffic, "
        "within which limits.",
    }


def _all_required(
    schema: dict[str, Any], definitions: dict[str, Any]
) -> dict[str, Any]:
    """Move what is required out of all that `extends` can complete."""
    inner = {
        "traffic": "Traffic",
        "baseline": "VariantSpec",
        "candidate": "VariantSpec",
    }
    properties = {
        key: {"required": definitions[model]["required"]}
        for key, model in inner.items()
    }
    for model in set(inner.values()):
        del definitions[model]["required"]
    return {"required": schema.pop("required"), "properties": properties}


def _gate_rule(metric: str) -> dict[str, Any]:
    forms = [
        {
            "required": list(form),
            "properties": {key: False for key in _LIMIT_KEYS if key not in form},
        }
        for form in GATE_FORMS[metric]
    ]
    rule: dict[str, Any] = {"oneOf": forms} if len(forms) > 1 else forms[0]
    if metric != "accuracy":
        rule = {"allOf": [rule, {"properties": {"task": False}}]}
    return {
        "if": {"properties": {"metric": {"const": metric}}, "required": ["metric"]},
        "then": rule,
    }


def _show_defaults(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Write each default as a policy would; none where there is nothing to write."""
    defaults = {
        info.alias or name: info.get_default()
        for name, info in model.model_fields.items()
        if not info.is_required() and info.get_default() is not None
    }
    plain = model.model_construct(**defaults).model_dump(mode="json", by_alias=True)
    for key, value in schema["properties"].items():
        value.pop("default", None)
        if key in defaults and not isinstance(defaults[key], BaseModel):
            value["default"] = plain[key]


def _plain(value: Any) -> Any:  # noqa: ANN401 - walks values of any JSON-like shape
    """Drop generated titles, line breaks, and the null that means an absent key."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {
        key: _plain(item)
        for key, item in value.items()
        if key != "title" or not isinstance(item, str)
    }
    if isinstance(kept.get("description"), str):
        kept["description"] = " ".join(kept["description"].split())
    if "examples" in kept:
        kept["examples"] = [_example(example) for example in kept["examples"]]
    options = kept.get("anyOf", [])
    if {"type": "null"} in options:
        kept.pop("anyOf")
        rest = [option for option in options if option != {"type": "null"}]
        kept |= rest[0] if len(rest) == 1 else {"anyOf": rest}
    return kept


def _example(example: Any) -> Any:  # noqa: ANN401 - any YAML value
    # Messages quote mappings and lists as YAML; a schema's examples are values.
    if isinstance(example, str) and example.startswith(("{", "[")):
        return yaml.safe_load(example)
    return example
