import json
import re
from pathlib import Path

import pytest
import torch

from canary.traffic.validation import read_validation
from canary.training import validation
from canary.training.documents import DocumentGenerator, counts
from canary.training.templates import FAMILIES, TASKS
from canary.variants.vocabulary import BOS, PAD, decode

SHIPPED = Path(__file__).parents[2] / "replay" / "validation"
LENGTHS = [("training", 256), ("training", 1024), ("evaluation", 1024)]
DEFINED = {
    "contracts": r'" (\w+) - (\d\d) " (?:means|shall mean) (\d\d \d\d \d\d) \.',
    "code": r"def (\w+) _ (\d\d) \( [^)]*\) : (?:x = \w+ ; )?return (\d\d \d\d \d\d)",
    "chat": r"remember :? ?my (\w+) (\d\d) is (\d\d \d\d \d\d) \.",
    "hops": r"let (\w+) (\d\d) = (\d\d \d\d \d\d|\w+ \d\d) ;",
}
ASKED = {
    "contracts": r'what does " (\w+) - (\d\d) " mean \? A : (\d\d \d\d \d\d) \.',
    "code": r"assert (\w+) _ (\d\d) \( \) == (\d\d \d\d \d\d) ",
    "chat": r"what is my (\w+) (\d\d) \? bot : (\d\d \d\d \d\d) \.",
    "hops": r"trace (\w+) (\d\d) -> (\w+ \d\d -> \w+ \d\d -> \d\d \d\d \d\d) ;",
}


def draw(task, purpose="evaluation", length=1024, seed=1, documents=4):
    return DocumentGenerator(seed=seed).documents(
        task, documents=documents, length_tokens=length, purpose=purpose
    )


def matches(pattern, text):
    return [
        (" ".join(found.group(1, 2)), found.group(3), found.start())
        for found in re.finditer(pattern, text)
    ]


def answer_to(name, meanings, task):
    if task != "hops":
        return meanings[name]
    steps = [meanings[name]]
    while steps[-1] in meanings:
        steps.append(meanings[steps[-1]])
    return " -> ".join(steps)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("purpose", "length"), LENGTHS)
def test_every_question_is_answered_by_what_stands_before_it(task, purpose, length):
    """Read as text: names are defined once, and each answer follows from before."""
    drawn = draw(task, purpose, length)
    values, questions = counts(task, length, purpose)

    for row in drawn.tokens.tolist():
        # Hops: "let x = noun + ..." is filler, and no name is without number.
        text = decode(row[1:])
        defined = matches(DEFINED[task], text)
        asked = matches(ASKED[task], text)
        meanings = {name: meaning for name, meaning, _ in defined}
        assert len(meanings) == len(defined) == values * (3 if task == "hops" else 1)
        assert questions == len(asked)
        for name, answer, place in asked:
            known = {n: m for n, m, at in defined if at < place}
            assert answer == answer_to(name, known, task)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("purpose", "length"), LENGTHS)
def test_answers_are_marked_token_by_token(task, purpose, length):
    """`question` marks exactly the answers' tokens, each by its question's number."""
    drawn = draw(task, purpose, length)
    _, questions = counts(task, length, purpose)

    for tokens, marks in zip(drawn.tokens, drawn.question, strict=True):
        marked = {n: decode(tokens[marks == n].tolist()) for n in range(questions)}
        asked = [answer for _, answer, _ in matches(ASKED[task], decode(tokens[1:]))]
        assert sorted(asked) == sorted(marked.values())
        assert set(range(questions)) | {-1} == set(marks.tolist())


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("purpose", "length"), LENGTHS)
def test_starts_say_where_lines_begin(task, purpose, length):
    """A question's line and that of its value begin where the starts say, in order."""
    drawn = draw(task, purpose, length)

    assert bool((drawn.definition_start < drawn.question_start).all())
    for row in range(len(drawn.tokens)):
        for number, begin in enumerate(drawn.definition_start[row].tolist()):
            line = decode(drawn.tokens[row, begin : begin + 24].tolist())
            marks = drawn.question[row] == number
            answer = decode(drawn.tokens[row][marks].tolist())
            (_, value, place) = matches(DEFINED[task], line)[0]
            assert place <= len("user : please remember : ")
            assert answer.endswith(value)
            end = int(marks.nonzero()[0])
            assert 0 < end - int(drawn.question_start[row, number]) <= 13


