"""One fact each about how evidence becomes a verdict."""

import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from canary.decision import GateStatus, Verdict, worst_exit_code
from canary.evidence.observation import to_table
from canary.judge import Ended, judge
from canary.testing import observe

ACCURACY = {"metric": "accuracy", "task": "contracts", "margin": "5%"}
LATENCY = {"metric": "latency", "quantile": "p50", "max_ratio": 1.25}
ENDED = Ended(reason="end of traffic")


def quality(table_of, baseline, candidate, **columns):
    return table_of(
        {"score": baseline},
        {"score": candidate},
        kind="quality",
        task="contracts",
        **columns,
    )


def latency(table_of, baseline, candidate, **columns):
    return table_of(
        {"latency_s": baseline}, {"latency_s": candidate}, kind="latency", **columns
    )


def test_equal_answers_are_promoted_once_the_margin_is_shown(policy_of, table_of):
    """150 documents without a loss show that at most 5 points are lost."""
    decision = judge(
        policy_of(ACCURACY), quality(table_of, [1.0] * 150, [1.0] * 150), run="r"
    )

    assert decision.verdict is Verdict.PROMOTE
    assert decision.gates[0].status is GateStatus.HOLDS
    assert decision.gates[0].lower > -0.05


def test_two_losses_in_two_hundred_still_hold(policy_of, table_of):
    """200 documents at a margin of 5 points survive two losses."""
    candidate = [1.0] * 200
    candidate[20] = candidate[120] = 0.0
    decision = judge(
        policy_of(ACCURACY), quality(table_of, [1.0] * 200, candidate), run="r"
    )

    assert decision.verdict is Verdict.PROMOTE


def test_too_few_documents_decide_nothing(policy_of, table_of):
    """40 equal answers can't show a margin of 5 points, and the need is stated."""
    decision = judge(
        policy_of(ACCURACY),
        quality(table_of, [1.0] * 40, [1.0] * 40),
        run="r",
        ended=ENDED,
    )
    gate = decision.gates[0]

    assert decision.verdict is Verdict.INCONCLUSIVE
    assert gate.status is GateStatus.UNDECIDED
    assert gate.units_needed == 88
    assert "end of traffic" in decision.because[0]


def test_seven_losses_in_a_row_roll_back(policy_of, table_of):
    """A candidate that answers nothing is rolled back within a handful of documents."""
    decision = judge(
        policy_of(ACCURACY), quality(table_of, [1.0] * 10, [0.0] * 10), run="r"
    )

    assert decision.verdict is Verdict.ROLLBACK
    assert decision.gates[0].status is GateStatus.BROKEN
    assert decision.gates[0].upper < -0.05


def test_rollback_waits_for_neither_duration_nor_pairs(policy_of, table_of):
    """Harm is acted on before the minimum that a promotion needs."""
    policy = policy_of(ACCURACY, min_pairs=1000, min_duration="30m")

    decision = judge(policy, quality(table_of, [1.0] * 10, [0.0] * 10), run="r")

    assert decision.verdict is Verdict.ROLLBACK


@pytest.mark.parametrize("rule", [{"min_pairs": 151}, {"min_duration": "30m"}])
def test_promotion_waits_for_duration_and_pairs(policy_of, table_of, rule):
    """What has been shown is not acted on before the policy's minimum."""
    table = quality(table_of, [1.0] * 150, [1.0] * 150)

    decision = judge(policy_of(ACCURACY, **rule), table, run="r", ended=ENDED)

    assert decision.verdict is Verdict.INCONCLUSIVE
    assert decision.gates[0].status is GateStatus.HOLDS
    assert "The policy asks for more" in decision.because[1]


def test_every_gate_must_hold_at_the_same_look(policy_of, table_of):
    """One gate that is shown doesn't carry another that is not."""
    table = quality(table_of, [1.0] * 150, [1.0] * 150)

    decision = judge(policy_of(ACCURACY, LATENCY), table, run="r", ended=ENDED)

    assert decision.verdict is Verdict.INCONCLUSIVE
    assert [GateStatus.HOLDS, GateStatus.INSUFFICIENT] == [
        g.status for g in decision.gates
    ]


