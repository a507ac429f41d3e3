"""A week of 1000 requests/s on 100 nodes, from a few shards at their true rate.

    python tests/benchmarks/bench_shards.py [--days 7] [--shards 4]

Such a week is 604.8 million pairs: too many to play here. Each of its shards has 10
requests/s, and a few of those are made, folded as a shard folds itself when it has
ended, and judged together, each step in a process of its own. Everything under
"measured" was; what stands under "extrapolated" is a straight line through it.
"""

import argparse
import json
import math
import multiprocessing
import os
import sys
import tempfile
import time
from functools import partial
from hashlib import sha256
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bench_judge import segment

from canary.arms.local import start_local_arms
from canary.evidence.journal import Journal, RunFolder
from canary.evidence.reading import Shards
from canary.judge import Ended, fold, judge_evidence
from canary.policy.model import Policy
from canary.record import SCHEMA, read_run
from canary.runner import Runner
from canary.shards import end_of_all, fold_shard, merged_shards, refuse_mixed
from canary.testing import FakeClock, Quiet, ScriptedVariant
from canary.traffic.formats import Trace, TraceRow
from canary.traffic.plan import make_plan
from canary.traffic.selection import Selection
from canary.traffic.shard import Shard
from canary.watches import arms_of

DAY_S = 86_400.0
WEEK_S = 7 * DAY_S
OF = 100
RATE_RPS = 10.0  # of one shard
TURNS = 4  # requests of a session
ROWS_AT_ONCE = 250_000
LOOP_S = 600.0  # of the trace that is played again and again
PACE_REQUESTS = 20_000
PAIRS_OF_ALL = OF * RATE_RPS * WEEK_S


def policy() -> Policy:
    """Answers, a median, a tail and errors, over all traffic."""
    return Policy.model_validate(
        {
            "version": 1,
            "name": "week",
            "baseline": {"model": "reference", "attention": "dense"},
            "candidate": {
                "model": "reference",
                "attention": {"pattern": "sliding_window", "window": 256},
            },
            "traffic": {"source": "trace.csv"},
            "validation": ["items.jsonl"],
            "gates": [
                {"metric": "accuracy", "margin": "1%"},
                {"metric": "latency", "quantile": "p50", "max_ratio": 1.05},
                {"metric": "latency", "quantile": "p99", "max_ratio": 1.1},
                {"metric": "errors", "margin": "1%"},
            ],
            # So long that every look of the week is taken.
            "decision": {"min_duration": "168h", "max_duration": "169h"},
        }
    )


def whole_trace():
    """Ten minutes of 1000 requests/s in sessions of four."""
    rows = round(OF * RATE_RPS * LOOP_S)
    at_s = np.sort(np.random.default_rng(0).uniform(0, LOOP_S, rows)).tolist()
    listed = tuple(
        TraceRow(
            index=index,
            arrival_s=at,
            prompt_tokens=64 + index * 7919 % 8000,
            output_tokens=8,
            session_id=f"s{index // TURNS}",
        )
        for index, at in enumerate(at_s)
    )
    return Trace(path="trace", sha256="", format="bench", rows=listed)


def plan_week(days):
    """What a shard's machine does first: plan all that it will send."""
    trace = whole_trace()
    before_mib = peak_mib()
    began_s = time.perf_counter()
    loop = Selection(loop_for_s=days * DAY_S)
    plan = make_plan(trace, [], loop, seed=0, shard=Shard(1, OF))
    took_s = time.perf_counter() - began_s
    return {
        "requests": len(plan.requests),
        "took_s": took_s,
        "before_mib": before_mib,
        "peak_mib": peak_mib(),
    }


def pace(place):
    """How many requests a second one driver bears, and what they take on disk."""
    clock = FakeClock()
    loop = Selection(loop_for_s=PACE_REQUESTS / RATE_RPS)
    plan = make_plan(whole_trace(), [], loop, seed=0, shard=Shard(1, OF))
    rng = np.random.default_rng(1)
    drawn = [rng.lognormal(-5, 0.3, len(plan.requests)).tolist() for _ in range(2)]
    numbers = count()

    def build(_):
        took_s = iter(drawn[next(numbers)])
        return ScriptedVariant(service_s=lambda _: next(took_s), clock=clock)

    folder = RunFolder(Path(place) / "pace")
    folder.create()
    policies = [policy()]
    journal = Journal(folder, clock=clock)
    runner = Runner(
        policies,
        plan,
        start_local_arms(arms_of(policies), build=build, clock=clock),
        journal,
        clock=clock,
        sleep=clock.sleep,
        listener=Quiet(),
    )
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    runner.run()
    took_s = time.perf_counter() - began_s
    files = list(folder.observations.iterdir())
    return {
        "requests": len(plan.requests),
        "took_s": took_s,
        "cpu_s": time.process_time() - began_cpu_s,
        "peak_mib": peak_mib(),
        "files": len(files),
        "bytes": sum(path.stat().st_size for path in files),
    }


