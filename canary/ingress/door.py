"""The door: any path, any body, and an empty 202 at once, whatever happens behind it.

An ASGI application, so that any ASGI server can hold it. A mirror ignores the answer;
people who try the door with curl read in the header ``canary-outcome`` what became of
their request. Only a wrong token is answered otherwise, with 401: the copy is dropped
all the same, and its sender should know that he isn't recorded.
"""

import asyncio
import hmac
import json
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from canary.clock import Clock
from canary.ingress.counts import Counts
from canary.ingress.prompts import declared
from canary.ingress.reasons import DroppedError, Reason
from canary.ingress.recorder import QUEUED, dropped, guessed_regime, log_place
from canary.ingress.settings import UNKNOWN, Settings
from canary.ingress.waiting import Copy, Waiting

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

WRITE_WAIT_S = 0.005
"""How long an answer waits to be able to say ``spooled`` rather than ``queued``."""

SELFTEST_HEADER = "x-canary-selftest"
_MARK = re.compile(r"[0-9a-f]{32}")
_MARKS_KEPT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """A selftest's request as it arrived; the last three tell what wasn't stripped."""

    arrived_unix_s: float
    body_bytes: int
    authorization: bool
    cookie: bool
    api_key: bool

    def to_json(self) -> str:
        """Return it as the admin port shows it."""
        return json.dumps(asdict(self))


