"""What both loops have in common: how a run ends, and what of a plan they must know."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from canary.evidence.journal import Journal
from canary.judge import Ended
from canary.losses import Losses
from canary.traffic.request import Plan, Request
from canary.traffic.seeds import stable_uniform
from canary.watches import INTERRUPTED, Listener

HEARTBEAT_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """How a run ended, after how much of the plan's time; `ends` holds the policies
    whose evidence ended before the run did.

    `peak_bytes` is the peak memory of each arm that has a process of its own.
    `losses` are those of the arms; servers elsewhere aren't ours to lose. `answered`
    counts requests, those before a pause too, and `late_p99_s` is how much later than
    planned they were sent this time, None if none was.
    """

    reason: str
    ends: dict[str, Ended]
    elapsed_s: float
    peak_bytes: dict[str, int]
    losses: Losses = field(default_factory=Losses)
    answered: int = 0
    late_p99_s: float | None = None


class Lags:
    """How much later than planned requests were sent, to two digits."""

    def __init__(self) -> None:
        self._counts: Counter[float] = Counter()

    def add(self, lag_s: float) -> None:
        """Count a request."""
        self._counts[float(f"{max(lag_s, 0.0):.1e}")] += 1

    def p99_s(self) -> float | None:
        """Return what one request of a hundred exceeds; None without any."""
        left = self._counts.total() * 0.99
        for lag_s, count in sorted(self._counts.items()):
            left -= count
            if left <= 0:
                return lag_s
        return None


def questions_of(plan: Plan) -> dict[str, int]:
    """Return how many groups each task's questions are."""
    groups = {(r.task or "", r.group or r.request_id) for r in plan.questions}
    return dict(Counter(task for task, _ in groups))


def group_items_of(plan: Plan) -> Counter[tuple[str | None, str | None]]:
    """Return how many questions each group of a task has."""
    return Counter((r.task, r.group) for r in plan.questions if r.group)


def control_takes(request: Request, share: float, seed: int) -> bool:
    """Return whether the A/A control answers a request, too."""
    return stable_uniform("control", seed, request.request_id) < share


def try_again(
    journal: Journal, listener: Listener, wait: Callable[[float], object]
) -> None:
    """Say that nothing can be written, wait for a second, and try again."""
    listener.paused(journal.trouble or "")
    wait(HEARTBEAT_S)
    journal.commit_if_due()


def play_out(
    play: Callable[[], str],
    journal: Journal,
    listener: Listener,
    wait: Callable[[float], object],
) -> str:
    """Play, keep all that came of it, and end in order; return why nothing more comes.

    A Ctrl-C drops what is in flight, of all arms alike; whatever else is raised leaves
    what was answered committed.

    Raises:
        StorageError: Nothing could be written for the journal's patience.
    """
    reason = INTERRUPTED
    try:
        played = play()
        journal.commit()
        while journal.trouble is not None:
            try_again(journal, listener, wait)
        reason = played
    except KeyboardInterrupt:
        pass
    finally:
        try:
            journal.close()
        finally:
            listener.ended(reason)
    return reason
