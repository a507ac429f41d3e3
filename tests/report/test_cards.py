"""What a report tells of arms that changed places."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from canary.report import ReportData, render_html, render_markdown
from canary.report.cards import arrangements


def on_cards(data: ReportData, factor: float) -> ReportData:
    """Every ten seconds the arms change places; one card is slower by a factor."""
    rows = data.observations
    swapped = rows["arrived_s"].to_numpy() % 20 >= 10
    baseline = np.array(rows["arm"].to_pylist()) == data.decisions[0].baseline
    slow = baseline ^ swapped
    devices = np.where(slow, "cuda (H200, GPU-a)", "cuda (H200, GPU-b)")
    service_s = rows["service_s"].to_numpy(zero_copy_only=False)
    for name, column in (
        ("device", pa.array(devices.tolist())),
        (
            "service_s",
            pa.array(np.where(slow, service_s * factor, service_s), from_pandas=True),
        ),
    ):
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, name, column)
    return dataclasses.replace(data, observations=rows)


def test_a_slower_card_shows_in_each_arrangement_and_not_in_all(report_data):
    """The ratio tells of the card in each arrangement, and of the arms in all."""
    decision = report_data.decisions[0]
    plain = arrangements(on_cards(report_data, 1.0), decision)

    first, second, both = arrangements(on_cards(report_data, 1.5), decision)

    places = {(one.baseline_device[-2], one.candidate_device[-2]) for one in plain[:2]}
    assert {("a", "b"), ("b", "a")} == places
    assert first.ratio == pytest.approx(plain[0].ratio / 1.5)
    assert second.ratio == pytest.approx(plain[1].ratio * 1.5)
    assert first.ratio < both.ratio < second.ratio
    assert first.pairs + second.pairs == both.pairs > 100


def test_nothing_is_told_where_nothing_moved(report_data):
    """One arrangement is none worth a table; nor is a run that doesn't know."""
    rows = report_data.observations
    at = rows.schema.get_field_index("device")
    unknown = rows.set_column(at, "device", pa.nulls(len(rows), pa.string()))
    silent = dataclasses.replace(report_data, observations=unknown)

    assert () == arrangements(report_data, report_data.decisions[0])
    assert () == arrangements(silent, report_data.decisions[0])
    assert "change places at planned" not in render_html(report_data)


def test_both_reports_have_the_table(report_data):
    """The same numbers, in the page and for the pull request."""
    data = on_cards(report_data, 1.5)
    both = arrangements(data, data.decisions[0])[-1]

    for text in (render_html(data), render_markdown(data)):
        assert "all together" in text
        assert "GPU-a" in text
        assert f"{both.ratio:.3f}x" in text
