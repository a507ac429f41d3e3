"""Gates on accuracy: the mean difference of scores, per validation group."""

import math
from collections.abc import Mapping

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
            (`items`), and both scores in steps of a millionth (`a` and `b`).
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
        self._groups: dict[str, list[int]] = {}
        self.items = 0

    def advance(self, closed: int | None) -> None:
        """Take the evidence of all base blocks before `closed`, of all if None."""
        rows = self._strand.take(closed)
        if rows is None:
            return
        self.items += len(rows["block"])
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
        items and the sums of both scores, shape (groups, 3), and the groups' names."""
        alone = rows["items"] <= 1
        done = [rows["block"][alone].tolist()]
        ones = np.ones(int(alone.sum()), np.int64)
        sums = [np.column_stack([ones, rows["a"][alone], rows["b"][alone]])]
        names = rows["unit"][alone].tolist()
        late_blocks, late_sums = [], []
        columns = [rows[name][~alone].tolist() for name in ("block", "unit", "items",
                                                            "a", "b")]  # fmt: skip
        for block, unit, items, a, b in zip(*columns, strict=True):
            group = self._groups.setdefault(unit, [0, 0, 0])
            if group[0] == items:
                continue  # asked again: an item counts once
            group[0] += 1
            group[1] += a
            group[2] += b
            if group[0] == items:
                late_blocks.append(block)
                late_sums.append(tuple(group))
                names.append(unit)
        done.append(late_blocks)
        sums.append(np.array(late_sums, np.int64).reshape(-1, 3))
        blocks = np.array([b for some in done for b in some], np.int64)
        return blocks, np.vstack(sums), names

    def weigh(self, load: float | None) -> Weight:
        """Return the evidence so far; the load doesn't matter to it."""
        del load
        threshold = math.log(1 / self._policy.decision.alpha)
        if not self.means.units:
            told = "both arms have answered nothing that it counts"
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


def _total(gate: Gate, questions: Mapping[str, int]) -> int | None:
    """How many groups a gate's questions are; a regime's aren't known beforehand."""
    if gate.regime is not None or not questions:
        return None
    return questions.get(gate.task) if gate.task else sum(questions.values())
