"""Runs as jobs of a real Ray head with its dashboard; the manifest for Kubernetes."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import pyarrow.compute as pc
import pytest
import ray
import token_server
import yaml

from canary.arms.gauges import Gauges
from canary.decision import Verdict
from canary.evidence.journal import RunFolder, read_segments
from canary.status import Lag, PolicyStatus, RunState, RunStatus
from canary.submit import attempt_id, attempt_number, next_attempt, submission
from canary.testing import FakeClock

ROOT = Path(__file__).parents[2]
POLICY = """\
version: 1
name: servers
baseline: {{model: 'http://127.0.0.1:{dense}/v1', served_model: dense}}
candidate: {{model: 'http://127.0.0.1:{sparse}/v1', served_model: sparse}}
traffic: {{source: trace.csv, timeout: 20s}}
gates: [{{metric: ttft, quantile: p50, max_ratio: 1.1}}]
decision: {{min_duration: 30m, max_duration: 1h, min_pairs: 50, look_every: 1m}}
"""


@pytest.fixture
def project(tmp_path):
    """A policy about two servers, and half an hour of requests for them."""
    with ExitStack() as stack:
        ports = [
            stack.enter_context(token_server.running("--ttft-ms", "5")) for _ in "ab"
        ]
        write_project(tmp_path, *ports)
        yield tmp_path


def write_project(folder, dense, sparse):
    """Write a policy and a trace."""
    rows = [
        f"2026-01-01 00:{n // 600:02d}:{n % 600 / 10:010.7f},{100 + n % 50},2"
        for n in range(18_000)
    ]
    header = "TIMESTAMP,ContextTokens,GeneratedTokens"
    (folder / "trace.csv").write_text("\n".join([header, *rows]) + "\n")
    (folder / "policy.yaml").write_text(POLICY.format(dense=dense, sparse=sparse))


def free_port():
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass(frozen=True)
class Head:
    """Where a Ray head can be reached: cluster, dashboard, metrics."""

    cluster: str
    dashboard: str
    metrics: str


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A Ray head with its dashboard."""
    with pytest.MonkeyPatch.context() as environment:
        yield from started(environment, tmp_path_factory.mktemp("head") / "log")


def started(environment, log):
    """Start one, and end it afterwards."""
    ports = {
        "port": free_port(),
        "dashboard-port": free_port(),
        "ray-client-server-port": free_port(),
        "dashboard-agent-listen-port": free_port(),
        "metrics-export-port": free_port(),
    }
    binaries = str(Path(sys.executable).parent)
    environment.setenv("PATH", f"{binaries}{os.pathsep}{os.environ['PATH']}")
    environment.setenv("PYTHONPATH", str(ROOT))
    environment.setenv("RAY_AUTH_MODE", "disabled")
    environment.setenv("RAY_metrics_report_interval_ms", "500")
    environment.delenv("RAY_ADDRESS", raising=False)
    with log.open("w") as out:
        running = subprocess.Popen(
            [
                *(f"{binaries}/ray", "start", "--head", "--block"),
                *(f"--{name}={port}" for name, port in ports.items()),
                *("--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1"),
                *("--include-dashboard=true", "--disable-usage-stats"),
                *("--num-cpus=2", "--num-gpus=0", "--object-store-memory=80000000"),
                *("--min-worker-port=0", "--max-worker-port=0"),
            ],
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    found = Head(
        cluster=f"127.0.0.1:{ports['port']}",
        dashboard=f"http://127.0.0.1:{ports['dashboard-port']}",
        metrics=f"http://127.0.0.1:{ports['metrics-export-port']}/metrics",
    )
    version = f"{found.dashboard}/api/version"
    try:
        until(lambda: running.poll() is not None or answers(version))
        assert running.poll() is None, log.read_text()
        yield found
    finally:
        running.terminate()
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=2) as found:  # noqa: S310 - our own
            return found.read().decode()
    except OSError:
        return ""


def until(happened, *, within_s=60.0):
    """Wait until something is so; say so if it never is."""
    end_s = time.monotonic() + within_s
    while not (found := happened()):
        assert time.monotonic() < end_s
        time.sleep(0.05)
    return found


