"""What ran, where, why that, and how much of it all was computed."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import torch

from canary.attention import fused, xformers
from canary.attention.band import Band
from canary.attention.flex import compile_count
from canary.attention.masks import Mask


class Density(NamedTuple):
    """The visible share of causal pairs: of all heads together, and by head."""

    overall: float
    least: float
    most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelEvidence:
    """Which kernel ran for one layer's rule, where, and why that one.

    `str` of it is what observations record: ``blocked[sliding_window(window=256)]``, on
    CUDA with what the kernel is made of: ``sdpa(cudnn)[dense]``. `version` is that of
    the library that the kernel comes from, `block_tokens` the size of the blocks of
    keys that it skips or takes (None: it does neither), `compiles` how many forms had
    been compiled in this process when it had run.
    """

    name: str
    version: str
    pattern: str
    reason: str
    device: str
    dtype: str
    block_tokens: int | None
    compiles: int
    masks: tuple[tuple[int, Mask], ...] = field(repr=False, compare=False)
    """How many heads had which mask."""

    def density(self, prompt_tokens: int | None = None) -> Density:
        """Return the visible share of causal pairs in this call.

        Of the queries up to `prompt_tokens`, where those behind are padding. Where
        blocks were chosen at run time this waits for the device.
        """
        mask = self.masks[0][1]
        stop = min(prompt_tokens or mask.kv_len, mask.kv_len)
        every = Band().pairs(mask.start, stop)
        seen = torch.cat([_by_head(heads, mask, stop) for heads, mask in self.masks])
        shares = seen.double() / every
        return Density(shares.mean().item(), shares.min().item(), shares.max().item())

    def __str__(self) -> str:
        """Return ``kernel[pattern]``."""
        return f"{self.name}[{self.pattern}]"


def _by_head(heads: int, mask: Mask, stop: int) -> torch.Tensor:
    """Count the pairs of each head of each batch entry."""
    pairs = mask.pairs(stop).cpu()
    return pairs.expand(pairs.shape[0], heads).flatten()


def block_tokens(kernel: str, mask: Mask) -> int | None:
    """Return the size of the blocks of keys that a kernel skips or takes."""
    if kernel in {"sdpa", "reference"}:
        return None
    if mask.table is not None and kernel != "flex":
        return mask.table.k_block
    return None if kernel == "xformers" else 128


@lru_cache(maxsize=16)
def version(kernel: str) -> str:
    """Name the library that a kernel comes from, with its version."""
    if kernel == "fused":
        return f"triton {fused.version()}"
    if kernel == "xformers":
        return f"xformers {xformers.version()}"
    if kernel == "sdpa(cudnn)":
        return f"cudnn {torch.backends.cudnn.version()}"
    return f"torch {torch.__version__}"


def compiles() -> int:
    """Return how many forms of kernels were compiled in this process so far."""
    return compile_count() + fused.compile_count()
