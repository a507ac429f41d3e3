"""Files of whole lines that survive the process: `requests-<UTC stamp>-<pid>.jsonl`.

One `write` a batch, to a file opened for appending: once it has returned, the lines
are the kernel's and outlive a killed process. `sync`, called each second, makes them
outlive the machine. A write that fails half-way is taken back, so that a reader never
finds a torn line before a whole one.
"""

import errno
import fcntl
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

from canary.clock import Clock
from canary.errors import UsageError

ROLL_BYTES = 256 * 2**20
"""A file is closed when it has grown to this, whatever its age."""

_LOCK_FILE = "ingress.lock"
_NAME = re.compile(r"requests-([0-9]{8}T[0-9]{12}Z)-[0-9]+\.jsonl")
_STAMP = "%Y%m%dT%H%M%S%fZ"


class Spool:
    """A folder, and the one file in it that grows. Used by one process at a time."""

    def __init__(self, folder: Path, *, roll_s: float, wall_clock: Clock) -> None:
        self.folder = folder
        self._roll_s = roll_s
        self._wall_clock = wall_clock
        self._lock = Lock()
        self._path: Path | None = None
        self._descriptor = -1
        self._size_bytes = 0
        self._opened_unix_s = 0.0
        self._claim = _claim(folder)

    @property
    def open_name(self) -> str | None:
        """The name of the file that grows, if there is one."""
        path = self._path
        return path.name if path else None

    def append(self, lines: bytes) -> None:
        """Write whole lines, all or none.

        Raises:
            OSError: The disk is full or gone; the next call tries again, with a new
                file.
        """
        with self._lock:
            self._roll()
            if self._path is None:
                self._open()
            try:
                _write_all(self._descriptor, lines)
            except OSError:
                self._take_back()
                raise
            self._size_bytes += len(lines)

    def roll(self) -> None:
        """Close the file if it is old enough."""
        with self._lock:
            self._roll()

    def sync(self) -> None:
        """Make what was appended outlive the machine. Appending goes on meanwhile."""
        with self._lock:
            if self._path is None:
                return
            twin = os.dup(self._descriptor)
        try:
            os.fsync(twin)
        finally:
            os.close(twin)

    def finish(self) -> None:
        """Sync and close the file."""
        with self._lock:
            self._close()

    def close(self) -> None:
        """Finish, and leave the folder to others."""
        self.finish()
        os.close(self._claim)

    def _roll(self) -> None:
        if self._path is None:
            return
        old = self._wall_clock() - self._opened_unix_s >= self._roll_s
        if old or self._size_bytes >= ROLL_BYTES:
            self._close()

    def _open(self) -> None:
        now = self._wall_clock()
        stamp = datetime.fromtimestamp(now, tz=UTC).strftime(_STAMP)
        path = self.folder / f"requests-{stamp}-{os.getpid()}.jsonl"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        self._descriptor = os.open(path, flags, 0o600)
        self._path, self._size_bytes, self._opened_unix_s = path, 0, now

    def _take_back(self) -> None:
        """Cut off what a failed write left, and begin a new file with the next."""
        try:
            os.ftruncate(self._descriptor, self._size_bytes)
        finally:
            self._close()

    def _close(self) -> None:
        if self._path is None:
            return
        path, self._path = self._path, None
        try:
            os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)
            if self._size_bytes == 0:
                path.unlink(missing_ok=True)


def _write_all(descriptor: int, lines: bytes) -> None:
    """Write it in one go; a full disk takes the beginning and says nothing yet."""
    if os.write(descriptor, lines) != len(lines):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def spooled_files(folder: Path) -> list[Path]:
    """Return the files of a spool, oldest first."""
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def opened_unix_s(name: str) -> float | None:
    """Return when a file was begun, by its name; None if it is no file of a spool."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    return datetime.strptime(match[1], _STAMP).replace(tzinfo=UTC).timestamp()


def replace_whole(path: Path, text: str) -> None:
    """Write a small file so that readers find the old text or the new one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def _claim(folder: Path) -> int:
    """Make the folder ours until this process ends, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / _LOCK_FILE, os.O_WRONLY | os.O_CREAT, 0o600)
    except OSError as error:
        raise UsageError(
            f"{folder}: can't be used as a spool ({error.strerror}); "
            "name a folder that this user can write to"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise UsageError(
            f"{folder}: another ingress writes there; give this one a spool of its own"
        ) from error
    return descriptor
