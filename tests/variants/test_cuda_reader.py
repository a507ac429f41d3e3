"""The reader for CUDA, without its device: graphs are replaced by what they record."""

from types import SimpleNamespace

import pytest
import torch

from canary.attention import attend, padded_length, pattern, warm_lengths
from canary.variants import cuda
from canary.variants.cuda import CudaReader
from canary.variants.model import Architecture, Cache, ReferenceModel

TINY = Architecture(layers=3, width=32, heads=2, head_width=16, hidden=48)
WORDS = 250


@pytest.fixture
def reader(monkeypatch):
    """A reader on the CPU that runs again what it would have recorded."""
    monkeypatch.setattr(cuda, "RECORDED_TOKENS", 512)
    monkeypatch.setattr(
        CudaReader, "_graph", lambda _, piece: SimpleNamespace(replay=piece)
    )
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
    """Prompts recorded or not, and words behind them, read as the model reads them."""
    model = reader._model
    prompt = torch.randint(
        2, 300, (length,), generator=torch.Generator().manual_seed(3)
    )
    read = reader.reader(seen, capacity_tokens=length + 6)
    cache = Cache(model, capacity_tokens=length + 6)
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


def test_every_length_up_to_the_limit_is_recorded(reader):
    """What a prompt is padded to has been recorded, and so has one word."""
    assert {1, *warm_lengths(512)} == set(reader._recordings)
    assert padded_length(300) in reader._recordings
