"""A week of dependent traffic, looked at every hour: errors stay below alpha.

The streams stand right on a limit, so that a promotion is as false as a rollback.
Requests depend on each other as they do in production: arms drift, sessions go well or
badly as a whole. A judge that takes requests as independent fails here: with the
median at its limit it promoted 7 and rolled back 17 of 30 weeks in which arms drift,
and rolled back 9 of 30 in which sessions share their luck. The long version is
`tests/benchmarks/bench_verdicts.py`.
"""

import math
from collections import Counter

import pytest
from streams import WEEK_S, Truth, make_stream, scaled, to_table

from canary.decision import Verdict
from canary.judge import Ended, judge

BLOCK = "auto"
RUNS = 8
PER_HOUR = 143  # 24,000 a week: some hundred blocks of a hundred latencies each
SHARED = 0.5  # of the noise; the more is an arm's own, the more its drift matters
GATES = (
    {"metric": "latency", "quantile": "p50", "max_ratio": 1.05},
    {"metric": "latency", "over": "3s", "margin": "5%"},
    {"metric": "accuracy", "margin": "5%"},
)
MEDIAN_AT_LIMIT = Truth(body=1.05, middle=0.9, tail=0.9)
ACCURACY_AT_LIMIT = scaled(0.85, loss=0.05)

pytestmark = pytest.mark.slow


@pytest.fixture
def verdicts(policy_of):
    """What is decided in weeks of one kind, with 168 looks; counted by verdict."""
    # Half of the looks may promote. A twentieth of the time until then has to do for
    # choosing blocks, which is why this isn't a day.
    policy = policy_of(
        *GATES,
        min_duration="84h",
        max_duration="168h",
        look_every="1h",
        block=BLOCK,
    )
    ended = Ended(reason="end of the week", cutoff_s=WEEK_S)

    def count(kind, truth, runs=RUNS):
        found = Counter()
        for seed in range(runs):
            stream = make_stream(
                seed, kind=kind, truth=truth, per_hour=PER_HOUR, shared=SHARED
            )
            decision = judge(policy, to_table(stream), run="week", ended=ended)
            assert decision.verdict.final or len(decision.looks) == 168
            found[decision.verdict] += 1
        return found

    return count


@pytest.mark.parametrize(
    ("kind", "truth"),
    [
        ("independent", MEDIAN_AT_LIMIT),
        ("independent", ACCURACY_AT_LIMIT),
        ("ar", MEDIAN_AT_LIMIT),
        ("sessions", MEDIAN_AT_LIMIT),
        ("sessions", ACCURACY_AT_LIMIT),
    ],
    ids=[
        "independent-median",
        "independent-accuracy",
        "drift-median",
        "sessions-median",
        "sessions-accuracy",
    ],
)
def test_what_is_at_a_limit_is_rarely_decided(verdicts, kind, truth):
    """Neither false promotes nor false rollbacks, but for alpha and 3 errors of it."""
    most = RUNS * (0.05 + 3 * math.sqrt(0.05 * 0.95 / RUNS))

    found = verdicts(kind, truth)

    assert found[Verdict.PROMOTE] <= most
    assert found[Verdict.ROLLBACK] <= most


@pytest.mark.parametrize("kind", ["independent", "ar", "sessions"])
@pytest.mark.parametrize(
    ("truth", "verdict"),
    [
        (scaled(0.85), Verdict.PROMOTE),
        (scaled(1.25), Verdict.ROLLBACK),
        (scaled(0.85, loss=0.15), Verdict.ROLLBACK),
    ],
    ids=["faster", "slower", "wrong"],
)
def test_what_is_clear_is_decided(verdicts, kind, truth, verdict):
    """The same weeks are long enough to tell good from bad: being careful costs that
    much and no more."""
    assert verdicts(kind, truth, runs=3) == {verdict: 3}