class Door:
    """The ASGI application that mirrors talk to."""

    def __init__(
        self,
        settings: Settings,
        *,
        waiting: Waiting,
        counts: Counts,
        clock: Clock = time.monotonic,
        wall_clock: Clock = time.time,
        on_shutdown: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._on_shutdown = on_shutdown
        self._waiting = waiting
        self._counts = counts
        self._clock = clock
        self._wall_clock = wall_clock
        self.marked: OrderedDict[str, Marked] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; websockets are refused, a server's start and end noted."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            await self._serve(_headers(scope), receive, send)

    async def _serve(
        self, headers: dict[str, str], receive: Receive, send: Send
    ) -> None:
        self._counts.receive()
        reader = _Reader(receive, self._settings, self._waiting)
        try:
            outcome, status = await self._take(headers, reader), 202
        except DroppedError as error:
            reason = error.reason
            self._counts.drop(reason, reader.regime(headers))
            if reason is Reason.TOO_LARGE:
                self._counts.measure_body(reader.seen_bytes)
            if reason is Reason.DISCONNECT:
                return
            outcome = dropped(reason)
            status = 401 if reason is Reason.UNAUTHORIZED else 202
        except Exception as error:  # noqa: BLE001 - a mirror must never see a 500
            log_place("a copy was dropped at the door", error)
            self._counts.drop(Reason.INTERNAL)
            outcome, status = dropped(Reason.INTERNAL), 202
        finally:
            reader.release()
        sent = [(b"content-length", b"0"), (b"canary-outcome", outcome.encode())]
        if outcome == dropped(Reason.SLOW):
            sent.append((b"connection", b"close"))
        start = {"type": "http.response.start", "status": status, "headers": sent}
        await send(start)
        await send({"type": "http.response.body", "body": b""})
        self._counts.answer(self._clock() - reader.ended(self._clock))

    async def _take(self, headers: dict[str, str], reader: "_Reader") -> str:
        """Return what became of the copy, as far as it is known in a few milliseconds.

        Raises:
            DroppedError: It was dropped here.
        """
        if not self._may_enter(headers):
            raise DroppedError(Reason.UNAUTHORIZED)
        body = await reader.read(headers)
        reader.ended(self._clock)
        if _MARK.fullmatch(headers.get(SELFTEST_HEADER, "")):
            self._mark(headers, len(body))
            raise DroppedError(Reason.SELFTEST)
        self._counts.measure_body(len(body))
        if not body:
            raise DroppedError(Reason.NOT_A_PROMPT)
        loop = asyncio.get_running_loop()
        copy = Copy(
            arrived_unix_s=self._wall_clock(),
            body=body,
            encoding=headers.get("content-encoding", ""),
            declared_tokens=declared(headers.get("x-prompt-tokens", "")),
            session=headers.get("x-session-id") or None,
            request=headers.get("x-request-id") or None,
            loop=loop,
            answered=loop.create_future(),
        )
        refused = self._waiting.put(copy)
        if refused is not None:
            raise DroppedError(refused)
        reader.hand_over()
        await asyncio.wait([copy.answered], timeout=WRITE_WAIT_S)
        return copy.answered.result() if copy.answered.done() else QUEUED

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """Follow a server that starts and ends; what waits is recorded at the end."""
        message = await receive()
        while message["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
            message = await receive()
        await asyncio.to_thread(self._on_shutdown)
        await send({"type": "lifespan.shutdown.complete"})

    def _may_enter(self, headers: dict[str, str]) -> bool:
        token = self._settings.token
        if token is None:
            return True
        given = headers.get("x-canary-token")
        if given is None:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            given = given if scheme.lower() == "bearer" else ""
        return hmac.compare_digest(given.strip().encode("latin-1"), token)

    def _mark(self, headers: dict[str, str], body_bytes: int) -> None:
        """Remember that a selftest's request arrived, and with what."""
        self.marked[headers[SELFTEST_HEADER]] = Marked(
            arrived_unix_s=self._wall_clock(),
            body_bytes=body_bytes,
            authorization="authorization" in headers,
            cookie="cookie" in headers,
            api_key="x-api-key" in headers or "api-key" in headers,
        )
        while len(self.marked) > _MARKS_KEPT:
            self.marked.popitem(last=False)


class _Reader:
    """One body on its way in: bounded in bytes, in time, and by the memory that is."""

    def __init__(self, receive: Receive, settings: Settings, waiting: Waiting) -> None:
        self._receive = receive
        self._settings = settings
        self._waiting = waiting
        self._held_bytes = 0
        self.seen_bytes = 0
        self._ended: float | None = None

    async def read(self, headers: dict[str, str]) -> bytes:
        """Return the whole body.

        Raises:
            DroppedError: It is too large, came too slowly, or its sender went away, or
                there is no memory for it now.
        """
        length = headers.get("content-length", "")
        self.seen_bytes = int(length) if length.isascii() and length.isdigit() else 0
        if self.seen_bytes > self._settings.max_body_bytes:
            raise DroppedError(Reason.TOO_LARGE)
        try:
            async with asyncio.timeout(self._settings.read_deadline_s):
                return await self._read()
        except TimeoutError:
            raise DroppedError(Reason.SLOW) from None

    async def _read(self) -> bytes:
        parts: list[bytes] = []
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise DroppedError(Reason.DISCONNECT)
            part = message.get("body", b"")
            more = message.get("more_body", False)
            if not self._waiting.reserve(len(part)):
                raise DroppedError(Reason.QUEUE_TOKENS)
            self._held_bytes += len(part)
            self.seen_bytes = max(self.seen_bytes, self._held_bytes)
            if self._held_bytes > self._settings.max_body_bytes:
                raise DroppedError(Reason.TOO_LARGE)
            parts.append(part)
        return b"".join(parts)

    def ended(self, clock: Clock) -> float:
        """Return when the body was there: the first time that this is asked."""
        if self._ended is None:
            self._ended = clock()
        return self._ended

    def regime(self, headers: dict[str, str]) -> str:
        """Return the likely regime of what arrived, by bytes if nothing says it."""
        tokens = declared(headers.get("x-prompt-tokens", ""))
        if tokens is None and (headers.get("content-encoding") or not self.seen_bytes):
            return UNKNOWN
        return guessed_regime(self.seen_bytes, declared_tokens=tokens)

    def hand_over(self) -> None:
        """Leave the memory to the recorder, which gives it back."""
        self._held_bytes = 0

    def release(self) -> None:
        """Give back the memory that is still ours."""
        self._waiting.release(self._held_bytes)
        self._held_bytes = 0


_READ = frozenset(
    {
        *("content-length", "content-encoding", "x-prompt-tokens"),
        *("x-session-id", "x-request-id", SELFTEST_HEADER),
        *("x-canary-token", "authorization", "cookie", "x-api-key", "api-key"),
    }
)


def _headers(scope: Scope) -> dict[str, str]:
    """Return the few headers that are looked at; all others end here.

    Of these, credentials are compared or counted here at the door and go no further: a
    `Copy` has no place for them.
    """
    named = ((name.decode("latin-1"), value) for name, value in scope["headers"])
    return {name: value.decode("latin-1") for name, value in named if name in _READ}
