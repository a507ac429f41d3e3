"""Whether the evidence can be trusted at all."""

import math

from canary.decision import Validity
from canary.evidence.pairs import CONTROL_ARM
from canary.gates.books import Books
from canary.gates.evidence import Evidence
from canary.policy.model import Policy
from canary.stats import paired_log_e

MAX_VOID_SHARE = 0.01
MAX_LATE_SHARE = 0.01


def validity_of(
    policy: Policy, books: Books, evidence: Evidence, *, control_pairs: int
) -> Validity:
    """Return what speaks against trusting the evidence, the A/A control aside."""
    lost_a, lost_b = books.lost
    void_share = books.void / books.offered if books.offered else 0.0
    late_share = books.late / books.lagged if books.lagged else None
    control = evidence.control_kernels
    reasons = [
        *evidence.doubts,
        *_void_reason(books, void_share),
        *_late_reason(policy, books, late_share),
        *_loss_reason(policy, lost_a, lost_b),
        *_other_kernels(control),
    ]
    return Validity(
        valid=not reasons,
        reasons=tuple(reasons),
        void_share=void_share,
        late_share=late_share,
        missing_baseline=lost_a,
        missing_candidate=lost_b,
        baseline_load=books.baseline_load(evidence.queues),
        kernels=evidence.kernels | control,
        devices=dict(evidence.devices),
        control_share=policy.aa_control,
        control_pairs=control_pairs,
    )


def _void_reason(books: Books, void_share: float) -> list[str]:
    if void_share <= MAX_VOID_SHARE:
        return []
    reason = (
        f"{books.void:,} of {books.offered:,} requests ({void_share:.1%}) were void or "
        f"shed, more than {MAX_VOID_SHARE:.0%}; what remains may not be a fair sample"
    )
    return [reason]


def _late_reason(policy: Policy, books: Books, late_share: float | None) -> list[str]:
    if late_share is None or late_share <= MAX_LATE_SHARE:
        return []
    limit_ms = policy.send_lag_limit_s * 1000
    reason = (
        f"{books.late:,} of {books.lagged:,} requests ({late_share:.1%}) were sent "
        f"over {limit_ms:.3g} ms late, more than {MAX_LATE_SHARE:.0%}: this machine "
        "can't keep up with sending; give it more cores, or lower traffic.speed"
    )
    return [reason]


def _loss_reason(policy: Policy, lost_a: int, lost_b: int) -> list[str]:
    """A sequential sign test on answers that only one arm lacks."""
    more, fewer = max(lost_a, lost_b), min(lost_a, lost_b)
    if not more or paired_log_e(more, 0, fewer) < math.log(2 / policy.decision.alpha):
        return []
    reason = (
        f"answers are missing unequally: {lost_a:,} of the baseline, {lost_b:,} of "
        "the candidate; find out why before comparing the rest"
    )
    return [reason]


def _other_kernels(kernels: dict[str, list[str]]) -> list[str]:
    """The copy answers a share, so it may lack a kernel, but has none of its own."""
    own = kernels.get(CONTROL_ARM, [])
    of_baseline = [name for arm, names in kernels.items()
                   for name in names if arm != CONTROL_ARM]  # fmt: skip
    other = sorted(set(own) - set(of_baseline))
    if not of_baseline or not other:
        return []
    ran, instead = ", ".join(other), ", ".join(of_baseline)
    reason = (
        f"the A/A control ran {ran}, the baseline only {instead}: its second copy is "
        "not the same variant"
    )
    return [reason]
