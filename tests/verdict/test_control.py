"""The A/A control: what comes from the device is never held against the variant."""

import dataclasses
import math

import numpy as np
import pytest

from canary.decision import ControlStatus, Verdict
from canary.evidence.observation import to_table
from canary.gates.control_report import _by_block
from canary.judge import Ended, judge
from canary.stats.betting import log_mean_exp
from canary.stats.block_cells import above, below, bet, counts_by_block
from canary.testing import observe

LATENCY = {"metric": "latency", "quantile": "p50", "max_ratio": 1.25}
ACCURACY = {"metric": "accuracy", "margin": "10%"}
ERRORS = {"metric": "errors", "margin": "10%"}
ENDED = Ended(reason="end of traffic")
DENSE, OTHER = ("sdpa[dense]",), ("blocked[dense]",)
RUNS = 40


def arms(*, every_s=0.25, control_every=1, shared=None, **columns):
    """Rows of both arms and of the baseline's copy, which answers every n-th request.

    `columns` holds, per arm, what that arm alone has.
    """
    rows = []
    for arm in ("baseline", "candidate", "baseline_aa"):
        given = {**(shared or {}), **columns.get(arm, {})}
        count = max(len(v) for v in given.values() if isinstance(v, list))
        found = observe(arm=arm, arrived_s=list(np.arange(count) * every_s), **given)
        rows += found[:: control_every if arm == "baseline_aa" else 1]
    return rows


def timed(seed=0, *, count=400, candidate=1.0, copy=1.0, spread=0.5, **options):
    """Requests with service times that share the request and differ by 5% of noise."""
    rng = np.random.default_rng(seed)
    request = rng.lognormal(-3, spread, count)
    factors = {"baseline": 1.0, "candidate": candidate, "baseline_aa": copy}
    columns = {}
    for arm, factor in factors.items():
        times = list(request * factor * rng.lognormal(0, 0.05, count))
        columns[arm] = {"service_s": times}
        if arm != "baseline_aa":  # the copy has no queue to count from the arrival
            columns[arm]["latency_s"] = times
    return arms(shared={"kind": "latency"}, **columns, **options)


@pytest.fixture
def controlled(policy_of):
    """A policy that asks for an A/A control of all requests."""

    def build(*gates, share=1.0, **rules):
        return policy_of(*gates, **rules).model_copy(update={"aa_control": share})

    return build


def judged(policy, rows):
    return judge(policy, to_table(rows), run="r", ended=ENDED)


def test_a_slow_device_is_invalid_not_a_rollback(controlled, policy_of):
    """What slows the candidate and the copy alike says nothing about the variant."""
    rows = timed(candidate=1.5, copy=1.5)

    without = judged(policy_of(LATENCY), rows)
    decision = judged(controlled(LATENCY), rows)
    [control] = decision.validity.control
    first = next(look for look in decision.looks if look.verdict is Verdict.INVALID)

    assert without.verdict is Verdict.ROLLBACK
    assert decision.verdict is Verdict.INVALID
    assert all(look.verdict is not Verdict.ROLLBACK for look in decision.looks)
    assert first.elapsed_s <= without.elapsed_s
    assert control.status is ControlStatus.DIFFERS
    assert control.column == "service_s"
    assert 1.4 < control.lower < control.estimate < control.upper < 1.6
    assert math.isclose(control.tolerance, math.sqrt(1.25))
    [reason] = decision.because
    assert reason.startswith("the A/A control differs: service time of the baseline's")
    assert "second copy is 1.5x that of the baseline (at least 1." in reason
    assert "tolerance 1.12x) over 400 pairs; the device or its place" in reason


def test_invalid_beats_rollback_at_the_same_look(controlled, assessment_of):
    """A look that could say both blames the device."""
    table = to_table(timed(candidate=1.5, copy=1.5))

    found = assessment_of(controlled(LATENCY), table).look(1e3, last=True)

    assert found.log_e_rollback > math.log(1 / 0.045)
    assert found.control.differs
    assert found.look.verdict is Verdict.INVALID


def test_a_slow_device_shows_after_a_dozen_pairs(controlled):
    """The comparison of single requests needs no bound for a quantile."""
    decision = judged(controlled(LATENCY), timed(count=12, candidate=1.5, copy=1.5))

    assert decision.verdict is Verdict.INVALID


def test_a_slow_variant_on_a_sound_device_is_rolled_back(controlled):
    """The copy agrees with the baseline, so the variant is what is slow."""
    decision = judged(controlled(LATENCY), timed(candidate=1.5))
    [control] = decision.validity.control

    assert decision.verdict is Verdict.ROLLBACK
    assert control.status is ControlStatus.AGREES
    assert decision.validity.valid


