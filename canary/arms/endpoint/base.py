"""An endpoint, and what comes back of a request that was offered to some of them."""

from dataclasses import dataclass

from canary.arms.base import Completion
from canary.arms.endpoint.address import Endpoint

__all__ = ["Delivery", "Endpoint", "Sent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What one arm made of a request that was offered, and how punctually it got it.

    `due_s` is when this arm was to get it, in seconds from zero: at its arrival or, for
    a later turn, not before the arm's end of the turn before and the think time.
    `queue_s` is how much later it was sent, and `send_lag_s` the part of that in which
    the arm had room: the sender's own delay. A request is sent when it is written to an
    open connection or, where none stands ready, when opening one begins, so that an
    endpoint that is slow to accept is a slow endpoint. One that waited its whole
    timeout in the queue is never sent; then both count up to its being given up, the
    lag from when that was due.
    """

    due_s: float
    send_lag_s: float
    queue_s: float
    completion: Completion


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """All that came of one offered request: an answer of each of its arms, or shed."""

    index: int
    shed: bool
    answers: dict[str, Sent]
