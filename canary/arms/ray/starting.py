"""All arms of a run on a cluster: as many replica sets as its policies ask for."""

from collections.abc import Mapping

from canary.arms.base import ReplicaSet
from canary.arms.local import Build
from canary.arms.ray.placement import cluster_nodes, layout
from canary.arms.ray.replicas import RayReplicaSet
from canary.errors import ArmError
from canary.policy.model import VariantSpec
from canary.policy.placement import Placement


def start_ray_arms(
    specs: Mapping[str, VariantSpec],
    *,
    build: Build,
    timeout_s: float,
    placement: Placement = Placement(),  # noqa: B008 - a frozen value
) -> list[ReplicaSet]:
    """Start one actor for each variant and replica set; Ray must be there
    (`ray_cluster`).

    All of a set are on one node, each with a GPU of its own if a node has so many, else
    all taking turns on one, or on none if there is none.

    Raises:
        ArmError: There is no room for them, or a variant can't be loaded in its actor,
            or not within two minutes.
    """
    wanted = layout(list(specs), cluster_nodes(), placement)
    started: list[ReplicaSet] = []
    try:
        for _ in range(placement.replicas):
            started.append(  # noqa: PERF401 - those before a failure are closed
                RayReplicaSet(specs, wanted, build=build, timeout_s=timeout_s)
            )
    except ArmError:
        for earlier in started:
            for arm in earlier.arms.values():
                arm.close()
        raise
    return started
