"""One runner at a time: who may write into a run folder, and until when.

The lease names its owner and when it expires; the owner renews it with every commit,
and a thread of its process does while a request, or a start, takes long.
A runner that finds a living lease is refused, one that finds an expired one, or one of
a process on this machine that is gone, takes it over. An owner that was taken over
while it slept finds out at its next commit, before it writes anything.
"""

import fcntl
import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from canary.clock import Clock
from canary.errors import UsageError
from canary.evidence.journal import RunFolder, write_atomically

LEASE_S = 60.0


class Lease:
    """The right to write into one run folder.

    Args:
        folder: The run folder; it must exist.
        wall_clock: Seconds since the epoch, the same on every machine.
    """

    def __init__(self, folder: RunFolder, *, wall_clock: Clock) -> None:
        self._path = folder.lease
        self._wall_clock = wall_clock
        self._token = uuid.uuid4().hex

    def take(self) -> None:
        """Become the owner.

        Raises:
            UsageError: Somebody else is.
        """
        with self._alone():
            found = self._read()
            if found is not None and self._lives(found):
                left_s = found["expires_unix_s"] - self._wall_clock()
                raise UsageError(
                    f"{self._path.parent}: process {found['pid']} on {found['host']} "
                    f"is running it; stop that one, or wait {max(left_s, 0):.0f} s if "
                    "it is gone"
                )
            self._write()

    def renew(self) -> None:
        """Stay the owner for another while.

        Raises:
            UsageError: Another runner has taken over.
        """
        with self._alone():
            found = self._read()
            if found is None or found["token"] != self._token:
                raise UsageError(
                    f"{self._path.parent}: another runner has taken this run over; "
                    "nothing was written since, and this one stops"
                )
            self._write()

    def is_taken(self) -> bool:
        """Whether somebody is writing into the folder.

        Raises:
            UsageError: The lease is damaged.
        """
        found = self._read()
        return found is not None and self._lives(found)

    def release(self) -> None:
        """Let go, if it is still ours."""
        with self._alone():
            found = self._read()
            if found is not None and found["token"] == self._token:
                self._path.unlink()

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
            self.release()

    def _keep(self, done: threading.Event) -> None:
        while not done.wait(LEASE_S / 3):
            # Whoever was taken over, or can't write, hears of it at the next commit.
            with suppress(UsageError):
                self.renew()

    def _lives(self, found: dict[str, Any]) -> bool:
        if found["host"] == socket.gethostname() and not is_running(found["pid"]):
            return False
        return bool(found["expires_unix_s"] > self._wall_clock())

    def _read(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(self._path.read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise UsageError(
                f"{self._path}: is damaged; delete it if nobody is running this"
            ) from error
        return found

    def _write(self) -> None:
        lease = {
            "schema": "canary.lease/1",
            "token": self._token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "expires_unix_s": self._wall_clock() + LEASE_S,
        }
        write_atomically(self._path, (json.dumps(lease, indent=1) + "\n").encode())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep two runners from reading and writing the lease at once."""
        lock: Path = self._path.with_name(".lease.lock")
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def is_running(pid: int) -> bool:
    """Whether this machine has such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
