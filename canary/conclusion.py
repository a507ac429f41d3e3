"""The end of a run: its decisions and reports, from its folder alone."""

from collections.abc import Sequence
from dataclasses import replace

from canary.decision import Decision
from canary.evidence.journal import RunFolder, write_atomically
from canary.evidence.reading import read_observations
from canary.judge import judge
from canary.overrides import last_overrides
from canary.policy.model import Policy
from canary.record import ended_of, read_run, refuse_pruned, repeat_of
from canary.report import ReportData, render_html, render_markdown
from canary.shards import fold_shard
from canary.traffic.shard import shard_in


def conclude(folder: RunFolder, policies: Sequence[Policy]) -> tuple[Decision, ...]:
    """Judge what the folder holds; write decision documents and reports anew.

    A shard decides nothing: what it has recorded is folded for whoever judges all.
    """
    record = read_run(folder)
    refuse_pruned(folder, record)
    if shard_in(record) is not None:
        fold_shard(folder, record, policies)
        return ()
    observations = read_observations(folder.root)
    overrides = last_overrides(folder)
    decisions = tuple(
        replace(
            judge(
                policy,
                observations,
                run=record["run"],
                ended=ended_of(record, policy.name, policy.sha256),
                questions=record.get("questions"),
                doubts=record.get("doubts", ()),
                repeat=repeat_of(record),
            ),
            override=overrides.get(policy.name),
        )
        for policy in policies
    )
    for decision in decisions:
        write_atomically(folder.decision(decision.policy), decision.to_json().encode())
    data = ReportData(
        run=record,
        policies=tuple(policies),
        decisions=decisions,
        observations=observations,
    )
    write_atomically(folder.report_html, render_html(data).encode())
    write_atomically(folder.report_markdown, render_markdown(data).encode())
    return decisions
