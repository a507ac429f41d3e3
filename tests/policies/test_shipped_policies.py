"""The policies that ship: each loads, runs with the others, and can be decided."""

import json
from functools import partial
from pathlib import Path

import pytest

from canary.answers import prompt_size
from canary.arms.base import OneDevice
from canary.arms.local import LocalArm
from canary.evidence.journal import Journal, RunFolder, read_segments
from canary.judge import Ended, judge
from canary.kept import kept_policies
from canary.policy.load import comparable, load_policies, missing_files
from canary.prepare import prepare
from canary.record import ended_of, read_run
from canary.runner import Runner
from canary.testing import FakeClock, Quiet, ScriptedVariant
from canary.traffic.plan import with_speed
from canary.watches import arms_of

ROOT = Path(__file__).parents[2]
SAMPLES = [
    ROOT / "reports/samples/demo",
    ROOT / "reports/samples/h200",
    *sorted((ROOT / "reports/samples/long").glob("*-gpu*")),
]
PATHS = sorted((ROOT / "policies").glob("*.yaml"))


@pytest.fixture(scope="module")
def prepared():
    return prepare(load_policies(PATHS), seed=0)


def test_the_policies_for_a_gpu_can_be_run_together():
    """They load, find their files, and share one plan whose tail can be decided."""
    policies = load_policies(sorted((ROOT / "policies/gpu").glob("*.yaml")))
    comparable(policies)

    plan = prepare(policies, seed=0).plan

    assert len(policies) == 2
    assert [] == [fault for policy in policies for fault in missing_files(policy)]
    # a p99 has no finite bound below 1,197 requests
    assert sum(request.kind == "latency" for request in plan.requests) > 2 * 1197


@pytest.mark.parametrize(
    "path", sorted((ROOT / "policies/long").glob("*.yaml")), ids=lambda path: path.stem
)
def test_each_policy_for_two_gpus_can_be_run(path):
    """It loads, finds its files, and has prompts beyond 32k tokens to tell of."""
    (policy,) = load_policies([path])

    plan = prepare((policy,), seed=0).plan

    assert [] == missing_files(policy)
    assert 20 <= sum(prompt_size(request) > 32 * 1024 for request in plan.requests)


def decisions(prepared, folder, **variants):
    """Play the demo's whole plan on scripted arms; verdict by policy."""
    clock = FakeClock()
    run = RunFolder(folder / "run")
    run.create()
    policies = prepared.policies
    arms = {
        name: LocalArm(
            name, partial(variants.get, name, ScriptedVariant()), clock=clock
        )
        for name in arms_of(policies)
    }
    runner = Runner(
        policies,
        with_speed(prepared.plan, 0.4),
        [OneDevice(arms)],
        Journal(run, clock=clock, every_s=1e9),
        clock=clock,
        sleep=clock.sleep,
        listener=Quiet(),
    )
    played = runner.run()
    table = read_segments(run)
    rest = Ended(reason=played.reason)
    return {
        policy.name: judge(
            policy, table, run="r", ended=played.ends.get(policy.name, rest)
        )
        for policy in policies
    }


def uneven(request):
    """A service time that differs from request to request, as real ones do."""
    return 0.05 + (request.seed % 1000) / 20_000


def test_at_least_five_policies_ship_and_run_together(prepared):
    """The shipped policies share baseline and traffic, and name files that exist."""
    comparable(prepared.policies)

    assert len(prepared.policies) >= 5
    assert [] == [
        fault for policy in prepared.policies for fault in missing_files(policy)
    ]


def test_what_the_demo_sends_can_decide_every_policy_but_the_tail(prepared, tmp_path):
    """Equal arms are promoted within the demo's requests; a p99 needs more of them."""
    arms = dict.fromkeys(arms_of(prepared.policies), ScriptedVariant(service_s=uneven))

    found = decisions(prepared, tmp_path, **arms)

    tail = found.pop("tail-latency")
    assert dict.fromkeys(found, "promote") == {
        name: str(decision.verdict) for name, decision in found.items()
    }
    assert tail.verdict == "inconclusive"
    assert tail.gates[0].units_needed > 1190


def rounded(gates):
    """Numbers to nine digits: the last bits may differ between processors."""
    return [
        {k: float(f"{v:.9g}") if isinstance(v, float) else v for k, v in gate.items()}
        for gate in gates
    ]


@pytest.mark.parametrize(
    "path",
    [path for sample in SAMPLES for path in sorted(sample.glob("decision.*.json"))],
    ids=lambda path: path.stem,
)
def test_the_sample_report_follows_from_its_observations(path):
    """Judging the committed observations again gives the committed decisions."""
    committed = json.loads(path.read_text())
    folder = RunFolder(path.parent)
    policy = {p.name: p for p in kept_policies(folder)}[committed["policy"]]

    again = judge(
        policy,
        read_segments(folder),
        run=committed["run"],
        ended=ended_of(read_run(folder), policy.name, policy.sha256),
    ).to_dict()

    assert committed["verdict"] == again["verdict"]
    assert committed["because"] == again["because"]
    assert rounded(committed["gates"]) == rounded(again["gates"])


def test_a_candidate_that_lost_its_answers_is_rolled_back(prepared, tmp_path):
    """Wrong answers roll back every policy that asks for accuracy, and only those."""
    baseline, *candidates = arms_of(prepared.policies)
    arms = {
        name: ScriptedVariant(service_s=uneven, right=lambda _: False)
        for name in candidates
    }
    arms[baseline] = ScriptedVariant(service_s=uneven)

    found = decisions(prepared, tmp_path, **arms)

    asked = {
        policy.name
        for policy in prepared.policies
        if any(gate.metric == "accuracy" for gate in policy.gates)
    }
    assert asked == {
        name for name, found in found.items() if found.verdict == "rollback"
    }
    assert found["latency-only"].verdict == "promote"
