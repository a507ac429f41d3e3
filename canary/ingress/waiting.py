"""The bounded room between the door and the recorder: full means drop the newest."""

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Condition

from canary.ingress.reasons import Reason
from canary.ingress.settings import CHARACTERS_PER_TOKEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A request as it was taken at the door: what is needed of it, and no header more.

    Its `repr` tells nothing that was said: it may end in a log. `arrived_unix_s` is
    when the body was whole. `declared_tokens`, `session` and `request` are what the
    headers x-prompt-tokens, x-session-id and x-request-id say. `loop` and `answered`
    are where the door waits.
    """

    arrived_unix_s: float
    body: bytes = field(repr=False)
    encoding: str
    declared_tokens: int | None
    session: str | None = field(repr=False)
    request: str | None = field(repr=False)
    loop: asyncio.AbstractEventLoop
    answered: "asyncio.Future[str]"

    def answer(self, outcome: str) -> None:
        """Tell the door, from the recorder's thread, what became of the copy."""
        # A loop that is closed belongs to a server that has stopped: nobody waits.
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(_resolve, self.answered, outcome)


def _resolve(future: "asyncio.Future[str]", outcome: str) -> None:
    if not future.done():
        future.set_result(outcome)


class Waiting:
    """Copies that wait, and the memory that they and the bodies being read take."""

    def __init__(self, *, max_requests: int, max_tokens: int) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_tokens * CHARACTERS_PER_TOKEN
        self._held_bytes = 0
        self._copies: deque[Copy] = deque()
        self._condition = Condition()
        self._closed = False

    def reserve(self, size_bytes: int) -> bool:
        """Take memory for a body; return whether there was enough."""
        with self._condition:
            if self._held_bytes + size_bytes > self._max_bytes:
                return False
            self._held_bytes += size_bytes
            return True

    def release(self, size_bytes: int) -> None:
        """Give memory back."""
        with self._condition:
            self._held_bytes -= size_bytes

    def put(self, copy: Copy) -> Reason | None:
        """Take a copy in; return why not if it can't be."""
        with self._condition:
            if self._closed:
                return Reason.STOPPED
            if len(self._copies) >= self._max_requests:
                return Reason.QUEUE_REQUESTS
            self._copies.append(copy)
            self._condition.notify()
            return None

    def take(self, *, timeout_s: float) -> Copy | None:
        """Return the oldest copy; None if none came within the time."""
        with self._condition:
            if not self._copies and not self._closed and timeout_s > 0:
                self._condition.wait(timeout_s)
            return self._copies.popleft() if self._copies else None

    def close(self) -> None:
        """Let nothing more in; what is in can still be taken."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def requests(self) -> int:
        """How many copies wait."""
        return len(self._copies)

    @property
    def tokens(self) -> int:
        """How much memory is taken, in tokens of four bytes."""
        return self._held_bytes // CHARACTERS_PER_TOKEN
