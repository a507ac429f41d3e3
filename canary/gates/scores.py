"""Gates on accuracy: the mean difference of scores, per validation group."""

import math
from collections import Counter
from collections.abc import Mapping
from zlib import crc32

import numpy as np

from canary.decision import GateResult, GateStatus
from canary.evidence.blocks import Ints
from canary.evidence.strands import Rows, Strand
from canary.gates.common import Weight, no_evidence
from canary.gates.differences import Means, difference_result, margin_of, weight_of
from canary.gates.finite_set import FiniteSet
from canary.gates.rows import STEPS
from canary.policy.model import Gate, Policy
from canary.stats.betting import SHARES
from canary.stats.onset import stretch_of
from canary.stats.tallies import ValueTally


class ScoreScale:
    """Weighs one limit on accuracy; a unit is a group, once all its items are answered.

    Args:
        gate: The limit.
        policy: Its policy.
        strand: A row per item: group (`unit`), the items that the group will have
            (`items`, 0 if that isn't said), which of them it is (`item`), and both
            scores in steps of a millionth (`a` and `b`).
        questions: How many groups each task's questions are; for `inference: set`.

    A mean over half a group would be looked at before it is known. Groups count in the
    order of the base blocks in which they were completed.
    """

    def __init__(
        self,
        gate: Gate,
        policy: Policy,
        strand: Strand,
        questions: Mapping[str, int] | None = None,
    ) -> None:
        self._gate, self._policy, self._strand = gate, policy, strand
        self._set = None
        if policy.decision.inference == "set":
            self._set = FiniteSet(-margin_of(gate), _total(gate, questions or {}))
        self.tally = ValueTally(-margin_of(gate), SHARES)
        self.means = Means()
        self._open: dict[str, dict[int, tuple[int, int]]] = {}
        self._whole: set[str] = set()
        self._sizes: Counter[str] = Counter()
        self._sized = 0
        self.items = 0

    def advance(self, closed: int | None) -> None:
        """Take the evidence of all base blocks before `closed`, of all if None."""
        rows = self._strand.take(closed)
        if rows is None:
            return
        block, sums, names = self._completed(rows)
        if not len(block):
            return
        items, a, b = sums.astype(np.float64).T
        a_mean, b_mean = a / items / STEPS, b / items / STEPS
        self.tally.add(b_mean - a_mean, stretch_of(block))
        if self._set is not None:
            self._set.add(b_mean - a_mean, block, names)
        self.means.add(a_mean, b_mean)

    def _completed(self, rows: Rows) -> tuple[Ints, Ints, list[str]]:
        """Return the base block in which each complete group was completed, with its
        items and the sums of both scores, shape (groups, 3), and the groups' names.

        An item that is asked again counts once, and so does a group.
        """
        columns = [rows[name].tolist() for name in ("block", "unit", "item", "a", "b")]
        blocks, sums, names = [], [], []
        for block, unit, item, a, b, size in sorted(
            zip(*columns, self._sizes_of(rows), strict=True), key=_order
        ):
            if unit in self._whole:
                continue
            group = self._open.setdefault(unit, {})
            self.items += item not in group
            group.setdefault(item, (a, b))
            if len(group) >= size:
                self._whole.add(unit)
                blocks.append(block)
                sums.append((len(group), *map(sum, zip(*group.values(), strict=True))))
                names.append(unit)
                del self._open[unit]
        shaped = np.array(sums, np.int64).reshape(-1, 3)
        return np.array(blocks, np.int64), shaped, names

    def _sizes_of(self, rows: Rows) -> list[int]:
        """Return how many items the group of each row has.

        Where that isn't said, as many as have been folded: all parts and shards are
        looked at, also what hasn't been taken yet.
        """
        sizes: list[int] = rows["items"].tolist()
        if all(sizes):
            return sizes
        if self._sized < len(self._strand):
            whole = self._strand.everything()
            items = set(
                zip(whole["unit"].tolist(), whole["item"].tolist(), strict=True)
            )
            self._sizes = Counter(unit for unit, _ in items)
            self._sized = len(self._strand)
        units = rows["unit"].tolist()
        return [
            size or self._sizes[unit] for size, unit in zip(sizes, units, strict=True)
        ]

    def weigh(self, load: float | None) -> Weight:
        """Return the evidence so far; the load doesn't matter to it."""
        del load
        threshold = math.log(1 / self._policy.decision.alpha)
        if not self.means.units:
            told = "both arms have answered nothing that it counts"
            if self._open:
                told = f"none of {len(self._open):,} groups is answered in full"
            return no_evidence(told, threshold)
        baseline = self.means.baseline
        if baseline <= margin_of(self._gate):
            told = f"the baseline itself is right on only {baseline:.1%}, nothing to"
            return no_evidence(f"{told} lose", threshold, more_would_help=False)
        if self._set is not None:
            return self._of_set(self._set, threshold)
        return weight_of(self.tally, threshold)

    def _of_set(self, of: "FiniteSet", threshold: float) -> Weight:
        if of.total is None:
            told = (
                "how many questions the set holds isn't known; judge a run that knows, "
                "or put the policy's validation files in place"
            )
            return no_evidence(told, threshold, more_would_help=False)
        return Weight(
            log_e_hold=of.log_e(holding=True),
            log_e_broken=of.log_e(holding=False),
            threshold_hold=threshold,
        )

    def describe(self, weight: Weight, status: GateStatus) -> GateResult:
        """Return everything a report says about the limit."""
        return difference_result(
            self._gate,
            self._policy,
            weight,
            status,
            tally=self.tally,
            means=self.means,
            requests=self.items,
            bounds=self._set.bounds(self._policy.decision.alpha) if self._set else None,
        )


def _order(row: tuple[int, str, int, int, int, int]) -> tuple[int | str, ...]:
    """Put rows in an order that doesn't depend on who folded them.

    Of two answers to one question in a base block the first counts: a coin for each
    group says whether that is the better or the worse one, so neither is preferred.
    """
    block, unit, item, a, b, _ = row
    turn = 1 if crc32(unit.encode()) & 1 else -1
    return block, unit, item, turn * a, turn * b


def _total(gate: Gate, questions: Mapping[str, int]) -> int | None:
    """How many groups a gate's questions are; a regime's aren't known beforehand."""
    if gate.regime is not None or not questions:
        return None
    return questions.get(gate.task) if gate.task else sum(questions.values())
