"""Recorded requests with their content: OpenAI logs, batch files, our own ingress.

============  ==================================================  ==================
format        fields (JSONL)                                      time
============  ==================================================  ==================
openai        ts, request (model, messages or prompt,             seconds or ISO
              max_tokens), response (usage), perhaps session_id   8601
openai-batch  custom_id, method, url, body                        none
ingress       schema canary.ingress/1, arrived_unix_s, kind,      seconds
              session, prompt_tokens, prompt_tokens_from,
              max_tokens, capture, weight, prompt or messages
============  ==================================================  ==================

Where no count of a prompt's tokens was recorded, its characters are counted and taken
for a fourth as many tokens; the row says that it is estimated.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from canary.traffic import rows
from canary.traffic.rows import LeftOutError, LineFormat, RawRow, RowError, RowParser, S

INGRESS_SCHEMA = "canary.ingress/1"
BATCH_FIELDS = ("custom_id", "method", "url", "body")

_STAMPS = ("ts", "timestamp", "created")
_TEXT_URLS = ("/chat/completions", "/completions")
_COUNTED = ("characters", "ids", "declared")
_CAPTURES = ("lengths", "redacted", "full")


class Prompt(NamedTuple):
    """What a request's body asks: text, messages, or token ids of which only the
    number is kept; `characters` is None where ids tell the length.
    """

    text: str | None = None
    messages: str | None = None
    characters: int | None = None
    ids: int | None = None


class OpenAiLog(LineFormat):
    """A request and perhaps its response, as logging proxies write them."""

    def start(self, head: Sequence[bytes]) -> RowParser:  # noqa: ARG002 - the base's
        """Any line will do: each is judged by itself."""
        return openai_row


class OpenAiBatch(LineFormat):
    """The requests of a batch file; nothing in it says when they came."""

    def start(self, head: Sequence[bytes]) -> RowParser:  # noqa: ARG002 - the base's
        """Any line will do: each is judged by itself."""
        return batch_row

    def warnings(self) -> tuple[str, ...]:
        """Say that there are no arrivals."""
        return ("a batch file has no arrival times: all its rows arrive at 0 s",)


class Ingress(LineFormat):
    """What `canary ingress` records."""

    def start(self, head: Sequence[bytes]) -> RowParser:  # noqa: ARG002 - the base's
        """Any line will do: each is judged by itself."""
        return ingress_row


def openai_stamp(row: Mapping[str, object]) -> str | None:
    """Return the name of the field that says when the request came."""
    return next((name for name in _STAMPS if row.get(name) is not None), None)


def openai_row(line: bytes) -> RawRow:
    """Read a logged request; `usage` of the response gives its lengths."""
    row = rows.json_object(line)
    request = _object("request", rows.field(row, "request"))
    name = openai_stamp(row)
    if name is None:
        raise RowError("ts is missing")
    ns = time_ns(name, row[name])
    prompt = _prompt(request)
    response = row.get("response")
    usage: Mapping[str, object] = {}
    if response is not None:
        response = _object("response", response)
        if response.get("error") is not None:
            raise LeftOutError("requests failed (response.error)")
        usage = _object("usage", response.get("usage") or {})
    counted = usage.get("prompt_tokens")
    output = usage.get("completion_tokens")
    if output == 0:
        raise LeftOutError("requests got no answer (completion_tokens 0)")
    return _raw(
        ns,
        prompt,
        request,
        session=_name("session_id", row.get("session_id")),
        counted=_tokens("prompt_tokens", counted),
        output=_tokens("completion_tokens", output),
    )


def batch_row(line: bytes) -> RawRow:
    """Read a request of a batch file."""
    row = rows.json_object(line)
    for name in BATCH_FIELDS:
        rows.field(row, name)
    url = row["url"]
    if not isinstance(url, str) or not url.endswith(_TEXT_URLS):
        shown = repr(url)[:60]
        raise RowError(f"url is {shown}, which is neither chat nor completions")
    body = _object("body", row["body"])
    return _raw(0, _prompt(body), body, session=None, counted=None, output=None)


def ingress_row(line: bytes) -> RawRow:
    """Read a line that the ingress wrote; also for a reader that tails its file.

    Raises:
        RowError: It is no such line.
    """
    row = rows.json_object(line)
    if row.get("schema") != INGRESS_SCHEMA:
        raise RowError(f"schema is not {INGRESS_SCHEMA}")
    stamp = rows.field(row, "arrived_unix_s")
    if isinstance(stamp, str):
        raise RowError("arrived_unix_s is not a number")
    ns = rows.number_ns("arrived_unix_s", stamp, S)
    counted = _tokens("prompt_tokens", rows.field(row, "prompt_tokens"))
    if counted is None:
        raise RowError("prompt_tokens is missing")
    source = _one_of("prompt_tokens_from", row, _COUNTED)
    captured = _one_of("capture", row, _CAPTURES) != "lengths"
    prompt = _prompt(row) if captured else Prompt()
    return RawRow(
        ns,
        counted,
        session=_name("session", row.get("session")),
        text=prompt.text,
        messages=prompt.messages,
        max_tokens=rows.token_limit("max_tokens", row.get("max_tokens")),
        weight=_weight(row.get("weight", 1.0)),
        estimated=source == "characters",
    )


def time_ns(name: str, value: object) -> int:
    """Return seconds since 1970, or an ISO 8601 time, in nanoseconds."""
    if isinstance(value, str) and not rows.is_number(value):
        return rows.stamp_ns(name, value)
    return rows.number_ns(name, value, S)


def _raw(
    ns: int,
    prompt: Prompt,
    request: Mapping[str, object],
    *,
    session: str | None,
    counted: int | None,
    output: int | None,
) -> RawRow:
    limit = request.get("max_completion_tokens", request.get("max_tokens"))
    length = prompt.ids if counted is None else counted
    return RawRow(
        ns,
        rows.estimated_tokens(prompt.characters or 0) if length is None else length,
        output,
        session=session,
        text=prompt.text,
        messages=prompt.messages,
        max_tokens=rows.token_limit("max_tokens", limit),
        estimated=length is None,
    )


def _prompt(body: Mapping[str, object]) -> Prompt:
    if body.get("messages") is not None:
        messages, characters = rows.messages_text("messages", body["messages"])
        return Prompt(messages=messages, characters=characters)
    prompt = rows.field(body, "prompt") if "prompt" in body else None
    if isinstance(prompt, list) and len(prompt) == 1 and not _is_id(prompt[0]):
        (prompt,) = prompt
    if isinstance(prompt, str):
        text = rows.storable("prompt", prompt)
        return Prompt(text=text, characters=len(text))
    if isinstance(prompt, list) and prompt and all(map(_is_id, prompt)):
        return Prompt(ids=rows.tokens("prompt", len(prompt)))
    if prompt is None:
        raise RowError("messages and prompt are missing")
    raise RowError("prompt is not one text")


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _object(name: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise RowError(f"{name} is not a JSON object")
    return value


def _tokens(name: str, value: object) -> int | None:
    return None if value is None else rows.tokens(name, rows.json_whole(name, value))


def _name(name: str, value: object) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RowError(f"{name} is not text")
    return rows.storable(name, str(value))


def _one_of(name: str, row: Mapping[str, object], allowed: tuple[str, ...]) -> str:
    value = rows.field(row, name)
    if not isinstance(value, str) or value not in allowed:
        raise RowError(f"{name} is none of {', '.join(allowed)}")
    return value


def _weight(value: object) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < float(value) < math.inf:  # type: ignore[arg-type]
        raise RowError("weight is not a number above 0")
    return float(value)  # type: ignore[arg-type]
