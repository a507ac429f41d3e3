"""Everything that this package raises on purpose, and the exit code of each.

    CanaryError             something a user can put right: one sentence, no traceback
    ├── UsageError          the call itself is off: a flag, a path, a folder in use
    │   └── StorageError    a run folder can't be written to, perhaps only for now
    ├── PolicyError         a policy file is off; carries every fault with its place
    ├── TrafficError        a trace or validation set can't be read or is too broken
    ├── ObservationError    recorded observations can't be read or don't fit
    ├── AttentionError      an attention pattern or kernel can't do what is asked
    └── ArmError            an arm can't be started where it was asked to run

Anything else that escapes is a bug and keeps its traceback (exit code 1).
"""

from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """What the shell sees. The verdict decides; see `canary.decision.Verdict`."""

    PROMOTE = 0
    BUG = 1
    USAGE = 2
    ROLLBACK = 3
    UNDECIDED = 4
    INVALID = 5


class CanaryError(Exception):
    """One sentence: what is wrong, where, and what to do."""

    exit_code = ExitCode.USAGE


class UsageError(CanaryError):
    """The call itself is off: a flag, a path, a folder in use."""


class StorageError(UsageError):
    """A run folder that can't be written to, perhaps only for now.

    Args:
        message: The sentence.
        reason: What is wrong, in some words: ``the disk is full``.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class TrafficError(CanaryError):
    """A trace or a validation set that can't be read or is too broken to use."""


class ObservationError(CanaryError):
    """Recorded observations that can't be read or don't fit the policy."""


class AttentionError(CanaryError):
    """An attention pattern or kernel that can't do what is asked."""


class ArmError(CanaryError):
    """An arm that can't be started where it was asked to run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing wrong in a policy file, and where it stands (1-based)."""

    file: str
    line: int
    column: int
    where: str
    message: str

    def __str__(self) -> str:
        """Return ``file:line:column: where: message``, as editors link it."""
        where = f"{self.where}: " if self.where else ""
        return f"{self.file}:{self.line}:{self.column}: {where}{self.message}"


class PolicyError(CanaryError):
    """Every fault of one or several policy files, one line each."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = faults
