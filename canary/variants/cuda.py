"""How the reference model reads on CUDA: at few lengths, by CUDA graphs.

The device reads a prompt or a word in far less time than the CPU takes to launch the
two hundred small kernels for it. Here all that comes between two attention calls is
recorded once for each length, when the model is loaded, and replayed. Attention itself
stays outside, over exactly the keys that there are: one recording serves all patterns,
and that of one word serves all places in a text.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import embedding

from canary.attention import padded_length, warm_lengths
from canary.variants.model import Attend, Cache, ReferenceModel
from canary.variants.vocabulary import PAD

RECORDED_TOKENS = 8192
"""Longer prompts keep the device busy for longer than their launches take."""

_WARM_UP_CALLS = 2


class Recording(Protocol):
    """What was recorded, to be run again: a CUDA graph."""

    def replay(self) -> None:
        """Run it on what its buffers hold now."""


class CudaReader:
    """Reads words and says the likeliest next one, of the first `words` rows.

    Args:
        model: On a CUDA device, with weights that won't change any more.
        words: How many rows of the embedding table are words.
    """

    def __init__(self, model: ReferenceModel, *, words: int) -> None:
        a, device = model.architecture, model.embedding.device
        self._model, self._words, self._device = model, words, device
        self._layers = model.layers()
        inner = a.heads * a.head_width
        # What recordings read and write: each the beginning of a buffer, by its length.
        self._tokens, self._last, self._position, self._next = (
            torch.zeros(size, dtype=torch.long, device=device)
            for size in (RECORDED_TOKENS, 1, 1, 1)
        )
        self._x, self._q, self._k, self._v, self._seen = (
            torch.zeros(RECORDED_TOKENS, width, dtype=model.dtype, device=device)
            for width in (a.width, inner, inner, inner, inner)
        )
        self._pool: Any = None
        self._recordings = {
            length: self._record(length)
            for length in (*reversed(warm_lengths(RECORDED_TOKENS)), 1)
        }

    def reader(
        self, attend: Attend, *, capacity_tokens: int
    ) -> Callable[[list[int]], int]:
        """Return a function that reads a prompt first, then word by word.

        Taking the number off the device waits for it, so whoever reads a clock after a
        step has waited too.
        """
        cache = Cache(self._model, capacity_tokens=padded_length(capacity_tokens))

        def read(ids: list[int]) -> int:
            if cache.length:
                return self._decode(ids[0], attend, cache)
            return self._prefill(ids, attend, cache)

        return read

    def _prefill(self, ids: list[int], attend: Attend, cache: Cache) -> int:
        """Read a prompt, padded behind here once instead of in every layer's kernel.

        No word sees the padding; what it leaves in the cache is overwritten.
        """
        length = padded_length(len(ids))
        tokens = torch.tensor([*ids, *[PAD] * (length - len(ids))])
        if length in self._recordings:
            self._tokens[:length].copy_(tokens)
            self._last.fill_(len(ids) - 1)
            likeliest = self._replay(length, attend, cache)
        else:
            x = self._model(tokens[None].to(self._device), attend, cache)
            likeliest = self._likeliest(x[0, len(ids) - 1])
        cache.length = len(ids)
        return int(likeliest)

    def _decode(self, token: int, attend: Attend, cache: Cache) -> int:
        self._tokens[:1].fill_(token)
        self._last.fill_(0)
        self._position.fill_(cache.length)
        likeliest = self._replay(1, attend, cache)
        cache.length += 1
        return int(likeliest)

    def _replay(self, length: int, attend: Attend, cache: Cache) -> Tensor:
        a = self._model.architecture
        q, k, v, seen = (
            buffer[:length].view(1, length, a.heads, a.head_width)
            for buffer in (self._q, self._k, self._v, self._seen)
        )
        *before, last = self._recordings[length]
        for layer, recording in enumerate(before):
            recording.replay()
            keys, values = cache.extend(layer, k, v)
            out = attend(
                q.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), layer
            )
            seen.copy_(out.transpose(1, 2))
        last.replay()
        return self._next

    def _likeliest(self, x: Tensor) -> Tensor:
        return self._model.logits(x)[: self._words].argmax()

    def _record(self, length: int) -> list[Recording]:
        """Record what comes before attention in each layer, and what comes last."""
        model, x, seen = self._model, self._x[:length], self._seen[:length]
        table = model.turns(torch.arange(length, device=self._device))

        def before(layer: int) -> None:
            turns = table if length > 1 else model.turns(self._position)
            if layer:
                x.copy_(model.after(x, seen, self._layers[layer - 1]))
            else:
                x.copy_(embedding(self._tokens[:length], model.embedding))
            heads = model.before(x, self._layers[layer], turns)
            for buffer, head in zip((self._q, self._k, self._v), heads, strict=True):
                buffer[:length].copy_(head.flatten(1))

        def last() -> None:
            # Of the last layer only the last word's result is looked at.
            one, its = (rows.index_select(0, self._last) for rows in (x, seen))
            self._next.copy_(
                self._likeliest(model.after(one, its, self._layers[-1])[0])
            )

        layers = range(len(self._layers))
        return [*(self._graph(partial(before, n)) for n in layers), self._graph(last)]

    def _graph(self, piece: Callable[[], None]) -> Recording:
        """Record what a piece launches.

        It runs before on a stream of its own, as torch asks, so that libraries have set
        themselves up and nothing of that is recorded. All share one pool of memory: one
        runs at a time, and what is to stay is in the buffers.
        """
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it so
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP_CALLS):
                piece()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            piece()
        self._pool = self._pool or graph.pool()
        return graph
