"""What became of a copy, in the words of the ``canary-outcome`` header and /metrics."""

from enum import StrEnum


class Reason(StrEnum):
    """Why a copy was not recorded."""

    SAMPLING = "sampling"
    KILL_SWITCH = "kill-switch"
    SELFTEST = "selftest"
    UNAUTHORIZED = "unauthorized"
    NOT_A_PROMPT = "not-a-prompt"
    BAD_JSON = "bad-json"
    BAD_ENCODING = "bad-encoding"
    TOO_LARGE = "too-large"
    SLOW = "slow"
    DISCONNECT = "disconnect"
    QUEUE_REQUESTS = "queue-requests"
    QUEUE_TOKENS = "queue-tokens"
    REDACTION = "redaction"
    DISK = "disk"
    STOPPED = "stopped"
    INTERNAL = "internal"


LOSSES = frozenset(
    {
        Reason.TOO_LARGE,
        Reason.SLOW,
        Reason.DISCONNECT,
        Reason.QUEUE_REQUESTS,
        Reason.QUEUE_TOKENS,
        Reason.REDACTION,
        Reason.DISK,
        Reason.INTERNAL,
    }
)
"""Reasons that hit prompts by their length or by the load: they bend the sample."""


class DroppedError(Exception):
    """A copy that isn't recorded, and why; never leaves this package, holds no text."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason
