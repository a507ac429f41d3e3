"""Policy files as they lie on disk, each with the base that it extends."""

import os
from dataclasses import dataclass
from pathlib import Path

import yaml

from canary.errors import Fault
from canary.policy.model import Place
from canary.policy.parsing import parse
from canary.policy.scalars import read_scalar
from canary.policy.tree import UNREADABLE, is_plain, merged, place_of

_MAX_BYTES = 2**20
_LOOKS = "look_every"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A policy file and, merged below what it says, what it extends.

    `root` is None if the file itself can't be read; a source is not `complete` if it
    or a base of it can't. `text` is what the file holds, without any base.
    """

    root: yaml.MappingNode | None
    faults: tuple[Fault, ...]
    text: str = ""
    extends: bool = False
    complete: bool = True


def read_source(path: Path, *, extending: tuple[Path, ...] = ()) -> Source:
    """Read a policy file and its bases.

    Args:
        path: The file; faults name it as it is given here.
        extending: The files that led here by ``extends``, the first one first.
    """
    text = _read_text(path)
    if isinstance(text, Fault):
        return Source(root=None, faults=(text,), complete=False)
    root, faults = parse(text.removeprefix("\ufeff"), str(path))
    if root is None:
        return Source(root=None, faults=faults, text=text, complete=False)
    written = [value for key, value in root.value if key.value == "extends"]
    if not written:
        return Source(root=root, faults=faults, text=text)
    root.value = [entry for entry in root.value if entry[0].value != "extends"]
    base = _read_base(written[0], path, (*extending, path))
    return Source(
        root=_extended(base.root, root) if base.root else root,
        faults=(*faults, *base.faults),
        text=text,
        extends=True,
        complete=base.complete,
    )


def _extended(base: yaml.MappingNode, over: yaml.MappingNode) -> yaml.MappingNode:
    """Merge, without how often the base looks if `over` makes it look just once.

    No file can take a key out of its base, and the policy of a rollout is the natural
    base of the test run before it.
    """
    root = merged(base, over)
    rules, written = _child(root, "decision"), _child(over, "decision")
    mode = _child(written, "mode")
    once = isinstance(mode, yaml.ScalarNode) and mode.value == "fixed"
    if once and isinstance(rules, yaml.MappingNode) and not _child(written, _LOOKS):
        rules.value = [entry for entry in rules.value if entry[0].value != _LOOKS]
    return root


def _child(node: yaml.Node | None, name: str) -> yaml.Node | None:
    entries = node.value if isinstance(node, yaml.MappingNode) else ()
    return next((value for key, value in entries if key.value == name), None)


def _read_base(written: yaml.Node, path: Path, extending: tuple[Path, ...]) -> Source:
    if written.tag == UNREADABLE:
        return Source(root=None, faults=(), complete=False)
    name = None
    if isinstance(written, yaml.ScalarNode):
        name = read_scalar(written.value, plain=is_plain(written))
    base = path.parent / str(name)
    if not isinstance(name, str) or not name:
        message = "expected the name of one policy file; write for example base.yaml"
    elif any(_same_file(base, other) for other in extending):
        message = f"{base} extends itself in a circle; remove one extends"
    elif not os.path.exists(base):  # noqa: PTH110 - Path.exists raises on long names
        message = f"there is no {base}; the path counts from this file's folder"
    else:
        return read_source(base, extending=extending)
    fault = _fault(place_of(written), message, "extends")
    return Source(root=None, faults=(fault,), complete=False)


def _same_file(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _read_text(path: Path) -> str | Fault:
    start = Place(str(path), 1, 1)
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return _fault(start, "there is no such file; check the path")
    except IsADirectoryError:
        return _fault(start, "this is a folder; name the policy files in it")
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        return _fault(start, f"this file can't be read: {reason}")
    if len(data) > _MAX_BYTES:
        return _fault(start, "this is larger than 1 MiB, so it can't be a policy")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start].decode()
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        message = f"byte 0x{data[error.start]:02X} isn't UTF-8; save the file as UTF-8"
        return _fault(Place(str(path), line, column), message)


def _fault(place: Place, message: str, where: str = "") -> Fault:
    file, line, column = place
    return Fault(file=file, line=line, column=column, where=where, message=message)
