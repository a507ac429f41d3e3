"""The names that a policy or a command line may use for formats and columns."""

from typing import Literal, get_args

TraceFormat = Literal[
    "azure",
    "mooncake",
    "bailian",
    "burstgpt",
    "tracelab",
    "servegen",
    "openai",
    "openai-batch",
    "csv",
    "jsonl",
    "parquet",
    "ingress",
]
FORMATS: tuple[str, ...] = get_args(TraceFormat)
LENGTHS_ONLY = ("azure", "mooncake", "bailian", "burstgpt", "tracelab", "servegen")
"""Those that are published without anybody's text."""

NAMED_FORMATS = ("csv", "jsonl", "parquet")
"""Those whose columns the user may name."""

COLUMNS = (
    "arrival",
    "arrival_ms",
    "arrival_us",
    "arrival_ns",
    "prompt_tokens",
    "output_tokens",
    "session_id",
    "turn",
    "think_s",
    "think_ms",
    "text",
    "messages",
)
"""What a column can mean: a time is in seconds unless its name says otherwise."""
