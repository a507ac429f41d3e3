"""The decision document: what a policy's verdict is, and everything it rests on."""

import json
import math
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from canary.errors import ExitCode

SCHEMA = "canary.decision/1"


class Verdict(StrEnum):
    """What may be said about a policy; `PROMOTE` and `ROLLBACK` are final."""

    PROMOTE = "promote"
    ROLLBACK = "rollback"
    CONTINUE = "continue"
    INCONCLUSIVE = "inconclusive"
    INVALID = "invalid"

    @property
    def final(self) -> bool:
        """Whether no later look may change it."""
        return self in (Verdict.PROMOTE, Verdict.ROLLBACK)

    @property
    def exit_code(self) -> ExitCode:
        """The exit code that a run with this verdict ends with."""
        return _EXIT_CODES[self]


_EXIT_CODES = {
    Verdict.PROMOTE: ExitCode.PROMOTE,
    Verdict.ROLLBACK: ExitCode.ROLLBACK,
    Verdict.CONTINUE: ExitCode.UNDECIDED,
    Verdict.INCONCLUSIVE: ExitCode.UNDECIDED,
    Verdict.INVALID: ExitCode.INVALID,
}


class GateStatus(StrEnum):
    """What the evidence so far says about one limit."""

    HOLDS = "holds"
    BROKEN = "broken"
    UNDECIDED = "undecided"
    INSUFFICIENT = "insufficient"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """One gate at one look.

    `estimate`, `lower` and `upper` are on the scale of `limit`: a difference
    (candidate - baseline) for `effect` "difference", a quotient (candidate /
    baseline) for "ratio". `baseline` and `candidate` are the two arms' own values in
    `unit` ("share", "s", "bytes", "tokens", "s/token"). None means that no finite
    value is known, never zero; `reason` then says why. `units_needed` is the total
    number of units at which the limit would be shown to hold or to be broken if what
    follows looks like what came so far; None if it would never be. The limit is shown
    to hold once `log_e_hold` reaches `threshold_hold`.

    A unit is a validation group (accuracy), a block of time of `block_s` seconds or,
    where that is None, a single request. `requests` is how many requests they hold, and
    `effective_pairs` how many independent ones those are worth; None if not known.
    `weighted_estimate` is the estimate with the weights that requests were stored with,
    where these differ: what the whole traffic would have shown.
    """

    name: str
    metric: str
    task: str | None
    regime: str | None
    quantile: float | None
    over_s: float | None
    effect: str
    unit: str
    limit: float
    at_least: bool
    estimate: float | None
    lower: float | None
    upper: float | None
    baseline: float | None
    candidate: float | None
    log_e_hold: float
    log_e_broken: float
    units: int
    units_needed: int | None
    status: GateStatus
    threshold_hold: float
    reason: str | None = None
    block_s: float | None = None
    requests: int = 0
    effective_pairs: float | None = None
    weighted_estimate: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The state of all gates at one look, kept for the evidence chart."""

    elapsed_s: float
    pairs: int
    verdict: Verdict
    log_e_hold: tuple[float, ...]
    log_e_broken: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Which arm serves prompts of one regime once the action is taken."""

    regime: str
    serve: str
    pairs: int
    why: str


class ControlStatus(StrEnum):
    """What the A/A control says about one metric so far."""

    AGREES = "agrees"
    DIFFERS = "differs"
    UNKNOWN = "can't tell yet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """The baseline's second copy against the baseline, in one metric of the limits.

    `column` is what was compared. For `effect` "ratio" the values are copy / baseline:
    the median of the requests' own ratios or, with a `quantile`, the ratio of the two
    quantiles. For "difference" they are copy - baseline. Each bound is one-sided at
    the policy's alpha; None means that no finite value is known. `pairs` counts
    validation groups for accuracy. Up to `tolerance` (or one through it) in either
    direction the two count as equal.
    """

    metric: str
    column: str
    effect: str
    quantile: float | None
    over_s: float | None
    tolerance: float
    estimate: float | None
    lower: float | None
    upper: float | None
    pairs: int
    log_e_differs: float
    status: ControlStatus

    @property
    def block_s(self) -> None:
        """Its numbers are of pairs, also where blocks of them were bet on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """Whether the evidence can be trusted; `reasons` say why not, one sentence each.

    The A/A control answers `control_share` of the requests if the policy asks for it;
    so far it has answered `control_pairs` beside the baseline. `late_share` of the
    pairs were sent too late; None where arms take turns.
    """

    valid: bool
    reasons: tuple[str, ...]
    void_share: float
    missing_baseline: int
    missing_candidate: int
    baseline_load: float | None
    kernels: dict[str, list[str]]
    devices: dict[str, list[str]]
    late_share: float | None = None
    control_share: float = 0.0
    control_pairs: int = 0
    control: tuple[Control, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The verdict of one policy, with everything needed to check and repeat it."""

    run: str
    policy: str
    policy_sha256: str
    verdict: Verdict
    because: tuple[str, ...]
    elapsed_s: float
    action: str
    pairs: int
    units: int
    gates: tuple[GateResult, ...]
    validity: Validity
    routing: tuple[Route, ...]
    log_e_rollback: float
    threshold_rollback: float
    baseline: str
    candidate: str
    looks: tuple[Look, ...]
    repeat: dict[str, Any] = field(default_factory=dict)
    override: dict[str, str] | None = None
    cost: dict[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the document as plain JSON values; what isn't finite becomes null."""
        return {"schema": SCHEMA, **_plain(asdict(self))}

    def to_json(self) -> str:
        """Return the document as text, stable to the byte for equal decisions."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:  # noqa: ANN401 - walks values of any JSON-like shape
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def worst_exit_code(verdicts: list[Verdict]) -> ExitCode:
    """Return the exit code of several policies: the worst, with promote the best."""
    order = (
        ExitCode.INVALID,
        ExitCode.ROLLBACK,
        ExitCode.UNDECIDED,
        ExitCode.PROMOTE,
    )
    codes = {verdict.exit_code for verdict in verdicts}
    return next(code for code in order if code in codes)
