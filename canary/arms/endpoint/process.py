"""The process that sends: nothing else runs in it, so that nothing else delays it.

Started by `canary.arms.endpoint.sender` with one end of a socket pair, whose number is
its argument; it ends when the other end closes. It imports no more than it needs.
"""

import asyncio
import gc
import json
import math
import os
import resource
import socket
import sys
import time
from collections import deque
from functools import partial
from typing import Any, cast
from urllib.parse import quote

import uvloop

from canary.arms.endpoint.address import Endpoint
from canary.arms.endpoint.connection import Exchange, Pool
from canary.arms.endpoint.frames import Unpacker, pack
from canary.arms.endpoint.schedule import Job, Lane, Schedule
from canary.arms.endpoint.turns import ask_for_short_turns
from canary.errors import ArmError

# The loop's timers count whole milliseconds. What is left when one fires is slept in
# pieces so short that an answer, which is read between them, hardly waits.
_TIMER_S = 1e-3
_NAP_S = 1e-4
_PREPARE_EVERY_S = 1.0


class _Post:
    """One arm: its connections, and what every request to it begins with."""

    def __init__(self, arm: str, endpoint: Endpoint, *, most: int) -> None:
        address = endpoint.address()
        self.pool = Pool(address, most=most)
        self.in_flight: deque[tuple[float, Exchange]] = deque()
        self._arm = quote(arm)
        self._key = _key(endpoint, str(address))
        self._path = address.path
        lines = [f"Host: {address}", "Content-Type: application/json"]
        lines += ["Accept: text/event-stream", "User-Agent: attention-canary"]
        if self._key:
            lines.append(f"Authorization: Bearer {self._key}")
        self._head = "\r\n".join(lines)
        self._beginning = b'{"model":' + json.dumps(endpoint.model).encode()

    def request(self, job: Job) -> tuple[bytes, bytes]:
        """Return what is written, in two parts: the second is the same for all arms."""
        size = len(self._beginning) + len(job.rest)
        head = (
            f"POST {self._path}{job.path} HTTP/1.1\r\n{self._head}\r\n"
            f"X-Request-Id: {job.label}-{self._arm}\r\nContent-Length: {size}\r\n\r\n"
        )
        return head.encode() + self._beginning, job.rest

    def hide_key(self, text: bytes) -> bytes:
        """Return what the endpoint said, without the key should it have repeated it."""
        if not self._key:
            return text
        return text.replace(self._key.encode(), b"*" * len(self._key))


