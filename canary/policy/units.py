"""Quantities as people write them in a policy, each with its unit.

Each pattern is what the parser reads and what the JSON Schema shows to an editor.
Dumped as JSON, a quantity becomes text again, so that a dumped policy can be loaded.
"""

import re
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

# Nine digits hold every quantity that makes sense and keep all of them finite.
_NUMBER = r"([0-9]{1,9}(?:\.[0-9]{1,3})?) ?"
DURATION_PATTERN = rf"^{_NUMBER}(ms|s|m|h|d)$"
SHARE_PATTERN = r"^(100(?:\.0{1,6})?|[0-9]{1,2}(?:\.[0-9]{1,6})?) ?(%)$"
TOKENS_PATTERN = rf"^{_NUMBER}(k|m|)$"
RATE_PATTERN = rf"^{_NUMBER}(/s|/min|/h)$"
FACTOR_PATTERN = rf"^{_NUMBER}(x)$"
PERCENTILE_PATTERN = r"^p([0-9]{1,2}(?:\.[0-9]{1,6})?)$"

BASE_BLOCK_S = 10.0
"""Every block of time is a whole multiple of this."""

LONGEST_S = 3650 * 86400.0
"""No duration is longer than this."""

_DURATION_S = {"ms": "0.001", "s": "1", "m": "60", "h": "3600", "d": "86400"}
_RATE_S = {"/s": 1, "/min": 60, "/h": 3600}
_TOKENS = {"": 1, "k": 1024, "m": 1024 * 1024}


def shown(value: object) -> str:
    """Return a YAML value as an error message quotes it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _number_and_unit(value: object, pattern: str) -> tuple[Decimal, str] | None:
    match = re.fullmatch(pattern, value) if isinstance(value, str) else None
    return (Decimal(match[1]), match[2]) if match else None


def duration_s(value: object) -> float:
    """Read ``250ms``, ``30s``, ``15m``, ``24h`` or ``7d`` as seconds."""
    read = _number_and_unit(value, DURATION_PATTERN)
    if read is None:
        raise ValueError(
            f"expected a duration with its unit, got {shown(value)}; "
            "write for example 250ms, 30s, 15m, 24h or 7d"
        )
    seconds = read[0] * Decimal(_DURATION_S[read[1]])
    if seconds > LONGEST_S:
        raise ValueError(f"expected at most 3650d, got {shown(value)}")
    return float(seconds)


def positive_duration_s(value: object) -> float:
    """Read a duration as `duration_s` does, but not 0s."""
    seconds = duration_s(value)
    if seconds == 0:
        raise ValueError(f"expected a duration above zero, got {shown(value)}")
    return seconds


def block(value: object) -> str | float:
    """Read ``auto`` and ``request`` as they are, ``5m`` as 300.0 seconds.

    Raises:
        ValueError: Anything else, and a duration that isn't a multiple of 10 s.
    """
    if value in ("auto", "request"):
        return str(value)
    if _number_and_unit(value, DURATION_PATTERN) is None:
        raise ValueError(
            f"expected auto, request or a duration with its unit, got {shown(value)}; "
            "write for example 5m"
        )
    seconds = duration_s(value)
    below_s = seconds - seconds % BASE_BLOCK_S
    if seconds != below_s or not seconds:
        nearest = [below_s, below_s + BASE_BLOCK_S]
        choices = " or ".join(duration_text(choice) for choice in nearest if choice)
        raise ValueError(
            f"expected a multiple of {duration_text(BASE_BLOCK_S)}, "
            f"got {shown(value)}; write {choices}"
        )
    return seconds


def block_text(value: str | float) -> str:
    """Return what a policy writes for a block."""
    return value if isinstance(value, str) else duration_text(value)


def share(value: object) -> float:
    """Read ``5%`` as 0.05."""
    read = _number_and_unit(value, SHARE_PATTERN)
    if read is None:
        raise ValueError(
            f"expected a share from 0% to 100%, got {shown(value)}; "
            f"write for example {_as_share(value)}"
        )
    return float(read[0] / 100)


def share_or_off(value: object) -> float:
    """Read ``10%`` as 0.1 and ``off`` as 0.

    Raises:
        ValueError: Anything else.
    """
    if value == "off":
        return 0.0
    try:
        return share(value)
    except ValueError as error:
        raise ValueError(f"{error}, or off") from error


def _as_share(value: object) -> str:
    if isinstance(value, float) and 0 < value < 1:
        return f"{value * 100:g}%"
    return f"{value}%" if _is_number(value, up_to=100) else "5%"


def _is_number(value: object, *, up_to: float) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return 0 < value <= up_to


def tokens(value: object) -> int:
    """Read ``512``, ``8k`` (8,192) or ``1m`` as a number of tokens."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    read = _number_and_unit(value, TOKENS_PATTERN)
    number = read[0] * _TOKENS[read[1]] if read else Decimal(0)
    if number <= 0 or number % 1:
        raise ValueError(
            f"expected a whole number of tokens above zero, got {shown(value)}; "
            "write for example 512 or 8k"
        )
    return int(number)


