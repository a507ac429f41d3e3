"""Evidence as whole numbers: it adds up in any order, on any machine."""

import itertools
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from canary.decision import GateStatus
from canary.errors import ObservationError
from canary.evidence.pairs import pair_up
from canary.gates import Evidence
from canary.gates.evidence import merged, read_evidence
from canary.judge import Ended, judge, judge_evidence

ENDED = Ended(reason="end of traffic")
GATES = (
    {"metric": "latency", "quantile": "p50", "max_ratio": 1.1},
    {"metric": "latency", "quantile": "p90", "max_ratio": 1.2, "regime": "<8k"},
    {"metric": "latency", "over": "2s", "margin": "5%"},
    {"metric": "errors", "margin": "5%"},
    {"metric": "accuracy", "margin": "10%"},
)
MODES = {
    "requests": {"look_every": "5m"},
    "blocks": {"block": "auto", "max_duration": "2d", "look_every": "10m"},
}
COUNT = 3000


@pytest.fixture(params=MODES.values(), ids=MODES)
def policy(request, policy_of):
    """A policy with a limit of each kind, on requests and on blocks of time."""
    return policy_of(*GATES, **request.param)


def table_with(table_of, seed=0):
    rng = np.random.default_rng(seed)
    shared = rng.lognormal(0, 0.5, COUNT)
    noise = rng.lognormal(0, 0.1, (2, COUNT))
    right = rng.random((2, COUNT)) < 0.9
    question = rng.random(COUNT) < 0.3
    return table_of(
        {
            "latency_s": list(shared * noise[0]),
            "score": [float(r) if q else None for r, q in zip(right[0], question)],  # noqa: B905 - both have COUNT
        },
        {
            "latency_s": list(shared * noise[1]),
            "score": [float(r) if q else None for r, q in zip(right[1], question)],  # noqa: B905
            "status": ["error" if n % 97 == 0 else "ok" for n in range(COUNT)],
        },
        every_s=3.0,
        prompt_tokens=[int(n) for n in rng.integers(100, 20_000, COUNT)],
        group=[f"g{n // 4}" if n % 2 else None for n in range(COUNT)],
        group_items=[2 if n % 2 else None for n in range(COUNT)],
    )