def write_shard(place, number, days):
    """Make a shard's run folder: its rate, its sessions, questions one in ten."""
    folder = RunFolder(Path(place) / f"shard-{number:03d}")
    folder.create()
    rng = np.random.default_rng(number)
    size = round(RATE_RPS * days * DAY_S)
    arrived_s = np.sort(rng.uniform(0, days * DAY_S, size))
    listed = []
    for index, start in enumerate(range(0, size, ROWS_AT_ONCE)):
        at_s = arrived_s[start : start + ROWS_AT_ONCE]
        table = with_names(segment(rng, at_s, start), number, start)
        path = folder.segment(index)
        pq.write_table(table, path, compression="zstd")
        listed.append(
            {
                "file": path.name,
                "rows": table.num_rows,
                "elapsed_s": float(at_s[-1]),
                "sha256": sha256(path.read_bytes()).hexdigest(),
            }
        )
    manifest = {"schema": "canary.manifest/1", "segments": listed}
    folder.manifest.write_text(json.dumps(manifest))
    record = {
        "schema": SCHEMA,
        "run": folder.root.name,
        "seed": 0,
        "plan": {"sha256": "of the whole"},
        "policies": {policy().name: policy().sha256},
        "ended": "end of traffic",
        "shard": {"number": number, "of": OF},
    }
    folder.run_json.write_text(json.dumps(record))
    return {"pairs": size, "bytes": sum(p.stat().st_size for p in listed_files(folder))}


def with_names(table, number, start):
    """Give requests the names of their shard, and those of traffic their sessions."""
    rows = start + np.arange(table.num_rows) // 2
    ids = pa.array(np.char.mod(f"n{number:03d}-%08d", rows))
    sessions = pa.array(np.char.mod(f"s{number:03d}-%08d", rows // TURNS))
    quality = pa.compute.equal(table["kind"], "quality")
    sessions = pa.compute.if_else(quality, None, sessions)
    for name, column in (("request_id", ids), ("session_id", sessions)):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), column)
    return table


def listed_files(folder):
    """Return the files that hold observations."""
    return list(folder.observations.iterdir())


def fold_one(path):
    """Fold a shard, as it does itself when it has ended."""
    folder = RunFolder(Path(path))
    before_mib, began_s = peak_mib(), time.perf_counter()
    fold_shard(folder, read_run(folder), [policy()])
    return {
        "took_s": time.perf_counter() - began_s,
        "before_mib": before_mib,
        "peak_mib": peak_mib(),
        "bytes": folder.folded("week").stat().st_size,
    }


def judge_some(paths, folded):
    """Judge shards together, from what they folded or from all observations."""
    paths, limits = [Path(path) for path in paths], policy()
    before_mib, began_s = peak_mib(), time.perf_counter()
    records = [read_run(RunFolder(path)) for path in paths]
    for record in records:  # these are all that there are
        record["shard"]["of"] = len(paths)
    if len(paths) > 1:
        refuse_mixed(paths, records)
    ended = end_of_all(records, limits) or Ended(reason="")
    if folded:
        evidence, end_s = merged_shards(limits, paths, records, ended)
    else:
        evidence, end_s = fold(limits, Shards(paths), ended=ended)
    read_s = time.perf_counter() - began_s
    decision = judge_evidence(limits, evidence, end_s=end_s, run="r", ended=ended)
    return {
        "pairs": decision.pairs,
        "looks": len(decision.looks),
        "read_s": read_s,
        "took_s": time.perf_counter() - began_s,
        "before_mib": before_mib,
        "peak_mib": peak_mib(),
        "decision": sha256(decision.to_json().encode()).hexdigest(),
    }


def peak_mib():
    """Return the peak of this process's resident memory."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def apart(step):
    """Do a step in a process of its own and return what it says."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(step)


def line_through(amounts, values):
    """Return intercept and slope of the straight line that fits best."""
    slope, intercept = np.polyfit(amounts, values, 1)
    return float(intercept), float(slope)


