"""What gates on a mean difference have in common: the result that reports show."""

import math
from dataclasses import dataclass

from canary.decision import GateResult, GateStatus
from canary.gates.common import Weight
from canary.policy.model import Gate, Policy
from canary.stats.betting import Floats
from canary.stats.tallies import CountTally, ValueTally


@dataclass(slots=True)
class Means:
    """Each arm's mean over units, as units come."""

    units: int = 0
    _a: float = 0.0
    _b: float = 0.0

    def add(self, a: Floats, b: Floats) -> None:
        """Take more units, shape (n,) each."""
        self.units += len(a)
        self._a += float(a.sum())
        self._b += float(b.sum())

    @property
    def baseline(self) -> float:
        """The baseline's mean; there must be units."""
        return self._a / self.units

    @property
    def candidate(self) -> float:
        """The candidate's mean; there must be units."""
        return self._b / self.units


def margin_of(gate: Gate) -> float:
    """Return the margin of a gate that has one."""
    if gate.margin is None:
        raise ValueError(f"gate {gate.name} has neither a margin nor a ratio")
    return gate.margin


def weight_of(tally: CountTally | ValueTally, threshold: float) -> Weight:
    """Return the evidence in a tally."""
    return Weight(
        log_e_hold=tally.log_e_hold(),
        log_e_broken=tally.log_e_broken(),
        threshold_hold=threshold,
    )


def difference_result(
    gate: Gate,
    policy: Policy,
    weight: Weight,
    status: GateStatus,
    *,
    tally: CountTally | ValueTally,
    means: Means,
    requests: int,
    block_s: float | None = None,
    effective_pairs: float | None = None,
    bounds: tuple[float, float] | None = None,
) -> GateResult:
    """Return a gate's result; what nothing was measured of is None.

    `bounds`, of the mean gain, are the tally's unless they come from elsewhere.
    """
    more_is_better = gate.metric == "accuracy"
    margin = margin_of(gate)
    estimate = lower = upper = baseline = candidate = None
    if means.units:
        sign = 1.0 if more_is_better else -1.0
        gained = bounds or tally.bounds(alpha=policy.decision.alpha)
        # Adding 0 turns -0.0 into 0.0, which no reader should have to wonder about.
        lower, upper = sorted(sign * bound + 0.0 for bound in gained)
        baseline, candidate = means.baseline, means.candidate
        estimate = candidate - baseline + 0.0
    return GateResult(
        name=gate.name,
        metric=gate.metric,
        task=gate.task,
        regime=gate.regime,
        quantile=None,
        over_s=gate.over_s,
        effect="difference",
        unit="share",
        limit=-margin if more_is_better else margin,
        at_least=more_is_better,
        estimate=estimate,
        lower=lower,
        upper=upper,
        baseline=baseline,
        candidate=candidate,
        log_e_hold=weight.log_e_hold,
        log_e_broken=weight.log_e_broken,
        units=means.units,
        units_needed=_units_needed(
            gate, policy, weight, status, tally=tally, means=means
        ),
        status=status,
        threshold_hold=weight.threshold_hold,
        reason=weight.insufficient,
        block_s=block_s,
        requests=requests,
        effective_pairs=effective_pairs,
    )


def _units_needed(
    gate: Gate,
    policy: Policy,
    weight: Weight,
    status: GateStatus,
    *,
    tally: CountTally | ValueTally,
    means: Means,
) -> int | None:
    """Repeat the differences seen so far until the limit is shown to hold, or to be
    broken, whichever they point to."""
    if status in (GateStatus.HOLDS, GateStatus.BROKEN):
        return means.units
    if not means.units or not weight.more_would_help:
        return None
    gained = means.candidate - means.baseline
    if gate.metric != "accuracy":
        gained = -gained
    holding = gained > -margin_of(gate)
    threshold = weight.threshold_hold
    if not holding:
        threshold = math.log(1 / policy.decision.harm_alpha)
    copies = tally.copies_needed(threshold, holding=holding)
    return None if copies is None else math.ceil(copies * means.units)
