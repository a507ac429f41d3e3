"""Gates on the ratio of two quantiles: paired, over a set for the baseline's own."""

import math
from functools import cache

import numpy as np

from canary.decision import GateResult, GateStatus
from canary.evidence.blocks import Ints
from canary.evidence.strands import Rows, Strand
from canary.gates.calendar import Calendar, counting_rows, runs_of
from canary.gates.common import Weight, no_evidence, overloaded
from canary.gates.ratio_bounds import Question, bounds
from canary.gates.rows import DISCRETE
from canary.policy.model import Gate, Policy
from canary.stats import quantile_pairs_needed
from canary.stats.betting import Floats
from canary.stats.block_cells import BlockCells, Units, Window, least_blocks
from canary.stats.cells import Geometry, QuantileLook
from canary.stats.dependence import effective_units
from canary.stats.grid import INFINITE_BIN, upper_ends
from canary.stats.onset import stretch_of
from canary.stats.request_cells import RequestCells

SET_SHARE = 0.1
"""Of alpha: what the confidence set for the baseline's quantile may miss with."""

_PROJECTED_PAIRS = 20_000


class RatioScale:
    """Weighs one limit on a ratio, with requests or blocks of time as units.

    Args:
        gate: The limit, with a quantile and a ratio.
        policy: Its policy.
        strand: A row per request: the bins of both arms' values (`a` and `b`).
        harm_alpha: How much of the policy's `harm_alpha` is this gate's.
    """

    def __init__(
        self, gate: Gate, policy: Policy, strand: Strand, *, harm_alpha: float
    ) -> None:
        if gate.quantile is None or gate.max_ratio is None:
            raise ValueError(f"gate {gate.name} lacks a quantile or a ratio")
        self._gate, self._policy, self._strand = gate, policy, strand
        self._p, self._ratio = gate.quantile, gate.max_ratio
        self._set_alpha = (SET_SHARE * policy.decision.alpha, SET_SHARE * harm_alpha)
        self._discrete = gate.metric in DISCRETE
        rules = policy.decision
        self._calendar = None if rules.by_request else Calendar(rules)
        self._by_request = RequestCells(
            p=self._p,
            ratio=gate.max_ratio,
            set_alpha=self._set_alpha,
            discrete=self._discrete,
        )
        self._geometry = Geometry.of(gate.max_ratio)
        if self._calendar is None:
            self._geometry = self._by_request.geometry
        self._by_block: BlockCells | None = None
        self._centre = 0
        self._means: list[Floats] = []
        self._requests: list[Ints] = []
        self._discordant = np.zeros(2, np.int64)
        self._seen: QuantileLook | None = None

    def advance(self, closed: int | None) -> None:
        """Take the evidence of all base blocks before `closed`, of all if None."""
        self._seen = None
        if self._calendar is None:
            rows = self._strand.take(closed)
            if rows is not None:
                a, b = _bins(rows)
                self._by_request.add(a, b, stretch_of(rows["block"]))
        elif self._calendar.ready or self._calibrate(self._calendar, closed):
            self._calendar.play(self._strand, closed, self._bet)

    def _calibrate(self, calendar: Calendar, closed: int | None) -> bool:
        """Set the length of blocks, and the cells: what is looked at later."""
        rows = calendar.calibration(self._strand, closed)
        if rows is None:
            return False
        a, b = _bins(rows)
        points = np.sort(self._geometry.baseline(a))
        self._centre = int(points[math.ceil(self._p * len(points)) - 1])
        inside, differences = self._at_centre(a, b)
        _, index = runs_of(rows["block"])
        sums = [
            np.bincount(index, values) for values in (differences, inside - self._p)
        ]
        calendar.begin(np.array(sums), np.bincount(index))
        self._by_block = BlockCells(
            p=self._p,
            geometry=self._geometry,
            set_alpha=self._set_alpha,
            discrete=self._discrete,
            window=Window.around(a, self._geometry, self._p),
        )
        return True

    def _at_centre(self, a: Ints, b: Ints) -> tuple[Floats, Floats]:
        """Whether the baseline is within what was its quantile during calibration, and
        by how much more often the candidate is within the ratio's multiple of that."""
        inside = (self._geometry.baseline(a) <= self._centre).astype(np.float64)
        other = self._geometry.candidate_hold(b) <= self._centre
        return inside, other - inside

    def _bet(self, rows: Rows) -> Floats:
        """Bet on each new block; return the means by which dependence shows."""
        calendar, cells = self._calendar, self._by_block
        if calendar is None or cells is None:
            raise ValueError("without blocks there is no block to bet on")
        a, b = _bins(rows)
        block = np.asarray(rows["block"], np.int64)
        first, index = runs_of(calendar.unit_of(block))
        requests = np.bincount(index)
        cells.add(
            Units(
                baseline=a,
                candidate=b,
                block=index,
                requests=requests,
                stretch=stretch_of(block[first] - calendar.first),
            )
        )
        inside, differences = self._at_centre(a, b)
        self._discordant += [(differences > 0).sum(), (differences < 0).sum()]
        means = np.array(
            [np.bincount(index, values) / requests for values in (differences, inside)]
        )
        self._means.append(means[0])
        self._requests.append(requests)
        return means

    def weigh(self, load: float | None) -> Weight:
        """Return the evidence that the ratio of quantiles keeps, or breaks, its limit.

        Args:
            load: The baseline's busy share of the time; None if unknown.
        """
        alpha = self._policy.decision.alpha
        threshold = math.log(1 / (alpha - SET_SHARE * alpha))
        queued = overloaded(self._gate, load)
        if queued is not None:
            return no_evidence(queued, threshold, more_would_help=False)
        look = self._look()
        if look.hold is None:
            return no_evidence(self._why_no_set(), threshold)
        return Weight(
            log_e_hold=look.hold,
            log_e_broken=look.broken or 0.0,
            threshold_hold=threshold,
        )

    def _look(self) -> QuantileLook:
        if self._seen is None:
            if self._calendar is None:
                self._seen = self._by_request.look()
            elif self._by_block is not None:
                self._seen = self._by_block.look()
            else:
                self._seen = QuantileLook(hold=None, broken=None)
        return self._seen

    @property
    def _units(self) -> int:
        if self._calendar is None:
            return self._by_request.requests
        return sum(len(requests) for requests in self._requests)

    def _why_no_set(self) -> str:
        if self._calendar is not None and not self._calendar.ready:
            if len(self._strand.waiting()):
                return self._calendar.waiting_for()
            return "no request has this measured for both arms"
        if not self._units:
            return "no request has this measured for both arms"
        quantile = f"the baseline's p{self._p * 100:g}"
        units, least = self._units, self._least_units()
        if units < least:
            kind = "requests"
            if self._calendar is not None:
                kind = f"blocks of {self._calendar.block_s:g} s"
            return (
                f"{units:,} {kind} can't bound {quantile} from above, "
                f"which takes at least {least:,}"
            )
        return (
            f"{quantile} can't be bounded: too many of its requests fail, or it moved "
            "away from where it was at first"
        )

    def _least_units(self) -> int:
        if self._calendar is not None:
            return least_blocks(self._p, set_alpha=self._set_alpha[0])
        return _least_requests(self._p, self._policy.decision.alpha)

    def describe(self, weight: Weight, status: GateStatus) -> GateResult:
        """Return the gate's result; what has no finite value is None."""
        rows = counting_rows(self._strand, self._calendar)
        a, b = _bins(rows) if rows else (np.empty(0, np.int64),) * 2
        a_bin, b_bin = sample_quantile(a, self._p), sample_quantile(b, self._p)
        known = a_bin is not None and b_bin is not None
        estimate = lower = upper = None
        if a_bin is not None and b_bin is not None:
            estimate = _value(b_bin) / _value(a_bin) if _value(a_bin) > 0 else None
        if rows:
            near = b_bin - a_bin if known and a_bin is not None and b_bin else 0
            lower, upper = self._bounds(rows, weight, near)
        needed: int | None = self._units
        if status in (GateStatus.UNDECIDED, GateStatus.INSUFFICIENT):
            needed = self._units_needed(a, b, weight, estimate)
        return GateResult(
            name=self._gate.name,
            metric=self._gate.metric,
            task=None,
            regime=self._gate.regime,
            quantile=self._p,
            over_s=None,
            effect="ratio",
            unit=UNITS.get(self._gate.metric, "s"),
            limit=self._ratio,
            at_least=False,
            estimate=estimate,
            lower=lower,
            upper=upper,
            baseline=None if a_bin is None else _value(a_bin),
            candidate=None if b_bin is None else _value(b_bin),
            log_e_hold=weight.log_e_hold,
            log_e_broken=weight.log_e_broken,
            units=self._units,
            units_needed=needed,
            status=status,
            threshold_hold=weight.threshold_hold,
            reason=weight.insufficient,
            block_s=self._calendar.block_s if self._calendar else None,
            requests=len(a),
            effective_pairs=self._effective_pairs(),
        )

    def _bounds(
        self, rows: Rows, weight: Weight, near: int
    ) -> tuple[float | None, float | None]:
        found = self._set_points()
        if found is None or not len(rows["a"]):
            return None, None
        a, b = _bins(rows)
        unit = requests = None
        if self._calendar is not None:
            unit = self._calendar.numbered(rows)
            requests = np.bincount(unit)
        question = Question(
            p=self._p,
            width=self._geometry.width,
            discrete=self._discrete,
            baseline=a,
            candidate=b,
            unit=unit,
            requests=requests,
            first=found[0],
            last=found[1],
        )
        return bounds(question, threshold=weight.threshold_hold, near=near)

    def _set_points(self) -> tuple[int, int] | None:
        if self._calendar is None:
            return self._by_request.set_points
        return self._by_block.set_points if self._by_block else None

    def _units_needed(
        self, a: Ints, b: Ints, weight: Weight, estimate: float | None
    ) -> int | None:
        """Repeat what came so far; of very many pairs, an even part of them."""
        if not weight.more_would_help:
            return None
        if self._calendar is not None and not self._units:
            return self._least_units()
        rules = self._policy.decision
        holding = estimate is not None and estimate <= self._ratio
        if self._by_block is not None and self._look().hold is not None:
            return self._by_block.units_needed(
                self._units, weight.threshold_hold, holding=holding
            )
        if self._calendar is not None:
            return self._least_units() if self._units < self._least_units() else None
        every = -(-len(a) // _PROJECTED_PAIRS) or 1
        return quantile_pairs_needed(
            upper_ends(a[::every]),
            upper_ends(b[::every]),
            p=self._p,
            ratio=self._ratio,
            alpha=rules.alpha if holding else rules.harm_alpha,
            hypothesis="hold" if holding else "broken",
        )

    def _effective_pairs(self) -> float | None:
        if not self._requests:
            return None
        requests = np.concatenate(self._requests).astype(np.float64)
        wins, losses = self._discordant / requests.sum()
        variance = float(wins + losses - (wins - losses) ** 2)
        return effective_units(np.concatenate(self._means), requests, variance)


UNITS = {"memory": "bytes", "tpot": "s/token", "output_tokens": "tokens"}
"""What a metric's values are measured in, if not in seconds."""


@cache
def _least_requests(p: float, alpha: float) -> int:
    """How many requests it takes until a quantile has an upper bound."""
    least = quantile_pairs_needed(
        [], [], p=p, ratio=1.0, alpha=alpha, hypothesis="hold"
    )
    if least is None:
        raise ValueError(f"no number of requests bounds a quantile of {p}")
    return least


def _bins(rows: Rows) -> tuple[Ints, Ints]:
    return np.asarray(rows["a"], np.int64), np.asarray(rows["b"], np.int64)


def sample_quantile(bins: Ints, p: float) -> int | None:
    """Return the least bin that a share of `p` doesn't exceed; None if infinite."""
    if not len(bins):
        return None
    found = int(np.quantile(bins, p, method="inverted_cdf"))
    return found if found < INFINITE_BIN else None


def _value(bin_: int) -> float:
    return float(upper_ends([bin_])[0])
