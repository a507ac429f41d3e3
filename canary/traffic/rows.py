"""One line of a trace to one row, or the reason why it is none."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

AZURE_HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
MOONCAKE_BLOCK_TOKENS = 512
MAX_TOKENS = 2**24
"""More than any model reads: a longer row is broken, not long."""

_MAX_MS = 2**53
_STAMP = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2})"
    r"(?:\.([0-9]{1,9}))?(?:Z|\+00:00)?"
)
_MOONCAKE_FIELDS = ("timestamp", "input_length", "output_length", "hash_ids")


class RowError(ValueError):
    """Why a line is no row; never leaves this package."""


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row before the trace's zero is known: `ns` since the format's own epoch."""

    ns: int
    prompt_tokens: int
    output_tokens: int
    block_ids: tuple[int, ...] = ()
    unused: tuple[str, ...] = ()


RowParser = Callable[[bytes], RawRow]


def is_azure_header(line: bytes) -> bool:
    """Return whether the line is the header of an Azure trace."""
    return line == AZURE_HEADER.encode()


def azure_row(line: bytes) -> RawRow:
    """Read ``2023-11-16 18:15:46.6805900,374,44``."""
    fields = _text(line).split(",")
    if len(fields) != 3:
        raise RowError(f"expected 3 fields, got {len(fields)}")
    stamp, prompt, output = fields
    return RawRow(
        ns=_stamp_ns(stamp),
        prompt_tokens=_tokens("ContextTokens", _whole("ContextTokens", prompt)),
        output_tokens=_tokens("GeneratedTokens", _whole("GeneratedTokens", output)),
    )


def looks_like_mooncake(line: bytes) -> bool:
    """Return whether the line is a JSON object with Mooncake's fields.

    The qwen-bailian traces have the same four and a `chat_id`, but count seconds and
    blocks of 16: taken for Mooncake they would run a thousand times too fast.
    """
    try:
        row = _json_object(line)
    except RowError:
        return False
    return all(name in row for name in _MOONCAKE_FIELDS) and "chat_id" not in row


def mooncake_row(line: bytes) -> RawRow:
    """Read one JSON object; `timestamp` is in whole milliseconds."""
    row = _json_object(line)
    missing = [name for name in _MOONCAKE_FIELDS if name not in row]
    if missing:
        raise RowError(f"{missing[0]} is missing")
    ms = _json_whole("timestamp", row["timestamp"])
    if not 0 <= ms <= _MAX_MS:
        raise RowError("timestamp is negative" if ms < 0 else "timestamp is too large")
    prompt = _tokens("input_length", _json_whole("input_length", row["input_length"]))
    output = _json_whole("output_length", row["output_length"])
    return RawRow(
        ns=ms * 10**6,
        prompt_tokens=prompt,
        output_tokens=_tokens("output_length", output),
        block_ids=_block_ids(row["hash_ids"], prompt),
        unused=tuple(name for name in row if name not in _MOONCAKE_FIELDS),
    )


def _block_ids(ids: object, prompt_tokens: int) -> tuple[int, ...]:
    if not isinstance(ids, list):
        raise RowError("hash_ids is not a list")
    expected = math.ceil(prompt_tokens / MOONCAKE_BLOCK_TOKENS)
    if len(ids) != expected:
        raise RowError(
            f"hash_ids holds {len(ids)} ids, but {prompt_tokens} tokens are {expected} "
            f"blocks of {MOONCAKE_BLOCK_TOKENS}"
        )
    return tuple(_json_whole("hash_ids", block) for block in ids)


def _text(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise RowError("not text in UTF-8") from None


def _json_object(line: bytes) -> dict[str, object]:
    try:
        row = json.loads(_text(line))
    except RowError:
        raise
    except (ValueError, RecursionError):  # also a number of more than 4,300 digits
        raise RowError("not valid JSON") from None
    if not isinstance(row, dict):
        raise RowError("not a JSON object")
    return row


def _json_whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise RowError(f"{name} is not a whole number")
    return value


def _whole(name: str, text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise RowError(f"{name} is {'not a whole number' if text else 'missing'}")
    return int(text)


def _tokens(name: str, value: int) -> int:
    if value <= 0:
        raise RowError(f"{name} is {'negative' if value else 'zero'}")
    if value > MAX_TOKENS:
        raise RowError(f"{name} is larger than {MAX_TOKENS:,}")
    return value


def _stamp_ns(text: str) -> int:
    match = _STAMP.fullmatch(text)
    if not match:
        raise RowError(f"TIMESTAMP is {'not a time' if text else 'missing'}")
    try:
        second = datetime.fromisoformat(match[1]).replace(tzinfo=UTC)
    except ValueError:
        raise RowError("TIMESTAMP is not a time") from None
    # `%f` knows six digits; Azure writes seven, and each counts.
    since = second - datetime(1970, 1, 1, tzinfo=UTC)
    seconds = since.days * 86_400 + since.seconds
    return seconds * 10**9 + int((match[2] or "").ljust(9, "0"))
