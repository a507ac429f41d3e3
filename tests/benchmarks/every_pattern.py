"""One or two of every pattern, small enough to write out, and shapes of calls."""

import torch

from canary.attention import (
    Adaptive,
    AntidiagonalBlocks,
    ChosenBlocks,
    Dense,
    Hyperbolic,
    LocalGlobal,
    RandomBlocks,
    Relu,
    Rule,
    SlidingWindow,
    SoftThreshold,
    Strided,
    TriShape,
)

GLOBALS = LocalGlobal(window=60, global_tokens=20)
BY_POSITION: tuple[Rule, ...] = (
    Dense(),
    SlidingWindow(window=1),
    SlidingWindow(window=130),
    SlidingWindow(window=1000),
    LocalGlobal(window=1, global_tokens=1),
    GLOBALS,
    LocalGlobal(window=60, global_tokens=300),
    TriShape(window=40, global_tokens=10, last_queries=17),
    TriShape(window=40, global_tokens=10, last_queries=150),
    Strided(window=30, stride=3, block=16),
    Strided(window=140, stride=5, block=1),
    Strided(window=3, stride=2, block=128),
)
BY_LISTS: tuple[Rule, ...] = (
    RandomBlocks(blocks=2, block=16),
    RandomBlocks(blocks=3, block=32, local_blocks=2, seed=4),
    RandomBlocks(blocks=1, block=64),
    RandomBlocks(blocks=1, block=128),
)
CHOSEN: tuple[Rule, ...] = (
    ChosenBlocks(choose="bounds", blocks=5, block=16),
    ChosenBlocks(choose="bounds", blocks=4, block=64),
    ChosenBlocks(choose="bounds", blocks=5, block=16, per="query"),
    ChosenBlocks(choose="mean", blocks=4, block=32),
    ChosenBlocks(choose="mean", blocks=4, block=32, per="query"),
    AntidiagonalBlocks(choose="antidiagonal", mass=0.6, block=32, stride=8),
    AntidiagonalBlocks(choose="antidiagonal", mass=0.9),
)
WEIGHED: tuple[Rule, ...] = (
    Relu(),
    Relu(threshold=0.3, within=GLOBALS),
    SoftThreshold(threshold=0.01),
    SoftThreshold(threshold=0.02, within=SlidingWindow(window=130)),
    Hyperbolic(model="lorentz"),
    Hyperbolic(model="poincare", curvature=0.5, scale=2.0, within=BY_LISTS[0]),
)
MIXED: tuple[Rule, ...] = (Adaptive(sparse=GLOBALS, mass=0.35, probe=8),)
EVERY = (*BY_POSITION, *BY_LISTS, *CHOSEN, *WEIGHED, *MIXED)

SHAPES = {
    "prefill": (1, 4, 4, 300, 300),
    "prefill of one block": (1, 2, 2, 128, 128),
    "prefill, queries share keys, batch of 2": (2, 6, 2, 333, 333),
    "chunk from the first rows on": (1, 4, 4, 290, 300),
    "chunk beyond it, queries share keys": (2, 4, 1, 150, 401),
    "chunk of two": (1, 2, 2, 2, 300),
    "decode": (1, 4, 4, 1, 300),
    "decode, queries share keys, batch of 2": (2, 6, 2, 1, 257),
    "first token": (1, 2, 2, 1, 1),
}
"""Batch, query heads, key heads, queries, keys; no length but one is whole blocks."""

Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def tensors(
    shape: tuple[int, int, int, int, int],
    dtype: torch.dtype,
    *,
    width: int = 16,
    device: str = "cpu",
) -> Triple:
    """Draw q, k and v in the memory order of a model, rounded to a dtype."""
    batch, heads, kv_heads, q_len, kv_len = shape
    chance = torch.Generator().manual_seed(q_len * 1000 + kv_len)
    q, k, v = (
        torch.randn(batch, t, h, width, generator=chance, dtype=torch.float64)
        .to(device, dtype)
        .transpose(1, 2)
        for h, t in ((heads, q_len), (kv_heads, kv_len), (kv_heads, kv_len))
    )
    return q, k, v
