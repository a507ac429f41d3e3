import asyncio
import json

from canary.ingress.app import Ingress, create_app
from canary.ingress.settings import Settings
from canary.ingress.spool import spooled_files

BODY = b'{"prompt": "xylophone"}'


def asked(app, *, body=BODY, fails=None):
    """Ask for one answer as an ASGI server does; return status and outcome."""
    answers = []

    async def send(message):
        answers.append(message)

    async def receive():
        if fails is not None:
            raise fails
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {"type": "http", "headers": [(b"x-session-id", b"s")]}
    asyncio.run(app(scope, receive, send))
    start, end = answers
    assert {"type": "http.response.body", "body": b""} == end
    return start["status"], dict(start["headers"])[b"canary-outcome"].decode()


def live(app):
    """Tell an application that its server starts and ends; return what it says."""
    messages = iter(["lifespan.startup", "lifespan.shutdown"])
    said = []

    async def receive():
        return {"type": next(messages)}

    async def send(message):
        said.append(message["type"])

    asyncio.run(app({"type": "lifespan"}, receive, send))
    return said


def test_any_asgi_server_can_hold_the_door(tmp_path):
    """The application records by itself, and what waits is written at its end."""
    app = create_app(Settings(spool=str(tmp_path)))

    status, outcome = asked(app)

    assert (202, True) == (status, outcome in {"spooled", "queued"})
    assert ["lifespan.startup.complete", "lifespan.shutdown.complete"] == live(app)
    (path,) = spooled_files(tmp_path)
    assert "canary.ingress/1" == json.loads(path.read_text())["schema"]
    assert (202, "dropped; reason=stopped") == asked(app)


def test_a_recorder_that_hangs_fills_the_queue(tmp_path):
    """Behind it nothing moves: answers come, then what is newest is dropped."""
    ingress = Ingress(Settings(spool=str(tmp_path), queue_requests=2))

    outcomes = [asked(ingress.door) for _ in range(4)]

    full = (202, "dropped; reason=queue-requests")
    assert [(202, "queued"), (202, "queued"), full, full] == outcomes
    assert 2 == ingress.waiting.requests
    assert 2 * len(BODY) // 4 == ingress.waiting.tokens
    ingress.start()
    ingress.close()
    assert 0 == ingress.waiting.tokens
    assert 2 == sum(ingress.counts.spooled.values())


def test_a_bug_is_answered_and_tells_no_text(tmp_path, caplog):
    """Even what nobody thought of is a 202, logged by its place without its message."""
    ingress = Ingress(Settings(spool=str(tmp_path)))

    found = asked(ingress.door, fails=ZeroDivisionError("xylophone"))

    assert (202, "dropped; reason=internal") == found
    assert "a copy was dropped at the door: ZeroDivisionError at" in caplog.text
    assert "xylophone" not in caplog.text
    ingress.start()
    ingress.close()


def test_a_websocket_is_closed(tmp_path):
    """A mirror sends none; whoever does gets no further."""
    app = create_app(Settings(spool=str(tmp_path)))
    said = []

    async def send(message):
        said.append(message["type"])

    asyncio.run(app({"type": "websocket"}, None, send))

    assert ["websocket.close"] == said
    live(app)
