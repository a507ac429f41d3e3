"""How often a simulated week ends with the wrong verdict, and how soon with the right.

    python tests/benchmarks/bench_verdicts.py [--runs N] [--jobs N] [--only WORDS]

Weeks of paired traffic whose truth is known, judged at 168 hourly looks: by this
project's judge, and, on the same streams, by three that are common (`usual_judges.py`).
Each scenario is run under several kinds of dependence (`streams.py`): "ar" is a slow
drift of each arm, "sessions" are ten requests that go well or badly together.
"""

import argparse
import math
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from statistics import median

from scenarios import ALPHA, NULLS, POWER, policy_of
from streams import HOUR_S, KINDS, WEEK_S, make_stream, to_table
from usual_judges import JUDGES, Outcome

from canary.judge import Ended, judge
from canary.record import machine

OURS = "this judge"
NAMES = (OURS, *JUDGES)
LOOKS_S = [HOUR_S * (k + 1) for k in range(168)]
VERDICTS = ("promote", "rollback", "undecided")


@dataclass(frozen=True, slots=True)
class Row:
    """A scenario under one kind of dependence; `number` makes its seeds its own."""

    number: int
    scenario: object
    kind: str


def say(text=""):
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def our_judge(stream, limits):
    """Return what the judge of this project says."""
    ended = Ended(reason="end of the week", cutoff_s=WEEK_S)
    decision = judge(policy_of(limits), to_table(stream), run="week", ended=ended)
    final = decision.verdict.final
    verdict = decision.verdict.value if final else "undecided"
    return Outcome(verdict=verdict, elapsed_s=decision.elapsed_s)


def judged(row, per_hour, run):
    """Return one week's outcome by each judge."""
    scenario = row.scenario
    stream = make_stream(
        [run, row.number], kind=row.kind, truth=scenario.truth, per_hour=per_hour
    )
    usual = {
        name: decide(stream, scenario.limits, LOOKS_S)
        for name, decide in JUDGES.items()
    }
    return {OURS: our_judge(stream, scenario.limits)} | usual


def rows_of(scenarios, wanted, first):
    """Return the rows whose name or kind contains what is wanted."""
    pairs = [(scenario, kind) for scenario in scenarios for kind in scenario.kinds]
    rows = [Row(first + n, scenario, kind) for n, (scenario, kind) in enumerate(pairs)]
    return [row for row in rows if wanted in f"{row.scenario.name} {row.kind}"]


def bound(runs):
    """Return the greatest share of errors that still looks like ALPHA: 3 errors on."""
    return ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / runs)


def cell(scenario, outcomes):
    """Return the percentages of each verdict, and the median hours to a decision."""
    parts = []
    for verdict in VERDICTS:
        such = [outcome for outcome in outcomes if outcome.verdict == verdict]
        wrong = sum(scenario.is_wrong(outcome) for outcome in such) / len(outcomes)
        mark = "!" if wrong > bound(len(outcomes)) else "*" if wrong else " "
        parts.append(f"{100 * len(such) / len(outcomes):3.0f}{mark}")
    hours = [o.elapsed_s / HOUR_S for o in outcomes if o.verdict != "undecided"]
    return " ".join(parts) + (f"{median(hours):4.0f}" if hours else "   -")


def print_part(title, rows, work):
    """Run the rows and print a line for each; return what came out."""
    say(f"\n{title}")
    say(f"{'':49}" + "".join(f" | {name:^19}" for name in NAMES))
    head = " | pro  rol  und    h"
    say(f"{'the candidate is':37}{'requests':12}" + head * len(NAMES))
    found = []
    for row in rows:
        weeks = work(row)
        cells = [cell(row.scenario, [week[name] for week in weeks]) for name in NAMES]
        say(
            f"{row.scenario.name:37}{row.kind:12}"
            + "".join(f" | {text:19}" for text in cells)
        )
        found.append((row, weeks))
    return found


def print_errors(found):
    """Print the false verdicts of all rows together, by kind of dependence."""
    say(f"\nfalse verdicts, all rows above together (alpha {ALPHA:.0%} each)")
    say(f"{'':49}" + "".join(f" | {name:^19}" for name in NAMES))
    for verdict in ("promote", "rollback"):
        for kind in KINDS:
            weeks = [
                week
                for row, weeks in found
                if row.kind == kind and verdict in row.scenario.wrong
                for week in weeks
            ]
            if not weeks:
                continue
            limit = f"at most {bound(len(weeks)):.1%} of {len(weeks)}"
            cells = []
            for name in NAMES:
                share = sum(week[name].verdict == verdict for week in weeks)
                share /= len(weeks)
                mark = "!" if share > bound(len(weeks)) else " "
                cells.append(f" | {share:18.1%}{mark}")
            say(f"false {verdict:9}{kind:12}{limit:22}" + "".join(cells))


def options():
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=12, help="weeks per row")
    parser.add_argument("--per-minute", type=float, default=15.0, help="requests")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--only", default="", help="rows that contain these words")
    return parser.parse_args()


def main():
    """Print both parts and what they took."""
    chosen, began_s = options(), time.perf_counter()
    here, per_hour = machine(), 60 * chosen.per_minute
    say(
        f"{chosen.runs} weeks a row (seeds 0 to {chosen.runs - 1}, with the row's "
        f"number), {per_hour * WEEK_S / HOUR_S:,.0f} requests each, 168 looks"
    )
    say(f"{here['cpu']}, {here['cores']} cores, {chosen.jobs} processes")
    say("% promoted, rolled back, undecided; median hours to a decision")
    say(f"* is the wrong verdict; ! and too often for {ALPHA:.0%} (3 standard errors)")
    with ProcessPoolExecutor(chosen.jobs) as pool:

        def work(row):
            one = partial(judged, row, per_hour)
            return list(pool.map(one, range(chosen.runs)))

        nulls = rows_of(NULLS, chosen.only, first=0)
        found = print_part("Nothing to find: error rates", nulls, work)
        if found:
            print_errors(found)
        print_part("Power", rows_of(POWER, chosen.only, first=100), work)
    say(f"\n{time.perf_counter() - began_s:,.0f} s")


if __name__ == "__main__":
    main()
