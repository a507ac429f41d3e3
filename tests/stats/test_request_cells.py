import math

import numpy as np
import pytest

from canary.stats import paired_quantile_log_e
from canary.stats.cells import QuantileLook
from canary.stats.grid import bins_of
from canary.stats.onset import stretch_of
from canary.stats.request_cells import RequestCells

LIMITS = [(0.5, 1.1), (0.9, 1.2), (0.99, 1.3)]


def _pairs(
    seed: int, n: int = 4000, slowdown: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    baseline = np.exp(0.6 * generator.standard_normal(n))
    return baseline, slowdown * baseline * np.exp(0.05 * generator.standard_normal(n))


def _cells(p: float, ratio: float, *, discrete: bool = False) -> RequestCells:
    return RequestCells(p=p, ratio=ratio, set_alpha=(0.005, 0.005), discrete=discrete)


def _look(
    baseline: np.ndarray,
    candidate: np.ndarray,
    *,
    p: float,
    ratio: float,
    discrete: bool = False,
) -> QuantileLook:
    cells = _cells(p, ratio, discrete=discrete)
    at_once = np.zeros(len(baseline), np.int64)
    cells.add(bins_of(baseline), bins_of(candidate), at_once)
    return cells.look()


@pytest.mark.parametrize(("p", "ratio"), LIMITS)
@pytest.mark.parametrize("seed", range(3))
def test_never_more_than_the_exact_evidence(p: float, ratio: float, seed: int) -> None:
    """What the grid loses it loses on the safe side."""
    pairs = _pairs(seed)
    exact = paired_quantile_log_e(
        *pairs, p=p, ratio=ratio, alpha=0.05, hypothesis="hold"
    )

    assert exact >= _look(*pairs, p=p, ratio=ratio).hold


@pytest.mark.parametrize(("p", "ratio"), LIMITS)
@pytest.mark.parametrize("seed", range(3))
def test_loses_little_to_the_grid(p: float, ratio: float, seed: int) -> None:
    """At least four fifths of the exact evidence, which decides, is left."""
    pairs = _pairs(seed)
    exact = paired_quantile_log_e(
        *pairs, p=p, ratio=ratio, alpha=0.05, hypothesis="hold"
    )

    assert exact > math.log(1 / 0.045)
    assert 0.8 * exact <= _look(*pairs, p=p, ratio=ratio).hold


@pytest.mark.parametrize("discrete", [False, True])
def test_order_changes_nothing(discrete: bool) -> None:
    """Pairs in another order within their stretches give the same evidence."""
    a, b = map(bins_of, _pairs(4, n=1000))
    stretch = stretch_of(np.arange(1000) // 100)
    order = np.random.default_rng(5).permutation(1000)
    looks = []
    for rows in (slice(None), order):
        cells = _cells(0.5, 1.1, discrete=discrete)
        cells.add(a[rows], b[rows], stretch[rows])
        looks.append(cells.look())

    assert looks[0].broken is not None
    assert looks[0] == looks[1]


def _in_parts(
    baseline: np.ndarray, candidate: np.ndarray, parts: int
) -> tuple[QuantileLook, tuple[int, int] | None]:
    a, b = bins_of(baseline), bins_of(candidate)
    stretch = stretch_of(np.arange(len(a)) // 100)
    cells = _cells(0.5, 1.1, discrete=True)
    for rows in np.array_split(np.arange(len(a)), parts):
        cells.add(a[rows], b[rows], stretch[rows])
        cells.look()
    return cells.look(), cells.set_points


@pytest.mark.parametrize("parts", [2, 9, 50])
def test_several_adds_equal_one(parts: int) -> None:
    """How pairs are cut up, and who looked in between, changes nothing."""
    pairs = _pairs(6, n=1000)

    assert _in_parts(*pairs, 1) == _in_parts(*pairs, parts)


def test_several_adds_equal_one_where_the_range_grows() -> None:
    """Values far from all earlier ones make room and move no count."""
    baseline, candidate = (np.sort(side) for side in _pairs(7, n=1000))
    far = np.geomspace(1e-3, 1e3, 1000)

    assert _in_parts(baseline * far, candidate * far, 1) == _in_parts(
        baseline * far, candidate * far, 10
    )


@pytest.mark.parametrize("first", [0.0, math.inf])
def test_several_adds_equal_one_where_the_first_have_no_finite_value(
    first: float,
) -> None:
    """Zeros and failures that come before any other value count as ever."""
    baseline, candidate = _pairs(8, n=1000)
    baseline[:200] = candidate[:200] = first

    assert _in_parts(baseline, candidate, 1) == _in_parts(baseline, candidate, 10)


def test_no_finite_value_shows_nothing() -> None:
    """Where all requests fail, or all take no time, no limit is decided."""
    for value in (0.0, math.inf):
        values = np.full(500, value)

        assert QuantileLook(hold=None, broken=None) == _look(
            values, values, p=0.5, ratio=1.1
        )


def test_nothing_shows_nothing() -> None:
    """Without pairs there is no confidence set."""
    assert QuantileLook(hold=None, broken=None) == _cells(0.5, 1.1).look()


@pytest.mark.parametrize("discrete", [False, True])
def test_constant_values_hold_only_by_the_candidate_alone(discrete: bool) -> None:
    """Where all requests share a value, only the bet against p shows the hold."""
    values = np.full(2000, 0.7)
    found = _look(values, values, p=0.9, ratio=1.05, discrete=discrete).hold

    assert discrete == (found >= math.log(1 / 0.045))


def test_failed_requests_of_the_candidate_break_a_limit() -> None:
    """A candidate that fails for more than 1 - p exceeds any ratio."""
    baseline, candidate = _pairs(9)
    candidate[::20] = math.inf

    assert _look(baseline, candidate, p=0.99, ratio=1.3).broken > math.log(1 / 0.045)


def test_slow_candidates_break_a_limit() -> None:
    """A p50 that is a fifth slower breaks a limit of a tenth."""
    pairs = _pairs(10, slowdown=1.2)

    assert _look(*pairs, p=0.5, ratio=1.1).broken > math.log(1 / 0.045)
