"""The command line as a user meets it: real processes, real files, real exit codes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from canary.evidence.reading import read_observations

ROOT = Path(__file__).parents[2]
POLICY = """\
version: 1
name: quick
baseline: {model: reference, attention: dense}
candidate: {model: reference, attention: {pattern: sliding_window, window: 64}}
traffic:
  source: trace.csv
  speed: 20x
validation: [items.jsonl]
gates:
  - {metric: accuracy, task: contracts, margin: 5%}
  - {metric: errors, margin: 5%}
decision:
  min_duration: 0s
  max_duration: 10m
  min_pairs: 1
  look_every: 250ms
  block: request
"""


@pytest.fixture
def project(tmp_path):
    """A user's own folder: a policy, 30 rows of traffic, 24 questions."""
    (tmp_path / "quick.yaml").write_text(POLICY)
    rows = [
        f"2023-11-16 18:15:{second:02d}.0000000,{64 + second},2" for second in range(30)
    ]
    (tmp_path / "trace.csv").write_text(
        "\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows, ""])
    )
    items = (ROOT / "replay/validation/contracts.jsonl").read_text().splitlines()
    (tmp_path / "items.jsonl").write_text("\n".join(items[:24]) + "\n")
    return tmp_path


def canary(*arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, "-m", "canary.cli", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "COLUMNS": "80", **environment},
    )


@pytest.mark.slow
def test_a_run_in_this_process_leaves_a_whole_folder(project):
    """A candidate that lost its answers is rolled back; the folder explains it all."""
    result = canary("run", "quick.yaml", "--local", "--out", "out", cwd=project)

    assert result.returncode == 3, result.stderr
    assert "rollback" in result.stdout
    out = project / "out"
    decision = json.loads((out / "decision.quick.json").read_text())
    record = json.loads((out / "run.json").read_text())
    assert decision["verdict"] == "rollback"
    assert decision["gates"][0]["baseline"] == 1.0
    assert decision["gates"][0]["candidate"] == 0.0
    assert decision["repeat"]["seed"] == 0
    assert record["ended"] == "every policy is decided"
    assert record["arms"]["reference/dense"]["device"] == "cpu"
    assert "quick" in (out / "report.html").read_text()
    assert "**quick**" in (out / "report.md").read_text()

    again = canary("judge", "out", "--policy", "quick.yaml", "--json", cwd=project)
    judged = json.loads(again.stdout)
    assert again.returncode == 3
    assert decision["gates"] == judged["gates"]
    assert decision["looks"] == judged["looks"]

    before = (out / "decision.quick.json").read_bytes()
    assert canary("report", "out", cwd=project).returncode == 3
    assert before == (out / "decision.quick.json").read_bytes()


@pytest.mark.slow
@pytest.mark.ray
def test_ray_and_this_process_give_the_same_answers(project):
    """Where arms run changes neither an answer nor an accuracy count."""
    (project / "quick.yaml").write_text(
        POLICY.replace("min_pairs: 1", "min_pairs: 999")
    )
    there = canary("run", "quick.yaml", "--out", "there", cwd=project, RAY_ADDRESS="")
    here = canary("run", "quick.yaml", "--out", "here", "--local", cwd=project)

    assert there.returncode == here.returncode == 3, there.stderr + here.stderr
    assert answers(project / "there") == answers(project / "here")
    assert answers(project / "there")
    memory = json.loads((project / "there" / "run.json").read_text())
    assert memory["arms"]["reference/dense"]["peak_memory_bytes"] > 0
    assert memory["where"] == "Ray on this machine"


def answers(folder):
    """Answer and score by request and arm, as far as both runs got."""
    rows = read_observations(folder).to_pylist()
    kept = [row for row in rows if row["kind"] == "quality" and not row["warm"]]
    found = {
        (row["request_id"], row["arm"]): (row["answer"], row["score"]) for row in kept
    }
    return dict(sorted(found.items())[:16])


