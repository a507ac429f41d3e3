import math

import numpy as np
import pytest

from canary.stats.grid import INFINITE_BIN, STEP, ZERO_BIN, bins_of, upper_ends

VALUES = np.exp(np.random.default_rng(1).uniform(-700, 700, 5000))


def test_no_value_exceeds_its_bin() -> None:
    """The upper end of a value's bin is at least the value, but for rounding."""
    assert np.all(VALUES <= upper_ends(bins_of(VALUES)) * (1 + 1e-12))


def test_every_value_exceeds_the_bin_below() -> None:
    """The upper end of the next lower bin is less than the value."""
    assert np.all(VALUES > upper_ends(bins_of(VALUES) - 1) * (1 - 1e-12))


def test_bins_are_in_the_order_of_values() -> None:
    """A larger value is never in a lower bin."""
    assert np.all(np.diff(bins_of(np.sort(VALUES))) >= 0)


def test_one_is_the_end_of_bin_0() -> None:
    """The grid is anchored at 1."""
    assert 0 == bins_of([1.0])[0]


def test_the_next_bin_begins_just_above() -> None:
    """Ends belong to the bin below."""
    assert [0, 1, 2] == bins_of([1.0, 1.0 + 1e-9, math.exp(1.5 * STEP)]).tolist()


@pytest.mark.parametrize(
    ("value", "expected"), [(0.0, ZERO_BIN), (math.inf, INFINITE_BIN)]
)
def test_zero_and_infinity_have_bins_of_their_own(value: float, expected: int) -> None:
    """Whatever isn't finite and above 0 is beyond all other bins."""
    assert expected == bins_of([value])[0]


@pytest.mark.parametrize("value", [0.0, math.inf])
def test_zero_and_infinity_come_back(value: float) -> None:
    """The upper ends of their bins are the values themselves."""
    assert value == upper_ends(bins_of([value]))[0]


@pytest.mark.parametrize("value", [5e-324, 1.7e308])
def test_the_last_numbers_are_not_beyond(value: float) -> None:
    """The least and the largest floats are in ordinary bins."""
    assert ZERO_BIN < bins_of([value])[0] < INFINITE_BIN


@pytest.mark.parametrize("value", [math.nan, -1.0, -math.inf])
def test_refuses_what_has_no_place(value: float) -> None:
    """NaN and values below 0 are errors."""
    with pytest.raises(ValueError, match="must be"):
        bins_of([1.0, value])


def test_nothing_has_no_bins() -> None:
    """No values are no error."""
    assert 0 == bins_of([]).size
