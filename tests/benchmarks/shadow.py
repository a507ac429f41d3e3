"""Real parts to mirror with: NGINX, a primary, and `canary ingress` as users start it.

Each is a process of its own on ports of its own.
"""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CHAT = "/v1/chat/completions"


def chat(text="hello", **fields):
    """Return a chat request's body."""
    messages = [{"role": "user", "content": text}]
    return json.dumps({"messages": messages, **fields}).encode()


def post(url, body, headers=None, *, timeout_s=30):
    """Return the status and the headers of an answer."""
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=timeout_s)
    try:
        connection.request("POST", "/" + path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def eventually(ask, *, within_s=20.0):
    """Return the first true answer; fail if there is none for long."""
    until = time.monotonic() + within_s
    while not (found := ask()):
        assert time.monotonic() < until, f"never came true: {ask}"
        time.sleep(0.02)
    return found


class Ingress:
    """A running `canary ingress`."""

    def __init__(self, folder, *options, limits=None, env=None):
        self.spool = folder / "spool"
        self.stderr = folder / "stderr.txt"
        given = [] if "--spool" in options else ["--spool", str(self.spool)]
        port = [] if "--port" in options else ["--port", "0"]
        with self.stderr.open("w") as stderr:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "canary.cli",
                    "ingress",
                    *given,
                    *port,
                    *options,
                ],
                cwd=ROOT,
                stdout=stderr,
                stderr=stderr,
                env={**os.environ, **(env or {})},
                preexec_fn=limits,  # noqa: PLW1509 - sets a limit, before any thread
            )
        eventually(lambda: "metrics are at" in self.said() or self.ended())
        found = re.search(r"send to (\S+), metrics are at (\S+)/metrics", self.said())
        assert found, self.said()
        self.url, self.admin = found[1], found[2]
        self.port = int(self.url.rsplit(":", 1)[1])

    def said(self):
        """Return what it printed."""
        return self.stderr.read_text()

    def ended(self):
        """Return whether the process is gone."""
        return self.process.poll() is not None

    def outcome(self, body, headers=None, *, path=CHAT):
        """Return what the door said of a request."""
        status, answered, text = post(self.url + path, body, headers)

        assert (202, b"") == (status, text)
        return answered["canary-outcome"]

    def became(self, body, headers=None):
        """Return what became of a request in the end, by the counters.

        The answer says the same, or ``queued`` if the machine was busy.
        """
        before = self._outcomes()
        answer = self.outcome(body, headers)
        eventually(lambda: self._outcomes() != before)
        after = self._outcomes()
        (found,) = [name for name in after if after[name] != before.get(name, 0)]
        assert answer in {found, "queued"}
        return found

    def _outcomes(self):
        found = {}
        for sample, value in self.metrics().items():
            if match := re.search(
                r"(spooled|dropped)_total{(?:reason=\"(.*?)\")?", sample
            ):
                name = f"dropped; reason={match[2]}" if match[2] else "spooled"
                found[name] = found.get(name, 0) + value
        return found

    def get(self, path):
        """Return a page of the admin address."""
        url = self.admin + path
        with urllib.request.urlopen(url, timeout=30) as response:  # noqa: S310 - http
            return response.read().decode()

    def health(self):
        """Return what /healthz says, well or not."""
        try:
            return json.loads(self.get("/healthz"))
        except urllib.error.HTTPError as error:
            with error:
                return json.loads(error.read())

    def metrics(self):
        """Return every sample by its name with labels."""
        lines = (line for line in self.get("/metrics").splitlines() if line[0] != "#")
        return {n: float(v) for n, v in (line.rsplit(" ", 1) for line in lines)}

    def total(self, name, **labels):
        """Return the sum of a counter's samples that carry these labels."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(
            value
            for sample, value in self.metrics().items()
            if sample.startswith(f"canary_ingress_{name}")
            and all(label in sample for label in wanted)
        )

    def lines(self):
        """Return what is in the spool, oldest first."""
        files = sorted(self.spool.glob("requests-*.jsonl"))
        return [json.loads(x) for path in files for x in path.read_bytes().splitlines()]

    def stop(self):
        """End it as an operator does; return its exit code."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        return self.process.wait(timeout=30)


@contextmanager
def running_primary():
    """Start a primary; yield its port."""
    command = [sys.executable, str(HERE / "primary.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield int(process.stdout.readline())
        process.terminate()


@contextmanager
def running_nginx(prefix, *, primary_port, ingress_port, changes=()):
    """Start NGINX with the shipped configuration on a free port; yield its address."""
    port = free_port()
    ours = {"8000": primary_port, "8765": ingress_port, "8080": port}
    text = (ROOT / "deploy/nginx.conf").read_text()
    ports = re.compile(r"(?<=127\.0\.0\.1:)(8000|8765|8080)")
    text = ports.sub(lambda match: str(ours[match[0]]), text)
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    # Its workers must be able to write below the folder, which is this user's.
    user = "user root;\n" if os.getuid() == 0 else ""
    (prefix / "nginx.conf").write_text(f"daemon off;\n{user}{text}")
    command = ["nginx", "-p", str(prefix), "-c", "nginx.conf", "-e", "start.log"]
    with subprocess.Popen(command) as process:
        try:
            eventually(lambda: reachable(port) or process.poll() is not None)
            assert process.poll() is None, (prefix / "start.log").read_text()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def reachable(port):
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False