def _key(endpoint: Endpoint, where: str) -> str:
    """Return the key, or nothing if the endpoint wants none.

    Raises:
        ArmError: The variable isn't set, or holds what no header can carry.
    """
    if endpoint.api_key_env is None:
        return ""
    key = os.environ.get(endpoint.api_key_env, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        wrong = "holds no key that HTTP can carry" if key else "is not set"
        raise ArmError(
            f"the key of the endpoint at {where} is to be in the environment variable "
            f"{endpoint.api_key_env}, which {wrong}; set it before the run"
        )
    return key


class _Dispatcher(asyncio.Protocol):
    """Listens to the caller, sends what is due, and reports what came of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, over: asyncio.Event) -> None:
        self._loop = loop
        self._over = over
        self._unpacker = Unpacker()
        self._link: asyncio.Transport
        self._lanes: list[Lane] = []
        self._posts: list[_Post] = []
        self._schedule: Schedule
        self._timeout_s = math.inf
        self._zero_s = 0.0
        self._early: list[Job] | None = []
        self._wake_s = math.inf
        self._timer: asyncio.Handle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._link = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._over.set()
        if self._timer is not None:
            self._timer.cancel()
        self._early, self._lanes = [], []
        self._schedule.drop()

    def data_received(self, data: bytes) -> None:
        for head, body in self._unpacker.feed(data):
            what, *values = head
            if what == "job":
                self._take(body, *values)
            elif what == "zero":
                self._begin(*values)
            elif what == "drop":
                self._drop()
            else:
                self._start(*values)
        self._set_timer()

    def _start(
        self, arms: dict[str, Any], timeout_s: float, most: int, shed: bool
    ) -> None:
        self._lanes = [Lane(name=name) for name in arms]
        try:
            self._posts = [
                _Post(arm, Endpoint(**fields), most=most)
                for arm, fields in arms.items()
            ]
        except ArmError as error:
            self._link.write(pack(["refused", str(error)]))
            return
        self._timeout_s = timeout_s
        self._schedule = Schedule(
            self, self._lanes, timeout_s=timeout_s, most=most, shed=shed
        )
        self._prepare()
        # What stands now stands to the end: later collections needn't look at it.
        gc.freeze()
        self._link.write(pack(["ready"]))

    def _begin(self, zero_s: float) -> None:
        early, self._early = self._early or [], None
        self._zero_s = zero_s
        for job in early:
            self._add(job)

    def _drop(self) -> None:
        early = self._early or []
        self._early = None if self._early is None else []
        dropped = self._schedule.drop() | {job.index for job in early}
        self._link.write(pack(["dropped", sorted(dropped)]))

    def _take(
        self,
        rest: bytes,
        arrival_s: float | None,
        places: list[int],
        fields: dict[str, Any],
    ) -> None:
        lanes = [self._lanes[place] for place in places]
        job = Job(arrival_s=arrival_s or 0.0, lanes=lanes, rest=rest, **fields)
        if arrival_s is None:
            job.arrival_s, job.taken = time.monotonic(), True
            self._schedule.add(job)
        elif self._early is not None:
            self._early.append(job)
        else:
            self._add(job)

    def _add(self, job: Job) -> None:
        job.arrival_s += self._zero_s
        self._schedule.add(job)

    def _next_s(self) -> float:
        next_s = self._schedule.next_s() if self._posts else math.inf
        for post in self._posts:
            while post.in_flight and post.in_flight[0][1].ended is None:
                post.in_flight.popleft()
            if post.in_flight:
                next_s = min(next_s, post.in_flight[0][0])
        return next_s

    def _set_timer(self) -> None:
        """Wake up for whatever comes next, if that isn't later than planned already."""
        next_s = self._next_s()
        if next_s >= self._wake_s:
            return
        self._wake_s = next_s
        self._sleep()

    def _sleep(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        wait_s = self._wake_s - time.monotonic()
        if wait_s < _TIMER_S:
            self._timer = self._loop.call_soon(self._wake)
        else:
            whole_s = int(wait_s / _TIMER_S) * _TIMER_S
            self._timer = self._loop.call_later(whole_s, self._wake)

    def _wake(self) -> None:
        self._timer = None
        wait_s = self._wake_s - time.monotonic()
        if 0 < wait_s < _TIMER_S:
            time.sleep(min(wait_s, _NAP_S))
            wait_s = self._wake_s - time.monotonic()
        if wait_s > 0:
            self._sleep()
            return
        now_s = time.monotonic()
        self._schedule.run(now_s)
        for post in self._posts:
            while post.in_flight and post.in_flight[0][0] <= now_s:
                post.in_flight.popleft()[1].abandon()
        self._wake_s = math.inf
        self._set_timer()

    def _prepare(self) -> None:
        """Keep a connection ready as long as something is coming."""
        now_s = time.monotonic()
        if self._schedule.next_s() < math.inf:
            for post in self._posts:
                post.pool.prepare(now_s)
        self._loop.call_later(_PREPARE_EVERY_S, self._prepare)

    def send(self, job: Job, lane: Lane, due_s: float, could_s: float) -> None:
        place = self._lanes.index(lane)
        post = self._posts[place]
        sent_s = time.monotonic()
        exchange = Exchange(post.request(job), sent_s)
        exchange.ended = partial(self._ended, exchange, job, place, due_s, could_s)
        post.in_flight.append((sent_s + self._timeout_s, exchange))
        post.pool.send(exchange)

    def give_up(self, job: Job, lane: Lane, due_s: float) -> None:
        now_s = time.monotonic()
        times = [due_s - job.arrival_s, now_s - due_s - self._timeout_s, now_s - due_s]
        place = self._lanes.index(lane)
        self._link.write(pack(["waited", job.index, place, times]))

    def shed(self, job: Job) -> None:
        self._link.write(pack(["shed", job.index]))

    def _ended(
        self, exchange: Exchange, job: Job, place: int, due_s: float, could_s: float
    ) -> None:
        sent_s = exchange.sent_s
        head = [
            "answer",
            job.index,
            place,
            [due_s - job.arrival_s, sent_s - could_s, sent_s - due_s],
            [sent_s, exchange.ended_s],
            [exchange.outcome, exchange.detail, exchange.status],
            len(exchange.sizes),
        ]
        text = self._posts[place].hide_key(b"".join(exchange.pieces))
        stamps = exchange.times_s.tobytes() + exchange.sizes.tobytes()
        self._link.write(pack(head, stamps + text))
        self._schedule.ended(job, self._lanes[place], exchange.ended_s)
        self._set_timer()


def _stop_at_bug(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """End with a traceback: a callback that failed would else go missing silently."""
    if isinstance(context.get("exception"), OSError):
        return  # a connection's, which its exchange has been told
    loop.default_exception_handler(context)
    os._exit(1)


async def _serve(link: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_stop_at_bug)
    over = asyncio.Event()
    await loop.create_unix_connection(lambda: _Dispatcher(loop, over), sock=link)
    await over.wait()


def main() -> None:
    """Send until the caller is gone."""
    ask_for_short_turns()
    # Each request in flight has a connection; the usual limit is 1,024 of them.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(_serve(socket.socket(fileno=int(sys.argv[1]))))


if __name__ == "__main__":
    main()
