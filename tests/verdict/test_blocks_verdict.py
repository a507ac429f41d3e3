"""Long runs: blocks of time, sessions, calibration, weights, regimes, late answers."""

import math

import numpy as np
import pyarrow as pa
import pytest

from canary.assessment import Assessment
from canary.decision import GateStatus, Verdict
from canary.evidence.pairs import pair_up
from canary.gates import Evidence
from canary.gates.rows import fair_share
from canary.judge import Ended, judge

ENDED = Ended(reason="end of traffic")
LATENCY = {"metric": "latency", "quantile": "p50", "max_ratio": 1.1}
ERRORS = {"metric": "errors", "margin": "5%"}
COUNT = 6000


@pytest.fixture
def long_policy(policy_of):
    """A policy of two days that may promote after two hours."""

    def build(*gates, **rules):
        plain = {"min_duration": "2h", "max_duration": "2d", "look_every": "30m"}
        return policy_of(*gates, block="auto", **{**plain, **rules})

    return build


def drifting(rng, count, correlation):
    """Standard normal values that depend on their neighbours."""
    steps = rng.normal(0, math.sqrt(1 - correlation**2), count)
    values = np.empty(count)
    state = rng.normal()
    for index, step in enumerate(steps):
        state = correlation * state + step
        values[index] = state
    return values


def timed(table_of, a, b, **columns):
    return table_of(
        {"latency_s": list(a)},
        {"latency_s": list(b)},
        **{"kind": "latency", "every_s": 5.0, **columns},
    )


def judged(policy, table):
    return judge(policy, table, run="r", ended=ENDED)


def test_independent_requests_need_no_long_blocks(long_policy, table_of):
    """Ten seconds do, and equal arms are promoted."""
    rng = np.random.default_rng(0)
    a, b = rng.lognormal(0, 0.3, (2, COUNT))

    decision = judged(long_policy(LATENCY, ERRORS), timed(table_of, a, b))

    assert decision.verdict is Verdict.PROMOTE
    assert [10.0, 10.0] == [gate.block_s for gate in decision.gates]


def test_dependence_makes_blocks_longer(long_policy, table_of):
    """What binds neighbours for minutes is met by blocks of minutes, gate by gate."""
    rng = np.random.default_rng(1)
    slow = np.exp(0.5 * drifting(rng, COUNT, 0.97))
    a, b = slow * rng.lognormal(0, 0.05, (2, COUNT))

    latency, errors = judged(
        long_policy(LATENCY, ERRORS, min_pairs=10**6), timed(table_of, a, b)
    ).gates

    assert latency.block_s >= 80
    assert errors.block_s == 10
    assert latency.effective_pairs <= latency.requests


