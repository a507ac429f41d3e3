"""How much evidence a limit takes at the least, and which runs can't hold it."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from canary.policy.load import load_policy
from canary.policy.model import Gate
from canary.policy.reach import least_units
from canary.policy.rules import DecisionRules
from canary.stats import paired_log_e, quantile_ranks
from canary.stats.block_cells import SHARES

Write = Callable[..., Path]
FaultsOf = Callable[..., list[str]]


def rules(**written: object) -> DecisionRules:
    return DecisionRules.model_validate(written)


def least(written: dict[str, Any], **decision: object) -> int:
    return least_units(Gate.model_validate(written), rules(**decision))


P99 = {"metric": "latency", "quantile": "p99", "max_ratio": 1.1}
P50 = {"metric": "output_tokens", "quantile": "p50", "max_ratio": 1.1}
POINT = {"margin": "1%"}


@pytest.mark.parametrize(
    ("gate", "by_request", "by_block"),
    [
        ({"metric": "accuracy", **POINT}, 449, 449),
        ({"metric": "agreement", **POINT}, 449, 449),
        ({"metric": "errors", "margin": "5%"}, 88, 88),
        ({"metric": "ttft", "over": "2s", **POINT}, 449, 449),
        (P99, 1197, 726),
        (P50, 88, 12),
    ],
)
def test_the_least_evidence_is_known_beforehand(
    gate: dict[str, Any], by_request: int, by_block: int
) -> None:
    """It follows from the limit and from what is counted, at the default alpha."""
    assert by_request == least(gate, block="request")
    assert by_block == least(gate) == least(gate, block="10m")


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.5])
@pytest.mark.parametrize("share", [0.001, 0.02, 0.5, 0.9])
def test_one_unit_less_shows_nothing(alpha: float, share: float) -> None:
    """What is said is what the judge's own tests need: not one unit too many."""
    written = {"alpha": f"{alpha:.1%}"}
    margin = least({"metric": "errors", "margin": f"{share:.1%}"}, **written)
    tail = {"metric": "ttft", "quantile": f"p{100 - share * 100:.1f}", "max_ratio": 1.0}
    blocks = least(tail, **written)
    requests = least(tail, block="request", **written)

    def shown(units: int) -> bool:
        return paired_log_e(0, units, 0, null_mean=-share) >= math.log(1 / alpha)

    def shown_by_blocks(units: int) -> bool:
        sides = [
            units * np.log1p(SHARES * gain) - math.log(10 / (side * alpha))
            for side, gain in ((1 - share, share / (1 - share)),
                               (share, (1 - share) / share))
        ]  # fmt: skip
        of_all = [np.logaddexp.reduce(side) for side in sides]
        return min(of_all) >= math.log(len(SHARES))

    def bounded(units: int) -> bool:
        lower, upper = quantile_ranks(units, 1 - share, alpha=alpha / 10)
        return lower >= 1 and upper <= units

    assert (False, True) == (shown(margin - 1), shown(margin))
    assert (False, True) == (shown_by_blocks(blocks - 1), shown_by_blocks(blocks))
    assert (False, True) == (bounded(requests - 1), bounded(requests))


@pytest.mark.parametrize("block", ["request", "auto"])
@pytest.mark.parametrize("alpha", ["0.000001%", "50%"])
@pytest.mark.parametrize(
    "gate",
    [
        {"metric": "errors", "margin": "0.000001%"},
        {"metric": "errors", "margin": "99.999999%"},
        {"metric": "ttft", "quantile": "p99.999999", "max_ratio": 1.0},
        {"metric": "ttft", "quantile": "p0.000001", "max_ratio": 1.0},
    ],
)
def test_every_limit_that_can_be_written_has_a_least(
    gate: dict[str, Any], alpha: str, block: str
) -> None:
    """However strict or lax a limit is, some number of units could show it."""
    assert 1 <= least(gate, alpha=alpha, block=block) < 10**12


def test_a_gate_without_a_limit_has_no_least() -> None:
    """What states no limit can't be shown to hold."""
    with pytest.raises(ValueError, match="gate errors has neither a margin nor a"):
        least({"metric": "errors"})


TOO_SHORT = [
    (
        "max_duration: 30m\n  block: 10s",
        "max_duration holds 180 of 10s; write max_duration: 121m or more, or a lower",
    ),
    (
        "max_duration: 4h\n  block: 5m",
        "max_duration holds 48 of 5m; write max_duration: 61h or more, or block: 10s",
    ),
    (
        "max_duration: 61m",
        "max_duration holds 365 of 10s after the 500ms that set their length; write m",
    ),
    (
        "max_duration: 3000d\n  block: 30d",
        "max_duration holds 100 of 30d; write block: 99h or less, or a lower",
    ),
]


@pytest.mark.parametrize(("times", "said"), TOO_SHORT)
def test_a_limit_that_no_run_could_decide_is_refused(
    times: str, said: str, good: str, faults_of: FaultsOf
) -> None:
    """The gate is named, what it takes, what the run holds, and what to write."""
    (fault,) = faults_of(good.replace("max_duration: 30m", times))

    start = "policy.yaml:14:5: gates[1]: takes 726 blocks of time even if nothing goes"
    assert fault.startswith(f"{start} wrong, but {said}")


@pytest.mark.parametrize("times", [times for times, _ in TOO_SHORT])
def test_what_to_write_instead_is_accepted(
    times: str, good: str, write: Write, faults_of: FaultsOf
) -> None:
    """Following the advice gives a policy that can be decided."""
    text = good.replace("max_duration: 30m", times)
    (fault,) = faults_of(text)
    ways = re.findall(r"(max_duration|block): (\S+) or (?:more|less)", fault)

    assert ways
    for key, value in ways:
        load_policy(write(re.sub(rf"{key}: .*", f"{key}: {value}", text)))
    load_policy(write(text.replace("p99", "p50")))


def test_each_limit_is_held_against_the_run(
    good: str, write: Write, faults_of: FaultsOf
) -> None:
    """Margins too, but not accuracy, whose groups know no time."""
    shares = (
        "{metric: errors, margin: 1%}\n"
        "  - {metric: errors, margin: 5%, regime: <1k}\n"
        "  - {metric: agreement, margin: 0.1%}"
    )
    text = good.replace(
        "{metric: ttft, quantile: p99, max_ratio: 1.1, regime: 1k-2k}", shares
    ).replace("margin: 5%}", "margin: 0.1%}", 1)
    blocks = text.replace("look_every: 5s", "look_every: 5s\n  block: 10s")
    first, second = faults_of(blocks)
    once = text.replace("look_every: 5s", "mode: fixed\n  block: 10s")

    assert first.startswith("policy.yaml:14:5: gates[1]: takes 449 blocks of time")
    assert first.endswith("write max_duration: 75m or more, or a wider margin")
    assert second.startswith("policy.yaml:16:5: gates[3]: takes 4,512 blocks of time")
    # Requests are not blocks, and one look needs less than betting at every one.
    load_policy(write(text))
    load_policy(write(once))
