"""Runs on real servers: side by side, overload, wrong addresses, kill -9 and resume."""

import json
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import pyarrow.compute as pc
import pytest
import token_server

from canary import experiment
from canary.arms.endpoint.arm import start_endpoint_arms
from canary.evidence.journal import RunFolder, read_segments
from canary.policy.load import load_policies
from canary.prepare import prepare
from canary.status import RunState, kept_status
from canary.testing import Quiet

POLICY = """\
version: 1
name: servers
baseline: {{model: 'http://127.0.0.1:{dense}/v1', served_model: dense}}
candidate: {{model: 'http://127.0.0.1:{sparse}/v1', served_model: {served}}}
traffic: {{source: trace.csv, timeout: 20s{traffic}}}
aa_control: 25%
gates:
  - {{metric: ttft, quantile: p50, max_ratio: 1.1}}
  - {{metric: errors, margin: 10%}}
decision:
  min_duration: {least}
  max_duration: {most}
  min_pairs: 50
  look_every: 1s
  block: request
"""


@pytest.fixture(scope="module")
def servers():
    """A dense and a sparse server, the sparse one faster."""
    with (
        token_server.running("--ttft-ms", "40", "--slots", "4") as dense,
        token_server.running("--ttft-ms", "20", "--slots", "4") as sparse,
    ):
        yield dense, sparse


@pytest.fixture
def policy(servers, tmp_path):
    """Write a policy about both servers, and a trace of requests in a row."""

    def write(*, count=150, every_s=0.02, traffic="", served="sparse", **ports):
        dense, sparse = servers
        rows = [
            f"2026-01-01 00:00:{n * every_s:010.7f},{100 + n % 50},6"
            for n in range(count)
        ]
        header = "TIMESTAMP,ContextTokens,GeneratedTokens"
        (tmp_path / "trace.csv").write_text("\n".join([header, *rows]) + "\n")
        text = POLICY.format(
            dense=ports.get("dense", dense),
            sparse=ports.get("sparse", sparse),
            served=served,
            traffic=traffic,
            least=ports.get("least", "2s"),
            most=ports.get("most", "2m"),
        )
        (tmp_path / "policy.yaml").write_text(text)
        return tmp_path

    return write


def rows_of(folder):
    table = read_segments(RunFolder(folder))
    return table.filter(pc.invert(table["warm"])).to_pylist()


def ids_of(rows, arm="dense"):
    return [r["request_id"] for r in rows if r["arm"].startswith(arm)]


def test_servers_are_compared_like_models_of_our_own(policy, canary):
    """The faster server is promoted, and the rows say how punctually it was asked."""
    cwd = policy()

    done = canary("run", "policy.yaml", "--out", "run", cwd=cwd)

    assert (0, []) == (done.returncode, done.stderr.split("Traceback")[1:])
    rows = rows_of(cwd / "run")
    record = json.loads((cwd / "run" / "run.json").read_text())
    timed = [r for r in rows if r["arm"] != "baseline_aa"]
    assert {"ok"} == {r["status"] for r in rows}
    assert all(0 <= r["send_lag_s"] <= r["queue_s"] for r in rows)
    assert all(r["ttft_s"] == r["queue_s"] + r["ttft_send_s"] for r in timed)
    assert {"endpoint"} == {r["kernel"] for r in rows}
    assert {6} == {r["output_tokens"] for r in rows}
    assert "servers elsewhere" == record["where"]
    assert 0 < len([r for r in rows if r["arm"] == "baseline_aa"]) < len(rows) / 4


