import pytest
import torch

from canary.attention import pattern
from canary.training.evaluate import Accuracy, accuracy
from canary.training.templates import TASKS
from canary.variants.checkpoint import load_shipped
from canary.variants.model import Architecture, ReferenceModel


@pytest.fixture(scope="module")
def model():
    """The model that ships."""
    return load_shipped(dtype=torch.float32, device=torch.device("cpu"))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("length", "documents"), [(1024, 16), (2048, 8)])
def test_the_shipped_model_retrieves(model, task, length, documents):
    """Dense accuracy on documents that nobody has seen is at least 99 %."""
    found = accuracy(
        model,
        task,
        length_tokens=length,
        documents=documents,
        seed=987_654,
        pattern=pattern("dense"),
    )

    assert documents * (8 if task == "hops" else 16) == found.questions
    assert found.share >= 0.99


def test_an_untrained_model_knows_nothing():
    """Accuracy is about the model: random weights answer nothing right."""
    tiny = Architecture(layers=1, width=32, heads=1, head_width=32, hidden=32)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        untrained = ReferenceModel(tiny)

    found = accuracy(
        untrained,
        "code",
        length_tokens=1024,
        documents=2,
        seed=1,
        pattern=pattern("dense"),
    )

    assert Accuracy(right=0, questions=32) == found


def test_a_window_loses_what_is_far(model):
    """A window of 256 loses every contract question, whose answers stand first."""
    found = accuracy(
        model,
        "contracts",
        length_tokens=1024,
        documents=2,
        seed=3,
        pattern=pattern({"pattern": "sliding_window", "window": 256}),
    )

    assert Accuracy(right=0, questions=32) == found
