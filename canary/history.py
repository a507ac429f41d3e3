"""The runs below a folder: when, how far, which verdicts; also the broken ones."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from canary.clock import Clock
from canary.decision import SCHEMA, Verdict
from canary.errors import CanaryError, UsageError
from canary.evidence.folder import BEGAN, RunFolder, written_unix_s
from canary.evidence.lease import Lease
from canary.evidence.remote import Location, RemotePath
from canary.overrides import last_overrides
from canary.record import read_run
from canary.status import RunState, RunStatus, kept_status
from canary.watches import INTERRUPTED

# Files carry the time of the kernel's last tick, or of a file server.
_CLOCK_SLACK_S = 1.0
# And objects at a URL the store's, which may differ by as much as hosts may.
_REMOTE_SLACK_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyEntry:
    """One policy of a run; `pairs` is None where nothing was written down yet."""

    name: str
    verdict: Verdict
    pairs: int | None
    override: dict[str, str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEntry:
    """One run folder; where `broken` says why it can't be read, the rest is unknown."""

    path: str
    started: str | None = None
    state: RunState | None = None
    policies: tuple[PolicyEntry, ...] = ()
    broken: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self)


def list_runs(root: Location, *, wall_clock: Clock) -> list[RunEntry]:
    """Return all runs in and below a folder, the newest first, broken ones last."""
    records: set[Location] = {path.parent for path in root.rglob("run.json")}
    if isinstance(root, RemotePath):
        halves = {path.parent.parent for path in root.rglob(BEGAN)}
        records |= halves
    else:
        records |= {path.parent for path in root.rglob("observations") if path.is_dir()}
    entries = [
        _entry(RunFolder(path), wall_clock=wall_clock)
        for path in sorted(records, key=str)
    ]
    return sorted(entries, key=lambda entry: entry.started or "", reverse=True)


def _entry(folder: RunFolder, *, wall_clock: Clock) -> RunEntry:
    try:
        record = read_run(folder)
        state = _state(folder, record, wall_clock=wall_clock)
        overrides = last_overrides(folder)
        return RunEntry(
            path=str(folder.root),
            started=record["created"],
            state=state,
            policies=tuple(
                _policy(folder, name, state, overrides.get(name))
                for name in record["policies"]
            ),
        )
    except CanaryError as error:
        return RunEntry(path=str(folder.root), broken=str(error))
    except KeyError as error:
        told = f"{folder.run_json}: lacks {error}; restore it from a copy"
        return RunEntry(path=str(folder.root), broken=told)


def _state(folder: RunFolder, record: dict[str, Any], *, wall_clock: Clock) -> RunState:
    if Lease(folder, wall_clock=wall_clock).is_taken():
        return RunState.RUNNING
    if record.get("ended") in (None, INTERRUPTED):
        return RunState.INTERRUPTED
    return RunState.ENDED


def _policy(
    folder: RunFolder, name: str, state: RunState, override: dict[str, str] | None
) -> PolicyEntry:
    # Decision documents are those of the last time that the run stood still.
    known = None if state is RunState.RUNNING else read_decision(folder, name)
    verdict, pairs = known or _as_watched(folder, name)
    return PolicyEntry(name=name, verdict=verdict, pairs=pairs, override=override)


def _as_watched(folder: RunFolder, name: str) -> tuple[Verdict, int | None]:
    status = kept_status(folder)
    for policy in status.policies if status else ():
        if policy.name == name:
            return policy.verdict, policy.pairs
    return Verdict.CONTINUE, None


def read_decision(folder: RunFolder, policy: str) -> tuple[Verdict, int] | None:
    """Return verdict and pairs of a decision document; None if there is none.

    Raises:
        UsageError: It is damaged.
    """
    path = folder.decision(policy)
    try:
        document = json.loads(path.read_bytes())
        if document["schema"] != SCHEMA:
            raise UsageError(f"{path}: its schema is not {SCHEMA}")
        return Verdict(document["verdict"]), int(document["pairs"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path}: is damaged; `canary report {folder.root}` writes it anew"
        ) from error


def verdicts_of(folder: RunFolder, status: RunStatus) -> list[Verdict] | None:
    """Return how each policy of a run that is over came out; a shard decides nothing.

    None if what is there was written before the run was over: then the documents are
    being written, or whoever was to write them died.

    Raises:
        UsageError: A document is damaged.
    """
    if status.state is RunState.INTERRUPTED or "shard" in read_run(folder):
        return [policy.verdict for policy in status.policies]
    verdicts = []
    slack_s = _REMOTE_SLACK_S if folder.remote else _CLOCK_SLACK_S
    ended_s = (status.updated_unix_s or 0.0) - slack_s
    for policy in status.policies:
        found = read_decision(folder, policy.name)
        path = folder.decision(policy.name)
        if found is None or written_unix_s(path) < ended_s:
            return None
        verdicts.append(found[0])
    return verdicts