def say(line=""):
    """Print a line."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def measure(place, days, shards):
    """Measure and print it; return what a straight line goes through."""
    say("MEASURED")
    one = apart(partial(plan_week, days))
    grew = one["peak_mib"] - one["before_mib"]
    say("one driver (shard 1/100 of a trace of 1000 requests/s that loops):")
    say(
        f"  plans {one['requests']:,} requests in {one['took_s']:.1f} s, {grew:.0f} MiB"
    )
    driver = apart(partial(pace, place))
    rate = driver["requests"] / driver["took_s"]
    say(f"  bears {rate:,.0f} requests/s with test arms, a commit every 20 of them;")
    busy = driver["cpu_s"] / driver["requests"]
    say(
        f"  {1e6 * busy:.0f} us of processor a request: {busy * RATE_RPS:.2%} of a core"
    )
    each = driver["bytes"] / driver["requests"]
    say(f"  its journal holds {each:.1f} bytes a pair in {driver['files']} files")
    made = [apart(partial(write_shard, place, n, days)) for n in range(1, shards + 1)]
    paths = sorted(str(path) for path in Path(place).glob("shard-*"))
    pairs = made[0]["pairs"]
    say(f"shards of {RATE_RPS:g} requests/s for {days:g} days, {pairs:,} pairs each:")
    say(f"  on disk   {made[0]['bytes'] / pairs:.1f} bytes a pair as made here")
    folds = [apart(partial(fold_one, path)) for path in paths]
    took_s = np.mean([fold["took_s"] for fold in folds])
    grew = max(fold["peak_mib"] - fold["before_mib"] for fold in folds)
    say(f"  to fold   {took_s:.1f} s and {grew:.0f} MiB a shard, each on its own node")
    folded = folds[0]["bytes"] / pairs
    say(f"  folded    {folds[0]['bytes'] / 1e6:.1f} MB a shard, {folded:.1f} a pair")
    say(f"judging N of them together on one machine, {math.floor(days * 24)} looks:")
    say("        pairs  from folded: read s  in all s     MiB  "
        "from observations: in all s     MiB")  # fmt: skip
    grown = []
    sizes = [2**k for k in range(shards.bit_length()) if 2**k <= shards]
    for size in sizes:
        quick = apart(partial(judge_some, paths[:size], True))
        raw = apart(partial(judge_some, paths[:size], False))
        if quick["decision"] != raw["decision"]:
            say("the decisions differ")
            sys.exit(1)
        memory = [found["peak_mib"] - found["before_mib"] for found in (quick, raw)]
        say(
            f"  {size:2} {quick['pairs']:10,} {quick['read_s']:20.1f} "
            f"{quick['took_s']:9.1f} {memory[0]:7.0f} {raw['took_s']:28.1f} "
            f"{memory[1]:7.0f}"
        )
        grown.append(
            (quick["pairs"], quick["took_s"], memory[0], raw["took_s"], memory[1])
        )
    return each, folded, took_s / pairs, np.array(grown)


def extrapolate(each, folded, fold_s, grown):
    """Print what a straight line through that says of the whole week."""
    say()
    say(f"EXTRAPOLATED to {PAIRS_OF_ALL:,.0f} pairs, 100 shards of a whole week")
    say(f"  observations   {each * PAIRS_OF_ALL / OF / 1e9:.2f} GB a shard, "
        f"{each * PAIRS_OF_ALL / 1e9:.0f} GB in all")  # fmt: skip
    say(f"  folded         {folded * PAIRS_OF_ALL / OF / 1e6:.0f} MB a shard, "
        f"{folded * PAIRS_OF_ALL / 1e9:.1f} GB in all")  # fmt: skip
    say(f"  to fold        {fold_s * PAIRS_OF_ALL / OF:.0f} s on each node")
    for name, time_at, memory_at in (
        ("judging folded", 1, 2),
        ("judging observations", 3, 4),
    ):
        (_, per_s), (_, per_mib) = (
            line_through(grown[:, 0], grown[:, at]) for at in (time_at, memory_at)
        )
        say(
            f"  {name}: {1e6 * per_s:.2f} us and {per_mib * 2**20:.0f} bytes a pair "
            f"more: {per_s * PAIRS_OF_ALL / 60:.0f} min and "
            f"{per_mib * PAIRS_OF_ALL / 1024:.0f} GiB for all"
        )


def main():
    """Measure a few shards; say what that makes of a hundred."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=float, default=0.5)
    parser.add_argument("--shards", type=int, default=4)
    asked = parser.parse_args()
    say(f"python tests/benchmarks/bench_shards.py --days {asked.days:g} "
        f"--shards {asked.shards}, on {os.cpu_count()} cores")  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        found = measure(place, asked.days, asked.shards)
    extrapolate(*found)


if __name__ == "__main__":
    main()
