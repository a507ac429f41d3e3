"""The beginning of all arms on a cluster, which may lose nodes meanwhile, too."""

from collections.abc import Mapping
from types import MappingProxyType

from canary.arms.base import Arm, ArmsLostError
from canary.arms.local import Build
from canary.arms.ray.placement import layout, node_resources
from canary.arms.ray.replicas import ROOM_AGAIN_TIMEOUT_S, ReplicaSet
from canary.errors import ArmError
from canary.losses import Losses
from canary.policy.model import VariantSpec

_ROOM_TIMEOUT_S = 120.0


def start_ray_arms(
    specs: Mapping[str, VariantSpec],
    *,
    build: Build,
    timeout_s: float,
    epochs: Mapping[str, int] = MappingProxyType({}),
    losses: Losses | None = None,
) -> dict[str, Arm]:
    """Start one actor for each variant; Ray must be there (`ray_cluster`).

    All are on one node, each with a GPU of its own if a node has so many, else all
    taking turns on one, or on none if there is none. A node that is lost meanwhile is
    one of the `losses` that a run bears, not its end.

    Raises:
        ArmError: There is no room for them, or a variant can't be loaded in its actor,
            or not within two minutes; or too much was lost in a row.
    """
    wanted = layout(list(specs), node_resources())
    replicas = ReplicaSet(
        specs, wanted, build=build, timeout_s=timeout_s, epochs=epochs
    )
    _begin(replicas, Losses() if losses is None else losses)
    return dict(replicas.arms)


def _begin(replicas: ReplicaSet, losses: Losses) -> None:
    """Start all arms, anew for as long as `losses` bears that their place is lost."""
    timeout_s = _ROOM_TIMEOUT_S
    try:
        while True:
            try:
                replicas.start(timeout_s)
            except ArmsLostError as lost:
                losses.spend(lost)
                for name in replicas.arms:
                    losses.restarted(name, lost.cause)
                timeout_s = ROOM_AGAIN_TIMEOUT_S
            else:
                return
    except ArmError:
        replicas.end()
        raise
