r"""The sentences that synthetic documents are made of, as text and as tables of ids.

A template is words between spaces. Words in capitals are slots: NAME, NAME2 and NAME3
are a key and its number, joined as the template shows (``KEY _ NUM``); VAL1 to VAL3 are
the three numbers of a value; NOUN, VERB, ADJ, ANYNUM and ANYKEY are drawn anew each
time. What stands between [ and ] is the answer.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from canary.variants.vocabulary import ADJECTIVES, IDS, KEYS, NOUNS, NUMBERS, PAD, VERBS


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The sentences of one kind of document.

    `link` is there where values are found by way of other names: it says that one name
    means what another means.
    """

    fillers: tuple[str, ...]
    definitions: tuple[str, ...]
    question: str
    link: str | None = None


FAMILIES = {
    "contracts": Family(
        fillers=(
            r"the NOUN VERB the ADJ NOUN under section ANYNUM . \n",
            r"each ADJ NOUN of the NOUN VERB a NOUN , and the NOUN VERB the NOUN . \n",
            r"section ANYNUM . ANYNUM : the party VERB the ADJ NOUN . \n",
            r"see ANYKEY - ANYNUM of the NOUN . \n",
            r"a NOUN shall mean the ADJ NOUN . \n",
        ),
        definitions=(
            r'" KEY - NUM " means VAL1 VAL2 VAL3 . \n',
            r'the term " KEY - NUM " shall mean VAL1 VAL2 VAL3 . \n',
        ),
        question=r'Q : what does " KEY - NUM " mean ? A : [ VAL1 VAL2 VAL3 ] . \n',
    ),
    "code": Family(
        fillers=(
            r"import NOUN _ NOUN \n",
            r"NOUN = NOUN + ANYNUM ; NOUN . NOUN ( ANYNUM ) \n",
            r"if NOUN == ANYNUM : pass else : NOUN ( x , y ) \n",
            r"self . NOUN _ VERB ( NOUN , ANYNUM ) \n",
            r"note : ANYKEY _ ANYNUM VERB the NOUN \n",
        ),
        definitions=(
            r"def KEY _ NUM ( ) : return VAL1 VAL2 VAL3 \n",
            r"def KEY _ NUM ( x , y ) : x = NOUN ; return VAL1 VAL2 VAL3 \n",
        ),
        question=r"assert KEY _ NUM ( ) == [ VAL1 VAL2 VAL3 ] \n",
    ),
    "chat": Family(
        fillers=(
            r"user : please note the NOUN VERB the ADJ NOUN . bot : ok . \n",
            r"user : the ADJ NOUN is ADJ . bot : thanks , the NOUN VERB . \n",
            r"bot : the NOUN with the NOUN VERB a NOUN in ANYNUM . \n",
            r"user : see the ANYKEY ANYNUM of my NOUN . \n",
        ),
        definitions=(
            r"user : remember my KEY NUM is VAL1 VAL2 VAL3 . bot : ok . \n",
            r"user : please remember : my KEY NUM is VAL1 VAL2 VAL3 . \n",
        ),
        question=r"user : what is my KEY NUM ? bot : [ VAL1 VAL2 VAL3 ] . \n",
    ),
    "hops": Family(
        fillers=(
            r"print ( NOUN + ANYNUM ) ; \n",
            r"let x = NOUN + ANYNUM ; \n",
            r"note : the NOUN VERB ANYKEY ANYNUM ; \n",
            r"if ( NOUN == NOUN ) print ( ADJ _ NOUN ) ; \n",
        ),
        definitions=(r"let KEY NUM = VAL1 VAL2 VAL3 ; \n",),
        link=r"let KEY NUM = KEY2 NUM2 ; \n",
        question=(
            r"trace KEY NUM -> "
            r"[ KEY2 NUM2 -> KEY3 NUM3 -> VAL1 VAL2 VAL3 ] ; \n"
        ),
    ),
}

TASKS = tuple(FAMILIES)

# Slots are negative ids: a line's own fields first, then what is drawn anew.
FIELDS = ("KEY", "NUM", "KEY2", "NUM2", "KEY3", "NUM3", "VAL1", "VAL2", "VAL3")
DRAWN = {
    "NOUN": NOUNS,
    "VERB": VERBS,
    "ADJ": ADJECTIVES,
    "ANYNUM": NUMBERS,
    "ANYKEY": KEYS,
}
_SLOTS = {word: -1 - n for n, word in enumerate((*FIELDS, *DRAWN))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The neighbouring rows of one kind of line, and their shortest and longest."""

    first: int
    number: int
    shortest_tokens: int
    longest_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LineTable:
    """All templates of one family as rows.

    Attributes:
        words: (rows, width) ids; negative for slots, PAD behind the end.
        is_answer: (rows, width) bool.
        lengths: (rows,) words in each row.
        rows: Where lines of each kind are: filler, definition, question, link if any.
    """

    words: Tensor
    is_answer: Tensor
    lengths: Tensor
    rows: dict[str, Rows]


def line_table(family: Family, device: torch.device) -> LineTable:
    """Return the family's templates as tables on a device."""
    kinds = {
        "filler": family.fillers,
        "definition": family.definitions,
        "question": (family.question,),
    }
    if family.link:
        kinds["link"] = (family.link,)
    rows: dict[str, Rows] = {}
    lines: list[tuple[list[int], list[bool]]] = []
    for kind, texts in kinds.items():
        found = [_line(text) for text in texts]
        sizes = [len(ids) for ids, _ in found]
        rows[kind] = Rows(
            first=len(lines),
            number=len(found),
            shortest_tokens=min(sizes),
            longest_tokens=max(sizes),
        )
        lines += found
    width = max(len(ids) for ids, _ in lines)
    words = [ids + [PAD] * (width - len(ids)) for ids, _ in lines]
    marks = [answer + [False] * (width - len(answer)) for _, answer in lines]
    return LineTable(
        words=torch.tensor(words, device=device),
        is_answer=torch.tensor(marks, device=device),
        lengths=torch.tensor([len(ids) for ids, _ in lines], device=device),
        rows=rows,
    )


def _line(text: str) -> tuple[list[int], list[bool]]:
    ids: list[int] = []
    marks: list[bool] = []
    inside = False
    for word in text.split():
        if word in "[]":
            inside = word == "["
            continue
        ids.append(_SLOTS[word] if word in _SLOTS else IDS[word])
        marks.append(inside)
    return ids, marks
