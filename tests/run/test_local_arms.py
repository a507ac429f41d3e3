"""What one process hasn't got."""

import pytest

from canary.arms.local import start_local_arms
from canary.errors import UsageError
from canary.policy.model import VariantSpec
from canary.policy.placement import Placement
from canary.testing import ScriptedVariant

SPECS = {"dense": VariantSpec(model="reference")}


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"gpu": "H200"}, "gpu: H200"),
        ({"replicas": 2}, "replicas: 2"),
        ({"sharing": "exclusive"}, "sharing: exclusive"),
    ],
)
def test_what_only_a_cluster_can_give_is_refused(asked, told):
    """Nothing of a policy is dropped in silence."""
    with pytest.raises(UsageError, match=f"placement asks for {told}, which only"):
        start_local_arms(
            SPECS, build=lambda _: ScriptedVariant(), placement=Placement(**asked)
        )


def test_what_it_has_anyway_is_not():
    """Arms in one process take turns, and never move."""
    asked = Placement(sharing="interleaved", swap_every="off")

    (found,) = start_local_arms(
        SPECS, build=lambda _: ScriptedVariant(), placement=asked
    )

    assert ["dense"] == list(found.arms)
