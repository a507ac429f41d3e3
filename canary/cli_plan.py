"""The command that plans a run: how long until a verdict, and is there one at all.

Like `canary.cli`, a place that reads, prints and exits; commands import when they are
called.
"""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from canary.cli_runs import AsJson
from canary.errors import PolicyError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from canary.planning.outlook import PolicyPlan
    from canary.planning.planner import Simulation
    from canary.policy.model import Policy

app = typer.Typer()

PolicyFiles = Annotated[
    list[Path], typer.Argument(metavar="POLICY...", help="Policy files (YAML).")
]

ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="K/N",
        help="Send one of N equal parts, as in 3/100; `canary judge` takes all N.",
    ),
]

Pilot = Annotated[
    str | None,
    typer.Option(help="What both arms did before: a run folder, or a table."),
]
Simulate = Annotated[
    bool, typer.Option("--simulate", help="Play and judge runs as they might go.")
]
Runs = Annotated[
    int | None, typer.Option(help="How many runs to simulate; default 20.", min=1)
]
Harms = Annotated[
    list[str] | None,
    typer.Option(help="Simulate this harm, too: accuracy=-3, latency=1.2. Repeat it."),
]
Chart = Annotated[
    Path | None, typer.Option(help="Draw times to a verdict: FILE.svg or .png.")
]

_RUNS = 20


@app.command()
def plan(
    policies: PolicyFiles,
    *,
    pilot: Pilot = None,
    simulate: Simulate = False,
    runs: Runs = None,
    harm: Harms = None,
    seed: Annotated[int, typer.Option(help="Seeds plan and simulation.", min=0)] = 0,
    as_json: AsJson = False,
    chart: Chart = None,
) -> None:
    """Say what a run will need until its verdict, and what its traffic brings.

    Example: canary plan policies/window.yaml --pilot reports/demo --simulate
    --harm accuracy=-3 --chart plan.svg
    """
    from canary.planning.chart import draw_plans, refuse_kind
    from canary.planning.harm import parse_harm
    from canary.planning.planner import Simulation

    harms = tuple(parse_harm(text) for text in harm or ())
    if not simulate and (harms or runs):
        raise UsageError("--harm and --runs are about simulated runs; add --simulate")
    if chart is not None:
        refuse_kind(chart)
    simulation = Simulation(runs=runs or _RUNS, harms=harms) if simulate else None
    plans = _plans(policies, pilot, seed, simulation)
    if chart is not None:
        draw_plans(plans, chart)
    _print(plans, as_json=as_json)


def load_for_run(paths: list[Path]) -> "tuple[Policy, ...]":
    """Load policies that one run can serve, with every file they name in place."""
    from canary.policy.load import comparable, load_policies, missing_files

    policies = load_policies(paths)
    comparable(policies)
    missing = tuple(fault for policy in policies for fault in missing_files(policy))
    if missing:
        raise PolicyError(missing)
    return policies


def _plans(
    paths: list[Path], pilot: str | None, seed: int, simulation: "Simulation | None"
) -> "tuple[PolicyPlan, ...]":
    from canary.evidence.journal import RunFolder
    from canary.evidence.reading import read_observations
    from canary.evidence.remote import located
    from canary.planning.pilot import notes_on
    from canary.planning.planner import plan_run
    from canary.prepare import expected_plan, prepare
    from canary.record import read_run

    prepared = prepare(load_for_run(paths), seed=seed)
    plan, basis = expected_plan(prepared)
    observations, record = None, {}
    if pilot is not None:
        place = located(pilot)
        if not place.exists():
            raise UsageError(f"{pilot}: no such file or folder; name a pilot's run")
        observations = read_observations(place)
        record = read_run(RunFolder(place)) if place.is_dir() else {}
    if simulation is not None:
        typer.echo("simulating runs, which can take a minute a policy", err=True)
    return plan_run(
        prepared.policies,
        plan,
        pilot=observations,
        simulation=simulation,
        notes=[*basis, *notes_on(record, prepared.trace.sha256)],
        begin_unix_s=max(time.time(), prepared.policies[0].schedule.start_unix_s or 0),
    )


def _print(plans: "Sequence[PolicyPlan]", *, as_json: bool) -> None:
    from rich.console import Console

    from canary.planning.words import render_plan

    if as_json:
        documents = [plan.to_dict() for plan in plans]
        found = {"schema": "canary.plan/1", "policies": documents}
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    console = Console()
    for index, one in enumerate(plans):
        if index:
            console.print()
        render_plan(one, console)
