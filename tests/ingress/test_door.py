import asyncio
import gzip
import http.client
import itertools
import json
import resource
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress

import aiohttp
import pytest
import zstandard
from shadow import CHAT, ROOT, chat, eventually, post

from canary.traffic.spool import SpoolTail, recorded

MIB = 2**20


def raw(ingress, sent):
    """Open a connection, send the bytes as they are, and return it."""
    connection = socket.create_connection(("127.0.0.1", ingress.port), timeout=30)
    connection.sendall(sent)
    return connection


def head(size_bytes, *lines):
    more = "".join(f"{line}\r\n" for line in lines)
    text = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {size_bytes}\r\n{more}"
    return f"{text}\r\n".encode()


def read_all(connection):
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    connection.close()
    return b"".join(parts)


@pytest.mark.parametrize(
    ("body", "headers", "outcome"),
    [
        (chat(), {}, "spooled"),
        (b'{"prompt": "text"}', {}, "spooled"),
        (b'{"prompt": [["a"]]}', {}, "dropped; reason=not-a-prompt"),
        (b'{"input": "text"}', {}, "dropped; reason=not-a-prompt"),
        (b"", {}, "dropped; reason=not-a-prompt"),
        (b'{"prompt": "te', {}, "dropped; reason=bad-json"),
        (b"[" * 100_000, {}, "dropped; reason=bad-json"),
        (b'{"prompt": NaN}', {}, "dropped; reason=bad-json"),
        (b'{"prompt": "\xff"}', {}, "dropped; reason=bad-json"),
        (chat("x" * 2 * MIB), {}, "spooled"),
        (chat("x" * 8 * MIB), {}, "dropped; reason=too-large"),
        (gzip.compress(chat()), {"content-encoding": "gzip"}, "spooled"),
        (zstandard.compress(chat()), {"content-encoding": "zstd"}, "spooled"),
        (chat(), {"content-encoding": "gzip"}, "dropped; reason=bad-encoding"),
        (chat(), {"content-encoding": "br"}, "dropped; reason=bad-encoding"),
        (
            gzip.compress(b" " * 512 * MIB, 1),
            {"content-encoding": "gzip"},
            "dropped; reason=too-large",
        ),
    ],
    ids=lambda value: f"{value[:12]!r}" if isinstance(value, bytes) else None,
)
def test_every_body_is_answered_and_counted(ingress, body, headers, outcome):
    """202 and nothing else, whatever the body; the header says what became of it."""
    assert outcome == ingress.became(body, headers)


@pytest.mark.parametrize("said", ['{"n": 1e999}', '"half a character: \\ud800"'])
def test_what_cant_be_written_again_is_no_json(start, said):
    """JSON that Python reads and others won't is dropped, not recorded broken."""
    ingress = start("--capture", "full")
    body = f'{{"messages": [{{"role": "user", "content": {said}}}]}}'.encode()

    assert "dropped; reason=bad-json" == ingress.became(body)
    assert [] == ingress.lines()


@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a":', "}")])
def test_depth_breaks_nothing(start, opened, closed):
    """However deep a body is nested: recorded or dropped by name, and on it goes."""
    ingress = start("--capture", "redacted")
    for depth in (100, 300, 450, 900, 990, 5000, 100_000):
        said = opened * depth + "1" + closed * depth
        body = f'{{"messages": [{{"role": "user", "content": {said}}}]}}'.encode()
        assert ingress.became(body) in {"dropped; reason=bad-json", "spooled"}

    assert "spooled" == ingress.became(chat())
    assert ingress.total("spooled") == len(ingress.lines())


