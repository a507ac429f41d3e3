"""When a policy will be decided: needs against what a schedule brings, by hand."""

import math

import pytest

from canary.planning.assumed import Assumptions
from canary.planning.clock import Ends, deadline_of, lasting
from canary.planning.needs import Expected, at_least
from canary.planning.outlook import Expect, plan_policy
from canary.planning.schedule import units_of

ERRORS = {"metric": "errors", "margin": "5%"}
ACCURACY = {"metric": "accuracy", "task": "code", "margin": "5%"}
MEDIAN = {"metric": "latency", "quantile": "p50", "max_ratio": 1.25}


def outlook(policy, schedule, **needs):
    """The plan with these needs, or the assumed ones; a list is one that is broken."""
    found = Assumptions().needs(policy)
    for name, units in needs.items():
        broken = isinstance(units, list)
        found[name] = Expected(
            units=units[0] if broken else units,
            holds=not broken,
            reason=None if units else "nobody has measured it",
        )
    return plan_policy(policy, schedule, found, piloted=True, basis=(), notes=())


def test_the_slowest_gate_sets_the_time(policy_of, schedule_with):
    """A request a second: each gate is shown at the first look after its last unit."""
    policy = policy_of(ERRORS, ACCURACY)
    schedule = schedule_with(1000, groups=100)

    plan = outlook(policy, schedule, errors=95, **{"accuracy code": 90})

    errors, accuracy = plan.gates
    assert errors.unit == "pair"
    assert errors.at_least == 88
    assert errors.available == 1100
    assert errors.per_hour == pytest.approx(1100 / 999 * 3600)
    assert errors.expected_s == 90.0  # 95 of 1.1 a second
    assert accuracy.unit == "validation group"
    assert accuracy.expected_s == 900.0  # the 90th of 100 groups comes after 898 s
    assert plan.expect is Expect.PROMOTE
    assert plan.expected_s == 900.0
    assert plan.at_least_s == accuracy.at_least_s == 880.0
    assert plan.reasons == ()
    assert plan.deadline.what is Ends.TRACE


def test_a_group_counts_when_its_last_item_has_come(policy_of, schedule_with):
    """Ten groups of three questions: the first is complete with the third question."""
    policy = policy_of(ACCURACY)
    schedule = schedule_with(0, groups=10, items=3)

    times_s = units_of(policy.gates[0], policy, schedule).times_s

    assert len(times_s) == 10
    assert times_s[0] == pytest.approx(schedule.arrived_s[2])
    assert times_s[-1] == schedule.arrived_s[-1]


def test_a_regime_gets_its_own_traffic_only(policy_of, schedule_with):
    """Every fourth prompt is long: a limit on long prompts gets a quarter."""
    policy = policy_of({**MEDIAN, "regime": ">=8k"}, MEDIAN)
    schedule = schedule_with(1000, tokens=[100, 100, 100, 9000])

    plan = outlook(policy, schedule)

    long, every = plan.gates
    assert long.available == 250
    assert every.available == 1000
    assert long.at_least == every.at_least
    assert long.at_least_s > 3.5 * every.at_least_s
    assert [(one.regime, one.requests) for one in plan.regimes] == [
        ("<8k", 750),
        (">=8k", 250),
    ]


def test_minimums_are_waited_for(policy_of, schedule_with):
    """No promotion before min_duration, nor before min_pairs."""
    schedule = schedule_with(1000)

    patient = outlook(policy_of(ERRORS, min_duration="10m"), schedule)
    thorough = outlook(policy_of(ERRORS, min_pairs=500), schedule)

    assert patient.expected_s == patient.at_least_s == 600.0
    assert thorough.expected_s == thorough.at_least_s == 500.0


@pytest.mark.parametrize(
    ("rules", "traffic", "said"),
    [
        (
            {"min_duration": "24h", "max_duration": "7d", "block": "request"},
            301,
            "min_duration is 1d, but the trace ends after 5 min",
        ),
        (
            {"min_pairs": 1000},
            41,
            "min_pairs is 1,000, but only 41 requests come before the trace ends",
        ),
        (
            {"max_duration": "1m"},
            301,
            "at least 88 pairs, but only 61 come before max_duration is over after",
        ),
        (
            {"budget": {"gpu_hours": 0.01}},
            301,
            "only 37 come before the budget is spent, after 36 s on one GPU",
        ),
        ({}, 41, "needs at least 88 pairs, but only 41 come before the trace ends"),
    ],
)
def test_what_can_not_be_decided_is_said(
    policy_of, schedule_with, rules, traffic, said
):
    """No promotion is possible, and the reason names what ends too early."""
    policy, schedule = policy_of(ERRORS, **rules), schedule_with(traffic)

    plan = outlook(policy, schedule)

    assert plan.expect is Expect.INCONCLUSIVE
    assert plan.at_least_s is None
    assert plan.deadline == deadline_of(policy, schedule)[0]
    assert said in plan.reasons[0]


