"""Keeps a run's status while it runs: pace, lag, failures, gates, time to verdict.

Memory is bounded whatever a run's length, and what costs much is rationed: gates are
described for 2 % of the run's time, the file is written every ten seconds.
"""

import math
import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

import numpy as np

from canary.clock import Clock
from canary.decision import Decision, GateResult, GateStatus, Look, Verdict
from canary.errors import StorageError
from canary.evidence.aside import aside
from canary.evidence.journal import RunFolder
from canary.evidence.observation import Observation, Status
from canary.policy.model import Policy
from canary.record import read_run
from canary.status import (
    Lag,
    PolicyStatus,
    RunState,
    RunStatus,
    kept_status,
    write_status,
)
from canary.watches import INTERRUPTED

_RECENT_S = 60.0
_RECENT_REQUESTS = 6000
_WRITE_EVERY_S = 10.0
_DESCRIBING_SHARE = 0.02
_CAUSES = 8
_OTHER = "other causes"


class Screen(Protocol):
    """Shows a status to somebody."""

    def due(self) -> bool:
        """Whether it is time to show the next one."""
        ...

    def show(self, status: RunStatus) -> None:
        """Show this one."""
        ...


@dataclass(frozen=True, slots=True)
class Expected:
    """At which time of the traffic a verdict is expected, or why at none."""

    at_s: float | None
    reason: str | None


def expected_verdict(policy: Policy, decision: Decision, *, end_s: float) -> Expected:
    """Return when a verdict may be expected, if units go on coming as they came so far.

    The slowest gate counts, and the policy's minimum of pairs and time.

    Args:
        policy: What is to be decided.
        decision: The gates as of a look.
        end_s: When the traffic ends.
    """
    rules = policy.decision
    if decision.verdict.final:
        return Expected(None, "decided")
    if decision.verdict is Verdict.INVALID:
        return Expected(None, "the evidence can't be trusted so far")
    if not decision.pairs:
        return Expected(None, "no pair yet")
    needed_s = [
        decision.elapsed_s,
        rules.min_duration_s,
        decision.elapsed_s * rules.min_pairs / decision.pairs,
    ]
    for gate in decision.gates:
        if gate.status in (GateStatus.UNDECIDED, GateStatus.INSUFFICIENT):
            if gate.units_needed is None or not gate.units:
                return Expected(None, _no_end(gate))
            needed_s.append(decision.elapsed_s * gate.units_needed / gate.units)
    looks = math.ceil(max(needed_s) / rules.look_every_s)
    at_s = max(looks * rules.look_every_s, decision.elapsed_s)
    limits = (
        (end_s, "not before the traffic ends"),
        (rules.max_duration_s, "not before max_duration is reached"),
    )
    for limit_s, told in limits:
        if at_s > limit_s:
            return Expected(None, told)
    return Expected(at_s, None)


def _no_end(gate: GateResult) -> str:
    if not gate.units:
        return f"nothing measured yet for {gate.name}"
    return f"more of the same would not decide {gate.name}"


