import pytest
import torch

from canary.attention import attend, pattern
from canary.errors import CanaryError
from canary.variants.model import Architecture, ReferenceModel

TINY = Architecture(layers=2, width=32, heads=2, head_width=16, hidden=48)
PATTERNS = {
    "dense": "dense",
    "window": {"pattern": "sliding_window", "window": 5},
    "local_global": {"pattern": "local_global", "window": 4, "global_tokens": 3},
    "mixed": {"layers": {0: {"pattern": "sliding_window", "window": 3}, 1: "dense"}},
}


@pytest.fixture
def model():
    """A tiny model with random weights, in which every part has an effect."""
    tiny = ReferenceModel(TINY)
    chance = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in tiny.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=chance) * 0.3)
    return tiny.requires_grad_(requires_grad=False)


def words(*shape):
    return torch.randint(2, 300, shape, generator=torch.Generator().manual_seed(11))


def attention(spec):
    return lambda q, k, v, layer: attend(q, k, v, pattern(spec), layer=layer)[0]


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("chunks", [(20,), (13, 7), (13, 1, 1, 1, 4), (1,) * 20])
def test_reading_in_pieces_changes_nothing(model, name, chunks):
    """With a cache, any division of a text gives what reading it at once gives."""
    tokens, seen = words(1, 20), attention(PATTERNS[name])
    cache = model.cache(capacity_tokens=24)

    pieces = [model(part, seen, cache) for part in tokens.split(chunks, dim=1)]

    assert 20 == cache.length
    torch.testing.assert_close(
        torch.cat(pieces, 1), model(tokens, seen), atol=1e-5, rtol=1e-4
    )


def test_documents_of_a_batch_do_not_meet(model):
    """A document reads the same beside another as alone."""
    tokens, seen = words(3, 12), attention("dense")

    together = model(tokens, seen)

    for index in range(3):
        alone = model(tokens[index : index + 1], seen)
        torch.testing.assert_close(together[index : index + 1], alone)


def test_nothing_depends_on_what_follows(model):
    """Changing a later word leaves all earlier results as they were."""
    tokens, seen = words(1, 12), attention("dense")
    other = tokens.clone()
    other[0, 8] += 1

    before, after = model(tokens, seen), model(other, seen)

    torch.testing.assert_close(before[:, :8], after[:, :8])
    assert not torch.allclose(before[:, 8:], after[:, 8:])


def test_activations_are_never_float16():
    """float16 is refused with the reason; bfloat16 is fine."""
    with pytest.raises(CanaryError, match=r"can't run in float16.*65,504"):
        ReferenceModel(TINY, dtype=torch.float16)
    assert torch.bfloat16 == ReferenceModel(TINY, dtype=torch.bfloat16).dtype


def test_bfloat16_reads_nearly_the_same(model):
    """In bfloat16 the same weights give the same results within its precision."""
    rough = ReferenceModel(TINY, dtype=torch.bfloat16)
    rough.load_state_dict(model.state_dict())
    tokens, seen = words(1, 16), attention("dense")

    exact, found = model(tokens, seen), rough(tokens, seen)

    assert torch.bfloat16 == found.dtype
    error = (found.float() - exact).norm() / exact.norm()
    assert error < 0.03
