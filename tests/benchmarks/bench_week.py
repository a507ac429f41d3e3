"""A simulated week: 600,000 requests, a look an hour, a restart a day.

    python tests/benchmarks/bench_week.py [REQUESTS]

Test arms and a clock that skips all waiting; everything else is the real thing: the
runner, its journal on disk, its looks, and the judge at the end. Traffic has a daily
cycle. One week compares the baseline with itself, against limits that say "no worse at
all": whatever is promoted or rolled back is so by chance. In the other the candidate
becomes a tenth slower and wrong more often in the middle of the week. Prints how long
each took, memory when it began and after each day, what lies on disk, and the verdicts;
then how many requests a second one driver bears. Ends with 1 if a verdict is wrong.
"""

import math
import os
import random
import resource
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

import numpy as np

from canary.arms.local import start_local_arms
from canary.clock import Clock
from canary.decision import Verdict
from canary.evidence.journal import Journal, RunFolder, iter_segments
from canary.evidence.lease import Lease
from canary.evidence.reading import Shards
from canary.judge import Ended, judge
from canary.policy.model import Policy
from canary.runner import Runner
from canary.testing import FakeClock, Quiet, ScriptedVariant
from canary.traffic.request import Plan, Request, TokenBlocks
from canary.watches import INTERRUPTED, arms_of

DAY_S = 86_400.0
WEEK_S = 7 * DAY_S
COMMIT_EVERY_S = 1800.0
QUESTIONS = 50  # one request in so many
CYCLE = 0.8  # traffic at its height is 1.8 times, at night 0.2 times the mean
WORSE_FROM_S = 3.5 * DAY_S


def policy(name, ratio, margin, *, least):
    """Limits on a median, on errors and on answers; a look an hour."""
    return Policy.model_validate(
        {
            "version": 1,
            "name": name,
            "baseline": {"model": "reference"},
            "candidate": {
                "model": "reference",
                "attention": {"pattern": "sliding_window", "window": 256},
            },
            "traffic": {"source": "trace.csv"},
            "validation": ["items.jsonl"],
            "gates": [
                {"metric": "latency", "quantile": "p50", "max_ratio": ratio},
                {"metric": "accuracy", "margin": margin},
                {"metric": "errors", "margin": "1%"},
            ],
            "decision": {
                "min_duration": least,
                "max_duration": "8d",
                "look_every": "1h",
                "block": "auto",
            },
        }
    )


class Requests:
    """The week's requests, each made when it is asked for."""

    def __init__(self, size):
        """Spread them over seven days of one cycle each."""
        rng = np.random.default_rng(0)
        at_s = np.linspace(0, WEEK_S, 20_001)
        rate = 1 - CYCLE * np.cos(2 * math.pi * at_s / DAY_S)
        share = np.cumsum(rate) / rate.sum()
        self.arrived_s = np.interp(np.sort(rng.random(size)), share, at_s)

    def __len__(self):
        """Return how many there are."""
        return len(self.arrived_s)

    def __getitem__(self, index):
        """Return one."""
        common = {
            "request_id": f"week-{index:07d}",
            "arrival_s": float(self.arrived_s[index]),
            "seed": index,
        }
        if index % QUESTIONS == 0:
            return Request(
                kind="quality",
                max_output_tokens=4,
                text="what is it ?",
                target=("42",),
                task="one",
                **common,
            )
        return Request(
            kind="latency",
            max_output_tokens=8,
            blocks=TokenBlocks(length_tokens=64 + index * 7919 % 8000),
            **common,
        )


class Orders:
    """Seeds of the arms' order: the number of the request."""

    def __init__(self, size):
        """Know how many."""
        self._size = size

    def __len__(self):
        """Return how many there are."""
        return self._size

    def __getitem__(self, index):
        """Return one."""
        return index


def plan_of(size):
    """Return the plan of a week."""
    return Plan(
        requests=Requests(size),
        arm_orders=Orders(size),
        seed=0,
        sha256="",
        speed=1.0,
        asked=tuple(range(0, size, QUESTIONS)),
    )


class Arms:
    """Arms whose times are noise drawn beforehand: a third of the time busy at most.

    Args:
        clock: Moved by what an answer takes, so that the run's own time passes.
        size: How many requests there will be.
        worse: Whether the candidate becomes worse in the middle of the week.
    """

    def __init__(self, clock, size, *, worse):
        """Draw the noise."""
        self._clock, self._worse = clock, worse
        rng = np.random.default_rng(1)
        mean_s = 0.05 * WEEK_S / size / (1 + CYCLE)
        shared = rng.normal(0, 0.3, size)
        self._took_s = [
            mean_s * np.exp(shared + rng.normal(0, 0.2, size)) for _ in range(3)
        ]
        self._numbers = count()
        self.restart_at_s = DAY_S

    def build(self, spec):
        """Return the variant of one arm."""
        number = next(self._numbers) % 3
        took_s = self._took_s[number]
        worse = self._worse and spec.attention != "dense"

        def service_s(request):
            if self._clock() >= self.restart_at_s:
                raise KeyboardInterrupt
            late = worse and request.arrival_s >= WORSE_FROM_S
            return float(took_s[request.seed]) * (1.1 if late else 1.0)

        def right(request):
            # The arms differ in one question of forty, either way.
            flips = request.seed // QUESTIONS * 2 + (number == 1)
            late = worse and request.arrival_s >= WORSE_FROM_S
            return random.Random(flips).random() >= (0.1 if late else 0.025)

        return ScriptedVariant(service_s=service_s, right=right, clock=self._clock)


