import dataclasses

import numpy as np
import numpy.typing as npt
import pytest

from canary.evidence.pairs import Pairs, pair_up
from canary.report import ReportData
from canary.report.samples import (
    QUANTILES,
    Timings,
    accuracy_table,
    length_bins,
    timings,
    trend,
)


@pytest.fixture(scope="module")
def pairs(report_data: ReportData) -> Pairs:
    decision = report_data.decisions[1]
    return pair_up(
        report_data.observations,
        baseline=decision.baseline,
        candidate=decision.candidate,
    )


def make_timings(
    baseline: npt.ArrayLike, candidate: npt.ArrayLike | None = None
) -> Timings:
    times = np.asarray(baseline, float)
    return Timings(
        metric="latency",
        prompt_tokens=np.arange(len(times)) + 1,
        baseline_s=times,
        candidate_s=times if candidate is None else np.asarray(candidate, float),
    )


def test_cells_add_up_to_all_lengths(pairs: Pairs) -> None:
    """Items, lost and gained of the length ranges sum to those of all lengths."""
    table = accuracy_table(pairs)

    assert "all lengths" == table.columns[0]
    for _, (everything, *cells) in table.rows:
        for name in ("items", "lost", "gained"):
            assert getattr(everything, name) == sum(getattr(c, name) for c in cells)
    assert 330 == sum(cells[0].items for _, cells in table.rows)


def test_empty_cells_have_no_accuracy(pairs: Pairs) -> None:
    """Where no item is, accuracy is None and not zero."""
    table = accuracy_table(pairs)
    empty = [c for _, cells in table.rows for c in cells if not c.items]

    assert empty
    assert all(cell.baseline is None and cell.candidate is None for cell in empty)


def test_a_failed_answer_is_wrong(pairs: Pairs) -> None:
    """An item that the candidate failed on counts as lost, not as missing."""
    failed = pairs.quality.copy()
    broken = dataclasses.replace(
        pairs, candidate=dataclasses.replace(pairs.candidate, failed=failed)
    )

    assert all(0.0 == cells[0].candidate for _, cells in accuracy_table(broken).rows)


def test_length_ranges_double() -> None:
    """Prompts fall in ranges that double; only ranges with a prompt are named."""
    names, index = length_bins(np.array([1, 511, 512, 1023, 1024, 5000]))

    assert ("<512", "512-1k", "1k-2k", "4k-8k") == names
    assert [0, 0, 1, 1, 2, 3] == index.tolist()


def test_quantiles_need_requests_beyond_them() -> None:
    """A quantile is shown once at least one request lies beyond it."""
    rows = {row.p: row for row in make_timings(np.linspace(0.1, 1, 100)).quantiles()}

    assert set(QUANTILES) == set(rows)
    assert rows[0.99].baseline_s is not None
    assert rows[0.999].baseline_s is None


def test_quantiles_inside_the_failures_are_unknown() -> None:
    """A quantile that falls among failed requests has no finite value."""
    values = np.r_[np.linspace(0.1, 1, 95), np.full(5, np.inf)]
    rows = {row.p: row for row in make_timings(values).quantiles()}

    assert rows[0.9].baseline_s is not None
    assert rows[0.99].baseline_s is None


def test_timings_are_those_that_gates_name(
    report_data: ReportData, pairs: Pairs
) -> None:
    """A policy's gates choose the metrics; failed requests are infinitely slow."""
    found = timings(report_data.policies[2], pairs)

    assert ["latency", "ttft"] == [timing.metric for timing in found]
    assert 1 == np.isinf(found[0].baseline_s).sum()
    assert 0 == np.isinf(found[0].candidate_s).sum()


def test_policies_without_timed_gates_show_latency(
    report_data: ReportData, pairs: Pairs
) -> None:
    """Latency is shown as context where no gate is about time."""
    found = timings(report_data.policies[3], pairs)

    assert ["latency"] == [timing.metric for timing in found]


def test_trend_is_monotone_where_the_data_are() -> None:
    """Medians by prompt length follow times that grow with it, arm by arm."""
    base = np.arange(1, 81) / 100
    found = trend(make_timings(base, base * 0.5))

    assert 8 == len(found.prompt_tokens)
    assert (np.diff(found.baseline_s) > 0).all()
    assert np.allclose(found.candidate_s, found.baseline_s * 0.5)


def test_trend_of_few_pairs_is_one_median() -> None:
    """Fewer pairs than a range needs still give one median."""
    assert 1 == len(trend(make_timings([0.1, 0.2, 0.4])).prompt_tokens)
