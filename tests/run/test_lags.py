"""How late requests were sent, as a report says it."""

from canary.playing import Lags


def test_a_hundredth_of_the_requests_may_be_later():
    """98 on time, one 20 ms and one 3 s late: the p99 is the 20 ms."""
    lags = Lags()
    for lag_s in [-0.001] * 98 + [0.0204, 3.0]:
        lags.add(lag_s)

    assert 0.02 == lags.p99_s()


def test_nobody_knows_before_anything_was_sent():
    """No request is no punctuality."""
    assert Lags().p99_s() is None


def test_a_week_of_lags_takes_the_room_of_a_few():
    """Two digits are enough, and all that is kept."""
    lags = Lags()
    for number in range(100_000):
        lags.add(number / 1e5)

    assert len(lags._counts) < 500
    assert 0.99 == lags.p99_s()
