"""Are long prompts missing? Proxies drop large copies without a word.

NGINX refuses bodies over `client_max_body_size` (1 MiB unless set), Envoy doesn't
mirror those over its listener's buffer (1 MiB unless set). Either cuts the tail off the
distribution of body sizes at a round number; this looks for the cut, for a regime that
is much rarer than in declared primary traffic, and for what this ingress itself lost.
A pure function of counts: the same counts give the same sentences.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from canary.errors import UsageError
from canary.ingress.counts import BODY_EDGES_BYTES, KIB, MIB, Arrived

SCHEMA: Literal["canary.ingress-audit/1"] = "canary.ingress-audit/1"


class Finding(BaseModel):
    """What one process found, and from when to when it was there to find it."""

    model_config = ConfigDict(frozen=True)

    since_unix_s: float
    until_unix_s: float
    because: tuple[str, ...]


class Audit(BaseModel):
    """``audit.json``: whether any traffic that is still in the spool is biased.

    `findings` of earlier processes hold for the files that those wrote, and stay for as
    long as these do. The counts are the last process's.
    """

    model_config = ConfigDict(frozen=True)

    schema_: Literal["canary.ingress-audit/1"] = Field(default=SCHEMA, alias="schema")
    biased: bool
    because: tuple[str, ...]
    findings: tuple[Finding, ...]
    body_bytes: dict[str, int]
    requests: dict[str, int]
    lost: dict[str, int]

    def to_json(self) -> str:
        """Return it as the file holds it."""
        return self.model_dump_json(indent=2, by_alias=True) + "\n"


_SURPRISE = 1e-4
"""Chance below which so few large bodies are no accident."""

_EXPECTED_AT_LEAST = 50.0
_LOST_SHARE = 0.01
_LOST_AT_LEAST = 10


def biases(arrived: Arrived, expected: Mapping[str, float]) -> tuple[str, ...]:
    """Return a sentence for each way in which long prompts are missing.

    Args:
        arrived: What this process counted.
        expected: The declared share of primary traffic of some regimes.
    """
    return (
        *_cliffs(arrived.bodies),
        *_rarer(arrived.by_regime, expected),
        *_lost(arrived),
    )


def _cliffs(bodies: tuple[int, ...]) -> Iterator[str]:
    """Yield a sentence where the sizes end at an edge too sharply to be a tail.

    From octave to octave the counts of a tail fall, at most ever faster. If they fell
    by r to the last octave below the edge, at least r**3 of that is expected above it,
    and Poisson's law says how surprising it is to see none.
    """
    counted = dict(zip(BODY_EDGES_BYTES, bodies, strict=False))
    for edge in (512 * KIB, MIB, 2 * MIB, 4 * MIB):
        below, before = counted[edge], counted[edge // 2]
        above = sum(bodies) - sum(n for e, n in counted.items() if e <= edge)
        fell = min(1.0, below / before) if before else 1.0
        if above == 0 and below and math.exp(-below * fell**3) < _SURPRISE:
            yield (
                f"{below} bodies lie between {_size(edge // 2)} and {_size(edge)} and "
                f"none above: a limit on the way cuts there; raise NGINX's "
                "client_max_body_size or Envoy's per_connection_buffer_limit_bytes"
            )
            return


def _rarer(
    by_regime: Mapping[str, int], expected: Mapping[str, float]
) -> Iterator[str]:
    total = sum(by_regime.values())
    for name, share in expected.items():
        seen = by_regime[name]
        if total * share >= _EXPECTED_AT_LEAST and seen < total * share / 2:
            yield (
                f"{name}: {seen / total:.2%} of what arrived, {share:.2%} of primary "
                "traffic by --expected: long prompts are lost on the way here"
            )


def _lost(arrived: Arrived) -> Iterator[str]:
    """Yield a sentence for what was lost here, by length or by load."""
    if arrived.too_large >= _LOST_AT_LEAST:
        yield f"{arrived.too_large} bodies were over --max-body and dropped; raise it"
    for name, count in arrived.lost.items():
        total = arrived.by_regime[name]
        if count >= _LOST_AT_LEAST and count > _LOST_SHARE * total:
            yield (
                f"{name}: {count} of {total} requests were lost here; "
                "dropped_total in /metrics says by what"
            )


def audit(findings: Iterable[Finding], arrived: Arrived) -> "Audit":
    """Return the audit of a spool whose processes, up to now, found `findings`."""
    found = tuple(findings)
    sizes = dict(zip(map(_size, BODY_EDGES_BYTES), arrived.bodies, strict=False))
    return Audit(
        biased=bool(found),
        because=tuple(dict.fromkeys(why for one in found for why in one.because)),
        findings=found,
        body_bytes=sizes | {"more": arrived.bodies[-1]},
        requests=arrived.by_regime,
        lost=arrived.lost,
    )


def read_audit(text: str, *, where: str) -> "Audit":
    """Read an audit that an ingress wrote.

    Raises:
        UsageError: It is none.
    """
    try:
        return Audit.model_validate_json(text)
    except ValueError as error:
        raise UsageError(
            f"{where}: no audit can be read from it; remove it if the files beside it "
            "are known to be unbiased"
        ) from error


def _size(size_bytes: int) -> str:
    whole = size_bytes // MIB if size_bytes % MIB == 0 else size_bytes // KIB
    return f"{whole} {'MiB' if size_bytes % MIB == 0 else 'KiB'}"
