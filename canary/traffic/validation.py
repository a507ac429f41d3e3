"""Validation sets: questions with known answers, one JSON object per line.

The fields are those that inspect_ai's `json_dataset`, Hugging Face `datasets` and
lm-eval read (`input`, `target`, `choices`), and what the statistics need (`task`,
`group`, `weight`).
"""

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from canary.errors import TrafficError
from canary.traffic.lines import LineFile

SCORERS = ("exact", "includes_all", "includes_any")
DEFAULT_MAX_TOKENS = 32

_FAULTS_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationItem:
    """One question.

    `id` pairs the answers of all variants and is unique over all sets of a run.
    `answer_prefix` is put after `input`, verbatim. `length_bucket` is in tokens,
    `depth` is where the answer stands, 0 to 1. Items of one `group` (a document, say)
    are one unit of the statistics. `metadata` is JSON text and is not interpreted.
    """

    id: str
    input: str
    target: tuple[str, ...]
    task: str
    scorer: str = "exact"
    max_tokens: int = DEFAULT_MAX_TOKENS
    stop: tuple[str, ...] = ()
    answer_prefix: str = ""
    domain: str | None = None
    length_bucket: int | None = None
    depth: float | None = None
    weight: float = 1.0
    group: str | None = None
    metadata: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationSet:
    """One file's items in its order, and the hash of the file as it lies on disk."""

    path: str
    sha256: str
    items: tuple[ValidationItem, ...]


def read_validation(paths: Iterable[str | Path]) -> tuple[ValidationSet, ...]:
    """Read validation sets, plain, gzip or zstd.

    Each item needs `id`, `input`, `target` and `task`; null stands for "not given".

    Raises:
        TrafficError: A file can't be read or holds no item, a field is missing, unknown
            or of the wrong type, or an id is used twice. Each fault is a line
            ``path:line: field: what``.
    """
    seen: dict[str, str] = {}
    return tuple(_read_set(path, seen) for path in paths)


def groups_by_task(sets: Iterable[ValidationSet]) -> dict[str, int]:
    """Return how many groups the questions of each task are; an item may be its own."""
    found: dict[str, set[str]] = {}
    for one in sets:
        for item in one.items:
            found.setdefault(item.task, set()).add(item.group or item.id)
    return {task: len(groups) for task, groups in found.items()}


def _read_set(path: str | Path, seen: dict[str, str]) -> ValidationSet:
    items: list[ValidationItem] = []
    faults: list[str] = []
    lines = LineFile(path)
    for number, line in lines:
        item, wrong = _read_item(line)
        place = f"{path}:{number}"
        if item and item.id in seen:
            wrong = [f"id: {item.id!r} is used already at {seen[item.id]}"]
        elif item:
            seen[item.id] = place
            items.append(item)
        faults += [f"{place}: {fault}" for fault in wrong]
    lines.refuse_empty(empty=not items and not faults)
    if faults:
        more = len(faults) - _FAULTS_SHOWN
        tail = [f"{path}: and {more:,} more"] if more > 0 else []
        raise TrafficError("\n".join(faults[:_FAULTS_SHOWN] + tail))
    return ValidationSet(path=str(path), sha256=lines.sha256, items=tuple(items))


def _read_item(line: bytes) -> tuple[ValidationItem | None, list[str]]:
    try:
        fields = json.loads(line.decode(), object_pairs_hook=_without_duplicates)
    except _DuplicateError as error:
        return None, [f"{error}: stands twice in one item"]
    except UnicodeDecodeError:
        return None, ["not text in UTF-8"]
    except (ValueError, RecursionError):
        return None, ["not a JSON object on one line"]
    if not isinstance(fields, dict):
        return None, ["not a JSON object on one line"]
    given = {name: value for name, value in fields.items() if value is not None}
    faults = [f"{name}: is required" for name in _REQUIRED if name not in given]
    faults += [_unknown(name) for name in fields if name not in _CHECKS]
    for name, value in given.items():
        fault = _CHECKS[name](value) if name in _CHECKS else None
        if fault:
            faults.append(f"{name}: {fault}, got {_shown(value)}")
    if faults:
        return None, faults
    return ValidationItem(**{name: _frozen(v) for name, v in given.items()}), []


def _frozen(value: Any) -> Any:  # noqa: ANN401 - a checked value of any field
    return tuple(value) if isinstance(value, list) else value


class _DuplicateError(Exception):
    """A key that stands twice: json would silently take the last."""


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise _DuplicateError(next(n for n in names if names.count(n) > 1))
    return fields


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, _CHECKS, n=1)
    hint = f"did you mean {near[0]}?" if near else "put it into metadata"
    return f"{name[:40]!r}: there is no such field; {hint}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_text(value: object) -> bool:
    """Whether it is text that can be written: JSON can spell half a character."""
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def _text(value: object) -> str | None:
    return None if _is_text(value) else "expected text"


def _filled_text(value: object) -> str | None:
    return None if value and _is_text(value) else "expected text that is not empty"


def _texts(value: object) -> str | None:
    fine = isinstance(value, list) and all(v and _is_text(v) for v in value)
    return None if fine else "expected a list of texts, none of them empty"


def _targets(value: object) -> str | None:
    if value == []:
        return "expected at least one answer"
    return _texts(value)


def _scorer(value: object) -> str | None:
    return None if value in SCORERS else f"expected one of {', '.join(SCORERS)}"


def _number(value: object) -> bool:
    fine = isinstance(value, (int, float)) and not isinstance(value, bool)
    return fine and abs(value) < 1e300  # type: ignore[arg-type]  # checked above


def _positive_whole(value: object) -> str | None:
    fine = isinstance(value, int) and _number(value) and 0 < value < 2**31
    return None if fine else "expected a whole number above 0"


def _share(value: object) -> str | None:
    fine = _number(value) and 0 <= value <= 1  # type: ignore[operator]  # a number
    return None if fine else "expected a number from 0 to 1"


def _weight(value: object) -> str | None:
    fine = _number(value) and value > 0  # type: ignore[operator]  # a number
    return None if fine else "expected a number above 0"


def _no_choices(_: object) -> str:
    return "multiple choice can't be scored yet; leave it out or null"


_REQUIRED = ("id", "input", "target", "task")
_CHECKS = {
    "id": _filled_text,
    "input": _filled_text,
    "target": _targets,
    "choices": _no_choices,
    "scorer": _scorer,
    "max_tokens": _positive_whole,
    "stop": _texts,
    "answer_prefix": _text,
    "domain": _filled_text,
    "task": _filled_text,
    "length_bucket": _positive_whole,
    "depth": _share,
    "weight": _weight,
    "group": _filled_text,
    "metadata": _text,
}
