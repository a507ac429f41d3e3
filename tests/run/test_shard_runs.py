"""Runs that send a shard of the traffic each, and their verdict together."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from canary import experiment
from canary.arms.local import start_local_arms
from canary.cli import app
from canary.errors import CanaryError, UsageError
from canary.evidence.journal import RunFolder
from canary.evidence.reading import read_observations
from canary.history import list_runs
from canary.policy.load import load_policies
from canary.prepare import prepare
from canary.record import read_run
from canary.shards import begins_s
from canary.testing import FakeClock, Quiet, ScriptedVariant
from canary.traffic.shard import Shard

POLICY = """\
version: 1
name: quick
baseline: {model: reference, attention: dense}
candidate: {model: reference, attention: {pattern: sliding_window, window: 64}}
traffic: {source: trace.csv, speed: 100x, sample: {"<8k": 50%, rest: 100%}}
validation: [items.jsonl]
gates:
  - {metric: accuracy, task: contracts, margin: 5%}
  - {metric: service, quantile: p50, max_ratio: 1.1}
  - {metric: errors, margin: 5%}
decision:
  {min_duration: 30m, max_duration: 1h, min_pairs: 1, look_every: 2s, block: request}
"""


def play(folder, shard, *, seed=3):
    """Run in a folder; the candidate is a tenth faster and wrong now and then."""

    def build(clock, spec):
        dense = spec.attention == "dense"
        return ScriptedVariant(
            service_s=lambda r: (1.0 if dense else 0.9) * (0.02 + r.seed % 997 / 20e3),
            right=lambda r: dense or r.seed % 50 != 0,
            clock=clock,
        )

    clock = FakeClock()
    start = partial(start_local_arms, build=partial(build, clock), clock=clock)
    place = experiment.Place(
        where="in this process", start_arms=start, clock=clock, sleep=clock.sleep
    )
    listener = Quiet()
    prepared = prepare(load_policies([Path("quick.yaml")]), seed=seed, shard=shard)
    found = experiment.execute(
        prepared, RunFolder(folder), place, command="test", listener=listener
    )
    return found, listener


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The whole run, its three shards, and a shard of another run."""
    folder = tmp_path_factory.mktemp("project")
    rows = [
        f"2023-11-16 18:{n // 60:02d}:{n % 60:02d}.0000000,{64 + n * 37 % 9999},2"
        for n in range(300)
    ]
    header = "TIMESTAMP,ContextTokens,GeneratedTokens"
    (folder / "trace.csv").write_text("\n".join([header, *rows, ""]))
    items = [
        {"id": f"q{n}", "input": "what ?", "target": ["42"], "task": "contracts"}
        | {"group": f"g{n // 2}"}
        for n in range(400)
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(i) + "\n" for i in items))
    (folder / "quick.yaml").write_text(POLICY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        play(folder / "whole", None)
        for number in (1, 2, 3):
            found, listener = play(folder / f"s{number}", Shard(number, 3))
            assert ((), []) == (found, listener.looks)
        play(folder / "other", Shard(2, 3), seed=4)
    return folder


@pytest.fixture(autouse=True)
def inside(project, monkeypatch):
    monkeypatch.chdir(project)


def judged(*paths):
    command = ["judge", *map(str, paths), "--policy", "quick.yaml", "--json"]
    result = CliRunner().invoke(app, command)
    if isinstance(result.exception, CanaryError):
        raise result.exception
    return json.loads(result.stdout)


SHARDS = ("s1", "s2", "s3")


def test_folded_shards_decide_what_their_observations_do(tmp_path):
    """What each shard has folded adds up to what all of its observations tell, in any
    order and to the last bit."""
    raw = [shutil.copytree(name, tmp_path / name) for name in SHARDS]
    for folder in raw:
        record = json.loads((folder / "run.json").read_text())
        assert record.pop("folded")["quick"]["weights"] == [1.0, 2.0]
        (folder / "run.json").write_text(json.dumps(record))

    found = judged(*SHARDS)

    assert "inconclusive" == found["verdict"]
    assert ["holds"] * 3 == [gate["status"] for gate in found["gates"]]
    assert judged(*raw) == found
    assert judged(*SHARDS[::-1]) == found | {"run": "s3 + s2 + s1"}


def test_shards_hold_what_the_whole_run_does():
    """Every request of the whole was sent by one shard, at its time, and each group of
    questions counts once."""

    def sent(*names):
        tables = [read_observations(Path(name)) for name in names]
        return [
            (row["arrived_s"], row["request_id"], row["arm"], row["score"])
            for table in tables
            for row in table.to_pylist()
            if not row["warm"]
        ]

    whole, apart = sent("whole"), sent(*SHARDS)

    assert sorted(whole) == sorted(apart)
    assert 200 == judged(*SHARDS)["gates"][0]["units"]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("s1", "s3"), r"of 3 shards 1 are missing: 2; name the folders of all"),
        (("s2",), r"of 3 shards 2 are missing: 1, 3; name"),
        (("s1", "s2", "s2", "s3"), r"s2 and s2 are the same, which would count twice"),
        (
            ("s1", "other", "s3"),
            r"other is shard 2/3 of another run than s1, shard 1/3",
        ),
        (("s1", "whole"), r"whole is no shard, but s1 is shard 1/3 of a run"),
        (
            ("whole", "copy"),
            r"whole and copy sent the same requests, which would count",
        ),
    ],
)
def test_what_is_not_one_run_is_refused(names, told, project):
    """Missing, overlapping and foreign shards are one sentence."""
    if "copy" in names:
        shutil.copytree(project / "whole", project / "copy", dirs_exist_ok=True)

    with pytest.raises(UsageError, match=told):
        judged(*names)