def test_every_fault_of_a_policy_comes_at_once_with_its_place(project):
    """A broken policy exits with 2 and says where each fault is, and no traceback."""
    (project / "quick.yaml").write_text(
        POLICY.replace("margin: 5%", "marign: 5%")
        .replace("seed", "x")
        .replace("20x", "20")
    )

    result = canary("validate", "quick.yaml", cwd=project)

    assert result.returncode == 2
    assert "quick.yaml:7:10: traffic.speed: " in result.stderr
    assert "quick.yaml:10:41: gates[0].marign: " in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "missing.yaml"], "missing.yaml:1:1: there is no such file"),
        (["run", "quick.yaml", "--local", "--address", "x"], "exclude each other"),
        (["run", "quick.yaml", "--address", "127.0.0.1:1"], "no Ray at 127.0.0.1:1"),
        (["run", "quick.yaml", "--local", "--out", "."], "is not empty"),
        (["judge", "nowhere", "--policy", "quick.yaml"], "nowhere: no such file"),
        (["judge", ".", "--policy", "quick.yaml"], "not a run folder"),
        (["report", "."], "not a run folder"),
        (["replay", "inspect", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_what_a_user_gets_wrong_is_one_sentence(project, arguments, said):
    """A wrong path, flag or address exits with 2 and one line, and leaves no folder."""
    result = canary(*arguments, cwd=project)

    assert result.returncode == 2, result.stderr
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (project / "reports").exists()


@pytest.mark.parametrize("missing", ["trace.csv", "items.jsonl"])
def test_a_file_that_a_policy_names_must_be_there(project, missing):
    """A missing trace or validation set is a fault of the policy, with its place."""
    (project / missing).unlink()

    result = canary("run", "quick.yaml", "--local", cwd=project)

    assert result.returncode == 2
    assert result.stderr.startswith("quick.yaml:")
    assert missing in result.stderr


def test_questions_that_no_model_can_read_are_refused(project):
    """A word that the model doesn't know stops the run, where it stands."""
    item = {
        "id": "q1",
        "input": "what is love ?",
        "target": ["42"],
        "task": "contracts",
    }
    (project / "items.jsonl").write_text(json.dumps(item) + "\n")

    result = canary("run", "quick.yaml", "--local", cwd=project)

    assert result.returncode == 2
    assert "items.jsonl: item q1: word 3 of the text, 'love', is not" in result.stderr


def test_a_changed_policy_in_a_run_is_noticed(tmp_path):
    """A report is written under the policies that the run had, or not at all."""
    shutil.copytree(ROOT / "reports/samples/demo", tmp_path / "demo")
    policy = tmp_path / "demo/policies/window.yaml"
    policy.write_text(policy.read_text().replace("margin: 5%", "margin: 50%"))

    changed = canary("report", "demo", cwd=tmp_path)
    policy.unlink()
    missing = canary("report", "demo", cwd=tmp_path)

    assert changed.returncode == missing.returncode == 2
    assert "has been changed since the run" in changed.stderr
    assert "window.yaml" in missing.stderr


def test_a_trace_of_garbage_is_one_sentence(project):
    """A trace that is none stops the run before it starts."""
    (project / "trace.csv").write_bytes(bytes(range(256)) * 40)

    result = canary("run", "quick.yaml", "--local", cwd=project)

    assert result.returncode == 2
    assert "trace.csv" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_task_that_no_item_has_is_a_fault(project):
    """A gate on a task that the validation sets don't have could never be decided."""
    (project / "quick.yaml").write_text(
        POLICY.replace("task: contracts", "task: contract")
    )

    result = canary("run", "quick.yaml", "--local", cwd=project)

    assert result.returncode == 2
    assert result.stderr.startswith("quick.yaml:10:")
    assert "contracts" in result.stderr


def test_without_ray_the_way_out_is_named(project):
    """Where Ray can't be imported the sentence names --local."""
    (project / "ray.py").write_text("raise ImportError('no ray here')\n")

    result = canary("run", "quick.yaml", cwd=project, PYTHONPATH=str(project))

    assert result.returncode == 2
    assert "--local" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "sign"),
    [
        ("--local", signal.SIGTERM),
        pytest.param("--seed=0", signal.SIGINT, marks=pytest.mark.ray),
    ],
)
def test_an_interrupted_run_ends_in_order(project, place, sign):
    """Ctrl-C or SIGTERM keeps what was answered, exits with 4, and can be resumed."""
    (project / "quick.yaml").write_text(
        POLICY.replace("20x", "2x").replace("250ms", "1m")
    )
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "canary.cli",
            "run",
            "quick.yaml",
            place,
            "--out",
            "out",
        ],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    segment = project / "out/observations/part-000001.parquet"
    while process.poll() is None and not segment.exists():
        try:
            process.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
    os.killpg(process.pid, sign)
    stdout, stderr = process.communicate(timeout=120)

    assert process.returncode == 4, stderr
    assert "Traceback" not in stderr
    assert "continue" in stdout
    record = json.loads((project / "out" / "run.json").read_text())
    assert record["ended"] == "interrupted"
    assert canary("report", "out", cwd=project).returncode == 4

    resumed = canary("resume", "out", cwd=project)
    assert resumed.returncode == 3, resumed.stderr
    rows = read_observations(project / "out").select(["request_id", "arm", "warm"])
    asked = [(r["request_id"], r["arm"]) for r in rows.to_pylist() if not r["warm"]]
    assert len(asked) == len(set(asked)) == 2 * (30 + 24)


def test_the_schema_is_json():
    """`canary schema` prints what an editor can use."""
    result = canary("schema", cwd=ROOT)

    assert result.returncode == 0
    assert "gates" in json.loads(result.stdout)["properties"]


def test_a_trace_can_be_inspected_before_it_is_replayed():
    """`canary replay inspect` says what is in a trace, in words and as JSON."""
    trace = "replay/mooncake-conversation.jsonl.gz"
    words = canary("replay", "inspect", trace, cwd=ROOT)
    found = json.loads(canary("replay", "inspect", trace, "--json", cwd=ROOT).stdout)

    assert words.returncode == 0
    assert "7,851" in words.stdout
    assert found["rows"] == 7851
    assert found["bad_rows"] == 0
    assert next(iter(found["regimes"])) == "<8k"


def test_measurements_from_elsewhere_can_be_judged(project):
    """A CSV with the two arms' latencies gets a verdict and its exit code."""
    gate = "  - {metric: latency, quantile: p50, max_ratio: 1.25}\n"
    head, tail = POLICY.split("gates:\n")
    (project / "quick.yaml").write_text(
        head + "gates:\n" + gate + "decision:" + tail.split("decision:")[1]
    )
    lines = ["request_id,arm,arrived_s,status,prompt_tokens,latency_s"]
    for index in range(400):
        took = 1 + (index * 7919 % 400) / 400
        lines.append(f"r{index},baseline,{index},ok,500,{took}")
        lines.append(f"r{index},candidate,{index},ok,500,{took * 0.8}")
    (project / "rows.csv").write_text("\n".join(lines) + "\n")

    result = canary("judge", "rows.csv", "--policy", "quick.yaml", cwd=project)

    assert result.returncode == 0, result.stderr
    assert "promote" in result.stdout


def test_version_and_help_are_there():
    """The command says what it is."""
    assert canary("--version", cwd=ROOT).stdout.startswith("canary 0.")
    assert "exit codes" in canary("--help", cwd=ROOT).stdout.lower()
    assert shutil.which("canary", path=str(Path(sys.executable).parent))
