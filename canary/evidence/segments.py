"""The segments of a run: which there are, reading them, and making few of many.

Segments are immutable Parquet files. Their names say which numbers they cover:
`part-000007.parquet` is what one commit wrote, `part-000000-000063.parquet` has the
rows of 64 of them in the same order. The manifest lists those that count, with rows
and hashes, and is replaced whole.

A commit writes a segment, then the manifest. Merging writes the large segment, then
the manifest that lists it instead of the small ones, then removes those. So a crash at
any point leaves one of two things beside what is listed, both harmless: one segment
after the last that is listed, whose rows count, or files whose numbers are covered,
which are ignored and which the next runner removes. A reader that finds a listed file
gone reads the manifest again: merging moves no row, so it goes on at the same row.

At a URL each manifest is an object of its own, numbered by the commits that it lists
and by their segments, `manifest-000065-000002.json`: one that an old runner writes too
late never counts, and where two have the same number they list the same rows.
"""

import errno
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from canary.errors import ObservationError
from canary.evidence.folder import (
    RunFolder,
    put_new,
    storage_error,
    sync_folder,
    write_atomically,
)
from canary.evidence.numbered import newest, version, versions
from canary.evidence.observation import SCHEMA
from canary.evidence.remote import Location

_NAME = re.compile(r"part-(\d{6,})(?:-(\d{6,}))?\.parquet")
# A week of commits every two seconds is 302,400 files; merged 64 at a time there are
# never more than about 200 small ones, and each row is written four times.
_TOGETHER = 64
# From so many rows on, a segment stays as it is: merging it costs too much time.
_FULL_ROWS = 250_000
# A file server says "stale" of a file that another client has removed.
_GONE = (errno.ENOENT, errno.ESTALE)


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment as the manifest lists it; `elapsed_s` is the run's wall time then,
    0 where an earlier version wrote it."""

    file: str
    rows: int
    sha256: str
    elapsed_s: float = 0.0

    @property
    def first(self) -> int:
        """The number of the first commit in it."""
        return _numbers(self.file)[0]

    @property
    def last(self) -> int:
        """The number of the last commit in it."""
        return _numbers(self.file)[1]

    @property
    def commits(self) -> int:
        """How many commits are in it."""
        return self.last - self.first + 1


_LISTED = tuple(field.name for field in fields(Segment))


def segment_of(name: str, content: bytes, elapsed_s: float) -> Segment:
    """Return how a file with this content is listed."""
    rows = pq.read_metadata(pa.BufferReader(content)).num_rows
    return Segment(name, rows, hashlib.sha256(content).hexdigest(), elapsed_s)


def packed(table: pa.Table) -> bytes:
    """Return rows as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content


def write_manifest(
    folder: RunFolder, segments: Sequence[Segment], before: Sequence[Segment] = ()
) -> None:
    """List the segments that count, instead of those before.

    Raises:
        StorageError: It can't be written.
    """
    # A line for each: what indents a whole document takes ten times as long.
    lines = ",\n".join(
        json.dumps({name: getattr(each, name) for name in _LISTED}) for each in segments
    )
    text = f'{{"schema": "canary.manifest/1", "segments": [\n{lines}\n]}}\n'
    path = _manifest(folder, segments)
    write_atomically(path, text.encode())
    if before and path != folder.manifest:
        _remove([_manifest(folder, before)])


def _manifest(folder: RunFolder, segments: Sequence[Segment]) -> Location:
    """Return the file that lists these segments."""
    if not folder.remote:
        return folder.manifest
    return version(folder.manifest, f"{segments[-1].last + 1:06d}-{len(segments):06d}")


def take_up(folder: RunFolder) -> list[Segment]:
    """Return all segments, for whoever goes on writing, without a crash's leftovers.

    Raises:
        ObservationError: As `iter_segments`.
        StorageError: The leftovers can't be removed.
    """
    segments, beyond = _known(folder)
    if beyond is not None:
        elapsed_s = max((each.elapsed_s for each in segments), default=0.0)
        _read(folder, beyond, None)  # before it is listed as sound
        content = (folder.observations / beyond).read_bytes()
        segments.append(segment_of(beyond, content, elapsed_s))
    counted = {segment.file for segment in segments}
    half = folder.observations.glob(".part-*.tmp")
    covered = (folder.observations / n for n in _names(folder) if n not in counted)
    _remove([*half, *covered, *_outdated(folder, segments)])
    return segments


def _outdated(folder: RunFolder, segments: Sequence[Segment]) -> list[Location]:
    """Return the manifests that needn't be there any more."""
    numbered = versions(folder.manifest)
    if folder.remote:
        return numbered[:-1]
    if numbered:  # a copy of what was recorded at a URL
        write_manifest(folder, segments)
    return numbered


def due_together(segments: Sequence[Segment]) -> int:
    """Return how many of the newest segments are to become one; 0 if none are."""
    small = 0
    for segment in reversed(segments):
        if segment.rows >= _FULL_ROWS:
            break
        small += 1
    newest = segments[len(segments) - small :]
    if small > 1 and sum(segment.rows for segment in newest) >= _FULL_ROWS:
        return small
    alike = newest[-_TOGETHER:]
    if len(alike) == _TOGETHER and alike[0].commits == alike[-1].commits:
        return _TOGETHER
    return 0


