"""Harm that somebody states, done to a candidate's observations: `latency=1.2`."""

import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from canary.errors import UsageError
from canary.planning.schedule import Bools, Floats
from canary.policy.model import TIMED_METRICS

_FACTORS = (*TIMED_METRICS, "memory")
_POINTS = {"accuracy": -1, "errors": 1}
_NUMBER = r"[+-]?[0-9]+(?:\.[0-9]+)?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Harm:
    """A metric of the candidate that gets worse, or better: by a factor if it is a time
    or the memory, by percentage points if it is accuracy or the share of errors."""

    metric: str
    value: float

    def __str__(self) -> str:
        """Return it in words."""
        if self.metric in _POINTS:
            return f"{self.metric} {self.value:+g} points"
        return f"{self.metric} {self.value:g}x"

    def done_to(self, table: pa.Table, rng: np.random.Generator) -> pa.Table:
        """Return the observations of both arms with the candidate's changed."""
        mine = np.asarray(pc.equal(table["arm"], "candidate").to_numpy(), dtype=bool)
        if self.metric == "accuracy":
            return self._wrong(table, mine, rng)
        if self.metric == "errors":
            failed = mine & (rng.random(len(mine)) < self.value / 100)
            status = np.asarray(table["status"].to_pylist(), dtype=object)
            return _with(table, "status", np.where(failed, "error", status))
        name = "peak_memory_bytes" if self.metric == "memory" else f"{self.metric}_s"
        values = _floats(table, name)
        worse = np.where(mine, values * self.value, values)
        return _with(table, name, np.rint(worse) if self.metric == "memory" else worse)

    def _wrong(
        self, table: pa.Table, mine: Bools, rng: np.random.Generator
    ) -> pa.Table:
        """Take points off the candidate's mean score, right answer by right answer."""
        score = _floats(table, "score")
        right = mine & (score > 0)
        mean = np.nanmean(score[mine]) if right.any() else 1.0
        flipped = right & (rng.random(len(mine)) < -self.value / 100 / mean)
        return _with(table, "score", np.where(flipped, 0.0, score))


def parse_harm(text: str) -> Harm:
    """Read ``accuracy=-3``, ``errors=2``, ``latency=1.2``.

    Raises:
        UsageError: It is none, or is no harm to that metric.
    """
    metric, _, number = text.partition("=")
    if metric not in (*_POINTS, *_FACTORS) or not re.fullmatch(_NUMBER, number):
        raise UsageError(
            f"--harm {text}: expected {', '.join((*_POINTS, *_FACTORS))} and a number; "
            "write for example accuracy=-3 (points) or latency=1.2 (times)"
        )
    value = float(number)
    if metric in _POINTS and not 0 < value * _POINTS[metric] <= 100:
        raise UsageError(
            f"--harm {text}: {metric} gets worse by {_POINTS[metric]:+d} to "
            f"{100 * _POINTS[metric]:+d} points; write for example "
            f"{metric}={3 * _POINTS[metric]:d}"
        )
    if metric in _FACTORS and not 0 < value <= 1000:
        raise UsageError(
            f"--harm {text}: expected a factor above 0 and up to 1000; write for "
            f"example {metric}=1.2"
        )
    return Harm(metric=metric, value=value)


def _floats(table: pa.Table, name: str) -> Floats:
    column = table[name].cast(pa.float64())
    return np.asarray(pc.fill_null(column, np.nan).to_numpy(), dtype=np.float64)


def _with(table: pa.Table, name: str, values: object) -> pa.Table:
    index = table.schema.get_field_index(name)
    field = table.schema.field(index)
    return table.set_column(
        index, field, pa.array(values, field.type, from_pandas=True)
    )
