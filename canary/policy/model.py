"""What a policy says, as frozen values. `canary.policy.load` makes them from YAML.

Names on the left of an alias carry the unit; the alias is what a policy file writes.
The text under each field is what `canary schema` tells an editor about it.
"""

import re
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StrictFloat,
    StrictStr,
    StringConstraints,
    WithJsonSchema,
)

from canary.policy.placement import Placement
from canary.policy.rules import DecisionRules
from canary.policy.schedule import Hooks, Schedule
from canary.policy.traffic import REST, Traffic
from canary.policy.units import (
    Percentile,
    PositiveDurationS,
    Share,
    ShareOrOff,
    Tokens,
    percentile_text,
    shown,
    tokens_text,
)
from canary.policy.value import Value

Metric = Literal[
    "accuracy",
    "agreement",
    "ttft",
    "tpot",
    "latency",
    "service",
    "errors",
    "memory",
    "output_tokens",
]
TIMED_METRICS = ("ttft", "tpot", "latency", "service")

_TIMED_FORMS = (("quantile", "max_ratio"), ("over", "margin"))
GATE_FORMS: dict[str, tuple[tuple[str, ...], ...]] = {
    "accuracy": (("margin",),),
    "agreement": (("margin",),),
    "errors": (("margin",),),
    **dict.fromkeys(TIMED_METRICS, _TIMED_FORMS),
    "memory": (("quantile", "max_ratio"),),
    "output_tokens": (("quantile", "max_ratio"),),
}
"""The ways to state a limit, per metric, as the keys that each way needs."""

MODEL_LAYERS = {"reference": 4}
"""The models that a variant can have, and how many layers each has."""

DEFAULT_REGIMES_TOKENS = (8 * 1024, 32 * 1024, 128 * 1024)

_Text = Annotated[StrictStr, StringConstraints(min_length=1)]


class Place(NamedTuple):
    """Where something stands in a policy file; line and column count from 1."""

    file: str
    line: int
    column: int


def _attention(value: object) -> object:
    if not isinstance(value, (str, dict)) or not value:
        raise ValueError(
            f"expected an attention pattern, got {shown(value)}; write dense or "
            "for example {pattern: sliding_window, window: 256}"
        )
    return value


_LABEL_PATTERN = r"^[a-z0-9][a-z0-9-]{0,31}$"


