"""Simulated runs: what they are drawn from, what harm does to them, how they end."""

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from canary.errors import ObservationError, UsageError
from canary.evidence.observation import to_table
from canary.evidence.reading import read_observations
from canary.planning.assumed import Assumptions
from canary.planning.harm import Harm, parse_harm
from canary.planning.pilot import Pilot, notes_on
from canary.planning.simulate import MOST_REQUESTS, Share, simulate
from canary.testing import observe

ROOT = Path(__file__).parents[2]
ACCURACY = {"metric": "accuracy", "margin": "10%"}
MEDIAN = {"metric": "latency", "quantile": "p50", "max_ratio": 1.25}
ERRORS = {"metric": "errors", "margin": "5%"}


@pytest.fixture(scope="module")
def demo():
    return read_observations(ROOT / "reports/samples/demo")


def columns(table, *names):
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))


def of_arm(table, arm):
    return table.filter(pc.equal(table["arm"], arm))


def pilot_of(policy, **both):
    """A pilot with a request a second; its columns are those of both arms."""
    count = max(len(value) for value in both.values() if isinstance(value, list))
    arrived_s = [float(second) for second in range(count)]
    rows = observe(arm="baseline", arrived_s=arrived_s, **both)
    return Pilot.of(
        policy, to_table(rows + observe(arm="candidate", arrived_s=arrived_s, **both))
    )


def test_a_drawn_request_is_one_of_the_pilot_for_both_arms(
    shipped, demo, schedule_with
):
    """Lengths and times come in pairs that the pilot has; arrivals are the plan's."""
    policy = shipped("latency-only")
    pilot = Pilot.of(policy, demo)
    schedule = schedule_with(700, every_s=0.5)

    drawn = pilot.table(schedule, np.random.default_rng(1))

    pairs = {}
    for source, found in ((pilot.arms, "known"), (None, "drawn")):
        arms = [
            source[arm] if source else of_arm(drawn, arm)
            for arm in ("baseline", "candidate")
        ]
        cells = [columns(arm, "prompt_tokens", "latency_s", "kernel") for arm in arms]
        pairs[found] = set(zip(*cells, strict=True))
    assert pairs["drawn"] <= pairs["known"]
    assert len(pairs["drawn"]) > 100
    arrived_s = of_arm(drawn, "candidate")["arrived_s"].to_pylist()
    assert arrived_s == schedule.arrived_s.tolist()


def test_stretches_of_time_stay_together(policy_of, schedule_with):
    """Each drawn request is followed by its neighbour, but for where a stretch ends."""
    lengths = list(range(1, 201))
    pilot = pilot_of(policy_of(MEDIAN), kind="latency", prompt_tokens=lengths)

    drawn = pilot.table(schedule_with(400), np.random.default_rng(2))

    steps = np.diff(of_arm(drawn, "baseline")["prompt_tokens"].to_numpy())
    assert not pilot.sessions
    assert np.mean(steps == 1) == pytest.approx(0.9, abs=0.02)


