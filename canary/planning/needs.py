"""How many units a gate needs: at least, and going by what a sample shows."""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from canary.decision import GateResult, GateStatus
from canary.errors import ObservationError
from canary.judge import judge
from canary.planning.schedule import Floats
from canary.policy.model import Gate, Policy
from canary.stats import pairs_needed, quantile_pairs_needed

_RANKS = 20_000
_HALVINGS = 12
_FIRST_LOOK = 16
_FOREVER_S = 1e12


def at_least(gate: Gate, policy: Policy, requests_each: float) -> int | None:
    """Return how many units a gate needs even if nothing is ever lost.

    For a limit on a difference: units without any difference. For one on a ratio of
    quantiles: pairs in which the candidate is never the slower, so many that the
    baseline's own quantile has a finite bound and that what lies above it is evidence
    enough. Where units are blocks of time, both take a number of blocks as well. None
    if no number is enough.

    Args:
        gate: The limit.
        policy: Its policy.
        requests_each: Requests in a unit, on average.
    """
    alpha = policy.decision.alpha
    if gate.margin is not None:
        return _steps(gate.margin / (1 - gate.margin), math.log(1 / alpha))
    if gate.quantile is None:
        raise ValueError(f"gate {gate.name} has neither a margin nor a quantile")
    never_slower = np.arange(1.0, _RANKS + 1), np.zeros(_RANKS)
    pairs = quantile_pairs_needed(
        *never_slower, p=gate.quantile, ratio=1.0, alpha=alpha, hypothesis="hold"
    )
    if pairs is None or policy.decision.by_request:
        return pairs
    blocks = _quantile_blocks(gate.quantile, alpha)
    return None if blocks is None else max(blocks, blocks_for(pairs, requests_each))


def _quantile_blocks(p: float, alpha: float) -> int | None:
    """Return how many blocks decide a quantile when the candidate is never slower.

    Of the share 1 - p above the quantile a block's bets can gain only what lies above
    the bound as evidence, and only the rest against values beyond it: the bound comes
    to rest where both take the same number of blocks.
    """
    evidence, bound = math.log(1 / (alpha - alpha / 10)), math.log(10 / alpha)

    def needed(share: float) -> tuple[int | None, int | None]:
        return (
            _steps(share * (1 - p), evidence),
            _steps((1 - share) * (1 - p) / p, bound),
        )

    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        blocks = needed(middle)
        if None in blocks:
            return None
        ahead = (blocks[0] or 0) > (blocks[1] or 0)
        low, high = (middle, high) if ahead else (low, middle)
    return max(blocks[0] or 0, blocks[1] or 0)


def _steps(gain: float, threshold: float) -> int | None:
    """Return how many gains of at most this share of the stake reach a threshold.

    The bettor of share u grows by 1 + u * gain each time, as `pairs_needed` has it for
    units without a difference and a margin of gain / (1 + gain).
    """
    return pairs_needed(
        wins=0,
        ties=1,
        losses=0,
        null_mean=-gain / (1 + gain),
        alternative="greater",
        threshold_log_e=threshold,
    )


def blocks_for(pairs: int, requests_each: float) -> int:
    """Return how many blocks hold so many requests."""
    return math.ceil(pairs / requests_each)


def likely_blocks(
    gate: Gate, least: int | None, pairs: int, requests_each: float
) -> int:
    """Return about how many blocks show a limit to hold that takes so many pairs.

    A block's gain is limited, however many requests it holds (`least` blocks), and so
    is what its requests tell. Against simulated blocks of 2 and of 10 requests a margin
    takes the larger of both numbers, within a fifth. A quantile takes their sum, within
    two fifths: its bound and its evidence share what lies above it.
    """
    blocks = blocks_for(pairs, requests_each)
    if least is None:
        return blocks
    return least + blocks if gate.quantile is not None else max(least, blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a gate needs if everything looks like a sample.

    `units` are requests or validation groups until the limit is shown to hold or, if
    `holds` is false, to be broken; None if it never would be. `reason` says why the
    sample can't tell.
    """

    units: int | None
    holds: bool
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """What a policy needs by gate if everything looks like a sample of so many pairs.

    `doubts` say why the sample can't be trusted, if it can't.
    """

    needs: dict[str, Expected]
    pairs: int
    span_s: float
    doubts: tuple[str, ...]


def project(policy: Policy, observations: pa.Table) -> Projection:
    """Return what each gate needs, judged on growing beginnings of a sample.

    A gate that the sample decides needs what it took there: between two beginnings,
    what the shorter one projects. Any other needs what the whole sample projects.

    Raises:
        ObservationError: The sample lacks an arm, or pairs.
    """
    decisions = [
        judge(_judged_once(policy), beginning, run="plan")
        for beginning in _beginnings(observations)
    ]
    whole = decisions[-1]
    if not whole.pairs:
        raise ObservationError(
            "there is no request in the pilot that both "
            f"{whole.baseline} and {whole.candidate} have answered"
        )
    return Projection(
        needs={
            gate.name: _expected([decision.gates[index] for decision in decisions])
            for index, gate in enumerate(policy.gates)
        },
        pairs=whole.pairs,
        span_s=whole.elapsed_s,
        doubts=whole.validity.reasons,
    )


def _judged_once(policy: Policy) -> Policy:
    """Return the policy with a single look, where the evidence ends, and requests as
    units: how many of them make a block is the schedule's affair, not the sample's."""
    rules = policy.decision.model_copy(
        update={
            "look_every_s": _FOREVER_S,
            "max_duration_s": _FOREVER_S,
            "block": "request",
        }
    )
    return policy.model_copy(update={"decision": rules})


def _beginnings(observations: pa.Table) -> list[pa.Table]:
    """Return what arrived with the first 16, 23, 33, ... requests, and all of it."""
    counting = observations.filter(pc.invert(pc.fill_null(observations["warm"], False)))
    stamps = np.sort(_first_arrivals_s(counting))
    found, count = [], _FIRST_LOOK
    while count < len(stamps):
        found.append(counting.filter(pc.less(counting["arrived_s"], stamps[count])))
        count = math.ceil(count * math.sqrt(2))
    return [*found, counting]


def _first_arrivals_s(table: pa.Table) -> Floats:
    first = table.group_by("request_id").aggregate([("arrived_s", "min")])
    return np.asarray(first["arrived_s_min"].to_numpy(), dtype=np.float64)


def _expected(looks: list[GateResult]) -> Expected:
    last = looks[-1]
    if last.status not in (GateStatus.HOLDS, GateStatus.BROKEN):
        return Expected(
            units=last.units_needed, holds=_points_to_hold(last), reason=last.reason
        )
    decided = len(looks) - 1
    while decided and looks[decided - 1].status is last.status:
        decided -= 1
    units = looks[decided].units
    if decided:
        before = looks[decided - 1]
        projected = before.units_needed or units
        units = min(max(projected, before.units + 1), units)
    return Expected(units=units, holds=last.status is GateStatus.HOLDS, reason=None)


def _points_to_hold(gate: GateResult) -> bool:
    """Return which way an estimate points; what isn't known points nowhere yet."""
    if gate.estimate is None:
        return True
    return (gate.estimate > gate.limit) == gate.at_least
