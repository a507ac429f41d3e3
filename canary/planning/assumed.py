"""Arms as one assumes them to be for want of a pilot: equal, but for noise."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.special import ndtri
from scipy.stats import qmc

from canary.planning.needs import Expected
from canary.planning.schedule import Floats, Schedule
from canary.planning.tables import ARMS, table_of
from canary.policy.model import TIMED_METRICS, Gate, Policy
from canary.stats import pairs_needed, quantile_pairs_needed

_POINTS = 4096
_MEMORY_BYTES = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What is taken for granted about two arms that nobody has measured.

    Times are lognormal. Both arms share a request's own size (`spread`, the standard
    deviation of its log), and each adds noise of its own (`noise`).
    """

    right: float = 0.9
    differing: float = 0.02
    spread: float = 0.6
    noise: float = 0.05
    slow: float = 0.05
    load: float = 0.5

    def in_words(self, policy: Policy) -> tuple[str, ...]:
        """Return those that matter to a policy, one sentence part each."""
        metrics = {gate.metric for gate in policy.gates}
        said = []
        if "accuracy" in metrics:
            said.append(
                f"both arms are right on {self.right:.0%} of the validation groups; on "
                f"{self.differing:.0%} only one of them is, each as often"
            )
        if metrics & set(TIMED_METRICS):
            said.append(
                f"times are lognormal (sigma {self.spread:g}, the same in both arms, "
                f"and {self.noise:g} of noise in each), with no difference between them"
            )
        if any(gate.over_s for gate in policy.gates):
            said.append(f"{self.slow:.0%} of requests are slower than an `over` limit")
        if "service" in metrics:
            said.append(f"the baseline is busy {self.load:.0%} of the time")
        if "memory" in metrics:
            said.append("both arms need the same memory")
        if "errors" in metrics:
            said.append("no request fails")
        return tuple(said)

    def needs(self, policy: Policy) -> dict[str, Expected]:
        """Return by gate what it needs if everything comes in its assumed share."""
        points = qmc.Halton(1 + len(ARMS), scramble=False).random(_POINTS + 1)[1:]
        a, b = self._factors(points)
        return {gate.name: self._need(gate, policy, a, b) for gate in policy.gates}

    def _need(self, gate: Gate, policy: Policy, a: Floats, b: Floats) -> Expected:
        if gate.margin is not None:
            alone = self._differing(gate, a, b) / 2
            needed = pairs_needed(
                wins=alone,
                ties=1 - 2 * alone,
                losses=alone,
                null_mean=-gate.margin,
                alternative="greater",
                threshold_log_e=math.log(1 / policy.decision.alpha),
            )
            return Expected(units=needed, holds=True, reason=None)
        if gate.quantile is None or gate.max_ratio is None:
            raise ValueError(f"gate {gate.name} has neither a margin nor a quantile")
        if gate.metric == "memory":  # equal, but for what the judge breaks ties by
            a, b = 1 + 1e-9 * a / a.max(), np.ones_like(b)
        holds = gate.max_ratio >= 1
        rules = policy.decision
        needed = quantile_pairs_needed(
            a,
            b,
            p=gate.quantile,
            ratio=gate.max_ratio,
            alpha=rules.alpha if holds else rules.harm_alpha,
            hypothesis="hold" if holds else "broken",
        )
        return Expected(units=needed, holds=holds, reason=None)

    def _differing(self, gate: Gate, a: Floats, b: Floats) -> float:
        """Return the share of units in which only one arm does well."""
        if gate.over_s is None:
            return self.differing if gate.metric == "accuracy" else 0.0
        limit = np.quantile(a, 1 - self.slow)
        return float(np.mean((a > limit) != (b > limit)))

    def _factors(self, uniform: Floats) -> tuple[Floats, Floats]:
        """Return each arm's times over their median, from a point in the cube each."""
        shared = self.spread * ndtri(uniform[:, 0])
        a, b = (
            np.exp(shared + self.noise * ndtri(uniform[:, 1 + index]))
            for index in range(len(ARMS))
        )
        return a, b

    def sample(
        self, policy: Policy, schedule: Schedule, rng: np.random.Generator
    ) -> pa.Table:
        """Return what such arms make of a schedule by chance, as far as gates ask."""
        traffic = ~schedule.quality
        factors = self._factors(rng.random((int(traffic.sum()), 1 + len(ARMS))))
        scores = self._scores(schedule, rng)
        tables = []
        for index, arm in enumerate(ARMS):
            factor = np.full(len(schedule), np.nan)
            factor[traffic] = factors[index]
            measured: dict[str, Any] = {
                f"{metric}_s": factor * self._median_s(metric, policy, schedule)
                for metric in TIMED_METRICS
                if any(gate.metric == metric for gate in policy.gates)
            }
            memory = [_MEMORY_BYTES] * len(schedule)
            measured |= {"score": scores[index], "peak_memory_bytes": memory}
            tables.append(table_of(arm, schedule, measured))
        return pa.concat_tables(tables)

    def _median_s(self, metric: str, policy: Policy, schedule: Schedule) -> float:
        """Return a scale: quantile ratios don't depend on it, shares over a limit do,
        and so does the load that service times make."""
        width = math.hypot(self.spread, self.noise)
        if metric == "service":
            gap_s = schedule.span_s / max(len(schedule) - 1, 1)
            return self.load * (gap_s or 1.0) / math.exp(width**2 / 2)
        limits = [
            gate.over_s
            for gate in policy.gates
            if gate.metric == metric and gate.over_s
        ]
        return min(limits, default=1.0) * math.exp(width * float(ndtri(self.slow)))

    def _scores(
        self, schedule: Schedule, rng: np.random.Generator
    ) -> tuple[Floats, Floats]:
        """Groups are right or wrong as a whole: a group is what gates count."""
        groups = schedule.group[schedule.quality].astype(str)
        names, of_item = np.unique(groups, return_inverse=True)
        lot = rng.random(len(names))[of_item]
        alone = self.differing / 2
        shared = (lot >= 2 * alone) & (lot < self.right + alone)
        a, b = np.full((2, len(schedule)), np.nan)
        a[schedule.quality] = shared | (lot < alone)
        b[schedule.quality] = shared | ((lot >= alone) & (lot < 2 * alone))
        return a, b
