"""A run left alone for half an hour and killed four times: `make soak`.

    python tests/soak/soak.py FOLDER

Starts `canary run`, kills its process group with SIGKILL at four moments drawn from
the seed, resumes it each time by the command that a user would type, and then counts:
every request once for each arm, none missing before the last, and one verdict. Prints
what happened; ends with 1 if something was lost or counted twice.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from canary.evidence.journal import RunFolder, read_segments

HERE = Path(__file__).parent
KILLS = 4
SPAN_S = 1800.0
BETWEEN_LOOKS_S = 5.0


def say(text):
    """Print a line with the time since the start."""
    sys.stdout.write(f"{time.monotonic() - BEGAN_S:7.0f} s  {text}\n")
    sys.stdout.flush()


def start(*arguments):
    """Start a command in a process group of its own, to be killed as a whole."""
    return subprocess.Popen(
        [sys.executable, "-m", "canary.cli", *arguments], start_new_session=True
    )


def wait_until(process, moment_s):
    """Return whether the process still runs at that moment."""
    while time.monotonic() - BEGAN_S < moment_s and process.poll() is None:
        time.sleep(BETWEEN_LOOKS_S)
    return process.poll() is None


def main(folder):
    """Run, kill, resume, count."""
    chance = random.Random(0)
    moments_s = sorted(chance.uniform(60.0, SPAN_S - 120.0) for _ in range(KILLS))
    process = start("run", str(HERE / "left-alone.yaml"), "--out", str(folder))
    kills = 0
    for moment_s in moments_s:
        if not wait_until(process, moment_s) or not (folder / "run.json").exists():
            continue
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        say(f"killed after {len(asked(folder)):,} answers; resuming")
        process = start("resume", str(folder))
    code = process.wait()
    say(f"ended with exit code {code} after {kills} kills")
    return check(folder, kills)


def asked(folder):
    """Return (request, arm) of every answer that counts, in the order recorded."""
    rows = read_segments(RunFolder(folder)).select(["request_id", "arm", "warm"])
    return [(r["request_id"], r["arm"]) for r in rows.to_pylist() if not r["warm"]]


def check(folder, kills):
    """Say what was recorded; return 1 if it isn't what a calm run would have."""
    answers = asked(folder)
    twice = [answer for answer, count in Counter(answers).items() if count > 1]
    by_arm = Counter(arm for _, arm in answers)
    decision = json.loads((folder / "decision.left-alone.json").read_text())
    say(f"answers by arm: {dict(by_arm)}; counted twice: {len(twice)}")
    say(
        f"missing: {decision['validity']['missing_baseline']} of the baseline, "
        f"{decision['validity']['missing_candidate']} of the candidate"
    )
    say(
        f"verdict: {decision['verdict']} after {decision['pairs']:,} pairs and "
        f"{decision['elapsed_s'] / 60:.1f} min of traffic"
    )
    sound = (
        kills == KILLS
        and not twice
        and len({count for arm, count in by_arm.items() if arm != "baseline_aa"}) == 1
    )
    say("nothing lost, nothing twice" if sound else "NOT SOUND")
    return 0 if sound else 1


BEGAN_S = time.monotonic()
if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
