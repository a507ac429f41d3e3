"""Observations of two arms, joined by request: what the judge reads."""

from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from canary.errors import ObservationError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Texts = npt.NDArray[np.object_]

MEASURED = ("score", "ttft_s", "ttft_send_s", "tpot_s", "latency_s", "service_s",
            "peak_memory_bytes")  # fmt: skip
CONTROL_ARM = "baseline_aa"
"""The arm name of the second copy of the baseline."""

_USED = ("request_id", "arrived_s", "status", "prompt_tokens", "kind", "task", "group",
         "session_id", "group_items", "attempt", "kernel", "device",
         *MEASURED)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One arm's half of the pairs. NaN where nothing was measured; `failed` rows were
    not answered (error or timeout)."""

    failed: Bools
    score: Floats
    ttft_s: Floats
    ttft_send_s: Floats
    tpot_s: Floats
    latency_s: Floats
    service_s: Floats
    peak_memory_bytes: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Pairs in order of arrival, ties by request id: the canonical order.

    `unit` is the validation group (group, else session, else request). `void` counts
    requests that were void or shed; `missing_baseline` and `missing_candidate` hold
    the arrival times of requests that only the other arm has, up to the last request
    that both have seen. `baseline_busy_s` is the baseline's service time up to and
    including each of its requests at `baseline_arrived_s`. `control` pairs the baseline
    with its own second copy (the A/A control), where there is one.
    """

    request_id: Texts
    arrived_s: Floats
    prompt_tokens: Ints
    quality: Bools
    timed: Bools
    task: Texts
    unit: Texts
    unit_items: Ints
    baseline: Side
    candidate: Side
    void_arrived_s: Floats
    missing_baseline_s: Floats
    missing_candidate_s: Floats
    baseline_arrived_s: Floats
    baseline_busy_s: Floats
    kernels: dict[str, list[str]]
    devices: dict[str, list[str]]
    control: "Pairs | None" = None

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.request_id)

    def until(self, cutoff_s: float) -> "Pairs":
        """Return the pairs that arrived before `cutoff_s`."""
        count = int(np.searchsorted(self.arrived_s, cutoff_s))
        cut = {
            name: getattr(self, name)[:count]
            for name in ("request_id", "arrived_s", "prompt_tokens", "quality", "timed",
                         "task", "unit", "unit_items")
        }  # fmt: skip
        times = {
            name: (stamps := getattr(self, name))[: np.searchsorted(stamps, cutoff_s)]
            for name in ("void_arrived_s", "missing_baseline_s", "missing_candidate_s",
                         "baseline_arrived_s")
        }  # fmt: skip
        return Pairs(
            **cut,
            **times,
            baseline=_head(self.baseline, count),
            candidate=_head(self.candidate, count),
            baseline_busy_s=self.baseline_busy_s[: len(times["baseline_arrived_s"])],
            kernels=self.kernels,
            devices=self.devices,
            control=self.control.until(cutoff_s) if self.control else None,
        )


def _head(side: Side, count: int) -> Side:
    return Side(**{f.name: getattr(side, f.name)[:count] for f in fields(Side)})


def pair_up(table: pa.Table, *, baseline: str, candidate: str) -> Pairs:
    """Join the rows of two arms by request.

    An arm goes by its variant name or by the plain names ``baseline`` and
    ``candidate``. Warm-up rows count nowhere. Of several attempts the last counts.
    Rows of an arm ``baseline_aa`` become the pairs of the control.

    Raises:
        ObservationError: No rows of an arm, or two rows for the same attempt.
    """
    pairs = _joined(table, baseline=baseline, candidate=candidate)
    if CONTROL_ARM not in pc.unique(table["arm"]).to_pylist():
        return pairs
    control = _joined(table, baseline=baseline, candidate=CONTROL_ARM)
    # It answers a share of the requests: nothing is missing of the others.
    control = replace(control, missing_candidate_s=np.empty(0))
    return replace(pairs, control=control)


