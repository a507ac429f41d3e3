"""Policies under way: what their looks keep in memory."""

import pytest

from canary.evidence.observation import Observation, Status
from canary.evidence.pairs import CONTROL_ARM
from canary.policy.model import Policy
from canary.testing import Quiet
from canary.watches import Watches

DENSE, WINDOW = "reference/dense", "reference/sliding_window(window=256)"
PER_BLOCK = 20  # requests in ten seconds
HOUR_S = 3600.0


def policy(**decision):
    """Limits on shares, in blocks of time, and a control."""
    return Policy.model_validate(
        {
            "version": 1,
            "name": "shares",
            "baseline": {"model": "reference"},
            "candidate": {
                "model": "reference",
                "attention": {"pattern": "sliding_window", "window": 256},
            },
            "traffic": {"source": "trace.csv", "timeout": "60s"},
            "validation": ["items.jsonl"],
            "aa_control": "100%",
            "gates": [
                {"metric": "errors", "margin": "1%"},
                {"metric": "latency", "over": "2s", "margin": "1%"},
            ],
            "decision": {
                "min_duration": "2h",
                "max_duration": "8d",
                "look_every": "10m",
                "block": "20s",
                **decision,
            },
        }
    )


def watched(hours, **decision):
    """Let a policy watch so many hours; return its watches and the most requests that
    waited for a look."""
    watches = Watches(
        [policy(**decision)], {}, gpus=0, run="", doubts=tuple, listener=Quiet()
    )
    most = 0
    for index in range(int(hours * HOUR_S / 10 * PER_BLOCK)):
        arrived_s = index * 10 / PER_BLOCK
        watches.look_before(arrived_s)
        watches.append(
            [
                Observation(
                    request_id=f"r{index}",
                    arm=arm,
                    arrived_s=arrived_s,
                    status=Status.OK,
                    prompt_tokens=100,
                    kind="latency",
                    latency_s=1.0 + (index + place) % 3,
                    service_s=0.01,
                )
                for place, arm in enumerate((DENSE, WINDOW, CONTROL_ARM))
            ]
        )
        most = max(most, watches.store.kept)
    return watches, most


def kept_by(watches):
    """How many rows of evidence are in memory, and how many requests they count."""
    strands = watches._watches[0].evidence.strands.values()
    return sum(strand.kept for strand in strands), sum(map(len, strands))


def test_memory_grows_with_blocks_and_not_with_requests():
    """What waits for a look is what came since the last one; what was looked at is a
    few rows for each block and limit, however many requests."""
    (short, waiting), (long, waiting_long) = watched(1), watched(3)
    (rows_short, few), (rows_long, many) = kept_by(short), kept_by(long)
    blocks = 2 * HOUR_S / 10
    different = 1 + 1 + 3 * (1 + 3)  # books, control; three ways to ask of two limits

    assert 600 / 10 * PER_BLOCK == waiting == waiting_long
    assert many - few > 7 * blocks * (PER_BLOCK - 1)
    assert rows_long - rows_short <= blocks * different


@pytest.mark.parametrize("decision", [{"mode": "fixed"}, {"look_every": "7d"}])
def test_what_nobody_looks_at_does_not_pile_up(decision, monkeypatch):
    """Where no look is due for long, requests are folded all the same."""
    monkeypatch.setattr("canary.watches._MOST_KEPT", 500)

    watches, waiting = watched(1, **decision)

    assert waiting < 500
    assert len(watches.store) == HOUR_S / 10 * PER_BLOCK
