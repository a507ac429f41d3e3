"""Recorded traffic, read into one kind of row.

What a format's lines look like stands with its parser: published traces in
`canary.traffic.published`, logs with content and what our ingress records in `.logs`,
columns that the user names in `.named` (CSV, JSONL) and `.parquet`, ServeGen's rate
processes in `.servegen`.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from canary.errors import TrafficError
from canary.traffic.detection import detected, head_of, line_format, shown
from canary.traffic.lines import LineFile, file_sha256, open_bytes
from canary.traffic.named import check_columns
from canary.traffic.names import COLUMNS, FORMATS, LENGTHS_ONLY, NAMED_FORMATS
from canary.traffic.parquet import PARQUET_MAGIC, parquet_rows
from canary.traffic.rows import LineFormat, RawRow, RowError, RowParser
from canary.traffic.servegen import read_client, sample
from canary.traffic.sources import beside, find_source
from canary.traffic.table import TraceRow, TraceRows
from canary.traffic.taking import BAD_ROWS_KEPT, BadRow, Taking

__all__ = [
    "BAD_ROWS_KEPT",
    "COLUMNS",
    "FORMATS",
    "BadRow",
    "Trace",
    "TraceRow",
    "read_trace",
]

_TOO_FAST_RPS = 1000.0
_TOO_SLOW_RPS = 0.005
_ROWS_TO_JUDGE_RATE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A trace in order of arrival, the first row at 0 seconds.

    `bad_row_count` counts every broken row, `bad_rows` holds the first of them;
    `left_out_count` counts sound rows that are not replayed, such as requests that
    failed. `block_tokens` is None where rows carry no block ids. `sha256` is the hash
    of the file as it lies on disk; of several files, that of their hashes.
    `estimated_lengths` says that prompt lengths were counted from characters.
    """

    path: str
    sha256: str
    format: str
    rows: Sequence[TraceRow]
    block_tokens: int | None = None
    bad_row_count: int = 0
    bad_rows: tuple[BadRow, ...] = ()
    left_out_count: int = 0
    warnings: tuple[str, ...] = ()
    estimated_lengths: bool = False


def read_trace(
    source: str | Path,
    *,
    format: str = "auto",  # noqa: A002 - the policy's word
    columns: Mapping[str, str] | None = None,
    seed: int = 0,
    max_bad_share: float = 0.01,
) -> Trace:
    """Read a trace, plain, gzip or zstd, line by line.

    A row is broken when a field is missing, not a whole number or negative, when the
    prompt is empty, or when no output was generated (elsewhere such rows are failed
    requests; to invent a token would change the load). Broken rows are left out and
    counted.

    Args:
        source: A file, a glob, a folder or a URL that fsspec opens. Several files are
            one trace, on one clock, in the order of their names.
        format: How to read it; ``auto`` decides by the content.
        columns: Some of `COLUMNS` to the names that the file has for them.
        seed: Decides what is drawn where a trace tells rates, not requests (servegen).
        max_bad_share: The share of broken rows above which the trace is refused.

    Raises:
        TrafficError: The source can't be read, is of no known format or of several,
            holds no usable row, or has too many broken ones.
    """
    columns = columns or {}
    _check_call(format, columns)
    path = str(source)
    reading = _Reading(path, format, columns, seed)
    reading.read()
    kind = reading.kind
    header = kind is None or kind.has_header
    rows = reading.taking.finish(path, max_bad_share, header=header)
    return Trace(
        path=path,
        sha256=_combined(reading.hashes),
        format=reading.format,
        rows=rows,
        block_tokens=kind.block_tokens if kind and len(rows.blocks) else None,
        bad_row_count=reading.taking.bad_count,
        bad_rows=tuple(reading.taking.bad),
        left_out_count=reading.taking.left_out.total(),
        warnings=(
            *reading.taking.warnings(rows, files=len(reading.hashes)),
            *reading.warnings,
            *(kind.warnings() if kind else ()),
            *filter(None, [_implausible(rows)]),
        ),
        estimated_lengths=rows.estimated,
    )


def _check_call(name: str, columns: Mapping[str, str]) -> None:
    if name not in ("auto", *FORMATS):
        known = f"{', '.join(('auto', *FORMATS[:-1]))} or {FORMATS[-1]}"
        raise TrafficError(f"there is no trace format {name!r}; write {known}")
    if columns and name not in ("auto", *NAMED_FORMATS):
        raise TrafficError(
            f"columns are for csv, jsonl and parquet: {name} has its own; leave out one"
        )
    check_columns(columns)


