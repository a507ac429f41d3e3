"""Where definitions and questions stand: one distribution for each kind of document.

A time is about the place in the document, from 0 to 1; lines with a time above 1 stand
behind all others. Definitions are (documents, names), questions (documents, questions).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from canary.training.templates import Rows

# How far back the answer of a question in a chat comes at most, and how often that is.
_NEAR_TOKENS = 512
_NEAR_SHARE = 0.85


class Draw:
    """Random numbers of one generator, on its device."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self.device = generator.device

    def uniform(self, *shape: int) -> Tensor:
        """Draw from [0, 1), float64."""
        return torch.rand(
            *shape,
            generator=self._generator,
            device=self.device,
            dtype=torch.float64,
        )

    def integers(self, stop: int, *shape: int) -> Tensor:
        """Draw from 0 to `stop`, without it.

        torch's own integers may differ between versions; its uniform numbers don't.
        """
        return (self.uniform(*shape) * stop).long()

    def one_of(self, rows: Rows, *shape: int) -> Tensor:
        """Draw from the rows of one kind."""
        return rows.first + self.integers(rows.number, *shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be drawn: so many documents, and what is in each."""

    documents: int
    length_tokens: int
    values: int
    questions: int
    training: bool
    """Whether they are to be learned from, rather than to examine."""


@dataclass(frozen=True, slots=True)
class Times:
    """The times of all lines that aren't filler."""

    definition: Tensor
    question: Tensor


def times(task: str, order: Order, draw: Draw) -> Times:
    """Draw when each definition and question of some documents comes."""
    return _TIMES[task](order, draw)


def _contracts(order: Order, draw: Draw) -> Times:
    """Terms among the first lines, all questions at the end.

    The times of terms are uniform from 0 to 24 tokens' worth (in training 120; to 0.1
    in training documents of up to 512 tokens), so that hardly any filler stands between
    them: 16 terms end at about token 215, in 97 % of documents before token 256.
    """
    if order.length_tokens <= 512:
        latest = 0.1
    else:
        latest = (120 if order.training else 24) / order.length_tokens
    definition = draw.uniform(order.documents, order.values) * latest
    return Times(definition, _at_the_end(order, draw))


def _code(order: Order, draw: Draw) -> Times:
    """Functions anywhere, uniformly; all asserts at the end."""
    return Times(draw.uniform(order.documents, order.values), _at_the_end(order, draw))


def _chat(order: Order, draw: Draw) -> Times:
    """Questions in the second half, most of them about something just said.

    A question's time is uniform from 0.5 to 1 (in training the root of a uniform
    number, so that some come early). With probability 0.85 its answer comes within the
    time of 512 tokens before it, uniformly, otherwise at any time before it. The second
    half is dense with questions, so that 512 tokens there take less time: about 80 % of
    all answers stand within the 512 tokens before their question. Facts that nobody
    asks for stand anywhere.
    """
    shape = (order.documents, order.questions)
    chance = draw.uniform(*shape)
    question = chance.sqrt() if order.training else 0.5 + 0.5 * chance
    span = _NEAR_TOKENS / order.length_tokens
    recent = question - span * draw.uniform(*shape)
    # Where that is before the beginning, the fact stands among the first lines.
    recent = recent.maximum(question * 1e-4)
    anywhere = question * draw.uniform(*shape)
    near = draw.uniform(*shape) < _NEAR_SHARE
    others = draw.uniform(order.documents, order.values - order.questions)
    definition = torch.cat([torch.where(near, recent, anywhere), others], 1)
    return Times(definition, question)


def _hops(order: Order, draw: Draw) -> Times:
    """Each chain at three uniform times in order: value, first link, second link."""
    steps = (
        draw.uniform(order.documents, order.values, 3).sort(dim=2, stable=True).values
    )
    # Names are numbered by step, then by chain.
    return Times(steps.transpose(1, 2).flatten(1), _at_the_end(order, draw))


def _at_the_end(order: Order, draw: Draw) -> Tensor:
    number = torch.arange(order.questions, device=draw.device, dtype=torch.float64)
    return (2 + number).expand(order.documents, order.questions)


_TIMES: dict[str, Callable[[Order, Draw], Times]] = {
    "contracts": _contracts,
    "code": _code,
    "chat": _chat,
    "hops": _hops,
}