def test_a_shard_decides_nothing(project):
    """Its report is what it folded; there is nothing to override; `canary runs` lists
    it as undecided."""
    folder = project / "s1"
    before = RunFolder(folder).folded("quick").read_bytes()
    RunFolder(folder).folded("quick").unlink()
    runner = CliRunner()
    words = ["--policy", "quick", "--action", "hold", "--by", "me", "--why", "so"]

    with pytest.raises(CanaryError, match="write it anew with `canary report s1`"):
        judged(*SHARDS)
    report = runner.invoke(app, ["report", "s1"])
    override = runner.invoke(app, ["override", "s1", *words])

    assert 0 == report.exit_code
    assert "Shard 1/3: end of traffic; judge all 3 with `canary judge" in report.stdout
    assert "is a shard, which decides nothing" in str(override.exception)
    assert before == RunFolder(folder).folded("quick").read_bytes()
    assert not RunFolder(folder).decision("quick").exists()
    runs = {Path(run.path).name: run for run in list_runs(project, wall_clock=float)}
    assert "continue" == runs["s1"].policies[0].verdict


def test_a_shard_goes_on_as_what_it_was(project):
    """An attempt at it with another number, or none, is refused."""
    attempt = ["attempt", "s1", "quick.yaml", "--local", "--seed", "3"]
    runner = CliRunner()

    other = runner.invoke(app, [*attempt, "--shard", "2/3"])
    whole = runner.invoke(app, attempt)
    same = runner.invoke(app, [*attempt, "--shard", "1/3"])

    assert "s1: was begun as shard 1/3, which can't change" in str(other.exception)
    assert "s1: was begun as shard 1/3, which can't change" in str(whole.exception)
    assert 0 == same.exit_code
    assert {"number": 1, "of": 3} == read_run(RunFolder(project / "s1"))["shard"]


def test_a_speed_that_is_measured_is_refused(tmp_path):
    """Each shard would find another."""
    text = POLICY.replace("speed: 100x", "speed: {baseline_load: 60%}")
    path = tmp_path / "load.yaml"
    path.write_text(text)

    with pytest.raises(UsageError, match=r"--shard 1/3: the speed of .* is a load"):
        prepare(load_policies([path]), seed=1, shard=Shard(1, 3))


def test_live_shards_are_put_on_one_axis():
    """Each counts from when it began; together they count from the first of them."""
    live = [{"live": {"began_unix_s": at_s}} for at_s in (130.0, 100.0, 100.5)]

    assert [30.0, 0.0, 0.5] == begins_s(live)
    assert [0.0, 0.0] == begins_s([live[0], {}])
