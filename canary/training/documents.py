"""Synthetic documents: names are defined somewhere, and asked for later.

A name is a key word and a number (9,600 of them), a value three numbers of two digits;
a document's names differ. The rest is filler with mentions of random names, which are
there to mislead. Lines stand in the order of their *time*, a number drawn per line:
fillers get one from 0 to 1 uniformly, so that time is about the place in the document;
`canary.training.placement` draws those of definitions and questions.

Everything is drawn from uniform float64 numbers in a fixed order: on the CPU equal
seeds give equal documents. On a GPU the whole batch is made there.
"""

import math
from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from canary.training.placement import Draw, Order, Times, times
from canary.training.templates import DRAWN, FAMILIES, FIELDS, LineTable, line_table
from canary.variants.vocabulary import BOS, IDS, KEYS, NUMBERS, PAD

Purpose: TypeAlias = Literal["training", "evaluation"]
"""Training documents hold more questions, in more places."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """Documents of one family and length.

    Attributes:
        tokens: (documents, length) ids; the first is ``<bos>``.
        question: (documents, length) the number of the question whose answer a token
            is part of, -1 elsewhere.
        question_start: (documents, questions) where the question's line begins.
        definition_start: (documents, questions) where the line begins that holds the
            value that is asked for.
    """

    tokens: Tensor
    question: Tensor
    question_start: Tensor
    definition_start: Tensor


@dataclass(frozen=True, slots=True)
class _Lines:
    """Lines of each document, (documents, lines) each but `names`.

    `names` (documents, lines, 3) and `value` say which of the document's names and
    values fill the slots; `question` and `definition` number those lines, -1 for
    others.
    """

    time: Tensor
    row: Tensor
    names: Tensor
    value: Tensor
    question: Tensor
    definition: Tensor


def counts(task: str, length_tokens: int, purpose: Purpose) -> tuple[int, int]:
    """Return how many values a document defines and how many questions it asks.

    Training documents are dense, since every answer is supervision: a value for each 48
    tokens (96 in hops; 24 terms in long contracts), up to 96 (64) of them asked for.
    Those for evaluation ask 16 questions (hops: 8); below 1k tokens they are alike.
    """
    if purpose == "evaluation" and length_tokens >= 1024:
        return {
            "contracts": (16, 16),
            "code": (min(48, length_tokens // 64), 16),
            "chat": (min(64, length_tokens // 64), 16),
            "hops": (min(24, length_tokens // 128), 8),
        }[task]
    if task == "hops":
        values, most = length_tokens // 96, 64
    elif task == "contracts":
        values = 24 if length_tokens >= 1024 else max(4, length_tokens // 48)
        most = values
    else:
        values, most = length_tokens // 48, 96
    return values, min(values, most)


class DocumentGenerator:
    """Draws documents on one device from one seed; each draw continues the stream."""

    def __init__(self, *, seed: int, device: str | torch.device = "cpu") -> None:
        device = torch.device(device)
        self._draw = Draw(torch.Generator(device=device).manual_seed(seed))
        self._tables = {
            task: line_table(family, device) for task, family in FAMILIES.items()
        }

    def documents(
        self, task: str, *, documents: int, length_tokens: int, purpose: Purpose
    ) -> Documents:
        """Draw documents of one family, each exactly `length_tokens` long.

        Raises:
            ValueError: Definitions and questions may not fit into that length.
        """
        table, draw = self._tables[task], self._draw
        values, questions = counts(task, length_tokens, purpose)
        order = Order(
            documents=documents,
            length_tokens=length_tokens,
            values=values,
            questions=questions,
            training=purpose == "training",
        )
        when = times(task, order, draw)
        lines = _concatenate(
            _definitions(table, draw, when, values),
            _questions(table, when, values),
            _fillers(table, draw, order, names=when.definition.shape[1]),
        )
        lengths = _fitted(table.lengths[lines.row], length_tokens)
        by_time = lines.time.argsort(dim=1, stable=True)
        lines = _Lines(*(_take(getattr(lines, f.name), by_time) for f in fields(lines)))
        words = _written(table, draw, lines, names=when.definition.shape[1])
        return _laid_out(table, order, lines, words, _take(lengths, by_time))


def _definitions(table: LineTable, draw: Draw, when: Times, values: int) -> _Lines:
    """One line for each name: those with a value, then those that link to them.

    Name n + `values` links to name n.
    """
    documents, names = when.definition.shape
    name = torch.arange(names, device=draw.device).expand(documents, names)
    row = draw.one_of(table.rows["definition"], documents, values)
    if names > values:
        links = draw.one_of(table.rows["link"], documents, names - values)
        row = torch.cat([row, links], 1)
    linked = torch.where(name >= values, name - values, name)
    return _Lines(
        time=when.definition,
        row=row,
        names=torch.stack([name, linked, linked], -1),
        value=name % values,
        question=torch.full_like(name, -1),
        definition=name,
    )


def _questions(table: LineTable, when: Times, values: int) -> _Lines:
    """Question q asks for value q, by the last of the names that lead to it."""
    value = torch.arange(when.question.shape[1], device=when.question.device)
    value = value.expand(when.question.shape)
    steps = when.definition.shape[1] // values
    chain = [value + step * values for step in reversed(range(steps))]
    return _Lines(
        time=when.question,
        row=torch.full_like(value, table.rows["question"].first),
        names=torch.stack((chain * 3)[:3], -1),
        value=value,
        question=value,
        definition=torch.full_like(value, -1),
    )


def _fillers(table: LineTable, draw: Draw, order: Order, *, names: int) -> _Lines:
    """As many as fill a document even if all its lines are short."""
    rows, values, questions = table.rows, order.values, order.questions
    others = [(values, rows["definition"]), (questions, rows["question"])]
    if names > values:
        others.append((names - values, rows["link"]))
    if sum(n * kind.longest_tokens for n, kind in others) >= order.length_tokens:
        raise ValueError(f"{values} values may not fit in {order.length_tokens} tokens")
    taken = sum(n * kind.shortest_tokens for n, kind in others)
    room = order.length_tokens - 1 - taken
    lines = math.ceil(room / rows["filler"].shortest_tokens)
    none = torch.zeros(order.documents, lines, dtype=torch.long, device=draw.device)
    return _Lines(
        time=draw.uniform(order.documents, lines),
        row=draw.one_of(rows["filler"], order.documents, lines),
        names=none[..., None].expand(-1, -1, 3),
        value=none,
        question=none - 1,
        definition=none - 1,
    )


def _fitted(lengths: Tensor, length_tokens: int) -> Tensor:
    """Cut what is too much for the document: the last line that fits in part, then all.

    Fillers come last and are in no order yet, so any of them may be what is cut.
    """
    before = 1 + lengths.cumsum(1) - lengths
    return (length_tokens - before).clamp_min(0).minimum(lengths)


def _written(table: LineTable, draw: Draw, lines: _Lines, *, names: int) -> Tensor:
    """Fill the slots of all lines; return (documents, lines, width) ids."""
    documents = len(lines.row)
    # A random subset of all names in random order; ties are impossible in practice.
    name = draw.uniform(documents, len(KEYS) * len(NUMBERS)).topk(names, dim=1).indices
    key = IDS[KEYS[0]] + name // len(NUMBERS)
    number = IDS[NUMBERS[0]] + name % len(NUMBERS)
    value = IDS[NUMBERS[0]] + draw.integers(len(NUMBERS), documents, names, 3)
    named = [
        _take(part, lines.names[..., n]) for n in range(3) for part in (key, number)
    ]
    valued = [_take(value[..., n], lines.value) for n in range(3)]
    field = torch.stack(named + valued, -1)
    words = table.words[lines.row]
    slot = -1 - words
    chance = draw.uniform(*words.shape)
    for n, drawn in enumerate(DRAWN.values()):
        ids = IDS[drawn[0]] + (chance * len(drawn)).long()
        words = torch.where(slot == len(FIELDS) + n, ids, words)
    own = field.gather(-1, slot.clamp(0, len(FIELDS) - 1))
    return torch.where((slot >= 0) & (slot < len(FIELDS)), own, words)


def _laid_out(
    table: LineTable, order: Order, lines: _Lines, words: Tensor, lengths: Tensor
) -> Documents:
    """Write line behind line, of each the first `lengths` words."""
    end, questions = order.length_tokens, order.questions
    start = 1 + lengths.cumsum(1) - lengths
    column = torch.arange(words.shape[2], device=words.device)
    # What isn't written goes to one further column, which is then dropped.
    place = torch.where(column < lengths[..., None], start[..., None] + column, end)

    def spread(source: Tensor, empty: int) -> Tensor:
        page = words.new_full((order.documents, end + 1), empty)
        return page.scatter_(1, place.flatten(1), source.flatten(1))[:, :end]

    def starts(number: Tensor) -> Tensor:
        asked = torch.where((number < 0) | (number >= questions), questions, number)
        page = words.new_zeros(order.documents, questions + 1)
        return page.scatter_(1, asked, start)[:, :questions]

    tokens = spread(words, PAD)
    tokens[:, 0] = BOS
    answered = torch.where(table.is_answer[lines.row], lines.question[..., None], -1)
    return Documents(
        tokens=tokens,
        question=spread(answered, -1),
        question_start=starts(lines.question),
        definition_start=starts(lines.definition),
    )


def _concatenate(*parts: _Lines) -> _Lines:
    return _Lines(
        *(torch.cat([getattr(p, f.name) for p in parts], 1) for f in fields(_Lines))
    )


def _take(source: Tensor, index: Tensor) -> Tensor:
    """Gather along dimension 1; further dimensions of `source` come along."""
    if source.dim() == 3:
        index = index[..., None].expand(-1, -1, source.shape[2])
    return source.gather(1, index)
