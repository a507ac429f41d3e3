"""Which cards arms get, of clusters of all kinds."""

import pytest

from canary.arms.ray.placement import MODEL_LABEL, Node, layout
from canary.errors import ArmError
from canary.policy.placement import Placement

THREE = ["dense", "window", "baseline_aa"]
ANY = Placement()


def nodes_of(*resources, gpu="H200"):
    """Nodes with these resources, labelled alike."""
    return [Node(one, {MODEL_LABEL: gpu}) for one in resources]


def test_each_arm_has_a_card_where_a_node_has_enough():
    """The A/A copy lives on the candidate's card, to be compared under its lock."""
    found = layout(THREE, nodes_of({"CPU": 8, "GPU": 1}, {"CPU": 8, "GPU": 2}), ANY)

    assert "exclusive" == found.sharing
    assert ({"GPU": 1}, {"GPU": 1}) == found.bundles
    assert {"dense": 1.0, "window": 0.5, "baseline_aa": 0.5} == found.gpus_of


def test_arms_move_on_by_one_card_with_each_arrangement():
    """The copy stays with the candidate; after all arrangements all are back."""
    found = layout([*THREE[:2], "strided", THREE[2]], nodes_of({"GPU": 3}), ANY)
    order = ["dense", "window", "strided", "baseline_aa"]

    places = [[found.bundle(arm, number) for arm in order] for number in range(4)]

    assert [[0, 1, 2, 1], [1, 2, 0, 2], [2, 0, 1, 0], [0, 1, 2, 1]] == places


@pytest.mark.parametrize(
    "nodes", [[{"GPU": 1}], [{"GPU": 1}, {"GPU": 1}], [{"CPU": 4, "GPU": 1.5}]]
)
def test_one_card_is_shared_in_turns(nodes):
    """Two nodes with a card each don't help: arms on two nodes aren't comparable."""
    found = layout(THREE, nodes_of(*nodes), ANY)

    assert ("interleaved", ({"GPU": 1},)) == (found.sharing, found.bundles)
    assert {0} == {found.bundle(arm, 1) for arm in THREE}
    assert 0.999 < sum(found.gpus_of.values()) <= 1


@pytest.mark.parametrize("nodes", [[], [{"CPU": 2}], [{"CPU": 2, "GPU": 0.5}]])
def test_without_a_card_none_is_asked_for(nodes):
    """On a cluster of CPUs all arms take turns on one node."""
    found = layout(THREE, nodes_of(*nodes), ANY)

    assert ("interleaved", ({"CPU": 1},)) == (found.sharing, found.bundles)
    assert {0.0} == set(found.gpus_of.values())


def test_a_policy_may_let_all_take_turns_on_one_card_of_many():
    """That leaves no difference between cards to be taken for one of variants."""
    found = layout(THREE, nodes_of({"GPU": 4}), Placement(sharing="interleaved"))

    assert ("interleaved", ({"GPU": 1},)) == (found.sharing, found.bundles)


def test_several_sets_share_cards_where_there_are_too_few_for_a_card_an_arm():
    """Two cards are one for each of two sets; four are two for each."""
    twice = Placement(replicas=2)

    assert "interleaved" == layout(THREE, nodes_of({"GPU": 2}), twice).sharing
    assert "exclusive" == layout(THREE, nodes_of({"GPU": 4}), twice).sharing
    both = layout(THREE, nodes_of({"GPU": 2}, {"GPU": 2}), twice)
    assert "exclusive" == both.sharing


def test_only_cards_of_the_pinned_model_count():
    """Others are as good as none, and the reservation asks for the label."""
    nodes = [*nodes_of({"GPU": 8}, gpu="T4"), *nodes_of({"GPU": 1})]

    found = layout(THREE, nodes, Placement(gpu="H200"))

    assert ("interleaved", "H200") == (found.sharing, found.gpu)


@pytest.mark.parametrize(
    ("nodes", "asked", "message"),
    [
        (
            nodes_of({"GPU": 2}, gpu="T4"),
            Placement(gpu="H200"),
            "no node .* has a GPU labelled H200: it has T4; correct placement.gpu",
        ),
        ([], Placement(gpu="H200"), "labelled H200: it has no GPU"),
        (
            [Node({"GPU": 1}, {})],
            Placement(gpu="H200"),
            "labelled H200: it has unlabelled ones",
        ),
        (
            nodes_of({"GPU": 1}),
            Placement(sharing="exclusive"),
            "a GPU for each of 2 arms, the largest has 1; add one, or write sharing",
        ),
    ],
)
def test_what_the_cluster_does_not_have_is_said(nodes, asked, message):
    """Nothing else is taken in its stead."""
    with pytest.raises(ArmError, match=message):
        layout(THREE, nodes, asked)
