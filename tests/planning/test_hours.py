"""Plans of runs that send at some hours only: times on the wall."""

import numpy as np
import pytest

from canary.planning.clock import Ends
from canary.planning.hours import ALWAYS, Hours
from canary.planning.needs import Expected
from canary.planning.outlook import Expect, plan_policy
from canary.policy.windows import window

HOUR_S, DAY_S, WEEK_S = 3600.0, 86400.0, 604800.0
FRIDAY_18_S = 1_796_403_600.0  # 4 December 2026 in Berlin
OFFICE = window("Mon-Fri 08:00-20:00 Europe/Berlin")


@pytest.mark.parametrize(
    ("traffic_s", "wall_s"),
    [
        (0, 0),
        (2 * HOUR_S, 2 * HOUR_S),
        (3 * HOUR_S, 63 * HOUR_S),  # the weekend
        (14 * HOUR_S, 74 * HOUR_S),
        (15 * HOUR_S, 87 * HOUR_S),  # and a night
        (60 * HOUR_S, WEEK_S),
    ],
)
def test_the_clock_goes_on_while_traffic_waits(traffic_s, wall_s):
    """From Friday evening: an hour more than the window leaves is there on Monday."""
    hours = Hours(OFFICE, FRIDAY_18_S)

    assert hours.wall_s(traffic_s) == wall_s
    assert hours.traffic_s(wall_s) == traffic_s


def test_a_run_may_begin_in_a_closed_hour():
    """Then even its first request comes later."""
    hours = Hours(OFFICE, FRIDAY_18_S + 3 * HOUR_S)

    assert 59 * HOUR_S + 60 == hours.wall_s(60.0)
    assert 0 == hours.traffic_s(59 * HOUR_S)
    assert not hours.is_open(0.0)


def test_years_take_no_longer_to_count_than_weeks():
    """Whole weeks are alike but for the changes of clocks."""
    hours = Hours(OFFICE, FRIDAY_18_S)

    for years in (1, 1000):
        weeks = 52 * years
        wall_s = hours.wall_s(weeks * 60 * HOUR_S)
        assert wall_s == pytest.approx(weeks * WEEK_S, abs=HOUR_S)
        assert hours.traffic_s(weeks * WEEK_S) == pytest.approx(
            weeks * 60 * HOUR_S, abs=HOUR_S
        )
    assert (5.0, 5.0) == (ALWAYS.wall_s(5.0), ALWAYS.traffic_s(5.0))


def planned(policy, schedule, hours):
    needs = {
        gate.name: Expected(units=200, holds=True, reason=None) for gate in policy.gates
    }
    return plan_policy(
        policy, schedule, needs, piloted=True, basis=(), notes=(), hours=hours
    )


def test_a_plan_counts_closed_hours(policy_of, schedule_with):
    """The same units come later on the wall, and fewer before max_duration, which runs
    on; what the run counts stays the same."""
    gate = {"metric": "errors", "margin": "5%"}
    limits = {"max_duration": "7d", "look_every": "10m", "block": "request"}
    policy = policy_of(gate, **limits)
    schedule = schedule_with(2400, every_s=HOUR_S / 20)  # 120 hours of traffic

    always = planned(policy, schedule, ALWAYS)
    office = planned(policy, schedule, Hours(OFFICE, FRIDAY_18_S))

    assert (Expect.PROMOTE, Expect.PROMOTE) == (always.expect, office.expect)
    assert always.expected_s is not None
    assert 2 * HOUR_S < always.expected_s < 12 * HOUR_S
    assert office.expected_s == pytest.approx(always.expected_s + 60 * HOUR_S)
    assert office.gates[0].expected == always.gates[0].expected
    assert Ends.TRACE == always.deadline.what
    assert (Ends.MAX_DURATION, WEEK_S) == (
        office.deadline.what,
        office.deadline.after_s,
    )
    assert 2400 == always.gates[0].available
    assert 1201 == office.gates[0].available  # of 60 hours, both ends included


def test_a_deadline_that_closed_hours_bring_is_said(policy_of, schedule_with):
    """Six hours of wall time from Friday evening are two of traffic."""
    gate = {"metric": "errors", "margin": "5%"}
    policy = policy_of(gate, max_duration="6h", block="request")
    schedule = schedule_with(2400, every_s=HOUR_S / 20)

    plan = planned(policy, schedule, Hours(OFFICE, FRIDAY_18_S))

    assert Expect.INCONCLUSIVE is plan.expect
    assert "only 41 come before max_duration is over after 6 h" in plan.reasons[0]
    assert np.isclose(6 * HOUR_S, plan.deadline.after_s)
