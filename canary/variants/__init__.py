"""What an arm runs. torch is loaded when a variant is built, not before."""

import os
import time
from typing import TYPE_CHECKING

from canary.clock import Clock
from canary.errors import ArmError

if TYPE_CHECKING:
    from canary.policy.model import VariantSpec
    from canary.variants.base import Variant

__all__ = ["build"]


def build(
    spec: "VariantSpec", *, device: str | None = None, clock: Clock = time.perf_counter
) -> "Variant":
    """Load the variant that a policy names.

    Args:
        spec: Its model and attention pattern.
        device: Where it runs, as torch names it; CUDA if there is one, else the CPU.
        clock: What it times itself with.

    Raises:
        ArmError: There is no such model, or its weights can't be loaded.
        AttentionError: The pattern can't be read or doesn't cover the model's layers.
    """
    if spec.model != "reference":
        raise ArmError(f"no model {spec.model!r} ships; write model: reference")
    # Threads that spin while they wait starve each other once anything else runs: with
    # one of two cores busy a prefill took 1.9 s instead of 0.08. Read at load time.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from canary.variants.reference import ReferenceVariant  # noqa: PLC0415 - torch

    return ReferenceVariant(spec, device=device, clock=clock)
