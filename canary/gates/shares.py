"""Gates on the share of requests that go badly: errors, slow answers, other answers.

The difference is taken per request, so that a positive value is good for the candidate;
the result turns it round, since more of what is bad is worse.
"""

import math

import numpy as np

from canary.decision import GateResult, GateStatus
from canary.evidence.blocks import Ints
from canary.evidence.strands import Rows, Strand
from canary.gates.calendar import Calendar, counting_rows, runs_of
from canary.gates.common import Weight, no_evidence
from canary.gates.differences import Means, difference_result, margin_of, weight_of
from canary.policy.model import Gate, Policy
from canary.stats.betting import FEWER_SHARES, Floats
from canary.stats.dependence import effective_units
from canary.stats.onset import stretch_of
from canary.stats.tallies import CountTally, ValueTally


class ShareScale:
    """Weighs one limit on a share, with requests or blocks of time as units.

    Args:
        gate: The limit, with a margin.
        policy: Its policy.
        strand: A row per request: whether each arm did badly (`a` and `b`).
        margin: Where it isn't the gate's.
    """

    def __init__(
        self, gate: Gate, policy: Policy, strand: Strand, *, margin: float | None = None
    ) -> None:
        self._gate, self._policy, self._strand = gate, policy, strand
        margin = margin_of(gate) if margin is None else margin
        self._counts = CountTally(-margin)
        self._values = ValueTally(-margin, FEWER_SHARES)
        rules = policy.decision
        self._calendar = None if rules.by_request else Calendar(rules)
        self._means = Means()
        self._discordant = np.zeros(2, np.int64)
        self._requests: list[Ints] = []

    def advance(self, closed: int | None) -> None:
        """Take the evidence of all base blocks before `closed`, of all if None."""
        if self._calendar is None:
            self._count(self._strand.take(closed))
        elif self._calendar.ready or self._calibrate(self._calendar, closed):
            self._calendar.play(self._strand, closed, self._bet)

    def _count(self, rows: Rows | None) -> None:
        if rows is None:
            return
        a, b = np.asarray(rows["a"], np.int64), np.asarray(rows["b"], np.int64)
        wins, losses = a * (1 - b), b * (1 - a)
        stretch = stretch_of(rows["block"])
        self._counts.add(wins, 1 - wins - losses, losses, stretch)
        self._means.add(a.astype(np.float64), b.astype(np.float64))

    def _calibrate(self, calendar: Calendar, closed: int | None) -> bool:
        rows = calendar.calibration(self._strand, closed)
        if rows is None:
            return False
        _, index = runs_of(rows["block"])
        sums = np.bincount(index, (rows["a"] - rows["b"]).astype(np.float64))
        calendar.begin(np.array([sums]), np.bincount(index))
        return True

    def _bet(self, rows: Rows) -> Floats:
        """Bet on the mean difference of each new block; return the means."""
        calendar = self._calendar
        if calendar is None:
            raise ValueError("without blocks there is no block to bet on")
        block, a, b = np.asarray(rows["block"], np.int64), rows["a"], rows["b"]
        first, index = runs_of(calendar.unit_of(block))
        requests = np.bincount(index)
        a_mean = np.bincount(index, a) / requests
        b_mean = np.bincount(index, b) / requests
        means = a_mean - b_mean
        self._values.add(means, stretch_of(block[first] - calendar.first))
        self._means.add(a_mean, b_mean)
        self._requests.append(requests)
        self._discordant += [int((a > b).sum()), int((a < b).sum())]
        return means

    def weigh(self, load: float | None) -> Weight:
        """Return the evidence so far; the load doesn't matter to it."""
        del load
        threshold = math.log(1 / self._policy.decision.alpha)
        if not self._means.units:
            return no_evidence(self._nothing_yet(), threshold)
        reason = self._nothing_to_lose(self._means.baseline)
        if reason is not None:
            return no_evidence(reason, threshold, more_would_help=False)
        return weight_of(self.tally, threshold)

    def describe(self, weight: Weight, status: GateStatus) -> GateResult:
        """Return everything a report says about the limit."""
        return difference_result(
            self._gate,
            self._policy,
            weight,
            status,
            tally=self.tally,
            means=self._means,
            block_s=self._calendar.block_s if self._calendar else None,
            requests=int(sum(r.sum() for r in self._requests)) or self._means.units,
            effective_pairs=self._effective_pairs(),
        )

    def counting(self) -> Rows | None:
        """Return the rows that count: not those that set the length of blocks."""
        return counting_rows(self._strand, self._calendar)

    def units_of(self, rows: Rows) -> Ints:
        """Return a number from 0 on for the block of each of these rows."""
        if self._calendar is None:
            raise ValueError("requests are in no blocks")
        return self._calendar.numbered(rows)

    @property
    def tally(self) -> CountTally | ValueTally:
        """The evidence, in the form that fits the units."""
        return self._counts if self._calendar is None else self._values

    def _effective_pairs(self) -> float | None:
        if not self._requests:
            return None
        requests = np.concatenate(self._requests)
        wins, losses = self._discordant / requests.sum()
        variance = float(wins + losses - (wins - losses) ** 2)
        return effective_units(
            self._values.values, requests.astype(np.float64), variance
        )

    def _nothing_yet(self) -> str:
        if self._calendar is not None and len(self._strand.waiting()):
            return self._calendar.waiting_for()
        return "both arms have answered nothing that it counts"

    def _nothing_to_lose(self, baseline: float) -> str | None:
        """Whether the baseline is so bad that no candidate could break the limit."""
        if baseline < 1 - margin_of(self._gate):
            return None
        what = "fails" if self._gate.metric == "errors" else "is slower than that"
        return f"the baseline itself {what} on {baseline:.1%}, nothing to lose"
