import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from canary.stats import e_bh, harm_mixture, holm


def test_the_mixture_is_the_weighted_mean() -> None:
    """The log of the mean of e-values 20, 1 and 0 at their weights."""
    found = harm_mixture([math.log(20), 0.0, -math.inf], [0.5, 0.3, 0.2])

    assert found == pytest.approx(math.log(10.3))


def test_the_mixture_of_one_is_itself() -> None:
    """One e-value of full weight is unchanged; others at weight 0 don't count."""
    assert harm_mixture([700.0], [1.0]) == 700
    assert harm_mixture([3.0, math.inf], [1.0, 0.0]) == 3
    assert harm_mixture([-math.inf, -math.inf], [0.5, 0.5]) == -math.inf


def test_the_mixture_reaches_what_a_weighted_bonferroni_reaches() -> None:
    """One e-value of 1 / (w alpha) suffices, however bad the others are."""
    found = harm_mixture([math.log(1 / (0.25 * 0.05)), -50.0], [0.25, 0.75])

    assert found >= math.log(1 / 0.05) - 1e-12


def test_the_mixture_does_not_overflow() -> None:
    """Log e-values far beyond the range of floats are mixed in logs."""
    found = harm_mixture([5000.0, 5000.0], [0.5, 0.5])

    assert found == pytest.approx(5000)


def test_holm_steps_down() -> None:
    """The textbook procedure in the order given, monotone and at most 1."""
    found = holm([0.01, 0.04, 0.03, 0.005])

    assert found.tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]).tolist() == [1, 1]
    assert holm([]).tolist() == []


def test_e_bh_rejects_the_largest_that_pass() -> None:
    """The k-th largest of K has to be at least K / (k alpha)."""
    # K / (k alpha) at alpha .05 and K = 4: 80, 40, 26.7, 20.
    assert e_bh([45.0, 1.0, 41.0, 0.0], alpha=0.05).tolist() == [
        True,
        False,
        True,
        False,
    ]
    assert not e_bh([79.9, 1.0, 1.0, 1.0], alpha=0.05).any()
    assert e_bh([20.0] * 4, alpha=0.05).all()
    assert e_bh([math.inf, 1.0], alpha=0.05).tolist() == [True, False]
    assert e_bh([], alpha=0.05).tolist() == []


def test_e_bh_on_inverse_p_values_is_benjamini_hochberg() -> None:
    """With e = 1/p the procedure is the classical one."""
    generator = np.random.default_rng(21)
    for _ in range(50):
        p = generator.uniform(0, 1, 12) ** 3
        expected = false_discovery_control(p) <= 0.1

        assert expected.tolist() == e_bh(1 / p, alpha=0.1).tolist()


@pytest.mark.parametrize(
    "call",
    [
        lambda: harm_mixture([1.0], [0.5]),
        lambda: harm_mixture([], []),
        lambda: harm_mixture([1.0, 2.0], [1.0]),
        lambda: harm_mixture([1.0, 2.0], [1.5, -0.5]),
        lambda: harm_mixture([math.nan], [1.0]),
        lambda: holm([0.1, 1.1]),
        lambda: holm([math.nan]),
        lambda: e_bh([-1.0], alpha=0.05),
        lambda: e_bh([math.nan], alpha=0.05),
        lambda: e_bh([1.0], alpha=0.0),
    ],
)
def test_refuses_what_has_no_meaning(call: Callable[[], object]) -> None:
    """Weights that don't sum to 1, NaN, and values out of range are errors."""
    with pytest.raises(ValueError, match=r"must|expected"):
        call()
