import itertools
import json
import subprocess
import sys

import pytest
import torch
from torch.nn import Parameter

from canary.training.batches import Batches
from canary.training.documents import DocumentGenerator
from canary.training.optimiser import MuonAdam, Rates, orthogonal
from canary.training.train import GateError, Recipe, Stage, Trainer
from canary.variants.model import Architecture
from canary.variants.vocabulary import PAD

TINY = Architecture(layers=1, width=32, heads=1, head_width=32, hidden=32)
SHORT = Stage(lengths_tokens=(256,), share=0.5)
LONGER = Stage(lengths_tokens=(512,), share=0.5)


def trainer(steps, **changes):
    """A trainer whose clock ticks a second per reading, so that a step takes one."""
    ticks = itertools.count()
    recipe = Recipe(
        **{
            "seconds": steps,
            "seed": 0,
            "stages": (SHORT,),
            "gate": 0.0,
            "tokens_per_step": 2048,
            "warm_up_steps": 5,
            "architecture": TINY,
            **changes,
        }
    )
    return Trainer(recipe, device=torch.device("cpu"), clock=lambda: float(next(ticks)))


def test_training_learns():
    """Within 50 tiny steps the loss of answers and of other words falls."""
    first, last = trainer(51).run()

    assert (1, 50) == (first.step, last.step)
    assert last.answer_loss < first.answer_loss - 1
    assert last.other_loss < first.other_loss - 0.4


def test_equal_recipes_train_equal_models():
    """On the CPU a recipe gives the same weights again; another seed gives others."""
    one, same, other = (trainer(4, seed=seed) for seed in (0, 0, 1))
    for each in (one, same, other):
        list(each.run())

    assert torch.equal(one.model.attention, same.model.attention)
    assert not torch.equal(one.model.attention, other.model.attention)


def test_stages_follow_each_other_by_their_share_of_the_time():
    """Half of the time goes to the first stage, the rest to the second."""
    trained = trainer(9, stages=(SHORT, LONGER))

    list(trained.run())

    assert {256: 4, 512: 4} == dict(trained.steps_by_length)


def test_warming_up_changes_nothing():
    """Compiling outside the clock leaves model and gradients as they were."""
    fresh = trainer(1)
    before = [p.clone() for p in fresh.model.parameters()]

    fresh.warm_up()

    assert all(
        torch.equal(old, new) and new.grad is None
        for old, new in zip(before, fresh.model.parameters(), strict=True)
    )


def test_nothing_is_lengthened_before_retrieval_stands():
    """While the gate isn't passed only the first stage's documents are read."""
    trained = trainer(3, stages=(SHORT, LONGER), gate=0.99, gate_steps=12)

    with pytest.raises(GateError, match=r"after 12 steps .* not 99%"):
        list(trained.run())

    assert {256: 12} == dict(trained.steps_by_length)
    assert trained.gate_step is None


def test_time_counts_from_the_gate():
    """The recipe's seconds begin when the gate is passed, at a step that is kept."""
    trained = trainer(6, gate=1e-9, gate_steps=200)

    list(trained.run())

    assert trained.gate_step is not None
    assert 0 == trained.gate_step % 20
    assert trained.gate_step + 5 == sum(trained.steps_by_length.values())


def test_batches_hold_all_families_and_leave_out_what_follows_the_end():
    """Each batch is one length, marks the token before each answer's tokens."""
    batches = Batches(DocumentGenerator(seed=4), tokens=2048)

    batch = batches.next(256)

    assert (8, 256) == tuple(batch.tokens.shape)
    following = batch.following.view(8, 256)
    answered = batch.answered.view(8, 256)
    assert torch.equal(batch.tokens[:, 1:], following[:, :-1])
    assert {PAD} == set(following[:, -1].tolist())
    assert not bool(answered[:, -1].any())
    # Two documents of each family, none of them twice.
    assert 8 == len({tuple(row) for row in batch.tokens.tolist()})
    assert bool(answered.any(1).all())
    assert not torch.equal(batch.tokens, batches.next(256).tokens)


def test_a_batch_without_room_for_a_family_is_refused():
    """Too few tokens for a document of each family is an error."""
    with pytest.raises(ValueError, match="2048 tokens hold no 4 documents of 1024"):
        Batches(DocumentGenerator(seed=4), tokens=2048).next(1024)


@pytest.mark.parametrize("shape", [(3, 40, 24), (3, 24, 40)])
def test_newton_schulz_makes_singular_values_nearly_equal(shape):
    """Wide or tall, what comes out has singular values near one."""
    chance = torch.Generator().manual_seed(2)

    values = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=chance)))

    assert 0.5 < float(values.min())
    assert float(values.max()) < 1.3


def test_the_optimiser_goes_downhill():
    """Both rules reduce a quadratic loss, and take the gradients away."""
    matrix = Parameter(torch.full((1, 2, 4, 4), 1.0))
    vector = Parameter(torch.full((4,), 1.0))
    rule = MuonAdam(
        matrices=[matrix], others=[vector], rates=Rates(), dtype=torch.float32
    )

    for _ in range(20):
        loss = matrix.square().sum() + vector.square().sum()
        loss.backward()
        rule.step(1.0)

    assert float(matrix.detach().square().sum()) < 32
    assert pytest.approx(1 - 20 * 4e-3, abs=2e-3) == float(vector.detach()[0])
    assert matrix.grad is vector.grad is None
    with pytest.raises(ValueError, match="no gradient"):
        rule.step(1.0)


@pytest.mark.slow
def test_the_smoke_run_works_from_the_shell(tmp_path):
    """`--smoke` trains on the CPU in seconds, and leaves weights and a log."""
    command = [sys.executable, "-m", "canary.training", "--smoke", "--out", tmp_path]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (0, "") == (done.returncode, done.stderr)
    log = json.loads((tmp_path / "training.json").read_text())
    assert log["steps"] >= 1
    assert log["failed"] is None
    assert (tmp_path / "reference.safetensors").exists()
