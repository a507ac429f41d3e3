"""`canary judge --against`: what a changed policy turns, on the demo's own evidence."""

import json
import sys
from pathlib import Path

import pytest

from canary.cli import main
from canary.compare import compare
from canary.evidence.journal import RunFolder, read_segments
from canary.judge import judge
from canary.policy.load import load_policy
from canary.record import ended_of, read_run

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "reports/samples/demo"
OLD = DEMO / "policies/sparse-layers.yaml"


@pytest.fixture
def canary(monkeypatch, capsys):
    """Run `canary judge` on the demo in this process: exit code, output and errors."""
    monkeypatch.chdir(ROOT)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["canary", "judge", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_code:
            main()
        return exit_code.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def changed(tmp_path):
    """The policy of the demo with a limit that is out of reach, a narrower margin, one
    gate less and one more."""
    text = OLD.read_text()
    for before, after in (
        ("max_ratio: 1.25", "max_ratio: 0.4"),
        ("task: contracts, margin: 5%", "task: contracts, margin: 6%"),
        ("metric: errors, margin: 5%", "metric: ttft, quantile: p50, max_ratio: 9.0"),
    ):
        assert before in text
        text = text.replace(before, after)
    path = tmp_path / "new.yaml"
    path.write_text(text)
    return path


def decision_of(path):
    policy = load_policy(path)
    ended = ended_of(read_run(RunFolder(DEMO)), policy.name, policy.sha256)
    return judge(policy, read_segments(RunFolder(DEMO)), run="demo", ended=ended)


def test_what_a_changed_policy_turns(changed):
    """A gate turns if its status differs or only one policy has it; no other does."""
    found = compare(decision_of(OLD), decision_of(changed))

    turned = {change.name: change.to_dict() for change in found.turned}
    assert list(turned) == ["latency p50", "ttft p50", "errors"]
    assert turned["latency p50"] == {
        "name": "latency p50",
        "status_before": "holds",
        "status_after": "broken",
        "limit_before": 1.25,
        "limit_after": 0.4,
    }
    assert turned["ttft p50"]["status_before"] is None
    assert turned["ttft p50"]["limit_after"] == 9.0
    assert turned["errors"]["status_after"] is None


def test_a_policy_turns_nothing_against_itself():
    """The same decision twice has the same gates, and none of them turned."""
    decision = decision_of(OLD)

    found = compare(decision, decision)

    assert found.turned == ()
    assert [change.name for change in found.changes] == [g.name for g in decision.gates]


def test_the_exit_code_is_that_of_the_changed_policy(canary, changed):
    """The old policy promotes, the new one rolls back: 3, and 0 the other way round."""
    code, out, _ = canary(DEMO, "--policy", changed, "--against", OLD)
    back, document, _ = canary(DEMO, "--policy", OLD, "--against", changed, "--json")

    assert code == 3
    assert "Before and after" in out
    assert back == 0
    found = json.loads(document)
    assert list(found) == ["decision", "against", "turned"]
    assert found["decision"]["verdict"] == "promote"
    assert found["against"]["verdict"] == "rollback"
    assert {turn["name"] for turn in found["turned"]} >= {"latency p50", "errors"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--policy", OLD, "--policy", OLD, "--against", OLD], "compares one --policy"),
        (["--policy", OLD, "--against", "gone.yaml"], "gone.yaml:1:1: there is no"),
    ],
)
def test_a_comparison_that_makes_no_sense_is_a_usage_error(canary, arguments, said):
    """Two policies against one, or against a missing one: one sentence, exit code 2."""
    code, out, err = canary(DEMO, *arguments)

    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""
