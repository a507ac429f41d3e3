"""What a verdict's validity rests on, counted per base block of time."""

from dataclasses import dataclass, field

import numpy as np

from canary.evidence.blocks import Ints, block_of
from canary.evidence.pairs import Floats, Pairs, Side
from canary.evidence.strands import Rows, Strand
from canary.policy.model import Policy, regime_names

_COMPARED = ("score", "ttft_s", "latency_s", "service_s")
_MICROSECONDS = 1_000_000
_NEVER_US = np.iinfo(np.int64).max
_EXTREMES = {
    "first_us": (np.minimum, _NEVER_US),
    "last_us": (np.maximum, -_NEVER_US),
}


@dataclass(slots=True)
class Books:
    """Totals up to a look.

    `lagged` counts pairs whose sending was timed, and `late` those of them of which one
    was sent later than `Policy.send_lag_limit_s`. `unmeasured` counts answered requests
    of which the other arm has a score or a time and this one none, per kind of value
    and arm.
    """

    regimes: tuple[str, ...]
    pairs: int = 0
    void: int = 0
    missing: Ints = field(default_factory=lambda: np.zeros(2, np.int64))
    unmeasured: Ints = field(
        default_factory=lambda: np.zeros((len(_COMPARED), 2), np.int64)
    )
    by_regime: dict[str, int] = field(default_factory=dict)
    quality: int = 0
    asked: int = 0
    busy_us: int = 0
    lagged: int = 0
    late: int = 0
    first_us: int | None = None
    last_us: int | None = None

    def take(self, strand: Strand, closed: int | None) -> None:
        """Add up what a strand has of all base blocks before `closed`."""
        rows = strand.take(closed)
        if rows is None:
            return
        total = {name: column.sum(axis=0) for name, column in rows.items()}
        self.pairs += int(total["pairs"])
        self.quality += int(total["quality"])
        self.void += int(total["void"])
        self.missing += total["missing"]
        self.unmeasured += total["unmeasured"]
        self.asked += int(total["asked"])
        self.busy_us += int(total["busy_us"])
        self.lagged += int(total["lagged"])
        self.late += int(total["late"])
        for name, count in zip(self.regimes, total["regimes"], strict=True):
            self.by_regime[name] = self.by_regime.get(name, 0) + int(count)
        asked = rows["asked"] > 0
        if asked.any():
            first, last = int(rows["first_us"][asked].min()), int(rows["last_us"].max())
            self.first_us = first if self.first_us is None else self.first_us
            self.first_us = min(self.first_us, first)
            self.last_us = last if self.last_us is None else max(self.last_us, last)

    @property
    def lost(self) -> tuple[int, int]:
        """What is missing of each arm: answers, and the kind of value missing most."""
        baseline, candidate = self.missing + self.unmeasured.max(axis=0)
        return int(baseline), int(candidate)

    @property
    def offered(self) -> int:
        """All requests that a pair could have come of."""
        return self.pairs + self.void + int(self.missing.sum())

    def baseline_load(self, queues: int) -> float | None:
        """Return the baseline's busy share of the time; None if unknown.

        Its service times but for the mean of one, over the time from the first to the
        last arrival: what of the last request is left lies beyond. Where several copies
        of it share the traffic each has a queue of its own.
        """
        if self.asked < 2 or not self.busy_us:
            return None
        if self.first_us is None or self.last_us is None:
            return None
        span_us = self.last_us - self.first_us
        busy_us = self.busy_us * (1 - 1 / self.asked)
        return busy_us / span_us / queues if span_us > 0 else None


def book_rows(policy: Policy, pairs: Pairs, length_s: float) -> Rows:
    """Return what the books count, a row per base block of arrival."""
    stamps = {
        "pairs": pairs.arrived_s,
        "void": pairs.void_arrived_s,
        "baseline": pairs.missing_baseline_s,
        "candidate": pairs.missing_candidate_s,
        "asked": pairs.baseline_arrived_s,
    }
    blocks = {name: block_of(at, length_s) for name, at in stamps.items()}
    found = np.unique(np.concatenate(list(blocks.values())))
    index = {name: np.searchsorted(found, some) for name, some in blocks.items()}
    size, own = len(found), index["pairs"]

    def count(name: str) -> Ints:
        return np.bincount(index[name], minlength=size)

    regime = np.searchsorted(policy.regimes, pairs.prompt_tokens, side="right")
    names = regime_names(policy.regimes)
    return {
        "block": found,
        "pairs": count("pairs"),
        "quality": np.bincount(own[pairs.quality], minlength=size),
        "regimes": np.bincount(
            own * len(names) + regime, minlength=size * len(names)
        ).reshape(size, len(names)),
        "void": count("void"),
        "missing": np.column_stack([count("baseline"), count("candidate")]),
        "unmeasured": _unmeasured(pairs, own, size),
        "asked": count("asked"),
        **_lags(policy, pairs, own, size),
        **_busy(policy, pairs, index["asked"], size),
    }


def summed(rows: Rows) -> Rows:
    """Return one row per base block, whatever shards it was counted on."""
    found, index = np.unique(rows["block"], return_inverse=True)
    whole: Rows = {"block": np.asarray(found, np.int64)}
    for name, column in rows.items():
        if name == "block":
            continue
        total = np.zeros((len(found), *column.shape[1:]), np.int64)
        if name in _EXTREMES:
            total += _EXTREMES[name][1]
            _EXTREMES[name][0].at(total, index, column)
        else:
            np.add.at(total, index, column)
        whole[name] = total
    return whole


def _lags(policy: Policy, pairs: Pairs, own: Ints, size: int) -> Rows:
    lag_s = np.fmax(pairs.baseline.send_lag_s, pairs.candidate.send_lag_s)
    late = lag_s > policy.send_lag_limit_s
    return {
        "lagged": np.bincount(own[~np.isnan(lag_s)], minlength=size),
        "late": np.bincount(own[late], minlength=size),
    }


def _busy(policy: Policy, pairs: Pairs, index: Ints, size: int) -> Rows:
    arrived_us = np.rint(pairs.baseline_arrived_s * _MICROSECONDS).astype(np.int64)
    service_us = np.rint(pairs.baseline_service_s * _MICROSECONDS).astype(np.int64)
    busy, first, last = (np.zeros(size, np.int64) for _ in range(3))
    if not policy.baseline.is_endpoint:  # which serves several at a time
        np.add.at(busy, index, service_us)
    first[:], last[:] = _NEVER_US, -_NEVER_US
    np.minimum.at(first, index, arrived_us)
    np.maximum.at(last, index, arrived_us)
    return {"busy_us": busy, "first_us": first, "last_us": last}


def _unmeasured(pairs: Pairs, own: Ints, size: int) -> Ints:
    counts = np.zeros((size, len(_COMPARED), 2), np.int64)
    sides = (pairs.baseline, pairs.candidate)
    for kind, name in enumerate(_COMPARED):
        for arm, (side, other) in enumerate((sides, sides[::-1])):
            lacks = _lacks(side, getattr(side, name), getattr(other, name))
            counts[:, kind, arm] = np.bincount(own[lacks], minlength=size)
    return counts


def _lacks(side: Side, mine: Floats, theirs: Floats) -> np.ndarray:
    return np.isnan(mine) & ~np.isnan(theirs) & ~side.failed
