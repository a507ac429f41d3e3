"""One ingress, put together: the door, the recorder, the keeper and the admin page.

`create_app` makes an ASGI application for any server, for example behind uvicorn::

    # shadow.py: uvicorn --factory shadow:build
    from canary.ingress.app import create_app
    from canary.ingress.settings import Settings

    def build():
        return create_app(Settings(spool="/var/spool/canary"))

or as a Ray Serve deployment, which calls the builder in each replica; give replicas
spools of their own, and one `hash_key` so that they sample alike::

    deployment = serve.deployment(serve.ingress(build)())
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from canary.clock import Clock
from canary.errors import UsageError
from canary.ingress.counts import Counts, gauges
from canary.ingress.door import Door
from canary.ingress.identity import Hasher, folder_key
from canary.ingress.keeper import Keeper
from canary.ingress.recorder import Recorder
from canary.ingress.settings import Settings
from canary.ingress.spool import Spool
from canary.ingress.waiting import Waiting

_FINISH_S = 10.0


class Ingress:
    """Everything of one ingress but its sockets.

    `door` and `admin` are ASGI applications; `start` comes before the first request,
    `close` after the last.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock = time.monotonic,
        wall_clock: Clock = time.time,
    ) -> None:
        self.settings = settings
        self.counts = Counts()
        self.waiting = Waiting(
            max_requests=settings.queue_requests, max_tokens=settings.queue_tokens
        )
        _refuse_bare_url(settings)
        self.spool = Spool(
            settings.folder, roll_s=settings.roll_s, wall_clock=wall_clock
        )
        self.keeper = Keeper(
            settings,
            spool=self.spool,
            counts=self.counts,
            clock=clock,
            wall_clock=wall_clock,
        )
        self.recorder = Recorder(
            settings,
            hasher=Hasher(settings.hash_key or folder_key(settings.folder)),
            waiting=self.waiting,
            spool=self.spool,
            counts=self.counts,
            clock=clock,
        )
        self.door = Door(
            settings,
            waiting=self.waiting,
            counts=self.counts,
            clock=clock,
            wall_clock=wall_clock,
            on_shutdown=self.close,
        )
        self.admin = Starlette(
            routes=[
                Route("/healthz", self._healthz),
                Route("/metrics", self._metrics),
                Route("/selftest/{mark}", self._selftest),
            ]
        )

    def start(self) -> None:
        """Begin to record."""
        self.recorder.start()
        self.keeper.start()

    def close(self) -> None:
        """Record what waits, for ten seconds at most, and close the file."""
        if self.waiting.closed:
            return
        self.waiting.close()
        self.recorder.join(_FINISH_S)
        self.spool.finish()
        self.keeper.finish()
        self.spool.close()

    async def _healthz(self, _: Request) -> Response:
        writable = self.recorder.writable and await asyncio.to_thread(
            _can_write, self.settings.folder
        )
        found = {
            "alive": self.recorder.alive,
            "spool_writable": writable,
            "recording": not self.recorder.stopped(),
            "failing": sorted(self.keeper.failing),
            "biased": bool(self.keeper.because),
            "because": list(self.keeper.because),
        }
        fine = self.recorder.alive and writable and not self.keeper.failing
        return JSONResponse(found, status_code=200 if fine else 503)

    async def _metrics(self, _: Request) -> Response:
        lines = [*self.counts.lines_for_prometheus(), *self._gauges()]
        return PlainTextResponse(
            "\n".join([*lines, ""]), media_type="text/plain; version=0.0.4"
        )

    def _gauges(self) -> Iterator[str]:
        return gauges(
            {
                "queue_requests": self.waiting.requests,
                "queue_tokens": self.waiting.tokens,
                "biased": int(bool(self.keeper.because)),
                "spool_writable": int(self.recorder.writable),
                "keeper_failing": len(self.keeper.failing),
            }
        )

    async def _selftest(self, request: Request) -> Response:
        marked = self.door.marked.get(request.path_params["mark"])
        if marked is None:
            return Response(status_code=404)
        return Response(marked.to_json(), media_type="application/json")


def create_app(settings: Settings) -> Door:
    """Return an ingress that records from now on, as an ASGI application.

    It stops when the server tells it to by ASGI's lifespan protocol. Its admin page
    isn't served; build an `Ingress` for that.
    """
    ingress = Ingress(settings)
    ingress.start()
    return ingress.door


def _refuse_bare_url(settings: Settings) -> None:
    if "://" in settings.spool and settings.staging is None:
        raise UsageError(
            f"{settings.spool}: lines are written to a local folder first; name one "
            "with --staging"
        )
    if "://" not in settings.spool and settings.staging is not None:
        raise UsageError(
            "--staging is for a spool behind a URL; without it, lines go to the spool"
        )


def _can_write(folder: Path) -> bool:
    probe = folder / ".probe"
    with suppress(OSError):
        probe.write_bytes(b"")
        probe.unlink()
        return True
    return False
