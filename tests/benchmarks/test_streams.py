"""Simulations prove nothing unless their streams are what they claim to be."""

import numpy as np
import pytest
from scenarios import NULLS, OVER_MARGIN, OVER_S, policy_of
from streams import (
    HOUR_S,
    KINDS,
    NOISE,
    Truth,
    make_stream,
    scaled,
    share_over,
    to_table,
)
from usual_judges import Limits

from canary.evidence.observation import SCHEMA
from canary.evidence.pairs import pair_up

DAY_S = 24 * HOUR_S


def a_day(kind="independent", truth=None, seed=1, **options):
    """A day of 2,000 requests an hour: 48,000."""
    return make_stream(
        seed,
        kind=kind,
        truth=truth or Truth(),
        per_hour=2000,
        duration_s=DAY_S,
        **options,
    )


def own_noise(stream):
    """What makes the arms differ, where both have a latency, and whose it is."""
    known = ~np.isnan(stream.latency_s).any(axis=0)
    a, b = np.log(stream.latency_s[:, known])
    return b - a, stream.session[known]


def within_sessions(values, session):
    """Correlation of the values of two requests of one session, over all such."""
    order = np.argsort(session, kind="stable")
    values, session = values[order], session[order]
    same = session[1:] == session[:-1]
    return np.corrcoef(values[1:][same], values[:-1][same])[0, 1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scenario", NULLS, ids=lambda scenario: scenario.name)
def test_the_truth_stands_exactly_where_it_says(kind, scenario):
    """Against the same draws without a difference, quantiles are moved exactly."""
    truth = scenario.truth
    same, moved = a_day(kind), a_day(kind, truth)
    before, after = (s.latency_s[1, ~np.isnan(s.latency_s[1])] for s in (same, moved))
    p50, p99 = (
        np.quantile(after, p, method="inverted_cdf")
        / np.quantile(before, p, method="inverted_cdf")
        for p in (0.5, 0.99)
    )
    loss = np.nanmean(same.score[1]) - np.nanmean(moved.score[1])

    assert p50 == pytest.approx(truth.body, rel=1e-12)
    assert p99 == pytest.approx(truth.tail, rel=1e-12)
    assert loss == pytest.approx(truth.loss, abs=0.006)
    assert np.array_equal(same.latency_s[0], moved.latency_s[0], equal_nan=True)


def test_a_share_over_a_threshold_is_known_exactly():
    """The share that the formula gives is the one that streams have."""
    latencies = np.concatenate([a_day(seed=n).latency_s.ravel() for n in range(5)])
    over = np.nanmean(np.where(np.isnan(latencies), np.nan, latencies > OVER_S))
    at_limit = NULLS[-1].truth

    assert over == pytest.approx(share_over(OVER_S), abs=0.002)
    assert share_over(OVER_S / at_limit.middle) == pytest.approx(over, abs=0.01)
    added = share_over(OVER_S / at_limit.middle) - share_over(OVER_S)
    assert added == pytest.approx(OVER_MARGIN, rel=1e-6)


def test_arms_drift_by_themselves():
    """From one request to the next 90 % of what makes the arms differ remains."""
    drift = {kind: own_noise(a_day(kind))[0] for kind in ("independent", "ar")}
    lag_1 = {kind: np.corrcoef(x[1:], x[:-1])[0, 1] for kind, x in drift.items()}

    assert abs(lag_1["independent"]) < 0.02
    # A fifth of the requests are questions, over which the drift goes on unseen.
    seen = sum(0.8 * 0.2**k * 0.9 ** (k + 1) for k in range(20))
    assert lag_1["ar"] == pytest.approx(seen, abs=0.03)


def test_sessions_go_well_or_badly_together():
    """Latencies and answers of a session have a correlation of 0.7, else none."""
    stream = a_day("sessions")
    asked = stream.quality
    difference = stream.score[1, asked] - stream.score[0, asked]

    assert within_sessions(*own_noise(stream)) == pytest.approx(0.7, abs=0.03)
    found = within_sessions(difference, stream.session[asked])
    assert found == pytest.approx(0.7, abs=0.1)
    assert (a_day().session == -1).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shared", [0.9, 0.5])
def test_arms_share_their_noise(kind, shared):
    """What is not shared is what makes the arms differ."""
    difference, _ = own_noise(a_day(kind, shared=shared))

    assert difference.std() == pytest.approx(NOISE * np.sqrt(2 - 2 * shared), rel=0.05)


def test_harm_begins_when_it_says():
    """Before, the two arms are as they would be without it; after, all of it is."""
    onset_s = 18 * HOUR_S
    same = a_day()
    late = a_day(truth=scaled(1.2, loss=0.5, from_s=onset_s))
    begun = same.arrived_s >= onset_s
    known = ~np.isnan(same.latency_s[1])
    ratio = late.latency_s[1, known] / same.latency_s[1, known]

    assert np.allclose(ratio, np.where(begun[known], 1.2, 1.0))
    changed = (late.score[1] != same.score[1]) & same.quality
    assert changed[begun].any()
    assert not changed[~begun].any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_judge_reads_the_stream_that_was_made(kind):
    """The table has the public schema, and its pairs are the stream, in its order."""
    stream = make_stream(
        1, kind=kind, truth=Truth(), per_hour=2000, duration_s=2 * HOUR_S
    )
    table = to_table(stream)
    pairs = pair_up(table, baseline="baseline", candidate="candidate")

    assert table.schema == SCHEMA
    assert np.array_equal(pairs.arrived_s, stream.arrived_s)
    assert np.array_equal(pairs.prompt_tokens, stream.tokens)
    assert np.array_equal(pairs.quality, stream.quality)
    for arm, side in enumerate((pairs.baseline, pairs.candidate)):
        assert np.array_equal(side.latency_s, stream.latency_s[arm], equal_nan=True)
        assert np.array_equal(side.score, stream.score[arm], equal_nan=True)
        assert np.array_equal(side.failed, stream.failed[arm])
    groups = set(pairs.unit[pairs.quality])
    asked = stream.session[stream.quality]
    alone = kind != "sessions"
    assert len(groups) == (stream.quality.sum() if alone else len(set(asked)))


def test_an_unknown_kind_is_refused():
    """A misspelt kind would be the independent one, and prove the wrong thing."""
    with pytest.raises(ValueError, match="expected one of independent, ar, sessions"):
        a_day("AR")


def test_limits_of_a_scenario_are_those_of_its_policy():
    """All judges are asked about the same limits."""
    limits = Limits(ratio=1.1, tail_ratio=1.2, loss=0.03, min_duration_s=36 * HOUR_S)
    policy = policy_of(limits)

    assert policy.gates[0].margin == limits.loss
    assert [gate.max_ratio for gate in policy.gates[2:4]] == [1.1, 1.2]
    assert policy.decision.min_duration_s == limits.min_duration_s