def test_a_faster_device_is_invalid_rather_than_a_promotion(controlled, policy_of):
    """A place that flatters the candidate confounds as one that slows it does."""
    rows = timed(candidate=0.6, copy=0.6)

    decision = judged(controlled(LATENCY), rows)

    assert judged(policy_of(LATENCY), rows).verdict is Verdict.PROMOTE
    assert decision.verdict is Verdict.INVALID
    assert "is 0.601x that of the baseline (at most 0.6" in decision.because[0]
    assert "tolerance 0.894x" in decision.because[0]


@pytest.mark.parametrize(
    ("candidate", "verdict"), [(1.0, Verdict.PROMOTE), (1.5, Verdict.ROLLBACK)]
)
def test_a_control_that_cannot_tell_blocks_nothing(
    controlled, policy_of, candidate, verdict
):
    """Four pairs of a slow copy change no verdict, and their resolution is printed."""
    rows = timed(candidate=candidate, copy=1.5, control_every=100)

    decision = judged(controlled(LATENCY, share=0.01), rows)
    without = judged(policy_of(LATENCY), rows)

    assert decision.verdict is without.verdict is verdict
    assert decision.because == without.because
    [control] = decision.validity.control
    assert control.status is ControlStatus.UNKNOWN
    assert control.lower is control.upper is None
    assert 0 < control.pairs == decision.validity.control_pairs <= 4
    assert decision.validity.control_share == 0.01


def test_a_small_difference_is_inside_the_tolerance(controlled):
    """At a limit of 1.25x a device that is 6% slower counts as equal."""
    decision = judged(controlled(LATENCY), timed(copy=1.06))

    assert decision.verdict is Verdict.PROMOTE
    assert decision.validity.control[0].status is ControlStatus.AGREES


def test_a_slow_tail_is_seen_by_the_limits_own_quantile(controlled):
    """A device that stalls one request in five agrees with the typical one only."""
    rows = timed(count=1500, spread=0.1)
    rows = [
        dataclasses.replace(row, service_s=row.service_s * 5)
        if row.arm == "baseline_aa" and int(row.request_id[1:]) % 5 == 0
        else row
        for row in rows
    ]

    [control] = judged(
        controlled({**LATENCY, "quantile": "p90"}, min_pairs=1500), rows
    ).validity.control

    assert control.status is ControlStatus.DIFFERS
    assert control.quantile == 0.9
    assert control.lower > 1.12


def test_off_is_off(policy_of):
    """A copy that the policy didn't ask for counts nowhere."""
    decision = judged(policy_of(LATENCY), timed(copy=1.5))

    assert decision.validity.control == ()
    assert decision.validity.control_share == decision.validity.control_pairs == 0
    assert "baseline_aa" not in decision.validity.kernels


def test_the_tightest_limit_of_a_metric_sets_the_tolerance(controlled):
    """One control per metric, none for memory, faster limits count like slower ones."""
    policy = controlled(
        {**LATENCY, "regime": "<8k"},
        {**LATENCY, "quantile": "p90", "max_ratio": 0.9},
        {"metric": "latency", "over": "50ms", "margin": "4%"},
        {"metric": "service", "quantile": "p50", "max_ratio": 1.0},
        {"metric": "memory", "quantile": "p50", "max_ratio": 1.1},
        {"metric": "errors", "margin": "3%"},
    )

    found = judged(policy, timed()).validity.control

    assert [
        ("latency", pytest.approx(1 / math.sqrt(0.9))),
        ("latency", 0.02),
        ("service", 1.01),
        ("errors", 0.015),
    ] == [(control.metric, control.tolerance) for control in found]


def test_times_from_the_arrival_only_where_nothing_else_was_measured(controlled):
    """Measurements without a send time are compared as they are, and named so."""
    rows = timed(copy=1.5)
    latency = {
        row.request_id: row.service_s for row in rows if row.arm == "baseline_aa"
    }
    rows = [
        dataclasses.replace(
            row, latency_s=row.latency_s or latency[row.request_id], service_s=None
        )
        for row in rows
    ]

    decision = judged(controlled(LATENCY), rows)

    assert decision.verdict is Verdict.INVALID
    assert decision.validity.control[0].column == "latency_s"


@pytest.mark.parametrize("wrong", ["baseline", "baseline_aa"])
def test_wrong_answers_of_one_copy_are_invalid(controlled, wrong):
    """Two copies of one variant answer alike, validation group by group."""
    right = {"score": [1.0] * 60}
    half = {"score": [1.0, 0.0] * 30}
    columns = dict.fromkeys(("baseline", "candidate", "baseline_aa"), right)
    rows = arms(shared={"kind": "quality"}, **{**columns, wrong: half})

    decision = judged(controlled(ACCURACY), rows)

    assert decision.verdict is Verdict.INVALID
    [control] = decision.validity.control
    assert abs(control.estimate) == 0.5
    assert (control.estimate < 0) == (wrong == "baseline_aa")
    assert "over 60 validation groups" in decision.because[0]


