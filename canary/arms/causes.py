"""Why an arm is lost, what that means for its request, and how often it may happen.

A crash of the variant is evidence about it; a machine that goes away is not. What
can't be told apart at once (a process that died) is tried once more on all arms.
"""

from dataclasses import dataclass
from enum import StrEnum


class Meaning(StrEnum):
    """Whose failure it is."""

    OWN = "the arm's own, at once"
    OWN_IF_AGAIN = "the arm's own, if the same request does it again"
    NOBODYS = "void for all arms alike"


class Cause(StrEnum):
    """Why an arm is lost. The value is what rows, status and record call it."""

    RAISED = "raised"
    DEADLINE = "deadline"
    OUT_OF_MEMORY = "out of memory"
    PROCESS_DIED = "process died"
    CONNECTION_LOST = "connection lost"
    NODE_LOST = "node lost"
    PREEMPTED = "preempted"
    GROUP_LOST = "placement lost"
    CLUSTER_FAULT = "cluster fault"
    STALE_ANSWER = "stale answer"

    @property
    def ruling(self) -> "Ruling":
        """What it means, and how often it may happen."""
        return RULINGS[self]


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a cause means.

    `most_in_a_row` is how many times in a row, without an answer of all arms between,
    the arms are built anew before the run stops and says so; None: for ever, since
    every loss ends as an answer of the arm.
    """

    meaning: Meaning
    most_in_a_row: int | None = None


RULINGS = {
    Cause.RAISED: Ruling(Meaning.OWN),
    Cause.DEADLINE: Ruling(Meaning.OWN),
    Cause.OUT_OF_MEMORY: Ruling(Meaning.OWN),
    Cause.PROCESS_DIED: Ruling(Meaning.OWN_IF_AGAIN),
    Cause.CONNECTION_LOST: Ruling(Meaning.OWN_IF_AGAIN),
    Cause.NODE_LOST: Ruling(Meaning.NOBODYS, most_in_a_row=5),
    # Cheap machines are taken away in waves.
    Cause.PREEMPTED: Ruling(Meaning.NOBODYS, most_in_a_row=20),
    Cause.GROUP_LOST: Ruling(Meaning.NOBODYS, most_in_a_row=5),
    Cause.CLUSTER_FAULT: Ruling(Meaning.NOBODYS, most_in_a_row=5),
    Cause.STALE_ANSWER: Ruling(Meaning.NOBODYS, most_in_a_row=2),
}
