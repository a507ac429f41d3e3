"""How many units a gate needs: formulas against the statistics, projections against
what the demo's run came to."""

import math
from pathlib import Path

import numpy as np
import pytest

from canary.errors import ObservationError
from canary.evidence.observation import to_table
from canary.evidence.reading import read_observations
from canary.judge import judge
from canary.planning.assumed import Assumptions
from canary.planning.needs import at_least, likely_blocks, project
from canary.policy.model import variant_name
from canary.stats import betting_log_e, paired_quantile_log_e, quantile_pairs_needed
from canary.testing import observe

ROOT = Path(__file__).parents[2]
ERRORS = {"metric": "errors", "margin": "1%"}
TAIL = {"metric": "latency", "quantile": "p99", "max_ratio": 1.1}
LONG = {"max_duration": "7d", "min_duration": "24h", "look_every": "1h"}


@pytest.fixture(scope="module")
def demo():
    return read_observations(ROOT / "reports/samples/demo")


@pytest.mark.parametrize("margin", [0.01, 0.05, 0.2])
def test_a_margin_takes_so_many_units_without_a_difference(policy_of, margin):
    """One unit fewer wouldn't reach the threshold."""
    policy = policy_of({"metric": "errors", "margin": f"{margin:.0%}"})

    needed = at_least(policy.gates[0], policy, 1.0)

    def log_e(units):
        return betting_log_e(np.zeros(units), null_mean=-margin, low=-1.0, high=1.0)

    assert log_e(needed) >= math.log(20) > log_e(needed - 1)
    assert margin != 0.01 or needed == 449


@pytest.mark.parametrize("p", [0.5, 0.9, 0.99])
def test_a_quantile_takes_a_bound_and_evidence_beyond_it(policy_of, p):
    """So many pairs decide when the candidate is never slower, one fewer doesn't."""
    gate = {"metric": "latency", "quantile": f"p{p * 100:g}", "max_ratio": 1.1}
    policy = policy_of(gate)

    needed = at_least(policy.gates[0], policy, 1.0)

    def log_e(pairs):
        return paired_quantile_log_e(
            np.arange(1.0, pairs + 1),
            np.zeros(pairs),
            p=p,
            ratio=1.1,
            alpha=0.05,
            hypothesis="hold",
        )

    finite = quantile_pairs_needed(
        [], [], p=p, ratio=1.1, alpha=0.05, hypothesis="hold"
    )
    assert needed > finite
    assert log_e(needed) >= math.log(1 / 0.045) > log_e(needed - 1)


def test_blocks_of_time_gain_what_lies_above_the_quantile(policy_of):
    """A p99 would take 467 blocks for its evidence alone, but that and the bound of the
    baseline's p99 share the hundredth that lies above it."""
    policy = policy_of(TAIL, ERRORS, **LONG)
    tail, errors = policy.gates

    needed = at_least(tail, policy, 50.0)

    def log_e(value, units, low):
        return betting_log_e(np.full(units, value), null_mean=0.0, low=low, high=1.0)

    def decides(units):
        return any(
            log_e(beyond, units, -1.0) >= math.log(1 / 0.045)
            and log_e(0.01 - beyond, units, -0.99) >= math.log(10 / 0.05)
            for beyond in np.linspace(0.0001, 0.0099, 99)
        )

    assert log_e(0.01, 467, -1.0) >= math.log(1 / 0.045) > log_e(0.01, 466, -1.0)
    assert needed > 2 * 467
    assert decides(math.ceil(1.01 * needed))
    assert not decides(math.floor(0.99 * needed))
    assert at_least(errors, policy, 50.0) == 449


def test_blocks_hold_at_least_the_pairs_that_it_takes(policy_of):
    """Where traffic is thin, or differences come often, pairs set their number."""
    policy = policy_of(TAIL, ERRORS, **LONG)
    tail, errors = policy.gates
    pairs = at_least(tail, policy_of(TAIL), 1.0)

    assert at_least(tail, policy, 1.5) == math.ceil(pairs / 1.5)
    assert likely_blocks(errors, 449, 1000, 10.0) == 449
    assert likely_blocks(errors, 449, 6000, 10.0) == 600
    assert likely_blocks(tail, 1190, 3000, 10.0) == 1490
    assert likely_blocks(errors, None, 95, 10.0) == 10


