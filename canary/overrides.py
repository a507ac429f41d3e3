"""What a person decided beside a verdict: kept for good, shown in every report.

An override changes no verdict and no exit code. It says what is done all the same, who
answers for it and why. All of them stay in the file; each policy's last one counts.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Literal

from canary.clock import Clock
from canary.errors import StorageError, UsageError
from canary.evidence.journal import RunFolder
from canary.evidence.log import Log
from canary.record import read_run

ACTIONS = ("promote", "rollback", "hold")


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """One line of the file; `when` is an ISO time."""

    policy: str
    action: Literal["promote", "rollback", "hold"]
    by: str
    when: str
    why: str
    schema: Literal["canary.override/1"] = "canary.override/1"

    def of_decision(self) -> dict[str, str]:
        """Return what the policy's decision document says of it."""
        return {
            "action": self.action,
            "by": self.by,
            "when": self.when,
            "why": self.why,
        }


_LOG = Log(Override, what="override")


def record_override(
    folder: RunFolder,
    *,
    policy: str,
    action: str,
    by: str,
    why: str,
    wall_clock: Clock,
) -> Override:
    """Append an override, on disk when this returns.

    Raises:
        UsageError: It is no run, it has no such policy, there is no such action, or
            nobody or no reason is named.
    """
    known = list(read_run(folder)["policies"])
    if policy not in known:
        raise UsageError(
            f"--policy {policy}: {folder.root} has no such policy; "
            f"write {_nearest(policy, known)}"
        )
    if action not in ACTIONS:
        told = _nearest(action, ACTIONS)
        raise UsageError(f"--action {action}: there is no such action; write {told}")
    for flag, text in (("--by", by), ("--why", why)):
        if not text.strip():
            raise UsageError(f"{flag}: is empty; an override names who and why")
    when = datetime.fromtimestamp(wall_clock(), UTC).isoformat(timespec="seconds")
    override = Override(
        policy=policy,
        action=action,  # type: ignore[arg-type]  # one of ACTIONS
        by=by.strip(),
        when=when,
        why=why.strip(),
    )
    try:
        _LOG.append(folder.overrides, override)
    except (OSError, StorageError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.reason
        raise UsageError(
            f"{folder.overrides}: can't be written ({reason}); nothing was recorded"
        ) from error
    return override


def read_overrides(folder: RunFolder) -> tuple[Override, ...]:
    """Return all overrides of a run, the oldest first.

    Raises:
        UsageError: A line is damaged.
    """
    return _LOG.read(folder.overrides)


def last_overrides(folder: RunFolder) -> dict[str, dict[str, str]]:
    """Return what counts by policy, as decision documents have it.

    Raises:
        UsageError: As `read_overrides`.
    """
    return {one.policy: one.of_decision() for one in read_overrides(folder)}


def _nearest(word: str, choices: list[str] | tuple[str, ...]) -> str:
    close = get_close_matches(word, choices, n=1)
    return close[0] if close else f"one of {', '.join(choices)}"
