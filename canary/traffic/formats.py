"""Recorded traffic in published formats, read into one kind of row.

==========  =====================================  ===========  =====================
format      fields                                 time         blocks
==========  =====================================  ===========  =====================
azure       TIMESTAMP,ContextTokens,               date, up to  none
            GeneratedTokens (CSV with header)      9 digits
mooncake    timestamp, input_length,               whole ms     `hash_ids`, one id
            output_length, hash_ids (JSONL)                     per 512 tokens
==========  =====================================  ===========  =====================

Sources: Patel et al., Splitwise, ISCA 2024 (Azure LLM inference trace 2023); Qin et
al., Mooncake, FAST 2025.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Literal

from canary.errors import TrafficError
from canary.traffic.lines import file_sha256, numbered_lines
from canary.traffic.rows import (
    AZURE_HEADER,
    MOONCAKE_BLOCK_TOKENS,
    RawRow,
    RowError,
    RowParser,
    azure_row,
    is_azure_header,
    looks_like_mooncake,
    mooncake_row,
)

Format = Literal["azure", "mooncake"]

BAD_ROWS_KEPT = 20
_LINES_TO_DETECT = 20
_NS = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRow:
    """One recorded request.

    `index` counts the file's rows from 0 in the order of the file, broken ones
    included, so that it names the same row whatever is filtered. `arrival_s` counts
    from the first arrival. `block_ids` name the blocks of the prompt, the last of which
    may be partial; equal ids stand for an equal prefix.

    `output_tokens` is None where only the request was recorded. `turn` counts from 0
    within the session; `think_s` is the recorded time from the end of the answer before
    to this request, where the trace tells it. `text` or `messages` (a chat's messages,
    as JSON text) is the prompt itself, where it was recorded.
    """

    index: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int | None
    session_id: str | None = None
    turn: int = 0
    think_s: float = 0.0
    block_ids: tuple[str, ...] = ()
    text: str | None = None
    messages: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A line that is no usable row, and why."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A trace in order of arrival, the first row at 0 seconds.

    `bad_row_count` counts every broken row, `bad_rows` holds the first of them.
    `block_tokens` is None where rows carry no block ids. `sha256` is the hash of the
    file as it lies on disk.
    """

    path: str
    sha256: str
    format: Format
    rows: tuple[TraceRow, ...]
    block_tokens: int | None = None
    bad_row_count: int = 0
    bad_rows: tuple[BadRow, ...] = ()
    warnings: tuple[str, ...] = ()


def read_trace(
    path: str | Path,
    *,
    format: Literal["auto", "azure", "mooncake"] = "auto",  # noqa: A002 - the policy's word
    max_bad_share: float = 0.01,
) -> Trace:
    """Read a trace, plain or gzip, line by line.

    A row is broken when a field is missing, not a whole number or negative, when the
    prompt is empty, or when no output was generated (elsewhere such rows are failed
    requests; to invent a token would change the load). Broken rows are left out and
    counted.

    Args:
        path: The file.
        format: How to read it; ``auto`` decides by the content.
        max_bad_share: The share of broken rows above which the file is refused.

    Raises:
        TrafficError: The file can't be read, is of no known format, holds no usable
            row, or has too many broken ones.
    """
    lines = numbered_lines(path)
    head = list(islice(lines, _LINES_TO_DETECT))
    chosen = _detected(path, head) if format == "auto" else format
    lines = chain(head, lines)
    parse: RowParser
    if chosen == "azure":
        number, first = next(lines)
        if not is_azure_header(first):
            raise TrafficError(
                f"{path}:{number}: expected the header {AZURE_HEADER}, "
                f"got {_shown(first)}"
            )
        parse = azure_row
    elif chosen == "mooncake":
        parse = mooncake_row
    else:
        raise TrafficError(
            f"there is no trace format {chosen!r}; write auto, azure or mooncake"
        )
    return _collected(path, chosen, lines, parse, max_bad_share)