def _joined(table: pa.Table, *, baseline: str, candidate: str) -> Pairs:
    rows_a = _rows_of(table, baseline, "baseline")
    rows_b = _rows_of(table, candidate, "candidate")
    void = _void(rows_a) | _void(rows_b)
    ids_a, ids_b = rows_a.ids, rows_b.ids
    both, at_a, at_b = np.intersect1d(ids_a, ids_b, return_indices=True)
    keep = ~np.isin(both, list(void)) if void else np.ones(len(both), bool)
    at_a, at_b = at_a[keep], at_b[keep]
    order = np.lexsort((ids_a[at_a], rows_a.floats("arrived_s")[at_a]))
    at_a, at_b = at_a[order], at_b[order]
    arrived = rows_a.floats("arrived_s")[at_a]
    last = arrived[-1] if len(arrived) else -np.inf
    side_a, side_b = _side(rows_a, at_a), _side(rows_b, at_b)
    kind = rows_a.texts("kind")[at_a]
    unlabelled = kind == ""
    scored = ~np.isnan(side_a.score) | ~np.isnan(side_b.score)
    unit, items = _units(rows_a, at_a)
    busy_order = np.argsort(rows_a.floats("arrived_s"), kind="stable")
    return Pairs(
        request_id=ids_a[at_a],
        arrived_s=arrived,
        prompt_tokens=rows_a.floats("prompt_tokens")[at_a].astype(np.int64),
        quality=(kind == "quality") | (unlabelled & scored),
        timed=(kind == "latency") | (kind == "live") | unlabelled,
        task=rows_a.texts("task")[at_a],
        unit=unit,
        unit_items=items,
        baseline=side_a,
        candidate=side_b,
        void_arrived_s=_void_times(rows_a, void),
        missing_baseline_s=_only_in(rows_b, ids_a, void, last),
        missing_candidate_s=_only_in(rows_a, ids_b, void, last),
        baseline_arrived_s=rows_a.floats("arrived_s")[busy_order],
        baseline_busy_s=np.cumsum(
            np.nan_to_num(rows_a.floats("service_s")[busy_order])
        ),
        kernels={
            baseline: rows_a.distinct("kernel"),
            candidate: rows_b.distinct("kernel"),
        },
        devices={
            baseline: rows_a.distinct("device"),
            candidate: rows_b.distinct("device"),
        },
    )


class _Rows:
    """The rows of one arm as numpy columns, converted once."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self.ids = self.texts("request_id")

    def texts(self, name: str) -> Texts:
        filled = pc.fill_null(self._table[name], "")
        return np.asarray(filled.to_pylist(), dtype=object)

    def floats(self, name: str) -> Floats:
        column = self._table[name].cast(pa.float64())
        return np.asarray(pc.fill_null(column, np.nan).to_numpy(), dtype=np.float64)

    def distinct(self, name: str) -> list[str]:
        return sorted(set(self.texts(name)) - {""})


def _rows_of(table: pa.Table, name: str, role: str) -> _Rows:
    column = table["arm"]
    present = set(pc.unique(column).to_pylist())
    arm = name if name in present else role
    if table.num_rows and arm not in present:
        raise ObservationError(
            f"no observations of the {role}: expected an arm named {name!r} or "
            f"{role!r}, found {', '.join(sorted(present))}"
        )
    warm = pc.fill_null(table["warm"], False)
    rows = table.filter(pc.and_(pc.equal(column, arm), pc.invert(warm)))
    return _Rows(_last_attempts(rows.select(list(_USED)), arm))


def _last_attempts(rows: pa.Table, arm: str) -> pa.Table:
    ids = np.asarray(rows["request_id"].to_pylist(), dtype=object)
    if len(set(ids)) == len(ids):
        return rows
    attempt = np.asarray(pc.fill_null(rows["attempt"], 1).to_numpy())
    order = np.lexsort((attempt, ids))
    same = ids[order][1:] == ids[order][:-1]
    twice = same & (attempt[order][1:] == attempt[order][:-1])
    if twice.any():
        request = ids[order][1:][twice][0]
        raise ObservationError(
            f"request {request!r} has two rows for arm {arm!r} and the same attempt; "
            "keep one, or number the attempts"
        )
    return rows.take(order[np.append(~same, True)])


def _void(rows: _Rows) -> set[str]:
    status = rows.texts("status")
    return set(rows.ids[(status == "void") | (status == "shed")])


def _void_times(rows: _Rows, void: set[str]) -> Floats:
    return np.sort(rows.floats("arrived_s")[np.isin(rows.ids, list(void))])


def _only_in(rows: _Rows, other_ids: Texts, void: set[str], last_s: float) -> Floats:
    arrived = rows.floats("arrived_s")
    alone = ~np.isin(rows.ids, other_ids) & ~np.isin(rows.ids, list(void))
    return np.sort(arrived[alone & (arrived <= last_s)])


def _side(rows: _Rows, at: Ints) -> Side:
    measured = {name: rows.floats(name)[at] for name in MEASURED}
    return Side(failed=np.asarray(rows.texts("status")[at] != "ok", bool), **measured)


def _units(rows: _Rows, at: Ints) -> tuple[Texts, Ints]:
    unit = rows.texts("group")[at]
    for fallback in ("session_id", "request_id"):
        unit = np.where(unit == "", rows.texts(fallback)[at], unit)
    items = np.nan_to_num(rows.floats("group_items")[at]).astype(np.int64)
    return unit, items