def owner(out):
    """The process that runs it, if there is one."""
    try:
        return json.loads((out / "lease.json").read_text())["pid"]
    except FileNotFoundError:
        return None


def segments(out):
    return len(list((out / "observations").glob("part-*.parquet")))


@pytest.mark.ray
@pytest.mark.slow
def test_a_submitted_run_survives_its_driver_and_is_stopped(head, project, canary):
    """Submit, kill -9, submit again, stop: one run, two attempts, nothing twice."""
    address = head.dashboard
    out = project / "out"
    submit = ("submit", "policy.yaml", "--address", address, "--out", "out")

    first = canary(*submit, cwd=project)
    until(lambda: out.exists() and segments(out) > 1)
    refused = canary(*submit, cwd=project)
    killed = owner(out)
    os.kill(killed, signal.SIGKILL)
    recorded = segments(out)
    second = until(lambda: again(canary, submit, project))
    until(lambda: segments(out) > recorded and owner(out) not in (None, killed))
    shown = canary("status", "out", "--json", cwd=project)
    stopped = canary("stop", "out", "--address", address, cwd=project)
    watched = canary("watch", "out", cwd=project)

    assert "Submitted as out-a01." in first.stdout, first.stderr
    assert 2 == refused.returncode
    assert "out-a01 is running there already" in refused.stderr
    assert "Submitted as out-a02." in second.stdout
    assert "running" == json.loads(shown.stdout)["state"]
    assert "out: stopped; go on with" in stopped.stdout, stopped.stderr
    assert (4, True) == (watched.returncode, "servers: continue" in watched.stdout)
    record = json.loads((out / "run.json").read_text())
    assert "interrupted" == record["ended"]
    assert "out" == record["run"]
    table = read_segments(RunFolder(out))
    rows = table.filter(pc.invert(table["warm"])).to_pylist()
    asked = [(row["request_id"], row["arm"]) for row in rows]
    assert len(asked) == len(set(asked)) == 2 * len({name for name, _ in asked})
    assert "nobody is running it" in canary("stop", "out", cwd=project).stdout


def again(canary, submit, project):
    """Submit again, once Ray knows that the job is over."""
    done = canary(*submit, cwd=project)
    return done if done.returncode == 0 else None


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_on_ray_shows_in_its_metrics(head):
    """What Prometheus would fetch says how many requests, how late, which verdict."""
    status = RunStatus(
        run="week",
        state=RunState.RUNNING,
        planned=None,
        done=123,
        lag=Lag(p50_s=0.001, p99_s=0.25, max_s=1.0),
        failures={"dense": {"timeout": 2, "error": 5}},
        policies=(PolicyStatus(name="window", verdict=Verdict.ROLLBACK, pairs=99),),
    )
    clock = FakeClock()
    ray.init(address=head.cluster, logging_level=logging.ERROR, log_to_driver=False)
    try:
        gauges = Gauges(Nobody(), clock=clock)
        gauges.show(status)
        shown = until(lambda: exported(head.metrics, expected=5))
    finally:
        ray.shutdown()

    assert shown == {
        "ray_canary_requests": 123.0,
        "ray_canary_send_lag_p99_seconds": 0.25,
        "ray_canary_failures": 7.0,
        "ray_canary_pairs": 99.0,
        "ray_canary_verdict": 2.0,
    }
    assert not gauges.due()
    clock.sleep(10.0)
    assert gauges.due()


class Nobody:
    """A screen that nobody looks at."""

    def due(self):
        """Never."""
        return False

    def show(self, status):
        """Show nothing."""


def exported(url, *, expected):
    """Our gauges by name, once all are there."""
    lines = [one for one in answers(url).splitlines() if one.startswith("ray_canary_")]
    found = {one.partition("{")[0]: float(one.split()[-1]) for one in lines}
    return found if len(found) == expected else None


