"""Attention patterns and the kernels that execute them; one function shape.

Patterns and their specs come without torch, so that a policy can be checked on a
machine that has none to spare; torch is loaded when `attend` is first asked for.
"""

from typing import TYPE_CHECKING, Any

from canary.attention.patterns import (
    Dense,
    Layers,
    LocalGlobal,
    Pattern,
    PatternSpecError,
    Rule,
    SlidingWindow,
    pattern,
)

if TYPE_CHECKING:
    from canary.attention.kernels import KernelEvidence, attend
    from canary.attention.lengths import padded_length, warm_lengths

__all__ = [
    "Dense",
    "KernelEvidence",
    "Layers",
    "LocalGlobal",
    "Pattern",
    "PatternSpecError",
    "Rule",
    "SlidingWindow",
    "attend",
    "padded_length",
    "pattern",
    "warm_lengths",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562: any public name
    """Load the torch half of this package when one of its names is first used."""
    if name in {"KernelEvidence", "attend"}:
        from canary.attention import kernels  # noqa: PLC0415 - imports torch

        return getattr(kernels, name)
    if name in {"padded_length", "warm_lengths"}:
        from canary.attention import lengths  # noqa: PLC0415 - imports torch

        return getattr(lengths, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
