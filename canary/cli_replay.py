"""The command that looks at traffic before it is replayed.

Like `canary.cli`, a place that prints and exits; commands import when they are called.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from canary.cli_runs import AsJson
from canary.errors import UsageError

app = typer.Typer(no_args_is_help=True, help="Look at traffic before replaying it.")


@app.command()
def inspect(
    trace: Annotated[
        str, typer.Argument(metavar="TRACE", help="A file, glob, folder or URL.")
    ],
    *,
    as_json: AsJson = False,
    format_name: Annotated[
        str, typer.Option("--format", help="auto, or the name of a format.")
    ] = "auto",
    columns: Annotated[
        str, typer.Option(help="What is what: arrival=ts,prompt_tokens=tokens_in.")
    ] = "",
    picture: Annotated[
        Path | None, typer.Option(help="Draw it too: FILE.png or FILE.svg.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seeds what is drawn.", min=0)] = 0,
) -> None:
    """Say what a trace holds: rows, lengths, regimes, burstiness, warnings."""
    from canary.planning.chart import refuse_kind
    from canary.policy.model import DEFAULT_REGIMES_TOKENS
    from canary.traffic.formats import read_trace
    from canary.traffic.inspect import inspect_trace, render_inspection

    if picture is not None:
        refuse_kind(picture)
    read = read_trace(trace, format=format_name, columns=_columns(columns), seed=seed)
    found = inspect_trace(read, DEFAULT_REGIMES_TOKENS)
    if picture is not None:
        from canary.traffic.picture import draw_inspection

        draw_inspection(read, DEFAULT_REGIMES_TOKENS, picture)
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        typer.echo(render_inspection(found))


def _columns(text: str) -> dict[str, str]:
    """Read ``arrival=ts,prompt_tokens=tokens_in``."""
    found: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        name, equals, column = (piece.strip() for piece in part.partition("="))
        if not (name and equals and column) or name in found:
            raise UsageError(
                f"--columns: {part!r} is not NAME=COLUMN, or NAME stands twice; write "
                "--columns arrival=ts,prompt_tokens=tokens_in"
            )
        found[name] = column
    return found
