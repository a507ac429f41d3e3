import math
from fractions import Fraction

import numpy as np
import pytest

from canary.stats import paired_log_e
from canary.stats.sign import sign_log_e


def _exact(wins: int, losses: int) -> float:
    """The log of the integral of (1 + u)^wins (1 - u)^losses over (0, 1)."""
    total = Fraction(0)
    for k in range(wins + 1):
        # (1 + u)^wins = sum of binomials times (1 - u)^k (-1)^k 2^(wins - k)
        term = Fraction(math.comb(wins, k) * (-1) ** k * 2 ** (wins - k))
        total += term / (losses + k + 1)
    return math.log(total.numerator) - math.log(total.denominator)


@pytest.mark.parametrize(
    ("wins", "losses"),
    [(0, 0), (1, 0), (0, 1), (30, 2), (2, 30), (40, 60), (3, 1400), (60, 2000)],
)
def test_is_the_wealth_averaged_over_all_shares(wins: int, losses: int) -> None:
    """The closed form equals the integral in exact arithmetic, also far out."""
    log_e = sign_log_e(np.array([float(wins)]), np.array([float(losses)]))[0]

    assert log_e == pytest.approx(_exact(wins, losses), abs=1e-5)


def test_is_the_limit_of_the_paired_form() -> None:
    """A thousand shares approximate it closely."""
    log_e = sign_log_e(np.array([94.0]), np.array([12.0]))[0]

    assert log_e == pytest.approx(paired_log_e(94, 3, 12), abs=1e-4)


def test_is_finite_and_monotone_for_all_counts() -> None:
    """Each loss costs something, however many there were."""
    losses = np.concatenate([np.arange(3000.0), 10.0 ** np.arange(4, 9)])
    log_e = sign_log_e(np.full(losses.size, 50.0), losses)

    assert np.all(np.isfinite(log_e))
    assert np.all(np.diff(log_e) < 0)
