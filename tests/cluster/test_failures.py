"""What Ray raises, row by row, with Ray's own exceptions."""

import pytest
from ray import exceptions as raised
from ray.core.generated.common_pb2 import ActorDiedErrorContext, NodeDeathInfo

from canary.arms.causes import Cause, Meaning
from canary.arms.ray.failures import NodeState, cause_of, first_line

LIVES, GONE, PREEMPTED = NodeState.LIVES, NodeState.GONE, NodeState.PREEMPTED
OWN, OWN_IF_AGAIN, NOBODYS = Meaning.OWN, Meaning.OWN_IF_AGAIN, Meaning.NOBODYS


def task_error(cause):
    """What a caller gets of an exception in the actor: both Ray's class and its own."""
    wrapped = raised.RayTaskError("serve", f"{type(cause).__name__}: {cause}", cause)
    return wrapped.as_instanceof_cause()


def died(*, preempted=False):
    reason = NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED
    context = ActorDiedErrorContext(actor_id=b"a" * 16, error_message="it is dead")
    if preempted:
        context.node_death_info.CopyFrom(NodeDeathInfo(reason=reason))
    return raised.ActorDiedError(context)


UNAVAILABLE = raised.ActorUnavailableError("connection reset", b"a" * 16)
OUT_OF_MEMORY = raised.OutOfMemoryError("the node is full")
TOO_LATE = raised.GetTimeoutError("too late")


@pytest.mark.parametrize(
    ("error", "node", "others", "cause", "meaning"),
    [
        (task_error(ValueError("CUDA")), LIVES, True, Cause.RAISED, OWN),
        (task_error(ValueError("CUDA")), GONE, False, Cause.RAISED, OWN),
        (task_error(TOO_LATE), LIVES, True, Cause.RAISED, OWN),
        (TOO_LATE, LIVES, True, Cause.DEADLINE, OWN),
        (TOO_LATE, GONE, True, Cause.NODE_LOST, NOBODYS),
        (OUT_OF_MEMORY, LIVES, True, Cause.OUT_OF_MEMORY, OWN),
        (OUT_OF_MEMORY, LIVES, False, Cause.CLUSTER_FAULT, NOBODYS),
        (OUT_OF_MEMORY, GONE, False, Cause.NODE_LOST, NOBODYS),
        (died(), LIVES, True, Cause.PROCESS_DIED, OWN_IF_AGAIN),
        (died(), GONE, True, Cause.NODE_LOST, NOBODYS),
        (died(), PREEMPTED, True, Cause.PREEMPTED, NOBODYS),
        (died(preempted=True), LIVES, True, Cause.PREEMPTED, NOBODYS),
        (UNAVAILABLE, LIVES, True, Cause.CONNECTION_LOST, OWN_IF_AGAIN),
        (UNAVAILABLE, GONE, True, Cause.NODE_LOST, NOBODYS),
        (raised.WorkerCrashedError(), LIVES, True, Cause.PROCESS_DIED, OWN_IF_AGAIN),
        (raised.NodeDiedError("gone"), LIVES, True, Cause.NODE_LOST, NOBODYS),
        (
            raised.ActorPlacementGroupRemoved(),
            LIVES,
            True,
            Cause.GROUP_LOST,
            NOBODYS,
        ),
        (raised.TaskPlacementGroupRemoved(), GONE, True, Cause.NODE_LOST, NOBODYS),
        (
            raised.ObjectLostError("0" * 56, None, ""),
            LIVES,
            True,
            Cause.CLUSTER_FAULT,
            NOBODYS,
        ),
        (raised.RaySystemError("raylet"), LIVES, True, Cause.CLUSTER_FAULT, NOBODYS),
        (raised.RpcError("broken"), GONE, True, Cause.NODE_LOST, NOBODYS),
        (raised.OutOfDiskError(), LIVES, True, Cause.CLUSTER_FAULT, NOBODYS),
        (raised.ObjectStoreFullError(), LIVES, True, Cause.CLUSTER_FAULT, NOBODYS),
        (raised.LocalRayletDiedError(), LIVES, True, Cause.CLUSTER_FAULT, NOBODYS),
    ],
)
def test_what_ray_raises_has_one_meaning(error, node, others, cause, meaning):
    """Whose failure it is follows from the exception and from how the node is."""
    found = cause_of(error, node, others_survived=lambda: others)

    assert cause is found
    assert meaning is found.ruling.meaning


@pytest.mark.parametrize(
    "error",
    [raised.PendingCallsLimitExceeded("too many"), raised.TaskCancelledError()],
)
def test_what_only_a_bug_raises_has_no_cause(error):
    """Nobody's evidence is touched by a fault of the harness: it keeps its trace."""
    assert cause_of(error, LIVES, others_survived=lambda: True) is None


def test_only_infrastructure_has_a_budget():
    """A variant that crashes ends as evidence; a cluster that fails ends the run."""
    budgets = {c: c.ruling.most_in_a_row for c in Cause}

    assert {c for c in Cause if c.ruling.meaning is NOBODYS} == {
        c for c, most in budgets.items() if most is not None
    }


def test_an_error_is_told_without_its_wrapping():
    """What a person reads is the line that says what is wrong."""
    assert "CUDA out of memory" == first_line(
        task_error(ValueError("CUDA out of memory"))
    )
    assert "RayError" == first_line(raised.RayError())