def factor(value: object) -> float:
    """Read ``4x`` as 4.0."""
    read = _number_and_unit(value, FACTOR_PATTERN)
    if read is None or read[0] <= 0:
        raise ValueError(
            f"expected a factor above 0x, got {shown(value)}; "
            f"write for example {f'{value}x' if _is_number(value, up_to=1e6) else '4x'}"
        )
    return float(read[0])


def rate_rps(value: object) -> float:
    """Read ``2/s``, ``30/min`` or ``500/h`` as requests per second."""
    read = _number_and_unit(value, RATE_PATTERN)
    if read is None or read[0] <= 0:
        raise ValueError(
            f"expected a rate above 0, got {shown(value)}; "
            f"write for example {value if _is_number(value, up_to=1e6) else 2}/s"
        )
    return float(read[0] / _RATE_S[read[1]])


def percentile(value: object) -> float:
    """Read ``p50``, ``p99`` or ``p99.9`` as 0.5, 0.99 or 0.999."""
    match = re.fullmatch(PERCENTILE_PATTERN, value) if isinstance(value, str) else None
    if not match or Decimal(match[1]) <= 0:
        raise ValueError(
            f"expected a percentile, got {shown(value)}; write for example "
            f"{f'p{value}' if _is_number(value, up_to=99.99) else 'p50 or p99'}"
        )
    return float(Decimal(match[1]) / 100)


def duration_text(seconds: float) -> str:
    """Return a duration as a policy writes it, in its largest whole unit."""
    exact = Decimal(repr(seconds))
    for unit in ("d", "h", "m", "s"):
        number = exact / Decimal(_DURATION_S[unit])
        if number >= 1 and number % 1 == 0:
            return f"{number:.0f}{unit}"
    if exact >= 1 and exact * 1000 % 1 == 0:
        return f"{_digits(exact)}s"
    return f"{_digits(exact * 1000)}ms" if seconds else "0s"


def _digits(number: Decimal) -> str:
    return f"{number.normalize():f}"


def share_text(value: float) -> str:
    """Return a share as a policy writes it."""
    return f"{_digits(Decimal(repr(value)) * 100)}%"


def tokens_text(value: int) -> str:
    """Return a number of tokens as a policy and the name of a regime write it."""
    return f"{value // 1024}k" if value % 1024 == 0 else str(value)


def factor_text(value: float) -> str:
    """Return a factor as a policy writes it."""
    return f"{_digits(Decimal(repr(value)))}x"


def rate_text(value: float) -> str:
    """Return a rate as a policy writes it."""
    for unit, seconds in _RATE_S.items():
        number = round(value * seconds, 3)
        if number and rate_rps(text := f"{number:.10g}{unit}") == value:
            return text
    return f"{value:.3g}/s"


def percentile_text(value: float) -> str:
    """Return a percentile as a policy writes it."""
    return f"p{_digits(Decimal(repr(value)) * 100)}"


def _string(pattern: str, *examples: str) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern, "examples": list(examples)}


_WRITTEN_DURATION = PlainSerializer(duration_text, when_used="json")
_DURATION_SCHEMA = WithJsonSchema(_string(DURATION_PATTERN, "250ms", "15m", "24h"))
DurationS = Annotated[
    float, BeforeValidator(duration_s), _WRITTEN_DURATION, _DURATION_SCHEMA
]
PositiveDurationS = Annotated[
    float, BeforeValidator(positive_duration_s), _WRITTEN_DURATION, _DURATION_SCHEMA
]
Block = Annotated[
    Literal["auto", "request"] | float,
    BeforeValidator(block),
    PlainSerializer(block_text, when_used="json"),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": ["auto", "request"]},
                _string(DURATION_PATTERN, "1m", "10m"),
            ]
        }
    ),
]
Share = Annotated[
    float,
    BeforeValidator(share),
    PlainSerializer(share_text, when_used="json"),
    WithJsonSchema(_string(SHARE_PATTERN, "1%", "5%")),
]
ShareOrOff = Annotated[
    float,
    BeforeValidator(share_or_off),
    PlainSerializer(
        lambda value: share_text(value) if value else "off", when_used="json"
    ),
    WithJsonSchema({"anyOf": [{"const": "off"}, _string(SHARE_PATTERN, "10%")]}),
]
_TOKENS_SCHEMA = {
    "anyOf": [{"type": "integer", "minimum": 1}, _string(TOKENS_PATTERN, "512", "8k")]
}
Tokens = Annotated[
    int,
    BeforeValidator(tokens),
    PlainSerializer(tokens_text, when_used="json"),
    WithJsonSchema(_TOKENS_SCHEMA),
]
Factor = Annotated[
    float,
    BeforeValidator(factor),
    PlainSerializer(factor_text, when_used="json"),
    WithJsonSchema(_string(FACTOR_PATTERN, "1x", "4x")),
]
RateRps = Annotated[
    float,
    BeforeValidator(rate_rps),
    PlainSerializer(rate_text, when_used="json"),
    WithJsonSchema(_string(RATE_PATTERN, "2/s", "30/min")),
]
Percentile = Annotated[
    float,
    BeforeValidator(percentile),
    PlainSerializer(percentile_text, when_used="json"),
    WithJsonSchema(_string(PERCENTILE_PATTERN, "p50", "p99", "p99.9")),
]
