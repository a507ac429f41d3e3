"""The seam between an arm and what it runs: one request in, one generation out."""

from dataclasses import dataclass
from typing import Protocol

from canary.traffic.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What a variant produced for one request, timed from the call by its own clock.

    `first_token_s` and `end_s` count from the start of the call. `answer` is the
    generated text (None for requests of kind ``latency``, which nobody reads).
    `kernels` names each kernel that ran, once, in order of first use, as
    ``blocked[sliding_window(window=256)]``; `density` is the mean over layers of the
    visible share of causal pairs in prefill, `density_min` and `density_max` the least
    and most of any head; `compiles` is how many forms of kernels were compiled
    meanwhile, which a request should never wait for; `device_peak_bytes` is the most
    memory that was allocated on the GPU meanwhile, None on a CPU.
    """

    prompt_tokens: int
    output_tokens: int
    first_token_s: float
    end_s: float
    answer: str | None
    kernels: tuple[str, ...]
    density: float | None
    density_min: float | None = None
    density_max: float | None = None
    compiles: int | None = None
    device_peak_bytes: int | None = None


class Variant(Protocol):
    """A model with an attention pattern and weights, loaded and ready to answer."""

    def generate(self, request: Request) -> Generation:
        """Answer one request greedily; raise what the model raises, unchanged."""
        ...

    def describe(self) -> dict[str, str]:
        """Return what this really is: device, dtype, torch, threads, weights hash."""
        ...