def _detected(path: str | Path, head: list[tuple[int, bytes]]) -> Format:
    if is_azure_header(head[0][1]):
        return "azure"
    if any(looks_like_mooncake(line) for _, line in head):
        return "mooncake"
    raise TrafficError(
        f"{path} is in no known trace format: expected the CSV header {AZURE_HEADER} "
        "(azure) or JSON lines with timestamp, input_length, output_length and "
        f"hash_ids (mooncake), found {_shown(head[0][1])}"
    )


def _collected(
    path: str | Path,
    chosen: Format,
    lines: Iterator[tuple[int, bytes]],
    parse: RowParser,
    max_bad_share: float,
) -> Trace:
    good: list[tuple[int, RawRow]] = []
    bad: list[BadRow] = []
    bad_count = 0
    for index, (number, line) in enumerate(lines):
        try:
            good.append((index, parse(line)))
        except RowError as error:
            bad_count += 1
            if len(bad) < BAD_ROWS_KEPT:
                bad.append(BadRow(line=number, reason=f"{error} in {_shown(line)}"))
    _refuse_broken(path, len(good), bad_count, bad, max_bad_share)
    rows, late = _in_order(good)
    return Trace(
        path=str(path),
        sha256=file_sha256(path),
        format=chosen,
        rows=rows,
        block_tokens=MOONCAKE_BLOCK_TOKENS if chosen == "mooncake" else None,
        bad_row_count=bad_count,
        bad_rows=tuple(bad),
        warnings=_warnings(good, bad, bad_count, late),
    )


def _refuse_broken(
    path: str | Path, good: int, bad_count: int, bad: list[BadRow], max_share: float
) -> None:
    total = good + bad_count
    if good and bad_count <= max_share * total:
        return
    if not total:
        raise TrafficError(f"{path} holds a header but no rows")
    quoted = "".join(f"\n  {path}:{row.line}: {row.reason}" for row in bad[:5])
    raise TrafficError(
        f"{path}: {bad_count:,} of {total:,} rows are broken "
        f"({bad_count / total:.1%}; {max_share:.0%} is allowed), the first:{quoted}"
    )


def _in_order(good: list[tuple[int, RawRow]]) -> tuple[tuple[TraceRow, ...], int]:
    """Return the rows by arrival, ties as in the file, and how many stood too late."""
    late = sum(after.ns < before.ns for (_, before), (_, after) in pairwise(good))
    ordered = sorted(good, key=lambda row: row[1].ns) if late else good
    zero_ns = ordered[0][1].ns
    names: dict[int, str] = {}
    rows = tuple(
        TraceRow(
            index=index,
            # Whole nanoseconds are subtracted before the one rounding to a float.
            arrival_s=(raw.ns - zero_ns) / _NS,
            prompt_tokens=raw.prompt_tokens,
            output_tokens=raw.output_tokens,
            block_ids=tuple(names.setdefault(i, str(i)) for i in raw.block_ids),
        )
        for index, raw in ordered
    )
    return rows, late


def _warnings(
    good: list[tuple[int, RawRow]], bad: list[BadRow], bad_count: int, late: int
) -> tuple[str, ...]:
    unused = sorted({name for _, row in good for name in row.unused})
    total = len(good) + bad_count
    said = []
    if bad:
        said.append(
            f"{bad_count:,} of {total:,} rows are broken and left out, the first at "
            f"line {bad[0].line}: {bad[0].reason}"
        )
    if late:
        said.append(
            f"rows were not in order of arrival ({late:,} earlier than the row before "
            "them): sorted"
        )
    if unused:
        names = ", ".join(repr(name[:40]) for name in unused[:10])
        said.append(f"fields that are not used: {names}")
    return tuple(said)


def _shown(line: bytes) -> str:
    text = repr(line[:60].decode("utf-8", "backslashreplace"))
    return f"{text}..." if len(line) > 60 else text
