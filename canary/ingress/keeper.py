"""The thread that looks after a spool: syncs, rolls, uploads, forgets, audits.

Apart from the recorder, because each of these may take as long as a disk or a network
takes; what fails here is tried again, logged once, and seen in /healthz and /metrics.
"""

import logging
from collections.abc import Callable
from functools import partial
from threading import Event, Thread

import fsspec

from canary.clock import Clock
from canary.errors import UsageError
from canary.ingress.audit import Audit, Finding, audit, biases, read_audit
from canary.ingress.counts import Counts
from canary.ingress.settings import Settings
from canary.ingress.spool import Spool, opened_unix_s, replace_whole, spooled_files
from canary.ingress.upload import Remote, outdated

AUDIT_FILE = "audit.json"

_TICK_S = 1.0
_AUDIT_EVERY_S = 2.0
_SELDOM_S = 60.0

_log = logging.getLogger("canary.ingress")


class Keeper:
    """Looks after one spool until it is stopped."""

    def __init__(
        self,
        settings: Settings,
        *,
        spool: Spool,
        counts: Counts,
        clock: Clock,
        wall_clock: Clock,
    ) -> None:
        self._settings = settings
        self._spool = spool
        self._counts = counts
        self._clock = clock
        self._wall_clock = wall_clock
        self._remote = Remote(settings.spool) if settings.staging else None
        self._since_unix_s = wall_clock()
        self._far = [] if self._remote is None else list(self._remote.names())
        self._earlier = self._findings()
        self._stop = Event()
        # A slow upload must not hold up the next sync: each has a thread.
        tasks = [self.tend] if self._remote is None else [self.tend, self.tend_far]
        self._threads = [
            Thread(target=self._run, args=(task,), daemon=True) for task in tasks
        ]
        self._due: dict[str, float] = {}
        self.failing: set[str] = set()
        self.because: tuple[str, ...] = ()

    def start(self) -> None:
        """Begin to look after it; what is too old goes first."""
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Stop, then do everything a last time; the spool's file is closed by now."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._due.clear()
        self.tend()
        self.tend_far()

    def _run(self, tend: Callable[[], None]) -> None:
        while not self._stop.is_set():
            tend()
            self._stop.wait(_TICK_S)

    def tend(self) -> None:
        """Do once what is due now in the folder itself."""
        self._try("syncing", 0.0, self._spool.sync)
        self._try("rolling over", 0.0, self._spool.roll)
        self._try("removing old files", _SELDOM_S, self._forget)
        self._try("writing the audit", _AUDIT_EVERY_S, self._audit)

    def tend_far(self) -> None:
        """Do once what is due now behind the URL, if the spool is there."""
        remote = self._remote
        if remote is None:
            return
        self._try("uploading", 0.0, partial(remote.upload, self._spool))
        self._try("uploading the audit", _SELDOM_S, partial(self._share, remote))
        self._try("removing uploads", _SELDOM_S, partial(self._forget_far, remote))

    def _try(self, what: str, every_s: float, act: Callable[[], None]) -> None:
        """Do it if it is due; say once that it fails, and once that it works again."""
        now = self._clock()
        if now < self._due.get(what, 0.0):
            return
        self._due[what] = now + every_s
        try:
            act()
        except Exception as error:  # noqa: BLE001 - fsspec raises what its backends raise
            if what not in self.failing:
                _log.warning("%s fails (%s) and is tried again", what, error)
            self.failing.add(what)
            return
        if what in self.failing:
            _log.warning("%s works again", what)
        self.failing.discard(what)

    def _share(self, remote: Remote) -> None:
        remote.write(AUDIT_FILE, (self._settings.folder / AUDIT_FILE).read_text())

    def _forget(self) -> None:
        """Remove files whose last line is older than the retention."""
        folder = self._settings.folder
        here = [path.name for path in spooled_files(folder)]
        for name in outdated(here, before_unix_s=self._oldest_kept_unix_s()):
            if name != self._spool.open_name:
                (folder / name).unlink()

    def _forget_far(self, remote: Remote) -> None:
        there = list(remote.names())
        for name in outdated(there, before_unix_s=self._oldest_kept_unix_s()):
            remote.remove(name)
            there.remove(name)
        self._far = there

    def _oldest_kept_unix_s(self) -> float:
        """Return when a file was begun whose last line is as old as is kept."""
        kept_s = self._settings.retention_s + self._settings.roll_s
        return self._wall_clock() - kept_s

    def _audit(self) -> None:
        arrived, now = self._counts.arrived(), self._wall_clock()
        because = biases(arrived, self._settings.expected)
        oldest = self._oldest_unix_s()
        earlier = [one for one in self._earlier if one.until_unix_s >= oldest]
        ours = Finding(
            since_unix_s=self._since_unix_s, until_unix_s=now, because=because
        )
        found = audit([*earlier, *([ours] if because else [])], arrived)
        self.because = found.because
        replace_whole(self._settings.folder / AUDIT_FILE, found.to_json())

    def _oldest_unix_s(self) -> float:
        """Return when the oldest file that is still kept was begun."""
        names = [path.name for path in spooled_files(self._settings.folder)]
        names += self._far
        begun = [at for name in names if (at := opened_unix_s(name)) is not None]
        return min(begun, default=self._since_unix_s)

    def _findings(self) -> tuple[Finding, ...]:
        """Return what the processes before this one found."""
        kept = (self._settings.folder / AUDIT_FILE).exists()
        return find_audit(str(self._settings.folder)).findings if kept else ()


def find_audit(spool: str) -> Audit:
    """Return the audit that lies in a spool, a folder or an fsspec URL.

    Raises:
        UsageError: There is none, or it can't be read.
    """
    where = f"{spool.rstrip('/')}/{AUDIT_FILE}"
    try:
        with fsspec.open(where, "rt", encoding="utf-8") as file:
            return read_audit(file.read(), where=where)
    except OSError as error:
        raise UsageError(
            f"{where}: can't be read ({error.strerror or error}); name the spool of "
            "an ingress that has run"
        ) from error
