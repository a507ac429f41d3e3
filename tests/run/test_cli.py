"""The command line as a user meets it: real files, real exit codes, and where a process
matters, real processes."""

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


def write_project(folder):
    """Write a user's own folder: a policy, 30 rows of traffic, 24 questions."""
    (folder / "quick.yaml").write_text(POLICY)
    rows = [
        f"2023-11-16 18:15:{second:02d}.0000000,{64 + second},2" for second in range(30)
    ]
    (folder / "trace.csv").write_text(
        "\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows, ""])
    )
    lines = (ROOT / "replay/validation/contracts.jsonl").read_text().splitlines()
    items = [shortened(json.loads(line)) for line in lines[:24]]
    (folder / "items.jsonl").write_text("".join(json.dumps(i) + "\n" for i in items))
    return folder


def shortened(item):
    """A question with a third of its document, at whose beginning stands the answer:
    still farther off than four layers of 64 tokens reach."""
    *lines, question = item["input"].split(" \\n ")
    term = question.split('"')[1]
    asked = next(line for line in lines if f'"{term}"' in line)
    others = [line for line in lines if '"' not in line]
    return {**item, "input": " \\n ".join([asked, *others[:24], question])}


@pytest.fixture
def project(tmp_path):
    return write_project(tmp_path)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A project in which `canary run --local` has ended, and what it said."""
    folder = write_project(tmp_path_factory.mktemp("ended"))
    run = process("run", "quick.yaml", "--local", "--out", "out", cwd=folder)
    assert run.returncode == 3, run.stderr
    return folder, run.stdout


def process(*arguments, cwd, **environment):
    """Run the command line in a process of its own."""
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
def test_a_run_in_this_process_leaves_a_whole_folder(ended, canary):
    """A candidate that lost its answers is rolled back; the folder explains it all."""
    project, said = ended

    assert "rollback" in said
    out = project / "out"
    decision = json.loads((out / "decision.quick.json").read_text())
    record = json.loads((out / "run.json").read_text())
    assert decision["verdict"] == "rollback"
    assert decision["gates"][0]["baseline"] == 1.0
    assert decision["gates"][0]["candidate"] == 0.0
    assert decision["repeat"]["seed"] == 0
    assert record["ended"] == "every policy is decided"
    assert record["arms"]["reference/dense"]["device"] == "cpu"
    page = (out / "report.html").read_text()
    assert "quick" in page
    assert f"<dd>{record['answered']} requests at " in page
    assert 0.0 <= record["late_p99_s"] < 5.0
    assert "**quick**" in (out / "report.md").read_text()

    again = canary("judge", "out", "--policy", "quick.yaml", "--json", cwd=project)
    judged = json.loads(again.stdout)
    assert again.returncode == 3
    assert decision["gates"] == judged["gates"]
    assert decision["looks"] == judged["looks"]

    before = (out / "decision.quick.json").read_bytes()
    assert canary("report", "out", cwd=project).returncode == 3
    assert before == (out / "decision.quick.json").read_bytes()


def answers(folder):
    """Answer and score by request and arm, as far as the run got."""
    rows = read_observations(folder).to_pylist()
    kept = [row for row in rows if row["kind"] == "quality" and not row["warm"]]
    return {
        (row["request_id"], row["arm"]): (row["answer"], row["score"]) for row in kept
    }


def test_every_fault_of_a_policy_comes_at_once_with_its_place(project):
    """A broken policy exits with 2 and says where each fault is, and no traceback."""
    (project / "quick.yaml").write_text(
        POLICY.replace("margin: 5%", "marign: 5%")
        .replace("seed", "x")
        .replace("20x", "20")
    )

    result = process("validate", "quick.yaml", cwd=project)

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
def test_what_a_user_gets_wrong_is_one_sentence(canary, project, arguments, said):
    """A wrong path, flag or address exits with 2 and one line, and leaves no folder."""
    result = canary(*arguments, cwd=project)

    assert result.returncode == 2, result.stderr
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (project / "reports").exists()


@pytest.mark.parametrize("missing", ["trace.csv", "items.jsonl"])
def test_a_file_that_a_policy_names_must_be_there(canary, project, missing):
    """A missing trace or validation set is a fault of the policy, with its place."""
    (project / missing).unlink()

    result = canary("run", "quick.yaml", "--local", cwd=project)

    assert result.returncode == 2
    assert result.stderr.startswith("quick.yaml:")
    assert missing in result.stderr


def test_questions_that_no_model_can_read_are_refused(canary, project):
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


def test_a_changed_policy_in_a_run_is_noticed(canary, tmp_path):
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

    result = process("run", "quick.yaml", "--local", cwd=project)

    assert result.returncode == 2
    assert "trace.csv" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_task_that_no_item_has_is_a_fault(canary, project):
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

    result = process("run", "quick.yaml", cwd=project, PYTHONPATH=str(project))

    assert result.returncode == 2
    assert "--local" in result.stderr


def interrupted(project, *arguments, sign):
    """Start a run, stop it once something is committed; return its errors."""
    (project / "quick.yaml").write_text(
        POLICY.replace("20x", "5x").replace("250ms", "1m")
    )
    running = subprocess.Popen(
        [
            *(sys.executable, "-m", "canary.cli"),
            *("run", "quick.yaml", "--out", "out", *arguments),
        ],
        cwd=project,
        env={**os.environ, "RAY_ADDRESS": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    segment = project / "out/observations/part-000000.parquet"
    while running.poll() is None and not segment.exists():
        try:
            running.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
    os.killpg(running.pid, sign)
    stdout, stderr = running.communicate(timeout=120)
    assert running.returncode == 4, stderr
    assert "Traceback" not in stderr
    assert "continue" in stdout
    record = json.loads((project / "out/run.json").read_text())
    assert record["ended"] == "interrupted"
    return record


def resumed(project, *arguments, **environment):
    """Go on with it to its end: every request was asked of both arms, once."""
    result = process("resume", "out", *arguments, cwd=project, **environment)
    assert result.returncode == 3, result.stderr
    rows = read_observations(project / "out").select(["request_id", "arm", "warm"])
    asked = [(r["request_id"], r["arm"]) for r in rows.to_pylist() if not r["warm"]]
    assert len(asked) == len(set(asked)) == 2 * (30 + 24)


@pytest.mark.slow
def test_an_interrupted_run_ends_in_order(canary, project):
    """SIGTERM keeps what was answered, exits with 4, and the run can be resumed where
    it ran, whatever Ray there is."""
    record = interrupted(project, "--local", sign=signal.SIGTERM)

    assert record["where"] == "in this process"
    assert canary("report", "out", cwd=project).returncode == 4
    resumed(project, RAY_ADDRESS="127.0.0.1:1")


@pytest.mark.slow
@pytest.mark.ray
def test_ray_and_this_process_give_the_same_answers(
    monkeypatch, ended, canary, project
):
    """Where arms run changes no answer; Ctrl-C ends a run on Ray in order as well, and
    it goes on there unless it is told otherwise."""
    record = interrupted(project, sign=signal.SIGINT)

    assert record["where"] == "Ray on this machine"
    assert record["arms"]["reference/dense"]["peak_memory_bytes"] > 0
    there, here = answers(project / "out"), answers(ended[0] / "out")
    both = there.keys() & here.keys()
    assert len(both) >= 4
    assert {key: there[key] for key in both} == {key: here[key] for key in both}
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert "no Ray at 127.0.0.1:1" in canary("resume", "out", cwd=project).stderr
    resumed(project, "--local")


def test_the_schema_is_json(canary):
    """`canary schema` prints what an editor can use."""
    result = canary("schema", cwd=ROOT)

    assert result.returncode == 0
    assert "gates" in json.loads(result.stdout)["properties"]


def test_a_trace_can_be_inspected_before_it_is_replayed(canary):
    """`canary replay inspect` says what is in a trace, in words and as JSON."""
    trace = "replay/mooncake-conversation.jsonl.gz"
    words = canary("replay", "inspect", trace, cwd=ROOT)
    found = json.loads(canary("replay", "inspect", trace, "--json", cwd=ROOT).stdout)

    assert words.returncode == 0
    assert "7,851" in words.stdout
    assert found["rows"] == 7851
    assert found["bad_rows"] == 0
    assert next(iter(found["regimes"])) == "<8k"


def test_measurements_from_elsewhere_can_be_judged(canary, project):
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
    assert process("--version", cwd=ROOT).stdout.startswith("canary 0.")
    assert "exit codes" in process("--help", cwd=ROOT).stdout.lower()
    assert shutil.which("canary", path=str(Path(sys.executable).parent))