def test_failures_on_the_device_are_invalid(controlled):
    """A copy that fails is infinitely slow and has errors; neither is the variant's."""
    rows = timed(count=60)
    rows = [
        dataclasses.replace(row, status="error", service_s=None)
        if row.arm == "baseline_aa"
        else row
        for row in rows
    ]

    decision = judged(controlled(LATENCY, ERRORS), rows)

    assert decision.verdict is Verdict.INVALID
    assert [ControlStatus.DIFFERS] * 2 == [c.status for c in decision.validity.control]
    assert decision.validity.control[0].estimate is None


def test_what_the_copy_did_not_answer_is_not_missing(controlled):
    """It answers a share; the other requests have all their answers."""
    decision = judged(controlled(LATENCY, share=0.1), timed(control_every=10))

    assert decision.verdict is Verdict.PROMOTE
    assert decision.validity.missing_baseline == 0
    assert decision.validity.missing_candidate == 0
    assert decision.validity.control_pairs < decision.pairs


def test_another_kernel_of_the_copy_is_invalid(controlled, policy_of):
    """A copy may run fewer kernels than the baseline, but none of its own."""
    rows = timed()

    def with_kernels(baseline, copy):
        names = {"baseline": baseline, "candidate": DENSE, "baseline_aa": copy}
        return [
            dataclasses.replace(row, kernel=names[row.arm][i % len(names[row.arm])])
            for i, row in enumerate(rows)
        ]

    other = judged(controlled(LATENCY), with_kernels(DENSE, OTHER))
    fewer = judged(controlled(LATENCY), with_kernels(DENSE + OTHER, DENSE))
    asked = judged(policy_of(LATENCY), with_kernels(DENSE, OTHER))

    assert other.verdict is Verdict.INVALID
    assert OTHER[0] in other.because[0]
    assert list(OTHER) == other.validity.kernels["baseline_aa"]
    assert fewer.verdict is asked.verdict is Verdict.PROMOTE


def test_rows_in_any_order_give_the_same_document(controlled):
    """The document is equal to the byte however the rows come."""
    policy, rows = controlled(LATENCY, ERRORS), timed(copy=1.1)
    order = np.random.default_rng(3).permutation(len(rows))

    assert (
        judged(policy, rows).to_json()
        == judged(policy, [rows[i] for i in order]).to_json()
    )


@pytest.mark.parametrize("slower", [1.0, 1.11])
def test_sound_devices_are_rarely_called_different(controlled, assessment_of, slower):
    """Equal, or just inside the tolerance: at most alpha of the runs, at 10 looks."""
    policy = controlled(LATENCY, ACCURACY, ERRORS, look_every="5s")
    looks = np.arange(1, 11) * 5.0
    found = 0
    for seed in range(RUNS):
        rng = np.random.default_rng(seed)
        request, noise = rng.lognormal(-1, 0.5, 200), rng.lognormal(0, 0.3, (2, 200))
        # A quarter of the answers of either copy is wrong, a tenth fails.
        columns = {
            arm: {
                "service_s": list(request * factor * times),
                "score": list(rng.choice([0.0, 1.0], 200, p=[0.25, 0.75])),
                "status": list(rng.choice(["error", "ok"], 200, p=[0.1, 0.9])),
            }
            for arm, factor, times in (
                ("baseline", 1.0, noise[0]),
                ("baseline_aa", slower, noise[1]),
            )
        }
        table = to_table(arms(candidate=columns["baseline"], **columns))
        assessment = assessment_of(policy, table)
        found += any(assessment.look(at_s).control.differs for at_s in looks)

    assert found / RUNS <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / RUNS)


@pytest.mark.parametrize("count", [3, 60, 900])
def test_bounds_of_the_median_are_those_of_asking_at_every_bin(count):
    """The search finds what betting at each bin near the median would."""
    rng = np.random.default_rng(count)
    ratios = np.rint(rng.normal(40, 30, count)).astype(np.int64)
    units = np.sort(rng.integers(0, 1 + count // 4, count))
    units = np.unique(units, return_inverse=True)[1]
    near = int(np.median(ratios))
    requests = np.bincount(units)
    counts = counts_by_block(ratios, units, len(requests), near - 2000, 4000)
    few, many = (
        np.flatnonzero(log_mean_exp(wealth) >= math.log(1 / 0.05))
        for wealth in bet(counts, requests, below(0.5), above(0.5))
    )
    expected = (
        near - 2000 + int(few[-1]) if len(few) else None,
        near - 2000 + int(many[0]) if len(many) else None,
    )

    assert expected == _by_block(ratios, units, near, 0.05)
    assert (count > 3) is (None not in expected)
