"""A real OpenAI-compatible streaming server that costs little and knows the truth.

Run it: ``python tests/benchmarks/token_server.py --port 0 --ttft-ms 50``; it prints the
port that it listens on. ``GET /log`` returns, for each request by its X-Request-Id,
when its last byte was there and when its first and last token were written, in
`time.monotonic` seconds. The model's name can ask for trouble: ``status-429``,
``quits`` (without an answer), ``broken`` (in the middle), ``mute`` (never answers),
``empty`` (a role, but no token), ``reasoning``, ``uncounted`` (no usage),
``error-event``, ``until-close`` (doesn't say how long its answer is), ``telltale``
(repeats the key).
"""

import argparse
import asyncio
import contextlib
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import httptools
import uvloop

from canary.arms.endpoint.turns import ask_for_short_turns

_MODEL = re.compile(rb'"model": ?"([^"]*)"')
_TOKENS = re.compile(rb'"max_tokens": ?(\d+)')
# The fields that matter stand at the beginning of a body, before its prompt.
_BEGINNING_BYTES = 1024
_BUFFER = bytearray(2**20)
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


@dataclass
class Call:
    """One request: what it asks for and what happened when."""

    connection: "Connection"
    label: str
    model: str
    chat: bool
    tokens: int
    key: str
    body: bytes
    arrived_s: float
    written: int = 0
    first_s: float | None = None
    last_s: float | None = None


class Engine:
    """Serves so many at once; the others wait their turn."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.calls: list[Call] = []
        self._loop = asyncio.get_running_loop()
        self._free = options.slots
        self._waiting: deque[Call] = deque()
        self._stalled_s: tuple[float, float] | None = None

    def take(self, call: Call) -> None:
        """Start a call, or let it wait."""
        self.calls.append(call)
        if self._stalled_s is None:
            begin_s = call.arrived_s + self.options.stall_at
            self._stalled_s = begin_s, begin_s + self.options.stall_for
        self._waiting.append(call)
        self._start()

    def _start(self) -> None:
        while self._free and self._waiting:
            self._free -= 1
            call = self._waiting.popleft()
            self._loop.call_later(self.options.ttft_ms / 1e3, self._step, call)

    def _step(self, call: Call) -> None:
        """Write a token, unless everything stands still."""
        now_s = time.monotonic()
        begin_s, end_s = self._stalled_s
        if begin_s <= now_s < end_s:
            self._loop.call_later(end_s - now_s, self._step, call)
            return
        going = call.connection.say(call)
        if going and call.written < call.tokens:
            self._loop.call_later(self.options.per_token_ms / 1e3, self._step, call)
            return
        if going:
            call.connection.finish(call)
        self._free += 1
        self._start()

    def log(self) -> bytes:
        """Return all stamps as JSON."""
        return json.dumps(
            {
                call.label: [call.arrived_s, call.first_s, call.last_s]
                for call in self.calls
            }
        ).encode()


class Connection(asyncio.BufferedProtocol):
    """One client's connection.

    httptools reads the heads; bodies are counted where the kernel has put them, since
    copying megabytes would delay the next request's stamp.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._left = 0
        self._now_s = 0.0
        self._begin()

    def connection_made(self, transport):
        """Be open."""
        self._transport = transport

    def get_buffer(self, sizehint):
        """Lend the kernel one buffer for all connections."""
        del sizehint
        return _BUFFER

    def buffer_updated(self, nbytes):
        """Stamp what came and count it."""
        self._now_s = time.monotonic()
        if self._left:
            self._body(memoryview(_BUFFER)[:nbytes])
            return
        self._head += _BUFFER[:nbytes]
        end = self._head.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        head, body = bytes(self._head[:end]), memoryview(self._head)[end:]
        self._parser.feed_data(head)
        self._left = int(self._headers.get(b"content-length", 0))
        self._body(body)

    def _body(self, data):
        self._beginning += data[: _BEGINNING_BYTES - len(self._beginning)]
        self._left -= len(data)
        if not self._left:
            self._complete()
            self._begin()

    def _begin(self):
        self._parser = httptools.HttpRequestParser(self)
        self._head = bytearray()
        self._path, self._headers, self._beginning = b"", {}, b""

    def on_url(self, url):
        """Keep the path."""
        self._path += url

    def on_header(self, name, value):
        """Keep a header."""
        self._headers[name.lower()] = value.decode()

    def _complete(self):
        if self._path == b"/log":
            self._answer(200, self._engine.log())
            return
        model = _MODEL.search(self._beginning)[1].decode()
        call = Call(
            connection=self,
            label=self._headers.get(b"x-request-id", ""),
            model=model,
            chat=self._path.endswith(b"/chat/completions"),
            tokens=int(_TOKENS.search(self._beginning)[1]),
            key=self._headers.get(b"authorization", ""),
            body=self._beginning,
            arrived_s=self._now_s,
        )
        if model.startswith("status-"):
            self._answer(int(model[7:]), b'{"error": "too\\n much"}')
        elif model == "telltale":
            self._answer(401, f"wrong key: {call.key}".encode())
        elif model == "quits":
            self._transport.close()
        elif model != "mute":
            self._engine.take(call)

    def say(self, call: Call) -> bool:
        """Write one token; return whether there is more to say."""
        if self._transport.is_closing():
            return False
        now_s = time.monotonic()
        text = self._begun(call) if call.written == 0 else b""
        text += self._event(call, _choice(call))
        call.written += 1
        call.last_s = now_s
        if call.first_s is None:
            call.first_s = now_s
        self._transport.write(text)
        if call.model == "broken" and call.written == 2:
            self._transport.close()
            return False
        return True

    def finish(self, call: Call) -> None:
        """Write what follows the last token."""
        text = b""
        if call.model == "error-event":
            text += self._event(call, {"error": {"message": "out of blocks"}})
        if call.model != "uncounted":
            counts = {"prompt_tokens": 7, "completion_tokens": call.written}
            text += self._event(call, {"choices": [], "usage": counts})
        text += self._chunk(call, b"data: [DONE]\n\n")
        if call.model == "until-close":
            self._transport.write(text)
            self._transport.close()
        else:
            self._transport.write(text + b"0\r\n\r\n")

    def _begun(self, call: Call) -> bytes:
        role = {"choices": [{"index": 0, "delta": {"role": "assistant"}, "text": ""}]}
        how = b"Connection: close" if call.model == "until-close" else _CHUNKED
        return _HEAD + how + b"\r\n\r\n" + self._event(call, role)

    def _event(self, call: Call, event: dict) -> bytes:
        return self._chunk(call, b"data: " + json.dumps(event).encode() + b"\n\n")

    @staticmethod
    def _chunk(call: Call, data: bytes) -> bytes:
        if call.model == "until-close":
            return data
        return b"%x\r\n%b\r\n" % (len(data), data)

    def _answer(self, status: int, body: bytes) -> None:
        head = f"HTTP/1.1 {status} So\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)


