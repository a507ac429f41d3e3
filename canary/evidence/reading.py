"""Observations from anywhere: a run folder, or a table measured by other tools."""

import gzip
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pq

from canary.errors import ObservationError
from canary.evidence.journal import RunFolder, iter_segments, read_segments
from canary.evidence.observation import REQUIRED, SCHEMA, Status
from canary.evidence.remote import Location

_ROWS_AT_ONCE = 400_000
_AMOUNTS = {
    **dict.fromkeys(
        ("ttft_s", "ttft_send_s", "tpot_s", "latency_s", "service_s", "queue_s"),
        "seconds",
    ),
    "output_tokens": "a number of tokens",
    "peak_memory_bytes": "a number of bytes",
}


class Shards:
    """Observations of one run from one or several places, a part at a time.

    Each part holds whole requests: the segments of a run folder some together, a file
    at once. It can be gone through again.

    Args:
        paths: Run folders and files.
        begins_s: How much later than the first of all each run's zero is, if it is.
    """

    def __init__(
        self, paths: Sequence[Location], begins_s: Sequence[float] = ()
    ) -> None:
        begins_s = begins_s or [0.0] * len(paths)
        self._folders = [
            (RunFolder(path), begin_s)
            for path, begin_s in zip(paths, begins_s, strict=True)
            if path.is_dir()
        ]
        self._tables = [_conform(_read_file(p), p) for p in paths if not p.is_dir()]
        if self._tables:
            self._tables = _from_zero(self._tables)

    def __iter__(self) -> Iterator[pa.Table]:
        """Yield the parts."""
        yield from self._tables
        for folder, begin_s in self._folders:
            for part in _together(iter_segments(_checked(folder))):
                yield _later(part, begin_s) if begin_s else part


def _together(segments: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Put small segments together: a week has many thousands."""
    waiting: list[pa.Table] = []
    for segment in segments:
        waiting.append(segment)
        if sum(table.num_rows for table in waiting) >= _ROWS_AT_ONCE:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def read_observations(path: Location) -> pa.Table:
    """Return the observations at `path` in the public schema.

    Takes a run folder, a Parquet file, a CSV file with a header, or JSON lines (both
    also gzipped). Columns that the schema doesn't know are left out; optional ones
    that are missing are null. Arrivals of such a file count from its first one.

    Raises:
        ObservationError: The file can't be read, lacks a required column, or holds a
            value that the column can't have.
    """
    if path.is_dir():
        return read_segments(_checked(RunFolder(path)))
    return _from_zero([_conform(_read_file(path), path)])[0]


def _checked(folder: RunFolder) -> RunFolder:
    if not folder.observations.is_dir():
        raise ObservationError(
            f"{folder.root}: not a run folder (it has no observations/); "
            "name a folder that canary run has written, or a table of observations"
        )
    return folder


def _from_zero(tables: list[pa.Table]) -> list[pa.Table]:
    """Count arrivals from the first of all: other tools often count from 1970."""
    first_s = min(pc.min(table["arrived_s"]).as_py() for table in tables)
    return [_later(table, -first_s) for table in tables]


def _later(table: pa.Table, by_s: float) -> pa.Table:
    index = SCHEMA.get_field_index("arrived_s")
    arrived_s = pc.add(table["arrived_s"], by_s)
    return table.set_column(index, SCHEMA.field(index), arrived_s)


def _read_file(path: Location) -> pa.Table:
    name = path.name.lower().removesuffix(".gz")
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        source = pa.BufferReader(content)
        if name.endswith(".parquet"):
            return pq.read_table(source)
        if name.endswith(".csv"):
            types = {field.name: field.type for field in SCHEMA}
            options = pa_csv.ConvertOptions(
                column_types=types, strings_can_be_null=True
            )
            return pa_csv.read_csv(source, convert_options=options)
        if name.endswith((".jsonl", ".ndjson", ".json")):
            return pa_json.read_json(source)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ObservationError(f"{path}: can't be read ({reason})") from error
    except (EOFError, pa.ArrowException) as error:
        raise ObservationError(f"{path}: can't be read ({error})") from error
    raise ObservationError(
        f"{path}: unknown kind of file; write .parquet, .csv or .jsonl"
    )


def _conform(table: pa.Table, path: Location) -> pa.Table:
    try:
        names = table.column_names
    except UnicodeDecodeError as error:
        raise ObservationError(
            f"{path}: its column names aren't UTF-8 text; write the file in UTF-8"
        ) from error
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise ObservationError(
            f"{path}: lacks the required column{'s' if missing[1:] else ''} "
            f"{', '.join(missing)}; it has {', '.join(names)}"
        )
    columns = []
    for field in SCHEMA:
        if field.name not in names:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        try:
            column = table[field.name].cast(field.type)
        except pa.ArrowInvalid as error:
            raise ObservationError(f"{path}: column {field.name}: {error}") from error
        if field.name in REQUIRED and column.null_count:
            row = pc.index(pc.is_null(column), True).as_py() + 1
            raise ObservationError(
                f"{path}: row {row}: {field.name} is empty, but every row needs one"
            )
        columns.append(column)
    result = pa.table(columns, schema=SCHEMA)
    if not result.num_rows:
        raise ObservationError(f"{path}: holds no observations")
    _check_values(result, path)
    return result


def _check_values(table: pa.Table, path: Location) -> None:
    allowed = [status.value for status in Status]
    _refuse(
        table,
        pc.invert(pc.is_in(table["status"], value_set=pa.array(allowed))),
        path,
        "status",
        f"write one of {', '.join(allowed)}",
    )
    kinds = pa.array(["quality", "latency", "live"])
    _refuse(
        table,
        pc.invert(pc.is_in(pc.fill_null(table["kind"], "live"), value_set=kinds)),
        path,
        "kind",
        "write quality, latency or live, or leave it empty",
    )
    wrong = pc.less(table["prompt_tokens"], 0)
    _refuse(table, wrong, path, "prompt_tokens", "write a number of tokens")
    score = table["score"]
    _refuse(
        table,
        pc.or_(pc.is_nan(score), pc.or_(pc.less(score, 0.0), pc.greater(score, 1.0))),
        path,
        "score",
        "write a number from 0 to 1",
    )
    agreement = table["agreement"]
    _refuse(
        table,
        pc.and_(pc.not_equal(agreement, 0.0), pc.not_equal(agreement, 1.0)),
        path,
        "agreement",
        "write 1 for the baseline's answer, 0 for another, or leave it empty",
    )
    _refuse(
        table,
        pc.invert(pc.is_finite(table["arrived_s"])),
        path,
        "arrived_s",
        "write seconds from the run's zero",
    )
    weight = table["weight"]
    _refuse(
        table,
        pc.or_(pc.invert(pc.is_finite(weight)), pc.less_equal(weight, 0.0)),
        path,
        "weight",
        "write how many requests it stands for, above 0, or leave it empty",
    )
    for name, what in _AMOUNTS.items():
        column = table[name].cast(pa.float64())
        wrong = pc.or_(pc.is_nan(column), pc.less(column, 0.0))
        _refuse(table, wrong, path, name, f"write {what}, or leave it empty")


def _refuse(
    table: pa.Table, wrong: pa.ChunkedArray, path: Location, column: str, remedy: str
) -> None:
    row = pc.index(pc.fill_null(wrong, False), True).as_py()
    if row >= 0:
        value = table[column][row].as_py()
        raise ObservationError(
            f"{path}: row {row + 1}: {column} can't be {value!r}; {remedy}"
        )
