"""Which rows a gate counts, and which scale weighs them."""

from collections.abc import Mapping

from canary.evidence.blocks import Ints
from canary.evidence.pairs import Pairs
from canary.evidence.strands import Rows, Strand
from canary.gates.common import Scale
from canary.gates.fixed import FixedScale
from canary.gates.ratios import RatioScale
from canary.gates.rows import bin_rows, score_rows, share_rows
from canary.gates.scores import ScoreScale
from canary.gates.shares import ShareScale
from canary.policy.model import Gate, Policy


def scale_of(
    gate: Gate,
    policy: Policy,
    strand: Strand,
    *,
    harm_alpha: float,
    questions: Mapping[str, int] | None = None,
) -> Scale:
    """Return the scale for a gate.

    Args:
        gate: The limit.
        policy: Its policy.
        strand: Its rows.
        harm_alpha: Its share, if it is on a quantile, of what the policy allows.
        questions: How many groups each task's questions are, where that is known.
    """
    if policy.decision.mode == "fixed":
        return FixedScale(gate, policy, strand)
    if gate.metric == "accuracy":
        return ScoreScale(gate, policy, strand, questions)
    if gate.max_ratio is None:
        return ShareScale(gate, policy, strand)
    return RatioScale(gate, policy, strand, harm_alpha=harm_alpha)


def rows_of(
    gate: Gate,
    policy: Policy,
    pairs: Pairs,
    own: Ints,
    unit: Ints,
    *,
    weighed: bool = False,
) -> Rows:
    """Return the rows that a gate counts.

    Args:
        gate: The limit.
        policy: Its policy.
        pairs: All pairs.
        own: The base block in which each arrived.
        unit: The base block in which each counts, which is that of its session.
        weighed: With the weight that each request of traffic was stored with.
    """
    if gate.metric == "accuracy":
        return score_rows(gate, policy, pairs, own)
    if gate.max_ratio is None:
        return share_rows(gate, policy, pairs, unit, weighed=weighed)
    return bin_rows(gate, policy, pairs, unit, weighed=weighed)
