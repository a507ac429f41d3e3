"""Two uvicorn servers on one event loop: the door for mirrors, the admin page for us.

uvicorn has no deadline for a request's header, nor for the rest of a body whose answer
is out; a connection that does neither would stay for ever. `PatientProtocol` adds both.
"""

import asyncio
import math
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from canary.errors import UsageError
from canary.ingress.app import Ingress

_BACKLOG = 4096

_KEEP_ALIVE_S = 75
"""Longer than the 60 s that NGINX keeps an idle connection: it must close first."""

_SWITCH_S = 0.0005
"""How long the recorder may keep the interpreter while the door has work; 5 ms is
Python's default, and as long as an answer may take."""


def listen(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address; port 0 takes a free one.

    Raises:
        UsageError: It can't be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise UsageError(
            f"{host}:{port} can't be listened on ({error.strerror or error}); "
            "choose another --host or --port, or stop what listens there"
        ) from error


def serve(
    ingress: Ingress,
    *,
    door: socket.socket,
    admin: socket.socket,
    ready: Callable[[], None],
) -> None:
    """Serve until SIGINT or SIGTERM, then record what waits and return.

    Args:
        ingress: What to serve; started and closed here.
        door: Where mirrors send to.
        admin: Where /healthz and /metrics are.
        ready: Called once both are served.
    """
    _allow_many_connections()
    sys.setswitchinterval(_SWITCH_S)
    ingress.start()
    try:
        uvloop.run(_serve(ingress, door, admin, ready))
    finally:
        ingress.close()


async def _serve(
    ingress: Ingress,
    door: socket.socket,
    admin: socket.socket,
    ready: Callable[[], None],
) -> None:
    deadline_s = ingress.settings.read_deadline_s
    servers = (
        _Server(_config(ingress.door, deadline_s=deadline_s)),
        _Server(_config(ingress.admin, deadline_s=deadline_s)),
    )
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for server in servers:
            server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    ready()
    await asyncio.gather(
        servers[0].serve(sockets=[door]), servers[1].serve(sockets=[admin])
    )


class PatientProtocol(HttpToolsProtocol):
    """HTTP/1.1 whose senders have `deadline_s` for each header and each body."""

    deadline_s: float
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Expect the first request."""
        super().connection_made(transport)
        self._arm()

    def on_message_begin(self) -> None:
        """Expect the rest of the request that has begun."""
        super().on_message_begin()
        self._arm()

    def on_message_complete(self) -> None:
        """Expect nothing more for now."""
        super().on_message_complete()
        self._disarm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing any more."""
        self._disarm()
        super().connection_lost(exc)

    def _arm(self) -> None:
        self._disarm()
        self._timer = self.loop.call_later(self.deadline_s, self._expire)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering:  # the door has its own deadline, and an answer to give first
            self._arm()
        else:
            self.transport.close()


class _Server(uvicorn.Server):
    """A server that leaves signals to whoever runs two of them."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(app: Any, *, deadline_s: float) -> uvicorn.Config:  # noqa: ANN401 - ASGI
    return uvicorn.Config(
        app,
        http=type("Protocol", (PatientProtocol,), {"deadline_s": deadline_s}),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        # Whoever is still sending has his deadline, and a second for the answer.
        timeout_graceful_shutdown=math.ceil(deadline_s) + 1,
        backlog=_BACKLOG,
    )


def _allow_many_connections() -> None:
    """Raise the limit of open files as far as this user may: each connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
