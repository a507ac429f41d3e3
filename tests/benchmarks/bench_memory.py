"""Memory and pace of the runner itself over 100,000 requests on test arms.

    python tests/benchmarks/bench_memory.py [REQUESTS]

Two scripted arms, a clock that skips all waiting, a real journal on disk, a look every
virtual minute. Prints the resident memory as the run goes on. What the plan takes is
there before the first request; what grows afterwards is what a request leaves behind.
"""

import sys
import tempfile
import time
from pathlib import Path

from canary.arms.local import start_local_arms
from canary.evidence.journal import Journal, RunFolder
from canary.policy.model import Policy
from canary.runner import Runner
from canary.testing import FakeClock, Quiet, ScriptedVariant
from canary.traffic.request import Plan, Request, TokenBlocks
from canary.watches import arms_of

STEPS = 10


def policy():
    """Gates of each kind; none can be promoted before the traffic ends."""
    return Policy.model_validate(
        {
            "version": 1,
            "name": "memory",
            "baseline": {"model": "reference"},
            "candidate": {
                "model": "reference",
                "attention": {"pattern": "sliding_window", "window": 256},
            },
            "traffic": {"source": "trace.csv"},
            "gates": [
                {"metric": "service", "quantile": "p99", "max_ratio": 1.05},
                {"metric": "latency", "over": "90ms", "margin": "1%"},
                {"metric": "errors", "margin": "1%"},
            ],
            "aa_control": "10%",
            "decision": {
                "min_duration": "7d",
                "max_duration": "7d",
                "look_every": "10m",
                "block": "request",
            },
        }
    )


def plan_of(count):
    """Requests at one a second, with ids and lengths of their own."""
    requests = tuple(
        Request(
            request_id=f"bench-{index:06d}",
            kind="latency",
            arrival_s=float(index),
            max_output_tokens=8,
            blocks=TokenBlocks(length_tokens=64 + index * 7919 % 8000),
            seed=index,
        )
        for index in range(count)
    )
    orders = tuple(range(count))
    return Plan(requests=requests, arm_orders=orders, seed=0, sha256="", speed=1.0)


class Gauge(Quiet):
    """Prints memory at ten moments of the run, and keeps nothing."""

    def __init__(self):
        """Begin the clock."""
        super().__init__()
        self.began_s = time.perf_counter()

    def answered(self, *, done, planned, rows, lag_s):
        """Print a line at every tenth."""
        del rows, lag_s
        if done in (1000, *range(planned // STEPS, planned + 1, planned // STEPS)):
            took_s = time.perf_counter() - self.began_s
            sys.stdout.write(
                f"{done:>9,} requests  {resident_mib():7.1f} MiB  {took_s:6.1f} s\n"
            )
            sys.stdout.flush()

    def waiting(self):
        """Nothing to keep."""


def resident_mib():
    """Return this process's resident memory."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def service_s(request):
    """A tenth of a second, more or less, by the request alone."""
    return 0.02 + request.seed * 104_729 % 1009 / 10_000


def main(count):
    """Play the plan."""
    clock = FakeClock()
    plan = plan_of(count)

    def build(spec):
        del spec
        return ScriptedVariant(service_s=service_s, clock=clock)

    arms = start_local_arms(arms_of([policy()]), build=build, clock=clock)
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place) / "run")
        folder.create()
        Runner(
            [policy()],
            plan,
            arms,
            Journal(folder, clock=clock, every_s=60.0),
            clock=clock,
            sleep=clock.sleep,
            listener=Gauge(),
        ).run()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
