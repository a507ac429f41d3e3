"""Does a copy of what users send arrive? Asked of the real proxy, answered in words.

Sends marked requests to the primary's address, as a user would, and asks the ingress's
admin page what came of them. They name a model that doesn't exist, so that the primary
answers at once and computes nothing; its answer is told, not judged.
"""

import json
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from canary.errors import UsageError
from canary.ingress.counts import MIB
from canary.ingress.door import SELFTEST_HEADER

MODEL = "canary-selftest"

_SIZES_BYTES = (1024, 1 * MIB, 2 * MIB, 7 * MIB)
_SEND_S = 30.0
_ARRIVE_S = 3.0
_REFUSED_S = 0.5
_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One marked request: what the primary said, and the copy if it arrived.

    `status` is None if the connection ended without an answer. `late_ms` is from the
    send to the copy's arrival, by the clocks of two processes.
    """

    body_bytes: int
    status: int | None
    arrived: bool
    late_ms: float | None = None
    complete: bool = False
    credentials: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return a line for people."""
        answer = "no answer" if self.status is None else f"answer {self.status}"
        copy = "no copy"
        if self.arrived:
            whole = "whole" if self.complete else "not whole"
            copy = f"a copy, {whole}, after {self.late_ms:.0f} ms"
        size = f"{self.body_bytes / MIB:.0f} MiB" if self.body_bytes >= MIB else "1 KiB"
        return f"{size:>6}: {answer}; {copy}"


def selftest(url: str, *, admin: str, bearer: str | None) -> Iterator[Sent]:
    """Send a request of each size through the proxy and yield what became of it.

    Ends with the first whose copy doesn't arrive whole.

    Args:
        url: A chat completions address of the primary.
        admin: The address of the ingress's admin page.
        bearer: The token that the primary asks for, if it does.

    Raises:
        UsageError: The proxy or the admin page can't be reached.
    """
    _require_http(url, "--selftest")
    _require_http(admin, "--admin")
    _get(f"{admin}/healthz")
    for size_bytes in _SIZES_BYTES:
        sent = _send(url, admin, size_bytes, bearer)
        yield sent
        if not sent.complete:  # larger ones would tell nothing new
            return


def verdict(sent: list[Sent]) -> tuple[bool, str]:
    """Return whether every copy arrived whole, and one sentence: what to change."""
    if not sent[0].arrived:
        return False, (
            "no copy arrives at all: check that the mirror is on for this path and "
            "sends to the ingress's --host and --port, and that no token or firewall "
            "is between them"
        )
    last = sent[-1]
    if last.complete:
        names = sorted({name for one in sent for name in one.credentials})
        told = "copies of every size arrive whole"
        if names:
            told += (
                f"; {' and '.join(names)} came along and ended at the door: nothing to "
                "change, but a proxy that can should not send them"
            )
        return True, told
    size = f"{last.body_bytes / MIB:.0f} MiB"
    if _refused(last.status):
        return False, (
            f"the proxy refuses bodies of {size}, for users and for the mirror: raise "
            "its limit (NGINX: client_max_body_size 8m)"
        )
    return False, (
        f"copies of {size} don't arrive, so long prompts would be missing: raise the "
        "mirror's limit (Envoy: per_connection_buffer_limit_bytes; NGINX: "
        "client_max_body_size), or --max-body here"
    )


def _send(url: str, admin: str, size_bytes: int, bearer: str | None) -> Sent:
    mark = secrets.token_hex(16)
    body = _body(size_bytes)
    headers = {
        "Content-Type": "application/json",
        "Cookie": f"{MODEL}=1",
        SELFTEST_HEADER: mark,
    }
    if bearer is not None:
        headers["Authorization"] = f"Bearer {bearer}"
    sent_unix_s = time.time()
    status = _post(url, body, headers)
    found = _copy(admin, mark, _REFUSED_S if _refused(status) else _ARRIVE_S)
    if found is None:
        return Sent(body_bytes=size_bytes, status=status, arrived=False)
    came = [name for name in ("authorization", "cookie", "api_key") if found[name]]
    return Sent(
        body_bytes=size_bytes,
        status=status,
        arrived=True,
        late_ms=1000 * (found["arrived_unix_s"] - sent_unix_s),
        complete=found["body_bytes"] == len(body),
        credentials=tuple(came),
    )


def _body(size_bytes: int) -> bytes:
    request = {
        "model": MODEL,
        "max_tokens": 1,
        "messages": [{"role": "user", "content": "Are you there?"}],
        "metadata": {"padding": ""},
    }
    padding = size_bytes - len(json.dumps(request))
    request["metadata"] = {"padding": "x" * padding}
    return json.dumps(request).encode()


def _post(url: str, body: bytes, headers: dict[str, str]) -> int | None:
    request = urllib.request.Request(url, body, headers)  # noqa: S310 - http, checked
    try:
        with urllib.request.urlopen(request, timeout=_SEND_S) as response:  # noqa: S310
            response.read()
            status: int = response.status
            return status
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except (urllib.error.URLError, HTTPException, OSError) as error:
        reason = getattr(error, "reason", error)
        # A proxy may refuse a large body by closing while it is being sent.
        if isinstance(reason, (BrokenPipeError, ConnectionResetError)):
            return None
        raise UsageError(
            f"{url} can't be reached ({reason}); give the address at which users reach "
            "the primary, path included"
        ) from error


def _refused(status: int | None) -> bool:
    """Whether the proxy refused a body for its size, by an answer or by hanging up."""
    return status is None or status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE


def _copy(admin: str, mark: str, within_s: float) -> dict[str, Any] | None:
    """Return what the ingress saw of the request; None if no copy came in time."""
    until = time.monotonic() + within_s
    while True:
        found = _get(f"{admin}/selftest/{mark}")
        if found is not None or time.monotonic() > until:
            return found
        time.sleep(_POLL_S)


def _get(url: str) -> dict[str, Any] | None:
    """Return the JSON at an address; None if there is nothing."""
    try:
        with urllib.request.urlopen(url, timeout=_SEND_S) as response:  # noqa: S310
            found: dict[str, Any] = json.load(response)
            return found
    except urllib.error.HTTPError as error:
        with error:
            return None
    except (urllib.error.URLError, HTTPException, OSError, ValueError) as error:
        raise UsageError(
            f"{url} can't be reached ({getattr(error, 'reason', error)}); start the "
            "ingress, and give its admin address with --admin"
        ) from error


def _require_http(url: str, option: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise UsageError(f"{option}: {url!r} is no address; write http://HOST:PORT/...")
