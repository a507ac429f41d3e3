"""A run folder: every file name in it, and how a file gets there: whole or not."""

import errno
import os
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from canary.errors import StorageError, UsageError
from canary.evidence.remote import Location, RemotePath, located

BEGAN = "began"
"""What whoever begins a run at a URL leaves among the observations."""

_IN_WORDS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file size limit is reached",
    errno.EROFS: "the file system is read-only",
}


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Every file name of a run, from one value.

    Where it lies at a URL, names have the same meaning, but what is written again and
    again has a number more in its name: see `canary.evidence.numbered`.
    """

    root: Location

    @classmethod
    def at(cls, place: str | Path) -> "RunFolder":
        """Return the folder at a local path or an fsspec URL.

        Raises:
            UsageError: The URL can't be used.
        """
        return cls(located(place))

    @property
    def remote(self) -> bool:
        """Whether it lies at a URL, where each request takes its time."""
        return isinstance(self.root, RemotePath)

    @property
    def local(self) -> Path:
        """The folder on this machine.

        Raises:
            UsageError: It lies at a URL.
        """
        if isinstance(self.root, RemotePath):
            raise UsageError(
                f"{self.root}: lies at a URL, but this works on local folders only"
            )
        return self.root

    @property
    def name(self) -> str:
        """What the run is called."""
        root = self.root
        return root.name if isinstance(root, RemotePath) else root.resolve().name

    @property
    def run_json(self) -> Location:
        """What is needed to repeat the run and to audit it."""
        return self.root / "run.json"

    @property
    def policies(self) -> Location:
        """Copies of the policy files as they were when the run started."""
        return self.root / "policies"

    @property
    def observations(self) -> Location:
        """The segments and their manifest."""
        return self.root / "observations"

    @property
    def lease(self) -> Location:
        """Who may write into the folder."""
        return self.root / "lease.json"

    @property
    def status_json(self) -> Location:
        """How the run stands, for whoever watches."""
        return self.root / "status.json"

    @property
    def overrides(self) -> Location:
        """What people decided against, or beside, the verdicts: a line each."""
        return self.root / "overrides.jsonl"

    @property
    def manifest(self) -> Location:
        """The list of segments with rows and hashes."""
        return self.observations / "manifest.json"

    def segment(self, first: int, last: int | None = None) -> Location:
        """The file of one segment, counted from 0, or of several that became one."""
        to = "" if last is None else f"-{last:06d}"
        return self.observations / f"part-{first:06d}{to}.parquet"

    def decision(self, policy: str) -> Location:
        """The decision document of one policy."""
        return self.root / f"decision.{policy}.json"

    def folded(self, policy: str) -> Location:
        """What a shard's observations were folded into for one policy."""
        return self.root / f"evidence.{policy}.npz"

    @property
    def report_html(self) -> Location:
        """The report for a browser."""
        return self.root / "report.html"

    @property
    def report_markdown(self) -> Location:
        """The report for a pull request."""
        return self.root / "report.md"

    def refuse_if_used(self) -> None:
        """Raise UsageError if the folder already holds something."""
        if isinstance(self.root, RemotePath):
            self.root.refuse_weak()
        if self.root.exists() and not self.root.is_dir():
            raise UsageError(f"{self.root}: is a file; name a folder with --out")
        if self.root.exists() and any(self.root.glob("*")):
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
        if isinstance(self.observations, RemotePath):
            self._claim(self.observations / BEGAN)
            return
        try:
            (self.local / "observations").mkdir(parents=True)
            (self.local / "policies").mkdir()
        except OSError as error:
            raise UsageError(
                f"{self.root}: can't be created ({error.strerror}); "
                "name a folder that you may write to with --out"
            ) from error

    def _claim(self, mark: RemotePath) -> None:
        """Make sure that nobody else begins a run here, and that the store can tell."""
        mine = uuid.uuid4().hex.encode()
        if mark.put_new(mine) != mine:
            raise UsageError(
                f"{self.root}: another run has just begun here; name another place "
                "with --out"
            )
        mark.refuse_overwriting()


def put_new(path: Location, content: bytes) -> bytes:
    """Put a segment at `path`, whole or not at all; return what is there then.

    Of local files that is `content`. At a URL something may be there already, of an
    attempt that seemed to fail, or of another runner; then that stays.

    Raises:
        StorageError: As `write_atomically`.
    """
    if isinstance(path, RemotePath):
        return path.put_new(content)
    write_atomically(path, content)
    return content


def write_atomically(path: Location, content: bytes, *, durable: bool = True) -> None:
    """Put `content` at `path`, whole or not at all.

    That holds through a power cut too, unless it needn't be `durable`; then nothing
    waits for the disk. An object at a URL always is.

    Raises:
        StorageError: It can't be written. What was there before still is, or, if only
            the last sync failed, the new content; writing it again is safe.
    """
    if isinstance(path, RemotePath):
        path.put(content)
        return
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


def written_unix_s(path: Location) -> float:
    """Return when a file was written."""
    if isinstance(path, RemotePath):
        return path.modified_unix_s()
    return float(path.stat().st_mtime)


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


def storage_error(path: Location, error: OSError) -> StorageError:
    """Return what an operating system's error about a file means to a run."""
    reason = _IN_WORDS.get(error.errno or 0) or error.strerror or str(error)
    told = f"{path}: can't be written ({reason}); what was recorded before stays"
    return StorageError(told, reason=reason)
