"""A run folder: every file name in it, and how a file gets there: whole or not."""

import errno
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from canary.errors import StorageError, UsageError

_IN_WORDS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file size limit is reached",
    errno.EROFS: "the file system is read-only",
}


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

    def segment(self, first: int, last: int | None = None) -> Path:
        """The file of one segment, counted from 0, or of several that became one."""
        to = "" if last is None else f"-{last:06d}"
        return self.observations / f"part-{first:06d}{to}.parquet"

    def decision(self, policy: str) -> Path:
        """The decision document of one policy."""
        return self.root / f"decision.{policy}.json"

    def folded(self, policy: str) -> Path:
        """What a shard's observations were folded into for one policy."""
        return self.root / f"evidence.{policy}.npz"

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

    Raises:
        StorageError: It can't be written. What was there before still is, or, if only
            the last sync failed, the new content; writing it again is safe.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
        if durable:
            sync_folder(path.parent)
    except OSError as error:
        # Half a file would take the room that is lacking; the first error is told.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise storage_error(path, error) from error


def sync_folder(path: Path) -> None:
    """Make the names in a folder, new, changed or gone, outlast a power cut.

    Raises:
        OSError: The disk can't.
    """
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def storage_error(path: Path, error: OSError) -> StorageError:
    """Return what an operating system's error about a file means to a run."""
    reason = _IN_WORDS.get(error.errno or 0) or error.strerror or str(error)
    told = f"{path}: can't be written ({reason}); what was recorded before stays"
    return StorageError(told, reason=reason)
