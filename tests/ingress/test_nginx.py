import hashlib
import http.client
import json
import signal
import threading
import time

import pytest
from shadow import CHAT, chat, eventually, free_port, post

MIB = 2**20
REQUESTS = 150


def users(url, count=REQUESTS, *, prefix="", connections=1):
    """Send requests as users do, on connections that live; return how long each took.

    Each answer must be what the primary says of just this body.
    """
    host = url.removeprefix("http://")
    open_ = [http.client.HTTPConnection(host, timeout=60) for _ in range(connections)]
    took_s = []
    for number in range(count):
        connection = open_[number % connections]
        body = chat(f"{prefix}{number}" * 200)
        began = time.monotonic()
        connection.request("POST", CHAT, body, {"x-request-id": f"{prefix}{number}"})
        answer = json.loads(connection.getresponse().read())
        took_s.append(time.monotonic() - began)
        assert answer == {
            "sha256": hashlib.sha256(body).hexdigest(),
            "bytes": len(body),
        }
    for connection in open_:
        connection.close()
    return took_s


def settled(ingress, count):
    return ingress.total("spooled") + ingress.total("dropped_total") >= count


def test_what_is_mirrored_arrives_whole(start, nginx):
    """Every request is one line, says what was sent, and the primary answers it."""
    ingress = start("--capture", "full")
    url = nginx(ingress.port)

    users(url)
    eventually(lambda: settled(ingress, REQUESTS))

    said = [line["messages"][0]["content"] for line in ingress.lines()]
    assert sorted(f"{n}" * 200 for n in range(REQUESTS)) == sorted(said)
    assert REQUESTS == len({line["session"] for line in ingress.lines()})


@pytest.mark.parametrize("size_bytes", [1000, MIB, 2 * MIB, 7 * MIB])
def test_large_bodies_arrive_whole(start, nginx, size_bytes):
    """Beyond NGINX's own megabyte, too."""
    ingress = start()
    body = chat("x" * size_bytes)

    status, _, answer = post(nginx(ingress.port) + CHAT, body)
    (line,) = eventually(ingress.lines)

    assert (200, len(body)) == (status, json.loads(answer)["bytes"])
    assert (len(body), size_bytes // 4) == (line["body_bytes"], line["prompt_tokens"])


def test_credentials_stay_with_the_primary(start, nginx):
    """The shipped configuration doesn't even send them along."""
    ingress = start()
    mark = "0123456789abcdef" * 2
    headers = {
        "authorization": "Bearer secret",
        "cookie": "a=b",
        "x-api-key": "secret",
        "x-canary-selftest": mark,
    }

    post(nginx(ingress.port) + CHAT, chat(), headers)
    found = json.loads(eventually(lambda: page(ingress, f"/selftest/{mark}")))

    assert not any(found[name] for name in ("authorization", "cookie", "api_key"))


def page(ingress, path):
    try:
        return ingress.get(path)
    except OSError:
        return None


def paused(ingress):
    ingress.process.send_signal(signal.SIGSTOP)


def killed(ingress):
    ingress.process.kill()
    ingress.process.wait(timeout=30)


def left_alone(_):
    pass


def slowed(ingress):
    """Let it work only half of the time, 20 ms and 20 ms."""

    def halve():
        while not ingress.ended():
            for number in (signal.SIGSTOP, signal.SIGCONT):
                ingress.process.send_signal(number)
                turn.wait(0.02)

    turn = threading.Event()
    threading.Thread(target=halve, daemon=True).start()


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ((), paused),
        ((), killed),
        (("--queue-tokens", "1"), left_alone),
        ((), slowed),
    ],
    ids=["hangs", "is dead", "is full", "is slow"],
)
def test_users_dont_notice_the_ingress(start, nginx, options, fault):
    """Whatever it does, every answer is the primary's, and waits for nothing.

    A hanging ingress costs six requests 250 ms each, before NGINX leaves it alone: were
    each to wait for its copy, it would be all of them.
    """
    ingress = start(*options)
    url = nginx(ingress.port)
    before_s = sorted(users(url, prefix="before"))
    fault(ingress)

    after_s = sorted(users(url, prefix="after"))

    assert REQUESTS == len(after_s)
    # Loosely, by ratio to the wait and to before: the machine has other work as well.
    assert after_s[REQUESTS // 2] < 50 * before_s[REQUESTS // 2]
    assert len([one_s for one_s in after_s if one_s > 0.2]) < REQUESTS / 3


def test_without_an_ingress_nothing_is_different(nginx):
    """A port where nobody listens is no different from no mirror."""
    assert REQUESTS == len(users(nginx(free_port()), connections=4))
