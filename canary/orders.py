"""What a run is told from outside while it goes on: when it may send, when to stop.

Whoever wants a run to stop leaves a file in its folder (`canary stop`), which works
from wherever the folder can be reached. The runner looks for it once a second, between
requests, and takes it as it takes Ctrl-C: it ends in order and can be resumed.
"""

import json
import math
import socket
import time
from concurrent.futures import Future
from contextlib import suppress
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from canary.clock import Clock
from canary.errors import StorageError
from canary.evidence.aside import aside
from canary.evidence.journal import RunFolder, write_atomically
from canary.evidence.remote import Location, RemotePath
from canary.policy.schedule import Schedule

_LOOK_EVERY_S = 1.0


def stop_file(folder: RunFolder) -> Location:
    """The file that asks the run in `folder` to stop."""
    return folder.root / "stop.json"


def ask_to_stop(folder: RunFolder, *, wall_clock: Clock) -> None:
    """Ask whoever runs it to stop.

    Raises:
        UsageError: The file can't be written.
    """
    asked = {
        "schema": "canary.stop/1",
        "when": datetime.fromtimestamp(wall_clock(), UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
    }
    write_atomically(stop_file(folder), (json.dumps(asked) + "\n").encode())


class Orders:
    """When a run may send, and whether it was asked to stop.

    Without arguments it always may, and nobody asks.

    Args:
        schedule: What its policies say.
        stop: The file that asks it to stop; one that is there already counts.
        clock: Monotonic seconds.
        wall_clock: Seconds since the epoch, which the schedule goes by.
    """

    def __init__(
        self,
        schedule: Schedule | None = None,
        *,
        stop: Location | None = None,
        clock: Clock = time.monotonic,
        wall_clock: Clock = time.time,
    ) -> None:
        self._only = schedule.only if schedule else None
        self._window = schedule.window if schedule else None
        self._stop = stop
        self._clock = clock
        self._wall_clock = wall_clock
        self._looked_s = -math.inf
        self._asked = False
        self._beside: Future[bool] | None = None
        self._open = True
        self._since_s = self._until_s = math.inf

    def stop_asked(self) -> bool:
        """Whether somebody wants the run to stop."""
        due = self._stop is not None and self._clock() - self._looked_s >= _LOOK_EVERY_S
        if due and not self._asked and self._stop is not None:
            self._looked_s = self._clock()
            if isinstance(self._stop, RemotePath):
                self._asked = self._look_beside(self._stop)
            else:
                self._asked = self._stop.exists()
        return self._asked

    def _look_beside(self, stop: RemotePath) -> bool:
        """Return what was found the last time, and look again without waiting."""
        found = False
        if self._beside is not None:
            if not self._beside.done():
                return False
            # A store that fails is told of where something is to be written.
            with suppress(StorageError):
                found = self._beside.result()
        self._beside = aside(stop.exists)
        return found

    def closed(self) -> str | None:
        """Return why nothing may be sent now, in words; None if it may."""
        if self._window is None or self._is_open():
            return None
        opens = datetime.fromtimestamp(self._until_s, ZoneInfo(self._window.zone))
        return f"waiting until {opens:%a %d %B %H:%M}: it sends {self._only} only"

    def open_for_s(self) -> float:
        """How long it may go on sending; 0 if it may not, infinity if always."""
        if self._window is None:
            return math.inf
        return self._until_s - self._wall_clock() if self._is_open() else 0.0

    def _is_open(self) -> bool:
        now_s = self._wall_clock()
        # Searched anew when it changes, and when somebody sets the clock back.
        if self._window and not self._since_s <= now_s < self._until_s:
            self._open = self._window.is_open(now_s)
            self._since_s = now_s
            self._until_s = self._window.changes_after_s(now_s)
        return self._open
