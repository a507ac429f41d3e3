"""Policies and schedules that a plan is made of, as small as the question allows."""

from pathlib import Path

import numpy as np
import pytest

from canary.planning.schedule import Schedule
from canary.policy.load import load_policy
from canary.policy.model import Policy

ROOT = Path(__file__).parents[2]


def build_policy(*gates, regimes=("8k",), budget=None, **decision):
    """A policy with these gates that looks every 10 s and asks for little."""
    rules = {
        "min_duration": "0s",
        "max_duration": "1h",
        "min_pairs": 1,
        "look_every": "10s",
    }
    return Policy.model_validate(
        {
            "version": 1,
            "name": "test",
            "baseline": {"model": "reference", "attention": "dense"},
            "candidate": {
                "model": "reference",
                "attention": {"pattern": "sliding_window", "window": 256},
            },
            "traffic": {"source": "trace.csv"},
            "regimes": list(regimes),
            "gates": list(gates),
            "budget": budget,
            "decision": {**rules, **decision},
        }
    )


def build_schedule(traffic=0, *, every_s=1.0, tokens=100, groups=0, items=1):
    """Requests at even distances; among them groups of questions, evenly as well."""
    traffic_s = np.arange(traffic) * every_s
    span_s = traffic_s[-1] if traffic else groups * items * every_s
    quality_s = np.linspace(0, span_s, groups * items)
    arrived_s = np.concatenate([traffic_s, quality_s])
    names = [f"g{group}" for group in range(groups) for _ in range(items)]
    schedule = Schedule(
        arrived_s=arrived_s,
        prompt_tokens=np.resize(tokens, len(arrived_s)),
        quality=np.arange(len(arrived_s)) >= traffic,
        task=np.array([""] * traffic + ["code"] * len(names), dtype=object),
        group=np.array([f"r{i}" for i in range(traffic)] + names, dtype=object),
        group_items=np.array([1] * traffic + [items] * len(names)),
    )
    return schedule.only(np.argsort(arrived_s, kind="stable"))


@pytest.fixture
def policy_of():
    return build_policy


@pytest.fixture
def schedule_with():
    return build_schedule


@pytest.fixture
def shipped():
    """Load a policy that ships."""
    return lambda name: load_policy(ROOT / "policies" / f"{name}.yaml")
