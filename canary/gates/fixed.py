"""Limits judged once, at the end of a run: `decision: {mode: fixed}`.

For a test run in CI that nobody looks at before it is over. Methods for one look are
sharper than those for many, and wrong for more than one: there are no e-values here,
only bounds. A limit holds if its bound at alpha is within it; it is broken if the other
bound, at this gate's equal share of harm_alpha, is beyond it (Bonferroni).
"""

import math
from dataclasses import dataclass

import numpy as np

from canary.decision import GateResult, GateStatus
from canary.evidence.blocks import Ints
from canary.evidence.strands import Rows, Strand
from canary.gates.calendar import runs_of
from canary.gates.common import Weight, no_evidence, overloaded
from canary.gates.differences import margin_of
from canary.gates.ratios import UNITS, sample_quantile
from canary.gates.scores import ScoreScale
from canary.policy.model import Gate, Policy
from canary.policy.units import BASE_BLOCK_S
from canary.stats import block_ratio_bounds, cluster_mean_bounds, tango_interval
from canary.stats.betting import Floats
from canary.stats.dependence import doublings_needed
from canary.stats.grid import upper_ends

_SEED = 0  # resampling is repeatable

Bounds = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What a gate has to go by: on the scale of its limit, where less is better.

    `limit` is the most that `estimate` may be. `bounds` and `harm_bounds` are one-sided
    at alpha and at the share of harm_alpha. None: nothing was measured.
    """

    limit: float
    estimate: float
    baseline: float | None
    candidate: float | None
    bounds: Bounds
    harm_bounds: Bounds
    units: int
    requests: int
    block_s: float | None = None


class FixedScale:
    """Weighs one limit on everything that there is, once.

    Args:
        gate: The limit.
        policy: Its policy.
        strand: Its rows.
    """

    def __init__(self, gate: Gate, policy: Policy, strand: Strand) -> None:
        self._gate, self._policy, self._strand = gate, policy, strand
        rules = policy.decision
        self._alphas = (rules.alpha, rules.harm_alpha / len(policy.gates))
        self._scores = ScoreScale(gate, policy, strand) if _scored(gate) else None
        self._sample: Sample | None = None

    def advance(self, closed: int | None) -> None:
        """Take the evidence of all base blocks before `closed`, of all if None."""
        if self._scores is not None:
            self._scores.advance(closed)
            self._sample = self._of_scores(self._scores)
            return
        self._strand.take(closed)
        rows = self._strand.taken()
        if rows is not None:
            ratio = self._gate.max_ratio is not None
            self._sample = self._of_ratios(rows) if ratio else self._of_shares(rows)

    def _of_scores(self, scores: ScoreScale) -> Sample | None:
        gained = scores.tally.values
        if not len(gained):
            return None
        baseline, candidate = scores.means.baseline, scores.means.candidate
        return Sample(
            limit=margin_of(self._gate),
            estimate=baseline - candidate,
            baseline=baseline,
            candidate=candidate,
            bounds=_mean_bounds(-gained, self._alphas[0]),
            harm_bounds=_mean_bounds(-gained, self._alphas[1]),
            units=len(gained),
            requests=scores.items,
        )

    def _of_shares(self, rows: Rows) -> Sample:
        a, b = (np.asarray(rows[name], np.float64) for name in ("a", "b"))
        unit, block_s = self._units(rows, [b - a])
        requests = np.bincount(unit)
        a_mean = np.bincount(unit, a) / requests
        b_mean = np.bincount(unit, b) / requests
        worse = b_mean - a_mean
        return Sample(
            limit=margin_of(self._gate),
            estimate=float(worse.mean()),
            baseline=float(a_mean.mean()),
            candidate=float(b_mean.mean()),
            bounds=_mean_bounds(worse, self._alphas[0]),
            harm_bounds=_mean_bounds(worse, self._alphas[1]),
            units=len(requests),
            requests=len(a),
            block_s=block_s,
        )

    def _of_ratios(self, rows: Rows) -> Sample:
        p, limit = self._gate.quantile or 0.5, self._gate.max_ratio or 1.0
        bins = [np.asarray(rows[name], np.int64) for name in ("a", "b")]
        a, b = (upper_ends(some) for some in bins)
        quantiles = [sample_quantile(some, p) for some in bins]
        known = [None if some is None else float(upper_ends([some])[0])
                 for some in quantiles]  # fmt: skip
        centre = quantiles[0] if quantiles[0] is not None else 0
        inside = [(some <= centre).astype(np.float64) for some in bins]
        unit, block_s = self._units(rows, [inside[0], inside[1] - inside[0]])
        found = [
            block_ratio_bounds(a, b, unit, p=p, alpha=alpha, seed=_SEED)
            for alpha in self._alphas
        ]
        low, high = known
        return Sample(
            limit=limit,
            estimate=high / low if low and high is not None else math.nan,
            baseline=low,
            candidate=high,
            bounds=found[0],
            harm_bounds=found[1],
            units=int(unit[-1]) + 1,
            requests=len(a),
            block_s=block_s,
        )

    def _units(self, rows: Rows, series: list[Floats]) -> tuple[Ints, float | None]:
        """Return the unit of each request, and how long blocks are if they are units.

        With everything at hand the length that dependence asks for is seen at once.
        """
        rules = self._policy.decision
        if rules.by_request:
            return np.arange(len(rows["block"])), None
        block = np.asarray(rows["block"], np.int64)
        if isinstance(rules.block, float):
            width = round(rules.block / BASE_BLOCK_S)
        else:
            _, index = runs_of(block)
            sums = np.array([np.bincount(index, values) for values in series])
            counts = np.bincount(index).astype(np.float64)
            width = 2 ** doublings_needed(sums, counts)
        return runs_of(block // width)[1], width * BASE_BLOCK_S

    def weigh(self, load: float | None) -> Weight:
        """Return whether the limit holds, or is broken: no e-values, but bounds."""
        threshold = math.log(1 / self._alphas[0])
        sample = self._sample
        if sample is None:
            return no_evidence("both arms have answered nothing that it counts",
                               threshold)  # fmt: skip
        queued = overloaded(self._gate, load)
        if queued is not None:
            return no_evidence(queued, threshold, more_would_help=False)
        insufficient = None
        if not math.isfinite(sample.bounds[1]) and not sample.harm_bounds[0] > 0:
            insufficient = f"too few units ({sample.units:,}) to bound it"
        return Weight(
            log_e_hold=0.0,
            log_e_broken=0.0,
            threshold_hold=threshold,
            insufficient=insufficient,
            held=sample.bounds[1] <= sample.limit,
            broken=sample.harm_bounds[0] > sample.limit,
        )

    def describe(self, weight: Weight, status: GateStatus) -> GateResult:
        """Return everything a report says about the limit."""
        gate, sample = self._gate, self._sample
        turned = _scored(gate)  # more is better: the limit is a lower one
        ratio = gate.max_ratio is not None

        def shown(value: float | None) -> float | None:
            if value is None or not math.isfinite(value):
                return None
            return -value + 0.0 if turned else value

        ends = sample.bounds if sample else (None, None)
        lower, upper = shown(ends[0]), shown(ends[1])
        if turned:
            lower, upper = upper, lower
        limit = gate.max_ratio if gate.max_ratio is not None else margin_of(gate)
        return GateResult(
            name=gate.name,
            metric=gate.metric,
            task=gate.task,
            regime=gate.regime,
            quantile=gate.quantile,
            over_s=gate.over_s,
            effect="ratio" if ratio else "difference",
            unit=UNITS.get(gate.metric, "s") if ratio else "share",
            limit=-limit if turned else limit,
            at_least=turned,
            estimate=shown(sample.estimate) if sample else None,
            lower=lower,
            upper=upper,
            baseline=sample.baseline if sample else None,
            candidate=sample.candidate if sample else None,
            log_e_hold=weight.log_e_hold,
            log_e_broken=weight.log_e_broken,
            units=sample.units if sample else 0,
            units_needed=self._needed(status),
            status=status,
            threshold_hold=weight.threshold_hold,
            reason=weight.insufficient,
            block_s=sample.block_s if sample else None,
            requests=sample.requests if sample else 0,
        )

    def _needed(self, status: GateStatus) -> int | None:
        """As many as bring the bound to the limit, if it narrows with the root of n."""
        sample = self._sample
        if sample is None:
            return None
        if status in (GateStatus.HOLDS, GateStatus.BROKEN):
            return sample.units
        holding = sample.estimate <= sample.limit
        bound = sample.bounds[1] if holding else sample.harm_bounds[0]
        room, width = sample.limit - sample.estimate, bound - sample.estimate
        if not math.isfinite(bound) or not math.isfinite(room) or not room:
            return None
        return math.ceil(sample.units * max((width / room) ** 2, 1.0))


def _scored(gate: Gate) -> bool:
    return gate.metric == "accuracy"


def _mean_bounds(values: Floats, alpha: float) -> Bounds:
    """Bound a mean: by Tango's score interval where each unit is better, equal or worse
    by one, or where all are equal; else by drawing units anew."""
    whole = np.isin(values, (-1.0, 0.0, 1.0)).all()
    if whole:
        more, less = int((values > 0).sum()), int((values < 0).sum())
        return tango_interval(more, less, len(values), alpha=2 * alpha)
    return cluster_mean_bounds(values, np.arange(len(values)), alpha=alpha, seed=_SEED)