def test_sessions_are_drawn_whole(policy_of, schedule_with):
    """A drawn session has all of its requests, in order, and a name of its own."""
    lengths = [10 * session + turn for session in range(40) for turn in range(4)]
    names = [f"user-{length // 10}" for length in lengths]
    pilot = pilot_of(
        policy_of(MEDIAN), kind="latency", prompt_tokens=lengths, session_id=names
    )

    drawn = of_arm(
        pilot.table(schedule_with(200), np.random.default_rng(3)), "baseline"
    )

    assert pilot.sessions
    lengths = np.array(drawn["prompt_tokens"].to_pylist()).reshape(50, 4)
    assert (lengths % 10 == [0, 1, 2, 3]).all()
    assert (lengths // 10 == lengths[:, :1] // 10).all()
    assert len(set(drawn["session_id"].to_pylist())) == 50


def test_groups_are_drawn_whole_and_within_their_task(policy_of, schedule_with):
    """Scores of a group come from one group of the pilot, never of another task."""
    scores, tasks, groups = [], [], []
    for group in range(30):
        for item in range(3):
            scores.append(float(group % 2 == 0 or item == 0))
            tasks.append("code")
            groups.append(f"file-{group}")
    pilot = pilot_of(
        policy_of(ACCURACY),
        kind="quality",
        score=[*scores, 0.5, 0.5],
        task=[*tasks, "chat", "chat"],
        group=[*groups, "a", "a"],
    )
    schedule = schedule_with(0, groups=40, items=3)

    drawn = of_arm(pilot.table(schedule, np.random.default_rng(4)), "candidate")

    found = {}
    for group, score in columns(drawn, "group", "score"):
        found.setdefault(group, []).append(score)
    assert len(found) == 40
    assert {tuple(scores) for scores in found.values()} == {(1, 1, 1), (1, 0, 0)}


def test_what_the_pilot_has_nothing_of_is_left_out(policy_of, schedule_with):
    """A pilot without questions draws traffic only; one with neither draws nothing."""
    policy = policy_of(MEDIAN)
    traffic_only = pilot_of(policy, kind="latency", latency_s=[1.0] * 50)
    schedule = schedule_with(100, groups=20)

    drawn = traffic_only.draws_from(schedule)

    assert len(drawn) == 100
    assert not drawn.quality.any()
    with pytest.raises(ObservationError, match="nothing of what the policy sends"):
        traffic_only.draws_from(schedule.only(schedule.quality))


def test_last_attempts_count_and_warm_or_void_rows_do_not(policy_of):
    """As the judge reads them."""
    rows = [
        row
        for arm in ("baseline", "candidate")
        for row in (
            *observe(arm=arm, arrived_s=[0.0], latency_s=9.0, attempt=1),
            *observe(arm=arm, arrived_s=[0.0], latency_s=1.0, attempt=2),
            *observe(arm=arm, arrived_s=[1.0], request_id="w", warm=True),
            *observe(arm=arm, arrived_s=[2.0], request_id="v", status="void"),
        )
    ]

    pilot = Pilot.of(policy_of(ERRORS), to_table(rows))

    for arm in ("baseline", "candidate"):
        assert columns(pilot.arms[arm], "request_id", "latency_s") == [("r0", 1.0)]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({}, None),
        ({"source": {"sha256": "ab"}, "wall_s": 11.0, "elapsed_s": 10.0}, None),
        ({"source": {"sha256": "cd"}}, "another trace"),
        ({"wall_s": 20.0, "elapsed_s": 10.0}, "took 20 s for 10 s of schedule"),
    ],
)
def test_what_makes_a_pilot_less_certain(record, said):
    """Another trace, or arms that couldn't keep up."""
    notes = notes_on(record, "ab")

    assert len(notes) == (said is not None)
    assert all(said in note for note in notes)


@pytest.mark.parametrize(
    "text",
    [
        *("", "speed=2", "latency", "latency=fast", "latency=-1", "latency=0"),
        *("latency=nan", "latency=1.2=3", "latency=1001"),
        *("accuracy=3", "accuracy=-101", "errors=-1", "errors=1e3"),
    ],
)
def test_nonsense_is_no_harm(text):
    """One sentence says what to write."""
    with pytest.raises(UsageError, match="write for example") as error:
        parse_harm(text)
    assert f"--harm {text}:" in str(error.value)


def test_harm_is_done_to_the_candidate_only(policy_of, schedule_with):
    """Times by their factor, answers and errors by their points, baseline untouched."""
    policy = policy_of(ACCURACY, MEDIAN, ERRORS)
    schedule = schedule_with(2000, groups=4000)
    rng = np.random.default_rng(5)
    before = Assumptions().sample(policy, schedule, rng)

    after = before
    for text in ("latency=1.5", "memory=2", "accuracy=-10", "errors=4"):
        after = parse_harm(text).done_to(after, rng)

    assert of_arm(before, "baseline") == of_arm(after, "baseline")
    then, now = of_arm(before, "candidate"), of_arm(after, "candidate")
    assert pc.sum(now["latency_s"]).as_py() == pytest.approx(
        1.5 * pc.sum(then["latency_s"]).as_py()
    )
    assert now["peak_memory_bytes"][0].as_py() == 2 * 2**30
    lost = pc.mean(then["score"]).as_py() - pc.mean(now["score"]).as_py()
    assert lost == pytest.approx(0.1, abs=0.015)
    failed = pc.mean(pc.equal(now["status"], "error")).as_py()
    assert failed == pytest.approx(0.04, abs=0.01)


