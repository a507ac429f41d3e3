"""Attention patterns by name, as policies write them; no torch needed to read one."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from canary.attention.rules import (
    Dense,
    Layers,
    LocalGlobal,
    Pattern,
    PatternSpecError,
    Rule,
    SlidingWindow,
)

__all__ = [
    "Dense",
    "Layers",
    "LocalGlobal",
    "Pattern",
    "PatternSpecError",
    "Rule",
    "SlidingWindow",
    "pattern",
]

_RULES: dict[str, type[Rule]] = {
    rule.name: rule for rule in (Dense, LocalGlobal, SlidingWindow)
}
_EXAMPLES = {
    "dense": "dense",
    "local_global": "{pattern: local_global, window: 1024, global_tokens: 256}",
    "sliding_window": "{pattern: sliding_window, window: 256}",
}
_LAYERS_EXAMPLE = "{0-2: {pattern: sliding_window, window: 256}, rest: dense}"
_LAYER_RANGE = "(0|[1-9][0-9]{0,3})(?:-(0|[1-9][0-9]{0,3}))?"


def pattern(spec: str | Mapping[str, Any] | Pattern) -> Pattern:
    """Read a pattern as a policy writes it.

    ``dense``, ``{pattern: sliding_window, window: 256}``, or per layer ``{layers:
    {0-2: {pattern: sliding_window, window: 256}, rest: dense}}``, whose keys are a
    layer, an inclusive range or ``rest``. A Pattern is returned as it is.

    Raises:
        PatternSpecError: Anything else; it says where, and what to write.
    """
    if isinstance(spec, Mapping) and "layers" in spec:
        for key in spec:
            if key != "layers":
                raise PatternSpecError(
                    "can't stand beside layers; move it into a layer or rest",
                    (str(key),),
                )
        return _layers(spec["layers"])
    return spec if isinstance(spec, Pattern) else _rule(spec, ())


def _rule(spec: object, where: tuple[str, ...]) -> Rule:
    if isinstance(spec, Rule):
        return spec
    if isinstance(spec, str):
        spec = {"pattern": spec}
    if not isinstance(spec, Mapping):
        raise PatternSpecError(
            f"expected a pattern, got {spec!r}; write {_choices(_EXAMPLES.values())}",
            where,
        )
    if "layers" in spec:
        raise PatternSpecError("layers can't stand within layers", (*where, "layers"))
    rule = _rule_type(spec, where)
    options = [field.name for field in fields(rule)]  # type: ignore[arg-type]  # every rule is a dataclass
    known = ("pattern", *options)
    for key in spec:
        if key not in known:
            raise _unknown(key, known, f"key of {rule.name}", (*where, str(key)))
    missing = [option for option in options if option not in spec]
    if missing:
        needed = f"{rule.name} needs {' and '.join(missing)}"
        raise PatternSpecError(f"{needed}; write {_EXAMPLES[rule.name]}", where)
    try:
        return rule(**{option: spec[option] for option in options})
    except PatternSpecError as error:
        raise PatternSpecError(error.message, (*where, *error.where)) from None


def _rule_type(spec: Mapping[Any, Any], where: tuple[str, ...]) -> type[Rule]:
    if "pattern" not in spec:
        for key in spec:
            if get_close_matches(str(key), ("pattern", "layers")):
                raise _unknown(key, ("pattern", "layers"), "key", (*where, str(key)))
        raise PatternSpecError(
            f"the pattern is missing; add pattern: {_choices(_RULES)}", where
        )
    name = spec["pattern"]
    if not isinstance(name, str) or name not in _RULES:
        raise _unknown(name, _RULES, "pattern", (*where, "pattern"))
    return _RULES[name]


def _layers(spec: object) -> Layers:
    if not isinstance(spec, Mapping):
        raise PatternSpecError(
            f"expected patterns by layer, got {spec!r}; write {_LAYERS_EXAMPLE}",
            ("layers",),
        )
    parts, rest = [], None
    for key, value in spec.items():
        rule = _rule(value, ("layers", str(key)))
        if key == "rest":
            rest = rule
        else:
            parts.append((*_layer_range(key), rule))
    return Layers(parts=tuple(parts), rest=rest)


def _layer_range(key: object) -> tuple[int, int]:
    plain = isinstance(key, str | int) and not isinstance(key, bool)
    match = re.fullmatch(_LAYER_RANGE, str(key)) if plain else None
    if not match or match[1] == match[2]:
        raise PatternSpecError(
            f"expected a layer, a range or rest, got {key!r}; write 3, 0-2 or rest",
            ("layers", str(key)),
        )
    return int(match[1]), int(match[2] or match[1])


def _unknown(
    name: object, valid: Iterable[str], what: str, where: tuple[str, ...]
) -> PatternSpecError:
    known = tuple(valid)
    near = get_close_matches(str(name), known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    return PatternSpecError(f"unknown {what} {name!r}; {hint}", where)


def _choices(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last
