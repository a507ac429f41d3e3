"""Observations on disk: immutable Parquet segments, each there whole or not at all.

A segment is written under a temporary name, synced, then renamed; the manifest, which
lists each segment with its rows and hash, is replaced the same way afterwards. A crash
between the two leaves a whole segment that the manifest doesn't list yet: readers take
it all the same. What a crash can lose is what was not committed: at most `every_s`.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from canary.clock import Clock
from canary.errors import ObservationError, UsageError
from canary.evidence.observation import SCHEMA, Observation, to_table


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Every file name of a run, from one value."""

    root: Path

    @property
    def run_json(self) -> Path:
        """What is needed to repeat the run and to audit it."""
        return self.root / "run.json"

    @property
    def policies(self) -> Path:
        """Copies of the policy files as they were when the run started."""
        return self.root / "policies"

    @property
    def observations(self) -> Path:
        """The segments and their manifest."""
        return self.root / "observations"

    @property
    def lease(self) -> Path:
        """Who may write into the folder."""
        return self.root / "lease.json"

    @property
    def status_json(self) -> Path:
        """How the run stands, for whoever watches."""
        return self.root / "status.json"

    @property
    def overrides(self) -> Path:
        """What people decided against, or beside, the verdicts: a line each."""
        return self.root / "overrides.jsonl"

    @property
    def manifest(self) -> Path:
        """The list of segments with rows and hashes."""
        return self.observations / "manifest.json"

    def segment(self, number: int) -> Path:
        """The file of one segment, counted from 0."""
        return self.observations / f"part-{number:06d}.parquet"

    def decision(self, policy: str) -> Path:
        """The decision document of one policy."""
        return self.root / f"decision.{policy}.json"

    @property
    def report_html(self) -> Path:
        """The report for a browser."""
        return self.root / "report.html"

    @property
    def report_markdown(self) -> Path:
        """The report for a pull request."""
        return self.root / "report.md"

    def refuse_if_used(self) -> None:
        """Raise UsageError if the folder already holds something."""
        if self.root.exists() and not self.root.is_dir():
            raise UsageError(f"{self.root}: is a file; name a folder with --out")
        if self.root.exists() and any(self.root.iterdir()):
            raise UsageError(
                f"{self.root}: already exists and is not empty; "
                "name another folder with --out or move this one away"
            )

    def create(self) -> None:
        """Make the folder, which must be new or empty.

        Raises:
            UsageError: It holds something, or can't be made here.
        """
        self.refuse_if_used()
        try:
            self.observations.mkdir(parents=True)
            self.policies.mkdir()
        except OSError as error:
            raise UsageError(
                f"{self.root}: can't be created ({error.strerror}); "
                "name a folder that you may write to with --out"
            ) from error


