"""Personal data out of prompts, by patterns: what they miss is missed.

The rules are few and checkable (check digits where there are any), and run on one piece
of text after the other so that a long prompt doesn't hold up what is served beside it.
A change of a rule is a new `RULES_VERSION`, which every recorded line names.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from canary.ingress.reasons import DroppedError, Reason

RULES_VERSION = 1

_PIECE_CHARACTERS = 2**14
_CUT = re.compile(r"\n|(?<=[a-z])(?<![Bb]earer) (?=[a-z])")

_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}-----|\Z)",
    re.DOTALL,
)
_API_KEY = re.compile(
    r"[sprghAxe](?<!\w\w)(?:(?<=[spr])k[-_][A-Za-z0-9_-]{16,}"
    r"|(?<=g)h[pousr]_[A-Za-z0-9]{20,}|(?<=g)ithub_pat_\w{22,}"
    r"|(?<=g)lpat-[\w-]{20,}|(?<=h)f_[A-Za-z0-9]{20,}"
    r"|(?<=A)(?:KIA|SIA)[0-9A-Z]{16}\b|(?<=A)Iza[\w-]{35}"
    r"|(?<=x)ox[abeoprs]-[A-Za-z0-9-]{10,}"
    r"|(?<=e)yJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*)"
)
_BEARER = re.compile(r"Bearer [A-Za-z0-9._~+/-]{16,}=*", re.IGNORECASE)
# Each begins only where no character of its own stands before it, and its parts are
# bounded: the time is linear in the text, whatever the text.
_MAIL = re.compile(
    r"(?<![\w.%+-])[\w.%+-]{1,254}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,63}(?![\w-])"
)
_IBAN = re.compile(
    r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?"
    r"(?![A-Za-z0-9])"
)
_CARD = re.compile(r"(?<![\w.])[0-9](?:[ -]?[0-9]){12,18}(?![\w])")
_PHONE = re.compile(
    r"(?<![\w.+-])(?:\+|\(?0)[0-9(][0-9 ()./-]{5,20}[0-9](?!\w)"
    r"|(?<![\w-])(?:\([0-9]{3}\) ?|[0-9]{3}[-. ])[0-9]{3}[-. ][0-9]{4}(?!\w)"
)
_IPV4 = re.compile(r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w]|\.[0-9])")


@dataclass(frozen=True, slots=True)
class Redacted:
    """A JSON value without what the rules found, and how many characters that took."""

    value: Any
    characters_before: int
    characters_after: int


def redact(value: object) -> Redacted:
    """Apply the rules to every text in a prompt or a list of messages.

    Raises:
        DroppedError: It carries what rules for text can't read: an image, a sound, a
            file (redaction).
    """
    before = after = 0

    def walk(inner: object) -> object:
        nonlocal before, after
        if isinstance(inner, str):
            clean = redact_text(inner)
            before, after = before + len(inner), after + len(clean)
            return clean
        if isinstance(inner, list):
            return [walk(item) for item in inner]
        if isinstance(inner, dict):
            _refuse_media(inner)
            return {redact_text(name): walk(item) for name, item in inner.items()}
        return inner

    clean = walk(value)
    return Redacted(clean, before, after)


def redact_text(text: str) -> str:
    """Return the text with ``[mail]``, ``[card]`` and so on where a rule matched."""
    text = _PRIVATE_KEY.sub("[key]", text)
    return "".join(map(_redact_piece, _pieces(text)))


def _redact_piece(piece: str) -> str:
    for pattern, word, found in _RULES:
        piece = pattern.sub(partial(_replaced, word=word, found=found), piece)
    return piece


def _replaced(match: re.Match[str], *, word: str, found: Callable[[str], int]) -> str:
    characters = found(match[0])
    return word + match[0][characters:] if characters else match[0]


def _pieces(text: str) -> Iterator[str]:
    """Cut about every 16,384 characters, where no rule reaches across."""
    start = 0
    while start < len(text):
        cut = _CUT.search(text, start + _PIECE_CHARACTERS)
        end = cut.end() if cut else len(text)
        yield text[start:end]
        start = end


def _refuse_media(part: dict[str, object]) -> None:
    kind = part.get("type")
    media = isinstance(kind, str) and kind.startswith(_MEDIA)
    if media or any(name.startswith(_MEDIA) for name in part):
        raise DroppedError(Reason.REDACTION)


_MEDIA = ("image", "input_image", "audio", "input_audio", "video", "file", "input_file")


def _longest(text: str, valid: Callable[[str], bool]) -> int:
    """Return how long the longest valid beginning is that ends where a group does.

    What follows a number may look like more of it: ``DE89 ... 00 PAID``.
    """
    ends = [m.end() for m in re.finditer(r"[A-Za-z0-9]+", text)]
    return next((end for end in reversed(ends) if valid(text[:end])), 0)


def _is_card(text: str) -> bool:
    """Check by Luhn's formula (ISO/IEC 7812-1, annex B)."""
    digits = [int(digit) for digit in text if digit in _DIGITS]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    valid = (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0
    return valid and len(digits) >= 13 and len(set(digits)) > 1


def _is_iban(text: str) -> bool:
    """Check by ISO 7064, modulo 97."""
    plain = text.replace(" ", "")
    number = "".join(str(int(symbol, 36)) for symbol in plain[4:] + plain[:4])
    return 15 <= len(plain) <= 34 and int(number) % 97 == 1


def _phone(text: str) -> int:
    return len(text) if 8 <= sum(map(_DIGITS.__contains__, text)) <= 15 else 0


def _ipv4(text: str) -> int:
    return len(text) if all(int(part) < 256 for part in text.split(".")) else 0


_DIGITS = frozenset("0123456789")

# In this order: a key may hold what looks like a number, a card a phone's number.
_RULES: tuple[tuple[re.Pattern[str], str, Callable[[str], int]], ...] = (
    (_API_KEY, "[key]", len),
    (_BEARER, "[key]", len),
    (_MAIL, "[mail]", len),
    (_IBAN, "[iban]", partial(_longest, valid=_is_iban)),
    (_CARD, "[card]", partial(_longest, valid=_is_card)),
    (_IPV4, "[ipv4]", _ipv4),
    (_PHONE, "[phone]", _phone),
)
