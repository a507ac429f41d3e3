"""The command that records live traffic: `canary ingress`.

Like `canary.cli`, a place that reads, prints and exits; commands import when they are
called.
"""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from canary.errors import ExitCode, UsageError

if TYPE_CHECKING:
    import socket

    from canary.ingress.settings import Settings

app = typer.Typer()

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_KEY_LEAST_BYTES = 16

Spool = Annotated[
    str | None, typer.Option(help="The folder, or fsspec URL, that lines go to.")
]
Staging = Annotated[
    Path | None, typer.Option(help="Where lines wait for their upload to a URL.")
]
Host = Annotated[str, typer.Option(help="Where mirrors send to.")]
Port = Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65534)]
Admin = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Where /healthz and /metrics are; default 127.0.0.1, port + 1.",
    ),
]
CaptureText = Annotated[
    str,
    typer.Option(
        "--capture",
        metavar="lengths|redacted|full",
        help="What is kept of a prompt: its length, its text by rules, all of it.",
    ),
]
MaxBody = Annotated[
    str, typer.Option(help="Larger bodies are dropped, also once decompressed.")
]
QueueRequests = Annotated[int, typer.Option(help="Most requests that wait.", min=1)]
QueueTokens = Annotated[
    str, typer.Option(help="Most tokens held in memory, four bytes each.")
]
Sample = Annotated[
    str, typer.Option(help="Share of sessions: 20%, or <8k=5%,rest=100%.")
]
Expected = Annotated[
    str,
    typer.Option(
        help="Shares of primary traffic, to audit by: 8k-32k=12%,32k-128k=3%."
    ),
]
Retention = Annotated[str, typer.Option(help="Older files are removed.")]
Roll = Annotated[str, typer.Option(help="A new file after this time.")]
ReadDeadline = Annotated[
    str, typer.Option(help="How long a sender may take for a body.")
]
TokenEnv = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Environment variable with a bearer token: mirrors must send it, or a "
        "selftest sends it to the primary.",
    ),
]
HashKeyEnv = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Environment variable with the key of all hashes; default: one is made "
        "and kept in the spool.",
    ),
]
KillSwitch = Annotated[
    Path | None, typer.Option(help="While this file exists, nothing is recorded.")
]
Selftest = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="Don't serve: see whether the proxy at URL mirrors to us."
    ),
]
AuditOnly = Annotated[
    bool, typer.Option("--audit", help="Don't serve: say whether the spool is biased.")
]


@app.command()
def ingress(
    *,
    spool: Spool = None,
    staging: Staging = None,
    host: Host = "127.0.0.1",
    port: Port = 8765,
    admin: Admin = None,
    capture: CaptureText = "lengths",
    max_body: MaxBody = "8MiB",
    queue_requests: QueueRequests = 1024,
    queue_tokens: QueueTokens = "32m",
    sample: Sample = "100%",
    expected: Expected = "",
    retention: Retention = "30d",
    roll: Roll = "1h",
    read_deadline: ReadDeadline = "5s",
    token_env: TokenEnv = None,
    hash_key_env: HashKeyEnv = None,
    kill_switch: KillSwitch = None,
    selftest: Selftest = None,
    audit: AuditOnly = False,
) -> None:
    """Record live traffic that a proxy mirrors: answers 202 at once, never more.

    Example: canary ingress --spool /var/spool/canary --sample "<8k=5%,rest=100%"
    """
    if selftest is not None:
        return _selftest(selftest, admin or f"127.0.0.1:{port + 1}", token_env)
    if spool is None:
        raise UsageError("--spool is missing; name the folder that lines go to")
    if audit:
        return _audit(spool)
    from canary.ingress.settings import read_settings

    settings = read_settings(
        spool=spool,
        staging=staging,
        capture=capture,
        max_body=max_body,
        queue_requests=queue_requests,
        queue_tokens=queue_tokens,
        sample=sample,
        expected=expected,
        retention=retention,
        roll=roll,
        read_deadline=read_deadline,
        token=_secret(token_env),
        hash_key=_secret(hash_key_env),
        kill_switch=kill_switch,
    )
    return _serve(settings, host, port, admin)


def _serve(settings: "Settings", host: str, port: int, admin: str | None) -> None:
    from canary.ingress.app import Ingress
    from canary.ingress.serve import listen, serve
    from canary.ingress.settings import Capture

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    door = listen(host, port)
    admin_host, admin_port = _host_and_port(admin, port)
    inside = listen(admin_host, admin_port)
    if host not in _LOOPBACK and settings.token is None:
        _warn(f"warning: whoever reaches {host} can send here; set --token-env")
    if settings.capture is Capture.FULL:
        _warn("warning: --capture full writes users' prompts to the spool as they are")
    ingress = Ingress(settings)

    def ready() -> None:
        _warn(
            f"recording to {settings.spool} ({settings.capture}); mirrors send to "
            f"{_address(door)}, metrics are at {_address(inside)}/metrics"
        )

    serve(ingress, door=door, admin=inside, ready=ready)


def _selftest(url: str, admin: str, token_env: str | None) -> None:
    from canary.ingress.selftest import selftest, verdict

    token = _secret(token_env)
    bearer = None if token is None else token.decode()
    page = admin if "://" in admin else f"http://{admin}"
    sent = []
    for one in selftest(url, admin=page.rstrip("/"), bearer=bearer):
        typer.echo(str(one))
        sent.append(one)
    fine, sentence = verdict(sent)
    if not fine:
        raise UsageError(sentence)
    typer.echo(sentence)


def _audit(spool: str) -> None:
    from canary.ingress.keeper import find_audit

    found = find_audit(spool)
    if found.biased:
        for sentence in found.because:
            typer.echo(f"biased: {sentence}")
        raise typer.Exit(ExitCode.INVALID)
    requests = sum(found.requests.values())
    typer.echo(f"no bias found in {requests:,} requests")


def _secret(name: str | None) -> bytes | None:
    """Return what an environment variable holds.

    Raises:
        UsageError: It is not set, or too short to keep anybody out.
    """
    if name is None:
        return None
    value = os.environ.get(name, "").strip().encode()
    if len(value) < _KEY_LEAST_BYTES:
        raise UsageError(
            f"the environment variable {name} holds {len(value)} bytes; "
            f"set it to a secret of at least {_KEY_LEAST_BYTES}"
        )
    return value


def _host_and_port(admin: str | None, port: int) -> tuple[str, int]:
    if admin is None:
        return "127.0.0.1", port + 1 if port else 0
    host, _, number = admin.rpartition(":")
    if not host or not number.isdecimal() or int(number) > 65535:
        raise UsageError(f"--admin: expected HOST:PORT, got {admin!r}")
    return host.strip("[]"), int(number)


def _warn(sentence: str) -> None:
    typer.echo(sentence, err=True)


def _address(bound: "socket.socket") -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
