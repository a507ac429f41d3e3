"""Shards of one run: which belong together, and what they make up as a whole.

Each shard is a run folder of its own, written by a machine of its own, that decides
nothing. Once it has ended, what it recorded is folded into whole numbers beside it, so
that judging all of them together needn't read every observation again.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from canary.errors import ObservationError, UsageError
from canary.evidence.journal import RunFolder, write_atomically
from canary.evidence.reading import Shards
from canary.evidence.remote import Location
from canary.gates import Evidence
from canary.gates.evidence import read_evidence
from canary.judge import Ended, fold
from canary.policy.model import Policy
from canary.record import ended_of, ended_together, write_run
from canary.traffic.shard import Shard, shard_in
from canary.watches import INTERRUPTED

Record = Mapping[str, Any]

_NAMED = 5


def refuse_mixed(paths: Sequence[Location], records: Sequence[Record]) -> None:
    """Make sure that what is judged together is one run, and all of it once.

    Args:
        paths: The run folders and files.
        records: What is known of each; empty for files.

    Raises:
        UsageError: It is several runs, some of it is missing, or is there twice.
    """
    shards = [shard_in(record) for record in records]
    _refuse_twice(paths)
    if not any(shards):
        _refuse_same_plan(paths, records)
        return
    for (path, one), (other_path, other) in pairwise(zip(paths, shards, strict=True)):
        if (one is None) != (other is None):
            whole, part = (other_path, path) if one else (path, other_path)
            raise UsageError(
                f"{whole} is no shard, but {part} is shard {one or other} of a run; "
                "judge a run's shards with each other only"
            )
    families = [_family(record) for record in records]
    for path, shard, found in zip(paths, shards, families, strict=True):
        if found != families[0]:
            raise UsageError(
                f"{path} is shard {shard} of another run than {paths[0]}, shard "
                f"{shards[0]}: traffic, questions, seed and number of shards must be "
                "the same; leave one of them out"
            )
    _refuse_incomplete(paths, [shard for shard in shards if shard])


def _refuse_twice(paths: Sequence[Location]) -> None:
    known: dict[str, Location] = {}
    for path in paths:
        whole = str(path.resolve() if isinstance(path, Path) else path)
        other = known.setdefault(whole, path)
        if other is not path:
            raise UsageError(
                f"{other} and {path} are the same, which would count twice; name one"
            )


def _refuse_same_plan(paths: Sequence[Location], records: Sequence[Record]) -> None:
    known: dict[str, Location] = {}
    for path, record in zip(paths, records, strict=True):
        if "plan" not in record or "live" in record:
            continue
        other = known.setdefault(record["plan"]["sha256"], path)
        if other != path:
            raise UsageError(
                f"{other} and {path} sent the same requests, which would count twice; "
                "judge one of them, or run shards with --shard 1/2 and --shard 2/2"
            )


def _family(record: Record) -> tuple[object, ...]:
    """What all shards of one run have in common."""
    of = record["shard"]["of"]
    if "live" in record:  # the plan only warms up with what came before
        return of, record["seed"], record["source"]["path"]
    return of, record["seed"], record["plan"]["sha256"]


def _refuse_incomplete(paths: Sequence[Location], shards: Sequence[Shard]) -> None:
    where: dict[int, Location] = {}
    for path, shard in zip(paths, shards, strict=True):
        if shard.number in where:
            raise UsageError(
                f"{where[shard.number]} and {path} are both shard {shard}, which would "
                "count twice; leave one of them out"
            )
        where[shard.number] = path
    of = shards[0].of
    missing = [str(number) for number in range(1, of + 1) if number not in where]
    if missing:
        more = len(missing) - _NAMED
        named = ", ".join(missing[:_NAMED]) + (f" and {more} more" if more > 0 else "")
        raise UsageError(
            f"of {of} shards {len(missing)} are missing: {named}; name the folders of "
            "all, and go on elsewhere with one whose machine is lost by `canary resume`"
        )


def begins_s(records: Sequence[Record]) -> list[float]:
    """Return how much later than the first of them each run's zero is.

    Shards of a trace share the trace's zero; live traffic counts from when each began.
    """
    began = [record.get("live", {}).get("began_unix_s") for record in records]
    if None in began:
        return [0.0] * len(records)
    return [unix_s - min(began) for unix_s in began]


def end_of_all(records: Sequence[Record], policy: Policy) -> Ended | None:
    """Return where the evidence of all runs ends; None while one may still grow."""
    ends = []
    for record, begin_s in zip(records, begins_s(records), strict=True):
        end = ended_of(record, policy.name, policy.sha256)
        if end is not None and end.cutoff_s is not None:
            end = replace(end, cutoff_s=end.cutoff_s + begin_s)
        ends.append(end)
    return ended_together(ends)


def fold_shard(
    folder: RunFolder, record: dict[str, Any], policies: Sequence[Policy]
) -> None:
    """Write beside a shard that has ended what it recorded for each policy, folded.

    Raises:
        ObservationError: An arm answered nothing.
        StorageError: It can't be written.
    """
    if record.get("ended") in (None, INTERRUPTED):
        return
    record["folded"] = {}
    for policy in policies:
        # Nothing was sent after its own end; that of all shards may be later.
        ended = Ended(reason=record["ended"])
        evidence, end_s = fold(policy, Shards([folder.root]), ended=ended)
        content = evidence.to_bytes()
        write_atomically(folder.folded(policy.name), content)
        record["folded"][policy.name] = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "end_s": end_s,
            "weights": list(evidence.weights),
        }
    write_run(folder, record)


def merged_shards(
    policy: Policy, paths: Sequence[Location], records: Sequence[Record], ended: Ended
) -> tuple[Evidence, float] | None:
    """Return the evidence of all shards, and when it ends, from what each has folded.

    None unless all have folded for this very policy, on one axis of time, with the same
    extremes of weight and nothing that counts no more: then only the observations tell.

    Raises:
        ObservationError: What was folded isn't there any more, or was changed.
    """
    known = [record.get("folded", {}).get(policy.name) for record in records]
    same = all(
        record.get("policies", {}).get(policy.name) == policy.sha256
        for record in records
    )
    if not same or None in known or any(begins_s(records)):
        return None
    if len({tuple(one["weights"]) for one in known}) > 1:
        return None
    end_s = max(one["end_s"] for one in known)
    if ended.cutoff_s is not None:
        if end_s > ended.cutoff_s:  # what came later counts no more
            return None
        end_s = min(ended.cutoff_s, policy.decision.max_duration_s)
    whole = Evidence(policy, weights=tuple(known[0]["weights"]))
    for path, one in zip(paths, known, strict=True):
        read_evidence(policy, _content(RunFolder(path), policy, one), into=whole)
    return whole, end_s


def _content(folder: RunFolder, policy: Policy, known: Record) -> bytes:
    path = folder.folded(policy.name)
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = f"can't be read ({error.strerror})"
        raise ObservationError(_again(path, reason)) from error
    if hashlib.sha256(content).hexdigest() != known["sha256"]:
        raise ObservationError(_again(path, "was changed since it was written"))
    return content


def _again(path: Location, what: str) -> str:
    return f"{path}: {what}; write it anew with `canary report {path.parent}`"
