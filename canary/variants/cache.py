"""Keys and values of what was read so far, no more of them than will be seen again."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from canary.attention import Band


class Kept(NamedTuple):
    """The sizes of one layer's keys: (batch, heads, head width)."""

    batch: int
    heads: int
    width: int


class Cache:
    """One buffer for keys and one for values a layer.

    A layer whose pattern sees a window and globals keeps just these: its buffer ends
    there, and new tokens take the places of those that left the window. Attention
    doesn't mind their order, since all that is kept is seen.

    `length` is how many tokens were read. It doesn't grow: reading more than
    `capacity_tokens` is an error of the caller's.

    Args:
        kept: Sizes of what a token leaves behind in a layer.
        bands: By layer what will be seen again, None for everything.
        capacity_tokens: The most tokens that will be read.
        prompt_tokens: Where the prompt ends within the first read; what follows there
            is padding and isn't kept. None: with it.
        dtype: Of keys and values.
        device: Where they are.
    """

    def __init__(
        self,
        kept: Kept,
        bands: Sequence[Band | None],
        *,
        capacity_tokens: int,
        prompt_tokens: int | None = None,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._bands = [
            band
            if band is not None and band.window + band.global_tokens < capacity_tokens
            else None
            for band in bands
        ]
        self._prompt_tokens = prompt_tokens
        # Heads last but one, as a model makes them: appending copies one run.
        self._keys, self._values = (
            [
                torch.empty(
                    kept.batch,
                    capacity_tokens if band is None else _room(band),
                    kept.heads,
                    kept.width,
                    dtype=dtype,
                    device=device,
                )
                for band in self._bands
            ]
            for _ in range(2)
        )
        self.length = 0

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append k and v (B, T, H, D); return all that these T may see, T last."""
        start, stop = self.length, self.length + k.shape[1]
        keys, values = self._keys[layer], self._values[layer]
        band = self._bands[layer]
        if band is None:
            keys[:, start:stop] = k
            values[:, start:stop] = v
            return keys[:, :stop], values[:, :stop]
        if k.shape[1] == 1:
            at = _place(band, start)
            keys[:, at : at + 1] = k
            values[:, at : at + 1] = v
            held = min(stop, _room(band))
            return keys[:, :held], values[:, :held]
        if not start:
            stop = min(stop, self._prompt_tokens or stop)
            positions = _seen_again(band, stop)
            self._store(layer, band, positions, k[:, positions], v[:, positions])
            return k, v
        # In order, for the new ones see each other by their distance.
        before = _seen_again(band, start)
        places = [_place(band, position) for position in before]
        k, v = torch.cat([keys[:, places], k], 1), torch.cat([values[:, places], v], 1)
        after = _seen_again(band, stop)
        known = {p: n for n, p in enumerate([*before, *range(start, stop)])}
        rows = [known[position] for position in after]
        self._store(layer, band, after, k[:, rows], v[:, rows])
        return k, v

    def _store(
        self, layer: int, band: Band, positions: list[int], k: Tensor, v: Tensor
    ) -> None:
        places = [_place(band, position) for position in positions]
        self._keys[layer][:, places] = k
        self._values[layer][:, places] = v

    @property
    def bytes(self) -> int:
        """How much memory the buffers take."""
        buffers = (*self._keys, *self._values)
        return sum(each.numel() * each.element_size() for each in buffers)


def _room(band: Band) -> int:
    return band.window + band.global_tokens


def _place(band: Band, position: int) -> int:
    """Return where a token's keys are kept: globals, then the window, in turns."""
    if position < _room(band):
        return position
    return band.global_tokens + (position - band.global_tokens) % band.window


def _seen_again(band: Band, length: int) -> list[int]:
    """Return which of the first `length` tokens are kept: globals and a window."""
    recent = range(max(band.global_tokens, length - band.window), length)
    return [*range(min(band.global_tokens, length)), *recent]
