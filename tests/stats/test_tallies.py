import math

import numpy as np
import pytest

from canary.stats import betting_log_e, paired_log_e
from canary.stats.betting import FEWER_SHARES, SHARES, log_threshold
from canary.stats.onset import onset_mixture, stretch_of
from canary.stats.tallies import CountTally, ValueTally, copies_of

NULL = -0.02


def _differences(seed: int, n: int = 400, chance: float = 0.2) -> np.ndarray:
    p = [0.1, 0.9 - chance, chance]
    return np.random.default_rng(seed).choice([-1, 0, 1], n, p=p)


def _counted(differences: np.ndarray, *, parts: int = 1) -> CountTally:
    tally = CountTally(NULL)
    stretch = stretch_of(np.arange(len(differences)))
    for rows in np.array_split(np.arange(len(differences)), parts):
        d = differences[rows]
        wins, ties, losses = ((d == sign).astype(np.int64) for sign in (1, 0, -1))
        tally.add(wins, ties, losses, stretch[rows])
    return tally


def _bet_on(
    values: np.ndarray, *, shares: np.ndarray = SHARES, parts: int = 1
) -> ValueTally:
    tally = ValueTally(NULL, shares)
    stretch = stretch_of(np.arange(len(values)))
    for rows in np.array_split(np.arange(len(values)), parts):
        tally.add(values[rows], stretch[rows])
    return tally


def _values(seed: int, n: int = 300, mean: float = 0.1) -> np.ndarray:
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, n)
    return np.clip(mean + noise, -1, 1)


@pytest.mark.parametrize("seed", range(3))
def test_counted_holds_equal_the_paired_evidence(seed: int) -> None:
    """Evidence that the limit holds is that of all wins, ties and losses."""
    d = _differences(seed)
    counts = [int((d == sign).sum()) for sign in (1, 0, -1)]
    expected = paired_log_e(*counts, null_mean=NULL, alternative="greater")

    assert expected == _counted(d).log_e_hold()


@pytest.mark.parametrize("n", [1, 2, 5, 400])
def test_counted_harm_is_the_mixture_over_its_beginnings(n: int) -> None:
    """Evidence of harm is mixed over bets that begin after 0, 1, 2, 4, ... units."""
    d = _differences(n, n, chance=0.05)
    starts = [start for start in (0, *(2**j for j in range(12))) if start < n]
    since = []
    for start in starts:
        counts = [int((d[start:] == sign).sum()) for sign in (1, 0, -1)]
        since.append(paired_log_e(*counts, null_mean=NULL, alternative="less"))
    expected = float(onset_mixture(np.array(since)))

    assert expected == pytest.approx(_counted(d).log_e_broken(), abs=1e-9)


def test_counting_in_pieces_equals_counting_at_once() -> None:
    """Counts add up, however they are cut up."""
    d = _differences(1)
    whole, pieces = _counted(d), _counted(d, parts=7)

    assert whole.log_e_hold() == pieces.log_e_hold()
    assert whole.log_e_broken() == pieces.log_e_broken()


@pytest.mark.parametrize("seed", range(3))
def test_valued_holds_equal_the_betting_evidence(seed: int) -> None:
    """With the shares of the plain bets the evidence is theirs."""
    values = _values(seed)
    expected = betting_log_e(values, null_mean=NULL, low=-1, high=1)

    assert expected == pytest.approx(_bet_on(values).log_e_hold(), abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 5, 300])
def test_valued_harm_is_the_mixture_over_its_beginnings(n: int) -> None:
    """Evidence of harm is mixed over bets that begin after 0, 1, 2, 4, ... values."""
    values = _values(n, n, mean=-0.1)
    starts = [start for start in (0, *(2**j for j in range(12))) if start < n]
    since = [
        betting_log_e(
            values[start:], null_mean=NULL, low=-1, high=1, alternative="less"
        )
        for start in starts
    ]
    expected = float(onset_mixture(np.array(since)))

    assert expected == pytest.approx(_bet_on(values).log_e_broken(), abs=1e-9)


