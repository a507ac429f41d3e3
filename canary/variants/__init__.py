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
    # one of two cores busy a prefill of 1k tokens took 1.9 s. Sleeping at once takes 53
    # ms instead of 39 when nothing else runs. This short spin takes 39 and 105 ms. GNU
    # OpenMP, which torch's Linux builds bring, reads it when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    from canary.variants.reference import ReferenceVariant  # noqa: PLC0415 - torch

    return ReferenceVariant(spec, device=device, clock=clock)
