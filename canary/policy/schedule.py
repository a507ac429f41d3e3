"""The sections of a policy about when a run may send, and whom its verdict is told."""

import re
from datetime import datetime
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StrictStr,
    StringConstraints,
    WithJsonSchema,
)

from canary.decision import Verdict
from canary.policy.units import shown
from canary.policy.value import Value
from canary.policy.windows import WINDOW_PATTERN, Window, window

_Text = Annotated[StrictStr, StringConstraints(min_length=1)]

_START_PATTERN = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2})?"
    r"(Z|[+-][0-9]{2}:[0-9]{2})$"
)
_URL_PATTERN = "^https?://[^ ]+$"


def _only(value: object) -> object:
    window(value)
    return value


def _start(value: object) -> object:
    try:
        if isinstance(value, str) and re.fullmatch(_START_PATTERN, value):
            datetime.fromisoformat(value)
            return value
    except ValueError as error:
        raise ValueError(f"{shown(value)} is no time: {error}; correct it") from error
    raise ValueError(
        f"expected a time with its distance from UTC, got {shown(value)}; "
        "write for example 2026-12-01T08:00:00+01:00"
    )


class Schedule(Value):
    """When a run begins, and at which hours it sends."""

    only: (
        Annotated[
            str,
            BeforeValidator(_only),
            WithJsonSchema({"type": "string", "pattern": WINDOW_PATTERN}),
        ]
        | None
    ) = Field(default=None, examples=["Mon-Fri 08:00-20:00 Europe/Berlin"])
    """The hours of the week at which requests are sent, with their time zone. Outside
    of them the run waits with its arms loaded: recorded traffic goes on where it
    stopped, live traffic is skipped and counted, and `max_duration` and the budget,
    which are about wall time, run on."""

    start: (
        Annotated[
            str,
            BeforeValidator(_start),
            WithJsonSchema({"type": "string", "pattern": _START_PATTERN}),
        ]
        | None
    ) = Field(default=None, examples=["2026-12-01T08:00:00+01:00"])
    """Wait until then before anything is started."""

    @property
    def window(self) -> Window | None:
        """The hours at which it sends; None if it always may."""
        return None if self.only is None else window(self.only)

    @property
    def start_unix_s(self) -> float | None:
        """When it begins, in seconds since the epoch; None if it doesn't wait."""
        if self.start is None:
            return None
        return datetime.fromisoformat(self.start).timestamp()


def _webhook(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(_URL_PATTERN, value):
        raise ValueError(
            f"expected the address of a webhook, got {shown(value)}; "
            "write for example https://deploy.example.org/canary"
        )
    try:
        parts = urlsplit(value)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        named = False
    if not named:
        raise ValueError("this address names no server; correct it")
    if parts.username or parts.password:
        raise ValueError(
            "a password in a policy is no secret; put a token into the environment "
            "and name its variable with token_env"
        )
    return value


def _command(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise ValueError("names no program; write for example [./act.sh, --now]")
    return value


class Hook(Value):
    """What is called with the decision document: a webhook, a command or both."""

    webhook: (
        Annotated[
            str,
            BeforeValidator(_webhook),
            WithJsonSchema({"type": "string", "pattern": _URL_PATTERN}),
        ]
        | None
    ) = Field(default=None, examples=["https://deploy.example.org/canary"])
    """An address that the document is posted to, as JSON."""

    token_env: _Text | None = Field(default=None, examples=["DEPLOY_TOKEN"])
    """The environment variable that holds the webhook's bearer token, if it wants
    one."""

    command: (
        Annotated[
            tuple[_Text, ...],
            AfterValidator(_command),
            Field(json_schema_extra={"minItems": 1}),
        ]
        | None
    ) = Field(default=None, examples=["[./act.sh, --now]"])
    """A program and its arguments; it gets the document on its standard input."""


class Hooks(Value):
    """What is called when a policy has its verdict, by verdict."""

    promote: Hook | None = Field(
        default=None, examples=["{webhook: https://deploy.example.org/canary}"]
    )
    """When every limit is shown to hold, at once."""

    rollback: Hook | None = Field(default=None, examples=["{command: [./back.sh]}"])
    """When a limit is shown to be broken, at once."""

    invalid: Hook | None = Field(default=None, examples=["{command: [./mail.sh]}"])
    """When the run has ended and its evidence can't be trusted."""

    inconclusive: Hook | None = Field(default=None, examples=["{command: [./mail.sh]}"])
    """When the run has ended and nothing was decided."""

    def of(self, verdict: Verdict) -> Hook | None:
        """Return what is called with a verdict."""
        found: Hook | None = getattr(self, verdict.value, None)
        return found