def test_betting_in_pieces_equals_betting_at_once() -> None:
    """Wealth multiplies, however the values are cut up."""
    values = _values(2)
    whole, pieces = _bet_on(values), _bet_on(values, parts=7)

    assert whole.log_e_hold() == pytest.approx(pieces.log_e_hold(), abs=1e-9)
    assert whole.log_e_broken() == pytest.approx(pieces.log_e_broken(), abs=1e-9)


def test_values_are_kept_in_the_order_in_which_they_came() -> None:
    """Pieces are put together as they were added."""
    values = _values(3)

    assert values.tolist() == _bet_on(values, parts=7).values.tolist()


@pytest.mark.parametrize("tally", [CountTally(NULL), ValueTally(NULL, SHARES)])
def test_nothing_is_no_evidence(tally: CountTally | ValueTally) -> None:
    """Before the first unit all wealth is 1."""
    assert (0.0, 0.0) == (tally.log_e_hold(), tally.log_e_broken())


@pytest.mark.parametrize("tally", [CountTally(NULL), ValueTally(NULL, SHARES)])
def test_nothing_bounds_nothing(tally: CountTally | ValueTally) -> None:
    """Before the first unit the mean may be anything."""
    assert (-1.0, 1.0) == tally.bounds(alpha=0.05)


@pytest.mark.parametrize("side", ["greater", "less"])
def test_counted_bounds_are_where_the_evidence_decides(side: str) -> None:
    """With a bound as the null mean, evidence is at its threshold."""
    d = _differences(4)
    bound = _counted(d).bounds(alpha=0.05)[side == "less"]
    counts = [int((d == sign).sum()) for sign in (1, 0, -1)]
    actual = paired_log_e(*counts, null_mean=bound, alternative=side)

    assert log_threshold(0.05) == pytest.approx(actual, abs=1e-6)


@pytest.mark.parametrize("shares", [SHARES, FEWER_SHARES], ids=["all", "fewer"])
def test_valued_bounds_are_where_the_evidence_decides(shares: np.ndarray) -> None:
    """A tally that asks about its lower bound has evidence at the threshold."""
    values = _values(5)
    lower, _ = _bet_on(values, shares=shares).bounds(alpha=0.05)
    again = ValueTally(lower, shares)
    again.add(values, np.zeros(len(values), np.int64))

    assert log_threshold(0.05) == pytest.approx(again.log_e_hold(), abs=1e-6)


@pytest.mark.parametrize("holding", [True, False])
def test_as_many_copies_as_needed_decide(holding: bool) -> None:
    """So many times the counts reach the threshold, half a percent fewer don't."""
    wins, ties, losses = (30, 60, 10) if holding else (10, 60, 30)
    tally = CountTally(NULL)
    tally.add(*(np.array([n]) for n in (wins, ties, losses)), np.array([0]))
    threshold = math.log(1e6)
    copies = tally.copies_needed(threshold, holding=holding)

    def evidence(times: float) -> float:
        return paired_log_e(
            times * wins,
            times * ties,
            times * losses,
            null_mean=NULL,
            alternative="greater" if holding else "less",
        )

    assert evidence(copies) >= threshold > evidence(0.995 * copies)


def test_as_many_copies_of_values_as_needed_decide() -> None:
    """Values repeated so often, rounded up, reach the threshold, once fewer don't."""
    values, threshold = _values(6, 20), 30.0
    copies = _bet_on(values).copies_needed(threshold, holding=True)
    enough, too_few = (
        betting_log_e(np.tile(values, n), null_mean=NULL, low=-1, high=1)
        for n in (math.ceil(copies), math.ceil(copies) - 1)
    )

    assert enough >= threshold > too_few


def test_no_number_of_copies_shows_the_opposite() -> None:
    """What points the other way never decides, however often it is repeated."""
    assert _counted(_differences(7)).copies_needed(3.0, holding=False) is None
    assert _bet_on(_values(7)).copies_needed(3.0, holding=False) is None


def test_copies_of_one_bettor_are_a_division() -> None:
    """A single bettor needs the threshold over what it has, to a thousandth."""
    assert 12.5 == pytest.approx(copies_of(np.array([2.0]), 25.0), rel=1.1e-3)
