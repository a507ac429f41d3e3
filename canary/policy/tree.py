"""A policy file as plain values, of which each key and value knows where it stands."""

from dataclasses import dataclass, field
from typing import Any

import yaml

from canary.errors import Fault
from canary.policy.model import Place
from canary.policy.scalars import read_scalar

UNREADABLE = "!unreadable"
"""The tag of a scalar that already has its fault; nothing more is said about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """The plain values of a policy, and where each of them and of their keys stands.

    Paths read ``gates[0].margin``; the root is the empty path. A mapping or a list in
    block style stands where its key stands. `unreadable` are the paths whose fault has
    been reported already; None stands in their place. A document whose base couldn't
    be read isn't `complete`.
    """

    data: dict[str, Any]
    places: dict[str, Place]
    keys: dict[str, Place]
    unreadable: frozenset[str]
    complete: bool

    def unreadable_in(self, where: str) -> bool:
        """Return whether anything at or below `where` could not be read."""
        inner = (f"{where}.", f"{where}[")
        return any(path == where or path.startswith(inner) for path in self.unreadable)

    def fault(self, where: str, message: str) -> Fault:
        """Return a fault at `where`, or at what contains it if it isn't written."""
        return fault_in(self.places, where, message)

    def key_fault(self, where: str, message: str) -> Fault:
        """Return a fault that points to the key of `where` instead of its value."""
        return fault_in({**self.places, **self.keys}, where, message)


def fault_in(places: dict[str, Place], where: str, message: str) -> Fault:
    """Return a fault at `where`, or at the nearest thing around it that is written."""
    written = where
    while written not in places:
        written = written[: max(written.rfind("."), written.rfind("["), 0)]
    file, line, column = places[written]
    return Fault(file=file, line=line, column=column, where=where, message=message)


def place_of(node: yaml.Node | yaml.Event) -> Place:
    """Return where a node begins."""
    mark: Any = node.start_mark
    return Place(mark.name, mark.line + 1, mark.column + 1)


def is_plain(node: yaml.Node) -> bool:
    """Return whether a scalar is written without quotes."""
    return isinstance(node, yaml.ScalarNode) and node.style is None


def below(where: str, key: str | int) -> str:
    """Return the path of a key, or of a list's element, below `where`."""
    if isinstance(key, int):
        return f"{where}[{key}]"
    return f"{where}.{key}" if where else key


def merged(base: yaml.MappingNode, over: yaml.MappingNode) -> yaml.MappingNode:
    """Return `base` with what `over` writes: mappings are merged, all else replaced."""
    entries = {key.value: (key, value) for key, value in base.value}
    for key, value in over.value:
        old = entries.get(key.value, (None, None))[1]
        if isinstance(old, yaml.MappingNode) and isinstance(value, yaml.MappingNode):
            entries[key.value] = (key, merged(old, value))
        else:
            entries[key.value] = (key, value)
    return yaml.MappingNode(
        over.tag,
        list(entries.values()),
        over.start_mark,
        over.end_mark,
        flow_style=over.flow_style,
    )


def document(root: yaml.MappingNode, *, complete: bool) -> Document:
    """Return the plain values below a root that `parse` or `merged` returned."""
    walk = _Walk()
    data: dict[str, Any] = walk.value(root, "", place_of(root))
    return Document(
        data=data,
        places=walk.places,
        keys=walk.keys,
        unreadable=frozenset(walk.unreadable),
        complete=complete,
    )


@dataclass(slots=True)
class _Walk:
    places: dict[str, Place] = field(default_factory=dict)
    keys: dict[str, Place] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)

    def value(self, node: yaml.Node, where: str, place: Place) -> Any:  # noqa: ANN401 - any YAML value
        self.places[where] = place
        if isinstance(node, yaml.MappingNode):
            return {
                key.value: self._entry(key, value, below(where, key.value))
                for key, value in node.value
            }
        if isinstance(node, yaml.SequenceNode):
            return [
                self.value(item, below(where, index), place_of(item))
                for index, item in enumerate(node.value)
            ]
        if node.tag == UNREADABLE:
            self.unreadable.add(where)
            return None
        return read_scalar(node.value, plain=is_plain(node))

    def _entry(self, key: yaml.Node, value: yaml.Node, where: str) -> Any:  # noqa: ANN401 - any YAML value
        self.keys[where] = place_of(key)
        block = isinstance(value, yaml.CollectionNode) and not value.flow_style
        return self.value(value, where, place_of(key if block else value))
