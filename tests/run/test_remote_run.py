"""A whole run at a URL: killed, resumed, refused to a second runner, looked at."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import folder_store
import fsspec
import pytest
from typer.testing import CliRunner

from canary.cli import app
from canary.errors import UsageError
from canary.evidence.folder import RunFolder
from canary.evidence.journal import read_segments

HERE = Path(__file__).parent
URL = "s3://bucket/runs/one"
POLICY = """\
version: 1
name: quick
baseline: {model: reference, attention: dense}
candidate: {model: reference, attention: {pattern: sliding_window, window: 64}}
traffic: {source: trace.csv, speed: 2x}
validation: [items.jsonl]
gates:
  - {metric: accuracy, task: contracts, margin: 5%}
  - {metric: latency, quantile: p50, max_ratio: 1.1}
decision:
  {min_duration: 0s, max_duration: 1h, min_pairs: 1, look_every: 20s, block: request}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Some seconds of scripted answers, and a store."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "quick.yaml").write_text(POLICY)
    rows = [
        f"2023-11-16 18:{index // 60:02d}:{index % 60:02d}.0000000,{64 + index % 99},2"
        for index in range(160)
    ]
    (folder / "trace.csv").write_text(
        "\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows, ""])
    )
    items = [
        {"id": f"q{n}", "input": "what ?", "target": ["42"], "task": "contracts"}
        for n in range(200)
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(i) + "\n" for i in items))
    (folder / "store").mkdir()
    return folder


@pytest.fixture(scope="module")
def scripted(project):
    """What `scripted_run.py` does, in this process, in the project and on its store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOLDER_STORE", str(project / "store"))
        patch.chdir(project)
        patch.syspath_prepend(HERE)
        fsspec.register_implementation("s3", folder_store.FolderStore, clobber=True)
        main = importlib.import_module("scripted_run").main

        def do(action, folder):
            patch.setattr(sys, "argv", ["scripted_run.py", action, folder])
            main()

        yield do


def begin(folder, project):
    """Begin a run in a process of its own."""
    paths = [HERE, Path(folder_store.__file__).parent, *sys.path]
    program = "import folder_store, scripted_run; scripted_run.main()"
    return subprocess.Popen(
        [sys.executable, "-c", program, "run", folder],
        cwd=project,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))},
    )


@pytest.fixture(scope="module")
def survived(project, scripted):
    """A run that was killed and resumed, a calm one, what a second runner was told."""
    folder = RunFolder.at(URL)
    process = begin(URL, project)
    while process.poll() is None and len(list(folder.observations.glob("part-*"))) < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)  # alive, but not to finish before it is asked
    with pytest.raises(UsageError) as told:
        scripted("resume", URL)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    scripted("resume", URL)
    scripted("run", "calm")
    return folder, RunFolder(project / "calm"), str(told.value)


@pytest.mark.slow
def test_a_run_at_a_url_that_is_killed_decides_the_same(survived):
    """Kill -9, then resume: the document of a calm run on this machine, bit for bit."""
    folder, calm, _ = survived
    documents = [
        json.loads(each.decision("quick").read_bytes()) for each in (folder, calm)
    ]
    names = [document.pop("run") for document in documents]
    for document in documents:
        document.pop("override")  # another test's word

    assert ["one", "calm"] == names
    assert documents[1] == documents[0]
    rows = read_segments(folder).to_pylist()
    asked = [(row["request_id"], row["arm"]) for row in rows if not row["warm"]]
    assert len(asked) == len(set(asked))


@pytest.mark.slow
def test_a_second_runner_at_a_url_is_refused(survived):
    """It is told who runs it, and where."""
    *_, told = survived

    assert f"{URL}: process " in told
    assert "is running it" in told


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["judge", URL, "--policy", "quick.yaml"], 0, "quick: promote"),
        (["report", URL], 0, f"Report: {URL}/report.html"),
        (["runs", "s3://bucket"], 0, URL),
        (["runs", "s3://bucket", "--prune", "--older-than", "1d"], 2, "lifecycle"),
        (["stop", URL], 0, "nobody is running it"),
        (["status", "s3://bucket/runs/none"], 2, "not a run folder"),
        (["run", "quick.yaml", "--local", "--out", URL], 2, "already exists"),
        (
            f"override {URL} --policy quick --action hold --by Ann --why so".split(),
            0,
            "Recorded, beside the verdict",
        ),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else None,
)
def test_commands_take_the_url(survived, words, code, expected):  # noqa: ARG001
    """As they take a folder: looking, judging, reporting, a person's word."""
    done = CliRunner().invoke(app, words)

    told = done.output if done.exception is None else f"{done.output}{done.exception}"
    assert expected in told.replace("\n", "")
    assert code == getattr(done.exception, "exit_code", done.exit_code)
