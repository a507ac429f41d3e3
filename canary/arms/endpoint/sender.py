"""Offers requests to endpoints at the times of a plan, from a process of its own.

    >>> arms = {"dense": Endpoint(url="http://10.0.0.5:8000/v1", model="dense")}
    >>> with EndpointSender(arms, timeout_s=60, max_in_flight=64,
    ...                     on_overload="queue") as sender:  # doctest: +SKIP
    ...     sender.begin(time.monotonic() + 1)
    ...     sender.offer(0, request, ["dense"])
    ...     deliveries = sender.taken(timeout_s=5)

The caller makes bodies and reads answers, which takes time that the sending process
would miss; they talk over a pair of sockets.
"""

import itertools
import math
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote

import canary
from canary.arms.base import Completion
from canary.arms.endpoint.base import Delivery, Endpoint, Sent
from canary.arms.endpoint.bodies import body_rest
from canary.arms.endpoint.frames import Unpacker, pack
from canary.arms.endpoint.stream import Reply, completion, unpack_stamps
from canary.errors import ArmError
from canary.evidence.observation import Status
from canary.traffic.request import Request

_START_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 5.0
_READ_BYTES = 2**20


@dataclass(slots=True)
class _Offered:
    """A request on its way: who is to answer it, and who has."""

    request: Request
    arms: Sequence[str]
    answers: dict[str, Sent]


