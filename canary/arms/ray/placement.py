"""Which cards the arms get: all arms on one node, so that they are comparable."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from canary.errors import ArmError
from canary.evidence.pairs import CONTROL_ARM
from canary.policy.placement import Placement

EXCLUSIVE, INTERLEAVED = "exclusive", "interleaved"
MODEL_LABEL = "ray.io/accelerator-type"
_SHARES = 10_000
"""Ray counts resources in ten thousandths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the arms are given.

    `sharing` is exclusive where each has a card of its own, the A/A control that of
    the candidate, and interleaved where all take turns on one card, or on a CPU.
    `bundles` are what is reserved, on one node, all of the same model of card if one is
    asked for; `bundle_of` says where each arm is in it and `gpus_of` its part of a GPU
    there: to Ray a place on the card, not a limit.
    """

    sharing: str
    bundles: tuple[Mapping[str, float], ...]
    bundle_of: Mapping[str, int]
    gpus_of: Mapping[str, float]
    gpu: str | None = None

    def bundle(self, arm: str, arrangement: int) -> int:
        """Return the bundle of an arm once all have moved on by so many."""
        return (self.bundle_of[arm] + arrangement) % len(self.bundles)


@dataclass(frozen=True, slots=True)
class Node:
    """What a living node of the cluster has: resources and labels by Ray's names."""

    resources: Mapping[str, float]
    labels: Mapping[str, str]

    @property
    def gpus(self) -> float:
        """How many GPUs it has."""
        return self.resources.get("GPU", 0.0)


def layout(arms: Sequence[str], nodes: Iterable[Node], asked: Placement) -> Layout:
    """Return a card for each arm if a node has so many, else one for all of them, and
    a CPU where there is no card.

    Args:
        arms: Their names, the baseline first, then the candidates.
        nodes: The nodes of the cluster.
        asked: What a policy says of it.

    Raises:
        ArmError: The cluster has no such cards, or not enough of them on one node.
    """
    fitting = _of_model(list(nodes), asked.gpu)
    most_gpus = max((node.gpus for node in fitting), default=0.0)
    carded = [name for name in arms if name != CONTROL_ARM]
    if asked.sharing == EXCLUSIVE and most_gpus < len(carded):
        raise ArmError(
            f"no node of the Ray cluster has a GPU for each of {len(carded)} arms, the "
            f"largest has {most_gpus:g}; add one, or write sharing: auto"
        )
    if most_gpus < 1:
        return Layout(
            sharing=INTERLEAVED,
            bundles=({"CPU": 1},),
            bundle_of=dict.fromkeys(arms, 0),
            gpus_of=dict.fromkeys(arms, 0.0),
        )
    sets = sum(int(node.gpus) // len(carded) for node in fitting)
    shared = asked.sharing == "auto" and sets < asked.replicas
    if asked.sharing == INTERLEAVED or most_gpus < len(carded) or shared:
        share = _SHARES // len(arms) / _SHARES
        return Layout(
            sharing=INTERLEAVED,
            bundles=({"GPU": 1},),
            bundle_of=dict.fromkeys(arms, 0),
            gpus_of=dict.fromkeys(arms, share),
            gpu=asked.gpu,
        )
    return _exclusive(arms, carded, asked.gpu)


def _exclusive(arms: Sequence[str], carded: Sequence[str], gpu: str | None) -> Layout:
    bundle_of = {name: index for index, name in enumerate(carded)}
    gpus_of = dict.fromkeys(carded, 1.0)
    if CONTROL_ARM in arms:
        candidate = carded[min(1, len(carded) - 1)]
        bundle_of[CONTROL_ARM] = bundle_of[candidate]
        gpus_of[candidate] = gpus_of[CONTROL_ARM] = 0.5
    return Layout(
        sharing=EXCLUSIVE,
        bundles=({"GPU": 1},) * len(carded),
        bundle_of=bundle_of,
        gpus_of=gpus_of,
        gpu=gpu,
    )


def _of_model(nodes: Sequence[Node], gpu: str | None) -> Sequence[Node]:
    if gpu is None:
        return nodes
    carded = [node for node in nodes if node.gpus >= 1]
    fitting = [node for node in carded if node.labels.get(MODEL_LABEL) == gpu]
    if not fitting:
        models = {node.labels.get(MODEL_LABEL, "unlabelled ones") for node in carded}
        there = f"has {', '.join(sorted(models))}" if models else "has no GPU"
        raise ArmError(
            f"no node of the Ray cluster has a GPU labelled {gpu}: it {there}; "
            "correct placement.gpu, or add such a node"
        )
    return fitting


def cluster_nodes() -> list[Node]:
    """Return the living nodes of the cluster."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]  # Ray leaves it so
    return [
        Node(node["Resources"], node.get("Labels", {}))
        for node in nodes
        if node["Alive"]
    ]


class Reservation:
    """A layout's bundles, reserved on one node.

    Args:
        wanted: What to reserve.
        timeout_s: How long to wait for a node with room for it.

    Raises:
        ArmError: None has.
    """

    def __init__(self, wanted: Layout, *, timeout_s: float) -> None:
        self._layout = wanted
        bundles = [dict(bundle) for bundle in wanted.bundles]
        labels = [{MODEL_LABEL: wanted.gpu}] * len(bundles) if wanted.gpu else None
        self._group: PlacementGroup = placement_group(
            bundles, strategy="STRICT_PACK", bundle_label_selector=labels
        )
        if not self._group.wait(timeout_s):
            self.give_back()
            needs = [f"{n:g} {what}" for b in wanted.bundles for what, n in b.items()]
            raise ArmError(
                f"no node of the Ray cluster had room for {', '.join(needs)} within "
                f"{timeout_s:.0f} s; see what holds them (ray status), or add a node"
            )

    def options_for(self, arm: str, arrangement: int) -> dict[str, object]:
        """Return the options of an actor that is to live in an arm's place, once all
        have moved on by so many."""
        return {
            "num_gpus": self._layout.gpus_of[arm],
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                placement_group=self._group,
                placement_group_bundle_index=self._layout.bundle(arm, arrangement),
            ),
        }

    def node_id(self) -> str:
        """Return the node that all bundles are on."""
        found: dict[int, str] = placement_group_table(self._group)["bundles_to_node_id"]
        return found[0]

    def give_back(self) -> None:
        """End the reservation, and with it every actor that is in it."""
        remove_placement_group(self._group)
