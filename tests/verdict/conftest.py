import numpy as np
import pytest

from canary.assessment import Assessment
from canary.evidence.observation import to_table
from canary.evidence.pairs import pair_up
from canary.gates import Evidence
from canary.policy.model import Policy
from canary.testing import observe


def build_policy(*gates, name="test", regimes=("8k",), **decision):
    """A policy with these gates that looks every 10 s and asks for little."""
    rules = {
        "min_duration": "0s",
        "max_duration": "1h",
        "min_pairs": 1,
        "look_every": "10s",
        "block": "request",
    }
    return Policy.model_validate(
        {
            "version": 1,
            "name": name,
            "baseline": {"model": "reference", "attention": "dense"},
            "candidate": {
                "model": "reference",
                "attention": {"pattern": "sliding_window", "window": 256},
            },
            "traffic": {"source": "trace.csv"},
            "validation": ["items.jsonl"],
            "regimes": list(regimes),
            "gates": list(gates),
            "decision": {**rules, **decision},
        }
    )


def build_table(a=None, b=None, *, every_s=1.0, **shared):
    """One row per arm and request; `a` and `b` hold the columns of one arm."""
    a, b = a or {}, b or {}
    count = max(
        len(value)
        for value in (*a.values(), *b.values(), *shared.values())
        if isinstance(value, list)
    )
    arrivals = list(np.arange(count) * every_s)
    rows = observe(arm="baseline", arrived_s=arrivals, **{**shared, **a})
    rows += observe(arm="candidate", arrived_s=arrivals, **{**shared, **b})
    return to_table(rows)


@pytest.fixture
def policy_of():
    return build_policy


def build_assessment(policy, table):
    """The policy's gates before their first look at all that the table holds."""
    pairs = pair_up(table, baseline="baseline", candidate="candidate")
    evidence = Evidence(policy)
    evidence.fold(pairs)
    return Assessment(policy, evidence)


@pytest.fixture
def assessment_of():
    return build_assessment


@pytest.fixture
def table_of():
    return build_table
