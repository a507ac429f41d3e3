import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from canary.stats import (
    betting_log_e,
    fixed_pairs_needed,
    least_units,
    paired_log_e,
    paired_quantile_log_e,
    pairs_needed,
    quantile_pairs_needed,
    units_needed_simulated,
)
from canary.stats.betting import log_e_of_counts

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


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold_log_e": 0},
        {"threshold_log_e": math.nan},
        {"wins": -1, "ties": 1},
        {"ties": math.nan},
        {"null_mean": 1},
        {"alternative": "both"},
    ],
)
def test_projections_refuse_what_has_no_meaning(changes: dict[str, object]) -> None:
    """Bad thresholds, counts, nulls and alternatives are errors, also without units."""
    arguments = {
        "wins": 0,
        "ties": 0,
        "losses": 0,
        "null_mean": 0,
        "alternative": "greater",
        "threshold_log_e": LN20,
    }

    with pytest.raises(ValueError, match=r"above 0|must be"):
        pairs_needed(**arguments | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"p": 1.0},
        {"ratio": 0.0},
        {"alpha": 1.0},
        {"hypothesis": "both"},
        {"baseline": [math.nan], "candidate": [1.0]},
    ],
)
def test_quantile_projections_refuse_what_has_no_meaning(
    changes: dict[str, object],
) -> None:
    """Bad values, quantiles, ratios and levels are errors, also without pairs."""
    arguments = {
        "baseline": [],
        "candidate": [],
        "p": 0.5,
        "ratio": 1.1,
        "alpha": 0.05,
        "hypothesis": "hold",
    } | changes

    with pytest.raises(ValueError, match=r"need|must be"):
        quantile_pairs_needed(
            arguments.pop("baseline"), arguments.pop("candidate"), **arguments
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


def test_least_units_are_the_price_of_a_margin_and_of_a_quantile() -> None:
    """449 ties for a margin of 1 %, 467 blocks for a p99 whose set costs a tenth."""
    # As a rule 4.5 units per gain.
    assert least_units(0.001, alpha=0.05) == pytest.approx(4500, rel=0.02)
    assert least_units(0.01 / 0.99, alpha=0.05) == 449
    assert least_units(0.01, alpha=0.045) == 467
    for units, enough in ((466, False), (467, True)):
        log_e = betting_log_e([0.01] * units, null_mean=0.0, low=-1.0, high=1.0)

        assert (log_e >= math.log(1 / 0.045)) == enough


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.floats(1e-4, 10), st.floats(0.001, 0.5))
def test_least_units_are_just_enough(gain: float, alpha: float) -> None:
    """So many of the best units decide, and one less doesn't."""
    found = least_units(gain, alpha=alpha)
    half = {"null_mean": 1 / (1 + gain), "low": 0.0, "high": 1.0}

    assert betting_log_e(np.ones(found), **half) >= math.log(1 / alpha) - 1e-9
    assert betting_log_e(np.ones(found - 1), **half) < math.log(1 / alpha) + 1e-9


def test_least_units_may_be_too_many() -> None:
    """A gain of next to nothing gives no number."""
    assert least_units(1e-7, alpha=0.05) is None


@pytest.mark.parametrize(
    ("discordance", "margin", "fixed", "anytime"),
    [(0.05, 0.02, 773, 1600), (0.05, 0.01, 3092, 7400), (0.1, 0.01, 6183, 17700)],
)
def test_looks_at_any_time_cost_two_to_three_times_as_many(
    discordance: float, margin: float, fixed: int, anytime: int
) -> None:
    """One planned look by the formula, any number of looks by simulation."""
    question = {"alpha": 0.05, "power": 0.8}
    half = discordance / 2
    found = fixed_pairs_needed(discordance=discordance, margin=margin, **question)
    simulated = units_needed_simulated(
        half, half, null_mean=-margin, seed=1, **question
    )

    assert found == fixed
    # The reference comes from a small simulation of its own, with fewer looks.
    assert simulated == pytest.approx(anytime, rel=0.15)
    assert 2 < simulated / fixed < 3


def test_the_formula_gives_the_power_that_it_says() -> None:
    """With so many pairs the normal test shows the margin in 80 % of runs."""
    win, loss, margin = 0.08, 0.06, 0.02
    n = fixed_pairs_needed(
        discordance=win + loss, margin=margin, difference=win - loss, alpha=0.05
    )
    counts = np.random.default_rng(91).multinomial(
        n, [win, 1 - win - loss, loss], 20_000
    )
    mean = (counts[:, 0] - counts[:, 2]) / n
    variance = (counts[:, 0] + counts[:, 2]) / n - mean**2
    shown = (mean + margin) / np.sqrt(variance / n) > 1.644854

    assert shown.mean() == pytest.approx(0.8, abs=0.015)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.floats(0.01, 1),
    st.floats(-1, 1),
    st.floats(1e-4, 0.2),
    st.floats(0.001, 0.2),
    st.floats(0.3, 0.99),
)
def test_more_certainty_needs_more_pairs(
    discordance: float, part: float, margin: float, alpha: float, power: float
) -> None:
    """Smaller alpha and margin, more power, clusters: never fewer pairs."""
    question = {
        "discordance": discordance,
        "margin": margin,
        "difference": part * discordance,
        "alpha": alpha,
        "power": power,
    }
    assume(abs(part * discordance + margin) > 1e-6)  # nearer, rounding decides
    found = fixed_pairs_needed(**question)
    if part * discordance <= -margin:
        assert found is None
        return

    assert found <= fixed_pairs_needed(**question | {"alpha": alpha / 2})
    assert found <= fixed_pairs_needed(**question | {"power": (1 + power) / 2})
    assert found >= fixed_pairs_needed(**question | {"margin": margin + 0.01})
    assert 3 * found - 3 <= fixed_pairs_needed(**question, design_effect=3) <= 3 * found


