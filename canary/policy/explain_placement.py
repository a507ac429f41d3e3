"""Which GPUs the arms get, in sentences."""

from canary.policy.model import Policy
from canary.policy.placement import Placement
from canary.wording import seconds

_SHARED = {
    "auto": "a GPU each if a node has so many, else all take turns on one",
    "exclusive": "a GPU each",
    "interleaved": "one GPU for all, who take turns",
}


def placement_sentences(policy: Policy) -> list[str]:
    """Return what the arms get on a cluster; nothing if the policy doesn't say."""
    asked = policy.placement
    if asked == Placement():
        return []
    of = f" of the model {asked.gpu}" if asked.gpu else ""
    told = [f"On a cluster its arms get {_SHARED[asked.sharing]}{of}."]
    period_s = asked.swap_period_s(policy.decision.min_duration_s)
    if period_s is None and asked.sharing != "interleaved":
        told.append(
            "They never change places, so a difference of the GPUs counts as one of "
            "the variants."
        )
    elif period_s is not None and asked.sharing != "interleaved":
        told.append(
            f"With a GPU each they change places about every {seconds(period_s)}."
        )
    if asked.replicas > 1:
        told.append(f"{asked.replicas} sets of all arms share the traffic by session.")
    return told
