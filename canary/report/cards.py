"""What each arrangement of arms and cards measured, for runs in which arms swapped."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from canary.decision import Decision
from canary.report.data import ReportData

_KEPT = ["request_id", "device", "service_s"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrangement:
    """The pairs that both arms answered while each was on one device.

    `baseline_s` and `candidate_s` are median service times; `ratio` is the median of
    the requests' ratios, candidate to baseline. No device stands for all pairs.
    """

    baseline_device: str | None
    candidate_device: str | None
    pairs: int
    baseline_s: float
    candidate_s: float
    ratio: float


def arrangements(data: ReportData, decision: Decision) -> tuple[Arrangement, ...]:
    """Return each arrangement, and all pairs together last; nothing where there was
    one only."""
    both = _answered(data, decision, decision.baseline).join(
        _answered(data, decision, decision.candidate),
        keys="request_id",
        join_type="inner",
        right_suffix=" candidate",
    )
    each = [
        _measured(rows, baseline, candidate)
        for baseline, candidate, rows in _by_device(both)
    ]
    return (*each, _measured(both, None, None)) if len(each) > 1 else ()


def _answered(data: ReportData, decision: Decision, arm: str) -> pa.Table:
    rows = data.observations
    counts = pc.and_(pc.equal(rows["arm"], arm), pc.equal(rows["status"], "ok"))
    counts = pc.and_(counts, pc.invert(rows["warm"]))
    counts = pc.and_(counts, pc.less(rows["arrived_s"], decision.elapsed_s))
    rows = rows.filter(counts).select(_KEPT)
    known = pc.and_(pc.is_valid(rows["device"]), pc.is_valid(rows["service_s"]))
    return rows.filter(known)


def _by_device(both: pa.Table) -> Iterator[tuple[str, str, pa.Table]]:
    seen = both.group_by(["device", "device candidate"]).aggregate([])
    for place in sorted(seen.to_pylist(), key=lambda place: tuple(place.values())):
        baseline, candidate = place["device"], place["device candidate"]
        mine = pc.and_(
            pc.equal(both["device"], baseline),
            pc.equal(both["device candidate"], candidate),
        )
        yield baseline, candidate, both.filter(mine)


def _measured(
    rows: pa.Table, baseline: str | None, candidate: str | None
) -> Arrangement:
    baseline_s = rows["service_s"].to_numpy()
    candidate_s = rows["service_s candidate"].to_numpy()
    return Arrangement(
        baseline_device=baseline,
        candidate_device=candidate,
        pairs=len(rows),
        baseline_s=float(np.median(baseline_s)),
        candidate_s=float(np.median(candidate_s)),
        ratio=float(np.median(candidate_s / baseline_s)),
    )