def _label(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(_LABEL_PATTERN, value):
        raise ValueError(
            "expected at most 32 small letters, digits and '-', got "
            f"{shown(value)}; write for example copy"
        )
    return value


_MOST_LAG_S = 0.05

ENDPOINT_SCHEMES = ("http://", "https://")


class VariantSpec(Value):
    """A model with an attention pattern, or a server, as a policy names it."""

    model: _Text = Field(examples=["reference"])
    """The model: `reference`, the small model that ships, or the address of a server
    that speaks OpenAI's protocol, such as http://localhost:8000/v1."""

    attention: Annotated[str | dict[str, Any], BeforeValidator(_attention)] = "dense"
    """The attention pattern: `dense`, a mapping such as `{pattern: sliding_window,
    window: 256}`, or `{layers: {0-2: {...}, 3: dense}}` for a pattern per layer. Not
    for a server, whose attention is its own business."""

    served_model: _Text | None = None
    """What a server calls the model that is asked."""

    api_key_env: _Text | None = None
    """The environment variable that holds the server's key, if it wants one."""

    label: (
        Annotated[
            str,
            BeforeValidator(_label),
            WithJsonSchema({"type": "string", "pattern": _LABEL_PATTERN}),
        ]
        | None
    ) = Field(default=None, examples=["copy"])
    """Tells a variant from one that is otherwise equal: for an A/A run, in which the
    candidate is the baseline once more."""

    @property
    def is_endpoint(self) -> bool:
        """Whether it is a server that runs elsewhere."""
        return self.model.startswith(ENDPOINT_SCHEMES)


class Budget(Value):
    """What a run may cost; spending it stops the run in order, as a deadline does."""

    gpu_hours: StrictFloat = Field(gt=0, allow_inf_nan=False, examples=[300])
    """Hours of GPU time: wall time times the GPUs that the arms hold."""


def _margin(value: float) -> float:
    if value == 0:
        raise ValueError(
            "a margin of 0% can't be shown to hold when both variants are equal, "
            "however long the run; write the least loss that matters, for example 1%"
        )
    if value == 1:
        raise ValueError(
            "a margin of 100% allows everything; "
            "write the least loss that matters, for example 1%"
        )
    return value


class Gate(Value):
    """One limit: shown to hold, shown to be broken, or not shown yet.

    accuracy, agreement and errors: `margin`; ttft, tpot, latency and service:
    `quantile` with `max_ratio`, or `over` with `margin`; memory and output_tokens:
    `quantile` with `max_ratio`.
    """

    metric: Metric = Field(examples=["accuracy"])
    """What is compared: `agreement` is whether the answer is the baseline's, for
    traffic without labels, `ttft` the time to the first token, `tpot` the time per
    further token, `latency` counts from the intended arrival, `service` from the
    send, `memory` is the peak, `output_tokens` the length of the answer."""

    task: _Text | None = None
    """Only validation items of this task (accuracy)."""

    regime: _Text | None = None
    """Only prompts of this length: a range between two of `regimes`, such as 8k-32k."""

    quantile: Percentile | None = None
    """Which quantile of the requests is compared, such as p50 or p99."""

    over_s: PositiveDurationS | None = Field(default=None, alias="over")
    """Compare the share of requests that take longer than this."""

    margin: Annotated[Share, AfterValidator(_margin)] | None = None
    """How many percentage points worse than the baseline is still acceptable; for
    agreement, on how many of the requests the answer may be another."""

    max_ratio: StrictFloat | None = Field(
        default=None, gt=0, allow_inf_nan=False, examples=[1.05]
    )
    """The candidate's quantile may be at most this many times the baseline's."""

    @property
    def name(self) -> str:
        """A name that is unique within a policy and reads as the limit does."""
        parts: list[str] = [self.metric]
        if self.quantile is not None:
            parts.append(percentile_text(self.quantile))
        if self.over_s is not None:
            parts.append(f"over {self.over_s:.10g}s")
        parts += [scope for scope in (self.task, self.regime) if scope]
        return " ".join(parts)


def _version(value: object) -> object:
    if value != 1 or not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"expected 1, the only version there is, got {shown(value)}")
    return value


_NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"


