import itertools
import math

import numpy as np
import pytest

from canary.stats import betting_log_e, late_onset_log_e

LIMITS = {"low": -1.0, "high": 1.0}


def _by_definition(values: list[float], null_mean: float) -> float:
    starts = [0, *(2**j for j in range(20))]
    weights = [6 / (math.pi * j) ** 2 for j in range(1, len(starts) + 1)]
    begun = [
        (weight, start)
        for weight, start in zip(weights, starts, strict=True)
        if start == 0 or start < len(values)
    ]
    total = 1 - sum(weight for weight, _ in begun)
    for weight, start in begun:
        total += weight * math.exp(
            betting_log_e(values[start:], null_mean=null_mean, **LIMITS)
        )
    return math.log(total)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 8, 9, 100])
def test_is_the_weighted_mean_over_its_beginnings(n: int) -> None:
    """Equals the sum written out, beginning by beginning."""
    values = np.random.default_rng(n).choice([-1.0, 0.0, 0.5, 1.0], n).tolist()
    found = late_onset_log_e(values, null_mean=-0.1, **LIMITS)

    assert found == pytest.approx(_by_definition(values, -0.1), abs=1e-9)


def test_is_fair_at_the_null_after_every_value() -> None:
    """From any past, the expected next e-value is the present one: a martingale."""
    chance = {1.0: 0.2, 0.0: 0.5, -1.0: 0.3}
    null_mean = -0.1
    for length in range(5):
        for past in itertools.product(chance, repeat=length):
            present = math.exp(late_onset_log_e(past, null_mean=null_mean, **LIMITS))
            expected = sum(
                p * math.exp(late_onset_log_e((*past, d), null_mean=-0.1, **LIMITS))
                for d, p in chance.items()
            )

            assert expected == pytest.approx(present, rel=1e-12)


def test_the_other_alternative_is_the_reflection() -> None:
    """Evidence for less on values is evidence for greater on their negatives."""
    values = np.random.default_rng(31).choice([-1.0, 0.0, 1.0], 300)
    found = late_onset_log_e(values, null_mean=-0.02, alternative="less", **LIMITS)

    assert found == late_onset_log_e(-values, null_mean=0.02, **LIMITS)


def test_the_plain_process_loses_little_by_it() -> None:
    """The first beginning keeps 6 / pi^2 of the weight."""
    values = np.random.default_rng(32).choice([-1.0, 0.0, 1.0], 500, p=[0.1, 0.6, 0.3])
    plain = betting_log_e(values, null_mean=0.0, **LIMITS)
    found = late_onset_log_e(values, null_mean=0.0, **LIMITS)

    assert found >= plain + math.log(6 / math.pi**2)


def _first_alarm(values: np.ndarray, *, late: bool) -> int:
    """The number of values at the first look, every 50, that reaches ln 20."""
    evidence = late_onset_log_e if late else betting_log_e
    for n in range(50, values.size + 1, 50):
        log_e = evidence(
            values[:n], null_mean=-0.02, alternative="less", low=-1, high=1
        )
        if log_e >= math.log(20):
            return n
    return values.size


def test_finds_late_harm_much_sooner_than_the_plain_process() -> None:
    """Harm after 4,000 good units is found in less than half the time."""
    generator = np.random.default_rng(33)
    waits = {True: [], False: []}
    for _ in range(5):
        harm = generator.choice([-1.0, 0.0, 1.0], 3000, p=[0.14, 0.82, 0.04])
        values = np.concatenate([np.zeros(4000), harm])
        for late, found in waits.items():
            found.append(_first_alarm(values, late=late) - 4000)

    assert 0 < max(waits[True]) < 3000
    assert 2 * np.median(waits[True]) < np.median(waits[False])


def test_false_alarms_stay_below_alpha_with_peeking() -> None:
    """At the limit, looking every 64 units alarms falsely at most alpha."""
    runs, alpha = 400, 0.1
    values = np.random.default_rng(34).choice(
        [-1.0, 0.0, 1.0], (runs, 1024), p=[0.08, 0.86, 0.06]
    )
    false = sum(
        any(
            late_onset_log_e(
                row[:n], null_mean=-0.02, alternative="less", low=-1, high=1
            )
            >= math.log(1 / alpha)
            for n in range(64, 1025, 64)
        )
        for row in values
    )

    assert 0 < false / runs <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)


def test_refuses_what_has_no_meaning() -> None:
    """Values out of range and unknown alternatives are errors."""
    with pytest.raises(ValueError, match="must be"):
        late_onset_log_e([2.0], null_mean=0.0, **LIMITS)
    with pytest.raises(ValueError, match="must be"):
        late_onset_log_e([0.5], null_mean=0.0, alternative="both", **LIMITS)
