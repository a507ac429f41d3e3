"""One look at the end, with methods for one look: how a test run in CI is judged."""

import math

import numpy as np
import pytest

from canary.decision import GateStatus, Verdict
from canary.judge import Ended, judge
from canary.stats import tango_interval

ENDED = Ended(reason="end of traffic")
ACCURACY = {"metric": "accuracy", "margin": "5%"}
LATENCY = {"metric": "latency", "quantile": "p50", "max_ratio": 1.1}
ERRORS = {"metric": "errors", "margin": "5%"}
RUNS = 100


@pytest.fixture
def once(policy_of):
    """A policy that looks once."""

    def build(*gates, **rules):
        return policy_of(*gates, mode="fixed", **rules)

    return build


def scores(table_of, losses, count):
    candidate = [0.0] * losses + [1.0] * (count - losses)
    order = np.random.default_rng(0).permutation(count)
    return table_of(
        {"score": [1.0] * count},
        {"score": [candidate[i] for i in order]},
        kind="quality",
    )


def test_there_is_one_look_and_it_is_the_last(once, table_of):
    """Nothing is looked at before the end, so nothing ends early."""
    decision = judge(once(ACCURACY), scores(table_of, 0, 200), run="r", ended=ENDED)

    [look] = decision.looks
    assert decision.verdict is Verdict.PROMOTE
    assert look.elapsed_s == decision.elapsed_s > 199
    assert decision.pairs == 200


def test_it_needs_less_than_looking_again_and_again(once, policy_of, table_of):
    """60 equal answers show a margin of 5 points to one look, not to many."""
    table = scores(table_of, 0, 60)

    fixed = judge(once(ACCURACY), table, run="r", ended=ENDED)
    sequential = judge(policy_of(ACCURACY), table, run="r", ended=ENDED)

    assert fixed.verdict is Verdict.PROMOTE
    assert sequential.verdict is Verdict.INCONCLUSIVE


def test_bounds_of_accuracy_are_tangos(once, table_of):
    """Single questions that are right or wrong have the score interval's bounds."""
    [gate] = judge(once(ACCURACY), scores(table_of, 3, 100), run="r", ended=ENDED).gates
    lower, upper = tango_interval(0, 3, 100, alpha=0.1)

    assert (pytest.approx(lower), pytest.approx(upper)) == (gate.lower, gate.upper)
    assert gate.estimate == pytest.approx(-0.03)


def test_a_clear_loss_is_rolled_back(once, table_of):
    """The other bound, at the gate's share of harm_alpha, is beyond the limit."""
    decision = judge(
        once(ACCURACY, ERRORS), scores(table_of, 30, 100), run="r", ended=ENDED
    )

    assert decision.verdict is Verdict.ROLLBACK
    assert [GateStatus.BROKEN, GateStatus.HOLDS] == [g.status for g in decision.gates]
    assert "Shown to be broken: accuracy" in decision.because[0]


def test_in_between_is_not_decided_and_says_how_many_would_do(once, table_of):
    """What one look can't tell is inconclusive, never a promotion."""
    decision = judge(once(ACCURACY), scores(table_of, 4, 100), run="r", ended=ENDED)
    [gate] = decision.gates

    assert decision.verdict is Verdict.INCONCLUSIVE
    assert gate.status is GateStatus.UNDECIDED
    assert gate.units_needed > 100


def test_latency_is_bounded_by_drawing_anew(once, table_of):
    """Equal arms keep a limit of 1.1x; 1.3x is broken, with bounds around the truth."""
    rng = np.random.default_rng(1)
    shared = rng.lognormal(0, 0.5, 800)
    noise = rng.lognormal(0, 0.05, (2, 800))

    def judged(factor):
        a, b = shared * noise[0], shared * noise[1] * factor
        table = table_of({"latency_s": list(a)}, {"latency_s": list(b)}, kind="latency")
        return judge(once(LATENCY), table, run="r", ended=ENDED)

    equal, slower = judged(1.0), judged(1.3)

    assert equal.verdict is Verdict.PROMOTE
    assert slower.verdict is Verdict.ROLLBACK
    [gate] = slower.gates
    assert 1.1 < gate.lower < gate.estimate < gate.upper < 1.5


def test_blocks_are_drawn_whole_in_a_long_run(once, table_of):
    """Over an hour the units are blocks of time, also for one look."""
    rng = np.random.default_rng(2)
    count = 4000
    drift = np.repeat(rng.lognormal(0, 0.5, count // 40), 40)
    noise = rng.lognormal(0, 0.02, (2, count))
    table = table_of(
        {"latency_s": list(drift * noise[0])},
        {"latency_s": list(drift * noise[1])},
        kind="latency",
        every_s=2.0,
    )

    decision = judge(
        once(LATENCY, ERRORS, max_duration="1d", block="auto"),
        table,
        run="r",
        ended=ENDED,
    )

    latency, errors = decision.gates
    assert latency.block_s >= 80  # the drift lasts as long
    assert errors.block_s == 10
    assert latency.requests == errors.requests == count


def test_no_data_is_never_good_news(once, table_of):
    """A gate without a measurement is insufficient, and the verdict inconclusive."""
    decision = judge(
        once(ACCURACY, LATENCY), scores(table_of, 0, 200), run="r", ended=ENDED
    )

    assert decision.verdict is Verdict.INCONCLUSIVE
    assert decision.gates[1].status is GateStatus.INSUFFICIENT
    assert decision.gates[1].estimate is None


@pytest.mark.parametrize("loss", [0.05, 0.07])
def test_a_broken_limit_is_rarely_promoted(once, table_of, loss):
    """At and beyond the margin at most alpha of the runs promote."""
    promoted = 0
    for seed in range(RUNS):
        rng = np.random.default_rng(seed)
        d = rng.choice([1, 0, -1], size=300, p=[0.03, 0.94 - loss, 0.03 + loss])
        a = np.where(d == 1, 0.0, 1.0)
        table = table_of({"score": list(a)}, {"score": list(a + d)}, kind="quality")
        verdict = judge(once(ACCURACY), table, run="r", ended=ENDED).verdict
        promoted += verdict is Verdict.PROMOTE

    assert promoted / RUNS <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / RUNS)
