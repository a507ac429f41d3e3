"""What an ingress is told, as one value, and the reading of its options."""

import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from canary.errors import UsageError
from canary.policy.model import DEFAULT_REGIMES_TOKENS, regime_names
from canary.policy.units import positive_duration_s, share, tokens

REGIMES = regime_names(DEFAULT_REGIMES_TOKENS)
"""Prompt lengths that are counted and sampled apart: ``<8k`` to ``>=128k`` tokens."""

UNKNOWN = "unknown"
"""The regime of a request that was dropped before anybody could tell its length."""

CHARACTERS_PER_TOKEN = 4
"""The usual estimate for English; where it was used, a line says so."""

MAX_TOKENS = 2**24
"""More than any model reads: a longer declaration is broken, not long."""

_SIZES_BYTES = {"KiB": 2**10, "MiB": 2**20}
_Value = TypeVar("_Value")


class Capture(StrEnum):
    """How much of a request reaches the disk."""

    LENGTHS = "lengths"
    REDACTED = "redacted"
    FULL = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All that an ingress needs to know.

    `spool` is a folder or an fsspec URL; a URL needs `staging`, the local folder where
    files are written before they are uploaded whole. `sample` holds a share for each of
    `REGIMES`; `expected` the declared share of primary traffic for some of them.
    `queue_tokens` bounds the bodies held in memory, at four bytes a token.
    """

    spool: str
    staging: Path | None = None
    capture: Capture = Capture.LENGTHS
    max_body_bytes: int = 8 * 2**20
    queue_requests: int = 1024
    queue_tokens: int = 32 * 2**20
    sample: tuple[float, ...] = (1.0,) * len(REGIMES)
    expected: dict[str, float] = field(default_factory=dict)
    retention_s: float = 30 * 86400.0
    roll_s: float = 3600.0
    read_deadline_s: float = 5.0
    token: bytes | None = field(default=None, repr=False)
    hash_key: bytes | None = field(default=None, repr=False)
    kill_switch: Path | None = None

    @property
    def folder(self) -> Path:
        """Where lines are written first."""
        return Path(self.spool) if self.staging is None else self.staging


def regime_of(length_tokens: int) -> str:
    """Return the name of the regime that a prompt of that length belongs to."""
    return REGIMES[bisect_right(DEFAULT_REGIMES_TOKENS, length_tokens)]


def size_bytes(text: str) -> int:
    """Read ``512KiB`` or ``8MiB`` as a number of bytes.

    Raises:
        ValueError: Anything else, and nothing at all.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,5}) ?(KiB|MiB)", text)
    if match is None:
        raise ValueError(
            f"expected a size with its unit, got {text!r}; "
            "write for example 512KiB or 8MiB"
        )
    return int(match[1]) * _SIZES_BYTES[match[2]]


def sample_shares(text: str) -> tuple[float, ...]:
    """Read ``100%`` or ``<8k=5%,rest=100%`` as a share for each of `REGIMES`.

    Raises:
        ValueError: An unknown regime, a share that is none, or a regime without one.
    """
    if "=" not in text:
        return (share(text),) * len(REGIMES)
    named = regime_shares(text, rest=True)
    missing = [name for name in REGIMES if name not in named and "rest" not in named]
    if missing:
        raise ValueError(f"{missing[0]} has no share; add rest=100%")
    return tuple(named.get(name, named.get("rest", 1.0)) for name in REGIMES)


def regime_shares(text: str, *, rest: bool = False) -> dict[str, float]:
    """Read ``8k-32k=12%,32k-128k=3%``, or nothing.

    `rest` names all other regimes, where it is allowed.

    Raises:
        ValueError: An unknown regime, one that stands twice, or a share that is none.
    """
    allowed = (*REGIMES, "rest") if rest else REGIMES
    shares: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, _, value = (piece.strip() for piece in part.rpartition("="))
        if name not in allowed:
            raise ValueError(
                f"{name or part!r} is no regime; write one of {', '.join(allowed)}, "
                "each with =SHARE"
            )
        if name in shares:
            raise ValueError(f"{name} stands twice; give it one share")
        shares[name] = share(value)
    return shares


def read_settings(
    *,
    spool: str,
    staging: Path | None,
    capture: str,
    max_body: str,
    queue_requests: int,
    queue_tokens: str,
    sample: str,
    expected: str,
    retention: str,
    roll: str,
    read_deadline: str,
    token: bytes | None,
    hash_key: bytes | None,
    kill_switch: Path | None,
) -> Settings:
    """Return settings from options as people write them.

    Raises:
        UsageError: One can't be read; the sentence begins with the option's name.
    """
    return Settings(
        spool=spool,
        staging=staging,
        capture=_option("--capture", capture, _capture),
        max_body_bytes=_option("--max-body", max_body, size_bytes),
        queue_requests=queue_requests,
        queue_tokens=_option("--queue-tokens", queue_tokens, tokens),
        sample=_option("--sample", sample, sample_shares),
        expected=_option("--expected", expected, regime_shares),
        retention_s=_option("--retention", retention, positive_duration_s),
        roll_s=_option("--roll", roll, positive_duration_s),
        read_deadline_s=_option("--read-deadline", read_deadline, positive_duration_s),
        token=token,
        hash_key=hash_key,
        kill_switch=kill_switch,
    )


def _option(name: str, text: str, read: Callable[[str], _Value]) -> _Value:
    try:
        return read(text)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from error


def _capture(text: str) -> Capture:
    if text not in set(Capture):
        raise ValueError(f"expected {', '.join(Capture)}; got {text!r}")
    return Capture(text)
