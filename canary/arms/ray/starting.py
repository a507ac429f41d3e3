"""All arms of a run on a cluster: as many replica sets as its policies ask for."""

from collections.abc import Mapping
from types import MappingProxyType

from canary.arms.base import ArmsLostError, ReplicaSet
from canary.arms.local import Build
from canary.arms.ray.placement import cluster_nodes, layout
from canary.arms.ray.replicas import ROOM_AGAIN_TIMEOUT_S, RayReplicaSet
from canary.errors import ArmError
from canary.losses import Losses
from canary.policy.model import VariantSpec
from canary.policy.placement import Placement

_ROOM_TIMEOUT_S = 120.0


def start_ray_arms(
    specs: Mapping[str, VariantSpec],
    *,
    build: Build,
    timeout_s: float,
    placement: Placement = Placement(),  # noqa: B008 - a frozen value
    epochs: Mapping[str, int] = MappingProxyType({}),
    losses: Losses | None = None,
) -> list[ReplicaSet]:
    """Start one actor for each variant and replica set; Ray must be there
    (`ray_cluster`).

    All of a set are on one node, each with a GPU of its own if a node has so many, else
    all taking turns on one, or on none if there is none. A node that is lost meanwhile
    is one of the `losses` that a run bears, not its end.

    Raises:
        ArmError: There is no room for them, or a variant can't be loaded in its actor,
            or not within two minutes; or too much was lost in a row.
    """
    wanted = layout(list(specs), cluster_nodes(), placement)
    started: list[RayReplicaSet] = []
    try:
        for _ in range(placement.replicas):
            one = RayReplicaSet(
                specs, wanted, build=build, timeout_s=timeout_s, epochs=epochs
            )
            _begin(one, Losses() if losses is None else losses)
            started.append(one)
    except ArmError:
        for earlier in started:
            earlier.end()
        raise
    return list(started)


def _begin(replicas: RayReplicaSet, losses: Losses) -> None:
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
