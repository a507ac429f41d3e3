"""What all kinds of gates need: which pairs count, with which times, as which units."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from canary.decision import GateResult, GateStatus
from canary.evidence.pairs import Bools, Floats, Pairs, Side
from canary.policy.model import Gate, Policy, regime_names


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """The evidence about one limit: ln of the e-values, and when it counts as shown.

    `insufficient` says why the evidence can't bound anything yet; None when it can.
    `more_would_help` is whether more of the same could cure that. `held` and `broken`
    are what a single look found where there are no e-values (`canary.gates.fixed`).
    """

    log_e_hold: float
    log_e_broken: float
    threshold_hold: float
    insufficient: str | None = None
    more_would_help: bool = True
    held: bool | None = None
    broken: bool | None = None

    @property
    def holds(self) -> bool:
        """Whether the limit is shown to hold."""
        if self.insufficient is not None:
            return False
        if self.held is not None:
            return self.held
        return self.log_e_hold >= self.threshold_hold


class Scale(Protocol):
    """Weighs the evidence about one limit, block after block."""

    def advance(self, closed: int | None) -> None:
        """Take the evidence of all base blocks before `closed`, of all if None."""
        ...

    def weigh(self, load: float | None) -> Weight:
        """Return the evidence so far, at this busy share of the baseline's time."""
        ...

    def describe(self, weight: Weight, status: GateStatus) -> GateResult:
        """Return everything a report says about the limit."""
        ...


def no_evidence(
    reason: str, threshold_hold: float, *, more_would_help: bool = True
) -> Weight:
    """Return the weight of nothing: e-values of 1."""
    return Weight(
        log_e_hold=0.0,
        log_e_broken=0.0,
        threshold_hold=threshold_hold,
        insufficient=reason,
        more_would_help=more_would_help,
    )


LOAD_LIMIT = 0.9
"""Above this share of busy time a queue says more about the load than the variant."""


def overloaded(gate: Gate, load: float | None) -> str | None:
    """Return why a queue, not the variant, would decide; None where it wouldn't."""
    queued = gate.max_ratio is not None and gate.metric in ("ttft", "latency")
    if not queued or load is None or load <= LOAD_LIMIT:
        return None
    return (
        f"the baseline is busy {load:.0%} of the time, over {LOAD_LIMIT:.0%}: "
        "its queue, not the variant, would decide; lower traffic.speed"
    )


def timings(gate: Gate, pairs: Pairs) -> tuple[Floats, Floats, Bools]:
    """Both arms' times, infinite where a request failed, and where both are known."""
    baseline, candidate = _times(gate, pairs.baseline), _times(gate, pairs.candidate)
    return baseline, candidate, pairs.timed & ~np.isnan(baseline) & ~np.isnan(candidate)


def _times(gate: Gate, side: Side) -> Floats:
    measured: Floats = getattr(side, f"{gate.metric}_s")
    return np.where(side.failed, np.inf, measured)


def in_regime(gate: Gate, policy: Policy, pairs: Pairs) -> Bools:
    """Which pairs have a prompt of the gate's regime; all of them if it names none."""
    if gate.regime is None:
        return np.ones(len(pairs), dtype=bool)
    wanted = regime_names(policy.regimes).index(gate.regime)
    ends = (-1, *policy.regimes, np.iinfo(np.int64).max)
    tokens = pairs.prompt_tokens
    return (ends[wanted] <= tokens) & (tokens < ends[wanted + 1])
