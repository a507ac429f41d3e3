import pytest

from canary.errors import CanaryError
from canary.variants.vocabulary import TABLE_ROWS, WORDS, decode, encode


def test_words_fit_the_table_and_differ():
    """Each word has one id, and each id a row of the embedding table."""
    assert len(WORDS) == len(set(WORDS))
    assert len(WORDS) <= TABLE_ROWS


def test_text_survives_encoding():
    """Decoding what was encoded gives the text back, spaces made single."""
    text = "  def amber _ 07 ( ) :\n return 01 02   03 \\n "

    assert "def amber _ 07 ( ) : return 01 02 03 \\n" == decode(encode(text))


def test_every_word_is_read_as_itself():
    """Each word's id is its place in the list, which the weights rely on."""
    assert list(range(len(WORDS))) == encode(" ".join(WORDS))


def test_an_unknown_word_is_named_with_its_place():
    """A text with a word outside the vocabulary is refused, not read approximately."""
    with pytest.raises(CanaryError, match=r"word 3 of the text, 'sesquipedalian'"):
        encode("the clause sesquipedalian of the party")
