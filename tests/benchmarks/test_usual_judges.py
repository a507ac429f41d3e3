"""The judges that we compare with do what their docstrings say."""

import numpy as np
import pytest
from streams import HOUR_S, Stream, Truth, make_stream, scaled
from usual_judges import JUDGES, Limits, hourly_mann_whitney, repeated_t_test, threshold

LOOKS_S = [HOUR_S * (k + 1) for k in range(48)]
LIMITS = Limits(loss=0.03, min_duration_s=24 * HOUR_S)


def two_days(truth, seed=1):
    """Two days of ten requests a minute."""
    return make_stream(
        seed, kind="independent", truth=truth, per_hour=600, duration_s=48 * HOUR_S
    )


def by_hour(*ratios):
    """Fifty requests in each hour, all answered within a second times its ratio."""
    each = 50
    latency_s = np.tile(np.linspace(0.5, 1.0, each), len(ratios))
    count = len(latency_s)
    return Stream(
        arrived_s=np.arange(count) * HOUR_S / each,
        tokens=np.full(count, 100),
        quality=np.zeros(count, bool),
        session=np.full(count, -1),
        latency_s=np.stack((latency_s, latency_s * np.repeat(ratios, each))),
        score=np.full((2, count), np.nan),
        failed=np.zeros((2, count), bool),
    )


@pytest.mark.parametrize("decide", JUDGES.values(), ids=list(JUDGES))
def test_a_faster_candidate_is_promoted(decide):
    """None of them is so careful that it couldn't say yes."""
    found = decide(two_days(scaled(0.8)), LIMITS, LOOKS_S)

    assert found.verdict == "promote"
    assert found.elapsed_s >= LIMITS.min_duration_s


@pytest.mark.parametrize("decide", JUDGES.values(), ids=list(JUDGES))
@pytest.mark.parametrize("truth", [scaled(1.5), Truth(loss=0.4)], ids=["slow", "wrong"])
def test_a_plain_loss_is_rolled_back(decide, truth):
    """All of them look at latencies and at scores."""
    found = decide(two_days(truth), LIMITS, LOOKS_S)

    assert found.verdict == "rollback"
    assert found.elapsed_s <= 3 * HOUR_S


def test_a_t_test_of_nothing_decides_nothing():
    """No scores: nothing shows that accuracy holds; equal values have no spread."""
    stream = by_hour(*[0.5] * 48)

    assert repeated_t_test(stream, LIMITS, LOOKS_S).verdict == "undecided"


def test_a_mean_hides_a_tail():
    """The slowest 3 % take twice as long, which moves the mean of the logs by 2 %."""
    found = repeated_t_test(two_days(Truth(tail=2.0)), LIMITS, LOOKS_S)

    assert found.verdict == "promote"


def test_an_hour_counts_alone():
    """One bad hour ends it, however good all the others were."""
    stream = by_hour(*[0.9] * 30, 2.0, *[0.9] * 17)
    found = hourly_mann_whitney(stream, LIMITS, LOOKS_S)

    assert (found.verdict, found.elapsed_s) == ("rollback", 31 * HOUR_S)


def test_a_faster_hour_is_no_failure():
    """Only the harmful direction counts, and only beyond the limit."""
    assert hourly_mann_whitney(by_hour(0.3, 0.5), LIMITS, LOOKS_S[:2]).verdict == (
        "promote"
    )
    wide = Limits(ratio=3.0)
    assert hourly_mann_whitney(by_hour(2.0, 2.0), wide, LOOKS_S[:2]).verdict == (
        "promote"
    )


def test_a_threshold_forgives_one_failure():
    """The second in a row is a rollback; the p99 is that of all that came so far."""
    once = by_hour(2.0, *[0.5] * 101)
    looks_s = [HOUR_S * (k + 1) for k in range(102)]
    last_only = [looks_s[0], looks_s[-1]]

    twice = threshold(once, LIMITS, looks_s)
    assert (twice.verdict, twice.elapsed_s) == ("rollback", 2 * HOUR_S)
    assert threshold(once, LIMITS, last_only).verdict == "promote"
