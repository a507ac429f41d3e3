"""When arms change places: planned, random, and fair to every arm."""

from collections import Counter
from itertools import pairwise

import pytest

from canary.swaps import Swaps

STEP_S = 10


def stretches(swaps, until_s):
    """Which arrangement holds from when on, as somebody sees who looks often."""
    found = []
    for at_s in range(0, until_s, STEP_S):
        number = swaps.at(at_s)
        if not found or found[-1][0] != number:
            found.append((number, at_s))
    return found


@pytest.mark.parametrize("arrangements", [2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_every_arm_spends_the_same_time_on_every_card(arrangements, seed):
    """Over whole rounds to the second, and at any time within two stretches."""
    swaps = Swaps(arrangements, every_s=600, seed=seed)
    week = Counter(swaps.at(at_s) for at_s in range(0, 7 * 86400, STEP_S))

    assert set(range(arrangements)) == set(week)
    assert max(week.values()) - min(week.values()) <= 2 * 900 / STEP_S


def test_times_are_random_but_planned():
    """A seed gives one plan, in whichever order one asks; another seed another."""
    first, other = Swaps(2, every_s=600, seed=1), Swaps(2, every_s=600, seed=2)
    backwards = Swaps(2, every_s=600, seed=1)
    times = list(range(0, 86400, STEP_S))

    plan = [first.at(at_s) for at_s in times]

    assert plan == [backwards.at(at_s) for at_s in times[::-1]][::-1]
    assert plan != [other.at(at_s) for at_s in times]
    changes_s = [at_s for _, at_s in stretches(first, 86400)]
    lasts_s = {b - a for a, b in pairwise(changes_s)}
    assert len(lasts_s) > 10


def test_places_change_between_base_blocks_and_not_at_the_beginning():
    """Nothing has to move before the first request, and no base block is split."""
    for seed in range(20):
        swaps = Swaps(2, every_s=45, seed=seed)
        assert 0 == swaps.at(0.0)
        assert all(swaps.at(at) == swaps.at(at + 9.99) for at in range(0, 5000, 10))


def test_a_stretch_lasts_as_long_as_asked_on_average():
    """Half as long at least, half as long again at most."""
    swaps = Swaps(3, every_s=600, seed=4)
    swaps.at(30 * 86400)
    ends_s = swaps._until_s
    lasts_s = [b - a for a, b in pairwise(ends_s)]

    assert 300 <= min(lasts_s) <= max(lasts_s) <= 900
    assert 570 <= sum(lasts_s) / len(lasts_s) <= 630