def test_a_pilot_that_decides_says_after_how_many_units(shipped, demo):
    """What the demo's run promoted needs no more than the run had, and no less than
    losing nothing takes."""
    policy = shipped("sparse-layers")

    found = project(policy, demo)

    decided = judge(policy, demo, run="demo")
    assert found.doubts == ()
    for gate, result in zip(policy.gates, decided.gates, strict=True):
        need = found.needs[gate.name]
        assert need.holds
        assert need.reason is None
        assert 0.5 * at_least(gate, policy, 1.0) < need.units <= result.units


def test_a_pilot_that_breaks_a_limit_points_to_a_rollback(shipped, demo):
    """The plain window loses every answer within a few groups."""
    found = project(shipped("window"), demo).needs

    assert not found["accuracy contracts"].holds
    assert found["accuracy contracts"].units <= 13
    assert found["errors"].holds


def test_a_pilot_that_decides_nothing_projects(shipped, demo):
    """A gate that the whole pilot leaves open needs what its decision says it needs."""
    policy = shipped("tail-latency")

    tail = project(policy, demo).needs["latency p99"]

    result = judge(policy, demo, run="demo").gates[0]
    assert tail.units == result.units_needed > 2000
    assert tail.reason == result.reason


def test_a_pilot_of_other_arms_is_refused(policy_of, demo):
    """An arm that the pilot doesn't have is named."""
    policy = policy_of(ERRORS)
    other = policy.candidate.model_copy(
        update={"attention": {"pattern": "sliding_window", "window": 7}}
    )
    policy = policy.model_copy(update={"candidate": other})

    with pytest.raises(ObservationError, match="no observations of the candidate") as e:
        project(policy, demo)
    assert variant_name(other) in str(e.value)


def test_a_pilot_without_a_common_request_is_refused(policy_of):
    """Two arms that answered different requests are no pilot."""
    rows = observe(arm="baseline", arrived_s=[0.0], request_id="a")
    rows += observe(arm="candidate", arrived_s=[0.0], request_id="b")

    with pytest.raises(ObservationError, match="no request in the pilot that both"):
        project(policy_of(ERRORS), to_table(rows))


def test_assumptions_are_said_and_used(policy_of):
    """Equal arms keep a margin later than arms that never differ; a limit that asks for
    better than equal is broken, and one at exactly equal is never decided."""
    gates = [
        {"metric": "accuracy", "margin": "1%"},
        ERRORS,
        {"metric": "latency", "over": "2s", "margin": "2%"},
        {"metric": "latency", "quantile": "p50", "max_ratio": 1.2},
        {"metric": "ttft", "quantile": "p50", "max_ratio": 0.8},
        {"metric": "tpot", "quantile": "p50", "max_ratio": 1.0},
        {"metric": "memory", "quantile": "p90", "max_ratio": 1.0},
    ]
    policy = policy_of(*gates)

    found = Assumptions().needs(policy)

    least = {gate.name: at_least(gate, policy, 1.0) for gate in policy.gates}
    assert 3 * least["accuracy"] < found["accuracy"].units < 5 * least["accuracy"]
    assert found["errors"].units == least["errors"]
    assert found["latency over 2s"].units > least["latency over 2s"]
    assert found["latency p50"].units > least["latency p50"]
    assert found["memory p90"].units == pytest.approx(least["memory p90"], rel=0.02)
    assert not found["ttft p50"].holds
    assert found["tpot p50"].units is None
    said = " ".join(Assumptions().in_words(policy))
    assert all(
        word in said for word in ("2%", "lognormal", "`over`", "memory", "fails")
    )
    assert "busy" not in said
