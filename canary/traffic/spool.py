"""What `canary ingress` records, line by line, also while it grows.

A spool is a folder (or an fsspec URL) of files ``requests-*.jsonl``; each line is one
request of schema ``canary.ingress/1``. A last line without its end is being written.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import fsspec

from canary.errors import TrafficError
from canary.traffic.logs import ingress_row
from canary.traffic.rows import RawRow, RowError, S, json_object

FILES = "requests-*.jsonl"


@dataclass(frozen=True, slots=True)
class Recorded:
    """One mirrored request: its name, when it came, and what a trace would have."""

    id: str
    arrived_unix_s: float
    row: RawRow


def recorded(line: bytes) -> Recorded:
    """Read one line.

    Raises:
        RowError: It is no request of this schema; it says why.
    """
    row = ingress_row(line)
    name = json_object(line).get("id")
    if not isinstance(name, str) or not name:
        raise RowError("id is not text")
    if row.ns is None:
        raise RowError("arrived_unix_s is missing")
    return Recorded(name, row.ns / S, row)


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
