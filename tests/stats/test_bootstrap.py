import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canary.stats import block_ratio_bounds, bootstrap, cluster_mean_bounds

reproducible = settings(derandomize=True, deadline=None, max_examples=20)


def _requests(
    seed: int, blocks: int, size: int, *, shared: float = 0.3
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latencies that vary with their block, of a candidate that is 5 % slower."""
    generator = np.random.default_rng(seed)
    block = np.repeat(np.arange(blocks), size)
    by_block = shared * generator.standard_normal((2, blocks))[:, block]
    noise = generator.standard_normal((2, block.size))
    baseline = np.exp(by_block[0] + 0.6 * noise[0])
    return baseline, 1.05 * baseline * np.exp(by_block[1] + 0.1 * noise[1]), block


def test_many_clusters_have_the_bounds_of_normal_theory() -> None:
    """A thousand cluster means: the mean less and plus 1.645 standard errors."""
    means = np.random.default_rng(71).normal(0.02, 0.3, 1000)
    expected = means.mean() + np.array([-1, 1]) * 1.644854 * means.std() / 1000**0.5
    found = cluster_mean_bounds(means, np.arange(1000), alpha=0.05, seed=1)

    assert found == pytest.approx(expected, abs=0.001)


def test_copies_within_a_cluster_add_nothing() -> None:
    """Ten copies of each value in its cluster give the bounds of the values alone."""
    values = np.random.default_rng(72).choice([-1.0, 0.0, 1.0], 60, p=[0.3, 0.6, 0.1])
    names = np.array([f"group {i:02}" for i in range(60)])
    alone = cluster_mean_bounds(values, names, alpha=0.05, seed=1)

    assert alone == cluster_mean_bounds(
        np.repeat(values, 10), np.repeat(names, 10), alpha=0.05, seed=1
    )


def test_a_large_cluster_counts_as_any_other() -> None:
    """The bounds are about the mean over clusters, however large each is."""
    generator = np.random.default_rng(73)
    clusters = np.concatenate([np.arange(40), np.zeros(5000, int)])
    values = np.concatenate([generator.normal(0, 1, 40), np.full(5000, 8.0)])
    lower, upper = cluster_mean_bounds(values, clusters, alpha=0.05, seed=1)

    assert -0.5 < lower < upper < 1.5


@reproducible
@given(st.integers(0, 999), st.integers(20, 80), st.floats(0.001, 0.4))
def test_cluster_bounds_know_no_order_reflect_and_widen(
    seed: int, clusters: int, alpha: float
) -> None:
    """Any order of the values, a smaller alpha, the arms exchanged."""
    generator = np.random.default_rng(seed)
    cluster = generator.integers(0, clusters, 400)
    cluster[:clusters] = np.arange(clusters)
    values = generator.choice([-1.0, 0.0, 1 / 3, 1.0], 400)
    order = generator.permutation(400)
    question = {"alpha": alpha, "seed": seed}
    found = cluster_mean_bounds(values, cluster, **question)
    wider = cluster_mean_bounds(values, cluster, alpha=alpha / 2, seed=seed)
    mirrored = cluster_mean_bounds(-values, cluster, **question)

    assert found == cluster_mean_bounds(values[order], cluster[order], **question)
    assert wider[0] <= found[0] <= found[1] <= wider[1]
    assert mirrored == pytest.approx((-found[1], -found[0]), abs=1e-9)


def test_too_little_bounds_nothing() -> None:
    """Few clusters, means that are all alike, or a level beyond the resamples."""
    values = np.random.default_rng(74).normal(0, 1, 40)
    nothing = (-math.inf, math.inf)

    assert nothing == cluster_mean_bounds([], [], alpha=0.05, seed=1)
    assert nothing == cluster_mean_bounds(
        values, np.repeat(np.arange(19), 3)[:40], alpha=0.05, seed=1
    )
    assert nothing == cluster_mean_bounds(
        np.zeros(1000), np.arange(1000), alpha=0.05, seed=1
    )
    assert nothing == cluster_mean_bounds(
        np.full(40, 0.1), np.arange(40), alpha=0.05, seed=1
    )
    assert nothing == cluster_mean_bounds(values, np.arange(40), alpha=1e-4, seed=1)
    assert math.isfinite(sum(cluster_mean_bounds(values, values, alpha=0.05, seed=1)))


def test_more_clusters_than_can_be_jackknifed_have_bounds_too() -> None:
    """On both sides of 2000 clusters the bounds are nearly the same."""
    means = np.random.default_rng(75).normal(0, 1, 2001)
    accelerated = cluster_mean_bounds(means[:2000], means[:2000], alpha=0.05, seed=1)
    plain = cluster_mean_bounds(means, means, alpha=0.05, seed=1)

    assert plain == pytest.approx(accelerated, abs=0.005)


def test_cluster_bounds_miss_about_as_often_as_they_say() -> None:
    """Thirty clusters of skewed means: each side misses at about 5 %, 10 % at most."""
    runs, generator = 300, np.random.default_rng(76)
    missed = np.zeros(2)
    for run in range(runs):
        values = np.repeat(generator.exponential(1, 30), 5)
        lower, upper = cluster_mean_bounds(
            values, np.repeat(np.arange(30), 5), alpha=0.05, seed=run
        )
        missed += lower > 1, upper < 1

    assert np.all((missed / runs > 0.01) & (missed / runs < 0.1))


def _by_loops(
    arms: tuple[np.ndarray, np.ndarray], block: np.ndarray, p: float, draws: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Each resample's ratio, its extremes read in favour of a wide interval."""
    least, most = [], []
    for drawn in draws:
        ends = []
        for values in arms:
            ordered = np.sort(values)
            resample = np.sort(np.concatenate([values[block == b] for b in drawn]))
            x = resample[math.ceil(p * resample.size - 1e-9) - 1]
            low = 0.0 if x == ordered[0] else x
            high = math.inf if x == ordered[-1] else x
            ends.append((low, high))
        (a_low, a_high), (b_low, b_high) = ends
        least.append(0.0 if math.isinf(a_high) else b_low / a_high)
        most.append(b_high / a_low if 0 < a_low < math.inf else math.inf)
    return np.sort(least), np.sort(most)


@pytest.mark.parametrize("p", [0.05, 0.5, 0.75, 0.95])
@pytest.mark.parametrize("failing", [0.0, 0.03])
def test_is_the_quantile_of_resampled_ratios(
    p: float, failing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equals drawing whole blocks, sorting anew and reading off the ratio."""
    monkeypatch.setattr(bootstrap, "_RESAMPLES", 99)
    generator = np.random.default_rng(77)
    block = np.concatenate([np.arange(23), generator.integers(0, 23, 300)])
    baseline = generator.uniform(1, 2, 323) + block / 20
    candidate = baseline * generator.uniform(0.9, 1.3, 323)
    baseline[generator.random(323) < failing] = math.inf
    candidate[generator.random(323) < failing] = math.inf
    draws = np.random.default_rng(5).integers(23, size=(99, 23))
    least, most = _by_loops((baseline, candidate), block, p, draws)
    found = block_ratio_bounds(baseline, candidate, block, p=p, alpha=0.05, seed=5)

    assert found == (least[4], most[-5])


def test_ratio_bounds_know_neither_scale_nor_order_nor_names() -> None:
    """Other units, another order of requests, other labels: the same bounds."""
    a, b, block = _requests(78, 30, 20)
    order = np.random.default_rng(79).permutation(a.size)
    names = np.array([f"{i:03}" for i in range(30)])
    question = {"p": 0.9, "alpha": 0.05, "seed": 3}
    found = block_ratio_bounds(a, b, block, **question)

    assert 0 < found[0] < np.quantile(b, 0.9) / np.quantile(a, 0.9) < found[1]
    assert found == block_ratio_bounds(
        1024 * a[order], 1024 * b[order], names[block[order]], **question
    )


def test_blocks_that_share_something_have_wider_bounds() -> None:
    """Drawing blocks sees what drawing requests would miss."""
    a, b, block = _requests(80, 60, 50)
    question = {"p": 0.5, "alpha": 0.05, "seed": 3}
    lower, upper = block_ratio_bounds(a, b, block, **question)
    naive_lower, naive_upper = block_ratio_bounds(a, b, np.arange(a.size), **question)

    assert math.log(upper / lower) > 2 * math.log(naive_upper / naive_lower)


def test_ratio_bounds_widen_as_alpha_falls() -> None:
    """A smaller alpha takes in more resamples on both sides."""
    a, b, block = _requests(81, 40, 50)
    bounds = [
        block_ratio_bounds(a, b, block, p=0.9, alpha=alpha, seed=3)
        for alpha in (0.001, 0.01, 0.05, 0.2)
    ]

    assert bounds == sorted(bounds, key=lambda ends: ends[0])
    assert bounds == sorted(bounds, key=lambda ends: -ends[1])
    assert bounds[0][0] < bounds[3][0] < bounds[3][1] < bounds[0][1]


def test_failed_requests_are_infinitely_slow() -> None:
    """Failures of one arm, of the other and of both."""
    a, b, block = _requests(82, 50, 100)
    failing = np.arange(a.size) % 20 == 0
    a_fails, b_fails = (np.where(failing, math.inf, values) for values in (a, b))
    question = {"p": 0.99, "alpha": 0.05, "seed": 3}

    assert block_ratio_bounds(a, b_fails, block, **question) == (math.inf, math.inf)
    assert block_ratio_bounds(a_fails, b, block, **question) == (0, math.inf)
    assert block_ratio_bounds(a_fails, b_fails, block, **question) == (0, math.inf)

    lower, upper = block_ratio_bounds(
        a_fails, b_fails, block, p=0.5, alpha=0.05, seed=3
    )

    assert 0.8 < lower < upper < 1.3


@pytest.mark.parametrize("p", [0.01, 0.99])
def test_too_few_requests_leave_a_tail_unbounded(p: float) -> None:
    """What may lie beyond the last value seen has no bound."""
    question = {"p": p, "alpha": 0.05, "seed": 3}
    few = block_ratio_bounds(*_requests(83, 20, 5), **question)
    lower, upper = block_ratio_bounds(*_requests(83, 40, 50), **question)

    assert few == (0, math.inf)
    assert 0.5 < lower < upper < 2


def test_too_few_blocks_bound_nothing() -> None:
    """Nineteen blocks, no requests, or a level beyond the resamples."""
    for requests, alpha in (
        (_requests(84, 19, 100), 0.05),
        (([], [], []), 0.05),
        (_requests(84, 30, 100), 1e-4),
    ):
        found = block_ratio_bounds(*requests, p=0.5, alpha=alpha, seed=3)

        assert found == (0, math.inf)


def test_a_baseline_of_zeros_has_no_ratio() -> None:
    """A quantile of 0 can't be compared with; a candidate of zeros is 0 times any."""
    a, _, block = _requests(85, 30, 20)
    zeros, question = np.zeros(600), {"p": 0.5, "alpha": 0.05, "seed": 3}

    assert block_ratio_bounds(zeros, a, block, **question) == (0, math.inf)
    assert block_ratio_bounds(a, zeros, block, **question) == (0, 0)


def test_very_many_blocks_are_joined_to_longer_ones() -> None:
    """Three thousand blocks are two thousand, of one or two neighbours each."""
    a, b, block = _requests(86, 3000, 2)
    question = {"p": 0.9, "alpha": 0.05, "seed": 3}

    assert block_ratio_bounds(a, b, block, **question) == block_ratio_bounds(
        a, b, block * 2000 // 3000, **question
    )


def test_ratio_bounds_miss_about_as_often_as_they_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Thirty blocks of ten: each side misses at about 5 %, 10 % at most."""
    monkeypatch.setattr(bootstrap, "_RESAMPLES", 399)
    runs, missed = 250, np.zeros(2)
    for run in range(runs):
        # The medians of both arms are known: the medians of their logarithms' sums.
        lower, upper = block_ratio_bounds(
            *_requests(1000 + run, 30, 10), p=0.5, alpha=0.05, seed=run
        )
        missed += lower > 1.05, upper < 1.05

    assert np.all((missed / runs > 0.01) & (missed / runs < 0.1))


_FORTY = np.arange(40.0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: cluster_mean_bounds([1.0, 2.0], [1], alpha=0.05, seed=1),
        lambda: cluster_mean_bounds([[1.0]], [[1]], alpha=0.05, seed=1),
        lambda: cluster_mean_bounds(
            [math.nan, *_FORTY[1:]], _FORTY, alpha=0.05, seed=1
        ),
        lambda: cluster_mean_bounds([math.inf], [1], alpha=0.05, seed=1),
        lambda: cluster_mean_bounds(_FORTY, _FORTY, alpha=0.5, seed=1),
        lambda: cluster_mean_bounds(_FORTY, _FORTY, alpha=0.0, seed=1),
        lambda: block_ratio_bounds([1], [1], [1, 2], p=0.5, alpha=0.05, seed=1),
        lambda: block_ratio_bounds([1, 2], [1], [1], p=0.5, alpha=0.05, seed=1),
        lambda: block_ratio_bounds([-1], [1], [1], p=0.5, alpha=0.05, seed=1),
        lambda: block_ratio_bounds([1], [math.nan], [1], p=0.5, alpha=0.05, seed=1),
        lambda: block_ratio_bounds([1], [1], [1], p=1.0, alpha=0.05, seed=1),
        lambda: block_ratio_bounds([1], [1], [1], p=0.5, alpha=0.6, seed=1),
    ],
)
def test_refuses_what_has_no_meaning(call: Callable[[], object]) -> None:
    """Values without labels, NaN, negative latencies and bad levels are errors."""
    with pytest.raises(ValueError, match=r"must be|need|expected"):
        call()
