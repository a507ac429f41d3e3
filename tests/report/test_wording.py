from typing import Any

import pytest

from canary.decision import GateResult, GateStatus
from canary.wording import (
    because_promote,
    effect_in_words,
    limit_in_words,
    value_in_words,
)


def result(**changes: Any) -> GateResult:
    """A gate on agreement that holds, changed as the case needs it."""
    values: dict[str, Any] = {
        "name": "agreement",
        "metric": "agreement",
        "task": None,
        "regime": None,
        "quantile": None,
        "over_s": None,
        "effect": "difference",
        "unit": "share",
        "limit": 0.025,
        "at_least": False,
        "estimate": 0.004,
        "lower": 0.001,
        "upper": 0.019,
        "baseline": 0.0,
        "candidate": 0.004,
        "log_e_hold": 4.2,
        "log_e_broken": -2.0,
        "units": 620,
        "units_needed": 620,
        "status": GateStatus.HOLDS,
        "threshold_hold": 3.0,
    }
    return GateResult(**values | changes)


LENGTH = {
    "metric": "output_tokens",
    "quantile": 0.5,
    "effect": "ratio",
    "unit": "tokens",
    "limit": 1.2,
}
DIFFERENT = "answers that differ from the baseline's on at most"


@pytest.mark.parametrize(
    ("gate", "text"),
    [
        (result(), f"{DIFFERENT} 2.5% of the requests"),
        (
            result(limit=0.07, regime="8k-32k"),
            f"{DIFFERENT} 7% of the requests for 8k-32k tokens",
        ),
        (result(**LENGTH), "p50 answer length at most 1.2x the baseline's"),
        (
            result(**LENGTH, regime="<8k"),
            "p50 answer length for <8k tokens at most 1.2x the baseline's",
        ),
    ],
)
def test_a_limit_is_said_in_words(gate: GateResult, text: str) -> None:
    """What must be true reads as one says it, for every metric."""
    assert text == limit_in_words(gate)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "not known"),
        (1.0, "1 token"),
        (0.0, "0 tokens"),
        (1204.4, "1,204 tokens"),
    ],
)
def test_a_length_is_said_in_tokens(value: float | None, text: str) -> None:
    """A number of tokens is whole, and what wasn't measured isn't zero."""
    assert text == value_in_words(value, "tokens")


def test_a_promotion_says_what_no_limit_asked() -> None:
    """Agreement asks about answers as accuracy does; lengths and times don't."""
    caveat = "but no limit asks whether answers are still right"

    assert caveat not in because_promote((result(), result(**LENGTH)))[0]
    assert caveat in because_promote((result(**LENGTH),))[0]
    assert "+0.4 points" == effect_in_words(result().estimate, result())
