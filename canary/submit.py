"""A run as a job of a Ray cluster: what each attempt is called and what it executes.

A run is its folder; attempts to get it done come and go. Each is a Ray job of its own,
``<run>-a01``, ``<run>-a02`` and so on, for Ray never takes a submission id twice.
Nothing is uploaded: the job changes to the folder in which it was submitted, so that
this folder, and whatever the policies and the run's folder name, must be found at the
same path on the node where jobs run (the head, unless Ray is told otherwise). A run's
folder at a URL can be reached from anywhere that has the credentials.
"""

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from canary.errors import UsageError
from canary.evidence.remote import Location, absolute, located

_RUN_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What one attempt executes, wherever it runs."""

    run: str
    folder: Location
    here: Path
    policies: tuple[Path, ...]
    seed: int
    shard: str | None = None

    @property
    def command(self) -> str:
        """The command line, without the folder in which it runs."""
        words = [
            *("python", "-m", "canary.cli", "attempt", str(self.folder)),
            *map(str, self.policies),
            *("--seed", str(self.seed)),
            *(() if self.shard is None else ("--shard", self.shard)),
        ]
        return shlex.join(words)

    @property
    def entrypoint(self) -> str:
        """What the job's shell executes; signals reach the run itself."""
        return f"cd {shlex.quote(str(self.here))} && exec {self.command}"


def submission(
    out: str | Path, policies: Sequence[Path], *, seed: int, shard: str | None = None
) -> Submission:
    """Return how to attempt a run from the current folder.

    Raises:
        UsageError: The folder's name can't be part of a job's id.
    """
    folder = absolute(located(out))
    if not re.fullmatch(_RUN_NAME, folder.name):
        raise UsageError(
            f"--out {out}: the last part of the folder names the run, and "
            f"{folder.name!r} is no name; use at most 63 letters, digits, '.', '_' and "
            "'-'"
        )
    return Submission(
        run=folder.name,
        folder=folder,
        here=Path.cwd(),
        policies=tuple(policies),
        seed=seed,
        shard=shard,
    )


def attempt_id(run: str, number: int) -> str:
    """Return the submission id of a run's attempt, counted from 1."""
    return f"{run}-a{number:02d}"


def attempt_number(run: str, submission_id: str) -> int | None:
    """Return which attempt of a run a job is; None if it is none."""
    match = re.fullmatch(rf"{re.escape(run)}-a([0-9]{{2,}})", submission_id)
    return int(match[1]) if match else None


def next_attempt(run: str, submission_ids: Iterable[str]) -> int:
    """Return the number after the last attempt among a cluster's jobs."""
    known = (attempt_number(run, each) for each in submission_ids)
    return max((number for number in known if number is not None), default=0) + 1
