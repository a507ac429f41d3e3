"""A run on a three-node cluster whose processes and nodes are killed under it.

    python tests/soak/chaos.py FOLDER [--pairs 240] [--processes 16] [--nodes 4]
        [--drains 2]

Plays the same plan twice with the same scripted arms: calm in this process, and on a
cluster of real processes, of which it kills arms' workers and whole nodes with SIGKILL
at moments drawn from the seed; nodes are drained, too, before they go. Leaves both
journals in FOLDER (`calm`, `storm`) and prints as JSON what happened; ends with 1 if a
request was lost, answered twice, or scored otherwise than in the calm.
"""

import argparse
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # or Ray leaves a token at home
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^")  # as canary.arms.ray does

from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from canary.arms.local import start_local_arms
from canary.arms.ray import ray_cluster, replicas, start_ray_arms
from canary.evidence.journal import Journal, RunFolder, read_segments
from canary.policy.model import Policy
from canary.runner import Runner
from canary.testing import FakeClock, Quiet, ScriptedVariant
from canary.traffic.request import Plan, Request
from canary.watches import arms_of

# Deaths of nodes are noticed in a second, not in twenty.
NOTICE_SOON = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 300,
    "health_check_timeout_ms": 300,
    "health_check_failure_threshold": 2,
}
WORKER_NODES = 2
TAKES_S = 0.01
# A kill strikes within this time; so many requests later all have recovered from it.
STRIKE_S = 0.06
APART = 8
POLICY = {
    "version": 1,
    "name": "chaos",
    "baseline": {"model": "reference"},
    "candidate": {
        "model": "reference",
        "attention": {"pattern": "sliding_window", "window": 256},
    },
    "traffic": {"source": "trace.csv"},
    "validation": ["items.jsonl"],
    "gates": [{"metric": "accuracy", "margin": "5%"}],
    "decision": {
        "min_duration": "1h",
        "max_duration": "2h",
        "min_pairs": 1000,
        "look_every": "10m",
        "block": "request",
    },
}


class Slow(ScriptedVariant):
    """Takes a little real time, so that there is a moment to be killed in."""

    def generate(self, request):
        """Answer as scripted, a moment later."""
        time.sleep(TAKES_S)
        return super().generate(request)


def build(spec):
    """What an arm answers, and how fast, depends on the request alone."""
    dense = spec.attention == "dense"
    return Slow(
        service_s=lambda r: (1.0 if dense else 0.9) * (0.02 + r.seed % 97 / 2000),
        right=lambda r: r.seed % (13 if dense else 7) != 0,
    )


def plan_of(count):
    """Questions, one a second."""
    requests = tuple(
        Request(
            request_id=f"q{index}",
            kind="quality",
            arrival_s=float(index),
            max_output_tokens=3,
            text="what is it ?",
            target=("42",),
            task="contracts",
            seed=index,
        )
        for index in range(count)
    )
    return Plan(
        requests=requests,
        arm_orders=tuple(range(count)),
        seed=0,
        sha256="chaos",
        speed=1.0,
    )


class Chaos(Quiet):
    """A listener that kills a process or a node after requests of its choice."""

    def __init__(self, cluster, arms, kills):
        """Take `kills`: what to kill after which request."""
        super().__init__()
        self._cluster = cluster
        self._arms = arms
        self._kills = dict(kills)
        self._chance = random.Random(1)
        self._threads = []
        self._drained = 0

    def answered(self, *, done, planned, rows, lag_s):
        """Strike somewhat later, in the middle of something."""
        super().answered(done=done, planned=planned, rows=rows, lag_s=lag_s)
        self.settle()
        # Whoever owns the cluster puts another machine where one went away.
        # A drained one ends by itself, but stays on the cluster's list.
        there = len(self._cluster.worker_nodes) - self._drained
        if there < WORKER_NODES and {"node", "drain"} & set(self._kills.values()):
            add_node(self._cluster)
        kind = self._kills.pop(done, None)
        self._drained += kind == "drain"
        strike = {
            "process": self._process,
            "node": self._node,
            "drain": self._drain,
        }.get(kind)
        if strike is not None:
            arm = self._chance.choice(sorted(self._arms))
            facts = [self._arms[name].describe() for name in (arm, *self._arms)]
            delay_s = self._chance.uniform(0.0, STRIKE_S)
            self._threads.append(threading.Timer(delay_s, strike, [facts]))
            self._threads[-1].start()

    def _process(self, facts):
        os.kill(int(facts[0]["pid"]), signal.SIGKILL)

    def _node(self, facts):
        """End a whole machine."""
        victim = next(
            node
            for node in self._cluster.worker_nodes
            if node.node_id == facts[0]["node_id"]
        )
        for infos in victim.all_processes.values():
            for info in infos:
                info.process.kill()
        for one in facts[1:]:
            with suppress(ProcessLookupError):  # it may follow its node by itself
                os.kill(int(one["pid"]), signal.SIGKILL)
        self._cluster.worker_nodes.remove(victim)

    def _drain(self, facts):
        """Say that a machine will go in ten minutes."""
        accepted, why = GcsClient(address=self._cluster.address).drain_node(
            facts[0]["node_id"],
            DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION,
            "the machine is needed elsewhere",
            int((time.time() + 600) * 1000),
        )
        if not accepted:
            raise RuntimeError(why)

    def settle(self):
        """Wait for the last strike: what it hits recovers long before the next."""
        while self._threads:
            self._threads.pop().join()