class EndpointSender:
    """Sends each request to its arms when it is due, whatever else takes long.

    Args:
        endpoints: The arms by name.
        timeout_s: How long an answer may take from the send, and how long a request
            may wait in an arm's queue.
        max_in_flight: How many requests an arm has in flight at most.
        on_overload: What becomes of a request that is due when an arm has no room:
            ``queue`` lets it wait in that arm's own queue, first come, first served;
            ``shed`` sends it to none of its arms.
    """

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        *,
        timeout_s: float,
        max_in_flight: int,
        on_overload: Literal["queue", "shed"],
    ) -> None:
        self._endpoints = dict(endpoints)
        self._names = list(endpoints)
        self._devices = {
            name: f"endpoint {each.address()}" for name, each in endpoints.items()
        }
        self._timeout_s = timeout_s
        self._max_in_flight = max_in_flight
        self._shed = on_overload == "shed"
        self._process: subprocess.Popen[bytes] | None = None
        self._link: socket.socket
        self._poll: select.poll
        self._unpacker = Unpacker()
        self._offered: dict[int, _Offered] = {}
        self._done: list[Delivery] = []
        self._dropped: list[int] | None = None
        self._asks = itertools.count(-1, -1)

    def start(self) -> None:
        """Start the process and wait until it is up.

        Raises:
            ArmError: It can't be started, or a key is missing.
        """
        self._link, other = socket.socketpair()
        self._poll = select.poll()
        self._poll.register(self._link, select.POLLIN)
        module = "canary.arms.endpoint.process"
        with other:
            self._process = subprocess.Popen(  # noqa: S603 - this very interpreter
                # A fresh interpreter that runs this one module: what
                # `multiprocessing` spawns would import the caller's main module too.
                [sys.executable, "-P", "-m", module, str(other.fileno())],
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": _search_path()},
                # Ctrl-C reaches the caller alone, which decides what it means.
                process_group=0,
            )
        arms = {name: asdict(each) for name, each in self._endpoints.items()}
        self._send(
            pack(["start", arms, self._timeout_s, self._max_in_flight, self._shed])
        )
        self._await_start(time.monotonic() + _START_TIMEOUT_S)

    def begin(self, zero_s: float) -> None:
        """Set the moment, in `time.monotonic` seconds, that arrivals count from."""
        self._send(pack(["zero", zero_s]))

    def offer(self, index: int, request: Request, arms: Sequence[str]) -> None:
        """Hand over a request, best some seconds before it is due.

        Args:
            index: What its delivery is called; 0 or more, each only once.
            request: Requests come in order of arrival, turns of a session in theirs.
            arms: Who answers, in the order of sending.

        Raises:
            ArmError: The process is gone.
        """
        self._hand_over(index, request, arms, request.arrival_s)

    def taken(self, timeout_s: float) -> list[Delivery]:
        """Return what has come back since the last call, in any order.

        Args:
            timeout_s: How long to wait for the first, if there is none yet.

        Raises:
            ArmError: The process is gone.
        """
        until_s = time.monotonic() + timeout_s
        self._receive(0)
        while not self._done and (left_s := until_s - time.monotonic()) > 0:
            self._receive(left_s)
        done, self._done = self._done, []
        return done

    def ask(self, arm: str, request: Request) -> Completion:
        """Send one request to one arm now, whenever it is due, and wait for the answer.

        Raises:
            ArmError: The process is gone.
        """
        index = next(self._asks)
        self._hand_over(index, request, [arm], None)
        while True:
            for place, delivery in enumerate(self._done):
                if delivery.index == index:
                    del self._done[place]
                    return delivery.answers[arm].completion
            self._receive(None)

    def drop(self) -> list[int]:
        """Send nothing more of what was offered; what is in flight is waited for.

        Returns:
            The numbers of what never comes back: it wasn't sent to all of its arms.

        Raises:
            ArmError: The process is gone.
        """
        self._dropped = None
        self._send(pack(["drop"]))
        while self._dropped is None:
            self._receive(None)
        return self._dropped

    def close(self) -> None:
        """End the process; what is in flight is lost."""
        if self._process is None:
            return
        self._link.close()
        process, self._process = self._process, None
        try:
            process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _hand_over(
        self,
        index: int,
        request: Request,
        arms: Sequence[str],
        arrival_s: float | None,
    ) -> None:
        path, rest = body_rest(request)
        places = [self._names.index(arm) for arm in arms]
        fields = {
            "index": index,
            "path": path,
            "label": quote(request.request_id),
            "session": request.session_id if arrival_s is not None else None,
            "turn": request.turn,
            "think_s": request.think_s,
        }
        self._offered[index] = _Offered(request, tuple(arms), {})
        self._send(pack(["job", arrival_s, places, fields], rest))

    def _send(self, frame: bytes) -> None:
        try:
            self._link.sendall(frame)
        except OSError as error:
            raise self._gone() from error

    def _await_start(self, until_s: float) -> None:
        while (left_s := until_s - time.monotonic()) > 0:
            for (what, *said), _ in self._frames(left_s):
                if what == "ready":
                    return
                self.close()
                raise ArmError(said[0])
        self.close()
        raise ArmError(
            f"the process that sends did not start within {_START_TIMEOUT_S:.0f} s; "
            "see whether this machine is overloaded"
        )

    def _receive(self, wait_s: float | None) -> None:
        for head, body in self._frames(wait_s):
            self._read(head, body)

    def _frames(self, wait_s: float | None) -> list[tuple[list[Any], bytes]]:
        """Return what has arrived, after waiting for something to (None: for ever)."""
        wait_ms = None if wait_s is None else math.ceil(wait_s * 1e3)
        if not self._poll.poll(wait_ms):
            return []
        try:
            data = self._link.recv(_READ_BYTES)
        except OSError as error:
            raise self._gone() from error
        if not data:
            raise self._gone()
        return list(self._unpacker.feed(data))

    def _read(self, head: list[Any], body: bytes) -> None:
        what, index, *said = head
        if what == "dropped":
            self._dropped = [each for each in index if self._offered.pop(each, None)]
            return
        if index not in self._offered:  # dropped, but one arm had it already
            return
        if what == "shed":
            del self._offered[index]
            self._done.append(Delivery(index=index, shed=True, answers={}))
            return
        place, (held_s, send_lag_s, queue_s), *reply = said
        offered, name = self._offered[index], self._names[place]
        if what == "waited":
            came = self._never_sent(name)
        else:
            came = self._completion(name, offered.request, body, reply)
        offered.answers[name] = Sent(
            due_s=offered.request.arrival_s + held_s,
            send_lag_s=send_lag_s,
            queue_s=queue_s,
            completion=came,
        )
        if len(offered.answers) == len(offered.arms):
            del self._offered[index]
            done = Delivery(index=index, shed=False, answers=offered.answers)
            self._done.append(done)

    def _never_sent(self, name: str) -> Completion:
        return Completion(
            status=Status.TIMEOUT,
            service_s=0.0,
            device=self._devices[name],
            error=f"timeout: waited {self._timeout_s:g} s for room and was never sent",
        )

    def _completion(
        self, name: str, request: Request, body: bytes, reply: list[Any]
    ) -> Completion:
        (sent_s, ended_s), (outcome, detail, status), pieces = reply
        times_s, sizes_bytes, text = unpack_stamps(body, pieces)
        came = Reply(
            outcome=outcome,
            detail=detail,
            status=status,
            service_s=ended_s - sent_s,
            times_s=[time_s - sent_s for time_s in times_s],
            sizes_bytes=sizes_bytes,
            text=text,
        )
        return completion(
            came, request, device=self._devices[name], timeout_s=self._timeout_s
        )

    def _gone(self) -> ArmError:
        """Say that the process is gone, and how."""
        code = None
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                code = self._process.wait(_END_TIMEOUT_S)
        how = "without a word" if code is None else f"with exit code {code}"
        return ArmError(
            f"the process that sends to the endpoints is gone ({how}); nothing more "
            "can be sent: resume the run"
        )


def _search_path() -> str:
    """Return where the process finds this very package, before anything else."""
    mine = str(Path(canary.__file__).parents[1])
    return os.pathsep.join([mine, *filter(None, [os.environ.get("PYTHONPATH")])])
