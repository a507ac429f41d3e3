import socket
import subprocess
import sys

import pytest
from shadow import ROOT


def refused(*options, env=None):
    found = subprocess.run(
        [sys.executable, "-m", "canary.cli", "ingress", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=env,
    )
    assert (2, "") == (found.returncode, found.stdout)
    return found.stderr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "--spool is missing; name the folder that lines go to"),
        (
            ["--capture", "all"],
            "--capture: expected lengths, redacted, full; got 'all'",
        ),
        (["--max-body", "8"], "--max-body: expected a size with its unit, got '8'"),
        (
            ["--sample", "half"],
            "--sample: expected a share from 0% to 100%, got 'half'",
        ),
        (
            ["--expected", "1%"],
            "--expected: '1%' is no regime; write one of <8k, 8k-32k",
        ),
        (["--retention", "30"], "--retention: expected a duration with its unit"),
        (["--roll", "0s"], "--roll: expected a duration above zero"),
        (["--queue-tokens", "x"], "--queue-tokens: expected a whole number of tokens"),
        (["--admin", "here"], "--admin: expected HOST:PORT, got 'here'"),
        (["--token-env", "NOT_SET"], "the environment variable NOT_SET holds 0 bytes"),
        (["--host", "192.0.2.1"], "192.0.2.1:8765 can't be listened on (Cannot assign"),
        (["--staging", "x"], "--staging is for a spool behind a URL"),
    ],
)
def test_a_wrong_option_is_one_sentence(tmp_path, options, sentence):
    """Exit 2, before anything is served."""
    spool = ["--spool", str(tmp_path)] if options else []

    said = refused(*spool, *options)

    assert said.startswith(sentence)
    assert 1 == len(said.splitlines())


def test_a_taken_port_is_one_sentence(tmp_path):
    """Not uvicorn's traceback, but which address, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused("--spool", str(tmp_path), "--port", str(port))

    assert said.startswith(f"127.0.0.1:{port} can't be listened on (Address already in")


def test_an_open_door_is_warned_of(start):
    """Beyond loopback without a token, anybody can send; full capture keeps it all."""
    open_door = start("--host", "0.0.0.0", "--capture", "full")  # noqa: S104

    assert "warning: whoever reaches 0.0.0.0 can send here" in open_door.said()
    assert "warning: --capture full writes users' prompts" in open_door.said()
    assert "warning" not in start().said()
