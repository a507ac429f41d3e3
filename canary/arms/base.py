"""An arm: one variant that runs somewhere and answers one request at a time.

All arms of a run, once each and comparable, are a replica set.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from canary.arms.causes import Cause
from canary.errors import ArmError
from canary.evidence.observation import Status
from canary.traffic.request import Request
from canary.variants.base import Generation


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What an arm made of one request, measured where the variant runs.

    `generation` is None unless `status` is ok; `error` is set unless it is.
    `service_s` is the time from the call to its end, also of a failure.
    `peak_memory_bytes` is the most GPU memory that was allocated for this request or,
    on a CPU, the peak of the arm's own process so far; None where arms share a process
    and nobody can tell whose memory it is. `epoch` counts how often
    the arm had been started anew.
    """

    status: Status
    service_s: float
    device: str
    generation: Generation | None = None
    error: str | None = None
    peak_memory_bytes: int | None = None
    epoch: int = 0


class ArmDiedError(ArmError):
    """An arm's process is gone, or hangs. `completion` is the failure that this makes
    of the request that it was answering, should that be the arm's own doing."""

    def __init__(self, message: str, completion: Completion, cause: Cause) -> None:
        super().__init__(message)
        self.completion = completion
        self.cause = cause


class ArmsLostError(ArmError):
    """What all arms run on is gone, by no doing of theirs: the request that they were
    answering is void. `arm` is the one that found out."""

    def __init__(self, message: str, *, arm: str, cause: Cause) -> None:
        super().__init__(message)
        self.arm = arm
        self.cause = cause


class Arm(Protocol):
    """One running variant. Arms that share a device are called one at a time."""

    name: str

    @property
    def epoch(self) -> int:
        """How often it has been started anew."""
        ...

    def serve(self, request: Request) -> Completion:
        """Answer `request`; what the variant raises comes back as status error.

        Raises:
            ArmDiedError: The process that answers is gone, or hasn't answered in time
                (the completion's status is then timeout); `restart` brings it back.
            ArmsLostError: What the arms run on is gone; `restart` of any of them
                brings all back.
        """
        ...

    def check(self) -> None:
        """See, between requests, whether the arm may stay where it is; cheap enough to
        be asked before each.

        Raises:
            ArmsLostError: What the arms run on will be taken away soon; `restart` of
                any of them brings all up elsewhere.
        """
        ...

    def restart(self) -> None:
        """Load the variant anew, as it was at the beginning; after `ArmsLostError`
        those of all arms that share its fate.

        Raises:
            ArmError: It can't be loaded any more.
            ArmsLostError: What the arms run on is gone; call it again.
        """
        ...

    def describe(self) -> dict[str, str]:
        """Return device, dtype, threads and versions as the arm itself sees them."""
        ...

    def close(self) -> None:
        """Give the arm's memory and process back."""
        ...


class ReplicaSet(Protocol):
    """All arms once, where they are comparable: on one node, or in one process."""

    @property
    def arms(self) -> Mapping[str, Arm]:
        """The arms by name."""
        ...

    def lane(self, arm: str) -> int:
        """Which device an arm is on: arms of one lane take turns, those of others
        answer side by side."""
        ...

    @property
    def arrangements(self) -> int:
        """In how many ways the arms can be on their devices; 1 if they share one."""
        ...

    def arrange(self, number: int) -> None:
        """Move all arms to where they are in an arrangement, counted from 0 (how they
        were started), and load them anew.

        Raises:
            ArmError: One can't be loaded any more.
            ArmsLostError: What they run on is gone; `restart` of any of them brings
                all back, where they are to be.
        """
        ...


@dataclass(frozen=True, slots=True)
class OneDevice:
    """A replica set whose arms share a device, and so take turns and stay."""

    arms: Mapping[str, Arm]

    def lane(self, arm: str) -> int:
        """Return the one that there is."""
        del arm
        return 0

    @property
    def arrangements(self) -> int:
        """One: nothing can change places."""
        return 1

    def arrange(self, number: int) -> None:
        """Stay."""
        del number