@pytest.mark.parametrize("capture", ["lengths", "redacted", "full"])
def test_what_is_recorded_is_what_a_run_reads(start, capture):
    """The reader of live traffic takes every line, with its length, weight and text."""
    ingress = start("--capture", capture)
    text = 'déjà\u2028vu "quoted" \r\n\t' * 100
    ingress.became(chat(text, max_tokens=7), {"x-session-id": "s"})
    ingress.became(b'{"prompt": ["one", "two"]}')
    ingress.became(b'{"prompt": [1, 2, 3]}')

    read = [recorded(line) for line in SpoolTail(str(ingress.spool)).lines()]

    assert [line["id"] for line in ingress.lines()] == [one.id for one in read]
    rows = [one.row for one in read]
    assert [len(text) // 4, 1, 1, 3] == [row.prompt_tokens for row in rows]
    assert [True, True, True, False] == [row.estimated for row in rows]
    assert [7, None, None, None] == [row.max_tokens for row in rows]
    assert [True, False, False, False] == [row.session is not None for row in rows]
    whole = [json.dumps([{"role": "user", "content": text}], ensure_ascii=False)]
    kept = capture != "lengths"
    assert whole * kept == [row.messages for row in rows if row.messages is not None]
    assert ["one", "two"] * kept == [row.text for row in rows if row.text is not None]


def test_any_path_and_method_is_answered(ingress):
    """A mirror keeps the original's path, whatever that is."""
    for method, path in [("GET", "/"), ("PUT", "/a/b?c=%20"), ("DELETE", "/metrics")]:
        with raw(ingress, f"{method} {path} HTTP/1.0\r\n\r\n".encode()) as connection:
            assert read_all(connection).startswith(b"HTTP/1.1 202 ")


def test_a_slow_sender_is_answered_and_let_go(hasty):
    """Who takes longer than the deadline for a body gets his 202 and no more time."""
    answer = read_all(raw(hasty, head(100) + b'{"messages": ['))

    assert answer.startswith(b"HTTP/1.1 202 ")
    assert b"reason=slow" in answer
    assert 1 <= hasty.total("dropped_total", reason="slow")


def test_a_connection_that_says_nothing_is_closed(hasty):
    """Neither half a header nor half a body after its answer holds a connection."""
    assert b"" == read_all(raw(hasty, b"POST / HTTP/1.1\r\nhost"))
    late = read_all(raw(hasty, head(9 * MIB) + b"x" * 100))
    assert 1 == late.count(b"HTTP/1.1 202 ")


def test_a_sender_who_goes_away_is_counted(ingress):
    """A disconnect in the middle of a body drops the copy, by that name."""
    before = ingress.total("dropped_total", reason="disconnect")

    raw(ingress, head(100) + b"{").close()

    eventually(
        lambda: ingress.total("dropped_total", reason="disconnect") == before + 1
    )


def test_a_thousand_connections_at_once(ingress):
    """All are answered, and every one is recorded or counted as dropped."""
    before = ingress.total("spooled") + ingress.total("dropped_total")

    async def all_at_once():
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=120)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout
        ) as session:

            async def one(number):
                headers = {"x-request-id": f"request-{number}"}
                async with session.post(
                    ingress.url + CHAT, data=chat("x" * 1000), headers=headers
                ) as response:
                    return response.status, await response.read()

            return await asyncio.gather(*map(one, range(1000)))

    answers = asyncio.run(all_at_once())

    assert {(202, b"")} == set(answers)
    eventually(
        lambda: (
            ingress.total("spooled") + ingress.total("dropped_total") == before + 1000
        )
    )


def test_killed_it_loses_nothing_that_it_called_spooled(start):
    """After kill -9 under load, every answer that said spooled is a line on disk."""
    ingress = start()
    numbers, kept = itertools.count(1), []

    def send_until_it_dies():
        with suppress(OSError, http.client.HTTPException):
            while True:
                number = next(numbers)
                name = {"x-prompt-tokens": f"{number}"}
                if ingress.outcome(chat("x" * 5000), name) == "spooled":
                    kept.append(number)

    threads = [threading.Thread(target=send_until_it_dies) for _ in range(8)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(kept) >= 200)
    ingress.process.send_signal(signal.SIGKILL)
    for thread in threads:
        thread.join()
    ingress.process.wait(timeout=30)

    assert set(kept) <= {line["prompt_tokens"] for line in ingress.lines()}


def test_stopped_it_records_what_waits(start):
    """On SIGTERM, what was only queued is written before the process ends."""
    ingress = start()
    for _ in range(50):
        post(ingress.url + CHAT, chat("x" * 100_000))

    assert 0 == ingress.stop()
    assert 50 == len(ingress.lines())
    assert all(line["prompt_tokens"] == 25_000 for line in ingress.lines())


def test_stopped_it_lets_senders_finish(start):
    """Who is in the middle of a body at SIGTERM has his deadline; nothing is logged."""
    ingress = start("--read-deadline", "500ms")
    connection = raw(ingress, head(100) + b"{")
    eventually(lambda: ingress.total("received") == 1)

    assert 0 == ingress.stop()
    assert b"reason=slow" in read_all(connection)
    assert 1 == len(ingress.said().splitlines())


def test_a_full_disk_drops_and_says_so(start):
    """No space: 202 all the same, counted, whole lines only; then it recovers."""

    def little_space():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))

    ingress = start("--capture", "full", limits=little_space)
    small, large = chat("x" * 500), chat("y" * 5000)
    outcomes = [ingress.became(body) for body in (small, small, large, large, small)]

    assert ["spooled"] * 2 + ["dropped; reason=disk"] * 2 + ["spooled"] == outcomes
    assert 3 == len(ingress.lines())
    assert 2 == ingress.total("dropped_total", reason="disk")
    assert "nothing is recorded: No space left on device" in ingress.said()
    assert "recording again" in ingress.said()


