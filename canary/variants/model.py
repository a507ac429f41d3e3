"""The reference model: a decoder in Qwen3's layout, 2.7 million parameters by default.

Pre-norm blocks with RMSNorm (Zhang and Sennrich, arXiv 1910.07467), rotary positions
(Su et al., arXiv 2104.09864), normalised queries and keys, SwiGLU (Shazeer, arXiv
2002.05202), tied embeddings, no biases. Attention is an argument: training passes
torch's own, serving passes a pattern. Everything else works on (tokens, width), so that
batches of any shape with equally many tokens share one compiled form.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import embedding, linear, rms_norm, silu

from canary.attention import Band
from canary.errors import CanaryError
from canary.variants.cache import Cache, Kept
from canary.variants.vocabulary import TABLE_ROWS

EPSILON = 1e-6

Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""(q, k, v, layer) -> output of q's shape: q (B, H, T, D), k and v (B, H, T_all, D)."""


Rotation: TypeAlias = tuple[Tensor, Tensor]
"""Cosines and sines, (tokens, head width / 2), float32."""

Heads: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values, each (tokens, heads, head width)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The sizes of a model.

    `rope_theta` is large so that about half of a head's dimensions hardly turn within
    8k tokens: they are what a key is recognised by, wherever it stands.
    """

    layers: int = 4
    width: int = 256
    heads: int = 4
    head_width: int = 64
    hidden: int = 512
    rope_theta: float = 1e8


REFERENCE = Architecture()


class Layer(NamedTuple):
    """The weights of one layer; `gains` of its input, its queries and its keys."""

    weights: Tensor
    mlp: Tensor
    mlp_gain: Tensor
    gains: tuple[Tensor, ...]


class ReferenceModel(torch.nn.Module):
    """Parameters of all layers stacked, in float32; activations in `dtype`.

    Stacking lets the optimiser orthogonalise all matrices of a kind at once, and makes
    the fused forms (q, k and v; gate and up) plain views.

    Raises:
        CanaryError: `dtype` is float16. The residual stream reaches 56,000 behind the
            last layers, too near to 65,504, where float16 ends.
    """

    def __init__(
        self,
        architecture: Architecture = REFERENCE,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if dtype not in (torch.float32, torch.bfloat16):
            raise CanaryError(
                f"the reference model can't run in {str(dtype).removeprefix('torch.')}:"
                " its activations reach 56,000 and float16 ends at 65,504; run it in "
                "float32 or bfloat16"
            )
        self.architecture = a = architecture
        self.dtype = dtype
        inner, scale = a.heads * a.head_width, a.width**-0.5
        self.embedding = Parameter(torch.randn(TABLE_ROWS, a.width) * 0.02)
        # Query, key, value, output (transposed); blocks start by adding zero.
        attention = torch.randn(a.layers, 4, inner, a.width) * scale
        attention[:, 3] = 0
        self.attention = Parameter(attention)
        # Gate, up, down (transposed).
        mlp = torch.randn(a.layers, 3, a.hidden, a.width) * scale
        mlp[:, 2] = 0
        self.mlp = Parameter(mlp)
        self.input_gain = Parameter(torch.ones(a.layers, a.width))
        self.mlp_gain = Parameter(torch.ones(a.layers, a.width))
        self.final_gain = Parameter(torch.ones(a.width))
        self.query_gain = Parameter(torch.full((a.layers, a.head_width), 1.5))
        self.key_gain = Parameter(torch.full((a.layers, a.head_width), 1.5))
        self._turns = (torch.empty(0), torch.empty(0))
        self._before, self._after = before_attention, after_attention

    def cache(
        self,
        *,
        capacity_tokens: int,
        batch: int = 1,
        bands: Sequence[Band | None] | None = None,
        prompt_tokens: int | None = None,
    ) -> Cache:
        """Return an empty cache for this model; see `Cache`."""
        a = self.architecture
        return Cache(
            Kept(batch, a.heads, a.head_width),
            bands if bands is not None else [None] * a.layers,
            capacity_tokens=capacity_tokens,
            prompt_tokens=prompt_tokens,
            dtype=self.dtype,
            device=self.embedding.device,
        )

    def serve(self) -> "ReferenceModel":
        """Keep the matrices in `dtype` from now on, instead of rounding at each use.

        The same numbers come out; gains stay in float32, where they are used.
        """
        self.requires_grad_(requires_grad=False)
        for matrices in (self.embedding, self.attention, self.mlp):
            matrices.data = matrices.data.to(self.dtype)
        return self.eval()

    def compile_blocks(self) -> None:
        """Compile what surrounds attention, for one number of tokens a batch."""
        self._before = torch.compile(before_attention, dynamic=False)
        self._after = torch.compile(after_attention, dynamic=False)

    def forward(
        self, tokens: Tensor, attend: Attend, cache: Cache | None = None
    ) -> Tensor:
        """Read tokens (B, T), after those in the cache; return (B, T, width).

        The result is what `logits` takes. The cache then holds these tokens too.
        """
        a = self.architecture
        batch, length = tokens.shape
        start = cache.length if cache else 0
        rotation = self._rotation(start, start + length, batch, tokens.device)
        x = embedding(tokens.reshape(-1), self.embedding).to(self.dtype)
        for index, layer in enumerate(self.layers()):
            heads = self.before(x, layer, rotation)
            q, k, v = (h.view(batch, length, a.heads, -1) for h in heads)
            if cache is not None:
                k, v = cache.extend(index, k, v)
            q, k, v = (h.transpose(1, 2) for h in (q, k, v))
            seen = attend(q, k, v, index).transpose(1, 2)
            x = self.after(x, seen.reshape(len(x), -1), layer)
        if cache is not None:
            cache.length += length
        return x.view(batch, length, -1)

    def layers(self) -> list[Layer]:
        """Return views of each layer's weights."""
        # unbind, because its gradient is one stack instead of a sum of slices
        stacks = (self.attention, self.mlp, self.mlp_gain)
        gains = (self.input_gain, self.query_gain, self.key_gain)
        parts = zip(*(p.unbind(0) for p in (*stacks, *gains)), strict=True)
        return [
            Layer(weights, mlp, mlp_gain, tuple(inner_gains))
            for weights, mlp, mlp_gain, *inner_gains in parts
        ]

    def before(self, x: Tensor, layer: Layer, rotation: Rotation) -> Heads:
        """Return q, k and v of a layer; see `before_attention`."""
        return self._before(x, layer.weights, layer.gains, rotation)

    def after(self, x: Tensor, seen: Tensor, layer: Layer) -> Tensor:
        """Return x behind a layer; see `after_attention`."""
        return self._after(x, seen, layer.weights, layer.mlp_gain, layer.mlp)

    def logits(self, x: Tensor) -> Tensor:
        """Return (..., table rows) for the result of `forward`, in `dtype`."""
        return word_logits(x, self.final_gain, self.embedding)

    def turns(self, positions: Tensor) -> Rotation:
        """Return cosines and sines (positions, head width / 2), float32."""
        a = self.architecture
        even = torch.arange(0, a.head_width, 2, device=positions.device)
        speed = a.rope_theta ** (-even.float() / a.head_width)
        angle = positions[:, None] * speed
        return angle.cos(), angle.sin()

    def _rotation(
        self, start: int, stop: int, batch: int, device: torch.device
    ) -> Rotation:
        """Return cosines and sines (batch * positions, head width / 2), float32."""
        if len(self._turns[0]) < stop or self._turns[0].device != device:
            known = 1 << max(10, (stop - 1).bit_length())
            self._turns = self.turns(torch.arange(known, device=device))
        cos, sin = (table[start:stop] for table in self._turns)
        return (
            (cos, sin) if batch == 1 else (cos.repeat(batch, 1), sin.repeat(batch, 1))
        )


