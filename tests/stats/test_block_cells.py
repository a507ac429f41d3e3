import math

import numpy as np
import pytest

from canary.stats.block_cells import (
    SHARES,
    BlockCells,
    Units,
    Window,
    least_blocks,
)
from canary.stats.cells import PAIRED_STAKE, Geometry, QuantileLook
from canary.stats.grid import bins_of
from canary.stats.onset import onset_mixture, stretch_of

SET_ALPHA = (0.005, 0.005)
# The blocks after which cells are forgotten: 32, and an eighth more each time.
NARROWINGS = (32, 36, 41, 47, 53, 60)


def _units(
    seed: int, blocks: int, *, slowdown: float = 1.0, several: bool = True
) -> Units:
    """Pairs that share most of their noise, in blocks of 8 to 12 requests."""
    generator = np.random.default_rng(seed)
    requests = generator.integers(8, 13, blocks)
    n = int(requests.sum())
    baseline = np.exp(0.6 * generator.standard_normal(n))
    candidate = slowdown * baseline * np.exp(0.05 * generator.standard_normal(n))
    order = np.arange(blocks)
    return Units(
        baseline=bins_of(baseline),
        candidate=bins_of(candidate),
        block=np.repeat(order, requests),
        requests=requests,
        stretch=stretch_of(order) if several else np.zeros(blocks, np.int64),
    )


def _cells(
    geometry: Geometry,
    window: Window,
    *,
    p: float = 0.5,
    discrete: bool = False,
    set_alpha: tuple[float, float] = SET_ALPHA,
) -> BlockCells:
    return BlockCells(
        p=p,
        geometry=geometry,
        set_alpha=set_alpha,
        discrete=discrete,
        window=window,
    )


def _log_mean(log_wealth: list[float]) -> float:
    return float(np.logaddexp.reduce(log_wealth) - math.log(len(log_wealth)))


def _bet(gains: list[float]) -> float:
    """The log of the mean wealth, bettor by bettor and block by block."""
    return _log_mean([sum(math.log1p(g * share) for g in gains) for share in SHARES])


class _ByLoops:
    """The definition, literally: counts per block and grid point, then bets."""

    def __init__(self, units: Units, *, p: float, geometry: Geometry, discrete: bool):
        self.p, self.discrete = p, discrete
        self.width = geometry.width
        self.shifts = geometry.hold_shift, geometry.broken_shift
        self.stretch = units.stretch
        self.requests = [int(n) for n in units.requests]
        self.pairs: list[list[tuple[int, int]]] = [[] for _ in self.requests]
        for a, b, block in zip(
            units.baseline, units.candidate, units.block, strict=True
        ):
            self.pairs[block].append((int(a), int(b)))

    def a(self, block: int, point: int) -> int:
        return sum(a <= self.width * point for a, _ in self.pairs[block])

    def b(self, block: int, point: int, shift: int) -> int:
        return sum(b <= self.width * point + shift for _, b in self.pairs[block])

    def interval(self, window: Window, alpha: float) -> tuple[int | None, int | None]:
        p, blocks = self.p, len(self.requests)
        looks = [n for n in NARROWINGS if n < blocks] + [blocks]
        lowers, uppers = [], []
        for point in range(window.first, window.first + window.cells + 1):
            shares = [self.a(k, point) / self.requests[k] for k in range(blocks)]
            for n in looks:
                if _bet([(p - s) / (1 - p) for s in shares[:n]]) >= -math.log(
                    (1 - p) * alpha
                ):
                    lowers.append(point)
                if _bet([(s - p) / p for s in shares[:n]]) >= -math.log(p * alpha):
                    uppers.append(point)
        return max(lowers, default=None), min(uppers, default=None)

    def mixed(self, paired: list[float], single: list[float]) -> float:
        if not self.discrete:
            return _bet(paired)
        return float(
            np.logaddexp(
                math.log(PAIRED_STAKE) + _bet(paired),
                math.log(1 - PAIRED_STAKE) + _bet(single),
            )
        )

    def hold(self, cell: int) -> float:
        paired, single = [], []
        for k, n in enumerate(self.requests):
            inside = self.b(k, cell, self.shifts[0])
            paired.append((inside - self.a(k, cell + 1)) / n)
            single.append((inside / n - self.p) / self.p)
        return self.mixed(paired, single)

    def broken(self, cell: int) -> float:
        since = []
        for start in range(int(self.stretch.max()) + 1):
            paired, single = [], []
            for k, n in enumerate(self.requests):
                if self.stretch[k] >= start:
                    inside = self.b(k, cell + 1, self.shifts[1])
                    paired.append((self.a(k, cell) - inside) / n)
                    single.append((self.p - inside / n) / (1 - self.p))
            since.append(self.mixed(paired, single))
        return float(onset_mixture(np.array(since)))


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(("blocks", "slowdown"), [(24, 0.9), (24, 1.5), (50, 1.0)])
def test_a_look_equals_the_definition(
    discrete: bool, several: bool, blocks: int, slowdown: float
) -> None:
    """Evidence over the confidence set is what loops over blocks and cells give."""
    units = _units(blocks, blocks, slowdown=slowdown, several=several)
    geometry, p = Geometry.of(1.2), 0.5
    middle = int(np.median(geometry.baseline(units.baseline)))
    window = Window(first=middle - 60, cells=120)
    cells = _cells(geometry, window, p=p, discrete=discrete)
    cells.add(units)
    actual = cells.look()
    loops = _ByLoops(units, p=p, geometry=geometry, discrete=discrete)
    lower, upper = loops.interval(window, SET_ALPHA[0])

    assert lower is not None
    assert upper is not None
    inside = range(lower, upper)
    assert (lower, upper) == cells.set_points
    assert min(map(loops.hold, inside)) == pytest.approx(actual.hold, abs=1e-9)
    assert min(map(loops.broken, inside)) == pytest.approx(actual.broken, abs=1e-9)


