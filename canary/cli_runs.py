"""The commands about runs that exist: look, judge again, record a person's word.

Like `canary.cli`, a place that prints and exits; commands import when they are called.
"""

import json
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from canary.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from canary.decision import Decision
    from canary.evidence.journal import RunFolder
    from canary.evidence.remote import Location
    from canary.policy.model import Policy
    from canary.status import RunStatus

app = typer.Typer()

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run folder, or the URL of one.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]

_REREAD_EVERY_S = 1.0
_WRITING_S = 60.0
_NAMED_RUNS = 5


@app.command()
def status(run_folder: RunArgument, as_json: AsJson = False) -> None:
    """Say how a run stands: pace, gates, failures, time to the verdict."""
    from rich.console import Console

    from canary.evidence.journal import RunFolder
    from canary.live import render
    from canary.status import read_status

    found = read_status(RunFolder.at(run_folder), wall_clock=time.time)
    if as_json:
        _print_json(found.to_dict())
    else:
        Console().print(render(found))


@app.command()
def watch(run_folder: RunArgument) -> None:
    """Show a run until it is over; the exit code is then that of its verdicts."""
    from rich.console import Console

    from canary.decision import worst_exit_code
    from canary.evidence.journal import RunFolder
    from canary.history import verdicts_of
    from canary.live import Screen, plain_line
    from canary.report.words import printable
    from canary.status import read_status

    folder = RunFolder.at(run_folder)
    try:
        with Screen(Console(), clock=time.monotonic) as screen:
            while True:
                found = read_status(folder, wall_clock=time.time)
                verdicts = verdicts_of(folder, found) if found.state.over else None
                if verdicts is not None:
                    break
                screen.show(found)
                if found.state.over and _writer_is_gone(found):
                    raise UsageError(
                        f"{run_folder}: the run ended, but its decisions were never "
                        f"written; write them with `canary report {run_folder}`"
                    )
                time.sleep(_REREAD_EVERY_S)
    except KeyboardInterrupt:  # the run itself goes on
        raise typer.Exit(ExitCode.UNDECIDED) from None
    typer.echo(plain_line(found))
    for policy, verdict in zip(found.policies, verdicts, strict=True):
        typer.echo(f"{printable(policy.name)}: {verdict}")
    raise typer.Exit(worst_exit_code(verdicts))


def _writer_is_gone(found: "RunStatus") -> bool:
    """Whether nobody is left to write the decisions of a run that has ended."""
    from canary.evidence.lease import is_running

    if found.host == socket.gethostname() and found.pid is not None:
        return not is_running(found.pid)
    return time.time() - (found.updated_unix_s or 0.0) > _WRITING_S


