"""Appends observations to a run folder, and waits where nothing can be written.

Each commit writes one segment (`canary.evidence.segments`): under a temporary name,
synced, then renamed; the manifest is replaced the same way afterwards. What a crash can
lose is what was not committed: `every_s`, or 19 times what a commit takes where that is
longer, so that keeping takes a twentieth of the time at most; never over a minute.

A disk that is full, read-only or failing stops nothing by itself: what is pending stays
pending, `trouble` says what is wrong, and whoever sends must send nothing until a later
attempt has cleared it. Each attempt writes the same segment anew: a number is used once
the manifest lists it, so that no row is written twice however an attempt failed.

At a URL a segment is put only if there is none of its number: one that is there already
is of an attempt that seemed to fail, and its rows count as written, or of another
runner, and then this one stops. What a store takes to answer would make requests late,
so that what is due is written beside the loop there.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future

from canary.clock import Clock
from canary.errors import StorageError, UsageError
from canary.evidence.aside import aside
from canary.evidence.folder import RunFolder, put_new, write_atomically
from canary.evidence.observation import Observation, to_table
from canary.evidence.segments import (
    due_together,
    iter_segments,
    merge,
    packed,
    read_segments,
    remove,
    segment_of,
    take_up,
    write_manifest,
)

__all__ = [
    "PATIENCE_S",
    "Journal",
    "RunFolder",
    "iter_segments",
    "read_segments",
    "write_atomically",
]

PATIENCE_S = 3600.0
"""A run that could write nothing for so long ends, to be resumed."""

_IDLE_PER_BUSY = 19
_LONGEST_S = 60.0


class Journal:
    """Appends the observations of whole requests and commits them every few seconds.

    Opened on a folder that has segments already, it goes on after the last of them.

    Args:
        folder: The run folder; its `observations` folder must exist.
        clock: Monotonic seconds.
        every_s: How long observations may wait before they are committed.
        elapsed_s: What the run is known to have taken before, if that is more than its
            last segment says: it may have waited after that.
        patience_s: For how long writing may fail.
        before_commit: Called before anything is written; what it raises prevents it.

    Attributes:
        trouble: Why nothing can be written at present; None if that is not so.

    Raises:
        ObservationError: What is there already can't be read.
        StorageError: What a crash left can't be removed.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        clock: Clock,
        every_s: float = 2.0,
        elapsed_s: float = 0.0,
        patience_s: float = PATIENCE_S,
        before_commit: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._every_s = every_s
        self._patience_s = patience_s
        self._before_commit = before_commit
        self._pending: list[Observation] = []
        self._segments = take_up(folder)
        earlier = [segment.elapsed_s for segment in self._segments]
        self._earlier_s: float = max([elapsed_s, *earlier])
        self._opened_s = self._committed_s = clock()
        self._wait_s = every_s
        self._began_s = 0.0
        self._beside: Future[None] | None = None
        self.trouble: str | None = None
        self._troubled_s = 0.0

    @property
    def elapsed_s(self) -> float:
        """Wall time that the run has taken, without the pauses between its runners."""
        return self._earlier_s + self._clock() - self._opened_s

    def append(self, observations: Sequence[Observation]) -> None:
        """Take the observations of one request, of all arms alike; commit when due."""
        self._pending.extend(observations)
        self.commit_if_due()

    def commit_if_due(self) -> None:
        """Commit what has waited for long enough, or try again."""
        if self._beside is not None:
            if self._beside.done():
                self._join(self._beside)
        elif self._clock() - self._committed_s >= self._wait_s:
            if not self._folder.remote:
                self.commit()
                return
            self._began_s = self._clock()
            count = len(self._pending)
            self._beside = aside(lambda: self._save(count))

    def commit(self) -> None:
        """Write what is pending as one segment, if anything is; see `trouble` then.

        Raises:
            StorageError: Nothing could be written for `patience_s`.
        """
        if self._beside is not None:
            self._join(self._beside)
        self._began_s = self._clock()
        self._take_note(lambda: self._save(len(self._pending)))

    def _join(self, beside: Future[None]) -> None:
        try:
            self._take_note(beside.result)
        finally:
            if beside.done():  # a Ctrl-C doesn't wait for it
                self._beside = None

    def _take_note(self, save: Callable[[], None]) -> None:
        """Have what is pending saved, and say how it went."""
        try:
            save()
        except StorageError as error:
            self._fail(error)
        else:
            self.trouble = None
        self._committed_s = self._clock()
        took_s = self._committed_s - self._began_s
        self._wait_s = self._every_s
        if self.trouble is None:
            self._wait_s = max(self._every_s, min(_IDLE_PER_BUSY * took_s, _LONGEST_S))

    def close(self) -> None:
        """Commit for the last time.

        Raises:
            StorageError: What is pending can't be written.
        """
        self.commit()
        if self.trouble is not None:
            root = self._folder.root
            raise StorageError(
                f"{root}: the last {len(self._pending)} observations can't be written "
                f"({self.trouble}); what was recorded before stays, and "
                f"`canary resume {root}` asks for the rest again",
                reason=self.trouble,
            )

    def _save(self, count: int) -> None:
        """Write so many rows; meanwhile others may be appended."""
        while count:
            written = self._write(self._pending[:count])
            del self._pending[:written]
            count -= written
        self._merge()

    def _write(self, pending: list[Observation]) -> int:
        """Make a segment of what is pending, or of its first rows; return how many."""
        self._before_commit()
        number = self._segments[-1].last + 1 if self._segments else 0
        path = self._folder.segment(number)
        content = packed(to_table(pending))
        there = put_new(path, content)
        segment = segment_of(path.name, there, self.elapsed_s)
        # What is there already may be of an attempt that seemed to fail.
        ours = there == content or packed(to_table(pending[: segment.rows])) == there
        if not ours:
            raise UsageError(
                f"{path}: another runner wrote it, so this one stops; go on with "
                f"`canary resume {self._folder.root}` once nobody runs it"
            )
        write_manifest(self._folder, [*self._segments, segment], self._segments)
        self._segments.append(segment)
        return segment.rows

    def _merge(self) -> None:
        # One may be the last that was missing for a larger one.
        while count := due_together(self._segments):
            self._before_commit()
            old = self._segments[-count:]
            self._segments = merge(self._folder, self._segments, count)
            # Whoever has taken over since may still list them.
            self._before_commit()
            remove(self._folder, old)

    def _fail(self, error: StorageError) -> None:
        now_s = self._clock()
        if self.trouble is None:
            self._troubled_s = now_s
        self.trouble = error.reason
        if now_s - self._troubled_s >= self._patience_s:
            root = self._folder.root
            raise StorageError(
                f"{root}: nothing could be written for "
                f"{(now_s - self._troubled_s) / 60:.0f} min ({error.reason}); put that "
                f"right, then go on with `canary resume {root}`",
                reason=error.reason,
            ) from error
