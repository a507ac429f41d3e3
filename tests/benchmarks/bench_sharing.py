"""What two GPUs of one host are worth: pairs per second, shared in three ways.

    python tests/benchmarks/bench_sharing.py [--requests N] [--gpu NAME] [--policy FILE]

The same requests, all of them due at once, go through both arms of a policy: taking
turns on one GPU; with a GPU each, side by side; and as two sets of both arms, each set
taking turns on a GPU of its own. Prints pairs per second, the ratio to the first, and
each arm's median service time on each card, so that one sees what limits it. Needs Ray
and a node with two GPUs; `--gpu` pins their model, which the arms then make sure of.
"""

# ruff: noqa: T201 - a script's output

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from canary.arms.ray import ray_cluster, start_ray_arms
from canary.arms.ray.placement import cluster_nodes
from canary.evidence.journal import Journal, RunFolder, read_segments
from canary.policy.load import load_policies
from canary.policy.placement import Placement
from canary.prepare import prepare
from canary.runner import Runner
from canary.testing import Quiet
from canary.traffic.request import Plan
from canary.variants import build
from canary.warmup import warm_up_all
from canary.watches import arms_of

SHAPES = {
    "in turns on one GPU": {"sharing": "interleaved"},
    "a GPU each": {"sharing": "exclusive", "swap_every": "off"},
    "in turns on two GPUs": {"sharing": "interleaved", "replicas": 2},
}
WARM_UP_REQUESTS = 12


def at_once(plan, requests):
    """Return the first requests of a plan, none of which has to wait."""
    chosen = [r for r in plan.requests if r.kind == "latency"][:requests]
    return Plan(
        requests=tuple(chosen),
        arm_orders=plan.arm_orders[: len(chosen)],
        seed=plan.seed,
        sha256=plan.sha256,
        speed=1e9,
    )


def play(policy, plan, sets):
    """Play the plan; return how long that took and its rows."""
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place) / "run")
        folder.create()
        runner = Runner(
            [policy],
            plan,
            sets,
            Journal(folder, clock=time.perf_counter),
            clock=time.perf_counter,
            sleep=time.sleep,
            listener=Quiet(),
        )
        began_s = time.perf_counter()
        runner.run()
        return time.perf_counter() - began_s, read_segments(folder).to_pylist()


def measure(policy, plan, placement):
    """Return pairs per second, and the median service time by arm and card."""
    timeout_s = policy.traffic.timeout_s
    sets = start_ray_arms(
        arms_of([policy]), build=build, timeout_s=timeout_s, placement=placement
    )
    try:
        warm_up_all(sets, plan, WARM_UP_REQUESTS)
        took_s, rows = play(policy, plan, sets)
    finally:
        for one in sets:
            for arm in one.arms.values():
                arm.close()
    failed = [row for row in rows if row["status"] != "ok"]
    if failed:
        raise SystemExit(f"{len(failed)} answers failed, the first: {failed[0]}")
    services = defaultdict(list)
    for row in rows:
        services[row["arm"], row["device"]].append(row["service_s"])
    medians = {key: statistics.median(times) for key, times in services.items()}
    return len(plan.requests) / took_s, medians


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--policy", type=Path, default=Path("policies/long/two-gpus.yaml")
    )
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--gpu", metavar="NAME")
    given = parser.parse_args()
    policy = load_policies([given.policy])[0].model_copy(update={"aa_control": 0.0})
    plan = at_once(prepare((policy,), seed=0).plan, given.requests)
    print(f"{len(plan.requests)} requests of {policy.traffic.source}, {policy.name}")
    first = None
    with ray_cluster(None):
        if max(node.gpus for node in cluster_nodes()) < 2:
            print("no node with two GPUs: nothing to measure")
            return
        for name, wanted in SHAPES.items():
            placement = Placement.model_validate(wanted | {"gpu": given.gpu})
            rate, medians = measure(policy, plan, placement)
            first = first or rate
            print(f"{name:22s}{rate:8.2f} pairs/s{rate / first:8.2f}x", flush=True)
            for (arm, device), service_s in sorted(medians.items()):
                print(f"{'':8s}{arm} on {device}: median {service_s * 1000:.2f} ms")


if __name__ == "__main__":
    main()