def test_no_data_is_never_good_news(policy_of):
    """Without a single pair nothing is known, nothing is decided, nothing is zero."""
    decision = judge(policy_of(ACCURACY, LATENCY), to_table([]), run="r", ended=ENDED)

    assert decision.verdict is Verdict.INCONCLUSIVE
    for gate in decision.gates:
        assert gate.status is GateStatus.INSUFFICIENT
        assert gate.estimate is gate.lower is gate.upper is None


def test_a_failed_request_is_wrong(policy_of, table_of):
    """A candidate that fails instead of answering loses the item."""
    table = table_of(
        {"score": [1.0] * 10},
        {"status": ["error"] * 10, "score": [None] * 10},
        kind="quality",
        task="contracts",
    )

    decision = judge(policy_of(ACCURACY), table, run="r")

    assert decision.verdict is Verdict.ROLLBACK


def test_a_failed_request_is_infinitely_slow(policy_of, table_of):
    """Failures push the quantile up, they don't drop out of it."""
    rng = np.random.default_rng(1)
    times = list(rng.lognormal(0, 0.3, 400))
    status = ["error" if i % 5 else "ok" for i in range(400)]
    failed = [None if s == "error" else t for s, t in zip(status, times, strict=True)]
    table = table_of(
        {"latency_s": times}, {"latency_s": failed, "status": status}, kind="latency"
    )

    decision = judge(policy_of(LATENCY), table, run="r")

    assert decision.verdict is Verdict.ROLLBACK
    assert decision.gates[0].candidate is None


def test_faster_is_promoted_and_slower_rolled_back(policy_of, table_of):
    """The paired quantile gate decides both ways."""
    times = np.random.default_rng(2).lognormal(0, 0.3, 600)
    policy = policy_of(LATENCY)

    faster = judge(policy, latency(table_of, list(times), list(times * 0.9)), run="r")
    slower = judge(policy, latency(table_of, list(times), list(times * 1.6)), run="r")

    assert faster.verdict is Verdict.PROMOTE
    assert faster.gates[0].upper <= 1.25
    assert slower.verdict is Verdict.ROLLBACK
    assert slower.gates[0].lower >= 1.25


def test_a_tail_needs_enough_requests(policy_of, table_of):
    """A p99 from 300 requests is insufficient, with the number that it takes."""
    times = list(np.random.default_rng(3).lognormal(0, 0.3, 300))
    gate = {"metric": "latency", "quantile": "p99", "max_ratio": 1.2}

    result = judge(
        policy_of(gate), latency(table_of, times, times), run="r", ended=ENDED
    ).gates[0]

    assert result.status is GateStatus.INSUFFICIENT
    assert result.units_needed > 1190
    assert "which takes at least 1,1" in result.reason
    assert result.upper is None


def test_errors_and_slow_shares_are_judged_as_shares(policy_of, table_of):
    """More errors, or more requests over a limit, break their gates."""
    status = ["error" if i % 3 == 0 else "ok" for i in range(120)]
    errors = judge(
        policy_of({"metric": "errors", "margin": "5%"}),
        table_of({"status": ["ok"] * 120}, {"status": status}, kind="latency"),
        run="r",
    )
    slow = judge(
        policy_of({"metric": "ttft", "over": "2s", "margin": "5%"}),
        table_of({"ttft_s": [1.0] * 60}, {"ttft_s": [1.0, 3.0] * 30}, kind="latency"),
        run="r",
    )

    assert errors.verdict is slow.verdict is Verdict.ROLLBACK
    assert errors.gates[0].estimate > 0.05
    assert slow.gates[0].lower > 0.05


def test_an_overloaded_baseline_makes_queues_insufficient(policy_of, table_of):
    """Above 90 % load the queue decides, so latency gates say so instead."""
    times = list(np.random.default_rng(4).lognormal(0, 0.3, 400))
    table = latency(table_of, times, times, service_s=0.95)

    decision = judge(policy_of(LATENCY), table, run="r", ended=ENDED)

    assert decision.gates[0].status is GateStatus.INSUFFICIENT
    assert "busy 95% of the time" in decision.gates[0].reason


