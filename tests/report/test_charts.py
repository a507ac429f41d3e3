import dataclasses
import re

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.figure import Figure

from canary.report import ReportData
from canary.report.charts import evidence_charts, gate_charts, round_times
from canary.report.samples import Timings
from canary.report.svg import COLOURS, to_svg
from canary.report.timing_charts import log_ticks, timing_charts


def label(svg: str) -> str:
    found = re.search(r'aria-label="([^"]*)"', svg)
    assert found
    return found[1]


def make_timings(baseline: npt.ArrayLike, candidate: npt.ArrayLike) -> Timings:
    return Timings(
        metric="latency",
        prompt_tokens=np.linspace(100, 3000, np.size(baseline)).astype(np.int64),
        baseline_s=np.asarray(baseline, float),
        candidate_s=np.asarray(candidate, float),
    )


def test_scales_that_differ_have_charts_of_their_own(report_data: ReportData) -> None:
    """Differences and ratios stand in two charts, and only kinds that exist."""
    both = gate_charts(report_data.decisions[0], "a")
    one = gate_charts(report_data.decisions[4], "a")

    assert 2 == len(both)
    assert ["Ratio: candidate over baseline"] == list(one)


def test_gate_charts_say_the_finding(report_data: ReportData) -> None:
    """Measured value, bounds, limit and status of each gate are in the label."""
    svg = gate_charts(report_data.decisions[1], "a")[
        "Difference: candidate minus baseline"
    ]

    assert (
        "accuracy code: -39.2 points, between -54.1 points and -24.3 points, "
        "limit -5.0 points: broken." in label(svg).replace("&#39;", "'")
    )


def test_a_limit_of_no_change_without_a_measurement_has_a_scale(
    report_data: ReportData,
) -> None:
    """All that there is to draw then is one value."""
    gate = dataclasses.replace(
        report_data.decisions[4].gates[0],
        limit=1.0,
        estimate=None,
        lower=None,
        upper=None,
    )
    decision = dataclasses.replace(report_data.decisions[4], gates=(gate,))

    (svg,) = gate_charts(decision, "a").values()

    assert "limit 1x" in label(svg)


def test_gate_far_off_the_scale_is_still_drawn(report_data: ReportData) -> None:
    """An estimate beyond the axis is marked at its edge."""
    gate = dataclasses.replace(
        report_data.decisions[4].gates[0], estimate=900.0, lower=800.0, upper=None
    )
    decision = dataclasses.replace(report_data.decisions[4], gates=(gate,))
    (svg,) = gate_charts(decision, "a").values()

    assert "900x" in svg
    assert "nan" not in svg


def test_evidence_ends_where_the_decision_does(report_data: ReportData) -> None:
    """The last point of the rollback curve is the decision's own combined evidence."""
    decision = report_data.decisions[1]
    share = decision.log_e_rollback / decision.threshold_rollback
    _, harm = evidence_charts(decision, "a")

    assert f"{share:.0%} of what a rollback needs" in label(harm)


def test_tail_says_the_quantiles() -> None:
    """The label of the tail chart names both arms' quantiles in words."""
    values = np.linspace(0.1, 1.0, 200)
    tail, length = timing_charts(make_timings(values, values / 2), "a")

    assert "p50: baseline 548 ms, candidate 274 ms." in label(tail)
    assert "0.50 times the baseline&#39;s" in label(length)


def test_failures_keep_the_tail_up() -> None:
    """With failed requests the curve ends at their share, above the floor."""
    values = np.linspace(0.1, 1.0, 100)
    whole = timing_charts(make_timings(values, values), "a")[0]
    failed = values.copy()
    failed[90:] = np.inf
    cut = timing_charts(make_timings(values, failed), "a")[0]

    assert whole != cut
    assert "p99: baseline 991 ms, candidate not known." in label(cut)


@pytest.mark.parametrize("value", [0.0, np.inf])
def test_no_answered_request_no_chart(value: float) -> None:
    """Where not one request was answered there is nothing to draw on a log scale."""
    assert () == timing_charts(make_timings(np.full(9, value), np.full(9, value)), "a")


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_requests_draw(count: int) -> None:
    """A handful of requests makes charts, without a warning."""
    values = np.linspace(0.2, 0.3, count)

    assert 2 == len(timing_charts(make_timings(values, values), "a"))


def test_markers_become_variables() -> None:
    """Every marker colour is replaced, and ids carry the chart's own prefix."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for colour in COLOURS.values():
            axes.plot([0, 1], [0, 1], color=colour, marker="o")

    svg = to_svg(draw, width=300, height=200, key="k", title="a<b", finding='"x"')

    assert "#0102" not in svg
    assert all(f"var(--{name})" in svg for name in COLOURS)
    assert all(found.startswith("k-") for found in re.findall(r' id="([^"]+)"', svg))
    assert "<title>a&lt;b</title>" in svg
    assert 'aria-label="&#34;x&#34;"' in svg


@pytest.mark.parametrize("low", [1e-4, 0.03, 2.0])
@pytest.mark.parametrize("factor", [1.3, 4, 30, 1e6])
def test_log_ticks_are_few_and_inside(low: float, factor: float) -> None:
    """Ticks of a log axis are round, inside it, and few enough to read."""
    ticks = log_ticks(low, low * factor)

    assert len(ticks) <= 6
    assert all(low <= tick <= low * factor for tick in ticks)


@pytest.mark.parametrize("end_s", [0.5, 11, 95, 3600, 7 * 86400, 90 * 86400])
def test_time_ticks_are_few_and_inside(end_s: float) -> None:
    """Ticks of the run's time start at zero and stay few, from seconds to months."""
    ticks = round_times(end_s)

    assert 0 == ticks[0]
    assert len(ticks) <= 7
    assert ticks[-1] <= end_s