class _Reading:
    """One call of `read_trace`: the files of a source, all of one format."""

    def __init__(
        self, source: str, name: str, columns: Mapping[str, str], seed: int
    ) -> None:
        self._source = find_source(source)
        self._path = source
        self._columns = columns
        self._seed = seed
        self._first = ""
        self.format = name
        self.kind: LineFormat | None = None
        self.taking = Taking()
        self.hashes: list[str] = []
        self.warnings: list[str] = []

    def read(self) -> None:
        """Take all rows of all files."""
        for client in self._source.clients:
            self._agree(client[1], "servegen")
            self._take_client(*client)
        for path in self._source.files:
            self._read_file(path)
        if not self.hashes:
            raise TrafficError(f"{self._path} is empty; give one that holds rows")

    def _agree(self, path: str, name: str) -> None:
        """Refuse a file in another format than the one before or the one asked for."""
        if self.format == "auto":
            self.format, self._first = name, path
        elif name != self.format:
            other = "what was asked for" if not self._first else self._first
            raise TrafficError(
                f"{path} is {name}, but {other} is {self.format}; give files of one "
                "format"
            )

    def _read_file(self, path: str) -> None:
        if self.format in ("auto", "parquet") and self._is_parquet(path):
            self._agree(path, "parquet")
            self.hashes.append(file_sha256(path))
            self.taking.quotes = False
            for number, read, record in parquet_rows(path, self._columns):
                self.taking.take(path, number, record, read)
            return
        lines = LineFile(path)
        numbered = iter(lines)
        head = head_of(numbered)
        if self._source.growing and not _begun(lines, head):
            return  # a file of the spool that no line was written to yet
        lines.refuse_empty(empty=not head)
        first = [line for _, line in head]
        if self.format == "auto" or self._first:
            self._agree(path, detected(path, first, self._columns))
        if self.format == "servegen":
            self._take_client(*beside(path))
            return
        self._take_lines(lines, head, numbered, first)

    def _is_parquet(self, path: str) -> bool:
        if self.format == "parquet" and not self._first:
            return True
        with open_bytes(path) as stream:
            return stream.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC

    def _take_client(self, name: str, trace: str, dataset: str) -> None:
        client = read_client(name, trace, dataset)
        self.hashes += client.sha256
        drawn, warnings = sample(client, self._seed)
        self.warnings += warnings
        for number, row in enumerate(drawn, 1):
            self.taking.take(trace, number, row, partial(_itself, row))

    def _take_lines(
        self,
        lines: LineFile,
        head: list[tuple[int, bytes]],
        rest: Iterator[tuple[int, bytes]],
        first: Sequence[bytes],
    ) -> None:
        self.kind = self.kind or line_format(self.format, self._columns)
        self.taking.quotes = self.format in LENGTHS_ONLY
        parse = _started(lines.path, self.kind, head[0][0], first)
        numbered = chain(head[1:] if self.kind.has_header else head, rest)
        for number, line in numbered:
            if self.format == "ingress" and number == lines.unfinished:
                # Its end may still be on the way: it is a row of the next reading.
                said = f"{lines.path} ends within line {number}: left out until it ends"
                self.warnings.append(said)
                continue
            self.taking.take(lines.path, number, line, partial(parse, line))
        self.hashes.append(lines.sha256)


def _itself(row: RawRow) -> RawRow:
    return row


def _begun(lines: LineFile, head: Sequence[tuple[int, bytes]]) -> bool:
    return bool(head) and head[0][0] != lines.unfinished


def _started(
    path: str, kind: LineFormat, number: int, first: Sequence[bytes]
) -> RowParser:
    try:
        return kind.start(first)
    except RowError as error:
        raise TrafficError(f"{path}:{number}: {error}, got {shown(first[0])}") from None


def _combined(hashes: Sequence[str]) -> str:
    if len(hashes) == 1:
        return hashes[0]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _implausible(rows: TraceRows) -> str | None:
    """Rates that no service has: time stamps in another unit than was thought."""
    duration_s = float(rows.arrival_s[-1])
    if len(rows) < _ROWS_TO_JUDGE_RATE or not duration_s:
        return None
    rate_rps = len(rows) / duration_s
    if _TOO_SLOW_RPS <= rate_rps <= _TOO_FAST_RPS:
        return None
    fast = rate_rps > _TOO_FAST_RPS
    rate = f"{rate_rps:,.0f} requests/s" if fast else f"{1 / rate_rps:,.0f} s between"
    unit = "coarser" if fast else "finer"
    said = f"{len(rows):,} rows over {duration_s:,.1f} s, {rate}"
    return (
        f"{said}: the time stamps may be in a {unit} unit than was read; if so, name "
        "columns, as in arrival=timestamp or arrival_ms=timestamp"
    )
