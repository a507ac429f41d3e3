"""The command line: with the other `canary.cli_...` modules all that prints, exits and
wires together.

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

from canary import (
    __version__,
    cli_ingress,
    cli_plan,
    cli_replay,
    cli_runs,
    cli_submit,
)
from canary.cli_plan import PolicyFiles, ShardOption, load_for_run
from canary.cli_runs import AsJson, RunArgument, finish
from canary.errors import CanaryError, ExitCode, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from canary.decision import Decision
    from canary.evidence.journal import RunFolder
    from canary.experiment import Place
    from canary.hooks import Messenger
    from canary.keeper import Screen
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
app.add_typer(cli_replay.app, name="replay")
app.add_typer(cli_plan.app)
app.add_typer(cli_runs.app)
app.add_typer(cli_ingress.app)
app.add_typer(cli_submit.app)

IN_PROCESS = "in this process"
_LONGEST_SLEEP_S = 10.0

Address = Annotated[
    str | None, typer.Option(help="A Ray cluster; default RAY_ADDRESS, else local.")
]
Local = Annotated[
    bool, typer.Option("--local", help="Run the arms in this process, without Ray.")
]


@app.command()
def run(
    policies: PolicyFiles,
    *,
    out: Annotated[
        str | None,
        typer.Option(
            help="A new folder, or an fsspec URL such as s3://bucket/runs/name; "
            "default reports/<name>-<time>."
        ),
    ] = None,
    address: Address = None,
    local: Local = False,
    seed: Annotated[int, typer.Option(help="Seeds the plan.", min=0)] = 0,
    shard: ShardOption = None,
) -> None:
    """Send the same traffic through all variants and judge every policy."""
    from canary.evidence.journal import RunFolder

    loaded = load_for_run(policies)
    folder = RunFolder.at(out or new_folder(loaded))
    decisions = _begin(
        folder, loaded, seed=seed, shard=shard, address=address, local=local
    )
    finish(folder, loaded, decisions)


@app.command()
def resume(
    run_folder: RunArgument,
    address: Address = None,
    local: Local = False,
) -> None:
    """Go on with a run that was interrupted, by Ctrl-C, a crash or a reboot."""
    from canary.evidence.journal import RunFolder
    from canary.kept import kept_policies

    folder = RunFolder.at(run_folder)
    policies = kept_policies(folder)
    decisions = _go_on(folder, policies, address=address, local=local)
    finish(folder, policies, decisions)


@app.command()
def attempt(
    run_folder: RunArgument,
    policies: PolicyFiles,
    *,
    address: Address = None,
    local: Local = False,
    seed: Annotated[int, typer.Option(help="Seeds the plan.", min=0)] = 0,
    shard: ShardOption = None,
) -> None:
    """Begin a run or go on with it, for job systems that try again what fails.

    Exits with 0 once the run has ended, whatever the verdict, or was stopped with
    `canary stop`: then there is nothing to try again.
    """
    from canary.evidence.journal import RunFolder
    from canary.kept import kept_policies
    from canary.orders import stop_file
    from canary.record import read_run, refuse_other
    from canary.traffic.shard import shard_of
    from canary.watches import INTERRUPTED

    folder = RunFolder.at(run_folder)
    loaded = load_for_run(policies)
    if folder.run_json.exists():
        _await_lease(folder)
        refuse_other(folder, loaded, None if shard is None else shard_of(shard))
        loaded = kept_policies(folder)
        decisions = _go_on(folder, loaded, address=address, local=local)
    else:
        decisions = _begin(
            folder, loaded, seed=seed, shard=shard, address=address, local=local
        )
    if read_run(folder)["ended"] == INTERRUPTED and not stop_file(folder).exists():
        finish(folder, loaded, decisions)
    for decision in decisions:
        typer.echo(f"{decision.policy}: {decision.verdict}")


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


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print it.")] = False,
) -> None:
    """Say which version this is."""
    if version:
        typer.echo(f"canary {__version__}")
        raise typer.Exit


def _await_lease(folder: "RunFolder") -> None:
    """Wait until a lease whose owner was lost with its machine has expired."""
    from canary.evidence.lease import LEASE_S, Lease

    lease = Lease(folder, wall_clock=time.time)
    until_s = time.monotonic() + LEASE_S + 1
    if lease.is_taken():
        typer.echo(f"{folder.root}: waiting for its last owner to be gone", err=True)
    while lease.is_taken() and time.monotonic() < until_s:
        time.sleep(1)


def new_folder(policies: "tuple[Policy, ...]") -> Path:
    """Return where a run goes if nobody says: a name that tells it from others."""
    name = policies[0].name if len(policies) == 1 else "run"
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    return Path("reports") / f"{name}-{stamp}"


def _begin(
    folder: "RunFolder",
    policies: "tuple[Policy, ...]",
    *,
    seed: int,
    shard: str | None,
    address: str | None,
    local: bool,
) -> "tuple[Decision, ...]":
    from canary import experiment
    from canary.hooks import refuse_unready
    from canary.prepare import prepare
    from canary.traffic.shard import shard_of

    part = None if shard is None else shard_of(shard)
    refuse_unready(policies)
    folder.refuse_if_used()
    prepared = prepare(policies, seed=seed, shard=part)
    with _interruptible(folder):
        _await_start(policies[0])
        with ExitStack() as stack:
            place = _place(stack, policies, address=address, local=local)
            listener, messenger = _listener(stack, folder, policies, place)
            decisions = experiment.execute(
                prepared,
                folder,
                place,
                command=shlex.join(["canary", *sys.argv[1:]]),
                listener=listener,
            )
        messenger.settle(decisions)
    return decisions


def _go_on(
    folder: "RunFolder",
    policies: "tuple[Policy, ...]",
    *,
    address: str | None,
    local: bool,
) -> "tuple[Decision, ...]":
    from canary import experiment
    from canary.hooks import refuse_unready
    from canary.record import read_run

    refuse_unready(policies)
    local = local or (address is None and read_run(folder)["where"] == IN_PROCESS)
    with _interruptible(folder):
        with ExitStack() as stack:
            place = _place(stack, policies, address=address, local=local)
            listener, messenger = _listener(stack, folder, policies, place)
            decisions = experiment.resume(folder, place, listener=listener)
        messenger.settle(decisions)
    return decisions


def _await_start(policy: "Policy") -> None:
    """Wait for the time at which a policy lets its run begin, and say so."""
    start_s = policy.schedule.start_unix_s
    if start_s is None or start_s <= time.time():
        return
    _stop_in_order()
    typer.echo(f"waiting until {policy.schedule.start} to begin", err=True)
    # A machine may sleep, and its clock be set, meanwhile.
    while (left_s := start_s - time.time()) > 0:
        time.sleep(min(left_s, _LONGEST_SLEEP_S))


def _listener(
    stack: ExitStack,
    folder: "RunFolder",
    policies: "tuple[Policy, ...]",
    place: "Place",
) -> "tuple[Listener, Messenger]":
    """Show the run while it goes on, here and to `canary watch`; tell its verdicts."""
    from rich.console import Console

    from canary import live
    from canary.hooks import Messenger
    from canary.keeper import StatusKeeper

    console = Console(stderr=True)
    shown = stack.enter_context(live.Screen(console, clock=time.monotonic))
    screen: Screen = shown
    if place.on_ray:
        from canary.arms.gauges import Gauges

        screen = Gauges(shown, clock=time.monotonic)
    messenger = Messenger(folder, policies, say=shown.say)
    listener = StatusKeeper(
        folder,
        policies,
        screen=screen,
        clock=time.monotonic,
        wall_clock=time.time,
        tell=messenger.tell,
    )
    return listener, messenger


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
    asked = policies[0].placement
    if local:
        from canary.arms.local import start_local_arms

        start = partial(start_local_arms, build=build, placement=asked)
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
    start = partial(start_ray_arms, build=build, placement=asked)
    return Place(where=where, start_arms=start, on_ray=True)


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
