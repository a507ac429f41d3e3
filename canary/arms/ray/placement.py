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

EXCLUSIVE, INTERLEAVED = "exclusive", "interleaved"
_SHARES = 10_000
"""Ray counts resources in ten thousandths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the arms are given.

    `sharing` is exclusive where each has a card of its own, the A/A control that of
    the candidate, and interleaved where all take turns on one card, or on a CPU.
    `bundles` are what is reserved, on one node; `bundle_of` says where each arm is in
    it and `gpus_of` its part of a GPU there: to Ray a place on the card, not a limit.
    """

    sharing: str
    bundles: tuple[Mapping[str, float], ...]
    bundle_of: Mapping[str, int]
    gpus_of: Mapping[str, float]


def layout(arms: Sequence[str], nodes: Iterable[Mapping[str, float]]) -> Layout:
    """Return a card for each arm if a node has so many, else one for all of them, and
    a CPU where there is no card.

    Args:
        arms: Their names, the baseline first, then the candidates.
        nodes: What each living node of the cluster has, by Ray's resource names.
    """
    most_gpus = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
    carded = [name for name in arms if name != CONTROL_ARM]
    if most_gpus < 1:
        return Layout(
            sharing=INTERLEAVED,
            bundles=({"CPU": 1},),
            bundle_of=dict.fromkeys(arms, 0),
            gpus_of=dict.fromkeys(arms, 0.0),
        )
    if most_gpus < len(carded):
        share = _SHARES // len(arms) / _SHARES
        return Layout(
            sharing=INTERLEAVED,
            bundles=({"GPU": 1},),
            bundle_of=dict.fromkeys(arms, 0),
            gpus_of=dict.fromkeys(arms, share),
        )
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
    )


def node_resources() -> list[Mapping[str, float]]:
    """Return what each living node of the cluster has."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]  # Ray leaves it so
    return [node["Resources"] for node in nodes if node["Alive"]]


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
        self._group: PlacementGroup = placement_group(
            [dict(bundle) for bundle in wanted.bundles], strategy="STRICT_PACK"
        )
        if not self._group.wait(timeout_s):
            self.give_back()
            needs = [f"{n:g} {what}" for b in wanted.bundles for what, n in b.items()]
            raise ArmError(
                f"no node of the Ray cluster had room for {', '.join(needs)} within "
                f"{timeout_s:.0f} s; see what holds them (ray status), or add a node"
            )

    def options_for(self, arm: str) -> dict[str, object]:
        """Return the options of an actor that is to live in an arm's place."""
        return {
            "num_gpus": self._layout.gpus_of[arm],
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                placement_group=self._group,
                placement_group_bundle_index=self._layout.bundle_of[arm],
            ),
        }

    def node_id(self) -> str:
        """Return the node that all bundles are on."""
        found: dict[int, str] = placement_group_table(self._group)["bundles_to_node_id"]
        return found[0]

    def give_back(self) -> None:
        """End the reservation, and with it every actor that is in it."""
        remove_placement_group(self._group)
