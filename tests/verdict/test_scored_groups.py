"""What an accuracy gate counts: groups of questions, each question once."""

import numpy as np
import pyarrow as pa
import pytest

from canary.decision import GateStatus
from canary.evidence.pairs import pair_up
from canary.gates import Evidence
from canary.gates.evidence import merged
from canary.judge import Ended, judge, judge_evidence

ACCURACY = {"metric": "accuracy", "margin": "5%"}
ENDED = Ended(reason="end of traffic")


def scored(table_of, candidate, **columns):
    """A perfect baseline and this candidate; a question every second."""
    return table_of(
        {"score": [1.0] * len(candidate)},
        {"score": candidate},
        kind="quality",
        **{"task": "t", **columns},
    )


def gates_of(policy_of, parts, *gates):
    policy = policy_of(*gates, min_pairs=10**6)
    return judge(policy, parts, run="r", ended=ENDED).gates


def evidence_of(policy, table):
    evidence = Evidence(policy)
    evidence.fold(pair_up(table, baseline="baseline", candidate="candidate"))
    return evidence


def test_a_question_asked_again_counts_once(policy_of, table_of):
    """Two machines that answer the same questions are no more questions."""
    table = scored(table_of, [1.0] * 8 + [0.0] * 2)
    [once] = gates_of(policy_of, table, ACCURACY)

    [twice] = gates_of(policy_of, [table, table], ACCURACY)

    assert once.units == 10
    assert twice == once


def test_a_group_of_one_that_is_asked_again_counts_once(policy_of, table_of):
    """What a group of one item said first is what it said."""
    names = [f"g{n % 3}" for n in range(12)]
    table = scored(
        table_of, [1.0] * 3 + [0.0] * 9, group=names, group_items=1, every_s=10.0
    )

    [gate] = gates_of(policy_of, table, ACCURACY)

    assert (gate.units, gate.estimate) == (3, 0.0)


def test_an_item_asked_again_does_not_stand_for_another(policy_of, table_of):
    """A group isn't complete because one of its two items came twice."""
    names = [f"g{n // 2}" for n in range(8)]
    table = scored(table_of, [1.0, 0.0] * 4, group=names, group_items=2)
    first = [int(name[1:]) % 2 == 0 for name in table["request_id"].to_pylist()]
    half = table.filter(pa.array(first))

    [gate] = gates_of(policy_of, [half, half, table], ACCURACY)

    assert (gate.units, gate.estimate) == (4, -0.5)


def test_which_of_two_answers_counts_does_not_depend_on_who_folds(policy_of, table_of):
    """Shards that answered the same questions may be merged in any order."""
    policy = policy_of(ACCURACY, min_pairs=10**6)
    names = [f"g{n // 2}" for n in range(20)]
    sides = ([1.0] * 20, [0.0, 1.0] * 10)
    one, other = (
        evidence_of(policy, scored(table_of, side, group=names, group_items=2))
        for side in sides
    )

    found = [
        judge_evidence(policy, merged(policy, some), end_s=30.0, run="r", ended=ENDED)
        for some in ([one, other], [other, one])
    ]

    assert found[0].gates[0].units == 10
    assert -0.5 < found[0].gates[0].estimate < 0.0  # neither shard always counts
    assert found[0].to_json() == found[1].to_json()


@pytest.mark.parametrize("mode", ["sequential", "fixed"])
def test_tasks_may_name_their_groups_alike(policy_of, table_of, mode):
    """A gate on all tasks counts a document once for each task, and all its items."""
    names = [f"doc{n // 6}" for n in range(24)]
    tasks = ["a", "b", "b"] * 8
    candidate = [1.0 if task == "b" else 0.0 for task in tasks]
    sizes = [2 if task == "a" else 4 for task in tasks]
    table = scored(table_of, candidate, task=tasks, group=names, group_items=sizes)
    policy = policy_of(
        ACCURACY, *({**ACCURACY, "task": name} for name in "ab"),
        min_pairs=10**6, mode=mode,
    )  # fmt: skip

    gates = judge(policy, table, run="r", ended=ENDED).gates

    assert [8, 4, 4] == [gate.units for gate in gates]
    assert [24, 8, 16] == [gate.requests for gate in gates]
    assert [-0.5, -1.0, 0.0] == [gate.estimate for gate in gates]


@pytest.mark.parametrize("count", [2, 3])
def test_parts_may_cut_groups_whose_size_is_not_said(policy_of, table_of, count):
    """Groups are as large as all parts and shards together make them."""
    names = [f"g{n // 4}" for n in range(40)]
    table = scored(table_of, [1.0, 1.0, 1.0, 0.0] * 10, group=names)
    numbers = np.array([int(name[1:]) for name in table["request_id"].to_pylist()])
    at = numbers % 4 % count
    parts = [table.filter(pa.array(at == part)) for part in range(count)]
    policy = policy_of(ACCURACY, min_pairs=10**6)
    whole = judge(policy, table, run="r", ended=ENDED).to_json()

    assert whole == judge(policy, parts, run="r", ended=ENDED).to_json()
    apart = [evidence_of(policy, part) for part in parts]
    assert evidence_of(policy, table).to_bytes() == merged(policy, apart).to_bytes()


def test_groups_that_are_never_complete_are_told(policy_of, table_of):
    """Answers that came and don't count yet aren't passed over in silence."""
    names = [f"g{n // 2}" for n in range(10)]
    table = scored(table_of, [1.0] * 10, group=names, group_items=3)

    [gate] = gates_of(policy_of, table, ACCURACY)

    assert gate.status is GateStatus.INSUFFICIENT
    assert "none of 5 groups is answered in full" in gate.reason
