import math

import numpy as np

import canary.stats
from canary.stats import betting_mean_bounds, paired_mean_bounds
from canary.stats.betting import log_e_of_counts


def test_public_names_are_sorted_and_exist() -> None:
    """What the package exports is listed, in order, and there."""
    names = canary.stats.__all__

    assert sorted(names) == names
    assert all(callable(getattr(canary.stats, name)) for name in names)
    assert {
        "block_ratio_bounds",
        "cluster_mean_bounds",
        "finite_log_e",
        "finite_mean_bounds",
        "fixed_pairs_needed",
        "least_units",
        "share_bounds",
        "units_needed_simulated",
    } < set(names)


def test_false_decisions_stay_below_alpha_looking_after_every_unit() -> None:
    """At the limit, a thousand looks decide falsely at most alpha of the time."""
    runs, longest, alpha, null_mean = 2000, 1000, 0.05, -0.02
    d = np.random.default_rng(51).choice(
        [1, 0, -1], (runs, longest), p=[0.03, 0.92, 0.05]
    )
    wins, losses = (d == 1).cumsum(axis=1), (d == -1).cumsum(axis=1)
    ties = np.arange(1, longest + 1) - wins - losses
    # Ties are evidence here, so that each (wins, losses) decides from some number
    # of ties on: found by bisection, all of them at once.
    w, n = np.indices((wins.max() + 1, losses.max() + 1)).reshape(2, -1)
    too_few, enough = np.full(w.size, -1), np.full(w.size, longest + 1)
    for _ in range(11):
        middle = (too_few + enough) // 2
        log_e = log_e_of_counts(w, np.maximum(middle, 0), n, null_mean=null_mean)
        decides = (log_e >= math.log(1 / alpha)) & (middle >= 0)
        too_few, enough = (
            np.where(decides, too_few, middle),
            np.where(decides, middle, enough),
        )
    needed = enough.reshape(wins.max() + 1, losses.max() + 1)
    false = (ties >= needed[wins, losses]).any(axis=1).mean()

    assert 0.01 < false <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)


def test_bounds_cover_the_mean_at_all_looks_at_once() -> None:
    """Each bound is on the wrong side at any of three looks at most alpha of runs."""
    runs, alpha = 300, 0.1
    generator = np.random.default_rng(52)
    missed = np.zeros(2)
    for _ in range(runs):
        d = generator.choice([1, 0, -1], 800, p=[0.1, 0.6, 0.3])
        bounds = np.array(
            [
                paired_mean_bounds(*((d[:n] == k).sum() for k in (1, 0, -1)), alpha=0.1)
                for n in (50, 200, 800)
            ]
        )
        missed += (bounds[:, 0] > -0.2).any(), (bounds[:, 1] < -0.2).any()

    assert np.all(missed / runs <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs))


def test_bounds_cover_group_means_that_the_items_alone_would_miss() -> None:
    """Groups whose items all agree are one unit each: the mean is still covered."""
    runs, alpha = 150, 0.1
    generator = np.random.default_rng(53)
    missed = 0
    for _ in range(runs):
        groups = generator.choice(
            [-1.0, 0.0, 1 / 3, 1.0], 120, p=[0.1, 0.6, 0.15, 0.15]
        )
        lower, upper = betting_mean_bounds(groups, low=-1, high=1, alpha=alpha)
        missed += not lower <= 0.1 <= upper

    assert missed / runs <= 2 * alpha