def _name(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(_NAME_PATTERN, value):
        raise ValueError(
            "expected a name of at most 64 small letters, digits, '.', '_' and '-' "
            f"that begins with a letter or digit, got {shown(value)}; "
            "write for example window-256"
        )
    return value


class Policy(Value):
    """One rollout decision: who replaces whom, on what traffic, within which limits.

    `path` is where it was read from. `text` is what the file holds or, if it extends
    another, what both say together; it can be loaded on its own, and `sha256` is its
    hash. `places` tells where each value stands, by its path (``gates[0].margin``).
    """

    version: Annotated[Literal[1], BeforeValidator(_version)] = Field(examples=[1])
    """The version of this format: 1."""

    name: Annotated[
        str,
        BeforeValidator(_name),
        WithJsonSchema({"type": "string", "pattern": _NAME_PATTERN}),
    ] = Field(examples=["window-256"])
    """A name that no other policy of a run has; the report is filed under it."""

    baseline: VariantSpec = Field(examples=["{model: reference}"])
    """The variant in production."""

    candidate: VariantSpec = Field(
        examples=[
            "{model: reference, attention: {pattern: sliding_window, window: 256}}"
        ]
    )
    """The variant that wants to replace it."""

    traffic: Traffic = Field(examples=["{source: replay/trace.jsonl.gz}"])
    """What is sent to both."""

    validation: tuple[_Text, ...] = Field(
        default=(), examples=["[replay/validation/contracts.jsonl]"]
    )
    """Validation sets (JSONL files) whose answers are scored, for accuracy gates."""

    regimes: tuple[Tokens, ...] = Field(
        default=DEFAULT_REGIMES_TOKENS, examples=["[8k, 32k, 128k]"]
    )
    """Boundaries between ranges of prompt length, in tokens, increasing."""

    gates: tuple[Gate, ...] = Field(
        min_length=1, examples=["[{metric: errors, margin: 1%}]"]
    )
    """The limits. A candidate is promoted only if all are shown to hold."""

    aa_control: ShareOrOff = 0.0
    """Share of requests that a second copy of the baseline answers too, to show what
    the device alone makes of equal variants; `off` runs none."""

    budget: Budget | None = Field(default=None, examples=["{gpu_hours: 300}"])
    """What the run may cost."""

    decision: DecisionRules = Field(
        default=DecisionRules(), examples=["{min_duration: 24h, max_duration: 7d}"]
    )
    """When the evidence is weighed, how sure one must be, and when it ends."""

    placement: Placement = Field(
        default=Placement(), examples=["{gpu: H200, swap_every: 2h}"]
    )
    """Where the arms run: which GPUs of a Ray cluster they get, and how they share."""

    schedule: Schedule = Field(
        default=Schedule(), examples=["{only: Mon-Fri 08:00-20:00 Europe/Berlin}"]
    )
    """When the run begins, and at which hours it sends."""

    hooks: Hooks = Field(
        default=Hooks(), examples=["{rollback: {command: [./act.sh]}}"]
    )
    """What is called when there is a verdict; it never changes one."""

    @property
    def sample_shares(self) -> tuple[float, ...] | None:
        """The share of sessions that is sent, per regime; None if all are."""
        sample = self.traffic.sample
        if sample is None:
            return None
        rest = sample.get(REST, 0.0)
        return tuple(sample.get(name, rest) for name in regime_names(self.regimes))

    @property
    def send_lag_limit_s(self) -> float:
        """How late a request may be sent: 50 ms, or a twentieth of the tightest limit
        on the time to first token."""
        limits_s = [
            g.over_s for g in self.gates if g.metric == "ttft" and g.over_s is not None
        ]
        return min([_MOST_LAG_S, *(limit_s / 20 for limit_s in limits_s)])

    path: str = Field(default="", exclude=True)
    text: str = Field(default="", exclude=True, repr=False)
    sha256: str = Field(default="", exclude=True)
    places: dict[str, Place] = Field(default_factory=dict, exclude=True, repr=False)


def variant_name(spec: VariantSpec) -> str:
    """Return the arm name of a variant, equal for equal variants.

    ``reference/dense``, ``reference/sliding_window(window=256)``,
    ``reference/dense#copy``, ``llama@localhost:8000``.

    Raises:
        PatternSpecError: Its attention isn't a pattern; a loaded policy's always is.
    """
    label = f"#{spec.label}" if spec.label else ""
    if spec.is_endpoint:
        address = spec.model.split("://", 1)[1].removesuffix("/").removesuffix("/v1")
        return f"{spec.served_model}@{address}{label}"
    from canary.attention import pattern  # noqa: PLC0415 - values need no patterns

    return f"{spec.model}/{pattern(spec.attention)}{label}"


def regime_names(boundaries_tokens: tuple[int, ...]) -> tuple[str, ...]:
    """Return the regimes' names: ``<8k``, ``8k-32k``, ``>=32k``."""
    labels = [tokens_text(value) for value in boundaries_tokens]
    inner = [f"{low}-{high}" for low, high in pairwise(labels)]
    return (f"<{labels[0]}", *inner, f">={labels[-1]}") if labels else ("all",)
