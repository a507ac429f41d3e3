"""Training the reference model: the recipe, and the loop that follows it.

Retrieval forms on short documents first. Only when it has (the gate) do the stages
begin, which lengthen documents by their shares of the time; lengthening too early was
seen to leave a model that never finds anything far away.
"""

import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, count

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from canary.clock import Clock
from canary.errors import CanaryError
from canary.training.batches import Batches
from canary.training.documents import DocumentGenerator
from canary.training.optimiser import MuonAdam, Rates
from canary.variants.model import REFERENCE, Architecture, ReferenceModel, word_logits
from canary.variants.vocabulary import PAD

# Of the rates, at the very end: they never quite reach 0.
_SLOWEST = 0.02
_EARLY_POINTS = (1, 50, 100)
_POINT_EVERY = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Each step draws one of `lengths_tokens`, for this share of the time."""

    lengths_tokens: tuple[int, ...]
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that decides what comes out, but device and luck.

    Attributes:
        seconds: Time for all stages, from the gate on.
        gate: Share of answer tokens that must be right before the stages begin.
        gate_steps: Steps after which waiting for the gate is given up.
        others_weight: Weight in the loss of tokens that aren't part of an answer.
        warm_up_steps: Steps over which the rates rise from 0.
        decay: The last share of the time, over which the rates fall towards 0.
    """

    seconds: float
    seed: int
    stages: tuple[Stage, ...] = (
        Stage(lengths_tokens=(256,), share=0.04),
        Stage(lengths_tokens=(256, 512, 1024), share=0.06),
        Stage(lengths_tokens=(1024, 2048), share=0.20),
        Stage(lengths_tokens=(2048, 4096), share=0.20),
        Stage(lengths_tokens=(1024, 2048, 4096, 8192, 8192), share=0.50),
    )
    gate: float = 0.99
    gate_steps: int = 4000
    tokens_per_step: int = 65_536
    others_weight: float = 0.1
    warm_up_steps: int = 100
    decay: float = 0.4
    rates: Rates = field(default_factory=Rates)
    architecture: Architecture = REFERENCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One point of the training curve. `elapsed_s` counts from the gate on."""

    step: int
    length_tokens: int
    answer_loss: float
    other_loss: float
    answer_accuracy: float
    speed: float
    elapsed_s: float


class GateError(CanaryError):
    """Retrieval didn't form on short documents in the steps that it was given."""


class Trainer:
    """A model in training.

    Args:
        recipe: What to do.
        device: Where; on CUDA in bfloat16 and compiled, elsewhere in float32.
        clock: What the recipe's seconds are measured with.
    """

    def __init__(
        self, recipe: Recipe, *, device: torch.device, clock: Clock = time.perf_counter
    ) -> None:
        self._recipe = recipe
        self._clock = clock
        cuda = device.type == "cuda"
        dtype = torch.bfloat16 if cuda else torch.float32
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(recipe.seed)
            self.model = ReferenceModel(recipe.architecture, dtype=dtype).to(device)
        self._losses = _losses
        if cuda:
            self.model.compile_blocks()
            self._losses = torch.compile(_losses, dynamic=False)
        generator = DocumentGenerator(seed=recipe.seed + 1, device=device)
        self._batches = Batches(generator, tokens=recipe.tokens_per_step)
        self._chance = random.Random(recipe.seed)  # noqa: S311 - repeatable, not secret
        m = self.model
        self._optimiser = MuonAdam(
            matrices=[m.attention, m.mlp],
            others=[
                m.embedding,
                *(m.input_gain, m.mlp_gain, m.final_gain, m.query_gain, m.key_gain),
            ],
            rates=recipe.rates,
            dtype=dtype,
        )
        self.steps_by_length: Counter[int] = Counter()
        self.gate_step: int | None = None

    def warm_up(self) -> None:
        """Compile, outside the time that counts; the model stays as it is."""
        for length_tokens in sorted(set(self._recipe.stages[0].lengths_tokens)):
            answers, others, _ = self._forward(length_tokens)
            torch.autograd.backward(answers + others)
        self.model.zero_grad(set_to_none=True)

    def run(self) -> Iterator[Progress]:
        """Train to the end of the recipe, yielding a point of the curve now and then.

        Raises:
            GateError: Retrieval didn't form on the first stage's documents.
        """
        recipe = self._recipe
        began_s = self._clock()
        passed = recipe.gate <= 0
        for step in count(1):
            elapsed_s = self._clock() - began_s
            done = elapsed_s / recipe.seconds if passed else 0.0
            if done >= 1:
                return
            speed = min(
                1.0,
                step / recipe.warm_up_steps,
                max(_SLOWEST, (1 - done) / recipe.decay),
            )
            length = self._chance.choice(self._stage(done).lengths_tokens)
            answers, others, accuracy = self._forward(length)
            torch.autograd.backward(answers + recipe.others_weight * others)
            self._optimiser.step(speed)
            self.steps_by_length[length] += 1
            # Reading a number waits for the device: often enough that the host doesn't
            # run ahead of the clock, not so often that it costs.
            if step % 20 == 0 and not passed and float(accuracy) > recipe.gate:
                passed, self.gate_step, began_s = True, step, self._clock()
            elif step >= recipe.gate_steps and not passed:
                raise GateError(
                    f"after {step} steps {float(accuracy):.1%} of answer tokens are "
                    f"right on documents of {length} tokens, not {recipe.gate:.0%}; "
                    "try another seed, or more steps before the gate"
                )
            if step in _EARLY_POINTS or step % _POINT_EVERY == 0:
                yield Progress(
                    step=step,
                    length_tokens=length,
                    answer_loss=float(answers.detach()),
                    other_loss=float(others.detach()),
                    answer_accuracy=float(accuracy),
                    speed=speed,
                    elapsed_s=elapsed_s,
                )

    def _stage(self, done: float) -> Stage:
        ends = accumulate(stage.share for stage in self._recipe.stages)
        for stage, end in zip(self._recipe.stages, ends, strict=True):
            if done < end:
                return stage
        return self._recipe.stages[-1]

    def _forward(self, length_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        batch = self._batches.next(length_tokens)
        x = self.model(batch.tokens, _dense).flatten(0, 1)
        m = self.model
        return self._losses(
            x, m.final_gain, m.embedding, batch.following, batch.answered
        )


def _dense(q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
    del layer
    return scaled_dot_product_attention(q, k, v, is_causal=True)


def _losses(
    x: Tensor, gain: Tensor, table: Tensor, following: Tensor, answered: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean cross entropy of answer tokens and of others, and share right.

    The share is that of answer tokens. Nothing is learned from what follows the end.
    """
    logits = word_logits(x, gain, table).float()
    surprise = cross_entropy(logits, following, reduction="none")
    answer = answered.float()
    other = (following != PAD).float() * (1 - answer)
    right = (logits.argmax(-1) == following).float()
    return (
        (surprise * answer).sum() / answer.sum().clamp_min(1),
        (surprise * other).sum() / other.sum().clamp_min(1),
        (right * answer).sum() / answer.sum().clamp_min(1),
    )
