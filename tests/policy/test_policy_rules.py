"""What the decision section says about units."""

import pytest

from canary.policy.rules import DecisionRules


def rules(**written: object) -> DecisionRules:
    return DecisionRules.model_validate(written)


@pytest.mark.parametrize(
    ("written", "least_block_s"),
    [
        ({}, 40.0),
        ({"min_duration": "7d"}, 160.0),
        ({"min_duration": "11h"}, 10.0),
        ({"min_duration": "12h"}, 20.0),
        ({"min_duration": "0s"}, 10.0),
        ({"block": "5m"}, 300.0),
    ],
)
def test_blocks_are_no_shorter_than_a_promotion_needs(
    written: dict[str, str], least_block_s: float
) -> None:
    """`min_duration` holds 2,048 of them or more, where `auto` sets the length."""
    assert least_block_s == rules(**written).least_block_s


@pytest.mark.parametrize(
    ("written", "block", "by_request", "calibration_s"),
    [
        ({}, "auto", False, 4320.0),
        ({"max_duration": "1h"}, "auto", True, 0.0),
        ({"max_duration": "3600.001s"}, "auto", False, 4320.0),
        ({"min_duration": "7m"}, "auto", False, 21.0),
        ({"min_duration": "0s"}, "auto", False, 0.0),
        ({"block": "request"}, "request", True, 0.0),
        ({"block": "10s", "max_duration": "30m"}, 10.0, False, 0.0),
        ({"block": "1.5h"}, 5400.0, False, 0.0),
    ],
)
def test_a_policy_says_what_limits_on_traffic_count(
    written: dict[str, str],
    block: str | float,
    by_request: bool,
    calibration_s: float,
) -> None:
    """Requests or blocks; auto takes requests for up to an hour, else calibrates."""
    found = rules(**written)

    assert block == found.block
    assert by_request == found.by_request
    assert calibration_s == found.calibration_s
