"""The least evidence that can show a limit to hold, and whether a run can hold it.

Nothing is measured yet: this is the price of betting. A unit that gains at most v
multiplies what a bettor owns by at most 1 + v, so that it takes about 4.5/v units to
show anything at 5%, even if nothing at all goes wrong.
"""

import math

from canary.policy.model import Gate
from canary.policy.rules import DecisionRules
from canary.policy.units import BASE_BLOCK_S, LONGEST_S, duration_text
from canary.stats import pairs_needed, quantile_pairs_needed
from canary.stats.betting import log_threshold
from canary.stats.block_cells import least_blocks

_AT_MOST = 10**12  # units; every limit that a policy can write takes fewer


def least_units(gate: Gate, rules: DecisionRules) -> int:
    """Return how many units show a limit to hold if nothing at all goes wrong.

    For a margin: as many as both arms must do equally well on. For a quantile on
    requests, or on blocks of time: as many as bound the baseline's own quantile.

    Raises:
        ValueError: The gate has neither a margin nor a quantile.
    """
    if gate.margin is not None:
        return _ties_needed(gate.margin, rules.alpha)
    if gate.quantile is None:
        raise ValueError(f"gate {gate.name} has neither a margin nor a quantile")
    if not rules.by_request:
        return least_blocks(gate.quantile, set_alpha=rules.alpha / 10)
    needed = quantile_pairs_needed(
        [],
        [],
        p=gate.quantile,
        ratio=1.0,
        alpha=rules.alpha,
        hypothesis="hold",
        at_most=_AT_MOST,
    )
    return _known(needed)


def shortfall(gate: Gate, rules: DecisionRules) -> str | None:
    """Return why a run that counts blocks can't decide a limit, and what to write.

    None if it can hold as many blocks as the limit takes at the least, or if the limit
    is on accuracy, whose groups have no blocks.
    """
    if gate.metric == "accuracy":
        return None
    block_s, needed = rules.least_block_s, least_units(gate, rules)
    held = int((rules.max_duration_s - rules.calibration_s) // block_s)
    if needed <= held:
        return None
    after = ""
    if rules.calibration_s:
        after = f" after the {duration_text(rules.calibration_s)} that set their length"
    return (
        f"takes {needed:,} blocks of time even if nothing goes wrong, but max_duration "
        f"holds {held:,} of {duration_text(block_s)}{after}; "
        f"write {', or '.join(_ways_out(gate, rules, needed))}"
    )


def _ways_out(gate: Gate, rules: DecisionRules, needed: int) -> list[str]:
    ways = []
    enough_s = rules.calibration_s + needed * rules.least_block_s
    enough_s = math.ceil(enough_s / _step_s(enough_s)) * _step_s(enough_s)
    if enough_s <= LONGEST_S:
        ways.append(f"max_duration: {duration_text(enough_s)} or more")
    shorter_s = rules.max_duration_s / needed
    shorter_s = shorter_s // _step_s(shorter_s) * _step_s(shorter_s)
    if shorter_s and rules.block != "auto":
        ways.append(f"block: {duration_text(shorter_s)} or less")
    ways.append("a wider margin" if gate.quantile is None else "a lower quantile")
    return ways


def _step_s(duration_s: float) -> float:
    """Return to what a duration of this size is rounded: whole blocks, and readable."""
    if duration_s < 600:
        return BASE_BLOCK_S
    return 60.0 if duration_s < 86400 else 3600.0


def _ties_needed(margin: float, alpha: float) -> int:
    needed = pairs_needed(
        wins=0,
        ties=1,
        losses=0,
        null_mean=-margin,
        alternative="greater",
        threshold_log_e=log_threshold(alpha),
        at_most=_AT_MOST,
    )
    return _known(needed)


def _known(needed: int | None) -> int:
    if needed is None:
        raise ValueError(f"no number of units up to {_AT_MOST:,} would do")
    return needed
