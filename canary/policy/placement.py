"""The section of a policy about the GPUs of its arms."""

import re
from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    StrictInt,
    WithJsonSchema,
)

from canary.policy.units import (
    BASE_BLOCK_S,
    DURATION_PATTERN,
    duration_text,
    positive_duration_s,
    shown,
)
from canary.policy.value import Value

_PERIODS = 8
"""How many times arms are placed anew within `min_duration`, unless a policy says."""

_GPU_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"


def _gpu(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(_GPU_PATTERN, value):
        raise ValueError(
            f"expected a model of GPU as Ray labels it, got {shown(value)}; "
            "write for example H200 or A100-80G"
        )
    return value


def _swaps(value: object) -> object:
    if value in ("auto", "off"):
        return value
    try:
        seconds = positive_duration_s(value)
    except ValueError as error:
        raise ValueError(f"{error}, or auto or off") from error
    if seconds < BASE_BLOCK_S:
        shortest = duration_text(BASE_BLOCK_S)
        raise ValueError(f"expected at least {shortest}, got {shown(value)}")
    return seconds


class Placement(Value):
    """Which GPUs the arms get on a Ray cluster."""

    gpu: (
        Annotated[
            str,
            BeforeValidator(_gpu),
            WithJsonSchema({"type": "string", "pattern": _GPU_PATTERN}),
        ]
        | None
    ) = Field(default=None, examples=["H200"])
    """The model of the GPUs, as Ray's label `ray.io/accelerator-type` names it. Arms
    are placed there only, and each makes sure that this is what it got."""

    sharing: Literal["auto", "exclusive", "interleaved"] = "auto"
    """`exclusive`: a whole GPU for each arm, which answer side by side. `interleaved`:
    one GPU for all, who take turns. `auto`: exclusive where a node has enough GPUs."""

    swap_every_s: Annotated[
        Literal["auto", "off"] | float,
        BeforeValidator(_swaps),
        PlainSerializer(
            lambda value: value if isinstance(value, str) else duration_text(value),
            when_used="json",
        ),
        WithJsonSchema(
            {
                "anyOf": [
                    {"enum": ["auto", "off"]},
                    {"type": "string", "pattern": DURATION_PATTERN},
                ]
            }
        ),
    ] = Field(default="auto", alias="swap_every", examples=["2h"])
    """How long, on average, arms with a GPU each stay before they change places, at
    times planned at random: two GPUs of one host are never equally fast. `auto` is an
    eighth of `min_duration`."""

    replicas: StrictInt = Field(default=1, ge=1, examples=[2])
    """How many sets of all arms share the traffic, by session, for throughput."""

    def swap_period_s(self, min_duration_s: float) -> float | None:
        """Return how long arms stay on average; None if they never change places."""
        if self.swap_every_s == "off":
            return None
        if isinstance(self.swap_every_s, float):
            return self.swap_every_s
        return max(min_duration_s / _PERIODS, BASE_BLOCK_S)