def test_the_simulation_gives_the_chance_that_it_says() -> None:
    """Of other runs, looked at after every unit, about 80 % have decided by then."""
    win, loss, runs = 0.6, 0.2, 4000
    n = units_needed_simulated(win, loss, null_mean=0.0, alpha=0.05, power=0.8, seed=1)
    d = np.random.default_rng(92).choice(
        [1, 0, -1], (runs, n), p=[win, 1 - win - loss, loss]
    )
    wins, losses = (d == 1).cumsum(axis=1), (d == -1).cumsum(axis=1)
    # Against a null mean of 0 ties don't matter.
    w, l_ = np.indices((n + 1, n + 1)).reshape(2, -1)
    log_e = log_e_of_counts(w, np.zeros(w.size), l_).reshape(n + 1, n + 1)
    decided = (log_e[wins, losses] >= LN20).any(axis=1).mean()

    assert decided == pytest.approx(0.8, abs=0.04)


def test_the_simulation_reflects_and_repeats() -> None:
    """Losses for wins, "less" for "greater"; one seed, one number; more power, more."""
    question = {"alpha": 0.05, "seed": 7}
    found = units_needed_simulated(0.4, 0.1, null_mean=0.1, power=0.8, **question)
    less = units_needed_simulated(
        0.1, 0.4, null_mean=-0.1, power=0.8, alternative="less", **question
    )

    assert found == less
    assert found < units_needed_simulated(
        0.4, 0.1, null_mean=0.1, power=0.95, **question
    )
    # Ties alone leave nothing to chance.
    assert 449 == units_needed_simulated(
        0.0, 0.0, null_mean=-0.01, power=0.9, **question
    )


def test_never_is_none_for_plans() -> None:
    """On the null's side, or nearly: no number decides."""
    question = {"alpha": 0.05, "power": 0.8}

    assert fixed_pairs_needed(discordance=0.1, margin=0.0, **question) is None
    for win, loss, null_mean in ((0.1, 0.2, -0.1), (0.1, 0.1, 0.0), (0.0, 0.0, -1e-7)):
        found = units_needed_simulated(
            win, loss, null_mean=null_mean, seed=1, **question
        )

        assert found is None


@pytest.mark.parametrize(
    "call",
    [
        lambda: least_units(0.0, alpha=0.05),
        lambda: least_units(math.nan, alpha=0.05),
        lambda: least_units(math.inf, alpha=0.05),
        lambda: least_units(0.1, alpha=0.0),
        lambda: fixed_pairs_needed(discordance=0.0, margin=0.1, alpha=0.05),
        lambda: fixed_pairs_needed(discordance=1.1, margin=0.1, alpha=0.05),
        lambda: fixed_pairs_needed(
            discordance=0.1, margin=0.1, difference=0.2, alpha=0.05
        ),
        lambda: fixed_pairs_needed(
            discordance=0.1, margin=0.1, difference=math.nan, alpha=0.05
        ),
        lambda: fixed_pairs_needed(discordance=0.1, margin=-0.1, alpha=0.05),
        lambda: fixed_pairs_needed(discordance=0.1, margin=0.1, alpha=1.0),
        lambda: fixed_pairs_needed(discordance=0.1, margin=0.1, alpha=0.05, power=0.05),
        lambda: fixed_pairs_needed(
            discordance=0.1, margin=0.1, alpha=0.05, design_effect=0.0
        ),
    ],
)
def test_plans_refuse_what_has_no_meaning(call: Callable[[], object]) -> None:
    """Impossible gains, shares, margins, levels and powers are errors."""
    with pytest.raises(ValueError, match=r"need|must be"):
        call()


@pytest.mark.parametrize(
    "changes",
    [
        {"win": -0.1},
        {"win": math.nan},
        {"loss": 0.9},
        {"null_mean": -1.0},
        {"null_mean": math.nan},
        {"alpha": 0.0},
        {"power": 0.05},
        {"power": 1.0},
        {"alternative": "both"},
    ],
)
def test_the_simulation_refuses_what_has_no_meaning(changes: dict[str, object]) -> None:
    """Impossible chances, nulls, levels, powers and alternatives are errors."""
    arguments = {
        "win": 0.2,
        "loss": 0.1,
        "null_mean": 0.0,
        "alpha": 0.05,
        "power": 0.8,
        "seed": 1,
    } | changes

    with pytest.raises(ValueError, match=r"need|must be"):
        units_needed_simulated(arguments.pop("win"), arguments.pop("loss"), **arguments)
