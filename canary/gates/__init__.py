"""Limits against the evidence: two e-processes about each, and its estimates.

`Evidence` is what observations are folded into: whole numbers that add up in any order.
A scale weighs one limit, block after block, in a canonical order: what every look costs
is what is new since the last. `describe` adds what a reader wants to see (estimate,
bounds, how many units are still needed) and is called once, for the look that is
reported.
"""

from canary.decision import GateStatus
from canary.gates.common import Scale, Weight
from canary.gates.evidence import Evidence
from canary.gates.scales import scale_of

__all__ = ["Evidence", "Scale", "Weight", "scale_of", "status_of"]


def status_of(weight: Weight, *, broken: bool) -> GateStatus:
    """Return what is said of a limit; `broken` is the judge's finding."""
    if broken:
        return GateStatus.BROKEN
    if weight.insufficient is not None:
        return GateStatus.INSUFFICIENT
    return GateStatus.HOLDS if weight.holds else GateStatus.UNDECIDED