def test_a_full_queue_drops_the_newest(start):
    """Memory is bounded in tokens: what doesn't fit is answered and counted."""
    ingress = start("--queue-tokens", "100")

    assert "spooled" == ingress.became(chat())
    assert "dropped; reason=queue-tokens" == ingress.outcome(chat("x" * 1000))
    assert 1 == ingress.total("dropped_total", reason="queue-tokens")


def test_the_kill_switch_stops_recording(start, tmp_path):
    """While the file exists, nothing is written; without it, recording goes on."""
    switch = tmp_path / "stop"
    ingress = start("--kill-switch", switch)
    before = ingress.became(chat())
    switch.touch()
    during, recording = ingress.outcome(chat()), ingress.health()["recording"]
    switch.unlink()

    assert ("spooled", "dropped; reason=kill-switch") == (before, during)
    assert not recording
    assert "spooled" == ingress.became(chat())
    assert 2 == len(ingress.lines())


def test_a_token_keeps_others_out(start):
    """A wrong token is the one thing that is told: 401, dropped, counted."""
    ingress = start("--token-env", "DOOR", env={"DOOR": "a-token-of-some-length"})
    url, token = ingress.url + CHAT, "a-token-of-some-length"
    statuses = [
        post(url, chat(), headers)[0]
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": f"Bearer {token}"},
            {"x-canary-token": token, "authorization": "Bearer the user's own"},
            {"x-canary-token": "\xff"},
        )
    ]

    assert [401, 401, 202, 202, 401] == statuses
    assert 2 == len(eventually(ingress.lines))
    assert 3 == ingress.total("dropped_total", reason="unauthorized")


def test_no_text_and_no_credential_is_left_anywhere(start):
    """With capture lengths, a grep over all that was written finds nothing said."""
    ingress = start("--token-env", "DOOR", env={"DOOR": "door-token-of-some-length"})
    needles = [
        *("xylophone", "user-key", "biscuit", "api-secret", "sid-secret", "rid-secret"),
        *("end-user", "door-token", "hidden-header"),
    ]
    headers = {
        "x-canary-token": "door-token-of-some-length",
        "authorization": "Bearer user-key",
        "cookie": "session=biscuit",
        "x-api-key": "api-secret",
        "x-session-id": "sid-secret",
        "x-request-id": "rid-secret",
        "x-other": "hidden-header",
    }
    tools = [{"function": {"description": "xylophone"}}]
    for body in (
        chat("xylophone", user="end-user", tools=tools),
        b'{"prompt": "xylophone',
        b'{"prompt": "xylophone \\ud800"}',
        b'{"prompt": ["xylophone", {"xylophone": 1}]}',
    ):
        post(ingress.url + "/xylophone?key=user-key", body, headers)
    said = ingress.get("/metrics")
    ingress.stop()
    written = [ingress.stderr, *(p for p in ingress.spool.rglob("*") if p.is_file())]
    text = said + "".join(path.read_text() for path in written)

    assert 2 == len(ingress.lines())
    assert [] == [needle for needle in needles if needle in text]


def test_the_folder_is_for_this_user_alone(ingress):
    """What was recorded, and the key of its hashes, can be read by nobody else."""
    ingress.became(chat())
    private = [ingress.spool / "ingress.json", *ingress.spool.glob("requests-*")]

    assert len(private) > 1
    assert {0o600} == {path.stat().st_mode & 0o777 for path in private}


def test_a_spool_has_one_writer(start):
    """A second ingress on the same spool is refused in one sentence."""
    ingress = start()
    again = subprocess.run(
        [
            *(sys.executable, "-m", "canary.cli", "ingress", "--port", "0"),
            *("--spool", str(ingress.spool)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert 2 == again.returncode
    assert again.stderr == (
        f"{ingress.spool}: another ingress writes there; give this one a spool of its "
        "own\n"
    )


def test_it_recovers_its_key_and_says_that_it_is_well(start):
    """Sessions keep their names over a restart, as the key lies in the spool."""
    first = start()
    first.became(chat(), {"x-session-id": "s"})
    first.stop()
    second = start("--spool", str(first.spool))
    second.became(chat(), {"x-session-id": "s"})

    lines = first.lines()
    assert 2 == len(lines)
    assert 1 == len({line["session"] for line in lines})
    healthy = {"alive": True, "spool_writable": True, "recording": True, "failing": []}
    assert healthy.items() <= second.health().items()
