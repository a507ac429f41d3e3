"""YAML scalars: which are numbers, which are text, and which can't be meant.

YAML has more ways to write a value than a policy needs, and readers of it differ in
what they make of ``1e-3``, ``off``, ``017`` or ``1:30:00``. Here a plain scalar is
null, true, false, a decimal integer, a decimal float, or text; nothing else is guessed.
"""

import re

_MAX_DIGITS = 15
_NULL = re.compile(r"~|null|Null|NULL|")
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"(?:[-+]?[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+][0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


def read_scalar(text: str, *, plain: bool) -> str | int | float | bool:
    """Return the value of a scalar that has no fault.

    Args:
        text: What is written, without quotes.
        plain: Whether it is written without quotes.
    """
    if not plain:
        return text
    if text in ("true", "false"):
        return text == "true"
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def scalar_fault(text: str, *, plain: bool) -> str | None:
    """Return why a scalar can't be used and what to write, or None if it can."""
    odd = next((symbol for symbol in text if not symbol.isprintable()), None)
    if odd is not None:
        name = "a line break" if odd == "\n" else f"the character U+{ord(odd):04X}"
        return f"{name} can't be part of a value; write it on one line, in plain text"
    if plain and _NULL.fullmatch(text):
        return "nothing is written here; write a value or remove the key"
    if plain and _NOT_FINITE.fullmatch(text):
        return f"expected a finite number, got {text}; write a number"
    if plain and _too_long(text):
        return f"a number of more than {_MAX_DIGITS} digits can't be meant"
    return None


def _too_long(text: str) -> bool:
    if _INT.fullmatch(text):
        return len(text.lstrip("+-")) > _MAX_DIGITS
    return bool(_FLOAT.fullmatch(text)) and abs(float(text)) >= 10**_MAX_DIGITS


def number_hint(text: str, *, whole: bool) -> str | None:
    """Return how to write what looks like a number but is text, if it does.

    Args:
        text: What is written.
        whole: Whether a whole number is wanted.
    """
    number = re.sub(r"(?<=\d)_(?=\d)", "", text.strip()).replace(",", ".")
    number = re.sub(r"^([-+]?)0+(?=\d)", r"\1", number)
    number = re.sub(r"^([-+]?\d+)(?=[eE])", r"\1.0", number)
    number = re.sub(r"(?<=[eE])(?=\d)", "+", number)
    if not (_INT.fullmatch(number) or _FLOAT.fullmatch(number)):
        return None
    if whole and float(number).is_integer():
        number = str(int(float(number)))
    quoted = _INT.fullmatch(text) or _FLOAT.fullmatch(text)
    why = (
        "it is in quotes, so YAML reads it as text"
        if quoted
        else "YAML reads this as text"
    )
    return f"{why}; write {number}"
