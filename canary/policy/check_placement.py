"""What must hold in the section about GPUs, and with the rest of a policy."""

from collections.abc import Iterator

from canary.errors import Fault
from canary.policy.placement import Placement
from canary.policy.tree import Document


def placement_faults(
    placement: Placement, servers: bool, document: Document
) -> Iterator[Fault]:
    """Yield what can't be said of servers, or of arms that share one GPU."""
    if servers:
        if "placement" in document.places:
            message = "servers run where they run; remove it"
            yield document.fault("placement", message)
        return
    if placement.sharing == "interleaved" and isinstance(placement.swap_every_s, float):
        message = (
            "arms that take turns on one GPU have no places to change; "
            "remove it, or write sharing: exclusive"
        )
        yield document.fault("placement.swap_every", message)
