"""What is wrong with a value, in our words instead of the validator's."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from canary.policy.model import Policy
from canary.policy.scalars import number_hint
from canary.policy.units import shown

_LATER_KEYS = frozenset({"admission", "economics", "override"})

_NOUNS = {
    "string_type": "text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "tuple_type": "a list",
    "model_type": "a mapping",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number of at least {ge:g}",
    "too_short": "at least one",
    "string_too_short": "text",
}


def written_keys(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a model by the keys that a policy file writes."""
    return {
        info.alias or name: info
        for name, info in model.model_fields.items()
        if not info.exclude
    }


def nearest(word: str, valid: Iterable[str]) -> str:
    """Return advice on what to write instead of `word`: the nearest, or all."""
    choices = list(valid)
    close = _close(word, choices)
    return f"write {close}" if close else f"write one of {', '.join(choices)}"


def unknown_key(key: str, model: type[BaseModel]) -> str:
    """Return what to say about a key that `model` doesn't have."""
    if key in _LATER_KEYS:
        return "not in this version; remove it"
    keys = list(written_keys(model))
    if _close(key, keys):
        return f"unknown key; {nearest(key, keys)}"
    owners = [
        owner
        for owner, info in written_keys(Policy).items()
        if isinstance(info.annotation, type)
        and issubclass(info.annotation, BaseModel)
        and key in written_keys(info.annotation)
    ]
    if owners:
        return f"unknown key here; write it under {' or '.join(owners)}"
    if model is Policy:
        keys.append("extends")
    return f"unknown key; {nearest(key, keys)}"


def missing_key(key: str, model: type[BaseModel]) -> str:
    """Return what to say about a key that `model` needs."""
    return f"missing; write for example `{key}: {_example(written_keys(model)[key])}`"


def wrong_value(error: ErrorDetails, info: FieldInfo | None) -> str:
    """Return what to say about a value that the validator refused.

    Args:
        error: What pydantic says.
        info: The field, if the value is one, for its choices and examples.
    """
    context: Mapping[str, Any] = error.get("ctx", {})
    value = error["input"]
    if error["type"] == "value_error":
        return str(context["error"])
    if error["type"] == "literal_error" and info is not None:
        return _no_choice(value, get_args(info.annotation))
    noun = _NOUNS[error["type"]].format_map(context)
    expected = f"expected {noun}, got {shown(value)}"
    if error["type"] in ("int_type", "float_type") and isinstance(value, str):
        hint = number_hint(value, whole=error["type"] == "int_type")
        if hint:
            return f"{expected} ({hint})"
    if info is not None and info.examples:
        return f"{expected}; write for example {_example(info)}"
    return expected


def _no_choice(value: object, choices: tuple[str, ...]) -> str:
    listed = f"{', '.join(choices[:-1])} or {choices[-1]}"
    expected = f"expected {listed}, got {shown(value)}"
    close = _close(str(value), choices)
    return f"{expected}; write {close}" if close else expected


def _close(word: str, choices: Sequence[str]) -> str | None:
    # Below 0.7 what is near is no longer what was meant: max_duration, validation.
    return next(iter(get_close_matches(word.lower(), choices, n=1, cutoff=0.7)), None)


def _example(info: FieldInfo) -> str:
    return str((info.examples or [""])[0])
