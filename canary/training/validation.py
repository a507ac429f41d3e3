"""The validation sets that ship, made anew: ``python -m canary.training.validation``.

A question per document, so that questions are independent; the document ends where the
answer is to begin. Documents are longer than their bucket by as much as is cut off
behind the question, on average.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from canary.traffic.seeds import stable_seed, stable_uniform
from canary.training.documents import DocumentGenerator, Documents
from canary.training.templates import TASKS
from canary.variants.vocabulary import decode

_SEED = 20_261_123


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What one file holds.

    `documents` says how many documents there are of each length bucket, and how long
    they are before they are cut. An answer has at most `max_tokens`, with the word that
    ends it.
    """

    documents: dict[int, tuple[int, int]]
    domain: str
    stop: tuple[str, ...]
    max_tokens: int


_PLANS = {
    "contracts": _Plan(
        documents={1024: (220, 1152), 2048: (16, 2176)},
        domain="law",
        stop=(".", r"\n"),
        max_tokens=8,
    ),
    "code": _Plan(
        documents={1024: (60, 1120), 2048: (16, 2144)},
        domain="software",
        stop=(r"\n",),
        max_tokens=8,
    ),
    # Questions stand anywhere in the second half: 3/4 of the document are left.
    "chat": _Plan(
        documents={1024: (60, 1360), 2048: (16, 2720)},
        domain="conversation",
        stop=(".", r"\n"),
        max_tokens=8,
    ),
    "hops": _Plan(
        documents={1024: (40, 1088), 2048: (16, 2112)},
        domain="software",
        stop=(";", r"\n"),
        max_tokens=16,
    ),
}


def records(task: str) -> Iterator[dict[str, Any]]:
    """Yield one task's questions: equal on every machine, whatever was drawn before."""
    plan = _PLANS[task]
    for bucket, (number, length_tokens) in plan.documents.items():
        generator = DocumentGenerator(seed=stable_seed(_SEED, task, bucket))
        drawn = generator.documents(
            task,
            documents=number,
            length_tokens=length_tokens,
            purpose="evaluation",
        )
        for index in range(number):
            group = f"{task}-{bucket // 1024}k-{index:03d}"
            yield {
                **_question(drawn, index, group),
                "choices": None,
                "scorer": "exact",
                "max_tokens": plan.max_tokens,
                "stop": list(plan.stop),
                "answer_prefix": "",
                "domain": plan.domain,
                "task": task,
                "length_bucket": bucket,
                "weight": 1.0,
                "group": group,
            }


def _question(drawn: Documents, index: int, group: str) -> dict[str, Any]:
    """Ask one question of one document, each equally likely."""
    questions = drawn.question_start.shape[1]
    asked = int(stable_uniform("question", _SEED, group) * questions)
    tokens = drawn.tokens[index].tolist()
    numbers = drawn.question[index].tolist()
    begin = numbers.index(asked)
    answer = [t for t, number in zip(tokens, numbers, strict=True) if number == asked]
    definition = int(drawn.definition_start[index, asked])
    facts = {"distance_tokens": begin - definition, "prompt_tokens": begin}
    return {
        "id": f"{group}-q{asked:02d}",
        # Without <bos>, which the model puts before every text.
        "input": decode(tokens[1:begin]),
        "target": [decode(answer)],
        "depth": round(definition / begin, 4),
        "metadata": json.dumps(facts),
    }


def write(folder: Path) -> None:
    """Write one file for each task."""
    folder.mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        lines = (json.dumps(record) + "\n" for record in records(task))
        (folder / f"{task}.jsonl").write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """Write the validation sets that ship."""
    parser = argparse.ArgumentParser(
        prog="python -m canary.training.validation", description=main.__doc__
    )
    parser.add_argument("--out", type=Path, default=Path("replay/validation"))
    write(parser.parse_args().out)


if __name__ == "__main__":
    main()
