"""Attention patterns and the kernels that execute them; one function shape.

Patterns and their specs come without torch, so that a policy can be checked on a
machine that has none to spare; torch is loaded when `attend` is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from canary.attention.band import Band
from canary.attention.chosen import AntidiagonalBlocks, ChosenBlocks
from canary.attention.heads import Adaptive, HeadTable
from canary.attention.layers import Layers
from canary.attention.memory import Memory
from canary.attention.patterns import EXAMPLES, pattern
from canary.attention.rules import (
    Dense,
    LocalGlobal,
    Pattern,
    PatternSpecError,
    Rule,
    SlidingWindow,
    Strided,
    TriShape,
)
from canary.attention.scores import Hyperbolic, Relu, SoftThreshold
from canary.attention.tables import BlockTable, RandomBlocks

if TYPE_CHECKING:
    from canary.attention.evidence import Density, KernelEvidence, compiles
    from canary.attention.kernels import attend
    from canary.attention.lengths import padded_length, warm_lengths
    from canary.attention.packed import attend_packed

__all__ = [
    "EXAMPLES",
    "Adaptive",
    "AntidiagonalBlocks",
    "Band",
    "BlockTable",
    "ChosenBlocks",
    "Dense",
    "Density",
    "HeadTable",
    "Hyperbolic",
    "KernelEvidence",
    "Layers",
    "LocalGlobal",
    "Memory",
    "Pattern",
    "PatternSpecError",
    "RandomBlocks",
    "Relu",
    "Rule",
    "SlidingWindow",
    "SoftThreshold",
    "Strided",
    "TriShape",
    "attend",
    "attend_packed",
    "compiles",
    "padded_length",
    "pattern",
    "warm_lengths",
]

_WITH_TORCH = {
    "Density": "evidence",
    "KernelEvidence": "evidence",
    "compiles": "evidence",
    "attend": "kernels",
    "attend_packed": "packed",
    "padded_length": "lengths",
    "warm_lengths": "lengths",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562: any public name
    """Load the torch half of this package when one of its names is first used."""
    if name in _WITH_TORCH:
        return getattr(import_module(f"{__name__}.{_WITH_TORCH[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