def add_node(cluster):
    """Add a node with two cards, as far as Ray knows."""
    cluster.add_node(wait=False, num_cpus=0, num_gpus=2)


def kills_of(pairs, **kills):
    """Say what to kill after which request, far enough apart to recover."""
    chance = random.Random(0)
    moments = chance.sample(range(2, pairs - 2, APART), sum(kills.values()))
    what = [kind for kind, count in kills.items() for _ in range(count)]
    return dict(zip(moments, what, strict=True))


def play(folder, plan, policy, sets, listener):
    """Run the plan through the arms; return what the runner says of it."""
    run = RunFolder(folder)
    run.create()
    clock = FakeClock()
    runner = Runner(
        [policy],
        plan,
        sets,
        Journal(run, clock=clock),
        clock=clock,
        sleep=clock.sleep,
        listener=listener,
    )
    return runner.run()


def storm(folder, plan, policy, kills):
    """Run it on a cluster under attack."""
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "include_dashboard": False,
            "include_log_monitor": False,
            "_system_config": NOTICE_SOON,
        },
    )
    try:
        for _ in range(WORKER_NODES):
            add_node(cluster)
        cluster.wait_for_nodes()
        replicas.CHECK_EVERY_S = 0.0  # or it would be over before anybody looks
        with ray_cluster(cluster.address):
            sets = start_ray_arms(arms_of([policy]), build=build, timeout_s=60.0)
            arms = sets[0].arms
            facts = {name: arm.describe() for name, arm in arms.items()}
            chaos = Chaos(cluster, arms, kills)
            played = play(folder, plan, policy, sets, chaos)
            chaos.settle()
    finally:
        cluster.shutdown()
    return played, facts


def rows_of(folder):
    """Return what counts of a run."""
    rows = read_segments(RunFolder(folder)).to_pylist()
    return [row for row in rows if not row["warm"]]


def same(calm, stormy):
    """Whether an answer under attack is the calm one's."""
    names = ("status", "score", "answer", "service_s")
    return all(calm[name] == stormy[name] for name in names)


def faults(calm, stormy):
    """Say what is wrong with the evidence of a storm."""
    known = {(row["request_id"], row["arm"]): row for row in calm}
    asked = Counter((row["request_id"], row["arm"]) for row in stormy)
    voids = Counter(row["request_id"] for row in stormy if row["status"] == "void")
    found = [f"{key} answered {n} times" for key, n in asked.items() if n > 1]
    found += [f"{key} lost" for key in known if key not in asked]
    found += [f"{name} void for {n} arm" for name, n in voids.items() if n != 2]
    found += [
        f"{row['request_id']} of {row['arm']}: {row['status']} {row['error'] or ''}"
        for row in stormy
        if row["status"] != "void"
        and not same(known[row["request_id"], row["arm"]], row)
    ]
    return found


def main():
    """Run calm, run stormy, compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=240)
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--drains", type=int, default=2)
    given = parser.parse_args()
    policy, plan = Policy.model_validate(POLICY), plan_of(given.pairs)
    calm = start_local_arms(arms_of([policy]), build=build)
    play(given.folder / "calm", plan, policy, calm, Quiet())
    kills = kills_of(
        given.pairs, process=given.processes, node=given.nodes, drain=given.drains
    )
    played, facts = storm(given.folder / "storm", plan, policy, kills)
    found = faults(rows_of(given.folder / "calm"), rows_of(given.folder / "storm"))
    told = {
        "reason": played.reason,
        "arms": facts,
        "kills": Counter(kills.values()),
        "restarts": played.losses.restarts,
        "voids": played.losses.voids,
        "faults": found,
    }
    sys.stdout.write(json.dumps(told, indent=1) + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
