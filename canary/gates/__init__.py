"""One gate against the evidence: two e-processes about one limit, and its estimates.

`weigh` is what every look costs: the evidence that the limit holds and the evidence
that it is broken. `describe` adds what a reader wants to see (estimate, bounds, how
many units are still needed) and is called once, for the look that is reported.
"""

from canary.decision import GateResult, GateStatus
from canary.evidence.pairs import Pairs
from canary.gates import differences, ratios
from canary.gates.common import Weight
from canary.policy.model import Gate, Policy

__all__ = ["Weight", "describe", "weigh"]


def weigh(gate: Gate, policy: Policy, pairs: Pairs, load: float | None) -> Weight:
    """Return the evidence about `gate` in all of `pairs`.

    Args:
        gate: The limit.
        policy: Its policy, for alpha and the regimes.
        pairs: What this look may see.
        load: The baseline's busy share of the time; None if unknown.
    """
    if gate.max_ratio is None:
        return differences.weigh(gate, policy, pairs)
    return ratios.weigh(gate, policy, pairs, load)


def describe(
    gate: Gate, policy: Policy, pairs: Pairs, weight: Weight, *, broken: bool
) -> GateResult:
    """Return everything a report says about `gate`; `broken` is the judge's finding."""
    status = _status(weight, broken=broken)
    if gate.max_ratio is None:
        return differences.describe(gate, policy, pairs, weight, status)
    return ratios.describe(gate, policy, pairs, weight, status)


def _status(weight: Weight, *, broken: bool) -> GateStatus:
    if broken:
        return GateStatus.BROKEN
    if weight.insufficient is not None:
        return GateStatus.INSUFFICIENT
    return GateStatus.HOLDS if weight.holds else GateStatus.UNDECIDED