class StatusKeeper:
    """A listener for `canary.runner.Runner` that keeps `status.json` up to date.

    Args:
        folder: The run folder; it is there once the runner says anything.
        policies: What is to be decided.
        screen: Shows the status as often as it likes.
        clock: Monotonic seconds.
        wall_clock: Seconds since the epoch.
        tell: Is given the decision on each policy that has its final verdict.
    """

    def __init__(
        self,
        folder: RunFolder,
        policies: Sequence[Policy],
        *,
        screen: Screen,
        clock: Clock,
        wall_clock: Clock,
        tell: Callable[[Decision], None] = lambda _: None,
    ) -> None:
        self._folder = folder
        self._screen = screen
        self._clock = clock
        self._wall_clock = wall_clock
        self._tell = tell
        self._policies = {one.name: PolicyStatus(name=one.name) for one in policies}
        self._expected: dict[str, Expected] = {}
        self._recent: deque[tuple[float, float, float]] = deque(maxlen=_RECENT_REQUESTS)
        self._run, self._state, self._reason = "", RunState.RUNNING, ""
        self._done = 0
        self._planned: int | None = None
        self._elapsed_s = self._earlier_s = 0.0
        self._end_s = math.inf
        self._failures: dict[str, Counter[str]] = {}
        self._restarts: dict[str, Counter[str]] = {}
        self._voids: Counter[str] = Counter()
        self._describing_s = self._last_described_s = 0.0
        self._written_s = -math.inf
        self._began_s: float | None = None
        self._unwritten: str | None = None
        self._beside: Future[None] | None = None

    def answered(
        self,
        *,
        done: int,
        planned: int | None,
        rows: Sequence[Observation],
        lag_s: float,
    ) -> None:
        """Count a request, its lag and its failures."""
        self._go_on()
        self._reason = ""
        self._done, self._planned = done, planned
        self._elapsed_s = rows[0].arrived_s
        self._recent.append((self._clock(), self._elapsed_s, lag_s))
        if rows[0].status is Status.VOID:
            self._voids[_cause(rows[0])] += 1
        for row in rows:
            if row.status in (Status.ERROR, Status.TIMEOUT):
                self._count_failure(row)
        self._publish()

    def looked(
        self, policy: Policy, found: Look, describe: Callable[[], Decision]
    ) -> None:
        """Take up a look; describe its gates if that is affordable, or final."""
        began_s = self._begin()
        known = replace(
            self._policies[policy.name],
            verdict=found.verdict,
            pairs=found.pairs,
            elapsed_s=found.elapsed_s,
        )
        next_s = self._describing_s + self._last_described_s
        allowed_s = _DESCRIBING_SHARE * (self._clock() - began_s)
        if found.verdict.final or next_s <= allowed_s:
            before_s = self._clock()
            decision = describe()
            self._last_described_s = self._clock() - before_s
            self._describing_s += self._last_described_s
            known = known.described(decision)
            self._expected[policy.name] = expected_verdict(
                policy, decision, end_s=self._end_s
            )
            if found.verdict.final:
                self._tell(decision)
        self._policies[policy.name] = known
        self._publish(at_once=found.verdict.final)

    def revived(self, arm: str, cause: str) -> None:
        """Count a restart by its cause."""
        self._begin()
        self._restarts.setdefault(arm, Counter())[cause] += 1
        self._publish()

    def waiting(self, why: str | None = None) -> None:
        """Show that the run is alive although nothing happens, and why if it may not
        send."""
        self._go_on()
        self._reason = why or ""
        self._publish()

    def paused(self, why: str) -> None:
        """Show why nothing is sent."""
        self._begin()
        news = self._state is not RunState.PAUSED or why != self._reason
        self._state, self._reason = RunState.PAUSED, why
        self._publish(at_once=news)

    def ended(self, reason: str) -> None:
        """Write and show the last status of this process."""
        self._begin()
        interrupted = reason == INTERRUPTED
        self._state = RunState.INTERRUPTED if interrupted else RunState.ENDED
        self._reason = reason
        self._publish(at_once=True)

    def status(self) -> RunStatus:
        """Return how the run stands now."""
        now_s, unix_s = self._clock(), self._wall_clock()
        while self._recent and self._recent[0][0] < now_s - _RECENT_S:
            self._recent.popleft()
        policies = tuple(self._with_eta(one, now_s) for one in self._policies.values())
        eta_s, eta_reason = _last_of(policies)
        return RunStatus(
            run=self._run,
            state=self._state,
            reason=self._reason or None,
            updated=datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds"),
            updated_unix_s=unix_s,
            pid=os.getpid(),
            host=socket.gethostname(),
            done=self._done,
            planned=self._planned,
            elapsed_s=self._elapsed_s,
            wall_s=self._earlier_s + now_s - self._begin(),
            pace_per_s=self._pace_per_s(now_s),
            lag=self._lag(),
            failures={arm: dict(causes) for arm, causes in self._failures.items()},
            restarts={arm: dict(causes) for arm, causes in self._restarts.items()},
            voids=dict(self._voids),
            policies=policies,
            eta_s=eta_s,
            eta_reason=eta_reason,
            unwritten=self._unwritten,
        )

    def _go_on(self) -> None:
        self._begin()
        if self._state is RunState.PAUSED:
            self._state, self._reason = RunState.RUNNING, ""
            self._publish(at_once=True)

    def _begin(self) -> float:
        """Take up, at the first word from the runner, what is there; return when."""
        if self._began_s is None:
            self._began_s = self._clock()
            record = read_run(self._folder)
            self._run = record["run"]
            if "live" not in record:
                self._end_s = record["plan"]["span_s"]
                self._planned = record["plan"]["requests"]
            earlier = kept_status(self._folder)
            if earlier:
                self._done, self._elapsed_s = earlier.done, earlier.elapsed_s
                self._earlier_s = earlier.wall_s
                self._voids.update(earlier.voids)
                for counts, kept in (
                    (self._failures, earlier.failures),
                    (self._restarts, earlier.restarts),
                ):
                    counts |= {arm: Counter(causes) for arm, causes in kept.items()}
        return self._began_s

    def _count_failure(self, row: Observation) -> None:
        causes = self._failures.setdefault(row.arm, Counter())
        cause = _cause(row)
        full = len(causes) >= _CAUSES and cause not in causes
        causes[_OTHER if full else cause] += 1

    def _pace_per_s(self, now_s: float) -> float | None:
        if len(self._recent) < 2 or now_s <= self._recent[0][0]:
            return None
        return (len(self._recent) - 1) / (now_s - self._recent[0][0])

    def _lag(self) -> Lag | None:
        if not self._recent:
            return None
        late_s = np.array([lag_s for _, _, lag_s in self._recent])
        p50_s, p99_s = np.quantile(late_s, (0.5, 0.99), method="inverted_cdf")
        return Lag(p50_s=float(p50_s), p99_s=float(p99_s), max_s=float(late_s.max()))

    def _with_eta(self, policy: PolicyStatus, now_s: float) -> PolicyStatus:
        expected = self._expected.get(policy.name)
        if expected is None:
            return policy
        if self._state.over and not policy.verdict.final:
            return replace(policy, eta_s=None, eta_reason="nothing more is sent")
        if expected.at_s is None:
            return replace(policy, eta_s=None, eta_reason=expected.reason)
        eta_s = (expected.at_s - self._elapsed_s) / self._traffic_speed()
        if self._recent:
            eta_s -= now_s - self._recent[-1][0]
        return replace(policy, eta_s=max(eta_s, 0.0), eta_reason=None)

    def _traffic_speed(self) -> float:
        """Seconds of traffic per second: less than 1 while the arms can't keep up."""
        if not self._recent:
            return 1.0
        (first_s, from_s, _), (last_s, to_s, _) = self._recent[0], self._recent[-1]
        passed = from_s < to_s and first_s < last_s
        return (to_s - from_s) / (last_s - first_s) if passed else 1.0

    def _publish(self, *, at_once: bool = False) -> None:
        if at_once or self._clock() - self._written_s >= _WRITE_EVERY_S:
            self._written_s = self._clock()
            self._write()
        if at_once or self._screen.due():
            self._screen.show(self.status())

    def _write(self) -> None:
        """Write the file if that is possible: no evidence depends on it.

        At a URL it is written beside the loop but for the last time, and not while the
        one before is.
        """
        over = self._state.over
        if self._beside is not None and not self._beside.done() and not over:
            return
        if self._beside is not None:
            self._take_note(self._beside.result)
        status = replace(self.status(), unwritten=None)
        if self._folder.remote and not over:
            self._beside = aside(lambda: write_status(self._folder, status))
        else:
            self._beside = None
            self._take_note(lambda: write_status(self._folder, status))

    def _take_note(self, written: Callable[[], None]) -> None:
        try:
            written()
        except StorageError as error:
            self._unwritten = error.reason
        else:
            self._unwritten = None


def _cause(row: Observation) -> str:
    return (row.error or "").partition(":")[0].strip()[:40] or row.status.value


def _last_of(policies: Sequence[PolicyStatus]) -> tuple[float | None, str | None]:
    """The time until every policy is decided, or why one never is."""
    pending = [policy for policy in policies if not policy.verdict.final]
    if not pending:
        return None, "every policy is decided"
    for policy in pending:
        if policy.eta_s is None:
            return None, f"{policy.name}: {policy.eta_reason}"
    return max(policy.eta_s for policy in pending if policy.eta_s is not None), None
