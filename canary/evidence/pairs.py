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
            "output_tokens", "peak_memory_bytes", "send_lag_s")  # fmt: skip
CONTROL_ARM = "baseline_aa"
"""The arm name of the second copy of the baseline."""

_USED = ("request_id", "arrived_s", "status", "prompt_tokens", "kind", "task", "group",
         "session_id", "group_items", "attempt", "kernel", "device", "weight",
         "agreement", "answer", *MEASURED)  # fmt: skip


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
    output_tokens: Floats
    peak_memory_bytes: Floats
    send_lag_s: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Pairs in order of arrival, ties by request id: the canonical order.

    `unit` is a scored pair's group (group, else session, else request), `unit_items`
    how many items that will have (0: not said), `session` the conversation or an empty
    text. `agree` is 1 where the candidate's answer is the baseline's, 0 where it isn't
    and NaN where that isn't known. `void` counts requests that were void or shed;
    `missing_baseline` and `missing_candidate` hold the arrival times of requests that
    only the other arm has, up to the last request that both have seen.
    `baseline_service_s` is the baseline's service time of each of its requests, which
    arrived at `baseline_arrived_s`. `control` pairs the baseline with its own second
    copy (the A/A control), where there is one.
    """

    request_id: Texts
    arrived_s: Floats
    prompt_tokens: Ints
    quality: Bools
    timed: Bools
    task: Texts
    unit: Texts
    unit_items: Ints
    session: Texts
    weight: Floats
    agree: Floats
    baseline: Side
    candidate: Side
    void_arrived_s: Floats
    missing_baseline_s: Floats
    missing_candidate_s: Floats
    baseline_arrived_s: Floats
    baseline_service_s: Floats
    kernels: dict[str, list[str]]
    devices: dict[str, list[str]]
    control: "Pairs | None" = None

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.request_id)

    def until(self, cutoff_s: float) -> "Pairs":
        """Return the pairs that arrived before `cutoff_s`."""
        return self.between(-np.inf, cutoff_s)

    def between(self, start_s: float, stop_s: float) -> "Pairs":
        """Return the pairs that arrived from `start_s` on and before `stop_s`."""
        kept = _within(self.arrived_s, start_s, stop_s)
        asked = _within(self.baseline_arrived_s, start_s, stop_s)
        return Pairs(
            **{name: getattr(self, name)[kept] for name in _BY_PAIR},
            **{
                name: (stamps := getattr(self, name))[_within(stamps, start_s, stop_s)]
                for name in (
                    "void_arrived_s",
                    "missing_baseline_s",
                    "missing_candidate_s",
                )
            },
            baseline=_part(self.baseline, kept),
            candidate=_part(self.candidate, kept),
            baseline_arrived_s=self.baseline_arrived_s[asked],
            baseline_service_s=self.baseline_service_s[asked],
            kernels=self.kernels,
            devices=self.devices,
            control=self.control.between(start_s, stop_s) if self.control else None,
        )

    def where(self, kept: Bools) -> "Pairs":
        """Return some of the pairs; what isn't of a pair stays."""
        return replace(
            self,
            **{name: getattr(self, name)[kept] for name in _BY_PAIR},
            baseline=_part(self.baseline, kept),
            candidate=_part(self.candidate, kept),
        )


_BY_PAIR = ("request_id", "arrived_s", "prompt_tokens", "quality", "timed", "task",
            "unit", "unit_items", "session", "weight", "agree")  # fmt: skip


def _within(stamps: Floats, start_s: float, stop_s: float) -> slice:
    first, last = np.searchsorted(stamps, [start_s, stop_s])
    return slice(int(first), int(last))


def _part(side: Side, kept: slice | Bools) -> Side:
    return Side(**{f.name: getattr(side, f.name)[kept] for f in fields(Side)})


def check_arms(present: set[str], *, baseline: str, candidate: str) -> None:
    """Refuse observations that lack an arm.

    Raises:
        ObservationError: Neither its name nor its role is among them.
    """
    for name, role in ((baseline, "baseline"), (candidate, "candidate")):
        if present and not {name, role} & present:
            raise ObservationError(
                f"no observations of the {role}: expected an arm named {name!r} or "
                f"{role!r}, found {', '.join(sorted(present))}"
            )


