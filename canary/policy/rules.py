"""The decision section of a policy: how sure, how often one looks, when it ends."""

import math
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    StrictInt,
    model_serializer,
)

from canary.policy.units import (
    BASE_BLOCK_S,
    Block,
    DurationS,
    PositiveDurationS,
    Share,
    share_text,
)
from canary.policy.value import Value

LEAST_BLOCKS = 12
"""A run holds at least so many blocks of the length that its policy states."""

_LONGEST_BY_REQUEST_S = 3600.0
_PLENTY_OF_BLOCKS = 2048


def _risk(value: float) -> float:
    if not 0 < value <= 0.5:
        raise ValueError(
            f"expected a chance above 0% and up to 50%, got '{share_text(value)}'; "
            "write for example 5%"
        )
    return value


Risk = Annotated[Share, AfterValidator(_risk)]


class DecisionRules(Value):
    """How sure one must be, when one looks, and when it ends."""

    mode: Literal["sequential", "fixed"] = "sequential"
    """When the evidence is weighed: `sequential` looks again and again and ends as soon
    as it is decided; `fixed` looks once, at the end, for a test run in CI."""

    alpha: Risk = 0.05
    """Greatest chance to promote although one limit is broken."""

    harm_alpha: Risk = 0.05
    """Greatest chance to roll back although all limits hold."""

    min_duration_s: DurationS = Field(default=24 * 3600.0, alias="min_duration")
    """No promotion before this much wall time; at least one daily cycle is wise."""

    max_duration_s: PositiveDurationS = Field(default=7 * 86400.0, alias="max_duration")
    """The deadline, in wall time."""

    min_pairs: StrictInt = Field(default=1000, ge=1, examples=[1000])
    """No promotion before both arms have answered this many requests."""

    look_every_s: PositiveDurationS = Field(default=3600.0, alias="look_every")
    """How often the evidence is weighed; looking often costs no certainty. Not with
    `mode: fixed`."""

    block: Block = "auto"
    """What limits on traffic count as independent: `request` takes single requests for
    it; a duration, a whole multiple of 10s, takes blocks of time of this length. `auto`
    takes requests in runs of up to one hour (`max_duration`), and in longer ones blocks
    whose length it sets from the first twentieth of `min_duration`."""

    inference: Literal["population", "set"] = "population"
    """What accuracy speaks about: all questions like those of the validation sets
    (`population`), or only these very ones (`set`), exactly once all are answered."""

    at_deadline: Literal["rollback", "hold"] = "rollback"
    """What to do when the deadline comes before a verdict."""

    @model_serializer(mode="wrap")
    def _written(
        self, handler: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        """Leave out of what is written as a policy what a policy may not write."""
        values: dict[str, Any] = handler(self)
        if self.mode == "fixed" and info.mode_is_json():
            values.pop("look_every" if info.by_alias else "look_every_s", None)
        return values

    @property
    def by_request(self) -> bool:
        """Whether limits on traffic count requests as independent, not blocks."""
        if self.block == "auto":
            return self.max_duration_s <= _LONGEST_BY_REQUEST_S
        return self.block == "request"

    @property
    def least_block_s(self) -> float:
        """How long a block of time is as stated, or at the least where `auto` sets it.

        Not so short that `min_duration` would hold more blocks than any promotion
        needs: a p99 takes 726, a margin of 1 point 449. Shorter blocks would only hide
        weak dependence in their noise.
        """
        if isinstance(self.block, float):
            return self.block
        spare = self.min_duration_s / BASE_BLOCK_S / _PLENTY_OF_BLOCKS
        return BASE_BLOCK_S * 2.0 ** max(math.floor(math.log2(max(spare, 1.0))), 0)

    @property
    def calibration_s(self) -> float:
        """The stretch that sets the length of blocks, and counts for no limit."""
        if self.block == "auto" and not self.by_request:
            return self.min_duration_s / 20
        return 0.0
