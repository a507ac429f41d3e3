"""`inference: set`: what is asked is this very validation set."""

import numpy as np
import pytest

from canary.decision import GateStatus, Verdict
from canary.judge import Ended, judge

ENDED = Ended(reason="end of traffic")
GATE = {"metric": "accuracy", "task": "contracts", "margin": "5%"}


@pytest.fixture
def of_set(policy_of):
    """A policy that asks about the set alone."""
    return policy_of(GATE, inference="set")


def answers(table_of, losses, count, *, seed=0):
    """A table in which so many of the questions that came were lost."""
    candidate = np.array([0.0] * losses + [1.0] * (count - losses))
    order = np.random.default_rng(seed).permutation(count)
    return table_of(
        {"score": [1.0] * count},
        {"score": list(candidate[order])},
        kind="quality",
        task="contracts",
    )


@pytest.mark.parametrize(
    ("losses", "verdict"), [(4, Verdict.PROMOTE), (6, Verdict.ROLLBACK)]
)
def test_it_is_exact_once_all_is_answered(of_set, table_of, losses, verdict):
    """Of 100 questions 4 lost keep a margin of 5 points and 6 break it, for certain."""
    table = answers(table_of, losses, 100)

    decision = judge(of_set, table, run="r", ended=ENDED, questions={"contracts": 100})
    [gate] = decision.gates

    assert decision.verdict is verdict
    assert [gate.estimate] * 2 == pytest.approx([gate.lower, gate.upper])


def test_a_population_is_another_question(policy_of, of_set, table_of):
    """The same 100 answers don't show what all questions like them would."""
    table = answers(table_of, 4, 100)

    known = {"questions": {"contracts": 100}, "run": "r", "ended": ENDED}

    assert judge(policy_of(GATE), table, **known).verdict is Verdict.INCONCLUSIVE
    assert judge(of_set, table, **known).verdict is Verdict.PROMOTE


def test_a_part_of_the_set_is_not_the_set(of_set, table_of):
    """40 equal answers of 1,000 questions decide nothing; of 45 they do."""
    table = answers(table_of, 0, 40)

    large = judge(of_set, table, run="r", ended=ENDED, questions={"contracts": 1000})
    small = judge(of_set, table, run="r", ended=ENDED, questions={"contracts": 41})

    assert large.verdict is Verdict.INCONCLUSIVE
    assert small.verdict is Verdict.PROMOTE


def test_a_set_of_unknown_size_is_insufficient(of_set, table_of):
    """Without the size nothing is said, least of all that all is well."""
    decision = judge(of_set, answers(table_of, 0, 300), run="r", ended=ENDED)
    [gate] = decision.gates

    assert decision.verdict is Verdict.INCONCLUSIVE
    assert gate.status is GateStatus.INSUFFICIENT
    assert "how many questions the set holds isn't known" in gate.reason


def test_rarely_wrong_while_half_of_it_is_known(of_set, table_of):
    """Sets that break the limit, looked at all the while, are rarely promoted."""
    promoted = 0
    for seed in range(100):
        table = answers(table_of, 11, 200, seed=seed)
        decision = judge(of_set, table, run="r", questions={"contracts": 200})
        promoted += decision.verdict is Verdict.PROMOTE

    assert promoted <= 5 + 3 * np.sqrt(100 * 0.05 * 0.95)
