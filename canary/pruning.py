"""Makes room below a folder of runs: raw observations first, whole runs last.

A run whose raw observations are gone keeps its verdicts, but can neither be resumed nor
judged again; its record says when they went. Whoever is running is never touched, nor
is a folder whose record can't be read.
"""

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path

from canary.clock import Clock
from canary.errors import CanaryError, UsageError
from canary.evidence.folder import RunFolder, written_unix_s
from canary.evidence.lease import Lease
from canary.evidence.remote import Location, RemotePath
from canary.policy.units import duration_s
from canary.record import read_run, write_run

_SIZE = r"([0-9]{1,9}(?:\.[0-9]{1,3})?) ?(B|kB|MB|GB|TB|KiB|MiB|GiB|TiB)"
_BYTES = {
    **{unit: 1000**power for power, unit in enumerate(("B", "kB", "MB", "GB", "TB"))},
    **{unit: 1024**power for power, unit in enumerate(("KiB", "MiB", "GiB", "TiB"), 1)},
}


class Part(StrEnum):
    """What of a run is removed."""

    RAW = "raw observations"
    RUN = "the whole run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What is to go, how much room that makes, and why."""

    folder: RunFolder
    part: Part
    size_bytes: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """A run that may be pruned; `written_unix_s` is when it was last written to."""

    folder: RunFolder
    written_unix_s: float
    raw_bytes: int
    rest_bytes: int


def size_bytes(text: str) -> int:
    """Read ``10GiB`` or ``500MB``.

    Raises:
        UsageError: It is no size.
    """
    match = re.fullmatch(_SIZE, text)
    if match is None:
        raise UsageError(
            f"--keep-bytes {text}: expected a size with its unit; "
            "write for example 10GiB or 500MB"
        )
    return int(Decimal(match[1]) * _BYTES[match[2]])


def age_s(text: str) -> float:
    """Read ``30d``.

    Raises:
        UsageError: It is no duration.
    """
    try:
        return duration_s(text)
    except ValueError as error:
        raise UsageError(f"--older-than: {error}") from error


def plan_pruning(
    root: Location,
    *,
    older_than_s: float | None,
    keep_bytes: int | None,
    wall_clock: Clock,
) -> list[Removal]:
    """Return what goes, the oldest first.

    Raw observations of runs that nobody has written to for longer than `older_than_s`
    go. If what then remains is more than `keep_bytes`, more of them go, and where that
    is not enough whole runs.

    Raises:
        UsageError: It lies at a URL.
    """
    if isinstance(root, RemotePath):
        raise UsageError(
            f"{root}: --prune makes room on this machine only; at a URL remove what is "
            "old with the store's own tools or its lifecycle rules"
        )
    kept = sorted(
        _prunable(root, wall_clock=wall_clock), key=lambda run: run.written_unix_s
    )
    removals, raw_gone = [], set()
    now_s = wall_clock()
    for run in kept:
        if older_than_s is None or now_s - run.written_unix_s <= older_than_s:
            continue
        raw_gone.add(run.folder)
        if run.raw_bytes:
            removals.append(_removal(run, Part.RAW, run.raw_bytes, "it is old enough"))
    if keep_bytes is None:
        return removals
    over = _tree_bytes(root) - keep_bytes - sum(r.size_bytes for r in removals)
    for run in kept:
        if over > 0 and run.folder not in raw_gone and run.raw_bytes:
            raw_gone.add(run.folder)
            removals.append(_removal(run, Part.RAW, run.raw_bytes, "to make room"))
            over -= run.raw_bytes
    for run in kept:
        if over > 0:
            removals.append(_removal(run, Part.RUN, run.rest_bytes, "to make room"))
            over -= run.rest_bytes
    return removals


def prune(removals: Sequence[Removal], *, wall_clock: Clock) -> None:
    """Remove it.

    Raises:
        UsageError: Somebody has begun to run one of them since, or it can't be removed;
            what comes before it in the list is gone.
    """
    for removal in removals:
        folder = removal.folder
        lease = Lease(folder, wall_clock=wall_clock)
        lease.take()
        try:
            if removal.part is Part.RAW:
                when = datetime.fromtimestamp(wall_clock(), UTC)
                record = read_run(folder)
                # First, so that no half of the evidence is ever judged.
                record["pruned"] = when.isoformat(timespec="seconds")
                before = (folder.local / "run.json").stat()
                write_run(folder, record)
                # Pruning makes no run younger.
                os.utime(
                    folder.local / "run.json",
                    ns=(before.st_atime_ns, before.st_mtime_ns),
                )
                shutil.rmtree(folder.local / "observations")
            else:
                shutil.rmtree(folder.local)
        except OSError as error:
            raise UsageError(
                f"{folder.root}: can't be removed ({error.strerror}); what was listed "
                "before it is gone"
            ) from error
        finally:
            if folder.root.exists():
                lease.release()


def _removal(run: _Kept, part: Part, size_bytes: int, why: str) -> Removal:
    return Removal(folder=run.folder, part=part, size_bytes=size_bytes, why=why)


def _prunable(root: Path, *, wall_clock: Clock) -> list[_Kept]:
    found = []
    for path in sorted(root.rglob("run.json")):
        folder = RunFolder(path.parent)
        try:
            read_run(folder)
            if Lease(folder, wall_clock=wall_clock).is_taken():
                continue
        except CanaryError:  # `canary runs` says what is wrong with it
            continue
        raw = _tree_bytes(path.parent / "observations")
        found.append(
            _Kept(
                folder=folder,
                written_unix_s=_written_unix_s(folder),
                raw_bytes=raw,
                rest_bytes=_tree_bytes(path.parent) - raw,
            )
        )
    return found


def _written_unix_s(folder: RunFolder) -> float:
    """Return when a run, or a report on it, was last written to."""
    told = folder.root.glob("*.json")
    files = [*told, *folder.observations.glob("*")]
    return max(written_unix_s(path) for path in files)


def _tree_bytes(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