def test_what_takes_longer_than_the_trace_is_extrapolated(policy_of, schedule_with):
    """Twice the requests of the trace take twice its time, at the same rate."""
    plan = outlook(policy_of(ERRORS), schedule_with(100, every_s=2.0), errors=200)

    assert plan.expect is Expect.INCONCLUSIVE
    assert plan.at_least_s is not None
    assert plan.gates[0].expected_s == pytest.approx(396.0)
    [reason] = plan.reasons
    assert reason.startswith("errors: needs about 200 pairs, but only 100 come before")


def test_a_validation_set_can_be_too_small(policy_of, schedule_with):
    """The traffic can't bring more groups than there are."""
    plan = outlook(policy_of(ACCURACY), schedule_with(1000, groups=40))

    [reason] = plan.reasons
    assert "at least 88 validation groups, but the validation sets hold only" in reason


def test_a_pilot_that_knows_little_does_not_beat_the_bound(policy_of, schedule_with):
    """No number of pairs below the least one shows a quantile; a margin that wins make
    easier has a lower least number."""
    plan = outlook(
        policy_of(MEDIAN, ERRORS),
        schedule_with(1000),
        errors=40,
        **{"latency p50": 20},
    )

    median, errors = plan.gates
    assert median.expected == median.at_least == 103
    assert errors.expected == errors.at_least == 40


def test_what_no_request_is_about_is_not_decided(policy_of, schedule_with):
    """A limit on a regime without traffic has nothing to wait for."""
    policy = policy_of({**MEDIAN, "regime": ">=8k"})

    [reason] = outlook(policy, schedule_with(1000)).reasons

    assert reason.startswith("latency p50 >=8k: no pair that it counts comes before")


def test_one_broken_limit_is_a_rollback_without_waiting(policy_of, schedule_with):
    """It comes before min_duration, when the first broken limit is shown."""
    policy = policy_of(ERRORS, ACCURACY, min_duration="10m")
    schedule = schedule_with(1000, groups=100)

    plan = outlook(policy, schedule, errors=[20])

    assert plan.expect is Expect.ROLLBACK
    assert plan.expected_s == 20.0
    assert "errors: these numbers point to a broken limit" in plan.reasons


def test_what_nobody_knows_is_unknown(policy_of, schedule_with):
    """A gate without evidence is neither expected to hold nor called impossible."""
    plan = outlook(policy_of(ERRORS, MEDIAN), schedule_with(1000), errors=None)

    assert plan.expect is Expect.UNKNOWN
    assert plan.expected_s is None
    assert plan.reasons == ("errors: nobody has measured it",)


def test_long_runs_count_blocks_of_time(policy_of, schedule_with):
    """A request a second for two days: after a twentieth of the day that the policy
    asks for at least, blocks of forty seconds count: a day has no use for shorter."""
    rules = {"min_duration": "24h", "max_duration": "7d", "look_every": "1h"}
    policy = policy_of({**ERRORS, "margin": "1%"}, **rules)
    schedule = schedule_with(2 * 86_400)

    units = units_of(policy.gates[0], policy, schedule)
    plan = outlook(policy, schedule)
    [gate] = plan.gates

    assert units.name == gate.unit == "block"
    assert units.requests_each == 40.0
    assert units.times_s[0] == 24 * 3600 / 20 + 40 + policy.traffic.timeout_s
    assert units.times_s[-1] == schedule.arrived_s[-1]
    assert gate.at_least == gate.expected == 449
    assert gate.at_least_s == math.ceil((4320 + 40 * 449 + 600) / 3600) * 3600
    assert plan.expected_s == 24 * 3600
    assert any("blocks of time" in note for note in plan.notes)


def test_thin_traffic_fills_few_blocks(policy_of, schedule_with):
    """A request a minute fills a block each; an even sample of few pairs in each needs
    as many blocks as it needs pairs."""
    rules = {"max_duration": "7d", "look_every": "1h"}
    policy = policy_of({**ERRORS, "margin": "1%"}, **rules)
    schedule = schedule_with(3 * 1440, every_s=60.0)

    units = units_of(policy.gates[0], policy, schedule)
    [gate] = outlook(policy, schedule, errors=1500).gates

    assert units.requests_each == 1.0
    assert len(units.times_s) == 3 * 1440 - 64  # these set how long blocks are
    assert gate.expected == 1500
    assert gate.at_least == at_least(policy.gates[0], policy, 1.0) == 449


def test_a_stated_block_is_used(policy_of, schedule_with):
    """Blocks of five minutes, after 64 of ten seconds that set what is looked at."""
    policy = policy_of(ERRORS)
    rules = policy.decision.model_copy(update={"block": 300.0})
    policy = policy.model_copy(update={"decision": rules})

    units = units_of(policy.gates[0], policy, schedule_with(640 + 3600))

    assert len(units.times_s) == 12
    assert units.times_s[0] == 640 + 300 + policy.traffic.timeout_s
    assert units.requests_each == 300.0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(59.0, "59 s"), (86_400.0, "24 h"), (172_800.0, "2 days"), (1e6, "11.6 days")],
)
def test_time_in_words(seconds, words):
    """Days begin where hours are no longer how one would say it."""
    assert lasting(seconds) == words
