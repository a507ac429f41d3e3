"""What every format has in common: a row before the trace's zero is known, its fields,
and the reasons why a line is none.
"""

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

MAX_TOKENS = 2**24
"""More than any model reads: a longer row is broken, not long."""

MAX_TURNS = 2**31

CHARACTERS_PER_TOKEN = 4
"""What a token is taken for where only text was recorded: English prose has about 4."""

MAX_NS = 2**62
"""146 years, and the year 2116: times beyond are in another unit than was said."""

S, MS, US, NS = 10**9, 10**6, 10**3, 1
"""Units of time in nanoseconds."""

_STAMP = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2})"
    r"(?:\.([0-9]{1,9}))?(Z|[+-][0-9]{2}:?[0-9]{2})?"
)
_NUMBER = re.compile(r"-?[0-9]{1,24}(?:\.[0-9]{1,24})?(?:[eE][+-]?[0-9]{1,2})?")
_WHOLE = re.compile(r"-?[0-9]{1,18}")


class RowError(ValueError):
    """Why a line is no row; never leaves this package."""


class LeftOutError(ValueError):
    """Why a sound line is not replayed; its rows are counted apart from broken ones."""


class RawRow(NamedTuple):
    """A row before the trace's zero is known: `ns` since the format's own epoch.

    `ns` is None for a turn that is due by its session alone. `estimated` says that
    `prompt_tokens` were counted from characters. The other fields are `TraceRow`'s.
    """

    ns: int | None
    prompt_tokens: int
    output_tokens: int | None = None
    session: str | None = None
    turn: int | None = None
    think_ns: int = 0
    block_ids: tuple[int, ...] = ()
    text: str | None = None
    messages: str | None = None
    max_tokens: int | None = None
    weight: float = 1.0
    estimated: bool = False
    unused: tuple[str, ...] = ()


RowParser = Callable[[bytes], RawRow]


class LineFormat(ABC):
    """How the lines of a trace become rows; one serves all files of a trace."""

    block_tokens: int | None = None
    has_header = False

    @abstractmethod
    def start(self, head: Sequence[bytes]) -> RowParser:
        """Begin a file with its first lines, the first its header if it has one.

        Raises:
            RowError: It is not such a file.
        """

    def warnings(self) -> tuple[str, ...]:
        """Return what about the rows so far would mislead."""
        return ()


def text_of(line: bytes) -> str:
    """Return the line as text."""
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise RowError("not text in UTF-8") from None


def json_object(line: bytes) -> dict[str, object]:
    """Return the JSON object on the line."""
    try:
        row = json.loads(text_of(line))
    except RowError:
        raise
    except (ValueError, RecursionError):  # also a number of more than 4,300 digits
        raise RowError("not valid JSON") from None
    if not isinstance(row, dict):
        raise RowError("not a JSON object")
    return row


def field(row: Mapping[str, object], name: str) -> object:
    """Return what the row says under the name."""
    if name not in row:
        raise RowError(f"{name} is missing")
    return row[name]


def json_whole(name: str, value: object) -> int:
    """Return a whole number from JSON."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise RowError(f"{name} is not a whole number")
    return value


def csv_whole(name: str, text: str) -> int:
    """Return a whole number from a CSV field."""
    if not _WHOLE.fullmatch(text):
        raise RowError(f"{name} is {'not a whole number' if text else 'missing'}")
    return int(text)


def tokens(name: str, value: int) -> int:
    """Return a length that a request can have."""
    if value <= 0:
        raise RowError(f"{name} is {'negative' if value else 'zero'}")
    if value > MAX_TOKENS:
        raise RowError(f"{name} is larger than {MAX_TOKENS:,}")
    return value


def turn_number(name: str, value: int) -> int:
    """Return a turn that a session can have."""
    if not 0 <= value < MAX_TURNS:
        raise RowError(f"{name} is {'negative' if value < 0 else 'too large'}")
    return value


def token_limit(name: str, value: object) -> int | None:
    """Return the limit that a client set; one beyond any model is none."""
    if value is None:
        return None
    limit = json_whole(name, value)
    return None if limit > MAX_TOKENS else tokens(name, limit)


def stamp_ns(name: str, text: str) -> int:
    """Return the time of an ISO 8601 stamp since 1970; without a zone it is in UTC."""
    match = _STAMP.fullmatch(text)
    if not match:
        raise RowError(f"{name} is {'not a time' if text else 'missing'}")
    try:
        zone = (match[3] or "Z").replace("Z", "+00:00")
        second = datetime.fromisoformat(match[1] + zone)
        since = second - datetime(1970, 1, 1, tzinfo=UTC)
    except (ValueError, OverflowError):
        raise RowError(f"{name} is not a time") from None
    # `%f` knows six digits; Azure writes seven, and each counts.
    seconds = since.days * 86_400 + since.seconds
    return bounded_ns(name, seconds * S + int((match[2] or "").ljust(9, "0")))


def number_ns(name: str, value: object, unit_ns: int) -> int:
    """Return a number of that unit in nanoseconds, as exact as it was written.

    A float is taken as the shortest text that stands for it: what a file says of an
    epoch with six digits comes out exact.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        ns = value * unit_ns
    elif isinstance(value, float) and math.isfinite(value):
        ns = round(Decimal(repr(value)) * unit_ns)
    elif isinstance(value, str) and _NUMBER.fullmatch(value):
        ns = round(Decimal(value) * unit_ns)
    elif value is None or value == "":
        raise RowError(f"{name} is missing")
    else:
        raise RowError(f"{name} is not a number")
    if ns < 0:
        raise RowError(f"{name} is negative")
    return bounded_ns(name, ns)


def is_number(text: str) -> bool:
    """Return whether the text is a number, not a time."""
    return _NUMBER.fullmatch(text) is not None


def bounded_ns(name: str, ns: int) -> int:
    """Return a time that is within reach."""
    if not -MAX_NS < ns < MAX_NS:
        raise RowError(
            f"{name} is too large: beyond the year 2116 (is it in a finer unit?)"
        )
    return ns


def estimated_tokens(characters: int) -> int:
    """Return how many tokens so much text is taken for."""
    if not characters:
        raise RowError("the prompt is empty")
    return tokens("the prompt", -(-characters // CHARACTERS_PER_TOKEN))


def messages_text(name: str, value: object) -> tuple[str, int]:
    """Return a chat's messages as JSON text, and how many characters they say."""
    if not isinstance(value, list) or not value:
        raise RowError(f"{name} is not a list of messages")
    characters = 0
    for message in value:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise RowError(f"{name} holds a message without a role")
        characters += _said(name, message.get("content"))
    return json_text(name, value), characters


def json_text(name: str, value: object) -> str:
    """Return the value as JSON text that every reader takes."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        raise RowError(f"{name} holds a number that JSON does not have") from None
    return storable(name, text)


def storable(name: str, text: str) -> str:
    """Return text that can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RowError(f"{name} holds half a character (a lone surrogate)") from None
    return text


def _said(name: str, content: object) -> int:
    if content is None:  # an assistant's message that is a tool call
        return 0
    if isinstance(content, str):
        return len(content)
    if not isinstance(content, list):
        raise RowError(f"{name} holds a message whose content is not text")
    characters = 0
    for part in content:
        text = part.get("text") if isinstance(part, dict) else None
        if not isinstance(text, str):
            raise RowError(f"{name} holds more than text (images, sound, files)")
        characters += len(text)
    return characters
