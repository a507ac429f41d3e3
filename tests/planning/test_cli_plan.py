"""`canary plan` as a user meets it: shipped policies, the demo's run, mistakes."""

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from canary.cli import main
from canary.evidence.observation import SCHEMA
from canary.evidence.reading import read_observations

ROOT = Path(__file__).parents[2]
DEMO = str(ROOT / "reports/samples/demo")
TAIL = str(ROOT / "policies/tail-latency.yaml")
WINDOW = str(ROOT / "policies/window.yaml")


@pytest.fixture
def canary(monkeypatch, capsys):
    """Run the command line in this process; return exit code, output and errors."""
    monkeypatch.chdir(ROOT)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["canary", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_code:
            main()
        return exit_code.value.code, *capsys.readouterr()

    return run


def test_a_plan_with_a_pilot(canary, tmp_path):
    """What can't be decided is said, the exit code is 0 all the same, and the chart is
    there."""
    chart = tmp_path / "plan.svg"

    code, out, _ = canary("plan", TAIL, WINDOW, "--pilot", DEMO, "--chart", chart)

    assert code == 0
    assert "? tail-latency: can't be promoted before the trace ends after" in out
    assert "latency p99: needs at least 2,326 pairs, but only 250 come before" in out
    assert "✖ window: expect rollback after about" in out
    assert "as in the pilot (638 pairs over 86.4 s)" in out
    assert "by the pilot's service times keeps the baseline busy 60%" in out
    assert "the pilot took 2.35 min for 86.4 s of schedule" in out
    assert "assumed" not in out
    assert chart.exists()


def test_a_plan_without_a_pilot_says_what_it_assumes(canary):
    """As JSON, with the numbers that can be checked by hand."""
    code, out, _ = canary("plan", TAIL, WINDOW, "--json")

    found = json.loads(out)
    tail, window = found["policies"]
    assert code == 0
    assert found["schema"] == "canary.plan/1"
    assert tail["expect"] == "inconclusive"
    assert tail["at_least_s"] is None
    assert tail["gates"][0]["at_least"] == 2326
    assert tail["gates"][0]["available"] == 250
    assert tail["deadline"]["what"] == "end of trace"
    assert window["expect"] == "promote"
    assert not window["piloted"]
    assert window["at_least_s"] <= window["expected_s"] <= window["span_s"]
    assert window["gates"][0]["available"] == 236
    assert all(said.startswith("assumed: ") for said in window["basis"])
    assert any("at the recorded speed, for want of" in note for note in window["notes"])
    assert window["simulated"] == []


def test_simulated_runs_find_a_stated_harm(canary, tmp_path):
    """The demo's faster candidate is promoted, and rolled back if it is far slower. A
    pilot may be a table, with the arms' plain names."""
    policy = ROOT / "policies/latency-only.yaml"
    arms = {"baseline": "reference/dense"}
    arms["candidate"] = "reference/sliding_window(window=256)"
    rows = read_observations(Path(DEMO)).to_pylist()
    plain = [
        row | {"arm": role}
        for role, name in arms.items()
        for row in rows
        if row["arm"] == name
    ]
    pq.write_table(pa.Table.from_pylist(plain, SCHEMA), tmp_path / "pilot.parquet")

    code, out, err = canary(
        *("plan", policy, "--pilot", tmp_path / "pilot.parquet", "--simulate"),
        *("--runs", 3, "--harm", "latency=9", "--harm", "errors=1", "--json"),
    )

    assert code == 0, err
    assert "simulating" in err
    [plan] = json.loads(out)["policies"]
    as_it_is, harmed = plan["simulated"]
    assert as_it_is["runs"] == 3
    assert as_it_is["harm"] is None
    assert as_it_is["promoted"]["value"] == 1.0
    assert harmed["harm"] == "latency 9x and errors +1 points"
    assert harmed["rolled_back"]["value"] == 1.0
    assert harmed["median_s"] is not None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([TAIL, "--pilot", "nowhere"], "nowhere: no such file or folder"),
        ([TAIL, "--pilot", "policies"], "not a run folder"),
        ([TAIL, "--pilot", "reports/samples/h200/run.json"], "run.json"),
        ([TAIL, "--harm", "latency=2"], "add --simulate"),
        ([TAIL, "--runs", "5"], "add --simulate"),
        ([TAIL, "--simulate", "--harm", "speed=2"], "--harm speed=2: expected"),
        ([TAIL, "--chart", "plan.pdf"], "plan.pdf: charts are SVG or PNG"),
        (["gone.yaml"], "gone.yaml:1:1: there is no"),
        ([TAIL, TAIL], "has this name too"),
        (["{empty}"], "holds a header but no rows"),
        (["{missing}"], "traffic.source: there is no file"),
        (["{other}", "--pilot", DEMO], "no observations of the candidate"),
    ],
)
def test_what_a_user_gets_wrong_is_one_sentence(canary, tmp_path, arguments, said):
    """Exit code 2, and what to do."""
    text = Path(TAIL).read_text()
    source = "replay/azure-code-2023-busy.csv"
    empty = tmp_path / "empty.csv"
    empty.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n")
    files = {
        "empty": text.replace(source, str(empty)),
        "missing": text.replace(source, "gone.csv"),
        "other": text.replace("window: 256", "window: 7"),
    }
    for name, content in files.items():
        (tmp_path / f"{name}.yaml").write_text(content)
    arguments = [
        str(tmp_path / f"{one[1:-1]}.yaml") if one.startswith("{") else one
        for one in arguments
    ]

    code, out, err = canary("plan", *arguments)

    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""


def test_the_help_has_an_example(canary):
    """Every option has a word on it."""
    code, out, _ = canary("plan", "--help")

    assert code == 0
    assert "canary plan policies/window.yaml --pilot" in out
