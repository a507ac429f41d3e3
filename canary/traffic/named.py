"""CSV, JSONL and Parquet with columns that the user names.

`COLUMNS` are the names that have a meaning; a mapping says under which name the file
has one, and what it doesn't mention goes by its own name. A time is a number in the
unit that the name ends in, seconds if none, or for `arrival` also an ISO 8601 time.
"""

import contextlib
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence

from canary.errors import TrafficError
from canary.traffic import rows
from canary.traffic.logs import time_ns
from canary.traffic.names import COLUMNS
from canary.traffic.published import Header
from canary.traffic.rows import MS, NS, US, LineFormat, RawRow, RowError, RowParser, S

_ARRIVALS = {"arrival": S, "arrival_ms": MS, "arrival_us": US, "arrival_ns": NS}
_THINKS = {"think_s": S, "think_ms": MS}
_PROMPTS = ("prompt_tokens", "text", "messages")


def check_columns(columns: Mapping[str, str]) -> None:
    """Refuse a mapping with names that mean nothing, or twice the same.

    Raises:
        TrafficError: It is one.
    """
    unknown = [name for name in columns if name not in COLUMNS]
    if unknown:
        raise TrafficError(
            f"columns: there is no {unknown[0]!r}; name some of {', '.join(COLUMNS)}"
        )
    for what, group in (("arrival", _ARRIVALS), ("think time", _THINKS)):
        given = [name for name in group if name in columns]
        if len(given) > 1:
            raise TrafficError(
                f"columns: {given[0]} and {given[1]} both name the {what}; keep one"
            )


class Named:
    """Which of a file's columns mean what.

    Raises:
        RowError: The file has no arrival, no prompt, or a column twice or not at all
            that the mapping names.
    """

    def __init__(self, present: Collection[str], columns: Mapping[str, str]) -> None:
        absent = [name for name in columns.values() if name not in present]
        if absent:
            raise RowError(f"there is no column {absent[0]!r}")
        taken = set(columns.values())
        self._column = dict(columns)
        for name in COLUMNS:
            if name in present and name not in columns and name not in taken:
                self._column[name] = name
        self._arrival = self._one("arrival", _ARRIVALS, columns, needed=True)
        self._think = self._one("think time", _THINKS, columns, needed=False)
        if not any(name in self._column for name in _PROMPTS):
            raise RowError(
                f"no column for the prompt; say which is {_either(_PROMPTS)}"
            )
        self.used = tuple(self._column.values())

    def _one(
        self,
        what: str,
        group: Mapping[str, int],
        columns: Mapping[str, str],
        *,
        needed: bool,
    ) -> str | None:
        found = [name for name in group if name in self._column]
        # What the user names goes before what the file happens to call so.
        found = [name for name in found if name in columns] or found
        if len(found) > 1:
            raise RowError(f"{found[0]} and {found[1]} both tell the {what}")
        if needed and not found:
            raise RowError(f"no column for the {what}; say which is {_either(group)}")
        for name in group:
            if name not in found:
                self._column.pop(name, None)
        return found[0] if found else None

    def row(self, record: Mapping[str, object]) -> RawRow:
        """Return the row of a record."""
        arrival = self._arrival or ""
        messages, text, characters = None, None, 0
        value = self._value(record, "messages")
        if value is not None:
            messages, characters = rows.messages_text(
                self._column["messages"], _parsed(self._column["messages"], value)
            )
        else:
            value = self._value(record, "text")
            if value is not None:
                text = _text(self._column["text"], value)
                characters = len(text)
        counted = self._tokens(record, "prompt_tokens")
        if counted is None and value is None:
            named = next(name for name in _PROMPTS if name in self._column)
            raise RowError(f"{self._column[named]} is missing")
        return RawRow(
            _time(self._column[arrival], self._value(record, arrival), arrival),
            rows.estimated_tokens(characters) if counted is None else counted,
            self._tokens(record, "output_tokens"),
            session=self._session(record),
            turn=self._turn(record),
            think_ns=self._think_ns(record),
            text=text,
            messages=messages,
            estimated=counted is None,
        )

    def _value(self, record: Mapping[str, object], name: str) -> object:
        """A value; None if there is no such column, or nothing in it."""
        column = self._column.get(name)
        value = None if column is None else record.get(column)
        if value == "" or (isinstance(value, float) and math.isnan(value)):
            return None
        return value

    def _tokens(self, record: Mapping[str, object], name: str) -> int | None:
        value = self._value(record, name)
        column = self._column.get(name, name)
        return None if value is None else rows.tokens(column, _whole(column, value))

    def _turn(self, record: Mapping[str, object]) -> int | None:
        value = self._value(record, "turn")
        if value is None:
            return None
        name = self._column["turn"]
        return rows.turn_number(name, _whole(name, value))

    def _session(self, record: Mapping[str, object]) -> str | None:
        value = self._value(record, "session_id")
        if value is None:
            return None
        if isinstance(value, dict | list):
            raise RowError(f"{self._column['session_id']} is not a name")
        return rows.storable(self._column["session_id"], str(value))

    def _think_ns(self, record: Mapping[str, object]) -> int:
        value = None if self._think is None else self._value(record, self._think)
        if self._think is None or value is None:
            return 0
        return rows.number_ns(self._column[self._think], value, _THINKS[self._think])


class NamedLines(LineFormat):
    """CSV with a header, or JSON lines, whose columns are named."""

    def __init__(self, columns: Mapping[str, str], *, header: bool) -> None:
        self.has_header = header
        self._columns = columns

    def start(self, head: Sequence[bytes]) -> RowParser:
        """Find the columns."""
        if not self.has_header:
            return _with_unused(rows.json_object, Named(_keys(head), self._columns))
        header = Header(head[0])
        twice = sorted({n for n in header.names if header.names.count(n) > 1})
        if twice:
            raise RowError(f"the header has {twice[0]!r} twice")
        return _with_unused(header.row, Named(header.names, self._columns))


def _keys(head: Sequence[bytes]) -> set[str]:
    """The keys of the first objects; what may be left out may also come later."""
    keys: set[str] = set()
    for line in head:
        with contextlib.suppress(RowError):
            keys |= rows.json_object(line).keys()
    return keys | ({*COLUMNS} - {*_ARRIVALS, *_THINKS, *_PROMPTS}) if keys else keys


def _with_unused(
    read: Callable[[bytes], Mapping[str, object]], named: Named
) -> RowParser:
    used = frozenset(named.used)

    def parse(line: bytes) -> RawRow:
        record = read(line)
        row = named.row(record)
        unused = record.keys() - used
        return row._replace(unused=tuple(unused)) if unused else row

    return parse


def _time(column: str, value: object, name: str) -> int:
    if value is None:
        raise RowError(f"{column} is missing")
    if name == "arrival":
        return time_ns(column, value)
    return rows.number_ns(column, value, _ARRIVALS[name])


def _either(names: Collection[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}"


def _whole(column: str, value: object) -> int:
    if isinstance(value, str):
        # pandas writes whole numbers with gaps in the column as 5.0.
        return rows.csv_whole(column, value.removesuffix(".0"))
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return rows.json_whole(column, value)


def _text(column: str, value: object) -> str:
    if not isinstance(value, str):
        raise RowError(f"{column} is not text")
    return rows.storable(column, value)


def _parsed(column: str, value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise RowError(f"{column} is not valid JSON") from None
