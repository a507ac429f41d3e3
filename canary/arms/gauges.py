"""What a dashboard shows of a run on Ray: gauges that Ray exports to Prometheus.

For people to watch, never to judge by: they are as of the last few seconds, and no
evidence.
"""

from typing import Any

from ray.util.metrics import Gauge

from canary.clock import Clock
from canary.decision import Verdict
from canary.keeper import Screen
from canary.status import RunStatus

_EVERY_S = 10.0
VERDICT_NUMBERS = {
    Verdict.CONTINUE: 0,
    Verdict.PROMOTE: 1,
    Verdict.ROLLBACK: 2,
    Verdict.INCONCLUSIVE: 3,
    Verdict.INVALID: 4,
}
"""What the gauge of a policy's verdict shows."""


class Gauges:
    """Passes a status on to a screen and, every ten seconds, to Ray.

    ``ray_canary_pairs`` (by run and policy), ``ray_canary_requests`` and
    ``ray_canary_send_lag_p99_seconds`` (by run), ``ray_canary_failures`` (by run and
    arm), ``ray_canary_verdict`` (by run and policy: 0 not decided, 1 promote,
    2 rollback, 3 inconclusive, 4 invalid). Ray must be there.
    """

    def __init__(self, screen: Screen, *, clock: Clock) -> None:
        self._screen = screen
        self._clock = clock
        self._set_s = float("-inf")
        self._requests = _gauge("requests", "Requests answered by all arms", "run")
        self._lag = _gauge(
            "send_lag_p99_seconds", "How late requests were sent lately", "run"
        )
        self._failures = _gauge("failures", "Answers that failed", "run", "arm")
        self._pairs = _gauge("pairs", "Pairs at the last look", "run", "policy")
        self._verdict = _gauge(
            "verdict",
            "0 not decided, 1 promote, 2 rollback, 3 inconclusive, 4 invalid",
            *("run", "policy"),
        )

    def due(self) -> bool:
        """Whether either wants the next status."""
        return self._screen.due() or self._clock() - self._set_s >= _EVERY_S

    def show(self, status: RunStatus) -> None:
        """Show it, and set the gauges."""
        self._screen.show(status)
        self._set_s = self._clock()
        run = {"run": status.run}
        self._requests.set(status.done, run)
        if status.lag is not None:  # unknown is not zero
            self._lag.set(status.lag.p99_s, run)
        for arm, causes in status.failures.items():
            self._failures.set(sum(causes.values()), {**run, "arm": arm})
        for policy in status.policies:
            of_policy = {**run, "policy": policy.name}
            self._pairs.set(policy.pairs, of_policy)
            self._verdict.set(VERDICT_NUMBERS[policy.verdict], of_policy)


def _gauge(name: str, what: str, *tags: str) -> Any:  # noqa: ANN401 - Ray has no types
    return Gauge(f"canary_{name}", description=what, tag_keys=tags)
