"""One runner at a time: who may write into a run folder, and until when.

The lease names its owner (a token, the host, its boot and process) and when it expires.
The owner proves with every commit that it still has it, and renews it long before it
expires; a thread of its process does while a request, or a start, takes long. A runner
that finds a living lease is refused. One that finds an expired one takes it over, or
one of a process of this machine that is gone. An owner that was taken over while it
slept finds out at its next commit, before it writes anything: that is what keeps two
runners from ever writing both. All that clocks decide is how soon a run may be taken
over:

* Between processes of one machine, expiry is told by the time since it booted, which
  nobody sets: steps of the wall clock change nothing.
* Between machines it is told by their wall clocks. One that is ahead takes over too
  early, and the run goes on there; one that is behind waits longer. Keep clocks that
  share a folder within some seconds.

What the folder's file system must do, local or shared: rename within a folder
atomically, and `flock` between all machines that may run it (NFS 4 does, NFS 3 with
lockd, Lustre when mounted with `flock`). One that has no locks is refused. A file
server's client may believe for some seconds what it read before (`acregmax`); taking
the lock makes it look again.

At a URL nothing can be locked. There each writing of the lease is a version of its own
(`canary.evidence.numbered`), which only one runner can create; letting go is one too,
so that no number is ever used twice.
"""

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from canary.clock import Clock
from canary.errors import StorageError, UsageError
from canary.evidence.folder import RunFolder, storage_error, write_atomically
from canary.evidence.numbered import add_version, newest
from canary.evidence.remote import Location, RemotePath

LEASE_S = 60.0


def since_boot_s() -> float:
    """Return seconds since this machine booted, also those that it slept."""
    boot_clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(boot_clock)


class Lease:
    """The right to write into one run folder.

    Args:
        folder: The run folder; it must exist.
        wall_clock: Seconds since the epoch, the same on every machine.
        boot_clock: Seconds since this machine booted.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        wall_clock: Clock,
        boot_clock: Clock = since_boot_s,
    ) -> None:
        self._folder = folder
        self._place = _shared(folder.lease)
        self._wall_clock = wall_clock
        self._boot_clock = boot_clock
        self._token = uuid.uuid4().hex

    def take(self) -> None:
        """Become the owner.

        Raises:
            UsageError: Somebody else is, or the folder can't be locked.
            StorageError: It can't be written to.
        """
        with self._place.alone():
            found = self._read()
            if found is not None and self._lives(found):
                raise UsageError(
                    f"{self._folder.root}: process {found['pid']} on {found['host']} "
                    "is running it; stop that one, or wait "
                    f"{self._left_s(found):.0f} s if it is gone"
                )
            self._write()

    def renew(self) -> None:
        """Make sure of still being the owner, for another while.

        Raises:
            UsageError: Another runner has taken over.
            StorageError: It can't be written.
        """
        with self._place.alone():
            found = self._read()
            if found is None or found["token"] != self._token:
                raise UsageError(
                    f"{self._folder.root}: another runner has taken this run over; "
                    "nothing was written since, and this one stops"
                )
            # Other machines go by the wall clock, which may have been set meanwhile.
            others_s = found["expires_unix_s"] - self._wall_clock()
            for left_s in (self._left_s(found), others_s):
                if not LEASE_S * 0.9 < left_s <= LEASE_S:
                    self._write()
                    break

    def is_taken(self) -> bool:
        """Whether somebody is writing into the folder.

        Raises:
            UsageError: The lease is damaged.
        """
        found = self._read()
        return found is not None and self._lives(found)

    def release(self) -> None:
        """Let go, if it is still ours.

        Raises:
            StorageError: It can't be removed; it expires by itself.
        """
        with self._place.alone():
            found = self._read()
            if found is not None and found["token"] == self._token:
                self._place.clear()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Take the lease and keep it, however long what happens within takes.

        Raises:
            UsageError: Somebody else is the owner.
        """
        self.take()
        done = threading.Event()
        keeper = threading.Thread(target=self._keep, args=(done,), daemon=True)
        keeper.start()
        try:
            yield
        finally:
            done.set()
            keeper.join()
            # A disk that fails has been told of where it mattered: at a commit.
            with suppress(StorageError):
                self.release()

    def _keep(self, done: threading.Event) -> None:
        while not done.wait(LEASE_S / 3):
            # Whoever was taken over, or can't write, hears of it at the next commit.
            with suppress(UsageError):
                self.renew()

    def _lives(self, found: dict[str, Any]) -> bool:
        if self._is_here(found) and not is_running(found["pid"]):
            return False
        return self._left_s(found) > 0

    def _left_s(self, found: dict[str, Any]) -> float:
        """Return until when the lease is good, by the best clock that both know."""
        if self._is_here(found) and "expires_boot_s" in found:
            return float(found["expires_boot_s"] - self._boot_clock())
        return float(found["expires_unix_s"] - self._wall_clock())

    def _is_here(self, found: dict[str, Any]) -> bool:
        """Whether process numbers and the time since boot mean the same to both."""
        mine = {"host": socket.gethostname(), "boot": _boot_id(), "pids": _pids_id()}
        return all(found.get(name) == value for name, value in mine.items())

    def _read(self) -> dict[str, Any] | None:
        path = self._folder.lease
        try:
            content = self._place.read()
            found: dict[str, Any] | None = (
                json.loads(content) if content is not None else None
            )
        except OSError as error:
            why = error.strerror or str(error)
            told = f"{path}: can't be read ({why}); what was recorded stays"
            raise StorageError(told, reason=why) from error
        except ValueError as error:
            raise UsageError(
                f"{path}: is damaged; delete it if nobody is running this"
            ) from error
        return found

    def _write(self) -> None:
        lease = {
            "schema": "canary.lease/1",
            "token": self._token,
            "host": socket.gethostname(),
            "boot": _boot_id(),
            "pids": _pids_id(),
            "pid": os.getpid(),
            "expires_unix_s": self._wall_clock() + LEASE_S,
            "expires_boot_s": self._boot_clock() + LEASE_S,
        }
        self._place.replace((json.dumps(lease, indent=1) + "\n").encode())