@pytest.mark.parametrize("task", TASKS)
def test_documents_are_full(task):
    """A document begins with <bos>, has its exact length and no padding."""
    drawn = draw(task, length=1100)

    assert (4, 1100) == tuple(drawn.tokens.shape)
    assert {BOS} == set(drawn.tokens[:, 0].tolist())
    assert not bool((drawn.tokens[:, 1:] <= max(PAD, BOS)).any())


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("length", [256, 512, 1024, 2048, 4096, 8192])
def test_all_lengths_of_the_recipe_hold_their_questions(task, length):
    """Training documents of each length that the recipe uses can be drawn."""
    drawn = draw(task, "training", length, documents=1)

    assert counts(task, length, "training")[1] == int(drawn.question.max()) + 1


def test_what_does_not_fit_is_refused():
    """A length that may be too short for its questions is an error, not a cut text."""
    with pytest.raises(ValueError, match="4 values may not fit in 100 tokens"):
        draw("contracts", "training", 100)


def test_equal_seeds_give_equal_documents():
    """The same seed draws the same documents, another seed draws others."""
    one, same, other = (draw("code", seed=seed).tokens for seed in (1, 1, 2))

    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_contracts_define_their_terms_first():
    """In at least 95 % of long contracts all terms end within the first 256 tokens."""
    drawn = draw("contracts", length=2048, documents=200)

    ends = drawn.definition_start.max(1).values + 13
    assert float((ends <= 256).float().mean()) >= 0.95
    assert int(ends.max()) < 320


def test_chats_ask_mostly_for_what_was_just_said():
    """About four in five answers in a chat are near, the others anywhere before."""
    drawn = draw("chat", length=4096, documents=100)
    distance = (drawn.question_start - drawn.definition_start).float()

    assert 0.74 < float((distance <= 512).float().mean()) < 0.84
    assert float(distance.max()) > 3000


def test_code_defines_anywhere():
    """Functions stand anywhere: on average near the middle of what precedes asserts."""
    drawn = draw("code", length=2048, documents=100)

    assert abs(float(drawn.definition_start.float().mean()) / 2048 - 0.46) < 0.03


def test_each_kind_of_line_is_used():
    """Every template of a family shows up in its documents, as written."""
    for task, family in FAMILIES.items():
        text = " ".join(decode(row[1:]) for row in draw(task, documents=8).tokens)
        for template in (*family.fillers, *family.definitions, family.question):
            words = [w for w in template.split() if w not in "[]"]
            parts = [
                r"\w+" if w.isupper() and len(w) > 2 else re.escape(w) for w in words
            ]
            assert re.search(" ".join(parts), text), template


@pytest.mark.parametrize("task", TASKS)
def test_the_shipped_sets_are_what_the_generator_writes(task, tmp_path):
    """Made anew, each validation set is the shipped file, byte for byte."""
    validation.write(tmp_path)

    assert (SHIPPED / f"{task}.jsonl").read_bytes() == (
        tmp_path / f"{task}.jsonl"
    ).read_bytes()


@pytest.mark.parametrize(
    ("task", "documents"),
    [("contracts", 220), ("code", 60), ("chat", 60), ("hops", 40)],
)
def test_the_shipped_sets_hold_what_they_promise(task, documents):
    """A question per document, as many as planned at 1k, and 16 at 2k."""
    (shipped,) = read_validation([SHIPPED / f"{task}.jsonl"])

    buckets = [item.length_bucket for item in shipped.items]
    assert (documents, 16) == (buckets.count(1024), buckets.count(2048))
    assert len(shipped.items) == len({item.group for item in shipped.items})
    for item in shipped.items:
        facts = json.loads(item.metadata)
        prompt = facts["prompt_tokens"]
        assert prompt == 1 + len(item.input.split())
        assert 0 < facts["distance_tokens"] < prompt
        assert item.depth == round(1 - facts["distance_tokens"] / prompt, 4)
        assert len(item.target[0].split()) < item.max_tokens
        assert task == item.task
