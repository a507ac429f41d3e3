"""status.json: how a run stands, for whoever looks while it goes on or afterwards.

Written by the run's own process (`canary.keeper`), read by `canary status` and `watch`.
It is no evidence: nothing is judged from it, and a crash may lose its last seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from canary.clock import Clock
from canary.decision import Decision, GateResult, GateStatus, Verdict
from canary.errors import UsageError
from canary.evidence.journal import RunFolder, write_atomically
from canary.evidence.lease import Lease
from canary.record import read_run
from canary.watches import INTERRUPTED
from canary.wording import control_in_words, limit_in_words


class RunState(StrEnum):
    """What a run is doing."""

    WARMING_UP = "warming up"
    RUNNING = "running"
    PAUSED = "paused"
    ENDED = "ended"
    INTERRUPTED = "interrupted"

    @property
    def over(self) -> bool:
        """Whether nobody is sending anything any more."""
        return self in (RunState.ENDED, RunState.INTERRUPTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class GateState:
    """One limit at a look; the values are those of `canary.decision.GateResult`.

    `in_words` is what must be true. `progress` is how far the evidence that the limit
    holds has come, from 0 to 1, where it is shown.
    """

    name: str
    metric: str
    effect: str
    in_words: str
    status: GateStatus
    estimate: float | None
    lower: float | None
    upper: float | None
    limit: float
    at_least: bool
    progress: float
    units: int
    units_needed: int | None
    reason: str | None
    block_s: float | None = None

    @classmethod
    def of(cls, gate: GateResult) -> "GateState":
        """Return what a live view shows of a gate."""
        return cls(
            name=gate.name,
            metric=gate.metric,
            effect=gate.effect,
            in_words=limit_in_words(gate),
            status=gate.status,
            estimate=gate.estimate,
            lower=gate.lower,
            upper=gate.upper,
            limit=gate.limit,
            at_least=gate.at_least,
            progress=min(max(gate.log_e_hold / gate.threshold_hold, 0.0), 1.0),
            units=gate.units,
            units_needed=gate.units_needed,
            reason=gate.reason,
            block_s=gate.block_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyStatus:
    """One policy at its last look.

    Describing gates costs much, so that it isn't done at every look: `gates` are as of
    `gates_elapsed_s`, which is None before the first time. `eta_s` is the wall time
    until the verdict if what follows looks like what came so far; where it is None,
    `eta_reason` says why. `control` is what the A/A control says, in words, if the
    policy has one.
    """

    name: str
    verdict: Verdict = Verdict.CONTINUE
    pairs: int = 0
    elapsed_s: float = 0.0
    gates: tuple[GateState, ...] = ()
    gates_elapsed_s: float | None = None
    eta_s: float | None = None
    eta_reason: str | None = "no look yet"
    control: str | None = None

    def described(self, decision: Decision) -> "PolicyStatus":
        """Return this with the gates, and the A/A control, of a decision."""
        asked = decision.validity.control_share
        return replace(
            self,
            control=control_in_words(decision) if asked else None,
            gates=tuple(map(GateState.of, decision.gates)),
            gates_elapsed_s=decision.elapsed_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How much later than planned requests were sent over the last minute."""

    p50_s: float
    p99_s: float
    max_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """How a run stands.

    `elapsed_s` is the intended arrival of the last request, `wall_s` what the run has
    taken. `pace_per_s` (requests, of all arms at once) and `lag` are those of the last
    minute, None before there are any. `failures` and `restarts` count by arm and
    cause, `voids` requests by cause. Nobody knows how many requests are `planned` of
    live traffic. `eta_s` is that of the last policy to be decided. `unwritten` is why
    this could not be written to status.json, which says less then than whoever watches
    the process itself sees.
    """

    run: str
    state: RunState
    planned: int | None
    reason: str | None = None
    updated: str | None = None
    updated_unix_s: float | None = None
    pid: int | None = None
    host: str | None = None
    done: int = 0
    elapsed_s: float = 0.0
    wall_s: float = 0.0
    pace_per_s: float | None = None
    lag: Lag | None = None
    failures: dict[str, dict[str, int]] = field(default_factory=dict)
    restarts: dict[str, dict[str, int]] = field(default_factory=dict)
    voids: dict[str, int] = field(default_factory=dict)
    policies: tuple[PolicyStatus, ...] = ()
    eta_s: float | None = None
    eta_reason: str | None = None
    unwritten: str | None = None
    schema: Literal["canary.status/1"] = "canary.status/1"

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        values: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return values


_ADAPTER = TypeAdapter(RunStatus)


def write_status(folder: RunFolder, status: RunStatus) -> None:
    """Put the status at its place, whole or not at all, without waiting for the disk.

    Raises:
        StorageError: It can't be written.
    """
    text = _ADAPTER.dump_json(status, indent=1) + b"\n"
    write_atomically(folder.status_json, text, durable=False)


def kept_status(folder: RunFolder) -> RunStatus | None:
    """Return what the run's process wrote last; None if it never did.

    Raises:
        UsageError: The file is damaged.
    """
    try:
        return _ADAPTER.validate_json(folder.status_json.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise UsageError(
            f"{folder.status_json}: is damaged ({error.error_count()} faults, the "
            f"first: {error.errors()[0]['msg']}); delete it: the evidence doesn't "
            "need it"
        ) from error


def known_wall_s(folder: RunFolder, record: Mapping[str, Any]) -> float:
    """Return what the run has taken, as far as is known outside of its segments: it may
    have waited for hours after the last of them, for traffic or its schedule.

    Raises:
        UsageError: Its status is damaged.
    """
    status = kept_status(folder)
    watched_s = status.wall_s if status else 0.0
    return max(watched_s, float(record.get("wall_s", 0.0)))


def read_status(folder: RunFolder, *, wall_clock: Clock) -> RunStatus:
    """Return how a run stands, also if its process died before it could say so.

    Raises:
        UsageError: It is no run folder, its status is damaged, or it has none.
    """
    record = read_run(folder)
    found = kept_status(folder)
    if Lease(folder, wall_clock=wall_clock).is_taken():
        if found is None or found.state is RunState.INTERRUPTED:  # it is being resumed
            live = "live" in record
            planned = None if live else record["plan"]["requests"]
            fresh = found or RunStatus(
                run=record["run"], state=RunState.WARMING_UP, planned=planned
            )
            return replace(fresh, state=RunState.WARMING_UP, reason=None)
        return found
    if found is None:
        told = "ask `canary runs` for its verdicts"
        if record.get("ended") in (None, INTERRUPTED):
            told = f"go on with `canary resume {folder.root}`"
        raise UsageError(f"{folder.root}: the run left no status.json; {told}")
    if found.state is RunState.ENDED:
        return found
    stopped = found.state.over
    why = (
        "stopped in order" if stopped else f"its process is gone, as of {found.updated}"
    )
    return replace(
        found,
        state=RunState.INTERRUPTED,
        reason=f"{why}; go on with `canary resume {folder.root}`",
        eta_s=None,
        eta_reason="nothing more is sent",
    )
