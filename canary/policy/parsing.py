"""YAML text to nodes that keep their marks, with everything wrong found at once."""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from canary.errors import Fault
from canary.policy.model import Place
from canary.policy.scalars import read_scalar, scalar_fault
from canary.policy.tree import UNREADABLE, below, is_plain, place_of
from canary.policy.units import shown

_MAX_DEPTH = 20


def parse(text: str, file: str) -> tuple[yaml.MappingNode | None, tuple[Fault, ...]]:
    """Return the root mapping of one YAML document, and everything wrong with it.

    Without a mapping that could be read the first value is None. What is wrong within
    it, such as a duplicate key, is taken out, so that the rest can be checked.
    """
    faults: list[Fault] = []
    try:
        root = _compose(text, file, faults)
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = Place(file, before.count("\n") + 1, error.position - before.rfind("\n"))
        symbol = f"U+{ord(text[error.position]):04X}"
        return None, (_at(place, f"YAML refuses the character {symbol}; remove it"),)
    except yaml.MarkedYAMLError as error:
        return None, (*faults, _syntax_fault(error, file))
    if root is None:
        message = "the file is empty; write a policy, beginning with version: 1"
        return None, (_at(Place(file, 1, 1), message),)
    if not isinstance(root, yaml.MappingNode):
        message = f"expected a mapping, such as version: 1, got {_kind(root)}"
        return None, (*faults, _at(place_of(root), message))
    return root, (*faults, *_clean(root, ""))


class _Loader(yaml.SafeLoader):
    """Composes nodes; reports what would make one value stand for another."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - the base class declares it so
    """No type is guessed while composing: `read_scalar` decides."""

    def __init__(self, text: str, file: str, faults: list[Fault]) -> None:
        super().__init__(text)
        self.name = file
        self._faults = faults
        self._depth = 0

    def compose_node(
        self,
        parent: yaml.Node | None,
        index: Any,  # noqa: ANN401 - an int, a node or None, unlike its stub says
    ) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # PyYAML's stubs leave it so
        place = place_of(event)
        if self.check_event(yaml.AliasEvent):
            self.get_event()  # type: ignore[no-untyped-call]  # as above
            message = "an alias (*) isn't allowed here; write the value out"
            self._faults.append(_at(place, message))
            return yaml.ScalarNode(UNREADABLE, "", event.start_mark, event.end_mark)
        if getattr(event, "anchor", None) is not None:
            message = "an anchor (&) isn't allowed here; remove it"
            self._faults.append(_at(place, message))
        tag = getattr(event, "tag", None)
        if tag is not None:
            name = tag.replace("tag:yaml.org,2002:", "!!")
            message = f"a tag ({name}) isn't allowed here; write the plain value"
            self._faults.append(_at(place, message))
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            problem = f"more than {_MAX_DEPTH} levels of nesting"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if tag is not None and isinstance(node, yaml.ScalarNode):
            node.tag = UNREADABLE
        return node


def _compose(text: str, file: str, faults: list[Fault]) -> yaml.Node | None:
    loader = _Loader(text, file, faults)
    try:
        root = loader.get_single_node()
    finally:
        loader.dispose()
    return root


_SYNTAX = (
    (r"'\\t'", "a tab can't indent or begin a value here; use spaces"),
    (
        r"'[>|]'|chomping or indentation",
        "text that begins with > or | needs quotes, for example '>=128k'",
    ),
    (
        r"'[@`%]'.*cannot start|alphabetic or numeric|expected URI",
        "text that begins with a special character needs quotes",
    ),
    (
        r"mapping values are not allowed",
        "a ':' that can't stand here; check the indentation, or put the text in quotes",
    ),
    (
        r"expected <block end>",
        "this doesn't line up with what stands above it; check the indentation",
    ),
    (
        r"could not find expected ':'",
        "expected a key and its value, such as version: 1; the ':' is missing",
    ),
    (
        r"expected ',' or '[]}]'",
        "expected a ',' or the bracket that closes this list or mapping",
    ),
    (
        r"unexpected end of stream|while scanning a quoted",
        "a quote that is opened must be closed",
    ),
    (
        r"expected a single document|expected '?<document start>",
        "a policy file holds one document; put the other in a file of its own",
    ),
    (r"levels of nesting", "nested too deeply for a policy"),
)


def _syntax_fault(error: yaml.MarkedYAMLError, file: str) -> Fault:
    said = f"{error.context}: {error.problem}"
    mark = error.problem_mark or error.context_mark
    if re.search(r"stream end|end of stream|could not find", said):
        # What isn't closed is found at the end, but has to be put right at its start.
        mark = error.context_mark or mark
    place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file, 1, 1)
    for pattern, message in _SYNTAX:
        if re.search(pattern, said):
            return _at(place, message)
    return _at(place, f"this isn't YAML: {error.problem}")


def _clean(node: yaml.Node, where: str) -> Iterator[Fault]:
    """Take out what can't be used below `node`, and yield a fault for each."""
    if isinstance(node, yaml.MappingNode):
        yield from _clean_keys(node, where)
        for key, value in node.value:
            yield from _clean(value, below(where, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _clean(item, below(where, index))
    elif node.tag != UNREADABLE:
        message = scalar_fault(node.value, plain=is_plain(node))
        if message:
            node.tag = UNREADABLE
            yield _at(place_of(node), message, where)


def _clean_keys(node: yaml.MappingNode, where: str) -> Iterator[Fault]:
    kept: dict[str, tuple[yaml.Node, yaml.Node]] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            yield _at(place_of(key), f"a key must be text, got {_kind(key)}", where)
        elif key.tag == UNREADABLE:
            continue
        elif key.value == "<<":
            message = "merge keys (<<) aren't read; use extends: FILE instead"
            yield _at(place_of(key), message, where)
        elif not key.value or not key.value.isprintable():
            yield _at(place_of(key), "a key that is empty or can't be printed", where)
        elif key.value in kept:
            line = place_of(kept[key.value][0]).line
            message = f"duplicate key, it stands at line {line} already; remove one"
            yield _at(place_of(key), message, below(where, key.value))
        else:
            kept[key.value] = (key, value)
    node.value = list(kept.values())


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return shown(read_scalar(node.value, plain=is_plain(node)))


def _at(place: Place, message: str, where: str = "") -> Fault:
    file, line, column = place
    return Fault(file=file, line=line, column=column, where=where, message=message)
