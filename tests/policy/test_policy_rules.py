"""What the decision section says about units."""

import pytest

from canary.policy.rules import DecisionRules


def rules(**written: object) -> DecisionRules:
    return DecisionRules.model_validate(written)


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
