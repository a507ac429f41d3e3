"""Arms in this process, for a laptop and for tests."""

import time
from collections.abc import Callable, Mapping

from canary.arms.base import Arm, Completion
from canary.arms.server import ArmServer
from canary.clock import Clock
from canary.policy.model import VariantSpec
from canary.traffic.request import Request
from canary.variants.base import Variant

Build = Callable[[VariantSpec], Variant]
"""Loads a variant: `canary.variants.build`, or a test's own."""


class LocalArm:
    """One variant in this process."""

    def __init__(self, name: str, variant: Variant, *, clock: Clock) -> None:
        self.name = name
        self._server = ArmServer(variant, clock=clock, own_process=False)

    def serve(self, request: Request) -> Completion:
        """Answer one request here and now."""
        return self._server.serve(request)

    def describe(self) -> dict[str, str]:
        """Return what the variant says of itself."""
        return self._server.describe()

    def close(self) -> None:
        """Leave the memory to the garbage collector."""


def start_local_arms(
    specs: Mapping[str, VariantSpec],
    *,
    build: Build,
    clock: Clock = time.perf_counter,
) -> dict[str, Arm]:
    """Load each variant in this process, under its arm name."""
    return {
        name: LocalArm(name, build(spec), clock=clock) for name, spec in specs.items()
    }
