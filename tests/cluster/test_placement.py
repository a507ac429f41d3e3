"""Which cards arms get, of clusters of all kinds."""

import pytest

from canary.arms.ray.placement import layout

THREE = ["dense", "window", "baseline_aa"]


def test_each_arm_has_a_card_where_a_node_has_enough():
    """The A/A copy lives on the candidate's card, to be compared under its lock."""
    found = layout(THREE, [{"CPU": 8, "GPU": 1}, {"CPU": 8, "GPU": 2}])

    assert "exclusive" == found.sharing
    assert ({"GPU": 1}, {"GPU": 1}) == found.bundles
    assert {"dense": 0, "window": 1, "baseline_aa": 1} == found.bundle_of
    assert {"dense": 1.0, "window": 0.5, "baseline_aa": 0.5} == found.gpus_of


@pytest.mark.parametrize(
    "nodes", [[{"GPU": 1}], [{"GPU": 1}, {"GPU": 1}], [{"CPU": 4, "GPU": 1.5}]]
)
def test_one_card_is_shared_in_turns(nodes):
    """Two nodes with a card each don't help: arms on two nodes aren't comparable."""
    found = layout(THREE, nodes)

    assert ("interleaved", ({"GPU": 1},)) == (found.sharing, found.bundles)
    assert {0} == set(found.bundle_of.values())
    assert 0.999 < sum(found.gpus_of.values()) <= 1


@pytest.mark.parametrize("nodes", [[], [{"CPU": 2}], [{"CPU": 2, "GPU": 0.5}]])
def test_without_a_card_none_is_asked_for(nodes):
    """On a cluster of CPUs all arms take turns on one node."""
    found = layout(THREE, nodes)

    assert ("interleaved", ({"CPU": 1},)) == (found.sharing, found.bundles)
    assert {0.0} == set(found.gpus_of.values())
