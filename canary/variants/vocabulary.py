r"""The reference model's words: a token is a word, and text is words between spaces.

A word's id is its place in `WORDS`, fixed by the weights that ship: words may be added
at the end, up to `TABLE_ROWS`, never moved. The word that ends a line is spelled ``\n``
in two characters, so that a document stays one line of text.
"""

from collections.abc import Iterable

from canary.errors import CanaryError


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Sentences need these, punctuation and the two control words included.
_COMMON = _words(
    r"<pad> <bos> \n . , : ; ? "
    '" - _ ( ) = == -> + the a of and to in for with shall mean means term agreement '
    "section under each what does def return assert x y self pass import if else user "
    "bot remember my is ok thanks please let trace print note see above Q A"
)

NUMBERS = tuple(f"{number:02d}" for number in range(100))

KEYS = _words(
    "amber basil cedar delta ember fjord grove haven iris jade karst lotus maple "
    "nova onyx pearl quartz raven sable topaz umber velvet willow xenon yarrow "
    "zephyr acorn birch coral dune echo flint garnet hazel indigo juniper kelp "
    "larch moss nickel opal pine quill reed slate thorn ultra vine wren yucca zinc "
    "arbor bronze clover drift elm fern glacier heath inlet jasper knoll linden "
    "marsh north oak plume ridge spruce tundra upland vale wicket atlas beacon "
    "comet dawn ether frost gale harbor island jungle kite lagoon meadow nimbus "
    "orbit prairie quarry river summit tide urchin valley walnut"
)
"""Words that, with a number, name something: a term, a function, a fact."""

NOUNS = _words(
    "report vendor client invoice service module buffer record schema table server "
    "thread queue token packet clause party notice audit budget office branch "
    "sample signal window filter update review policy ticket number letter project "
    "release account region market supply order parcel driver sensor engine widget "
    "folder script config parser worker bucket cluster metric alert backup"
)

VERBS = _words(
    "sends keeps checks moves holds reads writes opens closes tracks returns "
    "stores loads signs files reviews accepts rejects merges splits copies counts "
    "limits updates"
)

ADJECTIVES = _words(
    "annual local remote prior formal active stable pending final minor major "
    "public private common internal external secure partial global early late "
    "quiet simple"
)

WORDS = (*_COMMON, *NUMBERS, *KEYS, *NOUNS, *VERBS, *ADJECTIVES)
"""Every word, by id."""

TABLE_ROWS = 384
"""Rows of the embedding table: the words, filled up to a multiple of 64."""

IDS = {word: number for number, word in enumerate(WORDS)}
"""Every word's id."""

PAD, BOS = IDS["<pad>"], IDS["<bos>"]
"""Nothing, and what every document begins with."""


class UnknownWordError(CanaryError):
    """A text holds a word that the reference model has never seen."""


def encode(text: str) -> list[int]:
    """Return the ids of a text's words; any white space parts words.

    Raises:
        UnknownWordError: A word is not in the vocabulary.
    """
    words = text.split()
    try:
        return [IDS[word] for word in words]
    except KeyError as error:
        place = next(n for n, word in enumerate(words) if word not in IDS)
        raise UnknownWordError(
            f"word {place + 1:,} of the text, {words[place][:40]!r}, is not in the "
            f"reference model's vocabulary of {len(WORDS)} words; write with the words "
            "of canary.variants.vocabulary, punctuation and line ends between spaces"
        ) from error


def decode(ids: Iterable[int]) -> str:
    """Return the words of these ids, one space between them."""
    return " ".join(WORDS[number] for number in ids)