def test_an_attempt_succeeds_whatever_the_verdict(project, canary):
    """What has a verdict isn't to be tried again, nor its hook called again; what was
    begun with other policies is refused."""
    text = (project / "policy.yaml").read_text()
    short = text.replace("30m", "0s").replace("1h", "2s").replace("1m}", "1s}")
    hooks = "hooks: {inconclusive: {command: [sh, -c, 'cat >> told.json']}}\n"
    (project / "policy.yaml").write_text(short + hooks)

    done = canary("attempt", "out", "policy.yaml", cwd=project)
    repeated = canary("attempt", "out", "policy.yaml", cwd=project)
    (project / "policy.yaml").write_text(text)
    other = canary("attempt", "out", "policy.yaml", cwd=project)

    assert (0, 0) == (done.returncode, repeated.returncode), done.stderr
    assert "servers: inconclusive\n" == repeated.stdout
    told = json.loads((project / "told.json").read_text())
    assert json.loads((project / "out/decision.servers.json").read_text()) == told
    assert 2 == other.returncode
    assert "out: was begun with other policies than these" in other.stderr


def test_a_run_waits_for_its_start(project):
    """It says so, and nothing is there yet when it is interrupted."""
    with (project / "policy.yaml").open("a") as file:
        file.write("schedule: {start: 2999-01-01T08:00+01:00}\n")
    waiting = subprocess.Popen(
        [sys.executable, "-m", "canary.cli", "run", "policy.yaml", "--out", "out"],
        cwd=project,
        stderr=subprocess.PIPE,
        text=True,
    )
    said = waiting.stderr.readline()
    waiting.terminate()
    _, rest = waiting.communicate(timeout=60)

    assert "waiting until 2999-01-01T08:00+01:00 to begin\n" == said
    assert "interrupted; nothing was recorded yet\n" == rest
    assert 4 == waiting.returncode
    assert not (project / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["submit", "policy.yaml"], "--address is missing"),
        (["submit", "policy.yaml", "--address", "head:8265"], "example http://head"),
        (["submit", "policy.yaml", "--address", "http://127.0.0.1:9"], "can't do that"),
        (["submit", "policy.yaml", "--out", "a b"], "'a b' is no name"),
        (["submit", "policy.yaml", "--manifest", "helm"], "no such manifest"),
        (["submit", "policy.yaml", "--manifest", "kuberay", "--out", "/x"], "see the"),
        (["stop", "nothing"], "nothing: there is no run"),
    ],
)
def test_what_a_user_gets_wrong_is_one_sentence(tmp_path, canary, arguments, said):
    """A missing address, one of another kind, names that can't be: what to write."""
    write_project(tmp_path, 1, 2)

    result = canary(*arguments, cwd=tmp_path)

    assert 2 == result.returncode, result.stdout
    assert said in result.stderr
    assert 1 == len(result.stderr.strip().splitlines())


def test_attempts_are_counted_by_run():
    """Ids of other runs don't count, and two digits are no limit."""
    ids = ["demo-a01", "demo-a09", "demo-b-a70", "raysubmit_x", "demo-a9", "demo-aaa"]

    assert 10 == next_attempt("demo", ids)
    assert 1 == next_attempt("other", ids)
    assert "demo-a100" == attempt_id("demo", 100)
    assert 100 == attempt_number("demo", "demo-a100")


