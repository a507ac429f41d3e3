import pytest

from canary.errors import ObservationError
from canary.evidence.observation import to_table
from canary.evidence.pairs import arms_in, check_arms, pair_up
from canary.testing import observe


def pairs_of(*rows):
    return pair_up(
        to_table([r for some in rows for r in some]),
        baseline="dense",
        candidate="sparse",
    )


def test_rows_of_two_arms_meet_by_request_in_order_of_arrival():
    """Pairs come in canonical order, however the rows were written."""
    dense = observe(
        arm="dense",
        arrived_s=[2.0, 1.0, 1.0],
        request_id=["c", "b", "a"],
        latency_s=[3.0, 2.0, 1.0],
    )
    sparse = observe(
        arm="sparse",
        arrived_s=[1.0, 1.0, 2.0],
        request_id=["a", "b", "c"],
        latency_s=[10.0, 20.0, 30.0],
    )

    pairs = pairs_of(sparse, dense)

    assert ["a", "b", "c"] == list(pairs.request_id)
    assert [1.0, 2.0, 3.0] == list(pairs.baseline.latency_s)
    assert [10.0, 20.0, 30.0] == list(pairs.candidate.latency_s)


def test_warm_up_counts_nowhere():
    """Rows marked warm make no pair."""
    pairs = pairs_of(
        observe(arm="dense", arrived_s=[0.0, 1.0], warm=[True, False]),
        observe(arm="sparse", arrived_s=[0.0, 1.0], warm=[True, False]),
    )

    assert ["r1"] == list(pairs.request_id)


def test_the_last_attempt_counts():
    """A request that was tried twice counts once, with its last attempt."""
    pairs = pairs_of(
        observe(
            arm="dense",
            arrived_s=[0.0, 0.0],
            request_id="r0",
            attempt=[2, 1],
            latency_s=[9.0, 1.0],
        ),
        observe(arm="sparse", arrived_s=[0.0]),
    )

    assert [9.0] == list(pairs.baseline.latency_s)


def test_two_rows_for_one_attempt_are_refused():
    """Nobody can say which of two equal attempts counts."""
    with pytest.raises(ObservationError, match="'r0' has two rows for arm 'dense'"):
        pairs_of(
            observe(arm="dense", arrived_s=[0.0, 0.0], request_id="r0"),
            observe(arm="sparse", arrived_s=[0.0]),
        )


def test_void_holds_for_the_whole_request():
    """A request that is void or shed for one arm makes no pair and is counted."""
    pairs = pairs_of(
        observe(arm="dense", arrived_s=[0.0, 1.0, 2.0]),
        observe(arm="sparse", arrived_s=[0.0, 1.0, 2.0], status=["ok", "void", "shed"]),
    )

    assert ["r0"] == list(pairs.request_id)
    assert [1.0, 2.0] == list(pairs.void_arrived_s)


def test_missing_answers_are_counted_up_to_the_last_pair():
    """An arm that stopped answering for good was released, not lost."""
    pairs = pairs_of(
        observe(arm="dense", arrived_s=[0.0, 1.0, 2.0, 3.0]),
        observe(arm="sparse", arrived_s=[0.0, 2.0], request_id=["r0", "r2"]),
    )

    assert [1.0] == list(pairs.missing_candidate_s)
    assert [] == list(pairs.missing_baseline_s)


def test_an_arm_that_is_not_there_is_named():
    """Observations of other arms are refused with the arms that they have."""
    table = to_table(observe(arm="dense", arrived_s=[0.0]))

    with pytest.raises(ObservationError, match="expected an arm named 'sparse' or"):
        check_arms(arms_in(table), baseline="dense", candidate="sparse")


def test_arms_may_go_by_their_role():
    """Measurements made elsewhere may call the arms baseline and candidate."""
    pairs = pairs_of(
        observe(arm="baseline", arrived_s=[0.0]),
        observe(arm="candidate", arrived_s=[0.0]),
    )

    assert len(pairs) == 1


def test_units_fall_back_from_group_to_session_to_request():
    """The unit is the group, else the session, else the request itself."""
    columns = {
        "group": ["g", None, None],
        "session_id": ["s", "s", None],
        "score": 1.0,
    }
    pairs = pairs_of(
        observe(arm="dense", arrived_s=[0.0, 1.0, 2.0], **columns),
        observe(arm="sparse", arrived_s=[0.0, 1.0, 2.0], **columns),
    )

    assert ["g", "s", "r2"] == list(pairs.unit)


def test_rows_without_kind_serve_every_metric_they_have():
    """Without a kind, a score makes a row count for accuracy, and times for latency."""
    pairs = pairs_of(
        observe(arm="dense", arrived_s=[0.0, 1.0], score=[1.0, None], kind=None),
        observe(arm="sparse", arrived_s=[0.0, 1.0], score=[0.0, None], kind=None),
    )

    assert [True, False] == list(pairs.quality)
    assert [True, True] == list(pairs.timed)


def test_a_cut_keeps_what_arrived_before():
    """Evidence up to a look holds only earlier arrivals, in every column."""
    pairs = pairs_of(
        observe(arm="dense", arrived_s=[0.0, 1.0, 2.0], service_s=0.5),
        observe(arm="sparse", arrived_s=[0.0, 1.0, 2.0], service_s=0.5),
    ).until(2.0)

    assert len(pairs) == 2
    assert [0.5, 0.5] == list(pairs.baseline_service_s)
    assert len(pairs.candidate.failed) == 2
