"""Which format a file is in, by its first lines."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from canary.errors import TrafficError
from canary.traffic import rows
from canary.traffic.logs import (
    BATCH_FIELDS,
    INGRESS_SCHEMA,
    Ingress,
    OpenAiBatch,
    OpenAiLog,
    openai_stamp,
)
from canary.traffic.named import Named, NamedLines
from canary.traffic.names import FORMATS, NAMED_FORMATS
from canary.traffic.published import (
    AZURE_HEADER,
    BURSTGPT_FIELDS,
    LENGTH_FIELDS,
    TRACELAB_FIELDS,
    Azure,
    Bailian,
    BurstGpt,
    Header,
    Mooncake,
    TraceLab,
)
from canary.traffic.rows import LineFormat, RowError
from canary.traffic.servegen import looks_like_servegen

_LINE_FORMATS: dict[str, Callable[[], LineFormat]] = {
    "azure": Azure,
    "mooncake": Mooncake,
    "bailian": Bailian,
    "burstgpt": BurstGpt,
    "tracelab": TraceLab,
    "openai": OpenAiLog,
    "openai-batch": OpenAiBatch,
    "ingress": Ingress,
}
_LINES_TO_DETECT = 20
_BYTES_TO_DETECT = 2**20
_SHOWN = 60


def head_of(lines: Iterator[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Return the first lines: enough of them to tell a format where some are broken."""
    head: list[tuple[int, bytes]] = []
    size_bytes = 0
    while len(head) < _LINES_TO_DETECT and size_bytes < _BYTES_TO_DETECT:
        line = next(lines, None)
        if line is None:
            break
        head.append(line)
        size_bytes += len(line[1])
    return head


def line_format(name: str, columns: Mapping[str, str]) -> LineFormat:
    """Return how the lines of that format become rows."""
    if name in NAMED_FORMATS:
        return NamedLines(columns, header=name == "csv")
    return _LINE_FORMATS[name]()


def detected(path: str, head: Sequence[bytes], columns: Mapping[str, str]) -> str:
    """Return the name of the format that the first lines are in.

    Raises:
        TrafficError: There is none.
    """
    found = [name for line in head if (name := _by_object(line, columns))]
    name = found[0] if found else _by_header(head[0], columns)
    if name is None:
        raise TrafficError(
            f"{path} is in no known trace format ({', '.join(FORMATS)}): found "
            f"{shown(head[0])}; say which columns it has, as in "
            "arrival=ts,prompt_tokens=tokens_in"
        )
    return name


def shown(record: object) -> str:
    """Return the beginning of a line or record to quote in a message."""
    if isinstance(record, bytes):
        text = repr(record[:_SHOWN].decode("utf-8", "backslashreplace"))
        return f"{text}..." if len(record) > _SHOWN else text
    text = repr(record)
    return f"{text[:_SHOWN]}..." if len(text) > _SHOWN else text


def _by_object(line: bytes, columns: Mapping[str, str]) -> str | None:
    try:
        row = rows.json_object(line)
    except RowError:
        return None
    if columns:
        return "jsonl"
    return next((name for name, is_it in _OBJECTS if is_it(row)), None)


def _by_header(line: bytes, columns: Mapping[str, str]) -> str | None:
    if columns:
        return "csv"
    if looks_like_servegen(line):
        return "servegen"
    try:
        names = Header(line).names
    except RowError:
        return None
    return next((name for name, is_it in _HEADERS if is_it(names)), None)


def _is_mooncake(row: Mapping[str, object]) -> bool:
    """Lengths and blocks, or the text instead; a time in whole milliseconds.

    The qwen-bailian traces have the same fields and a `chat_id`, but count seconds and
    blocks of 16: taken for Mooncake they would run a thousand times too fast.
    """
    if "chat_id" in row or "timestamp" not in row:
        return False
    said = "text_input" in row or "messages" in row
    return said or all(name in row for name in LENGTH_FIELDS)


def _can_be_named(names: Collection[str]) -> bool:
    with contextlib.suppress(RowError):
        Named(names, {})
        return True
    return False


# The first that fits: the wider ones come later.
_OBJECTS: tuple[tuple[str, Callable[[dict[str, object]], bool]], ...] = (
    ("ingress", lambda row: row.get("schema") == INGRESS_SCHEMA),
    ("openai", lambda row: "request" in row and openai_stamp(row) is not None),
    ("openai-batch", lambda row: row.keys() >= {*BATCH_FIELDS}),
    ("mooncake", _is_mooncake),
    (
        "bailian",
        lambda row: row.keys() >= {*LENGTH_FIELDS, "chat_id", "parent_chat_id"},
    ),
    ("jsonl", lambda row: _can_be_named([*row])),
)
_HEADERS: tuple[tuple[str, Callable[[list[str]], bool]], ...] = (
    ("azure", lambda names: names == AZURE_HEADER.split(",")),
    ("burstgpt", lambda names: {*BURSTGPT_FIELDS} <= {*names}),
    ("tracelab", lambda names: {*TRACELAB_FIELDS} <= {*names}),
    ("csv", _can_be_named),
)
