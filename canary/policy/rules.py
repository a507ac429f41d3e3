"""The decision section of a policy: how sure, how often one looks, when it ends."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictInt

from canary.policy.units import (
    DURATION_PATTERN,
    DurationS,
    PositiveDurationS,
    Share,
    share_text,
)
from canary.policy.value import Value


def _risk(value: float) -> float:
    if not 0 < value <= 0.5:
        raise ValueError(
            f"expected a chance above 0% and up to 50%, got '{share_text(value)}'; "
            "write for example 5%"
        )
    return value


Risk = Annotated[Share, AfterValidator(_risk)]


def _block(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(DURATION_PATTERN, value):
        raise ValueError("blocks of time are not in this version; write request")
    return value


class DecisionRules(Value):
    """How sure one must be, when one looks, and when it ends."""

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
    """How often the evidence is weighed; looking often costs no certainty."""

    block: Annotated[Literal["auto", "request"], BeforeValidator(_block)] = "auto"
    """What counts as independent: `request` assumes it of single requests; `auto`
    does so for runs of up to one hour."""

    at_deadline: Literal["rollback", "hold"] = "rollback"
    """What to do when the deadline comes before a verdict."""
