import math

import pytest
from scipy.stats import binom

from canary.stats import mcnemar_exact, tango_interval


def _score(b: int, c: int, n: int, delta: float) -> float:
    """Tango's score statistic, as printed."""
    linear = -b - c + (2 * n - b + c) * delta
    constant = -c * delta * (1 - delta)
    q = (math.sqrt(linear**2 - 8 * n * constant) - linear) / (4 * n)
    return (b - c - n * delta) / math.sqrt(n * (2 * q + delta * (1 - delta)))


def test_tango_reproduces_the_published_example() -> None:
    """One item against seven of 21 give the interval of the literature."""
    found = tango_interval(1, 7, 21, alpha=0.05)

    assert found == pytest.approx((-0.5172, -0.0260), abs=5e-5)


@pytest.mark.parametrize(
    ("b", "c", "n"), [(1, 7, 21), (30, 12, 400), (0, 3, 60), (5, 5, 10)]
)
def test_tango_ends_where_the_score_test_rejects(b: int, c: int, n: int) -> None:
    """At the two ends the score statistic is plus and minus the normal quantile."""
    lower, upper = tango_interval(b, c, n, alpha=0.05)

    assert lower < (b - c) / n < upper
    assert _score(b, c, n, lower) == pytest.approx(1.959964, abs=1e-5)
    assert _score(b, c, n, upper) == pytest.approx(-1.959964, abs=1e-5)


def test_tango_without_discordant_items_is_not_certain() -> None:
    """Full agreement of n items still leaves z^2 / (n + z^2) on both sides."""
    z2 = 1.959964**2
    found = tango_interval(0, 0, 50, alpha=0.05)

    assert found == pytest.approx((-z2 / (50 + z2), z2 / (50 + z2)), abs=1e-6)


def test_tango_exchanges_its_ends_with_the_arms() -> None:
    """Exchanging the arms negates the interval."""
    lower, upper = tango_interval(4, 19, 200, alpha=0.1)

    assert (-upper, -lower) == tango_interval(19, 4, 200, alpha=0.1)


def test_tango_stays_within_what_differences_can_be() -> None:
    """All items lost end at -1; no items say nothing."""
    lower, upper = tango_interval(0, 10, 10, alpha=0.05)

    assert lower == -1
    assert -1 < upper < 0
    assert tango_interval(0, 0, 0, alpha=0.05) == (-1, 1)


def test_tango_covers_about_as_often_as_it_says() -> None:
    """Over all outcomes of 60 items the true difference is covered at about 95 %."""
    n, win, loss = 60, 0.1, 0.2
    covered = 0.0
    for b in range(n + 1):
        for c in range(n + 1 - b):
            chance = binom.pmf(b, n, win) * binom.pmf(c, n - b, loss / (1 - win))
            if chance > 1e-9:
                lower, upper = tango_interval(b, c, n, alpha=0.05)
                covered += chance * (lower <= win - loss <= upper)

    assert covered == pytest.approx(0.95, abs=0.015)


def test_mcnemar_reproduces_the_reference() -> None:
    """121 against 59 discordant items have the published exact p-value."""
    assert mcnemar_exact(121, 59) == pytest.approx(4.434449e-06, rel=1e-6)
    assert mcnemar_exact(59, 121) == mcnemar_exact(121, 59)


def test_mcnemar_without_discordant_items_rejects_nothing() -> None:
    """No discordant item and equal numbers of them have a p-value of 1."""
    assert mcnemar_exact(0, 0) == 1
    assert mcnemar_exact(8, 8) == 1


@pytest.mark.parametrize(
    ("b", "c", "n", "alpha"),
    [
        (-1, 2, 5, 0.05),
        (2, -1, 5, 0.05),
        (3, 3, 5, 0.05),
        (1, 2, 5, 0.0),
        (math.nan, 2, 5, 0.05),
        (1, math.nan, 5, 0.05),
        (1, 2, math.nan, 0.05),
    ],
)
def test_tango_refuses_impossible_counts(b: int, c: int, n: int, alpha: float) -> None:
    """More discordant items than items, negative counts, bad levels are errors."""
    with pytest.raises(ValueError, match=r"need|must be"):
        tango_interval(b, c, n, alpha=alpha)


def test_mcnemar_refuses_negative_counts() -> None:
    """A negative count is an error, and so is none."""
    for b, c in ((-1, 3), (3, -1), (math.nan, 3), (3, math.nan)):
        with pytest.raises(ValueError, match="need"):
            mcnemar_exact(b, c)