class _File:
    """The lease as a file; who reads and writes it locks another one meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep two runners from reading and writing the lease at once."""
        lock = self._path.with_name(".lease.lock")
        try:
            file = lock.open("w")
        except OSError as error:
            raise storage_error(lock, error) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                raise UsageError(
                    f"{lock}: can't be locked ({error.strerror}), so nothing keeps "
                    "a second runner out; put the run on a file system that has locks"
                ) from error
            yield

    def read(self) -> bytes | None:
        """Return what it says; None if nobody has it."""
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return None

    def replace(self, content: bytes) -> None:
        """Let it say this."""
        write_atomically(self._path, content)

    def clear(self) -> None:
        """Let it say nothing."""
        try:
            self._path.unlink()
        except OSError as error:
            raise storage_error(self._path, error) from error


class _Versions:
    """The lease at a URL: what is read must still count when it is replaced."""

    def __init__(self, path: RemotePath) -> None:
        self._path = path
        self._number = 0
        self._threads = threading.Lock()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep this process from asking twice at once."""
        with self._threads:
            yield

    def read(self) -> bytes | None:
        """Return what it says; None if nobody has it."""
        self._number, content = newest(self._path)
        return content or None

    def replace(self, content: bytes) -> None:
        """Let it say this, unless it says something else by now than what was read."""
        if not add_version(self._path, self._number + 1, content):
            raise UsageError(
                f"{self._path.parent}: another runner has taken this run over; "
                "nothing was written since, and this one stops"
            )

    def clear(self) -> None:
        """Let it say nothing, unless somebody else has it by now."""
        add_version(self._path, self._number + 1, b"")


def _shared(path: Location) -> _File | _Versions:
    return _Versions(path) if isinstance(path, RemotePath) else _File(path)


@cache
def _boot_id() -> str | None:
    """Return what names this boot of this machine, where the system says it."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else None


@cache
def _pids_id() -> str | None:
    """Return what names the space of process numbers that this process lives in."""
    path = Path("/proc/self/ns/pid")
    return str(path.readlink()) if path.is_symlink() else None


def is_running(pid: int) -> bool:
    """Whether this machine has such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