@app.command()
def runs(
    folder: Annotated[
        str, typer.Argument(metavar="[FOLDER]", help="Where to look; may be a URL.")
    ] = "reports",
    *,
    as_json: AsJson = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Make room: say what would go.")
    ] = False,
    older_than: Annotated[
        str | None,
        typer.Option(help="Prune raw observations of runs this old, as in 30d."),
    ] = None,
    keep_bytes: Annotated[
        str | None,
        typer.Option(help="Prune until no more than this is left, as in 10GiB."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Really prune.")] = False,
) -> None:
    """List the runs below a folder with their verdicts, the newest first.

    With --prune, raw observations go before decisions and reports, and a run that
    somebody is running never does.
    """
    from rich.console import Console

    from canary.evidence.remote import located
    from canary.history import list_runs
    from canary.live import render_runs

    if prune:
        _prune(folder, older_than, keep_bytes, yes=yes)
        return
    if older_than or keep_bytes or yes:
        raise UsageError(
            "--older-than, --keep-bytes and --yes are about --prune; add it"
        )
    found = list_runs(located(folder), wall_clock=time.time)
    if as_json:
        _print_json([entry.to_dict() for entry in found])
    elif found:
        Console().print(render_runs(found))
    else:
        typer.echo(f"{folder}: no runs here; `canary run POLICY` makes one")


def _prune(
    folder: str, older_than: str | None, keep_bytes: str | None, *, yes: bool
) -> None:
    from canary.evidence.remote import located
    from canary.pruning import age_s, plan_pruning, prune, size_bytes

    if older_than is None and keep_bytes is None:
        raise UsageError(
            "--prune: say what may stay with --older-than 30d, --keep-bytes 10GiB or "
            "both"
        )
    removals = plan_pruning(
        located(folder),
        older_than_s=None if older_than is None else age_s(older_than),
        keep_bytes=None if keep_bytes is None else size_bytes(keep_bytes),
        wall_clock=time.time,
    )
    for removal in removals:
        size = f"{removal.size_bytes / 1e6:,.1f} MB"
        typer.echo(f"{removal.folder.root}: {removal.part}, {size}, {removal.why}")
    if not removals:
        typer.echo(f"{folder}: nothing to prune")
    elif yes:
        prune(removals, wall_clock=time.time)
        typer.echo("Pruned.")
    else:
        typer.echo("Nothing was removed yet; add --yes to remove it.")


@app.command()
def override(
    run_folder: RunArgument,
    policy: Annotated[str, typer.Option(help="Which policy of the run.")],
    action: Annotated[str, typer.Option(help="promote, rollback or hold.")],
    by: Annotated[str, typer.Option(help="Who answers for it.")],
    why: Annotated[str, typer.Option(help="The reason.")],
) -> None:
    """Record that a person decides otherwise; the verdict stays what it is."""
    from canary.conclusion import conclude
    from canary.evidence.journal import RunFolder
    from canary.evidence.lease import Lease
    from canary.kept import kept_policies
    from canary.overrides import record_override
    from canary.record import read_run
    from canary.traffic.shard import shard_in

    folder = RunFolder.at(run_folder)
    if shard_in(read_run(folder)) is not None:
        raise UsageError(
            f"{run_folder}: is a shard, which decides nothing that could be overridden"
        )
    record_override(
        folder, policy=policy, action=action, by=by, why=why, wall_clock=time.time
    )
    if Lease(folder, wall_clock=time.time).is_taken():
        typer.echo("Recorded; the report shows it once the run is over.")
        return
    conclude(folder, kept_policies(folder))
    typer.echo(f"Recorded, beside the verdict. Report: {folder.report_html}")


@app.command()
def judge(
    evidence: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|OBSERVATIONS...",
            help="A run folder, or observations as .parquet, .csv or .jsonl, here or "
            "at a URL; several are shards of one run, split by session.",
        ),
    ],
    policy: Annotated[
        list[Path], typer.Option("--policy", help="A policy file; may be repeated.")
    ],
    against: Annotated[
        Path | None,
        typer.Option(help="A policy file; say which of its gates --policy turns."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge what was recorded under these policies; write nothing.

    Example: canary judge reports/demo --policy new.yaml --against old.yaml
    """
    from canary.decision import worst_exit_code
    from canary.policy.load import load_policies

    if against is not None and len(policy) > 1:
        raise UsageError(
            f"--against compares one --policy with another, got {len(policy)}; "
            "judge them one by one"
        )
    loaded = load_policies([*policy, *([against] if against else [])])
    decisions = _decide(evidence, loaded)
    if against is not None:
        _print_comparison(loaded[0], *decisions, as_json=as_json)
    elif as_json:
        documents = [decision.to_dict() for decision in decisions]
        _print_json(documents if len(documents) > 1 else documents[0])
    else:
        _print_decisions(loaded, decisions)
    raise typer.Exit(worst_exit_code([d.verdict for d in decisions[: len(policy)]]))


def _decide(names: "Sequence[str]", policies: "Sequence[Policy]") -> "list[Decision]":
    from canary.evidence.journal import RunFolder
    from canary.evidence.reading import Shards
    from canary.evidence.remote import located
    from canary.judge import judge as decide
    from canary.judge import judge_evidence
    from canary.record import read_run, refuse_pruned
    from canary.shards import begins_s, end_of_all, merged_shards, refuse_mixed

    paths = [located(name) for name in names]
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder; name what was recorded")
    records = [read_run(RunFolder(path)) if path.is_dir() else {} for path in paths]
    for record, path in zip(records, paths, strict=True):
        refuse_pruned(RunFolder(path), record)
    refuse_mixed(paths, records)
    observations = Shards(paths, begins_s(records))
    run = _name_of(paths, records)
    doubts = [told for record in records for told in record.get("doubts", ())]
    # Whose arms a table is of nobody knows; each run had its own.
    machines = max(1, sum(bool(record) for record in records))
    decisions = []
    for one in policies:
        ended, questions = end_of_all(records, one), _questions(one, records)
        folded = ended and merged_shards(one, paths, records, ended)
        if folded:
            evidence, end_s = folded
            evidence.questions |= questions
            evidence.doubts = tuple(doubts)
            evidence.queues *= machines
            found = judge_evidence(one, evidence, end_s=end_s, run=run, ended=ended)
        else:
            found = decide(
                one,
                observations,
                run=run,
                ended=ended,
                questions=questions,
                doubts=doubts,
                machines=machines,
            )
        decisions.append(found)
    return decisions


def _name_of(
    paths: "Sequence[Location]", records: "Sequence[Mapping[str, Any]]"
) -> str:
    names = [
        record.get("run", path.name)
        for record, path in zip(records, paths, strict=True)
    ]
    if len(names) > _NAMED_RUNS:
        return f"{names[0]} and {len(names) - 1} other shards"
    return " + ".join(names)


def _questions(
    policy: "Policy", records: "Sequence[Mapping[str, Any]]"
) -> dict[str, int]:
    """How many questions a validation set holds, as a run or else its files say."""
    from canary.traffic.validation import groups_by_task, read_validation

    known = [record["questions"] for record in records if "questions" in record]
    if known or policy.decision.inference != "set":
        return {task: count for found in known for task, count in found.items()}
    paths = [Path(path) for path in policy.validation]
    if not all(path.exists() for path in paths):
        return {}
    return groups_by_task(read_validation(paths))


def _print_comparison(
    policy: "Policy", after: "Decision", before: "Decision", *, as_json: bool
) -> None:
    from rich.console import Console

    from canary.compare import compare
    from canary.report.comparison import render_comparison

    comparison = compare(before, after)
    if as_json:
        _print_json(comparison.to_dict())
    else:
        _print_decisions([policy], [after])
        render_comparison(comparison, Console())


@app.command()
def report(run_folder: RunArgument) -> None:
    """Judge a run again and write its reports anew."""
    from canary.conclusion import conclude
    from canary.evidence.journal import RunFolder
    from canary.kept import kept_policies

    folder = RunFolder.at(run_folder)
    policies = kept_policies(folder)
    finish(folder, policies, conclude(folder, policies))


def finish(
    folder: "RunFolder",
    policies: "Sequence[Policy]",
    decisions: "Sequence[Decision]",
) -> None:
    """Print a run's decisions and exit with what they say; a shard has none."""
    from canary.decision import worst_exit_code
    from canary.record import read_run
    from canary.traffic.shard import shard_in
    from canary.watches import INTERRUPTED

    record = read_run(folder)
    shard = shard_in(record)
    if shard is not None:
        over = record["ended"] != INTERRUPTED
        then = (
            f"judge all {shard.of} with `canary judge SHARD... --policy POLICY`"
            if over
            else f"go on with `canary resume {folder.root}`"
        )
        typer.echo(f"Shard {shard}: {record['ended']}; {then}")
        raise typer.Exit(ExitCode.PROMOTE if over else ExitCode.UNDECIDED)
    _print_decisions(policies, decisions)
    typer.echo(f"Report: {folder.report_html}")
    raise typer.Exit(worst_exit_code([decision.verdict for decision in decisions]))


def _print_decisions(
    policies: "Sequence[Policy]", decisions: "Sequence[Decision]"
) -> None:
    from rich.console import Console

    from canary.evidence.observation import SCHEMA
    from canary.report import ReportData, render_terminal

    data = ReportData(
        run={},  # what a terminal shows needs no record
        policies=tuple(policies),
        decisions=tuple(decisions),
        observations=SCHEMA.empty_table(),
    )
    render_terminal(data, Console())


def _print_json(found: object) -> None:
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
