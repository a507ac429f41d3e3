"""The first start of all arms on a cluster that loses nodes meanwhile."""

import pytest

from canary.arms.base import ArmsLostError
from canary.arms.causes import Cause
from canary.arms.ray.replicas import ROOM_AGAIN_TIMEOUT_S
from canary.arms.ray.starting import _begin
from canary.errors import ArmError
from canary.losses import Losses


class Replicas:
    """Loses its place so many times before all arms are loaded."""

    def __init__(self, *causes):
        """Lose it for these causes."""
        self.arms = {"a": None, "b": None}
        self.timeouts_s, self.ended = [], False
        self._causes = list(causes)

    def start(self, timeout_s):
        """Start, or lose the place."""
        self.timeouts_s.append(timeout_s)
        if self._causes:
            cause = self._causes.pop(0)
            raise ArmsLostError(f"{cause}: gone", arm="a", cause=cause)

    def end(self):
        """Give the place back."""
        self.ended = True


def test_a_node_lost_while_arms_load_is_waited_for():
    """As it is later: a cluster that grows by itself gets its minutes, and both losses
    are counted."""
    replicas, losses = Replicas(Cause.NODE_LOST, Cause.PREEMPTED), Losses()

    _begin(replicas, losses)

    assert [ROOM_AGAIN_TIMEOUT_S] * 2 == replicas.timeouts_s[1:]
    assert replicas.timeouts_s[0] < ROOM_AGAIN_TIMEOUT_S
    assert not replicas.ended
    told = {"node lost": 1, "preempted": 1}
    assert {"a": told, "b": told} == losses.restarts


def test_a_cluster_that_loses_every_node_ends_the_run():
    """With the budget of later losses, and with nothing left behind on the cluster."""
    replicas = Replicas(*[Cause.NODE_LOST] * 6)

    with pytest.raises(ArmError, match="the arms were lost 6 times in a row"):
        _begin(replicas, Losses())

    assert replicas.ended
    assert 6 == len(replicas.timeouts_s)
