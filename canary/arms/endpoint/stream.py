"""What the bytes of an answer mean: a stream of server-sent events, read afterwards.

The process that sends has stamped every piece of the body; here, in the caller's
process, where it delays no request, the pieces become tokens with times.
"""

import bisect
import itertools
import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from canary.answers import prompt_size
from canary.arms.base import Completion
from canary.arms.server import late
from canary.evidence.observation import Status
from canary.traffic.request import Request
from canary.variants.base import Generation

_SHOWN_CHARACTERS = 200
# vLLM has renamed the second into the third.
_DELTA_TEXTS = ("content", "reasoning_content", "reasoning")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back of one attempt. `times_s` count from the send, one a piece.

    `outcome` is ``whole``, ``open end`` (ended with its connection, which alone said
    where), ``broken`` (`detail` says how) or ``timeout``. `status` is 0 if no answer
    began.
    """

    outcome: str
    detail: str
    status: int
    service_s: float
    times_s: Sequence[float]
    sizes_bytes: Sequence[int]
    text: bytes


def unpack_stamps(
    body: bytes, pieces: int
) -> tuple["array[float]", "array[int]", bytes]:
    """Return the times, sizes and text that the process that sends has packed."""
    times_s, sizes_bytes = array("d"), array("I")
    split = pieces * times_s.itemsize
    end = split + pieces * sizes_bytes.itemsize
    times_s.frombytes(body[:split])
    sizes_bytes.frombytes(body[split:end])
    return times_s, sizes_bytes, body[end:]


def completion(
    reply: Reply, request: Request, *, device: str, timeout_s: float
) -> Completion:
    """Return what the reply makes of the request."""
    status, error, made = Status.ERROR, None, None
    if reply.outcome == "timeout":
        status, error = Status.TIMEOUT, late(reply.service_s, timeout_s)
    elif reply.status not in {0, 200}:
        error = f"endpoint answered {reply.status}: {_shown(reply.text)}"
    elif reply.outcome == "broken":
        error = reply.detail
    else:
        try:
            made = _generation(reply, request)
        except _StreamError as wrong:
            error = str(wrong)
        else:
            status = Status.OK
    return Completion(
        status=status,
        service_s=made.end_s if made else reply.service_s,
        device=device,
        generation=made,
        error=error,
    )


class _StreamError(ValueError):
    """Why a stream is no answer; never leaves this module."""


@dataclass(slots=True)
class _Answer:
    """What the events have told so far."""

    chunks: int = 0
    first_s: float = 0.0
    last_s: float = 0.0
    texts: list[str] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)
    done: bool = False


def _generation(reply: Reply, request: Request) -> Generation:
    answer = _Answer()
    for time_s, data in _events(reply):
        if data == b"[DONE]":
            answer.done = True
            break
        _read(answer, time_s, data)
    if reply.outcome == "open end" and not answer.done:
        raise _StreamError("endpoint broke off in the middle of its answer")
    if not answer.chunks:
        raise _StreamError("endpoint's stream ended without a token")
    return Generation(
        prompt_tokens=_count(answer, "prompt_tokens") or prompt_size(request),
        output_tokens=_count(answer, "completion_tokens") or answer.chunks,
        first_token_s=answer.first_s,
        end_s=answer.last_s,
        answer=None if request.kind == "latency" else "".join(answer.texts),
        kernels=("endpoint",),
        density=None,
    )


def _events(reply: Reply) -> Iterator[tuple[float, bytes]]:
    """Yield the data of each event, and when its line was there to the end."""
    ends = list(itertools.accumulate(reply.sizes_bytes))
    text, start = reply.text, 0
    while start < len(text):
        end = text.find(b"\n", start)
        end = len(text) if end < 0 else end
        line = text[start:end]
        if line.startswith(b"data:"):
            piece = min(bisect.bisect_right(ends, end), len(ends) - 1)
            yield reply.times_s[piece], line[5:].strip()
        start = end + 1


def _read(answer: _Answer, time_s: float, data: bytes) -> None:
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict):
        raise _StreamError(f"endpoint sent an event that is no JSON: {_shown(data)}")
    if event.get("error") or event.get("object") == "error":
        raise _StreamError(f"endpoint broke off with an error: {_shown(data)}")
    if isinstance(event.get("usage"), dict):
        answer.usage = event["usage"]
    choices = event.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        said = _said(choice)
        if said is not None:
            answer.chunks += 1
            answer.first_s = answer.first_s if answer.chunks > 1 else time_s
            answer.last_s = time_s
            answer.texts.append(said)


def _said(choice: Any) -> str | None:  # noqa: ANN401 - whatever the endpoint sends
    """Return what a chunk adds to the answer, or None if it holds no token.

    A role or an empty text is no token; what is reasoned or asked of a tool is, but
    it is no part of the answer.
    """
    if not isinstance(choice, dict):
        return None
    if isinstance(choice.get("text"), str) and choice["text"]:
        return str(choice["text"])
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return None
    if any(delta.get(name) for name in _DELTA_TEXTS) or delta.get("tool_calls"):
        return str(delta.get("content") or "")
    return None


def _count(answer: _Answer, name: str) -> int | None:
    """Return a number of tokens if the endpoint has counted any."""
    value = answer.usage.get(name)
    return value if isinstance(value, int) and value > 0 else None


def _shown(text: bytes) -> str:
    """Return the beginning of what an endpoint said, on one line."""
    words = " ".join(text.decode("utf-8", "replace").split())
    return words[:_SHOWN_CHARACTERS] or "(nothing)"
