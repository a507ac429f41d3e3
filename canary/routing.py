"""Which variant serves which range of prompt length once the action is taken.

A regime with limits of its own may go to the candidate before the others: when all its
own limits, and all on the whole traffic, are shown to hold. As every such regime is a
chance to be wrong, each needs that much more evidence (Bonferroni), so that some regime
goes wrongly with a probability of at most alpha.
"""

import math
from collections.abc import Mapping, Sequence

from canary.assessment import Weighed
from canary.decision import GateResult, GateStatus, Route, Verdict
from canary.policy.model import Policy, regime_names, variant_name


def routes(
    policy: Policy,
    verdict: Verdict,
    gates: Sequence[GateResult],
    state: Weighed,
    pairs_by_regime: Mapping[str, int],
) -> tuple[Route, ...]:
    """Return a route per regime, the shortest prompts first."""
    baseline, candidate = variant_name(policy.baseline), variant_name(policy.candidate)
    names = regime_names(policy.regimes)
    owning = {gate.regime for gate in gates} - {None}
    routed = []
    for name in names:
        pairs = pairs_by_regime.get(name, 0)
        concerned = [gate for gate in gates if gate.regime in (None, name)]
        goes, why = _decide(
            policy,
            verdict,
            state,
            pairs=pairs,
            concerned=concerned,
            regimes=len(owning),
        )
        if goes and verdict is not Verdict.PROMOTE and name not in owning:
            goes, why = False, f"the verdict is {verdict.value}"
        routed.append(
            Route(
                regime=name, serve=candidate if goes else baseline, pairs=pairs, why=why
            )
        )
    return tuple(routed)


def _decide(
    policy: Policy,
    verdict: Verdict,
    state: Weighed,
    *,
    pairs: int,
    concerned: Sequence[GateResult],
    regimes: int,
) -> tuple[bool, str]:
    rules = policy.decision
    if not pairs:
        return False, "no evidence in this regime"
    if verdict is Verdict.PROMOTE:
        return True, "promoted on evidence from this regime"
    if verdict in (Verdict.ROLLBACK, Verdict.INVALID):
        broken = [g.name for g in concerned if g.status is GateStatus.BROKEN]
        told = f"; shown to be broken here: {', '.join(broken)}" if broken else ""
        return False, f"the verdict is {verdict.value}{told}"
    more = math.log(max(regimes, 1))
    open_ = [
        gate.name
        for gate in concerned
        if gate.status is not GateStatus.HOLDS
        or gate.log_e_hold < gate.threshold_hold + more
    ]
    if open_:
        return False, f"the verdict is {verdict.value}; not shown here: " + (
            ", ".join(open_)
        )
    if pairs < rules.min_pairs or state.look.elapsed_s < rules.min_duration_s:
        return False, "its limits hold, but the policy asks for more pairs or time"
    return True, "all limits that concern it are shown to hold"
