"""Arms in this process, for a laptop and for tests."""

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from canary.arms.base import Completion, OneDevice, ReplicaSet
from canary.arms.server import ArmServer
from canary.clock import Clock
from canary.errors import UsageError
from canary.losses import Losses
from canary.policy.model import VariantSpec
from canary.policy.placement import Placement
from canary.traffic.request import Request
from canary.variants.base import Variant

Build = Callable[[VariantSpec], Variant]
"""Loads a variant: `canary.variants.build`, or a test's own."""


class LocalArm:
    """One variant in this process, which lives and dies with it.

    A request that takes too long has failed, but can't be stopped: only an arm with a
    process of its own can be.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], Variant],
        *,
        clock: Clock,
        timeout_s: float = math.inf,
        epoch: int = 0,
    ) -> None:
        self.name = name
        self._load = load
        self._clock = clock
        self._timeout_s = timeout_s
        self._epoch = epoch - 1
        self.restart()

    @property
    def epoch(self) -> int:
        """How often the variant has been loaded anew in this run."""
        return self._epoch

    def serve(self, request: Request) -> Completion:
        """Answer one request here and now."""
        return self._server.serve(request)

    def check(self) -> None:
        """Nothing: this process leaves with all that it runs."""

    def describe(self) -> dict[str, str]:
        """Return what the variant says of itself."""
        return self._server.describe()

    def restart(self) -> None:
        """Load the variant, anew if it was loaded before."""
        self._epoch += 1
        self._server = ArmServer(
            self._load(),
            clock=self._clock,
            own_process=False,
            timeout_s=self._timeout_s,
            epoch=self._epoch,
        )

    def close(self) -> None:
        """Leave the memory to the garbage collector."""


def start_local_arms(
    specs: Mapping[str, VariantSpec],
    *,
    build: Build,
    clock: Clock = time.perf_counter,
    timeout_s: float = math.inf,
    placement: Placement = Placement(),  # noqa: B008 - a frozen value
    epochs: Mapping[str, int] = MappingProxyType({}),
    losses: Losses | None = None,
) -> list[ReplicaSet]:
    """Load each variant in this process, under its arm name and at its epoch, if it
    had some before: one replica set, whose arms take turns. No loss leaves anybody here
    to bear it.

    Raises:
        UsageError: The policy asks for what one process hasn't got.
    """
    del losses
    for wanted, asked in (
        (f"gpu: {placement.gpu}", placement.gpu is not None),
        ("sharing: exclusive", placement.sharing == "exclusive"),
        (f"replicas: {placement.replicas}", placement.replicas > 1),
    ):
        if asked:
            raise UsageError(
                f"placement asks for {wanted}, which only a run on Ray can give; "
                "leave out --local, or remove it from the policy"
            )
    arms = {
        name: LocalArm(
            name,
            partial(build, spec),
            clock=clock,
            timeout_s=timeout_s,
            epoch=epochs.get(name, 0),
        )
        for name, spec in specs.items()
    }
    return [OneDevice(arms)]
