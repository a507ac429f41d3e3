"""The reader for CUDA, without its device: graphs are replaced by what they record."""

from types import SimpleNamespace

import pytest
import torch

from canary.attention import attend, pattern
from canary.variants.cuda import CudaReader
from canary.variants.model import Architecture, ReferenceModel

TINY = Architecture(layers=3, width=32, heads=2, head_width=16, hidden=48)
WORDS = 250


@pytest.fixture
def reader(monkeypatch):
    """A reader on the CPU that runs again, into the same places, what it recorded."""

    def record(self, piece):
        places = piece()

        def replay():
            for place, result in zip(places, piece(), strict=True):
                place.copy_(result)

        self._graphs.append(SimpleNamespace(replay=replay))
        return places

    monkeypatch.setattr(CudaReader, "_graph", record)
    model = ReferenceModel(TINY)
    chance = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=chance) * 0.3)
    return CudaReader(model.serve(), words=WORDS)


def seen(q, k, v, layer):
    rule = pattern({"pattern": "local_global", "window": 40, "global_tokens": 9})
    return attend(q, k, v, rule, layer=layer)[0]


@pytest.mark.parametrize("length", [1, 100, 128, 300, 700])
def test_replayed_words_are_those_of_the_model(reader, length):
    """A prompt, padded, and words behind it read as the model itself reads them."""
    model = reader._model
    prompt = torch.randint(
        2, 300, (length,), generator=torch.Generator().manual_seed(3)
    )
    read = reader.reader(seen, capacity_tokens=length + 6)
    cache = model.cache(capacity_tokens=length + 6)
    ids = prompt.tolist()

    for _ in range(6):
        x = model(torch.tensor([ids]), seen, cache)
        expected = int(model.logits(x[0, -1])[:WORDS].argmax())
        assert expected == read(ids)
        ids = [expected]


def test_another_request_leaves_nothing_behind(reader):
    """A second text reads the same after a longer first one as alone."""
    first, second = list(range(2, 250)), list(range(40, 90))

    def answer(ids):
        read = reader.reader(seen, capacity_tokens=len(ids) + 3)
        words = [read(ids)]
        return [*words, *(read([word]) for word in (5, 6))]

    alone = answer(second)
    answer(first)

    assert alone == answer(second)