def before_attention(
    x: Tensor,
    weights: Tensor,
    gains: Sequence[Tensor],
    rotation: Rotation,
) -> Heads:
    """Return q, k (normalised and turned) and v, each (tokens, heads, head width).

    Args:
        x: The residual stream, (tokens, width).
        weights: (4, heads * head width, width).
        gains: Of the input, (width), and of queries and keys, (head width).
        rotation: Cosines and sines, (tokens, head width / 2).
    """
    gain, q_gain, k_gain = gains
    normed = _norm(x, gain).to(x.dtype)
    projected = linear(normed, weights[:3].flatten(0, 1).to(x.dtype))
    q, k, v = projected.view(len(x), 3, -1, len(q_gain)).unbind(1)
    q, k = (
        _turn(_norm(y, g), rotation).to(x.dtype) for y, g in ((q, q_gain), (k, k_gain))
    )
    return q, k, v.contiguous()


def after_attention(
    x: Tensor, seen: Tensor, weights: Tensor, gain: Tensor, mlp: Tensor
) -> Tensor:
    """Add what attention saw and what the MLP makes of it to x, (tokens, width)."""
    x = x + seen @ weights[3].to(x.dtype)
    normed = _norm(x, gain).to(x.dtype)
    mlp = mlp.to(x.dtype)
    return x + (silu(linear(normed, mlp[0])) * linear(normed, mlp[1])) @ mlp[2]


def word_logits(x: Tensor, gain: Tensor, table: Tensor) -> Tensor:
    """Return the final norm of x, (..., width), times the embedding table."""
    return linear(_norm(x, gain).to(x.dtype), table.to(x.dtype))


def _norm(x: Tensor, gain: Tensor) -> Tensor:
    return rms_norm(x.float(), gain.shape, gain, EPSILON)


def _turn(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate dimension i with dimension i + half, as transformers does for Qwen."""
    cos, sin = (table[:, None] for table in rotation)
    u, w = x.chunk(2, -1)
    return torch.cat([u * cos - w * sin, w * cos + u * sin], -1)