def test_a_run_on_servers_loads_neither_torch_nor_ray(policy):
    """A laptop that only sends needs no gigabytes."""
    cwd = policy(count=60, least="0s")
    code = (
        "import sys; sys.argv = ['canary', 'run', 'policy.yaml', '--out', 'run']\n"
        "from canary.cli import main\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )

    assert "[]" == done.stdout.splitlines()[-1], done.stderr


def test_overload_sheds_whole_requests_and_is_no_fair_sample(policy, canary):
    """What finds a server full is sent to none, and more than 1 % of it is invalid."""
    cwd = policy(every_s=0.004, traffic=", max_in_flight: 2, on_overload: shed")

    done = canary("run", "policy.yaml", "--out", "run", cwd=cwd)

    rows = rows_of(cwd / "run")
    statuses = {}
    for row in rows:
        statuses.setdefault(row["request_id"], set()).add(row["status"])
    assert 5 == done.returncode
    assert {frozenset({"ok"}), frozenset({"shed"})} == {
        frozenset(found) for found in statuses.values()
    }
    assert 150 == len(statuses)
    assert "void or shed" in done.stdout


def test_a_folder_that_goes_away_pauses_sending(policy, canary):
    """While nothing can be written nothing is sent; what was offered comes later."""
    cwd = policy(count=300, least="1m")
    folder = RunFolder(cwd / "run")
    away = folder.root / "away"
    seen = []

    def unplug():
        while not folder.segment(0).exists():
            time.sleep(0.01)
        folder.observations.rename(away)
        while not seen or seen[-1].state is not RunState.PAUSED:
            time.sleep(0.05)
            seen.append(kept_status(folder) or seen[-1])
        time.sleep(1.0)
        away.rename(folder.observations)

    somebody = threading.Thread(target=unplug)
    somebody.start()
    done = canary("run", "policy.yaml", "--out", "run", cwd=cwd)
    somebody.join()

    assert 4 == done.returncode, done.stderr
    assert 1 == done.stderr.count("paused, nothing is sent: No such file or directory")
    assert 1 == done.stderr.count("goes on: what was pending has been written")
    rows = rows_of(folder.root)
    ids = list(dict.fromkeys(row["request_id"] for row in rows))
    assert 300 == len(ids)
    assert ids == ids_of(rows, "dense") == ids_of(rows, "sparse")
    arrived_s = [row["arrived_s"] for row in rows]
    assert sorted(arrived_s) == arrived_s


def test_a_queue_counts_as_latency(policy, canary):
    """A request that waits for room is slower from its arrival, not from its send."""
    cwd = policy(every_s=0.004, traffic=", max_in_flight: 2", count=80)

    canary("run", "policy.yaml", "--out", "run", cwd=cwd)

    rows = [r for r in rows_of(cwd / "run") if r["arm"].startswith("dense")]
    assert 80 == len(rows)
    assert max(r["queue_s"] for r in rows) > 3 * max(r["send_lag_s"] for r in rows)
    late, early = rows[-1], rows[0]
    assert late["latency_s"] - early["latency_s"] > 3 * (
        late["service_s"] - early["service_s"]
    )


def test_at_the_deadline_what_was_sent_still_counts(policy, canary):
    """What is slow isn't left out for it; what was never sent is in no row."""
    cwd = policy(
        every_s=0.004,
        traffic=", max_in_flight: 2",
        count=1000,
        least="1s",
        most="1s",
    )

    done = canary("run", "policy.yaml", "--out", "run", cwd=cwd)

    rows = rows_of(cwd / "run")
    dense, sparse = ids_of(rows), ids_of(rows, "sparse")
    # Inconclusive, or invalid where a busy machine sent too late.
    assert done.returncode in {4, 5}
    assert "max_duration reached" in (cwd / "run" / "run.json").read_text()
    assert dense == sparse
    assert {"ok"} == {row["status"] for row in rows}
    assert [f"azure-{n:06d}" for n in range(len(dense))] == dense
    assert 0 < len(dense) < 1000


def test_a_server_that_is_not_there_is_one_sentence(policy, canary):
    """Nothing is recorded of a wrong address, and it is no rollback."""
    cwd = policy(sparse=9)

    done = canary("run", "policy.yaml", "--out", "run", cwd=cwd)

    assert 2 == done.returncode
    assert "sparse@127.0.0.1:9 doesn't answer: endpoint can't be reached" in done.stderr
    assert not (cwd / "run").exists()


def test_ray_is_not_asked_for_servers(policy, canary):
    """A cluster's address has no meaning where nothing is started."""
    done = canary("run", "policy.yaml", "--address", "x:1", cwd=policy())

    assert 2 == done.returncode
    assert "servers that run already" in done.stderr


def test_kill_9_loses_what_was_in_flight_and_resume_goes_on(policy, canary):
    """No request is asked twice, none is lost, and no process is left behind."""
    cwd = policy(count=300, every_s=0.02, least="60s")
    command = [sys.executable, "-m", "canary.cli", "run", "policy.yaml", "--out", "run"]
    with subprocess.Popen(
        command, cwd=cwd, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        segments = cwd / "run" / "observations"
        while len(list(segments.glob("part-*.parquet"))) < 2:
            assert process.poll() is None
            time.sleep(0.05)
        children = children_of(process.pid)
        process.send_signal(signal.SIGKILL)
    before = ids_of(rows_of(cwd / "run"))

    elsewhere = cwd / "elsewhere"
    elsewhere.mkdir()
    done = canary("resume", cwd / "run", cwd=elsewhere)

    rows = rows_of(cwd / "run")
    assert done.returncode in {4, 5}
    assert 0 < len(before) < 300
    assert [f"azure-{n:06d}" for n in range(300)] == ids_of(rows)
    assert before == ids_of(rows)[: len(before)]
    arrived = [r["arrived_s"] for r in rows if r["arm"].startswith("dense")]
    assert all(after > at for at, after in pairwise(arrived))
    assert 1 == len(children)
    assert [] == [child for child in children if is_alive(child)]


def children_of(pid):
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in listed.split()]


def is_alive(pid):
    return Path(f"/proc/{pid}").exists()


class AlmostNoon:
    """A wall clock that shows a second before noon when a run begins to send, and
    skips most of the minute after it."""

    def __init__(self, folder):
        """Stand still until the folder has a record."""
        self._record, self._began_s = folder / "run.json", None

    def __call__(self):
        """Return seconds since the epoch, on 30 November 2026."""
        if self._began_s is None and self._record.exists():
            self._began_s = time.monotonic()
        passed_s = time.monotonic() - (self._began_s or time.monotonic())
        skipped_s = 57.5 if passed_s > 1.5 else 0.0
        return 1_796_040_000.0 - 1.0 + passed_s + skipped_s


def test_servers_get_nothing_while_the_window_is_closed(policy):
    """What was handed over before comes back, then the plan stands still, and goes on
    where it stopped: nothing late, nothing lost."""
    cwd = policy(count=80, every_s=0.02, least="0s", most="10m")
    path = cwd / "policy.yaml"
    path.write_text(
        path.read_text().replace("min_pairs: 50", "min_pairs: 5000")
        + "schedule: {only: 'daily 12:01-12:00 UTC'}\n"
    )
    policies = load_policies([path])
    traffic = policies[0].traffic
    start = partial(
        start_endpoint_arms,
        max_in_flight=traffic.max_in_flight,
        on_overload=traffic.on_overload,
    )
    place = experiment.Place(
        where="servers elsewhere",
        start_arms=start,
        wall_clock=AlmostNoon(cwd / "run"),
    )
    listener = Quiet()

    experiment.execute(
        prepare(policies, seed=1),
        RunFolder(cwd / "run"),
        place,
        command="test",
        listener=listener,
    )

    rows = [r for r in rows_of(cwd / "run") if r["arm"].startswith("dense")]
    assert "end of traffic" == listener.reason
    assert [f"azure-{n:06d}" for n in range(80)] == ids_of(rows)
    assert "waiting until Mon 30 November 12:01" in listener.reasons[0]
    assert max(r["send_lag_s"] for r in rows) < 0.5