def write_atomically(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Put `content` at `path`, whole or not at all.

    That holds through a power cut too, unless it needn't be `durable`; then nothing
    waits for the disk.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UsageError(
            f"{path}: can't be written ({error.strerror}); "
            "what was recorded before stays"
        ) from error
    if not durable:
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Journal:
    """Appends the observations of whole requests and commits them every few seconds.

    Opened on a folder that has segments already, it goes on after the last of them.

    Args:
        folder: The run folder; its `observations` folder must exist.
        clock: Monotonic seconds.
        every_s: How long observations may wait before they are committed.
        elapsed_s: What the run is known to have taken before, if that is more than its
            last segment says: it may have waited after that.
        before_commit: Called before anything is written; what it raises prevents it.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        clock: Clock,
        every_s: float = 2.0,
        elapsed_s: float = 0.0,
        before_commit: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._every_s = every_s
        self._before_commit = before_commit
        self._pending: list[Observation] = []
        self._segments = _found_segments(folder)
        earlier = [segment["elapsed_s"] for segment in self._segments]
        self._earlier_s: float = max([elapsed_s, *earlier])
        self._opened_s = self._committed_s = clock()

    @property
    def elapsed_s(self) -> float:
        """Wall time that the run has taken, without the pauses between its runners."""
        return self._earlier_s + self._clock() - self._opened_s

    def append(self, observations: Sequence[Observation]) -> None:
        """Take the observations of one request, of all arms alike; commit when due."""
        self._pending.extend(observations)
        self.commit_if_due()

    def commit_if_due(self) -> None:
        """Commit what has waited for long enough."""
        if self._clock() - self._committed_s >= self._every_s:
            self.commit()

    def commit(self) -> None:
        """Write what is pending as one segment; do nothing when nothing is."""
        self._committed_s = self._clock()
        if not self._pending:
            return
        self._before_commit()
        path = self._folder.segment(len(self._segments))
        sink = pa.BufferOutputStream()
        pq.write_table(to_table(self._pending), sink, compression="zstd")
        content = sink.getvalue().to_pybytes()
        write_atomically(path, content)
        self._segments.append(_entry(path.name, content, self.elapsed_s))
        manifest = {"schema": "canary.manifest/1", "segments": self._segments}
        write_atomically(
            self._folder.manifest, (json.dumps(manifest, indent=1) + "\n").encode()
        )
        self._pending = []


def _entry(name: str, content: bytes, elapsed_s: float) -> dict[str, Any]:
    return {
        "file": name,
        "rows": pq.read_metadata(pa.BufferReader(content)).num_rows,
        "sha256": hashlib.sha256(content).hexdigest(),
        "elapsed_s": elapsed_s,
    }


def _listed(folder: RunFolder) -> list[dict[str, Any]]:
    """The segments that the manifest lists, in order; none without a manifest."""
    if not folder.manifest.exists():
        return []
    segments: list[dict[str, Any]] = json.loads(folder.manifest.read_text())["segments"]
    return segments


def _found_segments(folder: RunFolder) -> list[dict[str, Any]]:
    """The listed segments and those that a crash kept from being listed."""
    segments = _listed(folder)
    elapsed_s = max((segment["elapsed_s"] for segment in segments), default=0.0)
    for path in _segment_paths(folder)[len(segments) :]:
        segments.append(_entry(path.name, path.read_bytes(), elapsed_s))
    return segments


def _segment_paths(folder: RunFolder) -> list[Path]:
    return sorted(folder.observations.glob("part-*.parquet"))


def read_segments(folder: RunFolder) -> pa.Table:
    """Return everything that a run has committed, in the order it was written.

    Raises:
        ObservationError: As `iter_segments`.
    """
    tables = list(iter_segments(folder))
    return pa.concat_tables(tables) if tables else SCHEMA.empty_table()


def iter_segments(folder: RunFolder) -> Iterator[pa.Table]:
    """Yield what a run has committed segment by segment, each of whole requests.

    Raises:
        ObservationError: A segment is missing, damaged or not what the manifest lists.
    """
    listed = {segment["file"]: segment for segment in _listed(folder)}
    found = [path.name for path in _segment_paths(folder)]
    if len(found) > len(listed) + 1:
        raise ObservationError(
            f"{folder.manifest}: lists {len(listed)} of {len(found)} segments; a crash "
            "leaves at most one unlisted, so restore it from a copy"
        )
    for name in listed:
        if name not in found:
            raise ObservationError(
                f"{folder.observations / name}: listed in the manifest but missing; "
                "restore it from a copy: a run with a gap can't be judged"
            )
    for name in found:
        yield _read_segment(folder.observations / name, listed.get(name))


def _read_segment(path: Path, listed: dict[str, Any] | None) -> pa.Table:
    content = path.read_bytes()
    if listed and hashlib.sha256(content).hexdigest() != listed["sha256"]:
        raise ObservationError(
            f"{path}: its content is not what the manifest lists; "
            "restore it from a copy: what was changed later can't be judged"
        )
    try:
        return pq.read_table(pa.BufferReader(content), schema=SCHEMA)
    except pa.ArrowInvalid as error:
        raise ObservationError(f"{path}: not a Parquet segment ({error})") from error