def test_service_time_does_not_mind_the_load(policy_of, table_of):
    """Service time knows no queue, so load doesn't stop it from being judged."""
    gate = {"metric": "service", "quantile": "p50", "max_ratio": 1.25}
    times = list(np.random.default_rng(5).uniform(0.93, 0.97, 400))
    table = latency(table_of, times, times, service_s=times)

    assert judge(policy_of(gate), table, run="r").verdict is Verdict.PROMOTE


def test_equal_memory_holds_although_every_value_is_the_same(policy_of, table_of):
    """Ties at the baseline's quantile take no power away."""
    gate = {"metric": "memory", "quantile": "p90", "max_ratio": 1.05}
    same = table_of({}, {}, peak_memory_bytes=[2**28] * 500, kind="latency")
    more = table_of(
        {"peak_memory_bytes": [2**28] * 900},
        {"peak_memory_bytes": [2**29] * 900},
        kind="latency",
    )

    assert judge(policy_of(gate), same, run="r").verdict is Verdict.PROMOTE
    assert judge(policy_of(gate), more, run="r").verdict is Verdict.ROLLBACK


def test_the_first_final_verdict_stands(policy_of, table_of):
    """What comes after a final look changes nothing of the decision."""
    good, bad = [1.0] * 200, [0.0] * 100
    policy = policy_of(ACCURACY)

    short = judge(policy, quality(table_of, good, good), run="r")
    long = judge(
        policy, quality(table_of, good + [1.0] * 100, good + bad), run="r", ended=ENDED
    )

    assert short.verdict is long.verdict is Verdict.PROMOTE
    assert short.to_json() == long.to_json()


def test_harm_that_begins_late_is_found(policy_of, table_of):
    """After 300 good answers, a candidate that breaks is still rolled back."""
    candidate = [1.0] * 300 + [0.0] * 40
    policy = policy_of(ACCURACY, min_pairs=10_000)

    decision = judge(policy, quality(table_of, [1.0] * 340, candidate), run="r")

    assert decision.verdict is Verdict.ROLLBACK
    assert decision.pairs < 340


def test_a_group_counts_once_all_its_items_are_answered(policy_of, table_of):
    """Half of a group is not a unit; the whole of it is one."""
    group = [f"doc{i // 4}" for i in range(10)]

    decision = judge(
        policy_of(ACCURACY),
        quality(table_of, [1.0] * 10, [0.5] * 10, group=group, group_items=4),
        run="r",
        ended=ENDED,
    )

    assert decision.gates[0].units == 2
    assert decision.gates[0].estimate == pytest.approx(-0.5)


def test_too_many_void_requests_make_the_run_invalid(policy_of, table_of):
    """More than 1 % void or shed neither promotes nor rolls back."""
    status = ["void" if i % 20 == 0 else "ok" for i in range(200)]
    table = table_of(
        {"score": [1.0] * 200, "status": status},
        {"score": [0.0] * 200, "status": status},
        kind="quality",
        task="contracts",
    )

    decision = judge(policy_of(ACCURACY), table, run="r")

    assert decision.verdict is Verdict.INVALID
    assert "void or shed" in decision.because[0]


def test_requests_sent_too_late_make_the_run_invalid(policy_of, table_of):
    """What came late is the sender's, not an arm's; up to 1 % of it is forgiven."""
    fine, late = ([0.3 if i % n == 0 else 0.001 for i in range(400)] for n in (200, 50))
    arm = {"score": [1.0] * 400}
    found = [
        judge(
            policy_of(ACCURACY),
            table_of(
                {**arm, "send_lag_s": lag_s},
                {**arm, "send_lag_s": [0.0] * 400},
                kind="quality",
                task="contracts",
            ),
            run="r",
        )
        for lag_s in (fine, late)
    ]

    assert [0.01, 0.02] == [decision.validity.late_share for decision in found]
    assert [True, False] == [decision.validity.valid for decision in found]
    assert Verdict.INVALID is found[1].verdict
    assert "8 of 400 requests (2.0%) were sent over 50 ms late" in (found[1].because[0])


