"""How the reference model reads on CUDA: prompts at few lengths, tokens by CUDA graphs.

Decoding one token takes the device far less time than it takes the CPU to launch its
two hundred small kernels. Here all that comes between two attention calls is recorded
once, when the model is loaded, and replayed; attention itself stays outside, over
exactly the keys that there are, so that one recording serves all lengths and patterns.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import embedding

from canary.attention import Band, padded_length
from canary.variants.cache import Cache
from canary.variants.model import Attend, Layer, ReferenceModel, Rotation
from canary.variants.vocabulary import PAD

_WARM_UP_CALLS = 3


class CudaReader:
    """Reads words and says the likeliest next one, of the first `words` rows.

    Args:
        model: On a CUDA device, with weights that won't change any more.
        words: How many rows of the embedding table are words.
    """

    def __init__(self, model: ReferenceModel, *, words: int) -> None:
        a, device = model.architecture, model.embedding.device
        self._model, self._words, self._device = model, words, device
        self._token = torch.zeros(1, dtype=torch.long, device=device)
        self._position = torch.zeros(1, dtype=torch.long, device=device)
        self._seen = torch.zeros(
            1, a.heads * a.head_width, dtype=model.dtype, device=device
        )
        self._shape = (1, 1, a.heads, a.head_width)
        self._graphs: list[torch.cuda.CUDAGraph] = []
        self._heads: list[list[Tensor]] = []
        self._record()

    def reader(
        self,
        attend: Attend,
        *,
        capacity_tokens: int,
        prompt_tokens: int | None = None,
        bands: Sequence[Band | None] | None = None,
    ) -> Callable[[list[int]], int]:
        """Return a function that reads a prompt first, then word by word.

        Taking the number off the device waits for it, so whoever reads a clock after a
        step has waited too.
        """
        cache = self._model.cache(
            capacity_tokens=padded_length(capacity_tokens),
            prompt_tokens=prompt_tokens,
            bands=bands,
        )

        def read(ids: list[int]) -> int:
            if cache.length:
                return self._decode(ids[0], attend, cache)
            return self._prefill(ids, attend, cache)

        return read

    def _prefill(self, ids: list[int], attend: Attend, cache: Cache) -> int:
        """Read a prompt, padded behind here once instead of in every layer's kernel.

        No word sees the padding; what it leaves in the cache is overwritten.
        """
        padding = [PAD] * (padded_length(len(ids)) - len(ids))
        tokens = torch.tensor([[*ids, *padding]], device=self._device)
        x = self._model(tokens, attend, cache)[0, len(ids) - 1]
        cache.length = len(ids)
        return int(self._likeliest(x))

    def _decode(self, token: int, attend: Attend, cache: Cache) -> int:
        self._token.fill_(token)
        self._position.fill_(cache.length)
        for layer, heads in enumerate(self._heads):
            self._graphs[layer].replay()
            q, k, v = (h.view(self._shape) for h in heads)
            keys, values = cache.extend(layer, k, v)
            q, keys, values = (h.transpose(1, 2) for h in (q, keys, values))
            self._seen.copy_(attend(q, keys, values, layer).view_as(self._seen))
        self._graphs[-1].replay()
        cache.length += 1
        return int(self._next)

    def _likeliest(self, x: Tensor) -> Tensor:
        return self._model.logits(x)[: self._words].argmax()

    def _record(self) -> None:
        model = self._model
        layers = model.layers()

        def first() -> tuple[Tensor, ...]:
            turns = model.turns(self._position)
            x = embedding(self._token, model.embedding).to(model.dtype)
            return (*turns, x, *model.before(x, layers[0], turns))

        cos, sin, x, *heads = self._graph(first)
        for layer, following in pairwise(layers):
            self._heads.append(heads)
            x, *heads = self._graph(
                partial(self._between, x, (cos, sin), layer, following)
            )
        self._heads.append(heads)

        def last() -> tuple[Tensor, ...]:
            return (self._likeliest(model.after(x, self._seen, layers[-1])[-1]),)

        (self._next,) = self._graph(last)

    def _between(
        self, x: Tensor, rotation: Rotation, layer: Layer, following: Layer
    ) -> tuple[Tensor, ...]:
        x = self._model.after(x, self._seen, layer)
        return (x, *self._model.before(x, following, rotation))

    def _graph(self, piece: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Record what a piece launches; return where its replays leave their results.

        It runs before on a stream of its own, as torch asks, so that libraries have set
        themselves up and nothing of it is recorded.
        """
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP_CALLS):
                piece()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = piece()
        self._graphs.append(graph)
        return results
