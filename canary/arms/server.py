"""What runs inside every arm, in this process or in an actor: the same code."""

import resource
import sys

from canary.arms.base import Completion
from canary.clock import Clock
from canary.evidence.observation import Status
from canary.traffic.request import Request
from canary.variants.base import Generation, Variant


class ArmServer:
    """Serves one variant and measures it on the spot.

    Args:
        variant: What answers.
        clock: Monotonic seconds, the clock that the variant measures with.
        own_process: Whether the process's memory is this arm's alone.
        timeout_s: How long a request may take before it has failed.
        epoch: How often the arm had been started anew, which every answer carries.
        card: Model and UUID of the GPU that the arm was given; rows tell by it which
            of several alike answered.
    """

    def __init__(
        self,
        variant: Variant,
        *,
        clock: Clock,
        own_process: bool,
        timeout_s: float,
        epoch: int = 0,
        card: str | None = None,
    ) -> None:
        self._variant = variant
        self._clock = clock
        self._own_process = own_process
        self._timeout_s = timeout_s
        self._epoch = epoch
        self._facts = variant.describe()
        if card is not None and self._facts["device"].startswith("cuda"):
            self._facts |= {"device": f"cuda ({card})"}

    def serve(self, request: Request) -> Completion:
        """Answer one request; an exception of the variant is evidence about it."""
        started_s = self._clock()
        try:
            generation = self._variant.generate(request)
        except Exception as error:  # noqa: BLE001 - whatever a model raises is its failure
            took_s = self._clock() - started_s
            said = f"{type(error).__name__}: {error}"
            return self._completion(Status.ERROR, took_s, error=said)
        if generation.end_s > self._timeout_s:
            said = late(generation.end_s, self._timeout_s)
            return self._completion(Status.TIMEOUT, generation.end_s, error=said)
        return self._completion(Status.OK, generation.end_s, generation=generation)

    def _completion(
        self,
        status: Status,
        service_s: float,
        *,
        generation: Generation | None = None,
        error: str | None = None,
    ) -> Completion:
        return Completion(
            status=status,
            service_s=service_s,
            device=self._facts["device"],
            generation=generation,
            error=error,
            peak_memory_bytes=process_peak_bytes() if self._own_process else None,
            epoch=self._epoch,
        )

    def describe(self) -> dict[str, str]:
        """Return what the variant says of itself."""
        return self._facts


def late(took_s: float, timeout_s: float) -> str:
    """Return what is recorded of a request that took too long."""
    return f"timeout: took {took_s:.3g} s, over {timeout_s:g} s"


def process_peak_bytes() -> int:
    """Return the peak resident memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