def test_dependence_that_grows_lengthens_later_blocks_only(long_policy, table_of):
    """Independent at first, bound together later: the units double from then on."""
    rng = np.random.default_rng(2)
    quiet = rng.normal(size=COUNT // 3)
    later = drifting(rng, COUNT - len(quiet), 0.995)
    a = np.exp(0.5 * np.concatenate([quiet, later]))
    b = a * rng.lognormal(0, 0.05, COUNT)

    table = timed(table_of, a, b)
    early = judged(long_policy(LATENCY, max_duration="2h", min_pairs=10**6), table)
    late = judged(long_policy(LATENCY, min_pairs=10**6), table)

    assert early.gates[0].block_s < late.gates[0].block_s
    assert late.gates[0].units > early.gates[0].units


def test_the_first_stretch_counts_for_no_limit(long_policy, table_of):
    """Failures while the length of blocks is set are in no gate's numbers."""
    failed = ["error" if n < 100 else "ok" for n in range(COUNT)]
    table = table_of({}, {"status": failed}, kind="latency", every_s=5.0)

    [gate] = judged(long_policy(ERRORS, min_pairs=10**6), table).gates

    assert COUNT - 2 * 64 == gate.requests
    assert gate.estimate == 0


def test_a_stated_length_is_taken(policy_of, table_of):
    """`block: 5m` is not put in question."""
    rng = np.random.default_rng(3)
    a, b = rng.lognormal(0, 0.3, (2, COUNT))
    rules = {"max_duration": "2d", "look_every": "30m", "min_pairs": 10**6}
    policy = policy_of(LATENCY, ERRORS, block="5m", **rules)

    decision = judged(policy, timed(table_of, a, b))

    assert [300.0, 300.0] == [gate.block_s for gate in decision.gates]
    assert 95 <= decision.gates[0].units <= 101


def test_a_session_counts_in_the_block_of_its_first_request(long_policy, table_of):
    """Twenty requests that are one conversation are one unit, however long it takes."""
    rng = np.random.default_rng(4)
    a, b = rng.lognormal(0, 0.3, (2, COUNT))
    sessions = [f"s{n // 20}" for n in range(COUNT)]
    policy = long_policy(ERRORS, min_pairs=10**6)

    alone = judged(policy, timed(table_of, a, b)).gates[0]
    together = judged(policy, timed(table_of, a, b, session_id=sessions)).gates[0]

    assert alone.units == COUNT // 2 - 64
    assert together.units == COUNT // 20 - 64
    assert together.requests == 20 * together.units


def test_open_blocks_wait_while_more_may_come(long_policy, table_of):
    """A block counts once its timeout has passed, or once nothing more will come."""
    rng = np.random.default_rng(5)
    a, b = rng.lognormal(0, 0.3, (2, 2000))
    policy = long_policy(ERRORS, min_pairs=10**6)
    table = timed(table_of, a, b)

    growing = judge(policy, table, run="r").gates[0]
    over = judged(policy, table).gates[0]

    waiting_s = policy.traffic.timeout_s
    assert over.requests - growing.requests == pytest.approx(waiting_s / 5, abs=3)


def test_harm_that_begins_late_is_rolled_back(long_policy, table_of):
    """Five good hours don't hide that every tenth request fails from then on."""
    status = ["error" if n > 3600 and n % 10 == 0 else "ok" for n in range(COUNT)]
    table = table_of({}, {"status": status}, kind="latency", every_s=5.0)

    decision = judged(long_policy(ERRORS, min_pairs=10**6), table)

    assert decision.verdict is Verdict.ROLLBACK
    assert 5 * 3600 < decision.elapsed_s < 8 * 3600


def test_what_is_in_flight_holds_back_what_came_after(policy_of, table_of):
    """Taking what is finished would prefer what is quick: evidence ends before it."""
    table = table_of({}, {}, kind="latency", latency_s=[1.0] * 300)
    waiting = table.filter(
        [
            not (name == "r200" and arm == "candidate")
            for name, arm in zip(
                table["request_id"].to_pylist(), table["arm"].to_pylist(), strict=True
            )
        ]
    )
    policy = policy_of(ERRORS, min_pairs=10**6)

    growing = judge(policy, waiting, run="r")
    over = judged(policy, waiting)

    assert growing.pairs == 200
    assert growing.validity.missing_candidate == 0
    assert over.pairs == 299
    assert over.validity.missing_candidate == 1


def test_unequal_weights_leave_a_fair_share(policy_of, table_of):
    """Long prompts were all sampled, short ones every fourth: what a gate on all
    traffic counts has them as the traffic has, and the estimate says so."""
    count = 4000
    long_prompt = np.arange(count) % 2 == 0
    status = np.where(np.arange(count) % 4 == 0, "error", "ok")  # half of the long
    table = table_of(
        {},
        {"status": list(status)},
        kind="latency",
        prompt_tokens=[9000 if one else 100 for one in long_prompt],
        weight=[1.0 if one else 4.0 for one in long_prompt],
        every_s=0.5,
    )
    gates = [
        {"metric": "errors", "margin": "30%"},
        {"metric": "errors", "margin": "80%", "regime": ">=8k"},
    ]

    everything, own = judged(policy_of(*gates, min_pairs=10**6), table).gates

    # 2,000 of weight 4 stay, and of 2,000 of weight 1 about every fourth.
    assert everything.requests == pytest.approx(2500, abs=80)
    assert own.requests == 2000
    assert everything.estimate == pytest.approx(0.1, abs=0.03)
    assert everything.weighted_estimate == pytest.approx(0.1, abs=0.001)
    assert own.weighted_estimate is None


def test_a_regime_may_go_before_the_others(policy_of, table_of):
    """Short prompts are shown to be fine; long ones haven't come often enough."""
    count = 1200
    tokens = [9000 if n % 60 == 0 else 100 for n in range(count)]
    gates = [
        {"metric": "errors", "margin": "5%", "regime": "<8k"},
        {"metric": "errors", "margin": "5%", "regime": ">=8k"},
    ]
    same = table_of({}, {}, kind="latency", prompt_tokens=tokens, status=["ok"] * count)
    bad = ["error" if t > 8192 else "ok" for t in tokens]
    worse = table_of({}, {"status": bad}, kind="latency", prompt_tokens=tokens)

    undecided = judged(policy_of(*gates), same)
    broken = judged(policy_of(*gates), worse)

    assert undecided.verdict is Verdict.INCONCLUSIVE
    short, long_ = undecided.routing
    assert (short.serve, long_.serve) == (undecided.candidate, undecided.baseline)
    assert "not shown here: errors >=8k" in long_.why
    assert broken.verdict is Verdict.ROLLBACK
    assert {broken.baseline} == {route.serve for route in broken.routing}
    assert "shown to be broken here: errors >=8k" in broken.routing[1].why


def test_a_control_in_blocks_tells_device_from_variant(long_policy, table_of):
    """What slows the candidate and the baseline's copy alike is the device."""
    rng = np.random.default_rng(6)
    shared = np.exp(0.3 * drifting(rng, 3000, 0.9))
    noise = rng.lognormal(0, 0.05, (3, 3000))
    policy = long_policy(LATENCY).model_copy(update={"aa_control": 1.0})

    def verdict_of(copy):
        table = timed(table_of, shared * noise[0], shared * noise[1] * 1.5)
        times = shared * noise[2] * copy
        third = timed(table_of, shared, times)
        third = third.filter([arm == "candidate" for arm in third["arm"].to_pylist()])
        index = third.column_names.index("arm")
        third = third.set_column(index, "arm", [["baseline_aa"] * third.num_rows])
        return judged(policy, pa.concat_tables([table, third.cast(table.schema)]))

    assert verdict_of(1.5).verdict is Verdict.INVALID
    sound = verdict_of(1.0)
    assert sound.verdict is Verdict.ROLLBACK
    assert sound.gates[0].status is GateStatus.BROKEN


def with_copy(table_of, a, b, copy):
    """A table of both arms and of the baseline's copy."""
    third = timed(table_of, a, copy)
    third = third.filter([arm == "candidate" for arm in third["arm"].to_pylist()])
    index = third.column_names.index("arm")
    third = third.set_column(index, "arm", [["baseline_aa"] * third.num_rows])
    table = timed(table_of, a, b)
    return pa.concat_tables([table, third.cast(table.schema)])


def test_equal_copies_that_drift_are_rarely_called_different(
    long_policy, table_of, assessment_of
):
    """What binds neighbours for a minute is no difference of the device, ever."""
    runs, found = 20, 0
    policy = long_policy(LATENCY).model_copy(update={"aa_control": 1.0})
    for seed in range(runs):
        rng = np.random.default_rng(100 + seed)
        shared = np.exp(0.3 * drifting(rng, 1800, 0.9))
        # Each copy drifts by itself too, for a minute: short against what sets blocks.
        own = [np.exp(0.2 * drifting(rng, 1800, 0.9)) for _ in range(3)]
        table = with_copy(table_of, *(shared * times for times in own))
        assessment = assessment_of(policy, table)
        looks = [assessment.look(at_s) for at_s in np.arange(1, 6) * 1800.0]
        found += any(look.control.differs for look in looks)

    assert found / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_slices_folded_between_looks_give_the_looks_of_the_whole(long_policy, table_of):
    """A runner folds what has arrived and looks, again and again, as judge does."""
    rng = np.random.default_rng(7)
    slow = np.exp(0.5 * drifting(rng, COUNT, 0.97))
    a, b = slow * rng.lognormal(0, 0.05, (2, COUNT))
    policy = long_policy(LATENCY, ERRORS, min_pairs=10**6)
    table = timed(table_of, a, b, session_id=[f"s{n // 7}" for n in range(COUNT)])
    expected = judged(policy, table).looks[:-1]
    arrived = table["arrived_s"].to_numpy()
    evidence = Evidence(policy)
    assessment = Assessment(policy, evidence)

    found, since = [], 0.0
    for look in expected:
        now = table.filter(pa.array((arrived >= since) & (arrived < look.elapsed_s)))
        evidence.fold(pair_up(now, baseline="baseline", candidate="candidate"))
        found.append(assessment.look(look.elapsed_s).look)
        since = look.elapsed_s

    assert [look.pairs for look in expected] == [look.pairs for look in found]
    for one, other in zip(expected, found, strict=True):
        assert one.log_e_hold == pytest.approx(other.log_e_hold, abs=1e-9)
        assert one.log_e_broken == pytest.approx(other.log_e_broken, abs=1e-9)


def without_answer(table, request):
    """The table without the candidate's row of one request."""
    kept = [
        not (name == request and arm == "candidate")
        for name, arm in zip(
            table["request_id"].to_pylist(), table["arm"].to_pylist(), strict=True
        )
    ]
    return table.filter(kept)


def test_what_is_in_flight_holds_back_blocks_too(long_policy, table_of):
    """Ten requests before the last, one isn't answered: evidence ends before it."""
    policy = long_policy(ERRORS, min_pairs=10**6)
    waiting = without_answer(
        table_of({}, {}, latency_s=[1.0] * 2000, kind="latency", every_s=5.0), "r1990"
    )

    assert judge(policy, waiting, run="r").pairs == 1990
    assert judged(policy, waiting).pairs == 1999


def test_what_is_never_answered_is_a_loss_once_its_timeout_has_passed(
    policy_of, table_of
):
    """While more may come, an old request without an answer holds nothing back."""
    policy = policy_of(ERRORS, min_pairs=10**6, max_duration="1h")
    count = int(policy.traffic.timeout_s) + 200
    table = table_of({}, {}, latency_s=[1.0] * count, kind="latency")

    decision = judge(policy, without_answer(table, "r100"), run="r")

    assert decision.pairs == count - 1
    assert decision.validity.missing_candidate == 1


def weighed(policy_of, table_of):
    """Sessions of four requests with weight 1 or 4, and what judging them gives."""
    rng = np.random.default_rng(8)
    count = 4000
    heavy = np.repeat(rng.random(count // 4) < 0.5, 4)
    bad = rng.random((2, count)) < np.where(heavy, 0.05, 0.3)
    weight = np.where(heavy, 4.0, 1.0)
    status = [["error" if one else "ok" for one in arm] for arm in bad]
    table = table_of(
        {"status": status[0]},
        {"status": status[1]},
        kind="latency",
        every_s=0.5,
        session_id=[f"s{n // 4}" for n in range(count)],
        weight=list(weight),
    )
    policy = policy_of({"metric": "errors", "margin": "30%"}, min_pairs=10**6)
    return judged(policy, table).gates[0], heavy, weight, bad


def test_a_session_stays_or_goes_as_a_whole(table_of):
    """Of a session with one weight the fair share has all requests or none."""
    table = table_of(
        {},
        {},
        kind="latency",
        latency_s=[1.0] * 800,
        session_id=[f"s{n // 4}" for n in range(800)],
        weight=[1.0] * 800,
    )
    pairs = pair_up(table, baseline="baseline", candidate="candidate")

    kept = fair_share(pairs, 4.0).reshape(-1, 4).sum(axis=1)

    assert {0, 4} == set(kept.tolist())


def test_a_gate_on_all_traffic_counts_a_fair_share(policy_of, table_of):
    """All of the heaviest requests, and of those with a quarter of it every fourth."""
    gate, heavy, _, _ = weighed(policy_of, table_of)
    light = gate.requests - int(heavy.sum())

    assert light / (~heavy).sum() == pytest.approx(0.25, abs=0.06)


def test_the_weighted_estimate_counts_each_request_by_its_weight(policy_of, table_of):
    """The difference of the arms' shares, each request as often as it stands for."""
    gate, _, weight, bad = weighed(policy_of, table_of)
    baseline, candidate = (bad * weight).sum(axis=1) / weight.sum()

    assert gate.weighted_estimate == pytest.approx(candidate - baseline, abs=1e-9)


def test_a_regime_may_go_before_the_others_in_blocks(long_policy, table_of):
    """What blocks of time show of short prompts doesn't wait for the long ones."""
    tokens = [9000 if n % 300 == 0 else 100 for n in range(COUNT)]
    gates = [
        {"metric": "errors", "margin": "5%", "regime": "<8k"},
        {"metric": "errors", "margin": "5%", "regime": ">=8k"},
    ]
    table = table_of(
        {}, {}, kind="latency", prompt_tokens=tokens, status=["ok"] * COUNT, every_s=5.0
    )

    decision = judged(long_policy(*gates), table)

    assert decision.verdict is Verdict.INCONCLUSIVE
    assert [decision.candidate, decision.baseline] == [
        route.serve for route in decision.routing
    ]


def test_harm_in_one_regime_keeps_all_on_the_baseline(long_policy, table_of):
    """After a rollback nothing goes to the candidate, whatever else was shown."""
    tokens = [9000 if n % 4 == 0 else 100 for n in range(COUNT)]
    bad = ["error" if t > 8192 and n > 3000 else "ok" for n, t in enumerate(tokens)]
    gates = [
        {"metric": "errors", "margin": "5%", "regime": "<8k"},
        {"metric": "errors", "margin": "5%", "regime": ">=8k"},
    ]
    table = table_of(
        {}, {"status": bad}, kind="latency", prompt_tokens=tokens, every_s=5.0
    )

    decision = judged(long_policy(*gates, min_pairs=10**6), table)

    assert decision.verdict is Verdict.ROLLBACK
    assert {decision.baseline} == {route.serve for route in decision.routing}
