"""run.json: what a run was made of, to repeat it and to audit it."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from canary import __version__
from canary.errors import UsageError
from canary.evidence.journal import RunFolder, write_atomically
from canary.judge import Ended
from canary.policy.load import folders_of
from canary.policy.model import Policy
from canary.traffic.formats import Trace
from canary.traffic.request import Plan
from canary.traffic.shard import Shard, shard_in
from canary.traffic.validation import ValidationSet, groups_by_task
from canary.watches import INTERRUPTED

SCHEMA = "canary.run/1"


def new_record(
    plan: Plan,
    trace: Trace,
    validation: Sequence[ValidationSet],
    policies: Sequence[Policy],
    *,
    sets: Sequence[Mapping[str, Mapping[str, str]]],
    where: str,
    command: str,
    run: str,
) -> dict[str, Any]:
    """Return the record of a run that begins: its inputs, its arms, this machine.

    Args:
        plan: What is sent.
        trace: Where the traffic comes from.
        validation: Where the questions come from.
        policies: What is to be decided.
        sets: What each arm says of itself, by name, of each replica set.
        where: Where the arms run, in words.
        command: The command line.
        run: The run's name.
    """
    quality = len(plan.questions)
    shard = {} if plan.shard is None else {"shard": plan.shard.to_dict()}
    return {
        "schema": SCHEMA,
        "run": run,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "seed": plan.seed,
        "where": where,
        "versions": versions(),
        "machine": machine(),
        "speed": plan.speed,
        "plan": {
            "sha256": plan.sha256,
            "requests": len(plan.requests),
            "latency_requests": len(plan.requests) - quality,
            "quality_requests": quality,
            "span_s": plan.requests[-1].arrival_s,
            "notes": list(plan.notes),
        },
        "source": _source(trace),
        "validation": [_validation(one) for one in validation],
        "questions": groups_by_task(validation),
        "arms": {name: dict(described) for name, described in sets[0].items()},
        "more_replica_sets": [
            {name: dict(described) for name, described in one.items()}
            for one in sets[1:]
        ],
        "policies": {policy.name: policy.sha256 for policy in policies},
        "folders": list(dict.fromkeys(f for p in policies for f in folders_of(p))),
        **shard,
    }


def _source(trace: Trace) -> dict[str, Any]:
    return {
        "path": str(trace.path),
        "format": trace.format,
        "sha256": trace.sha256,
        "rows": len(trace.rows),
        "bad_rows": trace.bad_row_count,
    }


def _validation(one: ValidationSet) -> dict[str, Any]:
    return {
        "path": str(one.path),
        "sha256": one.sha256,
        "items": len(one.items),
        "groups": len({item.group or item.id for item in one.items}),
    }


def write_run(folder: RunFolder, record: Mapping[str, Any]) -> None:
    """Put the record at its place, whole or not at all."""
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder.run_json, text.encode())


def read_run(folder: RunFolder) -> dict[str, Any]:
    """Return the record of a run.

    Raises:
        UsageError: The folder is not a run folder, or its record is damaged.
    """
    try:
        record: dict[str, Any] = json.loads(folder.run_json.read_text())
    except FileNotFoundError as error:
        raise UsageError(
            f"{folder.root}: not a run folder (it has no run.json); "
            "name a folder that canary run has written"
        ) from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder.run_json}: can't be read ({error})") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise UsageError(f"{folder.run_json}: its schema is not {SCHEMA}")
    return record


def refuse_other(
    folder: RunFolder, policies: Sequence[Policy], shard: Shard | None
) -> None:
    """Raise UsageError if the run in a folder was begun as another one."""
    record = read_run(folder)
    if record["policies"] != {one.name: one.sha256 for one in policies}:
        raise UsageError(
            f"{folder.root}: was begun with other policies than these; put them "
            "back as they were, or name another folder"
        )
    begun = shard_in(record)
    if shard != begun:
        raise UsageError(
            f"{folder.root}: was begun {f'as shard {begun}' if begun else 'whole'}, "
            "which can't change; name another folder"
        )


def refuse_pruned(folder: RunFolder, record: Mapping[str, Any]) -> None:
    """Raise UsageError if the run's raw observations were removed to make room."""
    if "pruned" in record:
        raise UsageError(
            f"{folder.root}: its raw observations were pruned at {record['pruned']}; "
            "its decisions and reports stand, but it can't be judged or resumed"
        )


def repeat_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a decision document needs to be repeated: inputs, not what came
    out."""
    return {
        key: record[key]
        for key in ("command", "seed", "versions", "source", "validation")
        if key in record
    } | {"plan_sha256": record["plan"]["sha256"]}


def ended_of(record: Mapping[str, Any], policy: str, sha256: str) -> Ended | None:
    """Return where the run's evidence for a policy ends; None if it may still grow.

    A policy that the run did not have, or that has changed since, is judged on
    everything that the run has.
    """
    ends = record.get("ends", {})
    if policy in ends and record["policies"][policy] == sha256:
        return Ended(**ends[policy])
    reason = record.get("ended")
    return None if reason in (None, INTERRUPTED) else Ended(reason=reason)


def ended_together(ends: Sequence[Ended | None]) -> Ended | None:
    """Return where the evidence of several shards ends: once all of them have ended."""
    known = [end for end in ends if end is not None]
    if len(known) < len(ends):
        return None
    cutoffs = [end.cutoff_s for end in known if end.cutoff_s is not None]
    reasons = dict.fromkeys(end.reason for end in known)
    return Ended(
        reason=", ".join(reasons),
        cutoff_s=max(cutoffs) if len(cutoffs) == len(known) else None,
    )


def versions() -> dict[str, str]:
    """Return the versions of what the results depend on."""
    found = {"canary": __version__, "python": platform.python_version()}
    for package in ("torch", "ray", "numpy", "scipy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """Return what this machine is: processor, cores, memory, operating system."""
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "os": platform.platform(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
