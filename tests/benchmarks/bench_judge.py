"""What judging costs: a recorded week with 12 limits over 4 regimes, an hour a look.

Run by `make bench`, or by hand with `--pairs 10000000`: writes a run's segments to a
temporary folder, judges them in a process of its own as `canary judge` does, and prints
seconds, peak memory, and the time of the last look against the second.
"""

import argparse
import hashlib
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from canary.evidence.observation import SCHEMA
from canary.policy.model import Policy

WEEK_S = 7 * 86400.0
SEGMENT = 250_000
REGIMES = ("<8k", "8k-32k", "32k-128k", ">=128k")
ARMS = ("reference/dense", "reference/sliding_window(window=256)")


def policy() -> Policy:
    """Per regime: accuracy, a median and a tail of latency."""
    gates = []
    for regime in REGIMES:
        latency = {"metric": "latency", "regime": regime}
        gates += [
            {"metric": "accuracy", "margin": "1%", "regime": regime},
            {**latency, "quantile": "p50", "max_ratio": 1.05},
            {**latency, "quantile": "p99", "max_ratio": 1.1},
        ]
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
            "gates": gates,
            "decision": {"min_duration": "24h", "min_pairs": 1},
        }
    )


def write_week(folder: Path, pairs: int) -> None:
    """Write both arms' rows, request by request, one request in ten a question."""
    rng = np.random.default_rng(0)
    arrived = np.sort(rng.uniform(0, WEEK_S, pairs))
    listed = []
    for number, start in enumerate(range(0, pairs, SEGMENT)):
        at = arrived[start : start + SEGMENT]
        table = segment(rng, at, start)
        path = folder / f"part-{number:06d}.parquet"
        pq.write_table(table, path, compression="zstd")
        content = path.read_bytes()
        listed.append({"file": path.name, "rows": table.num_rows, "elapsed_s": at[-1],
                       "sha256": hashlib.sha256(content).hexdigest()})  # fmt: skip
    manifest = {"schema": "canary.manifest/1", "segments": listed}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def segment(rng: np.random.Generator, at: np.ndarray, start: int) -> pa.Table:
    """Return the rows of some requests; the candidate is neither better nor worse."""
    count = len(at)
    tokens = np.exp(rng.normal(9.0, 1.5, count)).astype(np.int64) + 1
    shared = rng.lognormal(0, 0.5, count) * tokens / 8192
    question = rng.random(count) < 0.1
    score = (rng.random(count) < 0.9).astype(float)
    columns: dict[str, list] = {name: [] for name in SCHEMA.names}
    for arm in ARMS:
        latency = shared * rng.lognormal(0, 0.1, count)
        columns["request_id"].append(
            np.char.mod("r%08d", np.arange(start, start + count))
        )
        columns["arm"].append(np.full(count, arm))
        columns["arrived_s"].append(at)
        columns["status"].append(np.full(count, "ok"))
        columns["prompt_tokens"].append(tokens)
        columns["kind"].append(np.where(question, "quality", "latency"))
        columns["score"].append(np.where(question, score, np.nan))
        columns["latency_s"].append(latency)
        columns["service_s"].append(latency / 1000)
    order = np.arange(2 * count).reshape(2, count).T.ravel()
    arrays = {}
    for field in SCHEMA:
        parts = columns[field.name]
        if not parts:
            arrays[field.name] = pa.nulls(2 * count, field.type)
            continue
        values = np.concatenate(parts)[order]
        missing = np.isnan(values) if values.dtype.kind == "f" else None
        arrays[field.name] = pa.array(values, mask=missing).cast(field.type)
    return pa.table(arrays, schema=SCHEMA)


def judge_folder(folder: str, queue: "multiprocessing.Queue[str]") -> None:
    """Judge as the command does, in a fresh process, and say what it took."""
    from canary.assessment import Assessment  # noqa: PLC0415 - the process starts empty
    from canary.evidence.reading import Shards  # noqa: PLC0415
    from canary.judge import Ended, describe_look, fold  # noqa: PLC0415

    ended, limits = Ended(reason="end of traffic"), policy()
    began = time.perf_counter()
    evidence, end_s = fold(limits, Shards([Path(folder)]), ended=ended)
    folded_s = time.perf_counter() - began
    assessment, took_s, looks = Assessment(limits, evidence), [], []
    for hour in range(1, 169):
        at = time.perf_counter()
        last = hour == 168
        now_s = end_s if last else hour * 3600.0
        state = assessment.look(now_s, last=last, over=last)
        looks.append(state.look)
        took_s.append(time.perf_counter() - at)
    at = time.perf_counter()
    decision = describe_look(limits, assessment, state, looks, run="r", ended=ended)
    described_s = time.perf_counter() - at
    found = {
        "total_s": time.perf_counter() - began,
        "folded_s": folded_s,
        "looks_s": sum(took_s),
        "described_s": described_s,
        "second_look_ms": 1000 * float(np.median(took_s[1:6])),
        "last_look_ms": 1000 * float(np.median(took_s[-6:-1])),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "verdict": decision.verdict.value,
        "block_s": [gate.block_s for gate in decision.gates],
    }
    queue.put(json.dumps(found))


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")


def main() -> None:
    """Write a week, judge it, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        observations = Path(folder) / "observations"
        observations.mkdir()
        write_week(observations, asked.pairs)
        context = multiprocessing.get_context("spawn")
        queue = context.Queue()
        process = context.Process(target=judge_folder, args=(folder, queue))
        process.start()
        found = json.loads(queue.get(timeout=600))
        process.join()
    say(f"{asked.pairs:,} pairs of a week, 12 limits, 4 regimes, 168 looks")
    for name, value in found.items():
        say(f"  {name:16} {value if not isinstance(value, float) else round(value, 2)}")
    ratio = found["last_look_ms"] / found["second_look_ms"]
    say(f"  looks near the end cost {ratio:.2f} times those at the beginning")


if __name__ == "__main__":
    main()
