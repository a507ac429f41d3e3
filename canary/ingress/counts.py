"""What an ingress counts, and how Prometheus reads it.

Counters start at zero with the process, as Prometheus expects. The handler and the
threads behind it count into the same value, under its lock.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from threading import Lock

from canary.ingress.reasons import LOSSES, Reason
from canary.ingress.settings import REGIMES, UNKNOWN

KIB, MIB = 2**10, 2**20

BODY_EDGES_BYTES = (
    *(KIB, 4 * KIB, 16 * KIB, 64 * KIB, 128 * KIB, 256 * KIB, 512 * KIB),
    *(MIB, 2 * MIB, 4 * MIB, 8 * MIB, 16 * MIB),
)
"""Upper edges, each counted in; octaves where proxies' limits lie."""

ANSWER_EDGES_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0)


class Histogram:
    """How many values lie between fixed edges, and their sum."""

    def __init__(self, edges: tuple[float, ...]) -> None:
        self.edges = edges
        self.counts = [0] * (len(edges) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count one value; one that equals an edge lies below it."""
        self.counts[bisect_left(self.edges, value)] += 1
        self.total += value

    def lines(self, name: str) -> Iterator[str]:
        """Yield it in Prometheus's text format: counts up to each edge."""
        below = 0
        for edge, count in zip((*self.edges, "+Inf"), self.counts, strict=True):
            below += count
            yield f'{name}_bucket{{le="{edge}"}} {below}'
        yield f"{name}_sum {self.total!r}"
        yield f"{name}_count {below}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """What arrived until now: what the audit weighs, and tests add up.

    `by_regime` holds requests that were recorded or dropped, by the length of their
    prompts; `lost` those among them that the length or the load cost (`LOSSES`).
    """

    bodies: tuple[int, ...]
    by_regime: dict[str, int]
    lost: dict[str, int]
    too_large: int


@dataclass(slots=True)
class Counts:
    """All counters of one ingress."""

    received: int = 0
    lines: int = 0
    spooled: Counter[str] = field(default_factory=Counter)
    dropped: Counter[tuple[Reason, str]] = field(default_factory=Counter)
    body_bytes: Histogram = field(default_factory=lambda: Histogram(BODY_EDGES_BYTES))
    answer_s: Histogram = field(default_factory=lambda: Histogram(ANSWER_EDGES_S))
    _lock: Lock = field(default_factory=Lock)

    def receive(self) -> None:
        """Count a request whose header is there."""
        with self._lock:
            self.received += 1

    def measure_body(self, size_bytes: int) -> None:
        """Count a body by its size on the wire."""
        with self._lock:
            self.body_bytes.add(size_bytes)

    def answer(self, seconds: float) -> None:
        """Count an answer by the time from the body's end to it."""
        with self._lock:
            self.answer_s.add(seconds)

    def spool(self, regime: str, lines: int) -> None:
        """Count a recorded request and the lines that it is."""
        with self._lock:
            self.spooled[regime] += 1
            self.lines += lines

    def drop(self, reason: Reason, regime: str = UNKNOWN) -> None:
        """Count a request that isn't recorded."""
        with self._lock:
            self.dropped[reason, regime] += 1

    def arrived(self) -> Arrived:
        """Return what the audit needs, all of one moment."""
        with self._lock:
            by_regime = Counter(self.spooled)
            lost: Counter[str] = Counter()
            for (reason, regime), count in self.dropped.items():
                if reason is not Reason.SELFTEST:
                    by_regime[regime] += count
                if reason in LOSSES:
                    lost[regime] += count
            too_large = sum(
                count
                for (reason, _), count in self.dropped.items()
                if reason is Reason.TOO_LARGE
            )
            return Arrived(
                bodies=tuple(self.body_bytes.counts),
                by_regime={name: by_regime[name] for name in REGIMES},
                lost={name: lost[name] for name in REGIMES},
                too_large=too_large,
            )

    def lines_for_prometheus(self) -> Iterator[str]:
        """Yield the counters in Prometheus's text format."""
        with self._lock:
            yield from _family("received_total", "counter", [("", self.received)])
            yield from _family("lines_total", "counter", [("", self.lines)])
            yield from _family(
                "spooled_total",
                "counter",
                [(f'{{regime="{name}"}}', self.spooled[name]) for name in REGIMES],
            )
            yield from _family(
                "dropped_total",
                "counter",
                [
                    (f'{{reason="{reason}",regime="{regime}"}}', count)
                    for (reason, regime), count in sorted(self.dropped.items())
                ],
            )
            yield f"# TYPE {PREFIX}body_bytes histogram"
            yield from self.body_bytes.lines(f"{PREFIX}body_bytes")
            yield f"# TYPE {PREFIX}answer_seconds histogram"
            yield from self.answer_s.lines(f"{PREFIX}answer_seconds")


PREFIX = "canary_ingress_"


def gauges(values: dict[str, float]) -> Iterator[str]:
    """Yield gauges in Prometheus's text format."""
    for name, value in values.items():
        yield from _family(name, "gauge", [("", value)])


def _family(
    name: str, kind: str, samples: Iterable[tuple[str, float]]
) -> Iterator[str]:
    yield f"# TYPE {PREFIX}{name} {kind}"
    for labels, value in samples:
        yield f"{PREFIX}{name}{labels} {value}"
