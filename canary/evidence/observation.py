"""What one arm did with one request: the row that everything later is judged on."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from operator import attrgetter

import pyarrow as pa


class Status(StrEnum):
    """How a request ended for an arm (`void` and `shed`: for all arms alike)."""

    OK = "ok"
    TIMEOUT = "timeout"
    ERROR = "error"
    SHED = "shed"
    VOID = "void"


# Not frozen, though nobody changes one that is recorded: freezing makes it cost three
# times as much, and a week makes millions of them.
@dataclass(slots=True, kw_only=True)
class Observation:
    """One row per request and arm; the columns are public (see README, Observations).

    `ttft_s` and `latency_s` count from the intended arrival, `ttft_send_s` and
    `service_s` from the send. None means "not measured", never zero. `group_items` is
    the number of items that the group will have once all are answered. `agreement` is
    1 if the answer, or the span of it that matters, is the baseline's, and 0 if not; it
    stands in the row of the arm that is compared with the baseline. `send_lag_s` is how
    much later than it could have been sent a request was sent, to servers elsewhere.
    """

    request_id: str
    arm: str
    arrived_s: float
    status: Status
    prompt_tokens: int
    kind: str | None = None
    session_id: str | None = None
    group: str | None = None
    group_items: int | None = None
    task: str | None = None
    score: float | None = None
    agreement: float | None = None
    ttft_s: float | None = None
    ttft_send_s: float | None = None
    tpot_s: float | None = None
    queue_s: float | None = None
    send_lag_s: float | None = None
    service_s: float | None = None
    latency_s: float | None = None
    output_tokens: int | None = None
    peak_memory_bytes: int | None = None
    density: float | None = None
    density_min: float | None = None
    density_max: float | None = None
    compiles: int | None = None
    kernel: str | None = None
    device: str | None = None
    epoch: int = 0
    attempt: int = 1
    warm: bool = False
    weight: float = 1.0
    order: int | None = None
    answer: str | None = None
    error: str | None = None


def _arrow_type(annotation: object) -> pa.DataType:
    base = str(annotation).replace(" | None", "")
    if "float" in base:
        return pa.float64()
    if "int" in base:
        return pa.int64()
    if "bool" in base:
        return pa.bool_()
    return pa.string()


REQUIRED = ("request_id", "arm", "arrived_s", "status", "prompt_tokens")
SCHEMA: pa.Schema = pa.schema(
    [
        pa.field(f.name, _arrow_type(f.type), nullable=f.name not in REQUIRED)
        for f in fields(Observation)
    ]
)


def from_table(table: pa.Table) -> list[Observation]:
    """Return the rows of a table in the public schema."""
    return [
        Observation(**{**row, "status": Status(row["status"])})
        for row in table.to_pylist()
    ]


def to_table(observations: Sequence[Observation]) -> pa.Table:
    """Return the rows as an Arrow table in the public schema."""
    columns = {name: [*map(attrgetter(name), observations)] for name in SCHEMA.names}
    return pa.table(columns, schema=SCHEMA)
