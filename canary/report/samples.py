"""What the pairs of one policy look like, as the charts and tables show it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from canary.evidence.pairs import Bools, Floats, Ints, Pairs, Side
from canary.policy.model import TIMED_METRICS, Policy

QUANTILES = (0.5, 0.9, 0.99, 0.999)
_DEFAULT_METRICS = ("latency", "ttft", "service")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Accuracy of both arms on one task and range of prompt lengths.

    `lost` answers only the baseline had right, `gained` only the candidate. Accuracies
    are means over items, None without any.
    """

    items: int
    baseline: float | None
    candidate: float | None
    lost: int
    gained: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyTable:
    """Rows by task, columns by prompt length; the first column is all lengths."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantileRow:
    """A quantile of both arms; None where too few requests reach it, or it failed."""

    p: float
    baseline_s: float | None
    candidate_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """One timed metric of all pairs that have it; infinite where a request failed."""

    metric: str
    prompt_tokens: Ints
    baseline_s: Floats
    candidate_s: Floats

    def quantiles(self) -> tuple[QuantileRow, ...]:
        """Return the quantiles that gates use, if enough requests reach them."""
        return tuple(
            QuantileRow(
                p=p,
                baseline_s=_quantile(self.baseline_s, p),
                candidate_s=_quantile(self.candidate_s, p),
            )
            for p in QUANTILES
        )


def _quantile(values: Floats, p: float) -> float | None:
    if len(values) * (1 - p) < 1:
        return None
    value = float(np.quantile(values, p, method="inverted_cdf"))
    return value if np.isfinite(value) else None


def timings(policy: Policy, pairs: Pairs) -> tuple[Timings, ...]:
    """Return the timed metrics that gates name, else the first that was measured."""
    named = [gate.metric for gate in policy.gates if gate.metric in TIMED_METRICS]
    found = [_timings(metric, pairs) for metric in dict.fromkeys(named)]
    present = [timing for timing in found if len(timing.baseline_s)]
    if present or named:
        return tuple(present)
    fallback = (_timings(metric, pairs) for metric in _DEFAULT_METRICS)
    return tuple([timing for timing in fallback if len(timing.baseline_s)][:1])


def _timings(metric: str, pairs: Pairs) -> Timings:
    baseline, candidate = (
        _times(pairs.baseline, metric),
        _times(pairs.candidate, metric),
    )
    keep = pairs.timed & ~np.isnan(baseline) & ~np.isnan(candidate)
    if not np.isfinite(baseline[keep]).any() and not np.isfinite(candidate[keep]).any():
        keep = np.zeros(len(keep), bool)
    return Timings(
        metric=metric,
        prompt_tokens=pairs.prompt_tokens[keep],
        baseline_s=baseline[keep],
        candidate_s=candidate[keep],
    )


def _times(side: Side, metric: str) -> Floats:
    measured: Floats = getattr(side, f"{metric}_s")
    return np.where(side.failed, np.inf, measured)


def accuracy_table(pairs: Pairs) -> AccuracyTable | None:
    """Return accuracy by task and prompt length; None if nothing was scored."""
    scores = [
        np.where(side.failed, 0.0, side.score)
        for side in (pairs.baseline, pairs.candidate)
    ]
    keep = pairs.quality & ~np.isnan(scores[0]) & ~np.isnan(scores[1])
    if not keep.any():
        return None
    baseline, candidate = scores[0][keep], scores[1][keep]
    task = np.where(pairs.task[keep] == "", "no task named", pairs.task[keep])
    labels, column = length_bins(pairs.prompt_tokens[keep])
    scopes = [np.ones(len(task), bool), *(column == i for i in range(len(labels)))]
    rows = tuple(
        (
            str(name),
            tuple(
                _cell(baseline, candidate, (task == name) & scope) for scope in scopes
            ),
        )
        for name in sorted(set(task))
    )
    return AccuracyTable(columns=("all lengths", *labels), rows=rows)


def _cell(baseline: Floats, candidate: Floats, scope: Bools) -> Cell:
    a, b = baseline[scope], candidate[scope]
    return Cell(
        items=len(a),
        baseline=float(a.mean()) if len(a) else None,
        candidate=float(b.mean()) if len(b) else None,
        lost=int((b < a).sum()),
        gained=int((b > a).sum()),
    )


def length_bins(prompt_tokens: Ints) -> tuple[tuple[str, ...], Ints]:
    """Return ranges of prompt length that double, and which one each prompt is in.

    Only ranges that hold a prompt are named: ``<512``, ``512-1k``, ``1k-2k`` and so on.
    """
    power = np.floor(np.log2(np.maximum(prompt_tokens, 256))).astype(np.int64)
    present, index = np.unique(power, return_inverse=True)
    names = tuple(
        f"<{tokens_label(512)}"
        if exponent == 8
        else f"{tokens_label(2**exponent)}-{tokens_label(2 ** (exponent + 1))}"
        for exponent in present.tolist()
    )
    return names, np.asarray(index, np.int64)


def tokens_label(tokens: float) -> str:
    """Return a number of tokens as people say it: ``512``, ``2k`` (2,048)."""
    return f"{tokens / 1024:g}k" if tokens >= 1024 else f"{tokens:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """Medians of both arms in neighbouring ranges of prompt length."""

    prompt_tokens: Floats
    baseline_s: Floats
    candidate_s: Floats


def trend(timing: Timings, *, bins: int = 8, least: int = 8) -> Trend:
    """Return medians over up to `bins` equally full ranges of `least` pairs or more."""
    order = np.argsort(timing.prompt_tokens, kind="stable")
    count = max(min(bins, len(order) // least), 1)
    parts: Sequence[npt.NDArray[np.int64]] = np.array_split(order, count)

    def medians(values: Floats) -> Floats:
        return np.array(
            [np.quantile(values[part], 0.5, method="inverted_cdf") for part in parts],
            dtype=np.float64,
        )

    return Trend(
        prompt_tokens=medians(timing.prompt_tokens.astype(np.float64)),
        baseline_s=medians(timing.baseline_s),
        candidate_s=medians(timing.candidate_s),
    )
