"""Quantities as people write them in a policy, each with its unit."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

_DURATION_S = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TOKENS = {"": 1, "k": 1024, "m": 1024 * 1024}


def _number_and_unit(value: Any, example: str) -> tuple[float, str]:  # noqa: ANN401 - any YAML scalar
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z%]*)\s*", value)
        if match:
            return float(match[1]), match[2]
    raise ValueError(f"expected a quantity with its unit, got {value!r}; write {example}")


def duration_s(value: Any) -> float:  # noqa: ANN401 - any YAML scalar
    """Read ``250ms``, ``30s``, ``15m``, ``24h`` or ``7d`` as seconds."""
    number, unit = _number_and_unit(value, "for example 250ms, 30s, 15m, 24h or 7d")
    if unit not in _DURATION_S:
        raise ValueError(f"unknown unit of time in {value!r}; write ms, s, m, h or d")
    return number * _DURATION_S[unit]


def share(value: Any) -> float:  # noqa: ANN401 - any YAML scalar
    """Read ``5%`` as 0.05."""
    number, unit = _number_and_unit(value, "for example 5%")
    if unit != "%" or not 0 <= number <= 100:
        raise ValueError(f"expected a share from 0% to 100%, got {value!r}")
    return number / 100


def tokens(value: Any) -> int:  # noqa: ANN401 - any YAML scalar
    """Read ``512``, ``8k`` (8,192) or ``1m`` as a number of tokens."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    number, unit = _number_and_unit(value, "for example 512 or 8k")
    if unit not in _TOKENS or number * _TOKENS[unit] % 1 or number <= 0:
        raise ValueError(f"expected a whole number of tokens, got {value!r}; write 8k")
    return int(number * _TOKENS[unit])


def factor(value: Any) -> float:  # noqa: ANN401 - any YAML scalar
    """Read ``4x`` as 4.0."""
    number, unit = _number_and_unit(value, "for example 1x or 4x")
    if unit != "x" or number <= 0:
        raise ValueError(f"expected a factor above 0x, got {value!r}; write 4x")
    return number


def percentile(value: Any) -> float:  # noqa: ANN401 - any YAML scalar
    """Read ``p50``, ``p99`` or ``p99.9`` as 0.5, 0.99 or 0.999."""
    match = re.fullmatch(r"p(\d{1,2}(?:\.\d+)?)", value) if isinstance(value, str) else None
    if not match or not 0 < float(match[1]) < 100:
        raise ValueError(f"expected a percentile, got {value!r}; write p50 or p99")
    return float(match[1]) / 100


DurationS = Annotated[float, BeforeValidator(duration_s)]
Share = Annotated[float, BeforeValidator(share)]
Tokens = Annotated[int, BeforeValidator(tokens)]
Factor = Annotated[float, BeforeValidator(factor)]
Percentile = Annotated[float, BeforeValidator(percentile)]
