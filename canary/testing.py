"""Stand-ins for tests, ours and yours, at the seams: a clock and a variant.

    >>> from canary.testing import ScriptedVariant
    >>> slow = ScriptedVariant(service_s=lambda request: 0.2)

Nothing else needs one: plans, journals and judges are plain values and files.
"""

from collections.abc import Callable, Sequence
from typing import Any

from canary.decision import Decision, Look
from canary.evidence.observation import Observation, Status
from canary.policy.model import Policy
from canary.traffic.request import Request
from canary.variants.base import Generation


class FakeClock:
    """A clock that stands still until it is told to move, or until somebody sleeps."""

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s

    def sleep(self, seconds: float) -> None:
        """Let the time pass at once."""
        self.now_s += seconds


class ScriptedVariant:
    """A variant that takes the time, and gives the answer, that a test says.

    Args:
        service_s: How long each request takes; the clock, if given, moves by it.
        right: Whether the answer to a request of kind ``quality`` is its target.
        fails: Raises RuntimeError for the requests for which this is true.
        clock: Moved by the service time, so that a run's own time passes.
    """

    def __init__(
        self,
        *,
        service_s: Callable[[Request], float] = lambda _: 0.1,
        right: Callable[[Request], bool] = lambda _: True,
        fails: Callable[[Request], bool] = lambda _: False,
        clock: FakeClock | None = None,
    ) -> None:
        self._service_s = service_s
        self._right = right
        self._fails = fails
        self._clock = clock

    def generate(self, request: Request) -> Generation:
        """Answer as scripted."""
        took_s = self._service_s(request)
        if self._clock is not None:
            self._clock.sleep(took_s)
        if self._fails(request):
            raise RuntimeError(f"scripted failure of {request.request_id}")
        answer = None
        if request.kind == "quality":
            answer = request.target[0] if self._right(request) else "(wrong)"
        tokens = request.blocks.length_tokens if request.blocks else 100
        return Generation(
            prompt_tokens=tokens,
            output_tokens=max(1, request.max_output_tokens),
            first_token_s=took_s / 2,
            end_s=took_s,
            answer=answer,
            kernels=("scripted",),
            density=1.0,
        )

    def describe(self) -> dict[str, str]:
        """Return that this is no model."""
        return {"device": "none", "model": "scripted"}


class Quiet:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.done = 0
        self.looks: list[tuple[str, Look]] = []
        self.revivals: list[tuple[str, str]] = []
        self.lags_s: list[float] = []
        self.heartbeats = 0
        self.reasons: list[str] = []
        self.pauses: list[str] = []
        self.reason: str | None = None

    def answered(
        self,
        *,
        done: int,
        planned: int | None,
        rows: Sequence[Observation],
        lag_s: float,
    ) -> None:
        """Keep the number of requests answered, and how late the last one was."""
        del planned, rows
        self.done = done
        self.lags_s.append(lag_s)

    def looked(
        self, policy: Policy, found: Look, describe: Callable[[], Decision]
    ) -> None:
        """Keep the look."""
        del describe
        self.looks.append((policy.name, found))

    def revived(self, arm: str, cause: str) -> None:
        """Keep which arm came back and why."""
        self.revivals.append((arm, cause))

    def waiting(self, why: str | None = None) -> None:
        """Count the heartbeats, and keep why nothing may be sent."""
        self.heartbeats += 1
        if why is not None and why not in self.reasons:
            self.reasons.append(why)

    def paused(self, why: str) -> None:
        """Keep why, for each second of it."""
        self.pauses.append(why)

    def ended(self, reason: str) -> None:
        """Keep the reason."""
        self.reason = reason


def observe(
    *,
    arm: str,
    arrived_s: Sequence[float],
    **columns: Sequence[Any] | Any,  # noqa: ANN401 - whatever Observation takes
) -> list[Observation]:
    """Return a row for each arrival: ids ``r0``, ``r1``, ..., status ok, 100 tokens.

    Args:
        arm: The arm's name.
        arrived_s: Intended arrivals.
        columns: Other columns: a value for all rows, or a list with one for each.
    """
    rows = []
    for index, arrival in enumerate(arrived_s):
        given = {
            name: value[index] if isinstance(value, list) else value
            for name, value in columns.items()
        }
        plain: dict[str, Any] = {
            "request_id": f"r{index}",
            "status": Status.OK,
            "prompt_tokens": 100,
        }
        rows.append(Observation(arm=arm, arrived_s=arrival, **(plain | given)))
    return rows
