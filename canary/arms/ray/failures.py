"""What Ray raises, and what it means: one table.

Whether the arm's node still lives decides most of it. A process that dies there is the
arm's doing, or at least may be; a node that goes away is nobody's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import ray
from ray import exceptions as raised
from ray._private.state import state
from ray.core.generated import common_pb2

from canary.arms.causes import Cause

_TAKEN_AWAY = common_pb2.NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED  # type: ignore[attr-defined]  # generated when imported


class NodeState(Enum):
    """How the cluster sees the node that an arm is on."""

    LIVES = "lives"
    GONE = "gone"
    PREEMPTED = "preempted"


@dataclass(frozen=True, slots=True)
class _Row:
    """What exceptions mean while the arm's node lives, once it is gone, and, where that
    differs, while it lives but the other arms on it died too."""

    types: tuple[type[raised.RayError], ...]
    lives: Cause
    gone: Cause = Cause.NODE_LOST
    none_survived: Cause | None = None


# The first row that fits counts. An arm's own exception has the class of its cause,
# too, which may be one of Ray's, so that it stands first.
_TABLE = (
    _Row((raised.RayTaskError,), Cause.RAISED, gone=Cause.RAISED),
    _Row((raised.GetTimeoutError,), Cause.DEADLINE),
    _Row(
        (raised.OutOfMemoryError,),
        Cause.OUT_OF_MEMORY,
        none_survived=Cause.CLUSTER_FAULT,
    ),
    _Row(
        (raised.ActorPlacementGroupRemoved, raised.TaskPlacementGroupRemoved),
        Cause.GROUP_LOST,
    ),
    _Row((raised.NodeDiedError,), Cause.NODE_LOST),
    _Row((raised.ActorUnavailableError,), Cause.CONNECTION_LOST),
    _Row((raised.RayActorError, raised.WorkerCrashedError), Cause.PROCESS_DIED),
    _Row(
        (
            raised.ObjectLostError,
            raised.ObjectStoreFullError,
            raised.OutOfDiskError,
            raised.LocalRayletDiedError,
            raised.RaySystemError,
            raised.RpcError,
        ),
        Cause.CLUSTER_FAULT,
    ),
)


def cause_of(
    error: raised.RayError, node: NodeState, *, others_survived: Callable[[], bool]
) -> Cause | None:
    """Return why a call to an arm failed; None for what only a bug of ours raises, as
    `PendingCallsLimitExceeded` does.

    Args:
        error: What the call raised.
        node: How the arm's node is.
        others_survived: Whether the other arms on it live; asked only if it matters.
    """
    for row in _TABLE:
        if isinstance(error, row.types):
            return _in_row(row, error, node, others_survived)
    return None


def _in_row(
    row: _Row,
    error: raised.RayError,
    node: NodeState,
    others_survived: Callable[[], bool],
) -> Cause:
    preempted = node is NodeState.PREEMPTED or getattr(error, "preempted", False)
    if preempted and row.gone is Cause.NODE_LOST:
        return Cause.PREEMPTED
    if node is not NodeState.LIVES:
        return row.gone
    if row.none_survived is not None and not others_survived():
        return row.none_survived
    return row.lives


def node_state(node_id: str) -> NodeState:
    """Return how the cluster sees a node; one that it has forgotten is gone."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]  # Ray leaves it so
    for node in nodes:
        if node["NodeID"] == node_id:
            if node["Alive"]:
                return NodeState.LIVES
            reason = node.get("DeathReason")
            if reason == _TAKEN_AWAY:
                return NodeState.PREEMPTED
    return NodeState.GONE


def is_draining(node_id: str) -> bool:
    """Return whether somebody wants a node empty, to take it away soon.

    Nothing public says so: it is what Ray Train watches. A cluster that can't be asked
    just now is left to what calls to the arms will raise.
    """
    try:
        return node_id in state.get_draining_nodes()
    except (raised.RayError, RuntimeError, TimeoutError):
        return False


def first_line(error: BaseException) -> str:
    """Return the line of an error that says what is wrong, without Ray's wrapping."""
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
