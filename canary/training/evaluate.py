"""How often a model answers right, on fresh documents."""

from dataclasses import dataclass

import torch
from torch import Tensor

from canary.attention import Pattern, attend
from canary.training.documents import DocumentGenerator
from canary.variants.model import ReferenceModel

_TOKENS_AT_ONCE = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Questions answered entirely right, of those asked."""

    right: int
    questions: int

    @property
    def share(self) -> float:
        """The share that is right, from 0 to 1."""
        return self.right / self.questions


@torch.inference_mode()
def accuracy(
    model: ReferenceModel,
    task: str,
    *,
    length_tokens: int,
    documents: int,
    seed: int,
    pattern: Pattern,
) -> Accuracy:
    """Ask all questions of freshly drawn documents at once (teacher forced).

    An answer is right when each of its tokens is the likeliest behind the true text
    before it, which is the same as being right when decoded greedily: up to its first
    wrong token the two read the same.

    Args:
        model: On any device; documents are drawn there.
        task: The kind of document.
        length_tokens: The length of each.
        documents: How many.
        seed: Decides the documents.
        pattern: What the model may attend to.
    """

    def seen(q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        return attend(q, k, v, pattern, layer=layer)[0]

    generator = DocumentGenerator(seed=seed, device=model.embedding.device)
    right = questions = 0
    while documents > 0:
        batch = min(documents, max(1, _TOKENS_AT_ONCE // length_tokens))
        documents -= batch
        drawn = generator.documents(
            task, documents=batch, length_tokens=length_tokens, purpose="evaluation"
        )
        asked = drawn.question[:, 1:]
        x = model(drawn.tokens, seen)[:, :-1][asked >= 0]
        hit = model.logits(x).argmax(-1) == drawn.tokens[:, 1:][asked >= 0]
        # One number for each question of the batch, to put its tokens together.
        most = drawn.question_start.shape[1]
        row = torch.arange(batch, device=asked.device)[:, None].expand_as(asked)
        answer = (row * most + asked)[asked >= 0]
        whole = torch.ones(batch * most, dtype=torch.long, device=asked.device)
        whole.scatter_reduce_(0, answer, hit.long(), "amin")
        right += int(whole.sum())
        questions += batch * most
    return Accuracy(right=right, questions=questions)