def test_a_tight_limit_on_first_tokens_tightens_the_schedule(policy_of):
    """A limit of 200 ms to the first token allows no 50 ms of our own."""
    tight = {"metric": "ttft", "over": "200ms", "margin": "1%"}

    assert 0.05 == policy_of(ACCURACY).send_lag_limit_s
    assert 0.01 == policy_of(ACCURACY, tight).send_lag_limit_s


def test_answers_missing_on_one_side_make_the_run_invalid(policy_of):
    """Unequal losses are a fault of the run, not evidence about the candidate."""
    arrivals = [float(i) for i in range(200)]
    rows = observe(
        arm="baseline", arrived_s=arrivals, score=1.0, kind="quality", task="contracts"
    )
    candidate = observe(
        arm="candidate", arrived_s=arrivals, score=1.0, kind="quality", task="contracts"
    )
    rows += [row for index, row in enumerate(candidate) if index % 10]

    decision = judge(policy_of(ACCURACY), to_table(rows), run="r", ended=ENDED)

    assert decision.verdict is Verdict.INVALID
    assert "20 of the candidate" in decision.because[0]


def test_a_baseline_that_answers_nothing_shows_nothing(policy_of, table_of):
    """Where the baseline is wrong, or fails, everywhere, no candidate could lose."""
    wrong = judge(
        policy_of(ACCURACY),
        quality(table_of, [0.0] * 300, [0.0] * 300),
        run="r",
        ended=ENDED,
    )
    failing = judge(
        policy_of({"metric": "errors", "margin": "5%"}),
        table_of({}, {}, status=["error"] * 300, kind="latency"),
        run="r",
        ended=ENDED,
    )

    for decision in (wrong, failing):
        assert decision.verdict is Verdict.INCONCLUSIVE
        assert decision.gates[0].status is GateStatus.INSUFFICIENT
        assert "nothing to lose" in decision.gates[0].reason
        assert decision.gates[0].units_needed is None


@pytest.mark.parametrize("column", ["score", "latency_s"])
def test_values_missing_on_one_side_make_the_run_invalid(policy_of, table_of, column):
    """An answer without the score or time that the other arm has is a loss."""
    blank = [None if index % 3 else 1.0 for index in range(150)]
    table = table_of({column: [1.0] * 150}, {column: blank})
    gate = ACCURACY if column == "score" else LATENCY
    gate = {key: value for key, value in gate.items() if key != "task"}

    decision = judge(policy_of(gate), table, run="r", ended=ENDED)

    assert decision.verdict is Verdict.INVALID
    assert "100 of the candidate" in decision.because[0]


def test_more_requests_are_no_cure_for_an_overloaded_baseline(policy_of, table_of):
    """Where the load is what is wrong, no number of further pairs is named."""
    times = list(np.random.default_rng(4).lognormal(0, 0.3, 400))
    table = latency(table_of, times, times, service_s=0.95)

    decision = judge(policy_of(LATENCY), table, run="r", ended=ENDED)

    assert decision.gates[0].units_needed is None
    assert not any("Needs about" in sentence for sentence in decision.because)


def test_evidence_after_the_deadline_does_not_count(policy_of, table_of):
    """A run is over at max_duration, however long the observations go on."""
    table = quality(table_of, [1.0] * 300, [1.0] * 300)

    decision = judge(policy_of(ACCURACY, max_duration="1m"), table, run="r")

    assert decision.verdict is Verdict.INCONCLUSIVE
    assert decision.pairs == 60


