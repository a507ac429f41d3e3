"""The command line: with `canary.cli_plan`, `canary.cli_runs` and `canary.cli_ingress`
all that prints, exits and wires together.

Commands import what they need when they are called: `canary validate` must not wait
for torch, nor `canary --help` for anything.
"""

import json
import shlex
import signal
import sys
import time
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from canary import __version__, cli_ingress, cli_plan, cli_runs
from canary.cli_plan import PolicyFiles, load_for_run
from canary.cli_runs import AsJson, RunArgument, finish
from canary.errors import CanaryError, ExitCode, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from canary.evidence.journal import RunFolder
    from canary.experiment import Place
    from canary.policy.model import Policy
    from canary.policy.traffic import Traffic
    from canary.watches import Listener

app = typer.Typer(
    name="canary",
    help="May the sparse-attention variant replace the dense one? Exit codes: 0 "
    "promote or done, 2 usage or policy error, 3 rollback, 4 not decided, 5 invalid, "
    "1 a bug.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
replay = typer.Typer(no_args_is_help=True, help="Look at traffic before replaying it.")
app.add_typer(replay, name="replay")
app.add_typer(cli_plan.app)
app.add_typer(cli_runs.app)
app.add_typer(cli_ingress.app)

IN_PROCESS = "in this process"

Address = Annotated[
    str | None, typer.Option(help="A Ray cluster; default RAY_ADDRESS, else local.")
]
Local = Annotated[
    bool, typer.Option("--local", help="Run the arms in this process, without Ray.")
]


@app.command()
def run(
    policies: PolicyFiles,
    out: Annotated[
        Path | None, typer.Option(help="A new folder; default reports/<name>-<time>.")
    ] = None,
    address: Address = None,
    local: Local = False,
    seed: Annotated[int, typer.Option(help="Seeds the plan.", min=0)] = 0,
) -> None:
    """Send the same traffic through all variants and judge every policy."""
    from canary import experiment
    from canary.evidence.journal import RunFolder
    from canary.prepare import prepare

    loaded = load_for_run(policies)
    prepared = prepare(loaded, seed=seed)
    name = loaded[0].name if len(loaded) == 1 else "run"
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    folder = RunFolder(out or Path("reports") / f"{name}-{stamp}")
    with _interruptible(folder), ExitStack() as stack:
        place = _place(stack, loaded, address=address, local=local)
        decisions = experiment.execute(
            prepared,
            folder,
            place,
            command=shlex.join(["canary", *sys.argv[1:]]),
            listener=_listener(stack, folder, loaded),
        )
    finish(folder, loaded, decisions)


@app.command()
def resume(
    run_folder: RunArgument,
    address: Address = None,
    local: Local = False,
) -> None:
    """Go on with a run that was interrupted, by Ctrl-C, a crash or a reboot."""
    from canary import experiment
    from canary.evidence.journal import RunFolder
    from canary.record import read_run

    folder = RunFolder(run_folder)
    local = local or (address is None and read_run(folder)["where"] == IN_PROCESS)
    policies = experiment.kept_policies(folder)
    with _interruptible(folder), ExitStack() as stack:
        place = _place(stack, policies, address=address, local=local)
        listener = _listener(stack, folder, policies)
        decisions = experiment.resume(folder, place, listener=listener)
    finish(folder, policies, decisions)


@app.command()
def validate(policies: PolicyFiles) -> None:
    """Check policies and say in words what each will do."""
    from canary.policy.explain import explain

    for policy in load_for_run(policies):
        typer.echo(explain(policy))


@app.command()
def schema() -> None:
    """Print the JSON Schema of a policy, for editors."""
    from canary.policy.schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what this machine can run; check each kernel, and time sparse patterns."""
    from rich.console import Console

    from canary.doctor import examine
    from canary.doctor_words import render

    found = examine()
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2, ensure_ascii=False))
    else:
        render(found, Console())
    raise typer.Exit(ExitCode.PROMOTE if found.agrees else ExitCode.INVALID)


@replay.command()
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


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print it.")] = False,
) -> None:
    """Say which version this is."""
    if version:
        typer.echo(f"canary {__version__}")
        raise typer.Exit


def _listener(
    stack: ExitStack, folder: "RunFolder", policies: "tuple[Policy, ...]"
) -> "Listener":
    """Show the run while it goes on, here and to `canary watch`."""
    from rich.console import Console

    from canary.keeper import StatusKeeper
    from canary.live import Screen

    screen = Screen(Console(stderr=True), clock=time.monotonic)
    return StatusKeeper(
        folder,
        policies,
        screen=stack.enter_context(screen),
        clock=time.monotonic,
        wall_clock=time.time,
    )


def _place(
    stack: ExitStack,
    policies: "tuple[Policy, ...]",
    *,
    address: str | None,
    local: bool,
) -> "Place":
    from canary.experiment import Place
    from canary.variants import build

    if local and address:
        raise UsageError("--local and --address exclude each other; give one of them")
    if policies[0].baseline.is_endpoint:
        return _elsewhere(policies[0].traffic, address)
    if local:
        from canary.arms.local import start_local_arms

        start = partial(start_local_arms, build=build)
        _stop_in_order()
        return Place(where=IN_PROCESS, start_arms=start)
    try:
        from canary.arms.ray import ray_cluster, start_ray_arms
    except ImportError as error:
        raise UsageError(
            f"Ray can't be imported ({error}); install it with `pip install ray`, "
            "or run in this process with --local"
        ) from error
    where = stack.enter_context(ray_cluster(address))
    _stop_in_order()
    return Place(where=where, start_arms=partial(start_ray_arms, build=build))


def _elsewhere(traffic: "Traffic", address: str | None) -> "Place":
    from canary.arms.endpoint.arm import start_endpoint_arms
    from canary.experiment import Place

    if address:
        raise UsageError(
            "--address names a Ray cluster, but both variants are servers that run "
            "already; leave it out"
        )
    start = partial(
        start_endpoint_arms,
        max_in_flight=traffic.max_in_flight,
        on_overload=traffic.on_overload,
    )
    _stop_in_order()
    return Place(where="servers elsewhere", start_arms=start)


@contextmanager
def _interruptible(folder: "RunFolder") -> "Iterator[None]":
    """Say what an interrupt outside the loop means: while starting, or while ending."""
    try:
        yield
    except KeyboardInterrupt:
        recorded = folder.run_json.exists()
        told = f"what was recorded stays; go on with `canary resume {folder.root}`"
        typer.echo(
            f"interrupted; {told if recorded else 'nothing was recorded yet'}", err=True
        )
        raise typer.Exit(ExitCode.UNDECIDED) from None


def _stop_in_order() -> None:
    """Take SIGTERM as an interrupt; Ray, once started, would print stack traces."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def main() -> None:
    """Run the command line; a user's mistake is one sentence and an exit code."""
    try:
        app()
    except CanaryError as error:
        typer.echo(str(error), err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
