"""What runs in an arm's own process on the cluster."""

import os
import subprocess
import time

import ray

from canary.arms.base import Completion
from canary.arms.local import Build
from canary.arms.server import ArmServer
from canary.policy.model import VariantSpec
from canary.traffic.request import Request

_CARD_TIMEOUT_S = 20.0
_CARD_FIELDS = {
    "gpu": "name",
    "gpu_uuid": "uuid",
    "driver": "driver_version",
    "gpu_clock": "clocks.sm",
    "gpu_clock_max": "clocks.max.sm",
    "gpu_power_limit": "power.limit",
}
_UNKNOWN = "unknown"


class ArmActor:
    """Serves one variant; says what it is at any time, also while it serves.

    It has two threads, so that a request and a question about the arm don't wait for
    each other. The variant is loaded in the one that serves: what a library keeps for
    each thread is then where it is needed.

    Args:
        spec: The variant.
        build: Loads it.
        timeout_s: How long a request may take before it has failed.
        epoch: How often the arm had been started anew.
    """

    def __init__(
        self, spec: VariantSpec, build: Build, timeout_s: float, epoch: int
    ) -> None:
        self._spec = spec
        self._build = build
        self._timeout_s = timeout_s
        self._epoch = epoch
        # Before torch is loaded. The arms take turns, so each may use all cores, where
        # Ray would hold an actor to those that it reserves; and CUDA is to count cards
        # as the driver does.
        os.environ["OMP_NUM_THREADS"] = str(os.cpu_count() or 1)
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        self._facts = _place()

    @ray.method(concurrency_group="compute")
    def load(self) -> None:
        """Load the variant."""
        self._server = ArmServer(
            self._build(self._spec),
            clock=time.perf_counter,
            own_process=True,
            timeout_s=self._timeout_s,
            epoch=self._epoch,
            card=self._card_name(),
        )
        self._facts = self._server.describe() | self._facts

    def _card_name(self) -> str | None:
        uuid = self._facts.get("gpu_uuid", _UNKNOWN)
        if uuid.startswith(_UNKNOWN):
            return None
        return f"{self._facts['gpu']}, {'-'.join(uuid.split('-')[:2])}"

    # A week of requests would fill the head's memory with events about each.
    @ray.method(concurrency_group="compute", enable_task_events=False)
    def serve(self, request: Request) -> Completion:
        """Answer one request."""
        return self._server.serve(request)

    @ray.method(concurrency_group="control")
    def describe(self) -> dict[str, str]:
        """Return what the variant says of itself, and where it is."""
        return self._facts


def _place() -> dict[str, str]:
    context = ray.get_runtime_context()
    facts = {"node_id": context.get_node_id(), "pid": str(os.getpid())}
    cards = context.get_accelerator_ids().get("GPU", [])
    return facts | (_card(",".join(cards)) if cards else {})


def _card(visible: str) -> dict[str, str]:
    """Return what the driver says of the card; Ray's own numbers prove nothing."""
    asked = ",".join(_CARD_FIELDS.values())
    command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(  # noqa: S603 - a fixed command and Ray's own numbers
            [*command, "-i", visible],
            capture_output=True,
            text=True,
            check=True,
            timeout=_CARD_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return dict.fromkeys(_CARD_FIELDS, f"{_UNKNOWN} (nvidia-smi: {error})")
    told = answer.stdout.strip().split(", ")
    return dict(zip(_CARD_FIELDS, told, strict=True))
