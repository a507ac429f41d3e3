"""Training batches: all families in each, all lengths with equally many tokens."""

from typing import NamedTuple

import torch
from torch import Tensor

from canary.training.documents import DocumentGenerator
from canary.training.templates import TASKS

_BATCHES_AT_ONCE = 8
"""Drawing documents is bound by the number of its operations, not by their size."""


class Batch(NamedTuple):
    """What to read and what comes next.

    `tokens` is (documents, length); `following`, the token after each, and `answered`,
    whether that one is part of an answer, are (documents * length).
    """

    tokens: Tensor
    following: Tensor
    answered: Tensor


class Batches:
    """An endless stream of batches of each length, drawn from one generator.

    Args:
        generator: Where documents come from.
        tokens: Tokens in a batch; at least four documents of the greatest length.
    """

    def __init__(self, generator: DocumentGenerator, *, tokens: int) -> None:
        self._generator = generator
        self._tokens = tokens
        self._ready: dict[int, list[Batch]] = {}

    def next(self, length_tokens: int) -> Batch:
        """Return a fresh batch of documents of this length.

        Raises:
            ValueError: Not every family has a place in it.
        """
        if not self._ready.get(length_tokens):
            self._ready[length_tokens] = self._drawn(length_tokens)
        return self._ready[length_tokens].pop()

    def _drawn(self, length_tokens: int) -> list[Batch]:
        documents = self._tokens // length_tokens
        if documents < len(TASKS):
            raise ValueError(
                f"{self._tokens} tokens hold no {len(TASKS)} documents of "
                f"{length_tokens}; give more tokens or shorter documents"
            )
        tokens, questions = [], []
        for place, task in enumerate(TASKS):
            share = (documents + len(TASKS) - 1 - place) // len(TASKS)
            drawn = self._generator.documents(
                task,
                documents=share * _BATCHES_AT_ONCE,
                length_tokens=length_tokens,
                purpose="training",
            )
            shape = (_BATCHES_AT_ONCE, share, length_tokens)
            tokens.append(drawn.tokens.reshape(shape))
            questions.append(drawn.question.reshape(shape))
        every = zip(torch.cat(tokens, 1), torch.cat(questions, 1), strict=True)
        return [_batch(*each) for each in every]


def _batch(tokens: Tensor, question: Tensor) -> Batch:
    # Nothing follows the last token: PAD and no answer, which the loss leaves out.
    following = torch.nn.functional.pad(tokens[:, 1:], (0, 1))
    answered = torch.nn.functional.pad(question[:, 1:] >= 0, (0, 1))
    return Batch(tokens, following.flatten(), answered.flatten())
