"""One of several equal parts of a run's traffic, each sent from a place of its own.

Sessions and groups of questions stay whole: a hash of the name, keyed with the run's
seed, decides, so that all machines agree without having to talk.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from canary.errors import TrafficError, UsageError
from canary.traffic.formats import Trace
from canary.traffic.seeds import stable_seed
from canary.traffic.selection import Selected
from canary.traffic.validation import ValidationItem

MOST_SHARDS = 10_000


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `number`, counted from 1, `of` so many."""

    number: int
    of: int

    def takes(self, seed: int, *name: str) -> bool:
        """Whether it sends what has this name; exactly one of all shards does."""
        return stable_seed("shard", seed, *name) % self.of == self.number - 1

    def to_dict(self) -> dict[str, int]:
        """Return it as plain JSON values."""
        return {"number": self.number, "of": self.of}

    def __str__(self) -> str:
        """Return it as a command line has it: 3/100."""
        return f"{self.number}/{self.of}"


def shard_of(text: str) -> Shard:
    """Read ``3/100``.

    Raises:
        UsageError: It is something else.
    """
    match = re.fullmatch(r"([0-9]{1,5})/([0-9]{1,5})", text)
    found = Shard(int(match[1]), int(match[2])) if match else Shard(0, 0)
    if not (1 <= found.number <= found.of and 2 <= found.of <= MOST_SHARDS):
        raise UsageError(
            f"--shard {text}: expected which shard of how many, from 1/2 to "
            f"{MOST_SHARDS}/{MOST_SHARDS}; write for example 3/100"
        )
    return found


def shard_in(record: Mapping[str, Any]) -> Shard | None:
    """Return which shard a run's record is of; None if it is of a whole run."""
    return Shard(**record["shard"]) if "shard" in record else None


def rows_sent(
    trace: Trace, selected: Selected, shard: Shard | None, seed: int
) -> npt.NDArray[np.int64]:
    """Return which of the selected rows a shard sends; all if there is none.

    Raises:
        TrafficError: None is left for it.
    """
    if shard is None:
        return np.arange(len(selected.rows))
    rows = (trace.rows[int(position)] for position in selected.rows)
    takes = [shard.takes(seed, row.session_id or f"#{row.index}") for row in rows]
    if not any(takes):
        raise TrafficError(
            f"{trace.path}: has too few sessions to leave any for shard {shard}; "
            "use fewer shards"
        )
    return np.flatnonzero(takes)


def items_asked(
    items: Sequence[ValidationItem], shard: Shard | None, seed: int
) -> npt.NDArray[np.int64]:
    """Return which questions a shard asks; all if there is none."""
    if shard is None:
        return np.arange(len(items))
    return np.flatnonzero(
        [shard.takes(seed, "question", i.task, i.group or i.id) for i in items]
    ).astype(np.int64)