def shards_of(table, count, seed):
    """Split a table by groups of four requests, so that no validation group is cut."""
    requests = [int(name[1:]) // 4 for name in table["request_id"].to_pylist()]
    drawn = np.random.default_rng(seed).integers(0, count, max(requests) + 1)
    at = drawn[requests]
    return [table.filter(pa.array(at == number)) for number in range(count)]


def folded(policy, tables):
    evidence = Evidence(policy)
    for table in tables:
        evidence.fold(pair_up(table, baseline="baseline", candidate="candidate"))
    return evidence


def decided(policy, evidence):
    return judge_evidence(policy, evidence, end_s=3.0 * COUNT, run="r", ended=ENDED)


@pytest.mark.parametrize("seed", range(3))
def test_shards_add_up_to_the_whole_in_any_order(policy, table_of, seed):
    """Folded apart and merged in any order, the evidence is the same to the byte, and
    so is the decision."""
    table = table_with(table_of, seed)
    shards = shards_of(table, 3, seed)
    apart = [folded(policy, [shard]) for shard in shards]
    whole = folded(policy, [table])

    one = merged(policy, apart)
    other = merged(policy, [merged(policy, apart[1:]), apart[0]])

    assert whole.to_bytes() == one.to_bytes() == other.to_bytes()
    assert decided(policy, whole).to_json() == decided(policy, one).to_json()


def test_evidence_survives_being_written(policy, table_of):
    """What is read back decides what was written."""
    whole = folded(policy, [table_with(table_of)])

    again = read_evidence(policy, whole.to_bytes())

    assert again.to_bytes() == whole.to_bytes()
    assert decided(policy, again).to_json() == decided(policy, whole).to_json()


def test_other_policies_evidence_is_refused(policy, table_of):
    """Evidence counts what one policy asks about; for another it says nothing."""
    content = folded(policy, [table_with(table_of)]).to_bytes()
    other = policy.model_copy(update={"sha256": "another"})

    with pytest.raises(ObservationError, match="folded for another policy"):
        read_evidence(other, content)
    with pytest.raises(ObservationError, match="not evidence that was folded"):
        read_evidence(policy, b"something else")


def test_parts_of_a_table_judge_as_the_table(policy, table_of):
    """A run is read segment by segment, each of whole requests."""
    table = table_with(table_of)
    order = np.argsort(table["arrived_s"].to_numpy(), kind="stable")
    table = table.take(pa.array(order))
    rows = table.num_rows // 5 // 8 * 8
    parts = [table.slice(n * rows, rows if n < 4 else None) for n in range(5)]

    whole = judge(policy, table, run="r", ended=ENDED)

    assert judge(policy, parts, run="r", ended=ENDED).to_json() == whole.to_json()


def test_looking_in_between_changes_nothing(policy, table_of, assessment_of):
    """The evidence at a time doesn't depend on who looked before."""
    table = table_with(table_of)
    once, often = assessment_of(policy, table), assessment_of(policy, table)
    for at_s in range(600, 8400, 600):
        often.look(float(at_s))

    expected = once.look(8400.0).look
    found = often.look(8400.0).look

    assert found.pairs == expected.pairs
    assert found.log_e_hold == pytest.approx(expected.log_e_hold, abs=1e-9)
    assert found.log_e_broken == pytest.approx(expected.log_e_broken, abs=1e-9)


def test_order_inside_a_block_does_not_matter(policy_of, table_of):
    """Pairs that arrive within the same ten seconds may come in any order."""
    policy = policy_of(*GATES, **MODES["blocks"])
    table = table_with(table_of)
    arrived = table["arrived_s"].to_numpy()
    stamps = {}  # three or four requests share a block of ten seconds
    for name, at_s in zip(table["request_id"].to_pylist(), arrived, strict=True):
        stamps.setdefault(int(at_s // 10), {})[name] = at_s
    turned = {}
    for block in stamps.values():
        turned |= dict(zip(block, list(block.values())[::-1], strict=True))
    moved = table.set_column(
        table.column_names.index("arrived_s"),
        "arrived_s",
        pa.array([turned[name] for name in table["request_id"].to_pylist()]),
    )

    expected = judge(policy, table, run="r", ended=ENDED).to_dict()
    found = judge(policy, moved, run="r", ended=ENDED).to_dict()

    for gate, other in zip(expected["gates"], found["gates"], strict=True):
        if gate["metric"] != "accuracy":  # its groups end when their last item comes
            assert gate == other


@pytest.mark.parametrize(
    ("gate", "wider"),
    [
        (GATES[0], {"max_ratio": 1.2}),
        (GATES[2], {"margin": "8%"}),
        (GATES[3], {"margin": "8%"}),
        (GATES[4], {"margin": "15%"}),
    ],
)
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_a_wider_limit_is_never_harder_to_keep(policy_of, table_of, gate, wider, mode):
    """More room means more evidence that it is kept and less that it is broken."""
    table = table_with(table_of)
    found = [
        judge(policy_of(one, **mode), table, run="r", ended=ENDED).looks
        for one in (gate, {**gate, **wider})
    ]

    for narrow, wide in zip(*found, strict=False):
        assert wide.log_e_hold[0] >= narrow.log_e_hold[0] - 1e-9
        assert wide.log_e_broken[0] <= narrow.log_e_broken[0] + 1e-9


def test_a_document_is_plain_json(policy, table_of):
    """Whatever the units are, a decision is JSON without NaN."""
    text = judge(policy, table_with(table_of), run="r", ended=ENDED).to_json()

    assert json.loads(text, parse_constant=pytest.fail)["pairs"] > 0


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(count=st.integers(1, 6), seed=st.integers(0, 999), data=st.data())
def test_any_split_adds_up_however_it_is_grouped(policy, table_of, count, seed, data):
    """Merging is associative and commutes, for any split by request."""
    table = table_with(table_of)
    apart = [folded(policy, [shard]) for shard in shards_of(table, count, seed)]
    order = data.draw(st.permutations(range(count)))
    cut = data.draw(st.integers(0, count))
    turned = [apart[index] for index in order]

    grouped = merged(policy, [merged(policy, turned[:cut]), *turned[cut:]])

    assert folded(policy, [table]).to_bytes() == grouped.to_bytes()


def test_merging_leaves_the_shards_as_they_were(policy, table_of):
    """A shard may be merged again, with others."""
    apart = [folded(policy, [one]) for one in shards_of(table_with(table_of), 2, 0)]
    before = [shard.to_bytes() for shard in apart]

    merged(policy, apart)

    assert before == [shard.to_bytes() for shard in apart]


def test_rows_in_any_order_give_the_same_document(policy, table_of):
    """The document is equal to the byte however the rows come."""
    table = table_with(table_of)
    order = pa.array(np.random.default_rng(1).permutation(table.num_rows))

    expected = judge(policy, table, run="r", ended=ENDED).to_json()

    assert expected == judge(policy, table.take(order), run="r", ended=ENDED).to_json()


def test_latencies_may_be_swapped_inside_a_block(policy_of, table_of):
    """Whose pair of latencies it was doesn't matter among requests of ten seconds."""
    policy = policy_of(GATES[0], GATES[2], **MODES["blocks"])
    rng = np.random.default_rng(2)
    pairs = rng.lognormal(0, 0.5, (COUNT, 1)) * rng.lognormal(0, 0.1, (COUNT, 2))
    block = np.arange(COUNT) * 3 // 10
    swapped = pairs[np.lexsort((rng.random(COUNT), block))]

    expected, found = (
        judge(
            policy,
            table_of({"latency_s": list(a)}, {"latency_s": list(b)}, every_s=3.0),
            run="r",
            ended=ENDED,
        ).to_json()
        for a, b in (pairs.T, swapped.T)
    )

    assert expected == found


def last_looks(policy_of, table, rules, schedules):
    """The last look of one policy at several values of `look_every`."""
    return [
        judge(
            policy_of(*GATES, **{**rules, "look_every": every, "min_pairs": 10**6}),
            table,
            run="r",
            ended=ENDED,
        ).looks[-1]
        for every in schedules
    ]


@pytest.mark.parametrize(
    ("rules", "schedules"),
    [({"block": "request"}, ("10s", "20s")), (MODES["blocks"], ("10m", "1h"))],
    ids=MODES,
)
def test_how_often_is_looked_changes_no_evidence_that_limits_hold(
    policy_of, table_of, rules, schedules
):
    """At the same time there is the same evidence, whatever `look_every` is."""
    table = table_with(table_of)
    table = table.filter(pa.array(table["arrived_s"].to_numpy() < 3000))

    one, other = last_looks(policy_of, table, rules, schedules)

    assert one.elapsed_s == other.elapsed_s
    assert one.log_e_hold == pytest.approx(other.log_e_hold, abs=1e-9)


def test_how_often_is_looked_changes_no_evidence_of_harm_in_blocks(policy_of, table_of):
    """Bets on late harm begin anew by blocks of time, which no look makes longer."""
    rules = MODES["blocks"]
    one, other = last_looks(policy_of, table_with(table_of), rules, ("10m", "1h"))

    assert one.log_e_broken == pytest.approx(other.log_e_broken, abs=1e-9)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize(
    ("gate", "rooms"),
    [
        (GATES[0], ("max_ratio", [1.02, 1.05, 1.1, 1.2, 1.5])),
        (GATES[3], ("margin", ["1%", "2%", "3%", "5%", "10%"])),
        (GATES[4], ("margin", ["2%", "5%", "10%", "15%", "25%"])),
    ],
    ids=["ratio", "errors", "accuracy"],
)
def test_what_holds_still_holds_with_more_room(policy_of, table_of, gate, rooms, mode):
    """A wider limit never turns what is shown to hold into what isn't."""
    table, (name, values) = table_with(table_of), rooms
    rules = {**mode, "min_pairs": 10**6}

    holds = [
        judge(policy_of({**gate, name: value}, **rules), table, run="r", ended=ENDED)
        .gates[0]
        .status
        is GateStatus.HOLDS
        for value in values
    ]

    assert sorted(holds) == holds
    assert holds[-1]


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_what_holds_still_holds_at_a_larger_alpha(policy_of, table_of, mode):
    """Who accepts more errors has shown whatever the cautious have shown."""
    table = table_with(table_of)
    held = []
    for alpha in ("0.1%", "1%", "5%", "10%"):
        policy = policy_of(*GATES, **mode, alpha=alpha, min_pairs=10**6)
        gates = judge(policy, table, run="r", ended=ENDED).gates
        held.append({g.name for g in gates if g.status is GateStatus.HOLDS})

    assert all(less <= more for less, more in itertools.pairwise(held))
    assert held[-1]