def resident_mib():
    """Return this process's resident memory."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


class Silent(Quiet):
    """A listener that keeps nothing."""

    def answered(self, *, done, planned, rows, lag_s):
        """Count."""
        del planned, rows, lag_s
        self.done = done

    def waiting(self, why=None):
        """Nothing to keep."""


def play(folder, policies, plan, arms, clock: Clock):
    """Play the week, one runner a day; return resident memory after each, in MiB, and
    the end."""
    runner, played, daily_mib = 0, None, []
    while played is None or played.reason == INTERRUPTED:
        runner += 1
        arms.restart_at_s = clock() + DAY_S
        lease = Lease(folder, wall_clock=clock, boot_clock=clock)
        earlier = iter_segments(folder) if runner > 1 else ()
        with lease.held():
            played = Runner(
                policies,
                plan,
                start_local_arms(arms_of(policies), build=arms.build, clock=clock),
                Journal(
                    folder,
                    clock=clock,
                    every_s=COMMIT_EVERY_S,
                    before_commit=lease.renew,
                ),
                earlier=earlier,
                clock=clock,
                sleep=clock.sleep,
                listener=Silent(),
            ).run()
        daily_mib.append(resident_mib())
    return daily_mib, played


def week(name, policies, size, *, worse):
    """Play a week, judge it, print what it took; return its decisions."""
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    clock = FakeClock()
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place) / "run")
        folder.create()
        plan = plan_of(size)
        arms = Arms(clock, size, worse=worse)
        before_mib = resident_mib()
        daily_mib, played = play(folder, policies, plan, arms, clock)
        played_s = time.perf_counter() - began_s
        found = [
            judge(
                policy,
                Shards([folder.root]),
                run="week",
                ended=played.ends.get(policy.name, Ended(reason=played.reason)),
                questions={"one": len(plan.asked)},
            )
            for policy in policies
        ]
        files = list(folder.observations.iterdir())
        manifest_bytes = folder.manifest.stat().st_size
        size_bytes = sum(path.stat().st_size for path in files)
    took_s = time.perf_counter() - began_s
    say(f"{name}: {found[0].pairs:,} pairs, {len(daily_mib)} runners, {played.reason}")
    say(
        f"  time          {took_s:.1f} s, of which judging anew {took_s - played_s:.1f}"
    )
    say(f"  processor     {time.process_time() - began_cpu_s:.1f} s")
    days = ", ".join(f"{mib:.0f}" for mib in daily_mib)
    say(f"  memory        {before_mib:.0f} MiB at first, after each day {days}")
    say(f"                {resident_mib():.0f} MiB after judging anew")
    say(f"  on disk       {len(files)} files, {size_bytes / 2**20:.1f} MiB")
    say(f"  manifest      {manifest_bytes:,} bytes")
    for decision in found:
        hours = decision.elapsed_s / 3600
        say(f"  {decision.policy:13} {decision.verdict} after {hours:.0f} h")
    return found


def pace(size):
    """Print how many requests a second one driver bears."""
    clock = FakeClock()
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place) / "run")
        folder.create()
        arms = Arms(clock, size, worse=False)
        arms.restart_at_s = math.inf
        policies = [policy("pace", 1.05, "2%", least="168h")]
        runner = Runner(
            policies,
            plan_of(size),
            start_local_arms(arms_of(policies), build=arms.build, clock=clock),
            Journal(folder, clock=time.perf_counter),
            clock=clock,
            sleep=clock.sleep,
            listener=Silent(),
        )
        began_s = time.perf_counter()
        runner.run()
        took_s = time.perf_counter() - began_s
    say(f"one driver: {size / took_s:,.0f} requests a second, committed every 2 s")


def say(line):
    """Print a line."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(size):
    """Play both weeks."""
    no_worse = policy("no-worse", 1.0, "0.1%", least="24h")
    alike = week("A/A", [no_worse], size, worse=False)
    as_good = policy("as-good", 1.05, "2%", least="168h")
    slower = week("regression", [as_good], size, worse=True)
    pace(size // 10)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    say(f"peak memory {peak:.0f} MiB on {os.cpu_count()} cores")
    wrong = [d for d in alike if d.verdict in (Verdict.PROMOTE, Verdict.ROLLBACK)]
    wrong += [d for d in slower if d.verdict is not Verdict.ROLLBACK]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 600_000))
