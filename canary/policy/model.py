"""What a policy says, as frozen values. `canary.policy.load` makes them from YAML.

Names on the left of an alias carry the unit; the alias is what a policy file writes.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from canary.policy.units import DurationS, Factor, Percentile, Share, Tokens

Metric = Literal[
    "accuracy",
    "ttft",
    "tpot",
    "latency",
    "service",
    "errors",
    "memory",
]
TIMED_METRICS = ("ttft", "tpot", "latency", "service")


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class VariantSpec(_Value):
    """A model with an attention pattern, as a policy names it."""

    model: str
    attention: str | dict[str, Any] = "dense"


class LoadTarget(_Value):
    """A speed at which the baseline alone would be busy for this share of the time."""

    baseline_load: Share


class Limit(_Value):
    """Which rows of the trace are used; what is left out is counted in the report."""

    prompt_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    requests: int | None = Field(default=None, gt=0)


class Traffic(_Value):
    """Where requests come from and how fast they are replayed."""

    source: str
    format: Literal["auto", "azure", "mooncake"] = "auto"
    speed: Factor | LoadTarget = 1.0
    loop: bool = False
    limit: Limit = Limit()


class Gate(_Value):
    """One limit: shown to hold, shown to be broken, or not shown yet."""

    metric: Metric
    task: str | None = None
    regime: str | None = None
    quantile: Percentile | None = None
    over_s: DurationS | None = Field(default=None, alias="over")
    margin: Share | None = None
    max_ratio: float | None = Field(default=None, gt=0)

    @property
    def name(self) -> str:
        """A name that is unique within a policy and reads as the limit does."""
        parts: list[str] = [self.metric]
        if self.quantile is not None:
            parts.append(f"p{self.quantile * 100:g}")
        if self.over_s is not None:
            parts.append(f"over {self.over_s:g}s")
        parts += [scope for scope in (self.task, self.regime) if scope]
        return " ".join(parts)


class DecisionRules(_Value):
    """How sure one must be, when one looks, and when it ends."""

    alpha: Share = 0.05
    harm_alpha: Share = 0.05
    min_duration_s: DurationS = Field(default=24 * 3600.0, alias="min_duration")
    max_duration_s: DurationS = Field(default=7 * 86400.0, alias="max_duration")
    min_pairs: int = Field(default=1000, ge=1)
    look_every_s: DurationS = Field(default=3600.0, alias="look_every")
    block: Literal["auto", "request"] = "auto"
    at_deadline: Literal["rollback", "hold"] = "rollback"


class Policy(_Value):
    """One rollout decision: who replaces whom, on what traffic, within which limits.

    `sha256` is the hash of the file's bytes; `path` is where it was read from.
    """

    version: Literal[1]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    baseline: VariantSpec
    candidate: VariantSpec
    traffic: Traffic
    validation: tuple[str, ...] = ()
    regimes: tuple[Tokens, ...] = (8 * 1024, 32 * 1024, 128 * 1024)
    gates: tuple[Gate, ...] = Field(min_length=1)
    decision: DecisionRules = DecisionRules()
    path: str = Field(default="", exclude=True)
    sha256: str = Field(default="", exclude=True)


def variant_name(spec: VariantSpec) -> str:
    """Return the arm name of a variant, equal for equal variants.

    ``reference/dense``, ``reference/sliding_window(window=256)``.
    """
    return f"{spec.model}/{_attention_name(spec.attention)}"


def _attention_name(attention: str | dict[str, Any]) -> str:
    if isinstance(attention, str):
        return attention
    if "layers" in attention:
        layers = attention["layers"].items()
        return "+".join(f"{where}:{_attention_name(what)}" for where, what in layers)
    rest = {k: v for k, v in attention.items() if k != "pattern"}
    arguments = ",".join(f"{key}={value}" for key, value in rest.items())
    return f"{attention['pattern']}({arguments})" if arguments else attention["pattern"]


def regime_names(boundaries_tokens: tuple[int, ...]) -> tuple[str, ...]:
    """Return the names of the regimes between the boundaries: ``<8k``, ``8k-32k``, ..."""

    def label(value: int) -> str:
        return f"{value // 1024}k" if value % 1024 == 0 else str(value)

    labels = [label(value) for value in boundaries_tokens]
    inner = [f"{low}-{high}" for low, high in zip(labels, labels[1:], strict=False)]
    return (f"<{labels[0]}", *inner, f">={labels[-1]}") if labels else ("all",)
