"""The traffic section of a policy: where requests come from and how they are sent."""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    PlainSerializer,
    StrictBool,
    StrictInt,
    StrictStr,
    StringConstraints,
    Tag,
    WithJsonSchema,
)

from canary.policy.units import (
    DURATION_PATTERN,
    SHARE_PATTERN,
    DurationS,
    Factor,
    PositiveDurationS,
    RateRps,
    Share,
    Tokens,
    duration_s,
    duration_text,
    factor,
    share,
    share_text,
    shown,
)
from canary.policy.value import Value
from canary.traffic.names import COLUMNS, TraceFormat

_Text = Annotated[StrictStr, StringConstraints(min_length=1)]

Format = Literal["auto", TraceFormat]

REST = "rest"


def _busy(value: float) -> float:
    if value == 0:
        raise ValueError("expected a share above 0%, got '0%'; write for example 60%")
    return value


class LoadTarget(Value):
    """A speed at which the baseline alone would be busy for this share of the time."""

    baseline_load: Annotated[Share, AfterValidator(_busy)] = Field(examples=["60%"])
    """The share of the time for which the baseline alone would be busy."""


class Limit(Value):
    """Which rows of the trace are used; what is left out is counted in the report."""

    prompt_tokens: Tokens | None = None
    """Longest prompt, in tokens (k = 1024)."""

    output_tokens: Tokens | None = None
    """Longest answer, in tokens (k = 1024)."""

    requests: StrictInt | None = Field(default=None, gt=0, examples=[1000])
    """Use this many requests, from the beginning of the trace."""


def _speed(value: object) -> object:
    try:
        factor(value)
    except ValueError as error:
        raise ValueError(f"{error} or {{baseline_load: 60%}}") from error
    return value


UNION_TAGS = ("<factor>", "<load>")
"""What pydantic adds to the path of a speed, though no policy writes it."""

Speed = Annotated[
    Annotated[Factor, BeforeValidator(_speed), Tag("<factor>")]
    | Annotated[LoadTarget, Tag("<load>")],
    Discriminator(lambda value: UNION_TAGS[isinstance(value, (dict, LoadTarget))]),
]
"""A factor, or the load that the baseline alone should have."""


class Crop(Value):
    """The stretch of a recording whose sessions are used, whole."""

    from_s: DurationS = Field(default=0.0, alias="from", examples=["10m"])
    """Where it begins, counted from the first row."""

    for_s: PositiveDurationS | None = Field(default=None, alias="for", examples=["1h"])
    """How long it is; without it, until the end."""


def _columns(value: object) -> object:
    if not isinstance(value, dict) or not value:
        raise ValueError(
            f"expected which column is what, got {shown(value)}; "
            "write for example {arrival: ts, prompt_tokens: in, output_tokens: out}"
        )
    for name, column in value.items():
        if name not in COLUMNS:
            raise ValueError(f"{shown(name)}: expected one of {', '.join(COLUMNS)}")
        if not isinstance(column, str) or not column:
            raise ValueError(
                f"{name}: expected the name of a column, got {shown(column)}"
            )
    return value


def _sample(value: object) -> object:
    if isinstance(value, dict) and value:
        return value
    if isinstance(value, str):
        share(value)  # or a key that nobody wrote would be blamed for it
        return {REST: value}
    raise ValueError(
        f"expected a share of the sessions, got {shown(value)}; "
        'write for example 10%, or {"<8k": 10%, rest: 100%}'
    )


def _sample_text(value: dict[str, float]) -> Any:  # noqa: ANN401 - text, or a mapping
    texts = {name: share_text(share) for name, share in value.items()}
    return texts[REST] if list(texts) == [REST] else texts


def _tick_spread(value: object) -> object:
    if value == "auto":
        return value
    if value == "off":
        return 0.0
    try:
        return duration_s(value)
    except ValueError as error:
        raise ValueError(f"{error}, or auto or off") from error


def _tick_text(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return duration_text(value) if value else "off"


class Traffic(Value):
    """Where requests come from and how fast they are replayed."""

    source: _Text = Field(examples=["replay/trace.jsonl.gz"])
    """The trace: a file, a folder, a pattern such as `logs/*.jsonl`, or a URL such as
    s3://bucket/trace.jsonl. A relative path counts from the current folder or, if there
    is nothing, from the policy's folder or the folder above it."""

    format: Format = "auto"
    """The trace's format; `auto` recognises it."""

    columns: Annotated[dict[str, str], BeforeValidator(_columns)] | None = Field(
        default=None, examples=["{arrival: ts, prompt_tokens: in, output_tokens: out}"]
    )
    """Which column of a CSV, JSONL or Parquet log is what: `arrival` (seconds or a
    time; `arrival_ms` and so on for other units), `prompt_tokens`, `output_tokens`,
    `session_id`, `turn`, `think_s`, `text`, `messages`."""

    follow: StrictBool = False
    """Whether the source is a recording of live traffic that still grows, as `canary
    ingress` makes it: its requests are sent a few seconds after they came."""

    speed: Speed = 1.0
    """How fast: `4x` is four times faster than recorded; `{baseline_load: 60%}` is the
    speed at which the baseline alone would be busy for 60 % of the time."""

    loop: StrictBool = False
    """Whether the trace begins again at its end, until `max_duration`. Otherwise the
    end of the trace is a deadline."""

    crop: Crop | None = Field(default=None, examples=["{from: 10m, for: 1h}"])
    """Use the sessions that begin in this stretch of the recording only."""

    sample: (
        Annotated[
            dict[str, Share],
            BeforeValidator(_sample),
            PlainSerializer(_sample_text, when_used="json"),
            WithJsonSchema(
                {
                    "anyOf": [
                        {"type": "string", "pattern": SHARE_PATTERN},
                        {
                            "type": "object",
                            "additionalProperties": {
                                "type": "string",
                                "pattern": SHARE_PATTERN,
                            },
                        },
                    ]
                }
            ),
        ]
        | None
    ) = Field(default=None, examples=['{"<8k": 10%, "8k-32k": 50%, rest: 100%}'])
    """The share of sessions that is sent, one for all or one per range of prompt length
    (`rest` for those not named). Weights are kept: limits on all traffic count each
    session for those that it stands for."""

    rate_rps: RateRps | None = Field(default=None, alias="rate")
    """Leave out sessions until this many requests are sent per second on average."""

    tick_spread: Annotated[
        Literal["auto"] | float,
        BeforeValidator(_tick_spread),
        PlainSerializer(_tick_text, when_used="json"),
        WithJsonSchema(
            {
                "anyOf": [
                    {"enum": ["auto", "off"]},
                    {"type": "string", "pattern": DURATION_PATTERN},
                ]
            }
        ),
    ] = Field(default=0.0, examples=["auto"])
    """Spread arrivals at random over the step of a coarse clock: `auto` for the step
    that the stamps show, or a duration. `off` sends them as they were stamped."""

    limit: Limit = Field(default=Limit(), examples=["{prompt_tokens: 8k}"])
    """Which rows of the trace are used."""

    max_output_tokens: Tokens | None = None
    """Cut longer answers to this many tokens, instead of leaving their rows out."""

    timeout_s: PositiveDurationS = Field(default=600.0, alias="timeout")
    """How long an arm may work on one request before it has failed."""

    max_in_flight: StrictInt = Field(default=256, ge=1, examples=[32])
    """How many requests a server may have at the same time; more wait for it, and
    their waiting counts as latency. Servers only."""

    on_overload: Literal["queue", "shed"] = "queue"
    """What becomes of a request that finds `max_in_flight` reached: it waits, or is
    sent to no arm at all and counted. Servers only."""