def arms_in(table: pa.Table) -> set[str]:
    """Return the arms that a table has rows of."""
    return set(pc.unique(table["arm"]).to_pylist())


def pair_up(table: pa.Table, *, baseline: str, candidate: str) -> Pairs:
    """Join the rows of two arms by request.

    An arm goes by its variant name or by the plain names ``baseline`` and
    ``candidate``. Warm-up rows count nowhere. Of several attempts the last counts.
    Rows of an arm ``baseline_aa`` become the pairs of the control.

    Raises:
        ObservationError: Two rows for the same attempt.
    """
    pairs = _joined(table, baseline=baseline, candidate=candidate)
    if CONTROL_ARM not in arms_in(table):
        return pairs
    control = _joined(table, baseline=baseline, candidate=CONTROL_ARM)
    # It answers a share of the requests: nothing is missing of the others.
    control = replace(control, missing_candidate_s=np.empty(0))
    return replace(pairs, control=control)


def _joined(table: pa.Table, *, baseline: str, candidate: str) -> Pairs:
    rows_a = _rows_of(table, baseline, "baseline")
    rows_b = _rows_of(table, candidate, "candidate")
    met_a, met_b = _meet(rows_a, rows_b)
    void = rows_a.void.copy()
    void[met_a] |= rows_b.void[met_b]
    sound = ~void[met_a]
    at_a, at_b = met_a[sound], met_b[sound]
    order = _by_arrival(rows_a, at_a)
    at_a, at_b = at_a[order], at_b[order]
    arrived = rows_a.arrived_s[at_a]
    last = arrived[-1] if len(arrived) else -np.inf
    side_a, side_b = _side(rows_a, at_a), _side(rows_b, at_b)
    unlabelled = rows_a.is_kind("")[at_a]
    scored = ~np.isnan(side_a.score) | ~np.isnan(side_b.score)
    quality = rows_a.is_kind("quality")[at_a] | (unlabelled & scored)
    unit, items = _units(rows_a, at_a, quality)
    asked = np.argsort(rows_a.arrived_s, kind="stable")
    return Pairs(
        request_id=rows_a.texts("request_id")[at_a],
        arrived_s=arrived,
        prompt_tokens=rows_a.floats("prompt_tokens")[at_a].astype(np.int64),
        quality=quality,
        timed=rows_a.is_kind("latency")[at_a]
        | rows_a.is_kind("live")[at_a]
        | unlabelled,
        task=rows_a.texts("task")[at_a],
        unit=unit,
        unit_items=items,
        session=rows_a.texts("session_id")[at_a],
        weight=np.nan_to_num(rows_a.floats("weight")[at_a], nan=1.0),
        agree=_agreement(rows_a, rows_b, at_a, at_b),
        baseline=side_a,
        candidate=side_b,
        void_arrived_s=np.sort(rows_a.arrived_s[void]),
        missing_baseline_s=_unmet(rows_b, met_b, last),
        missing_candidate_s=_unmet(rows_a, met_a, last),
        baseline_arrived_s=rows_a.arrived_s[asked],
        baseline_service_s=np.nan_to_num(rows_a.floats("service_s")[asked]),
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
        self.ids = table["request_id"].combine_chunks()
        self.arrived_s = self.floats("arrived_s")
        status = table["status"]
        self.failed = _mask(pc.not_equal(status, "ok"))
        self.void = _mask(pc.is_in(status, value_set=pa.array(["void", "shed"])))

    def __len__(self) -> int:
        return len(self.failed)

    def column(self, name: str) -> pa.ChunkedArray:
        return self._table[name]

    def texts(self, name: str) -> Texts:
        column = self._table[name]
        if column.null_count == len(column):
            return np.full(len(column), "", dtype=object)
        filled = pc.fill_null(column, "")
        return np.asarray(filled.to_numpy(), dtype=object)

    def floats(self, name: str) -> Floats:
        column = self._table[name].cast(pa.float64())
        return np.asarray(pc.fill_null(column, np.nan).to_numpy(), dtype=np.float64)

    def is_kind(self, kind: str) -> Bools:
        return _mask(pc.equal(pc.fill_null(self._table["kind"], ""), kind))

    def distinct(self, name: str) -> list[str]:
        found = pc.unique(self._table[name]).to_pylist()
        return sorted(value for value in found if value)


def _mask(column: pa.ChunkedArray) -> Bools:
    return np.asarray(column.to_numpy(), dtype=bool)


def _rows_of(table: pa.Table, name: str, role: str) -> _Rows:
    arm = name if name in arms_in(table) else role
    warm = pc.fill_null(table["warm"], False)
    counted = pc.and_(pc.equal(table["arm"], arm), pc.invert(warm))
    used = table.select(list(_USED))
    # Most columns are empty, and those needn't be gone through.
    empty = [name for name in _USED if used[name].null_count == used.num_rows]
    rows = used.drop_columns(empty).filter(counted)
    for column in empty:
        rows = rows.append_column(column, pa.nulls(rows.num_rows, used[column].type))
    return _Rows(_last_attempts(rows, arm))


def _last_attempts(rows: pa.Table, arm: str) -> pa.Table:
    if pc.count_distinct(rows["request_id"]).as_py() == rows.num_rows:
        return rows
    ids = np.asarray(rows["request_id"].to_pylist(), dtype=object)
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


def _meet(rows_a: _Rows, rows_b: _Rows) -> tuple[Ints, Ints]:
    """Return where each arm has the requests that both have."""
    if rows_a.ids.equals(rows_b.ids):  # as a runner writes them: nothing to look up
        everything = np.arange(len(rows_a))
        return everything, everything
    found = pc.fill_null(pc.index_in(rows_a.ids, value_set=rows_b.ids), -1)
    at_b = np.asarray(found.to_numpy(), np.int64)
    return np.flatnonzero(at_b >= 0), at_b[at_b >= 0]


def _by_arrival(rows: _Rows, at: Ints) -> Ints:
    """Return the canonical order: by arrival, ties by request id."""
    arrived = rows.arrived_s[at]
    gaps = np.diff(arrived)
    if np.all(gaps > 0):
        return np.arange(len(at))
    return np.lexsort((rows.texts("request_id")[at], arrived))


def _unmet(rows: _Rows, met: Ints, last_s: float) -> Floats:
    """Return when the requests arrived that the other arm lacks, up to the last pair.

    Those that are void lack nothing.
    """
    alone = ~rows.void
    alone[met] = False
    return np.sort(rows.arrived_s[alone & (rows.arrived_s <= last_s)])


def _side(rows: _Rows, at: Ints) -> Side:
    measured = {name: rows.floats(name)[at] for name in MEASURED}
    return Side(failed=rows.failed[at], **measured)


def _agreement(rows_a: _Rows, rows_b: _Rows, at_a: Ints, at_b: Ints) -> Floats:
    """As measured; else whether the two answers are the same but for outer spaces."""
    measured = rows_b.floats("agreement")[at_b]
    if not rows_a.column("answer").null_count < len(rows_a):
        return measured
    answers = [
        pc.utf8_trim_whitespace(rows.column("answer")).take(at)
        for rows, at in ((rows_a, at_a), (rows_b, at_b))
    ]
    same = pc.equal(*answers).cast(pa.float64())
    known = np.asarray(pc.fill_null(same, np.nan).to_numpy(), np.float64)
    return np.where(np.isnan(measured), known, measured)


def _units(rows: _Rows, at: Ints, quality: Bools) -> tuple[Texts, Ints]:
    """Return each scored pair's group and how many items that has, 0 if unknown."""
    unit = np.full(len(at), "", dtype=object)
    asked = at[quality]
    known = rows.texts("group")[asked]
    for fallback in ("session_id", "request_id"):
        known = np.where(known == "", rows.texts(fallback)[asked], known)
    unit[quality] = known
    items = np.nan_to_num(rows.floats("group_items")[at]).astype(np.int64)
    alone = quality & (items == 0)
    for name in ("group", "session_id"):
        alone &= rows.texts(name)[at] == ""
    return unit, np.where(alone, 1, items)
