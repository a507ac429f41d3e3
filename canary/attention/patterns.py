"""Attention patterns by name, as policies write them; no torch needed to read one."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields
from difflib import get_close_matches
from typing import Any

from canary.attention.chosen import AntidiagonalBlocks, ChosenBlocks
from canary.attention.heads import Adaptive, HeadTable
from canary.attention.layers import Layers
from canary.attention.rules import (
    Dense,
    LocalGlobal,
    Pattern,
    PatternSpecError,
    Rule,
    SlidingWindow,
    Strided,
    TriShape,
)
from canary.attention.scores import Hyperbolic, Relu, SoftThreshold
from canary.attention.tables import BlockTable, RandomBlocks

_RULES: dict[str, type[Rule]] = {
    rule.name: rule
    for rule in (
        Adaptive,
        ChosenBlocks,
        Dense,
        HeadTable,
        Hyperbolic,
        LocalGlobal,
        RandomBlocks,
        Relu,
        SlidingWindow,
        SoftThreshold,
        Strided,
        TriShape,
    )
}
EXAMPLES = {
    "adaptive": "{pattern: adaptive, mass: 95%, sparse: {pattern: local_global, "
    "window: 1024, global_tokens: 256}}",
    "block_sparse": "{pattern: block_sparse, choose: bounds, blocks: 16, block: 64}",
    "dense": "dense",
    "head_table": "{pattern: head_table, table_file: full_attention_heads.tsv, "
    "sparse: {pattern: local_global, window: 1024, global_tokens: 256}}",
    "hyperbolic": "{pattern: hyperbolic, model: lorentz}",
    "local_global": "{pattern: local_global, window: 1024, global_tokens: 256}",
    "random_blocks": "{pattern: random_blocks, blocks: 16, block: 64}",
    "relu": "{pattern: relu, threshold: 0}",
    "sliding_window": "{pattern: sliding_window, window: 256}",
    "soft_threshold": "{pattern: soft_threshold, threshold: 0.1%}",
    "strided": "{pattern: strided, window: 256, stride: 8, block: 64}",
    "tri_shape": "{pattern: tri_shape, window: 1024, global_tokens: 256}",
}
"""By name, how a policy writes each; a pattern's page in the README has the rest."""

_NESTED = ("sparse", "within")
_SHARES = ("mass", "threshold")
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
        example = EXAMPLES["local_global"]
        raise PatternSpecError(
            f"expected a pattern, got {spec!r}; write dense or {example}", where
        )
    if "layers" in spec:
        raise PatternSpecError("layers can't stand within a layer", (*where, "layers"))
    rule = _rule_type(spec, where)
    written = _options(rule, spec, where)
    try:
        return rule(**written)
    except PatternSpecError as error:
        raise PatternSpecError(error.message, (*where, *error.where)) from None


def _options(
    rule: type[Rule], spec: Mapping[Any, Any], where: tuple[str, ...]
) -> dict[str, Any]:
    """Return what the spec writes of a rule's options, and refuse all else."""
    options = {option.name: option for option in fields(rule) if option.init}  # type: ignore[arg-type]  # every rule is a dataclass
    known = ("pattern", *options)
    for key in spec:
        if key not in known:
            raise _unknown(key, known, f"key of {rule.name}", (*where, str(key)))
    missing = [
        name for name, option in options.items() if name not in spec and _needed(option)
    ]
    if missing:
        needed = f"{rule.name} needs {' and '.join(missing)}"
        raise PatternSpecError(f"{needed}; write {EXAMPLES[rule.name]}", where)
    written = {name: spec[name] for name in options if name in spec}
    for name, value in written.items():
        if name in _NESTED:
            written[name] = _rule(value, (*where, name))
        elif name in _SHARES:
            written[name] = _share(value)
    return written


def _needed(option: "Field[Any]") -> bool:
    return option.default is MISSING


def _share(value: object) -> object:
    """Return 0.9 for ``90%``; anything else as it is, for the rule to refuse."""
    match = isinstance(value, str) and re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?%", value)
    return float(match[1]) / 100 if match else value


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
    if name != ChosenBlocks.name:
        return _RULES[name]
    if ("table_file" in spec) == ("choose" in spec):
        raise PatternSpecError(
            "block_sparse takes its blocks from table_file, or has choose: bounds, mean"
            " or antidiagonal",
            where,
        )
    if "table_file" in spec:
        return BlockTable
    ways = ("antidiagonal", "bounds", "mean")
    if spec["choose"] not in ways:
        raise _unknown(spec["choose"], ways, "way to choose", (*where, "choose"))
    return AntidiagonalBlocks if spec["choose"] == "antidiagonal" else ChosenBlocks


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