def test_assumed_arms_are_as_said(policy_of, schedule_with):
    """Right on 90% of groups, differing on 2% in both directions, times that share the
    request, slower than the limit on 5%, busy half of the time."""
    gates = ({"metric": "latency", "over": "2s", "margin": "2%"}, MEDIAN, ACCURACY)
    service = {"metric": "service", "quantile": "p50", "max_ratio": 1.2}
    schedule = schedule_with(20_000, every_s=0.2, groups=5000, items=2)

    drawn = Assumptions().sample(
        policy_of(*gates, service), schedule, np.random.default_rng(6)
    )

    a, b = (of_arm(drawn, arm) for arm in ("baseline", "candidate"))
    score_a, score_b = (
        np.array(arm["score"].drop_null().to_pylist()) for arm in (a, b)
    )
    assert score_a.mean() == pytest.approx(0.9, abs=0.01)
    assert np.mean(score_a > score_b) == pytest.approx(0.01, abs=0.004)
    assert np.mean(score_a < score_b) == pytest.approx(0.01, abs=0.004)
    time_a, time_b = (
        np.array(arm["latency_s"].drop_null().to_pylist()) for arm in (a, b)
    )
    assert np.mean(time_a > 2.0) == pytest.approx(0.05, abs=0.005)
    assert np.std(np.log(time_a / time_b)) == pytest.approx(0.05 * 2**0.5, rel=0.05)
    busy_s = pc.sum(a["service_s"]).as_py()
    assert busy_s / schedule.span_s == pytest.approx(0.5 * 2 / 3, rel=0.05)


def test_equal_arms_are_promoted_when_a_plan_says(policy_of, schedule_with):
    """The median simulated run ends near the time that the assumed shares give."""
    policy = policy_of(MEDIAN, ACCURACY)
    schedule = schedule_with(200, groups=200)
    needs = Assumptions().needs(policy)

    def sample(schedule, rng):
        return Assumptions().sample(policy, schedule, rng)

    found = simulate(policy, schedule, sample, (), runs=10, seed=0, ends="end")

    assert found.harm is None
    assert found.promoted.value >= 0.9
    assert found.rolled_back.value <= 0.1
    slowest = max(need.units for need in needs.values())
    assert 0.7 * slowest < found.median_s < 1.5 * slowest + 10


def test_harm_is_found_and_equal_seeds_are_equal_runs(policy_of, schedule_with):
    """Ten points or half the time lost is rolled back, the same way each time."""
    policy = policy_of(MEDIAN, ACCURACY)
    schedule = schedule_with(400, groups=400)
    harms = (
        Harm(metric="accuracy", value=-40.0),
        Harm(metric="latency", value=1.5),
    )

    def played(seed):
        return simulate(
            policy,
            schedule,
            lambda schedule, rng: Assumptions().sample(policy, schedule, rng),
            harms,
            runs=5,
            seed=seed,
            ends="end",
        )

    first = played(0)

    assert first.harm == "accuracy -40 points and latency 1.5x"
    assert first.rolled_back == Share.of(5, 5)
    assert first == played(0)
    assert first.median_s < 200


def test_a_long_run_is_cut_and_says_so(policy_of, schedule_with):
    """The minimums would keep a cut run from any promotion, so they are left aside."""
    policy = policy_of(ERRORS, min_duration="1h", min_pairs=9000, max_duration="3h")
    schedule = schedule_with(MOST_REQUESTS + 1, every_s=0.5)

    found = simulate(
        policy,
        schedule,
        lambda schedule, rng: Assumptions().sample(policy, schedule, rng),
        (),
        runs=1,
        seed=0,
        ends="end",
    )

    assert found.cut
    assert found.requests == MOST_REQUESTS
    assert found.promoted.value == 1.0


def test_a_share_of_few_runs_has_an_error():
    """Also where all runs ended alike."""
    all_alike, half = Share.of(20, 20), Share.of(50, 100)

    assert all_alike.value == 1.0
    assert all_alike.error == pytest.approx(0.056, abs=0.001)
    assert half.error == pytest.approx(0.05, abs=0.002)
