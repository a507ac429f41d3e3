"""A run on scripted arms, as a program that tests start, kill and resume.

    python scripted_run.py run|resume FOLDER

The arms answer the demo's kind of traffic in a millisecond each; what they report is
decided by the request alone, so that every run of it gives the same evidence.
"""

import sys
import time
from functools import partial
from pathlib import Path

from canary import experiment
from canary.arms.local import start_local_arms
from canary.evidence.journal import RunFolder
from canary.policy.load import load_policies
from canary.prepare import prepare
from canary.testing import Quiet, ScriptedVariant


class Hurried:
    """Real time, but whoever waits is there at once."""

    def __init__(self):
        """Begin now."""
        self._skipped_s = 0.0

    def __call__(self):
        """Return the time, with what was skipped."""
        return time.perf_counter() + self._skipped_s

    def sleep(self, seconds):
        """Skip so much."""
        self._skipped_s += seconds


class Slow(ScriptedVariant):
    """Takes a little real time, so that there is a moment to be killed in."""

    def generate(self, request):
        """Answer as scripted, a millisecond later."""
        time.sleep(0.001)
        return super().generate(request)


def build(spec):
    """Sparse is a tenth faster and wrong now and then."""
    dense = spec.attention == "dense"
    return Slow(
        service_s=lambda r: (1.0 if dense else 0.9) * (0.02 + r.seed % 997 / 20_000),
        right=lambda r: dense or r.seed % 50 != 0,
    )


def main():
    """Run or resume, and write the verdicts."""
    action, path = sys.argv[1:]
    folder = RunFolder.at(path)
    clock = Hurried()
    place = experiment.Place(
        where="in this process",
        start_arms=partial(start_local_arms, build=build),
        clock=clock,
        sleep=clock.sleep,
    )
    if action == "run":
        policies = load_policies([Path("quick.yaml")])
        prepared = prepare(policies, seed=3)
        found = experiment.execute(
            prepared, folder, place, command="scripted", listener=Quiet()
        )
    else:
        found = experiment.resume(folder, place, listener=Quiet())
    sys.stdout.write(" ".join(decision.verdict for decision in found) + "\n")


if __name__ == "__main__":
    main()
