"""Parquet with named columns, read in batches."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from canary.errors import TrafficError
from canary.traffic.lines import open_bytes
from canary.traffic.named import Named
from canary.traffic.rows import RawRow, RowError

PARQUET_MAGIC = b"PAR1"

_BATCH_ROWS = 4096


def parquet_rows(
    path: str, columns: Mapping[str, str]
) -> Iterator[tuple[int, Callable[[], RawRow], Any]]:
    """Yield each row's number from 1, how to read it, and the record itself.

    Raises:
        TrafficError: When iterating: the file can't be read or lacks a column.
    """
    with open_bytes(path) as stream:
        try:
            file = pq.ParquetFile(stream)
            names = file.schema_arrow.names
            named = Named(names, columns)
            unused = tuple(name for name in names if name not in named.used)
            number = 0
            for batch in file.iter_batches(_BATCH_ROWS, columns=list(named.used)):
                for record in _plain(batch).to_pylist():
                    number += 1
                    yield number, _reading(named, record, unused), record
        except RowError as error:
            raise TrafficError(f"{path}: {error}") from None
        except (pa.ArrowException, OSError) as error:
            first = str(error).split("\n", 1)[0]
            raise TrafficError(
                f"{path}: can't be read as Parquet ({first}); fetch it again"
            ) from error


def _reading(
    named: Named, record: Mapping[str, object], unused: tuple[str, ...]
) -> Callable[[], RawRow]:
    return lambda: named.row(record)._replace(unused=unused)


def _plain(batch: pa.RecordBatch) -> pa.Table:
    """Time stamps become ISO text: a datetime of Python would lose nanoseconds."""
    table = pa.Table.from_batches([batch])
    for at, column in enumerate(table.schema):
        if pa.types.is_timestamp(column.type):
            stamps = table.column(at).cast(pa.timestamp("ns")).cast(pa.string())
            table = table.set_column(at, column.name, stamps)
    return table
