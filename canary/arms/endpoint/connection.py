"""HTTP to one endpoint: what is written, and the bytes that come back with their times.

An `asyncio.Protocol` on httptools, since what a client takes is in every measurement:
with aiohttp in its place the time to the first token of a prompt of 13,500 tokens was
off by 1.8 ms at p99, and with this by 0.6 ms; in a step to 1,200 requests/s by 13 ms
and by 0.5 ms. What the bytes mean is read elsewhere (`canary.arms.endpoint.stream`), in
another process.
"""

import asyncio
import ssl
import time
from array import array
from collections.abc import Callable
from typing import cast

import httptools

from canary.arms.endpoint.address import Address

# uvicorn, under most of the endpoints, closes a connection after 5 idle seconds. A
# request that meets the closing would fail, and nobody's model would be to blame.
_IDLE_S = 4.0


class Exchange:
    """One attempt at one request: its bytes, and what came back until it was over.

    `outcome` is "whole", "broken" (with `detail`, a sentence's end) or "timeout".
    `sizes` counts the bytes of the body that came at each of `times_s`.
    """

    __slots__ = (
        "connection",
        "detail",
        "ended",
        "ended_s",
        "opening",
        "outcome",
        "pieces",
        "request",
        "sent_s",
        "sizes",
        "status",
        "times_s",
    )

    def __init__(self, request: tuple[bytes, bytes], sent_s: float) -> None:
        self.request = request
        self.sent_s = sent_s
        self.ended: Callable[[], None] | None = None
        self.ended_s = sent_s
        self.outcome = ""
        self.detail = ""
        self.status = 0
        self.pieces: list[bytes] = []
        self.sizes = array("I")
        self.times_s = array("d")
        self.connection: Connection | None = None
        self.opening: asyncio.Task[None] | None = None

    def end(self, outcome: str, detail: str = "") -> None:
        """Be over, once, and tell who waits for it."""
        if self.ended is None:
            return
        tell, self.ended = self.ended, None
        self.ended_s = time.monotonic()
        self.outcome, self.detail = outcome, detail
        self.connection = self.opening = None
        tell()

    def abandon(self) -> None:
        """Stop waiting: the time is up. The connection is of no use any more."""
        if self.opening is not None:
            self.opening.cancel()
        if self.connection is not None:
            self.connection.drop()
        self.end("timeout")


class Connection(asyncio.Protocol):
    """One connection to the endpoint; answers one exchange after the other."""

    def __init__(self, pool: "Pool") -> None:
        self.idle_since_s = time.monotonic()
        self._pool = pool
        self._exchange: Exchange | None = None
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._now_s = 0.0
        self._measured = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be open."""
        self._transport = cast("asyncio.Transport", transport)
        self._pool.opened()

    def write(self, exchange: Exchange) -> None:
        """Send a request; what comes from now on is its answer."""
        exchange.connection = self
        self._exchange = exchange
        self._transport.writelines(exchange.request)
        exchange.request = (b"", b"")

    def data_received(self, data: bytes) -> None:
        """Take in what came, all at the time that it is now."""
        self._now_s = time.monotonic()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"endpoint sent what is no HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """End the exchange: well, if its body was to end with the connection."""
        self._pool.forget(self)
        exchange = self._exchange
        if exchange is not None and exchange.status and exc is None:
            if self._measured:
                self._fail("endpoint broke off in the middle of its answer")
            else:
                exchange.end("open end")
        elif exchange is not None:
            why = f" ({exc})" if exc is not None else ""
            self._fail(f"endpoint closed the connection without an answer{why}")
        self._exchange = None
        # The parser holds this object, and would keep it until the next collection.
        del self._parser

    def drop(self) -> None:
        """Close at once; nothing that still comes belongs to anybody."""
        self._exchange = None
        self._transport.abort()

    def on_message_begin(self) -> None:
        """Start an answer: nothing has said yet where it ends."""
        self._measured = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note whether the answer says where it ends."""
        del value
        if name.lower() in {b"content-length", b"transfer-encoding"}:
            self._measured = True

    def on_headers_complete(self) -> None:
        """Keep the status."""
        if self._exchange is not None:
            self._exchange.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        """Keep a piece and its time."""
        exchange = self._exchange
        if exchange is not None:
            exchange.pieces.append(body)
            exchange.sizes.append(len(body))
            exchange.times_s.append(self._now_s)

    def on_message_complete(self) -> None:
        """Be ready for the next exchange, if the endpoint keeps the connection."""
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            self._transport.abort()
            return
        unsent = self._transport.get_write_buffer_size()
        if self._parser.should_keep_alive() and not unsent:
            self.idle_since_s = self._now_s
            self._pool.keep(self)
        else:
            self._transport.abort()
        exchange.end("whole")

    def _fail(self, why: str) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.end("broken", why)
        self._transport.abort()


class Pool:
    """The connections to one endpoint, the one used last first.

    Args:
        address: Where it listens.
        most: How many connections there may be.
    """

    def __init__(self, address: Address, *, most: int) -> None:
        self._address = address
        self._most = most
        self._open = 0
        self._idle: list[Connection] = []
        self._spare: asyncio.Task[None] | None = None
        # The endpoint's certificate is checked as a browser would.
        self._tls = ssl.create_default_context() if address.tls else None

    def send(self, exchange: Exchange) -> None:
        """Write a request to a connection that stands ready, or open one for it."""
        self._drop_old(exchange.sent_s)
        if self._idle:
            self._idle.pop().write(exchange)
            self.prepare(exchange.sent_s)
        else:
            opening = self._open_and_write(exchange)
            exchange.opening = asyncio.get_running_loop().create_task(opening)

    def prepare(self, now_s: float) -> None:
        """See to it that a connection stands ready, so that none has to wait for it."""
        self._drop_old(now_s)
        if not self._idle and self._spare is None and self._open < self._most:
            self._spare = asyncio.get_running_loop().create_task(self._open_spare())

    def opened(self) -> None:
        """Learn that a connection is open."""
        self._open += 1

    def keep(self, connection: Connection) -> None:
        """Take back a connection that has nothing to do."""
        self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        """Learn that a connection is closed."""
        self._open -= 1
        if connection in self._idle:
            self._idle.remove(connection)

    async def _connect(self) -> Connection:
        where = self._address
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(self), where.host, where.port, ssl=self._tls
        )
        return connection

    async def _open_and_write(self, exchange: Exchange) -> None:
        try:
            connection = await self._connect()
        except OSError as error:
            why = error.strerror or str(error)
            exchange.end("broken", f"endpoint can't be reached: {why}")
            return
        exchange.opening = None
        connection.write(exchange)
        self.prepare(exchange.sent_s)

    async def _open_spare(self) -> None:
        # A request that finds no connection opens one itself, and says why if it can't.
        try:
            self.keep(await self._connect())
        except OSError:
            pass
        finally:
            self._spare = None

    def _drop_old(self, now_s: float) -> None:
        while self._idle and self._idle[0].idle_since_s < now_s - _IDLE_S:
            self._idle.pop(0).drop()
