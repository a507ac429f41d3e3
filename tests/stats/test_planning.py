import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canary.stats import (
    paired_log_e,
    paired_quantile_log_e,
    pairs_needed,
    quantile_pairs_needed,
)

LN20 = math.log(20)
counts = st.integers(0, 200)


def _pairs(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    baseline = np.exp(0.6 * generator.standard_normal(n))
    return baseline, baseline * np.exp(0.1 * generator.standard_normal(n))


def test_a_margin_of_one_percent_needs_449_units_without_any_loss() -> None:
    """The price of a margin, from a single tie."""
    found = pairs_needed(
        wins=0,
        ties=1,
        losses=0,
        null_mean=-0.01,
        alternative="greater",
        threshold_log_e=LN20,
    )

    assert found == 449
    assert paired_log_e(0, 449, 0, null_mean=-0.01) >= LN20
    assert paired_log_e(0, 448, 0, null_mean=-0.01) < LN20


@settings(derandomize=True, deadline=None, max_examples=60)
@given(counts, counts, counts, st.sampled_from(["greater", "less"]))
def test_is_the_least_number_that_suffices(
    wins: int, ties: int, losses: int, alternative: str
) -> None:
    """Counts in proportion reach the threshold there and not one unit before."""
    found = pairs_needed(
        wins=wins,
        ties=ties,
        losses=losses,
        null_mean=-0.02,
        alternative=alternative,
        threshold_log_e=LN20,
        at_most=100_000,
    )

    def log_e(n: int) -> float:
        scale = n / max(wins + ties + losses, 1)
        return paired_log_e(
            scale * wins,
            scale * ties,
            scale * losses,
            null_mean=-0.02,
            alternative=alternative,
        )

    if found is None:
        assert log_e(100_000) < LN20
    else:
        assert log_e(found) >= LN20
        assert log_e(found - 1) < LN20


def test_never_is_none() -> None:
    """No units, a mean on the null's side, or too low a cap give no number."""
    question = {
        "null_mean": -0.02,
        "alternative": "greater",
        "threshold_log_e": LN20,
    }

    assert pairs_needed(wins=0, ties=0, losses=0, **question) is None
    assert pairs_needed(wins=0, ties=97, losses=3, **question) is None
    assert pairs_needed(wins=0, ties=1, losses=0, **question, at_most=200) is None


def test_what_is_reached_needs_no_more() -> None:
    """Sufficient counts give a number that isn't above their own."""
    found = pairs_needed(
        wins=0,
        ties=1000,
        losses=0,
        null_mean=-0.01,
        alternative="greater",
        threshold_log_e=LN20,
    )

    assert found == 449


def test_refuses_a_threshold_that_is_always_reached() -> None:
    """A threshold of 0 is an error."""
    with pytest.raises(ValueError, match="above 0"):
        pairs_needed(
            wins=1,
            ties=0,
            losses=0,
            null_mean=0,
            alternative="greater",
            threshold_log_e=0,
        )


@pytest.mark.parametrize(
    ("p", "ratio", "hypothesis"),
    [(0.5, 1.02, "hold"), (0.9, 1.05, "hold"), (0.5, 0.96, "broken")],
)
def test_more_of_the_same_pairs_decides_where_projected(
    p: float, ratio: float, hypothesis: str
) -> None:
    """Repeating the sample up to the projection decides, much less doesn't."""
    n = 700
    pairs = _pairs(41, n)
    found = quantile_pairs_needed(
        *pairs, p=p, ratio=ratio, alpha=0.05, hypothesis=hypothesis
    )

    assert found is not None

    def log_e(copies: int) -> float:
        baseline, candidate = (np.tile(values, copies) for values in pairs)
        return paired_quantile_log_e(
            baseline, candidate, p=p, ratio=ratio, alpha=0.05, hypothesis=hypothesis
        )

    assert log_e(math.ceil(found / n)) >= math.log(1 / 0.045)
    if found > n:
        assert log_e(found // n) < math.log(1 / 0.045)


@pytest.mark.parametrize("hypothesis", ["hold", "broken"])
def test_the_projection_is_exact_for_whole_copies(hypothesis: str) -> None:
    """Any number of copies of the sample decides if and only if the projection says."""
    n, ratio = 100, {"hold": 1.04, "broken": 0.97}[hypothesis]
    for seed in range(8):
        pairs = _pairs(seed, n)
        question = {"p": 0.5, "ratio": ratio, "alpha": 0.05, "hypothesis": hypothesis}
        found = quantile_pairs_needed(*pairs, **question)
        for copies in range(1, 30):
            tiled = (np.tile(values, copies) for values in pairs)
            decided = paired_quantile_log_e(*tiled, **question) >= math.log(1 / 0.045)

            assert decided == (found is not None and found <= copies * n)


def test_a_sample_too_small_for_its_tail_needs_at_least_a_finite_set() -> None:
    """Few or no pairs give the number that a finite confidence set needs, or more."""
    for pairs in (([], []), _pairs(42, 100)):
        found = quantile_pairs_needed(
            *pairs, p=0.99, ratio=1.2, alpha=0.05, hypothesis="hold"
        )

        assert found == 1197


def test_never_is_none_for_quantiles() -> None:
    """Enough pairs that point the other way, failures, or too low a cap: None."""
    baseline, candidate = _pairs(43, 1500)
    question = {"p": 0.99, "ratio": 1.2, "alpha": 0.05, "hypothesis": "hold"}
    failing = baseline.copy()
    failing[:30] = math.inf

    assert quantile_pairs_needed(baseline, 2 * candidate, **question) is None
    assert quantile_pairs_needed(failing, candidate, **question) is None
    assert quantile_pairs_needed([], [], **question, at_most=1196) is None
