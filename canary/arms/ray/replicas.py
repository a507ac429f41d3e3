"""A replica set: the actors of all arms, placed together, lost and rebuilt together.

A group that lost its node comes back in parts, possibly elsewhere, and the arms would
no longer be comparable. So whatever takes the place of one arm away ends all of them:
the reservation is given back and a new one made.
"""

import math
import re
import time
from collections.abc import Mapping
from typing import Any

import ray

from canary.arms.base import (
    ArmsLostError,
)
from canary.arms.causes import Cause
from canary.arms.local import Build
from canary.arms.ray.actor import ArmActor
from canary.arms.ray.arm import RayArm
from canary.arms.ray.failures import (
    NodeState,
    is_draining,
    node_state,
)
from canary.arms.ray.placement import Layout, Reservation
from canary.errors import ArmError
from canary.policy.model import VariantSpec

# In the place of a lost node, a cluster that grows by itself needs minutes to get one.
ROOM_AGAIN_TIMEOUT_S = 900.0
# Clouds give two minutes, or half of one, before they take a machine.
CHECK_EVERY_S = 5.0
# One request and a few questions; more would be calls that nobody waits for.
_MOST_CALLS = 16


class RayReplicaSet:
    """The actors of all arms on one node, and where they are reserved.

    Args:
        specs: The variants by arm name, the baseline first.
        wanted: What the arms are given.
        build: Loads a variant in its actor.
        timeout_s: How long a request may take.
        epochs: The epoch at which an arm begins, if it isn't 0.
    """

    def __init__(
        self,
        specs: Mapping[str, VariantSpec],
        wanted: Layout,
        *,
        build: Build,
        timeout_s: float,
        epochs: Mapping[str, int],
    ) -> None:
        remote: Any = ray.remote
        groups = {"compute": 1, "control": 1}
        self._actor_class = remote(concurrency_groups=groups)(ArmActor)
        self._options = {
            "num_cpus": 0,
            "max_restarts": 0,
            "max_task_retries": 0,
            "max_pending_calls": _MOST_CALLS,
        }
        self._specs = specs
        self._layout = wanted
        self._build = build
        self._timeout_s = timeout_s
        self._lost = False
        self._arrangement = 0
        self.arms = {
            name: RayArm(name, self, timeout_s=timeout_s, epoch=epochs.get(name, 0))
            for name in specs
        }
        self._open = list(specs)
        self._node_id = ""
        self._place: Reservation | None = None
        self._checked_s = -math.inf

    def new_actor(self, arm: str, epoch: int) -> Any:  # noqa: ANN401 - Ray's handles
        """Start the actor of an arm in its place."""
        assert self._place is not None  # noqa: S101 - `start` has made it
        place = self._place.options_for(arm, self._arrangement)
        options = self._options | place
        made = self._actor_class.options(**options)
        return made.remote(self._specs[arm], self._build, self._timeout_s, epoch)

    def restart(self, arm: str) -> None:
        """Start an arm anew, or all of them if their place is lost.

        Raises:
            ArmError: One can't be loaded any more, or there is no room for it.
            ArmsLostError: Their place is lost.
        """
        if self._lost:
            self.start(ROOM_AGAIN_TIMEOUT_S)
            return
        self.arms[arm].begin()
        self.arms[arm].wait_until_loaded()
        self._check_place(arm)

    def lane(self, arm: str) -> int:
        """Return the bundle that an arm was first placed in."""
        return self._layout.bundle_of[arm]

    @property
    def arrangements(self) -> int:
        """As many as there are cards: arms move on by one at a time."""
        return len(self._layout.bundles)

    def arrange(self, number: int) -> None:
        """Move all arms on to other cards of the same place.

        Raises:
            ArmError: One can't be loaded any more, or there is no room for them.
            ArmsLostError: Their place is lost.
        """
        self._arrangement = number
        if self._lost:
            self.start(ROOM_AGAIN_TIMEOUT_S)
            return
        # All of them first: each needs the room of another.
        for name in self._open:
            self.arms[name].kill()
        self._load()

    def close(self, arm: str) -> None:
        """Leave an arm out from now on; the last one gives the place back."""
        self._open.remove(arm)
        if not self._open:
            self.end()

    def node(self) -> NodeState:
        """Return how the node is that the arms are on, or are being loaded on."""
        return node_state(self._node_id)

    def lose(self, arm: str, cause: Cause, why: str) -> ArmsLostError:
        """Take it that the place is lost; return what says so."""
        self._lost = True
        return ArmsLostError(f"{cause}: {why}", arm=arm, cause=cause)

    def check(self, arm: str) -> None:
        """See, every few seconds, whether the node of all arms is to be taken away.

        Raises:
            ArmsLostError: It is.
        """
        now_s = time.monotonic()
        if now_s - self._checked_s < CHECK_EVERY_S:
            return
        self._checked_s = now_s
        if is_draining(self._node_id):
            raise self.lose(arm, Cause.PREEMPTED, "their node is being drained")

    def others_survived(self, arm: str) -> bool:
        """Return whether all other arms answer."""
        return all(self.arms[name].answers() for name in self._open if name != arm)

    def described(self) -> dict[str, str]:
        """Return what all arms have in common."""
        return {"sharing": self._layout.sharing}

    def start(self, timeout_s: float) -> None:
        """Begin with all open arms in a new place.

        Raises:
            ArmError: One can't be loaded, or there is no room for them.
            ArmsLostError: Their place is lost.
        """
        self.end()
        self._place = Reservation(self._layout, timeout_s=timeout_s)
        self._node_id = self._place.node_id()  # which may be lost while they load
        self._lost = False
        self._load()

    def _load(self) -> None:
        # All of them first, so that they load side by side.
        for name in self._open:
            self.arms[name].begin()
        for name in self._open:
            self.arms[name].wait_until_loaded()
            self._check_place(name)

    def end(self) -> None:
        """End every actor and give the place back, should there be one."""
        for name in self._open:
            self.arms[name].kill()
        if self._place is not None:
            self._place.give_back()
            self._place = None
        self._node_id = ""

    def _check_place(self, arm: str) -> None:
        found = self.arms[arm].facts["node_id"]
        self._check_card(arm)
        if found != self._node_id:
            raise self.lose(arm, Cause.GROUP_LOST, f"{arm} came back on another node")

    def _check_card(self, arm: str) -> None:
        pinned = self._layout.gpu
        told = self.arms[arm].facts.get("gpu", "no GPU")
        words = re.split(r"[^A-Za-z0-9]+", told)
        # Ray says 80G where the driver says 80GB.
        parts = [{part, f"{part}B"} for part in (pinned or "").split("-")]
        if pinned and not all(part & set(words) for part in parts):
            raise ArmError(
                f"arm {arm} is to run on a GPU of the model {pinned}, but its driver "
                f"says {told}; correct placement.gpu, or the label of that node"
            )
