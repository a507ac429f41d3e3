"""The promise of a policy, checked by simulation: errors stay below alpha while one
looks again and again. Seeds are fixed; a bound is alpha plus three standard errors."""

import math

import numpy as np
import pytest

from canary.decision import Verdict
from canary.judge import Ended, judge

RUNS = 40
LATENCY = {"metric": "latency", "quantile": "p50", "max_ratio": 1.1}
ACCURACY = {"metric": "accuracy", "margin": "5%"}


def at_most(alpha):
    return alpha + 3 * math.sqrt(alpha * (1 - alpha) / RUNS)


def verdicts(policy, make_table):
    found = []
    for seed in range(RUNS):
        table = make_table(np.random.default_rng(seed))
        found.append(judge(policy, table, run="r", ended=Ended(reason="end")).verdict)
    return found


@pytest.mark.parametrize("loss", [0.05, 0.06])
def test_a_broken_accuracy_limit_is_rarely_promoted(policy_of, table_of, loss):
    """At and beyond the margin at most alpha of the runs promote, at 40 looks each."""

    def make_table(rng):
        d = rng.choice([1, 0, -1], size=400, p=[0.05, 0.90 - loss, 0.05 + loss])
        a = np.where(d == 1, 0.0, 1.0)
        return table_of({"score": list(a)}, {"score": list(a + d)}, kind="quality")

    found = verdicts(policy_of(ACCURACY), make_table)

    assert found.count(Verdict.PROMOTE) / RUNS <= at_most(0.05)


def test_equal_arms_are_rarely_rolled_back(policy_of, table_of):
    """With accuracy and latency just at their limits, at most harm_alpha roll back."""

    def make_table(rng):
        d = rng.choice([1, 0, -1], size=300, p=[0.05, 0.85, 0.10])
        a = np.where(d == 1, 0.0, 1.0)
        times = rng.lognormal(0, 0.5, (2, 300))
        return table_of(
            {"score": list(a), "latency_s": list(times[0])},
            {"score": list(a + d), "latency_s": list(times[1] * 1.1)},
        )

    found = verdicts(policy_of(ACCURACY, LATENCY, look_every="20s"), make_table)

    assert found.count(Verdict.ROLLBACK) / RUNS <= at_most(0.05)
    assert found.count(Verdict.PROMOTE) / RUNS <= at_most(0.05)


def test_a_ratio_beyond_its_limit_is_rarely_promoted(policy_of, table_of):
    """A median exactly at its limit passes in at most alpha of the runs."""

    def make_table(rng):
        shared = rng.lognormal(0, 0.5, 500)
        noise = rng.lognormal(0, 0.05, (2, 500))
        return table_of(
            {"latency_s": list(shared * noise[0])},
            {"latency_s": list(shared * noise[1] * 1.1)},
            kind="latency",
        )

    found = verdicts(policy_of(LATENCY, look_every="20s"), make_table)

    assert found.count(Verdict.PROMOTE) / RUNS <= at_most(0.05)
    assert found.count(Verdict.ROLLBACK) / RUNS <= at_most(0.05)


def test_clear_cases_are_decided(policy_of, table_of):
    """Power: equal arms are promoted, and 20 points lost are rolled back."""
    policy = policy_of(ACCURACY)

    def equal(rng):
        a = list(rng.choice([0.0, 1.0], 400, p=[0.05, 0.95]))
        return table_of({"score": a}, {"score": a}, kind="quality")

    def worse(rng):
        a = np.ones(400)
        b = rng.choice([0.0, 1.0], 400, p=[0.2, 0.8])
        return table_of({"score": list(a)}, {"score": list(b)}, kind="quality")

    assert verdicts(policy, equal).count(Verdict.PROMOTE) == RUNS
    assert verdicts(policy, worse).count(Verdict.ROLLBACK) >= 0.99 * RUNS
