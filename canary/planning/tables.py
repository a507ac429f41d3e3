"""Observations of both arms on a schedule, as tables that the judge reads."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from canary.evidence.observation import SCHEMA
from canary.planning.schedule import Schedule

ARMS = ("baseline", "candidate")


def table_of(arm: str, schedule: Schedule, measured: Mapping[str, Any]) -> pa.Table:
    """Return one arm's rows for every request of a schedule.

    Args:
        arm: The arm's name.
        schedule: What was sent.
        measured: Columns of the public schema: what the arm made of it, and whatever
            is to stand in the place of the schedule's own.
    """
    count = len(schedule)
    none = np.full(count, None, dtype=object)
    columns: dict[str, Any] = {
        "request_id": [f"r{index:07d}" for index in range(count)],
        "arm": [arm] * count,
        "arrived_s": schedule.arrived_s,
        "status": ["ok"] * count,
        "prompt_tokens": schedule.prompt_tokens,
        "kind": np.where(schedule.quality, "quality", "latency"),
        "task": np.where(schedule.task == "", none, schedule.task),
        "group": np.where(schedule.quality, schedule.group, none),
        "group_items": schedule.group_items,
        "epoch": np.zeros(count, int),
        "attempt": np.ones(count, int),
        "warm": np.zeros(count, bool),
        "weight": np.ones(count),
        **measured,
    }
    arrays = [
        columns[field.name]
        if isinstance(columns.get(field.name), pa.ChunkedArray)
        else _array(columns.get(field.name), field.type, count)
        for field in SCHEMA
    ]
    return pa.table(arrays, schema=SCHEMA)


def _array(values: Any, kind: pa.DataType, count: int) -> pa.Array:  # noqa: ANN401
    """NaN is what wasn't measured."""
    if values is None:
        return pa.nulls(count, kind)
    return pa.array(values, kind, from_pandas=True)
