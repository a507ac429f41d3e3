"""What `canary ingress` records, line by line, also while it grows.

A spool is a folder (or an fsspec URL) of files ``requests-*.jsonl``; each line is one
request of schema ``canary.ingress/1``. A last line without its end is being written.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fsspec

from canary.errors import TrafficError
from canary.traffic.rows import MAX_TOKENS, RowError

SCHEMA = "canary.ingress/1"
FILES = "requests-*.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One mirrored request. Of its text nothing is left where `capture` is lengths.

    `prompt_tokens` is `estimated` where it was counted in characters. `weight` is the
    number of requests that it stands for.
    """

    id: str
    arrived_unix_s: float
    session_id: str | None
    prompt_tokens: int
    estimated: bool
    max_tokens: int | None
    weight: float
    capture: str
    text: str | None = None
    messages: str | None = None


def recorded(line: bytes) -> Recorded:
    """Read one line.

    Raises:
        RowError: It is no request of this schema; it says why.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise RowError("not valid JSON") from None
    if not isinstance(row, dict) or row.get("schema") != SCHEMA:
        raise RowError(f"its schema is not {SCHEMA}")
    messages = row.get("messages")
    if messages is not None and not isinstance(messages, list):
        raise RowError("messages is not a list")
    return Recorded(
        id=_text(row, "id"),
        arrived_unix_s=_number(row, "arrived_unix_s"),
        session_id=None if row.get("session") is None else _text(row, "session"),
        prompt_tokens=_tokens(row, "prompt_tokens"),
        estimated=row.get("prompt_tokens_from") == "characters",
        max_tokens=None
        if row.get("max_tokens") is None
        else _tokens(row, "max_tokens"),
        weight=_number(row, "weight"),
        capture=_text(row, "capture"),
        text=None if row.get("prompt") is None else _text(row, "prompt"),
        messages=None
        if messages is None
        else json.dumps(messages, ensure_ascii=False, separators=(",", ":")),
    )


def _text(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value:
        raise RowError(f"{name} is not text")
    return value


def _number(row: dict[str, Any], name: str) -> float:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError(f"{name} is not a number")
    if not 0 < value < 1e12:
        raise RowError(f"{name} is out of range")
    return float(value)


def _tokens(row: dict[str, Any], name: str) -> int:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise RowError(f"{name} is not a whole number")
    if not 0 < value <= MAX_TOKENS:
        raise RowError(f"{name} is out of range")
    return value


class SpoolTail:
    """Reads what a spool has got since the last time, whole lines only.

    Args:
        source: The folder or URL.

    Raises:
        TrafficError: It isn't there, or can't be read.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._read: dict[str, int] = {}
        try:
            self._files, root = fsspec.core.url_to_fs(source)
            there = self._files.isdir(root)
        except (OSError, ValueError, ImportError) as error:
            raise TrafficError(f"{source}: can't be read: {error}") from error
        if not there:
            raise TrafficError(
                f"{source}: there is no such folder; start `canary ingress --spool "
                f"{source}` first"
            )
        self._pattern = f"{root.rstrip('/')}/{FILES}"

    def lines(self) -> Iterator[bytes]:
        """Yield the lines that are whole and were not there before.

        Raises:
            TrafficError: A file can't be read any more.
        """
        try:
            # Else an object store would answer from what it listed before.
            self._files.invalidate_cache()
            for name, info in sorted(
                self._files.glob(self._pattern, detail=True).items()
            ):
                at = self._read.get(name, 0)
                if info["size"] <= at:
                    continue
                new = self._files.cat_file(name, start=at, end=info["size"])
                whole = new[: new.rfind(b"\n") + 1]
                self._read[name] = at + len(whole)
                yield from whole.splitlines()
        except OSError as error:
            raise TrafficError(f"{self.source}: can't be read: {error}") from error
