"""What is called when there is a verdict: real servers, real commands."""

import json
import os
import shutil
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from canary.conclusion import kept_policies
from canary.decision import Verdict
from canary.errors import UsageError
from canary.evidence.journal import RunFolder
from canary.evidence.reading import read_observations
from canary.hooks import Messenger, hooks_file, read_told, refuse_unready
from canary.judge import judge
from canary.policy.schedule import Hook, Hooks
from canary.record import ended_of, read_run, repeat_of

ROOT = Path(__file__).parents[2]
TOKEN = "HOOK_TOKEN"  # noqa: S105 - the name of a variable


class Receiver:
    """A deployment tool: keeps what it is sent, answers what it is told to."""

    def __init__(self):
        """Listen on a free port."""
        self.got, self.answers = [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.got.append((dict(self.headers), json.loads(body)))
                self.send_response(outer.answers.pop(0) if outer.answers else 200)
                self.send_header("Location", f"{outer.url}/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self):
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def receiver():
    found = Receiver()
    yield found
    found.close()


@pytest.fixture(scope="module")
def decided():
    """A policy of the demo, and the decision on it: rollback."""
    folder = RunFolder(ROOT / "reports/samples/demo")
    policy = next(one for one in kept_policies(folder) if one.name == "window")
    record = read_run(folder)
    decision = judge(
        policy,
        read_observations(folder.root),
        run=record["run"],
        ended=ended_of(record, policy.name, policy.sha256),
    )
    return policy, decision


@pytest.fixture
def ended(decided, tmp_path, monkeypatch):
    """A run that has ended, and what it decided about one policy."""
    monkeypatch.chdir(tmp_path)
    Path("demo").mkdir()
    shutil.copy(ROOT / "reports/samples/demo/run.json", "demo")
    return RunFolder(Path("demo")), *decided


def told(ended, *decisions, waits_s=(0.0, 0.0, 0.0), **hooks):
    """Settle a policy's hooks as a process that has just ended does; return what it
    says."""
    folder, policy, decision = ended
    policy = policy.model_copy(update={"hooks": Hooks(**hooks)})
    said = []
    messenger = Messenger(folder, [policy], say=said.append, waits_s=waits_s)
    messenger.settle(decisions or [decision])
    return said


def document_of(ended):
    """The decision document that the run leaves."""
    folder, _, decision = ended
    return replace(decision, repeat=repeat_of(read_run(folder))).to_dict()


def script(name, text):
    """Write a program that may be executed."""
    path = Path(name)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return f"./{name}"


def test_a_verdict_is_told_once(ended, receiver, monkeypatch):
    """The decision document is posted, with the token; a resume doesn't do it again."""
    monkeypatch.setenv("HOOK_TOKEN", "s3cret")
    hook = Hook(webhook=f"{receiver.url}/canary", token_env=TOKEN)

    said = [told(ended, rollback=hook, promote=hook) for _ in range(2)]

    [(headers, document)] = receiver.got
    written = document_of(ended)
    assert [[], []] == said
    assert json.loads(json.dumps(written)) == document
    assert "Bearer s3cret" == headers["Authorization"]
    assert f"{written['run']}/window/rollback" == headers["Idempotency-Key"]
    [line] = read_told(ended[0])
    assert ("window", Verdict.ROLLBACK, "webhook") == line.key
    assert ("delivered", 1, None) == (line.state, line.tries, line.error)
    assert "s3cret" not in hooks_file(ended[0]).read_text()


def test_a_webhook_that_fails_is_tried_again(ended, receiver):
    """Two errors and then an answer are a delivery, at the third try."""
    receiver.answers = [503, 500]

    said = told(ended, rollback=Hook(webhook=receiver.url))

    assert [] == said
    assert [("delivered", 3)] == [(t.state, t.tries) for t in read_told(ended[0])]


def test_a_failure_is_said_and_the_next_resume_tells_it(ended, receiver):
    """Nothing is followed or given up in silence; the verdict stands as it was."""
    receiver.answers = [302] * 4

    first = told(ended, rollback=Hook(webhook=receiver.url))
    second = told(ended, rollback=Hook(webhook=receiver.url))

    server = receiver.url.removeprefix("http://")
    expected = (
        f"window: the webhook for rollback failed 4 times, at last with: {server} "
        "answered 302; the verdict stands, and `canary resume demo` tells it again"
    )
    assert [expected] == first
    assert [] == second
    assert ["failed", "delivered"] == [t.state for t in read_told(ended[0])]


def test_nobody_listening_is_a_failure(ended):
    """A closed port is a sentence with the server's name, and without its path."""
    hook = Hook(webhook="http://127.0.0.1:9/secret-path")

    [said] = told(ended, rollback=hook, waits_s=())

    assert "failed 1 times, at last with: 127.0.0.1:9: " in said
    assert "secret-path" not in said + hooks_file(ended[0]).read_text()


def test_a_command_gets_the_document(ended):
    """It stands on the standard input; run, policy and verdict in the environment."""
    act = script("act.sh", 'cat > "$1"; echo $CANARY_RUN $CANARY_POLICY > names')

    said = told(ended, rollback=Hook(command=(act, "got.json")))

    assert [] == said
    assert json.dumps(document_of(ended)) == json.dumps(
        json.loads(Path("got.json").read_text())
    )
    assert Path("names").read_text().endswith(" window\n")


def test_a_command_that_fails_is_said_with_its_last_words(ended):
    """Its exit code and the end of its errors; it needn't read its input."""
    act = script("act.sh", "echo no >&2; echo no such rollout >&2; exit 7")

    [said] = told(ended, rollback=Hook(command=(act,)), waits_s=())

    assert "at last with: ./act.sh: exit code 7 (no such rollout);" in said
    assert ["failed"] == [line.state for line in read_told(ended[0])]


def test_a_command_that_hangs_is_ended(ended, monkeypatch):
    """It and what it started are killed when their time is over."""
    monkeypatch.setattr("canary.hooks._COMMAND_TIMEOUT_S", 0.2)
    act = script("act.sh", "echo $$ > pid; sleep 3600 & wait")

    [said] = told(ended, rollback=Hook(command=(act,)), waits_s=())

    assert "./act.sh: took longer than 0 s" in said
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path("pid").read_text()), 0)


def test_what_may_still_change_is_not_told(ended, receiver):
    """A run that was interrupted isn't invalid yet, but a rollback is one."""
    folder, _, decision = ended
    record = json.loads(folder.run_json.read_text()) | {"ended": "interrupted"}
    folder.run_json.write_text(json.dumps(record))
    hook = Hook(webhook=receiver.url)

    for verdict in (Verdict.INVALID, Verdict.INCONCLUSIVE, Verdict.ROLLBACK):
        changed = replace(decision, verdict=verdict)
        told(ended, changed, rollback=hook, invalid=hook, inconclusive=hook)

    assert ["rollback"] == [document["verdict"] for _, document in receiver.got]


def test_hooks_that_can_not_be_called_are_refused_before_the_run(ended, monkeypatch):
    """A token that isn't there, a program that isn't: said before it begins."""
    _, policy, _ = ended
    monkeypatch.delenv("HOOK_TOKEN", raising=False)
    for hook, said in (
        (Hook(webhook="http://a", token_env=TOKEN), "has no HOOK_TOKEN"),
        (Hook(command=("./act.sh",)), r"there is no program ./act\.sh"),
    ):
        changed = policy.model_copy(update={"hooks": Hooks(invalid=hook)})
        with pytest.raises(UsageError, match=rf"hooks\.invalid: .*{said}"):
            refuse_unready([changed])