_CHUNKED = b"Transfer-Encoding: chunked"


def _choice(call: Call) -> dict:
    if call.model == "empty":
        said = {"delta": {"content": ""}} if call.chat else {"text": ""}
    elif call.model == "reasoning" and call.written < call.tokens // 2:
        said = {"delta": {"reasoning_content": "hm "}}
    elif call.chat or call.model == "reasoning":
        said = {"delta": {"content": "so "}}
    else:
        said = {"text": "so "}
    return {"choices": [{"index": 0, **said}]}


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ttft-ms", type=float, default=20.0)
    parser.add_argument("--per-token-ms", type=float, default=1.0)
    parser.add_argument("--slots", type=int, default=10**6)
    parser.add_argument("--stall-at", type=float, default=0.0, help="s from the first")
    parser.add_argument("--stall-for", type=float, default=0.0)
    return parser.parse_args(arguments)


async def serve(chosen: argparse.Namespace) -> None:
    """Serve until told to end."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    engine = Engine(chosen)
    server = await loop.create_server(
        lambda: Connection(engine), "127.0.0.1", chosen.port, backlog=4096
    )
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - a script's output
    await over.wait()


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[int]:
    """Run a server in a process of its own and yield its port."""
    command = [sys.executable, __file__, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


def stamps(port: int) -> dict[str, list[float | None]]:
    """Return arrival, first and last token of each request, by its X-Request-Id."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/log") as answer:
        return json.load(answer)


if __name__ == "__main__":
    ask_for_short_turns()  # its stamps are the truth
    uvloop.run(serve(options()))
