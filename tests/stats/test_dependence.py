import math

import numpy as np
import pytest

from canary.stats.dependence import (
    LEAST_BLOCKS,
    doublings_needed,
    effective_units,
    grown,
    lag_1,
)


def _autoregressive(seed: int, n: int, weight: float) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(n)
    series = np.empty(n)
    last = noise[0] / math.sqrt(1 - weight**2)
    for index in range(n):
        last = series[index] = weight * last + noise[index]
    return series


def _doublings(*series: np.ndarray, size: int = 10) -> int:
    """Of requests in base blocks of so many."""
    sums = np.array([one.reshape(-1, size).sum(axis=1) for one in series])
    return doublings_needed(sums, np.full(sums.shape[1], float(size)))


@pytest.mark.parametrize("weight", [-0.5, 0.0, 0.9])
def test_lag_1_equals_loops(weight: float) -> None:
    """Equals the correlation of neighbours written out."""
    series = _autoregressive(1, 200, weight)
    mean = sum(series) / 200
    above = sum((series[i] - mean) * (series[i + 1] - mean) for i in range(199))
    expected = above / sum((value - mean) ** 2 for value in series)

    assert expected == pytest.approx(lag_1(series), abs=1e-12)


@pytest.mark.parametrize("series", [[], [1.0, 2.0], [0.1] * 50])
def test_lag_1_of_what_does_not_vary(series: list[float]) -> None:
    """Too few or equal values have no correlation."""
    assert 0.0 == lag_1(np.array(series))


@pytest.mark.parametrize("seed", range(5))
def test_independent_requests_need_no_doubling(seed: int) -> None:
    """Base blocks of independent requests stay as they are."""
    assert 0 == _doublings(np.random.default_rng(seed).standard_normal(20480))


@pytest.mark.parametrize("seed", range(5))
def test_dependent_requests_get_long_enough_blocks(seed: int) -> None:
    """At weight 0.9, means over 40 requests correlate by 0.15, over 80 by 0.07."""
    assert 3 <= _doublings(_autoregressive(seed, 40960, 0.9)) <= 5


@pytest.mark.parametrize("seed", range(3))
def test_the_most_dependent_series_decides(seed: int) -> None:
    """An independent series beside a dependent one shortens no block."""
    dependent = _autoregressive(seed, 40960, 0.9)
    independent = np.random.default_rng(seed).standard_normal(40960)

    assert _doublings(dependent) <= _doublings(independent, dependent)


def _noise_and_a_slow_wave(seed: int) -> np.ndarray:
    slow = 0.1 * np.sin(2 * np.pi * np.arange(40960) / 10240)
    return slow + np.random.default_rng(seed).standard_normal(40960)


@pytest.mark.parametrize("seed", range(3))
def test_a_slow_wave_hides_in_base_blocks(seed: int) -> None:
    """The noise of base blocks leaves less than 0.1 of correlation."""
    assert lag_1(_noise_and_a_slow_wave(seed).reshape(-1, 10).mean(axis=1)) < 0.1


@pytest.mark.parametrize("seed", range(3))
def test_weak_dependence_that_reaches_far_is_found(seed: int) -> None:
    """A slow wave shows in long blocks, so that blocks become about as long."""
    assert _doublings(_noise_and_a_slow_wave(seed)) >= 6


def test_empty_base_blocks_say_nothing() -> None:
    """Blocks without requests are left out, not taken for zeros."""
    sums = 5 + np.random.default_rng(1).standard_normal((1, 512))
    counts = np.ones(512)
    sums[0, 256:], counts[256:] = 0.0, 0.0

    assert 0 == doublings_needed(sums, counts)


def test_too_few_blocks_are_not_doubled() -> None:
    """Below 16 blocks a correlation says nothing."""
    assert 0 == _doublings(np.arange(150.0))


@pytest.mark.parametrize(("weight", "expected"), [(0.0, False), (0.9, True)])
def test_grown_tells_dependent_from_independent(weight: float, expected: bool) -> None:
    """Only a correlation beyond chance counts as shown."""
    assert expected == grown(_autoregressive(2, 400, weight))


def test_grown_needs_enough_blocks() -> None:
    """A clear trend over 15 blocks shows nothing yet, over 16 it does."""
    found = [grown(np.arange(n, dtype=float)) for n in (LEAST_BLOCKS - 1, LEAST_BLOCKS)]

    assert [False, True] == found


def test_independent_requests_are_worth_their_number() -> None:
    """Blocks of independent requests lose at most what chance takes."""
    values = np.random.default_rng(3).standard_normal((400, 10))
    found = effective_units(values.mean(axis=1), np.full(400, 10.0), values.var())

    assert 0.8 * 4000 <= found <= 4000


def test_equal_requests_of_a_block_are_worth_one() -> None:
    """Ten copies of one value per block are worth one request."""
    values = np.random.default_rng(4).standard_normal(400)
    found = effective_units(values, np.full(400, 10.0), float(values.var(ddof=1)))

    assert 400 == pytest.approx(found)


def test_what_does_not_vary_is_worth_its_number() -> None:
    """Without variance there is no design effect."""
    assert 200.0 == effective_units(np.ones(20), np.full(20, 10.0), 0.0)


def test_too_few_blocks_have_no_worth_yet() -> None:
    """Below 16 blocks the design effect is unknown."""
    assert effective_units(np.arange(15.0), np.ones(15), 1.0) is None