def test_a_gate_sees_only_its_regime(policy_of, table_of):
    """A gate on long prompts is not helped by short ones, and routing says as much."""
    gate = {**ACCURACY, "regime": "8k-32k"}
    tokens = [100] * 150 + [10_000] * 10
    table = quality(
        table_of, [1.0] * 160, [1.0] * 150 + [0.0] * 10, prompt_tokens=tokens
    )

    decision = judge(policy_of(gate, regimes=("8k", "32k")), table, run="r")

    assert decision.verdict is Verdict.ROLLBACK
    assert decision.gates[0].units == 10
    assert {"<8k": 150, "8k-32k": 10, ">=32k": 0} == {
        route.regime: route.pairs for route in decision.routing
    }


def test_unmeasured_regimes_stay_with_the_baseline(policy_of, table_of):
    """A promotion routes only what was seen."""
    decision = judge(
        policy_of(ACCURACY), quality(table_of, [1.0] * 150, [1.0] * 150), run="r"
    )

    assert [decision.candidate, decision.baseline] == [
        r.serve for r in decision.routing
    ]


def test_continue_until_a_deadline(policy_of, table_of):
    """Without an end in sight the same evidence says continue."""
    table = quality(table_of, [1.0] * 40, [1.0] * 40)
    policy = policy_of(ACCURACY)

    assert judge(policy, table, run="r").verdict is Verdict.CONTINUE
    assert judge(policy, table, run="r", ended=ENDED).verdict is Verdict.INCONCLUSIVE
    short = policy_of(ACCURACY, max_duration="30s", look_every="10s")
    assert judge(short, table, run="r").verdict is Verdict.INCONCLUSIVE


def test_at_deadline_says_what_to_do(policy_of, table_of):
    """An inconclusive policy keeps the baseline or holds the rollout, as it says."""
    table = quality(table_of, [1.0] * 40, [1.0] * 40)
    actions = [
        judge(policy_of(ACCURACY, at_deadline=rule), table, run="r", ended=ENDED).action
        for rule in ("rollback", "hold")
    ]

    assert "keep reference/dense" in actions[0]
    assert "hold" in actions[1]


def test_the_document_is_json_that_repeats_to_the_byte(policy_of, table_of):
    """Judging the same observations again gives the same bytes, without NaN."""
    table = quality(table_of, [1.0] * 40, [1.0] * 40)
    shuffled = table.take(np.random.default_rng(0).permutation(table.num_rows))
    policy = policy_of(ACCURACY, LATENCY)

    first = judge(policy, table, run="r").to_json()

    assert first == judge(policy, shuffled, run="r").to_json()
    document = json.loads(first, parse_constant=pytest.fail)
    assert document["schema"] == "canary.decision/1"
    assert document["gates"][1]["estimate"] is None


def test_exit_codes_of_several_policies_are_the_worst():
    """Invalid is worst, then rollback, then not decided, then promote."""
    order = [Verdict.PROMOTE, Verdict.CONTINUE, Verdict.ROLLBACK, Verdict.INVALID]
    codes = [worst_exit_code(order[: n + 1]) for n in range(len(order))]

    assert [0, 4, 3, 5] == codes


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    losses=st.lists(st.integers(0, 99), max_size=30, unique=True),
    more=st.lists(st.integers(0, 99), max_size=10, unique=True),
)
def test_worse_evidence_never_improves_the_evidence(losses, more, request):
    """Turning right answers into wrong ones never adds to what speaks for a gate."""
    policy = request.getfixturevalue("policy_of")(ACCURACY)
    weights = []
    for wrong in (set(losses), set(losses) | set(more)):
        score = [0.0 if i in wrong else 1.0 for i in range(100)]
        rows = observe(
            arm="baseline",
            arrived_s=[float(i) for i in range(100)],
            score=1.0,
            kind="quality",
            task="contracts",
        )
        rows += observe(
            arm="candidate",
            arrived_s=[float(i) for i in range(100)],
            score=score,
            kind="quality",
            task="contracts",
        )
        assessment = request.getfixturevalue("assessment_of")(policy, to_table(rows))
        weights.append(assessment.look(1e3, last=True).weights[0])

    assert weights[1].log_e_hold <= weights[0].log_e_hold + 1e-9
    assert math.isfinite(weights[1].log_e_broken)