# What KubeRay's API reference says of the fields of a RayJob (ray.io/v1), as far as
# `canary submit` could write them; pods are those of Kubernetes.
TEXT = {"type": "string", "minLength": 1}
POD = {
    "type": "object",
    "required": ["spec"],
    "properties": {
        "spec": {
            "type": "object",
            "required": ["containers", "volumes"],
            "properties": {
                "containers": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["name", "image"],
                        "additionalProperties": False,
                        "properties": {
                            "name": {"pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"},
                            "image": TEXT,
                            "resources": {
                                "type": "object",
                                "additionalProperties": False,
                                "properties": {
                                    "limits": {"type": "object"},
                                    "requests": {"type": "object"},
                                },
                            },
                            "volumeMounts": {
                                "type": "array",
                                "items": {
                                    "type": "object",
                                    "required": ["name", "mountPath"],
                                    "additionalProperties": False,
                                    "properties": {
                                        "name": TEXT,
                                        "mountPath": {"pattern": "^/"},
                                    },
                                },
                            },
                        },
                    },
                },
                "volumes": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["name", "persistentVolumeClaim"],
                    },
                },
            },
            "additionalProperties": False,
        }
    },
    "additionalProperties": False,
}
START = {"type": "object", "additionalProperties": {"type": "string"}}
RAYJOB = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": {
            "type": "object",
            "required": ["name"],
            "properties": {
                # The names of its clusters and pods are made from it.
                "name": {"pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 47}
            },
        },
        "spec": {
            "type": "object",
            "required": ["entrypoint", "rayClusterSpec"],
            "additionalProperties": False,
            "properties": {
                "activeDeadlineSeconds": {"type": "integer", "minimum": 1},
                "backoffLimit": {"type": "integer", "minimum": 0},
                "clusterSelector": {"type": "object"},
                "deletionStrategy": {"type": "object"},
                "entrypoint": TEXT,
                "entrypointNumCpus": {"type": "number"},
                "entrypointNumGpus": {"type": "number"},
                "entrypointResources": TEXT,
                "jobId": TEXT,
                "managedBy": TEXT,
                "metadata": START,
                "rayClusterSpec": {
                    "type": "object",
                    "required": ["headGroupSpec"],
                    "additionalProperties": False,
                    "properties": {
                        "rayVersion": {"pattern": "^[0-9]+[.][0-9]+[.][0-9]+$"},
                        "enableInTreeAutoscaling": {"type": "boolean"},
                        "headGroupSpec": {
                            "type": "object",
                            "required": ["template", "rayStartParams"],
                            "additionalProperties": False,
                            "properties": {
                                "template": POD,
                                "rayStartParams": START,
                                "serviceType": TEXT,
                            },
                        },
                        "workerGroupSpecs": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["groupName", "template"],
                                "additionalProperties": False,
                                "properties": {
                                    "groupName": TEXT,
                                    "replicas": {"type": "integer"},
                                    "minReplicas": {"type": "integer"},
                                    "maxReplicas": {"type": "integer"},
                                    "numOfHosts": {"type": "integer"},
                                    "rayStartParams": START,
                                    "template": POD,
                                },
                            },
                        },
                    },
                },
                "runtimeEnvYAML": TEXT,
                "shutdownAfterJobFinishes": {"type": "boolean"},
                "submissionMode": {
                    "enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]
                },
                "submitterConfig": {"type": "object"},
                "submitterPodTemplate": {"type": "object"},
                "suspend": {"type": "boolean"},
                "ttlSecondsAfterFinished": {"type": "integer", "minimum": 0},
            },
        },
    },
}


def test_the_manifest_has_the_fields_that_kuberay_documents(tmp_path, canary):
    """It attempts the run in this folder until it is done, whatever is in its name."""
    here = tmp_path / 'a folder, "quoted": {x}'
    here.mkdir()
    write_project(here, 1, 2)
    out = "reports/7th_Run.v2"

    done = canary(
        "submit", "policy.yaml", "--manifest", "kuberay", "--out", out, cwd=here
    )

    assert 0 == done.returncode, done.stderr
    found = yaml.safe_load(done.stdout)
    jsonschema.Draft202012Validator(RAYJOB).validate(found)
    spec = found["spec"]
    script = f"cd {submission_dir(here)} && exec python -m canary.cli attempt "
    assert spec["entrypoint"].startswith(script)
    assert f"{here}/{out}" in spec["entrypoint"]
    heads = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert str(here) == heads[0]["volumeMounts"][0]["mountPath"]


def submission_dir(here):
    """The folder as a shell writes it."""
    return f"'{here}'"


def test_a_submission_keeps_the_folder_in_which_it_was_made(tmp_path, monkeypatch):
    """Relative policies are found because the job goes there first."""
    monkeypatch.chdir(tmp_path)

    found = submission(Path("out"), [Path("a policy.yaml")], seed=3)

    assert "out" == found.run
    assert found.entrypoint == (
        f"cd {tmp_path} && exec python -m canary.cli attempt {tmp_path}/out "
        "'a policy.yaml' --seed 3"
    )