@pytest.mark.parametrize("step", [1, 7, 33])
def test_adding_in_pieces_equals_adding_at_once(step: int) -> None:
    """How blocks are cut up, and who looked in between, changes no evidence."""
    units = _units(1, 100)
    geometry = Geometry.of(1.2)
    window = Window.around(units.baseline, geometry, 0.5)
    whole, pieces = (_cells(geometry, window, discrete=True) for _ in range(2))
    whole.add(units)
    for begin in range(0, 100, step):
        pieces.add(units.part(begin, min(begin + step, 100)))
        pieces.look()
    expected, actual = whole.look(), pieces.look()

    assert whole.set_points == pieces.set_points
    assert expected.hold == pytest.approx(actual.hold, abs=1e-9)
    assert expected.broken == pytest.approx(actual.broken, abs=1e-9)


@pytest.mark.parametrize("values", [[], [0.0, 0.0], [0.0, math.inf], [math.inf]])
def test_without_finite_values_there_are_no_cells(values: list[float]) -> None:
    """A first sample that says nothing about where the quantile is opens no window."""
    window = Window.around(bins_of(values), Geometry.of(1.2), 0.5)

    assert Window(first=0, cells=0) == window


def test_without_cells_nothing_is_shown() -> None:
    """Blocks that no cell counts give neither evidence nor an error."""
    cells = _cells(Geometry.of(1.2), Window(first=0, cells=0))
    cells.add(_units(2, 40))

    assert QuantileLook(hold=None, broken=None) == cells.look()


def test_the_window_surrounds_the_quantile() -> None:
    """Half of it and more than four times it are among the cells."""
    baseline = np.exp(0.6 * np.random.default_rng(3).standard_normal(1000))
    geometry = Geometry.of(1.2)
    window = Window.around(bins_of(baseline), geometry, 0.5)
    half, fourfold = geometry.baseline(
        bins_of(np.median(baseline) * np.array([0.5, 4]))
    )

    assert window.first <= half < fourfold < window.first + window.cells


def test_least_blocks_of_p99() -> None:
    """A p99 of which the set may miss with 0.5 % is bounded after 726 blocks."""
    assert 726 == least_blocks(0.99, set_alpha=0.005)


@pytest.mark.parametrize("missing", [0, 1])
def test_least_blocks_is_minimal(missing: int) -> None:
    """Blocks with everything inside bound the p99 from above, one fewer don't."""
    blocks, geometry = 726 - missing, Geometry.of(1.2)
    ones = np.full(blocks, bins_of([1.0])[0])
    cells = _cells(geometry, Window(first=-2, cells=4), p=0.99)
    cells.add(
        Units(
            baseline=ones,
            candidate=ones,
            block=np.arange(blocks),
            requests=np.ones(blocks, np.int64),
            stretch=np.zeros(blocks, np.int64),
        )
    )
    cells.look()

    assert [0, None][missing] == cells.sets[0].upper


def _looks(seed: int, *, slowdown: float, blocks: int = 100) -> list[float]:
    """Evidence of a hold at 1.2 after every 10 blocks of 20 independent pairs."""
    generator = np.random.default_rng(seed)
    a, b = np.exp(0.3 * generator.standard_normal((2, blocks + 10, 20)))
    geometry = Geometry.of(1.2)
    cells = _cells(geometry, Window.around(bins_of(a[:10].ravel()), geometry, 0.5))
    a, b = a[10:], slowdown * b[10:]
    found = []
    for begin in range(0, blocks, 10):
        cells.add(
            Units(
                baseline=bins_of(a[begin : begin + 10].ravel()),
                candidate=bins_of(b[begin : begin + 10].ravel()),
                block=np.repeat(np.arange(10), 20),
                requests=np.full(10, 20),
                stretch=stretch_of(np.arange(begin, begin + 10)),
            )
        )
        hold = cells.look().hold
        found.append(-math.inf if hold is None else hold)
    return found


def test_false_holds_stay_below_alpha_with_peeking() -> None:
    """A candidate exactly at the limit is said to hold it in at most 5 % of runs."""
    runs, alpha = 60, 0.05
    false = sum(
        max(_looks(seed, slowdown=1.2)) >= -math.log(alpha - SET_ALPHA[0])
        for seed in range(runs)
    )

    assert false / runs <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)


def test_equal_arms_are_shown_to_hold() -> None:
    """The same looks find that independent equal arms stay within a fifth."""
    assert all(max(_looks(seed, slowdown=1.0)) >= math.log(20) for seed in range(5))