def merge(folder: RunFolder, segments: list[Segment], count: int) -> list[Segment]:
    """Make one of the last `count` segments; return what is listed from now on.

    The old ones are then for `remove`.

    Raises:
        ObservationError: One of them is damaged.
        StorageError: The disk fails. What counts has all rows, merged or not; the old
            segments are still there, and merging them again is safe.
    """
    old = segments[-count:]
    table = pa.concat_tables(_read(folder, one.file, one.sha256) for one in old)
    content = packed(table)
    path = folder.segment(old[0].first, old[-1].last)
    there = put_new(path, content)
    if there != content and not pq.read_table(pa.BufferReader(there)).equals(table):
        raise ObservationError(
            f"{path}: isn't what its parts hold; remove it, then go on with "
            f"`canary resume {folder.root}`"
        )
    merged = segment_of(path.name, there, old[-1].elapsed_s)
    listed = [*segments[:-count], merged]
    write_manifest(folder, listed, segments)
    return listed


def remove(folder: RunFolder, segments: Sequence[Segment]) -> None:
    """Remove segments that aren't listed any more.

    Raises:
        StorageError: They can't be; the next runner does it.
    """
    _remove([folder.observations / segment.file for segment in segments])


def _remove(paths: Sequence[Location]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(path, error) from error
    folder = paths[0].parent if paths else None
    if isinstance(folder, Path):
        try:
            sync_folder(folder)
        except OSError as error:
            raise storage_error(folder, error) from error


def read_segments(folder: RunFolder) -> pa.Table:
    """Return everything that a run has committed, in the order it was written.

    Raises:
        ObservationError: As `iter_segments`.
    """
    tables = list(iter_segments(folder))
    return pa.concat_tables(tables) if tables else SCHEMA.empty_table()


def iter_segments(folder: RunFolder) -> Iterator[pa.Table]:
    """Yield what a run has committed part by part, each of whole requests.

    Each row comes once, also while a runner goes on writing and merging.

    Raises:
        ObservationError: A segment is missing, damaged or not what the manifest lists.
    """
    done = 0
    while True:
        segments, beyond = _known(folder)
        try:
            for table in _tables(folder, segments, beyond, done):
                done += table.num_rows
                yield table
        except _GoneError as gone:
            if gone.name in {segment.file for segment in _listed(folder)}:
                raise
        else:
            return


class _GoneError(ObservationError):
    """A segment isn't there, or isn't any more."""

    def __init__(self, path: Location) -> None:
        super().__init__(
            f"{path}: listed in the manifest but missing; "
            "restore it from a copy: a run with a gap can't be judged"
        )
        self.name = path.name


def _tables(
    folder: RunFolder, segments: Sequence[Segment], beyond: str | None, done: int
) -> Iterator[pa.Table]:
    """Yield the rows after the first `done`."""
    at = 0
    for segment in segments:
        if at + segment.rows > done:
            table = _read(folder, segment.file, segment.sha256)
            yield table.slice(max(done - at, 0))
        at += segment.rows
    if beyond is not None:
        yield _read(folder, beyond, None).slice(max(done - at, 0))


def _known(folder: RunFolder) -> tuple[list[Segment], str | None]:
    """Return what is listed, and which segment isn't yet.

    Raises:
        ObservationError: Segments are missing from the list, or it is damaged.
    """
    names = _names(folder)  # before the manifest, which lists all but the newest
    segments = _listed(folder)
    after = 0
    for segment in segments:
        if segment.first != after:
            raise ObservationError(
                f"{folder.manifest}: lists {segment.file} where part-{after:06d} is to "
                "come; restore it from a copy: a run with a gap can't be judged"
            )
        after = segment.last + 1
    beyond = [name for name in names if _numbers(name)[0] >= after]
    if len(beyond) > 1:
        raise ObservationError(
            f"{folder.manifest}: lists {len(segments)} of "
            f"{len(segments) + len(beyond)} segments; a crash leaves at most one "
            "unlisted, so restore it from a copy"
        )
    return segments, beyond[0] if beyond else None


def _listed(folder: RunFolder) -> list[Segment]:
    """Return what the manifest lists, in order; nothing without a manifest."""
    try:
        _, numbered = newest(folder.manifest)
        content = json.loads(numbered or folder.manifest.read_bytes())
        return [Segment(**listed) for listed in content["segments"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ObservationError(
            f"{folder.manifest}: can't be read ({type(error).__name__}: {error}); "
            "restore it from a copy"
        ) from error


def _names(folder: RunFolder) -> list[str]:
    names = (path.name for path in folder.observations.glob("part-*.parquet"))
    return sorted(filter(_NAME.fullmatch, names), key=_numbers)


def _numbers(name: str) -> tuple[int, int]:
    found = _NAME.fullmatch(name)
    if found is None:
        raise ObservationError(f"{name}: no name of a segment; restore the manifest")
    first, last = found.groups()
    return int(first), int(last or first)


def _read(folder: RunFolder, name: str, sha256: str | None) -> pa.Table:
    path = folder.observations / name
    try:
        content = path.read_bytes()
    except OSError as error:
        if error.errno in _GONE:
            raise _GoneError(path) from error
        raise ObservationError(f"{path}: can't be read ({error.strerror})") from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise ObservationError(
            f"{path}: its content is not what the manifest lists; "
            "restore it from a copy: what was changed later can't be judged"
        )
    try:
        return pq.read_table(pa.BufferReader(content), schema=SCHEMA)
    except pa.ArrowInvalid as error:
        raise ObservationError(f"{path}: not a Parquet segment ({error})") from error
