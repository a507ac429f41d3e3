"""What a report says about the A/A control: estimates, bounds, what it could tell."""

import math
from bisect import bisect_left

import numpy as np

from canary.decision import Control, ControlStatus, GateStatus
from canary.evidence.blocks import Ints
from canary.gates.common import Weight
from canary.gates.control import (
    ControlEvidence,
    ControlScale,
    ControlWeight,
    _Difference,
    _Quantiles,
    ratio_of,
)
from canary.policy.model import Policy
from canary.stats import paired_log_e
from canary.stats.betting import log_mean_exp
from canary.stats.block_cells import Gain, above, below, bet
from canary.stats.grid import INFINITE_BIN, upper_ends

_WINDOW = 2000  # bins on either side of a median: a factor of e


def describe_control(
    policy: Policy,
    scale: ControlScale,
    evidence: ControlEvidence,
    columns: dict[str, list[str]],
) -> tuple[Control, ...]:
    """Return everything a report says about the control, with estimates and bounds.

    A metric counts as different when its own share of the mean reaches the threshold,
    or when it carries most of a mean that only all metrics together have reached.
    """
    if not evidence.weights:
        return ()
    alone = evidence.threshold + math.log(len(evidence.weights))
    strongest = max(weight.log_e_differs for weight in evidence.weights)
    return tuple(
        _describe(
            metric,
            weight,
            policy,
            column=_column(weight, columns),
            differs=weight.log_e_differs >= alone
            or (evidence.differs and weight.log_e_differs == strongest),
        )
        for metric, weight in zip(scale.metrics, evidence.weights, strict=True)
    )


def _column(weight: ControlWeight, columns: dict[str, list[str]]) -> str:
    metric = weight.gate.metric
    named = {"accuracy": "score", "errors": "status", "agreement": "agreement",
             "output_tokens": "output_tokens"}  # fmt: skip
    return next(iter(columns.get(metric, ())), named.get(metric, f"{metric}_s"))


def _describe(
    metric: _Difference | _Quantiles,
    weight: ControlWeight,
    policy: Policy,
    *,
    column: str,
    differs: bool,
) -> Control:
    gate, alpha = weight.gate, policy.decision.alpha
    by_quantile = differs and weight.by_quantile
    if isinstance(metric, _Quantiles) and not by_quantile:
        estimate, lower, upper, pairs = _median(metric, policy, alpha)
    else:
        scales = (
            metric.scales
            if isinstance(metric, _Difference)
            else (metric.by_gate[metric.gates.index(gate)])
        )
        # As broken: nobody asks how many more are needed.
        of_gate = Weight(log_e_hold=0.0, log_e_broken=weight.log_e_differs,
                         threshold_hold=math.log(1 / alpha))  # fmt: skip
        found = scales[0].describe(of_gate, GateStatus.BROKEN)
        estimate, lower, upper = found.estimate, found.lower, found.upper
        pairs = found.units if gate.metric == "accuracy" else found.requests
    tolerance = gate.margin if gate.margin is not None else ratio_of(gate)
    inside = 1 / tolerance if gate.quantile else -tolerance
    status = ControlStatus.UNKNOWN
    if differs:
        status = ControlStatus.DIFFERS
    elif lower is not None and upper is not None:
        agrees = inside <= lower and upper <= tolerance
        status = ControlStatus.AGREES if agrees else ControlStatus.UNKNOWN
    return Control(
        metric=gate.metric,
        column=column,
        effect="ratio" if gate.quantile else "difference",
        quantile=gate.quantile if by_quantile else None,
        over_s=gate.over_s,
        tolerance=tolerance,
        estimate=estimate,
        lower=lower,
        upper=upper,
        pairs=pairs,
        log_e_differs=weight.log_e_differs,
        status=status,
    )


def _median(
    metric: _Quantiles, policy: Policy, alpha: float
) -> tuple[float | None, float | None, float | None, int]:
    """Return the median of the requests' own ratios with bounds, and their number."""
    rows = metric.single[0].counting()
    if rows is None or not len(rows["block"]):
        return None, None, None, 0
    ratios = np.asarray(rows["ratio"], np.int64)
    estimate = int(np.quantile(ratios, 0.5, method="inverted_cdf"))
    if not policy.decision.by_request:
        units = metric.single[0].units_of(rows)
        lower, upper = _by_block(ratios, units, estimate, alpha)
    else:
        lower, upper = _by_request(np.sort(ratios), alpha)
    return _value(estimate), _value(lower), _value(upper), len(ratios)


def _by_request(ratios: Ints, alpha: float) -> tuple[int | None, int | None]:
    """Invert the sign test: `least` of n ratios on one side of a number show that the
    median is on that side too."""
    count, threshold = len(ratios), math.log(1 / alpha)
    low, least = 0, count + 1
    while least - low > 1:
        middle = (low + least) // 2
        shown = paired_log_e(middle, 0, count - middle) >= threshold
        low, least = (low, middle) if shown else (middle, least)
    if least > count:
        return None, None
    return int(ratios[count - least]), int(ratios[least - 1])


def _by_block(
    ratios: Ints, units: Ints, near: int, alpha: float
) -> tuple[int | None, int | None]:
    """Bet, at bins near the median, on the share of ratios up to it.

    A share of more ratios is never shown to be less, so that two searches find the
    last bin with too few of them and the first one with too many.
    """
    requests = np.bincount(units)
    near_by = range(near - _WINDOW, near + _WINDOW)

    def shown(bin_: int, gain: Gain) -> bool:
        inside = np.bincount(units[ratios <= bin_], minlength=len(requests))
        log_wealth = bet(inside[:, None], requests, gain)[0]
        return float(log_mean_exp(log_wealth)[0]) >= math.log(1 / alpha)

    few = bisect_left(near_by, True, key=lambda at: not shown(at, below(0.5)))
    many = bisect_left(near_by, True, key=lambda at: shown(at, above(0.5)))
    return (
        near_by[few - 1] if few else None,
        near_by[many] if many < len(near_by) else None,
    )


def _value(bin_: int | None) -> float | None:
    if bin_ is None or abs(bin_) >= INFINITE_BIN:
        return None
    return float(upper_ends([bin_])[0])
