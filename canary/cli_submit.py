"""The commands that hand a run to a cluster, and that ask a run to stop.

Like `canary.cli`, a place that prints and exits; commands import when they are called.
"""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from canary.cli_plan import PolicyFiles, ShardOption, load_for_run
from canary.cli_runs import RunArgument
from canary.errors import UsageError

if TYPE_CHECKING:
    from canary.arms.jobs import Attempt
    from canary.evidence.journal import RunFolder
    from canary.evidence.lease import Lease
    from canary.submit import Submission

app = typer.Typer()

Dashboard = Annotated[
    str | None, typer.Option(help="A Ray cluster's dashboard: http://head:8265.")
]

_GRACE_S = 10.0
_STOPPED_S = 60.0
_ASK_EVERY_S = 0.2


@app.command()
def submit(
    policies: PolicyFiles,
    *,
    address: Dashboard = None,
    out: Annotated[
        str | None,
        typer.Option(help="The run's folder or URL; one that exists is gone on with."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seeds the plan.", min=0)] = 0,
    shard: ShardOption = None,
    manifest: Annotated[
        str | None, typer.Option(help="Print one instead: kuberay.")
    ] = None,
) -> None:
    """Let a Ray cluster run policies: as a job, or as a manifest for KubeRay.

    The cluster must see the current folder, and what the policies name, at the same
    paths. Submit again with the same --out to go on with a run that broke.
    """
    from canary.submit import submission
    from canary.traffic.shard import shard_of

    if shard is not None:
        shard_of(shard)
    loaded = load_for_run(policies)
    if out is None:
        from canary.cli import new_folder

        out = str(new_folder(loaded))
    wanted = submission(out, policies, seed=seed, shard=shard)
    if manifest is not None:
        _print_manifest(manifest, wanted, address)
        return
    if address is None:
        raise UsageError(
            "--address is missing: the dashboard of the cluster that is to run this, "
            "for example http://head:8265"
        )
    from canary.arms.jobs import Jobs

    submitted = Jobs(address).submit(wanted)
    typer.echo(f"Submitted as {submitted}.")
    typer.echo(f"Follow it with `canary watch {out}`; stop it with")
    typer.echo(f"`canary stop {out} --address {address}`.")


@app.command()
def stop(
    run_folder: RunArgument,
    address: Dashboard = None,
) -> None:
    """Let a run end in order, wherever it runs: it can be resumed.

    The requests in flight are finished or dropped, of all arms alike. With --address,
    Ray stops the run's job if the run itself doesn't within ten seconds.
    """
    from canary.evidence.journal import RunFolder
    from canary.evidence.lease import Lease
    from canary.orders import ask_to_stop

    folder = RunFolder.at(run_folder)
    attempt = None if address is None else _attempt(folder, address)
    lease = Lease(folder, wall_clock=time.time)
    if folder.run_json.exists() and lease.is_taken():
        ask_to_stop(folder, wall_clock=time.time)
        if _freed(lease, _STOPPED_S if attempt is None else _GRACE_S):
            typer.echo(
                f"{run_folder}: stopped; go on with `canary resume {run_folder}`"
            )
            return
        if attempt is None:
            raise UsageError(
                f"{run_folder}: was asked to stop, and does once its requests in "
                f"flight are answered; see `canary status {run_folder}`"
            )
    if attempt is not None and address is not None:
        _stop_job(run_folder, attempt, address)
    elif not folder.run_json.exists():
        raise UsageError(
            f"{run_folder}: there is no run; if it is submitted and hasn't begun, "
            "name its cluster with --address"
        )
    else:
        typer.echo(f"{run_folder}: nobody is running it")


def _attempt(folder: "RunFolder", address: str) -> "Attempt | None":
    """Return the job that attempts the run now, if there is one."""
    from canary.arms.jobs import Jobs
    from canary.evidence.remote import absolute

    root = absolute(folder.root)
    where = str(root)
    attempts = Jobs(address).attempts(root.name)
    mine = [each for each in attempts if each.folder == where and not each.over]
    return mine[-1] if mine else None


def _stop_job(run_folder: str, attempt: "Attempt", address: str) -> None:
    from canary.arms.jobs import Jobs

    Jobs(address).stop(attempt)
    typer.echo(f"{run_folder}: Ray was told to stop {attempt.id}")


def _freed(lease: "Lease", within_s: float) -> bool:
    """Wait until nobody runs it any more."""
    until_s = time.monotonic() + within_s
    while time.monotonic() < until_s:
        if not lease.is_taken():
            return True
        time.sleep(_ASK_EVERY_S)
    return False


def _print_manifest(kind: str, wanted: "Submission", address: str | None) -> None:
    from importlib.metadata import version

    from canary.rayjob import rayjob_manifest

    if kind != "kuberay":
        raise UsageError(f"--manifest {kind}: there is no such manifest; write kuberay")
    if address is not None:
        raise UsageError(
            "--manifest prints a file and submits nothing; leave --address out"
        )
    typer.echo(rayjob_manifest(wanted, ray_version=version("ray")), nl=False)
