"""Which base blocks of time make up the units of one gate.

A first stretch of the run counts for nothing but this choice. Later growth of the
dependence makes later units longer: what is bet on is never chosen by looking at it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from canary.evidence.blocks import Ints
from canary.evidence.strands import Column, Rows, Strand
from canary.policy.rules import DecisionRules
from canary.policy.units import BASE_BLOCK_S
from canary.stats.betting import Floats
from canary.stats.dependence import doublings_needed, grown

LEAST_CALIBRATION = 64
"""Base blocks with requests that it needs; it goes on until it has them."""

_FIRST_CHECK = 128


@dataclass(slots=True)
class _Segment:
    """Units of one length: from which base block on, and what their values were."""

    first: int
    width: int
    means: list[Floats] = field(default_factory=list)
    check: int = _FIRST_CHECK

    @property
    def check_block(self) -> int:
        return self.first + self.check * self.width


class Calendar:
    """The units of one gate, as their number of base blocks is chosen and grows."""

    def __init__(self, rules: DecisionRules) -> None:
        self._stated = (
            None if isinstance(rules.block, str) else round(rules.block / BASE_BLOCK_S)
        )
        self._least_end = math.ceil(rules.calibration_s / BASE_BLOCK_S)
        self._least = round(rules.least_block_s / BASE_BLOCK_S)
        self._segments: list[_Segment] = []
        self._first = 0

    @property
    def ready(self) -> bool:
        """Whether the length of blocks is known."""
        return bool(self._segments)

    @property
    def first(self) -> int:
        """The first base block that counts."""
        return self._first

    @property
    def block_s(self) -> float:
        """How long a block is now or, before that is known, at the least."""
        width = self._segments[-1].width if self._segments else self._least
        return width * BASE_BLOCK_S

    def calibration(self, strand: Strand, closed: int | None) -> Rows | None:
        """Take the rows that the choice may look at; None while there are too few.

        Args:
            strand: Where they are.
            closed: The first base block that may still change; None if none may.
        """
        if closed is not None and closed < self._least_end:
            return None
        waiting = strand.waiting()
        if closed is not None:
            waiting = waiting[: np.searchsorted(waiting, closed)]
        blocks = waiting[runs_of(waiting)[0]]
        if len(blocks) < LEAST_CALIBRATION:
            return None
        end = max(self._least_end, int(blocks[LEAST_CALIBRATION - 1]) + 1)
        self._first = end
        return strand.take(end)

    def begin(self, sums: Floats, requests: npt.NDArray[np.integer]) -> None:
        """Choose the length of blocks, unless the policy states it.

        Args:
            sums: What the requests of each base block add up to, per series.
            requests: How many requests each base block has.
        """
        width = self._stated
        if width is None:
            needed = doublings_needed(sums, requests.astype(np.float64))
            width = max(2**needed, self._least)
        self._segments.append(_Segment(first=self._first, width=width))

    def play(
        self, strand: Strand, closed: int | None, bet: Callable[[Rows], Floats]
    ) -> None:
        """Hand complete units over, and double their length where they correlate.

        That is looked at after 128, 256, 512, ... units of one length.

        Args:
            strand: Where the rows are.
            closed: The first base block that may still change; None if none may.
            bet: Takes the rows of units of one length and returns the units' values,
                shape (units,) or (series, units).
        """
        while True:
            segment = self._segments[-1]
            due = closed is None or segment.check_block <= closed
            limit = segment.check_block if due else self._complete(segment, closed)
            rows = strand.take(limit)
            if rows is not None:
                segment.means.append(np.atleast_2d(bet(rows)))
            if not due or (closed is None and not len(strand.waiting())):
                strand.pack()
                return
            if self._stated is None and _any_grown(segment.means):
                longer = _Segment(first=segment.check_block, width=2 * segment.width)
                self._segments.append(longer)
            else:
                segment.check *= 2

    def _complete(self, segment: _Segment, closed: int | None) -> int:
        whole = ((closed or 0) - segment.first) // segment.width
        return segment.first + whole * segment.width

    def unit_of(self, block: Ints) -> Ints:
        """Return a number for the unit that each counting base block belongs to."""
        units, offset = np.zeros(len(block), np.int64), 0
        for index, segment in enumerate(self._segments):
            later = block >= segment.first
            units[later] = offset + (block[later] - segment.first) // segment.width
            if index + 1 < len(self._segments):
                blocks = self._segments[index + 1].first - segment.first
                offset += blocks // segment.width
        return units

    def numbered(self, rows: Rows) -> Ints:
        """Return a number from 0 on for the unit of each counting row."""
        return runs_of(self.unit_of(np.asarray(rows["block"], np.int64)))[1]

    def waiting_for(self) -> str:
        """Return what has to come before anything counts, in words."""
        return (
            f"the first {LEAST_CALIBRATION} blocks of {BASE_BLOCK_S:g} s with requests "
            "set how long blocks must be, and count for nothing else"
        )


def _any_grown(means: list[Floats]) -> bool:
    if not means:
        return False
    return any(grown(series) for series in np.concatenate(means, axis=1))


def runs_of(ordered: Column) -> tuple[Ints, Ints]:
    """Return where each run of equal numbers begins, and in which each number is."""
    changes = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    begins = np.append(0, changes) if len(ordered) else changes
    index = np.zeros(len(ordered), np.int64)
    index[changes] = 1
    return begins, np.cumsum(index)


def counting_rows(strand: Strand, calendar: Calendar | None) -> Rows | None:
    """Return the rows taken so far, but for those that set the length of blocks."""
    rows = strand.taken()
    if rows is None or calendar is None:
        return rows
    if not calendar.ready:
        return None
    after = rows["block"] >= calendar.first
    return {name: column[after] for name, column in rows.items()}
