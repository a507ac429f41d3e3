"""Bases, paths, places: what a loaded policy knows beyond its values."""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from canary.errors import PolicyError
from canary.policy.load import (
    comparable,
    fault_at,
    load_policies,
    load_policy,
    missing_files,
)
from canary.policy.model import Policy, VariantSpec, regime_names, variant_name

Write = Callable[..., Path]
FaultsOf = Callable[..., list[str]]

CHILD = """\
extends: bases/common.yaml
name: child
traffic: {speed: 4x}
decision:
  min_pairs: 7
"""


def test_a_policy_knows_its_file_its_text_and_its_hash(good: str, write: Write) -> None:
    """`text` is the file to the byte, and `sha256` its hash, as sha256sum prints it."""
    policy = load_policy(write(good, "policies/a.yaml"))

    assert "policies/a.yaml" == policy.path
    assert good == policy.text
    assert hashlib.sha256(good.encode()).hexdigest() == policy.sha256


def test_a_policy_is_a_frozen_value(good: str, write: Write) -> None:
    """Loading twice gives equal values, which travel to other processes unchanged."""
    path = write(good)
    policy = load_policy(path)

    assert load_policy(path) == policy
    assert policy == pickle.loads(pickle.dumps(policy))  # noqa: S301 - what Ray does
    with pytest.raises(ValidationError):
        policy.name = "other"  # type: ignore[misc]  # the point of the test


def test_a_policy_states_only_what_differs_from_its_base(
    good: str, write: Write
) -> None:
    """Mappings are merged, lists and single values replaced."""
    write(good, "bases/common.yaml")
    base = load_policy(Path("bases/common.yaml"))
    gates = "gates: [{metric: errors, margin: 1%}]\n"
    child = load_policy(write(CHILD + gates, "child.yaml"))

    assert ("child", 4.0) == (child.name, child.traffic.speed)
    assert base.traffic.source == child.traffic.source
    assert ["errors"] == [gate.name for gate in child.gates]
    assert (7, 1800.0) == (child.decision.min_pairs, child.decision.max_duration_s)


def test_an_extending_policy_can_be_kept_as_one_file(good: str, write: Write) -> None:
    """Its text holds what both files say, loads alone, and keeps its hash."""
    write(good, "bases/common.yaml")
    child = load_policy(write(CHILD, "child.yaml"))
    kept = load_policy(write(child.text, "run/policies/child.yaml"))

    assert child.model_dump() == kept.model_dump()
    assert child.sha256 == kept.sha256


def test_a_test_run_extends_the_policy_of_the_rollout(good: str, write: Write) -> None:
    """One look makes the base's `look_every` moot, also for who extends that again."""
    write(good, "rollout.yaml")
    write("extends: rollout.yaml\nname: ci\ndecision: {mode: fixed}", "ci.yaml")
    text = "extends: ci.yaml\nname: nightly\ndecision: {min_pairs: 7}"
    once, nightly = load_policies([Path("ci.yaml"), write(text, "nightly.yaml")])
    kept = load_policy(write(once.text, "run/policies/ci.yaml"))

    assert ("fixed", "fixed") == (once.decision.mode, nightly.decision.mode)
    assert (100, 7) == (once.decision.min_pairs, nightly.decision.min_pairs)
    assert "look_every" not in once.text
    assert once.model_dump() == kept.model_dump()
    assert 5.0 == load_policy(Path("rollout.yaml")).decision.look_every_s


@pytest.mark.parametrize(
    "text",
    [
        "extends: base.yaml\ndecision: {mode: fixed, look_every: 1m}",
        "extends: fixed.yaml\ndecision: {look_every: 1m}",
    ],
)
def test_a_look_every_that_does_nothing_is_a_fault(
    text: str, good: str, write: Write, faults_of: FaultsOf
) -> None:
    """Who writes it means it: wherever the mode stands, it isn't dropped in silence."""
    write(good, "base.yaml")
    write(good.replace("look_every: 5s", "mode: fixed"), "fixed.yaml")

    column = text.split("\n")[1].index("1m") + 1
    said = "not used by mode: fixed, which looks once, at the end; remove it"
    assert [f"policy.yaml:2:{column}: decision.look_every: {said}"] == faults_of(text)


def test_a_base_may_extend_another(good: str, write: Write) -> None:
    """Bases chain, each counting its path from its own folder."""
    write(good, "far/base.yaml")
    write("extends: ../far/base.yaml\nregimes: [4k]", "near/base.yaml")
    gates = "gates: [{metric: errors, margin: 1%}]"
    policy = load_policy(write(f"extends: near/base.yaml\nname: child\n{gates}"))

    assert ("child", (4096,)) == (policy.name, policy.regimes)


def test_a_fault_points_to_the_file_where_the_value_stands(
    good: str, write: Write, faults_of: FaultsOf
) -> None:
    """What the base says wrongly is located in the base, the rest in the policy."""
    write(good.replace("min_duration: 10s", "min_duration: 10"), "bases/common.yaml")
    broken = write(CHILD.replace("4x", "4"), "child.yaml")

    duration = "expected a duration with its unit, got 10; write for example 250ms, 30s"
    factor = "expected a factor above 0x, got 4; write for example 4x or "
    assert [
        f"child.yaml:3:18: traffic.speed: {factor}{{baseline_load: 60%}}",
        f"bases/common.yaml:16:17: decision.min_duration: {duration}, 15m, 24h or 7d",
    ] == faults_of(broken)


def test_a_fault_of_a_shared_base_is_said_once(
    good: str, write: Write, faults_of: FaultsOf
) -> None:
    """Two policies on one broken base don't say the same thing twice."""
    write(good.replace("2x", "2"), "bases/common.yaml")
    texts = [f"extends: bases/common.yaml\nname: child-{n}" for n in (1, 2)]
    paths = [write(text, f"child-{n}.yaml") for n, text in enumerate(texts)]

    assert 1 == len(faults_of(*paths))


CIRCLE = "extends itself in a circle; remove one extends"
ONE_FILE = "expected the name of one policy file; write for example base.yaml"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (" x.yaml", "there is no x.yaml; the path counts from this file's folder"),
        (" policy.yaml", f"policy.yaml {CIRCLE}"),
        (" [a, b]", ONE_FILE),
        (" 5", ONE_FILE),
        (" ''", ONE_FILE),
        ("", "nothing is written here; write a value or remove the key"),
    ],
)
def test_a_base_that_cannot_be_had_is_the_only_fault(
    text: str, said: str, faults_of: FaultsOf
) -> None:
    """What may stand in a base that isn't there is not reported as missing."""
    column = 9 + text.count(" ", 0, 1)

    expected = [f"policy.yaml:1:{column}: extends: {said}"]
    assert expected == faults_of(f"extends:{text}\nname: a\ndecision: {{}}")


def test_a_long_circle_of_bases_is_found(write: Write, faults_of: FaultsOf) -> None:
    """The fault stands where the circle closes, however the file is written there."""
    write("extends: ./policy.yaml\n", "loop.yaml")

    expected = [f"loop.yaml:1:10: extends: policy.yaml {CIRCLE}"]
    assert expected == faults_of("extends: loop.yaml")


def test_without_its_base_a_policy_is_still_checked(faults_of: FaultsOf) -> None:
    """What the file itself says wrongly comes together with the missing base."""
    faults = faults_of("extends: x.yaml\nname: a\ngates: [{metric: ttft, over: 2}]")

    assert [1, 3] == [int(fault.split(":")[1]) for fault in faults]


def test_relative_paths_lead_to_what_is_there(
    good: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From here, or else from the policy's folder, or else from the one above it."""
    write("", "replay/trace.csv")
    write("", "policies/contracts.jsonl")
    text = good.replace("trace.csv", "replay/trace.csv")
    path = write(text, "policies/a.yaml").absolute()
    here = load_policy(Path("policies/a.yaml"))
    missing = missing_files(here)
    root = Path.cwd()
    write("", "elsewhere/x")
    monkeypatch.chdir("elsewhere")
    there = load_policy(path)

    assert "replay/trace.csv" == here.traffic.source
    assert ("policies/contracts.jsonl",) == here.validation
    assert str(root / "replay/trace.csv") == there.traffic.source
    assert (str(root / "policies/contracts.jsonl"),) == there.validation
    assert [] == missing + missing_files(there)


def test_missing_files_are_located_but_load(good: str, write: Write) -> None:
    """A policy may be judged without its trace; who needs the files asks for them."""
    write("", "contracts.jsonl/in-a-folder")
    text = good.replace("trace.csv", "x" * 300)
    faults = missing_files(load_policy(write(text)))

    said = (
        "neither from the current folder nor from the policy's or the one above it; "
        "correct the path or fetch the file"
    )
    source = f"policy.yaml:8:11: traffic.source: there is no file {'x' * 300}"
    items = "policy.yaml:10:14: validation[0]: there is no file contracts.jsonl"
    assert [f"{source}, {said}", f"{items}, {said}"] == [str(f) for f in faults]


@pytest.mark.parametrize(
    ("where", "place"),
    [
        ("gates[0].task", (13, 30)),
        ("gates[0].regime", (13, 5)),
        ("gates[7].task", (12, 1)),
        ("decision.block", (15, 1)),
        ("decision", (15, 1)),
        ("nothing[3].like[2].this", (1, 1)),
        ("", (1, 1)),
    ],
)
def test_a_later_fault_finds_its_place(
    where: str, place: tuple[int, int], good: str, write: Write
) -> None:
    """A value stands where it is written; what isn't written, where it would be."""
    fault = fault_at(load_policy(write(good)), where, "no")

    assert ("policy.yaml", *place) == (fault.file, fault.line, fault.column)
    assert where == fault.where


def test_a_policy_that_was_never_a_file_has_faults_too() -> None:
    """A policy made in Python can be named, if not located."""
    policy = Policy.model_validate(
        {
            "version": 1,
            "name": "made",
            "baseline": {"model": "reference"},
            "candidate": {"model": "reference", "attention": {"pattern": "dense"}},
            "traffic": {"source": "trace.csv"},
            "gates": [{"metric": "errors", "margin": "1%"}],
        }
    )

    assert ":1:1: name: no" == str(fault_at(policy, "name", "no"))


SECOND = ("window-256", "second")


def test_policies_of_one_run_share_baseline_and_traffic(
    good: str, write: Write
) -> None:
    """Candidates, gates and rules may differ, and how a pattern is written."""
    dense = ("{model: reference}", "{model: reference, attention: {pattern: dense}}")
    first = write(good, "a.yaml")
    text = good.replace(*SECOND).replace(*dense).replace("256", "64")
    second = write(text.replace("5%", "2%").replace("30m", "40m"), "b.yaml")

    comparable(load_policies([first, second]))


def test_what_differs_between_policies_of_one_run_is_named(
    good: str, write: Write
) -> None:
    """The error says which fields differ, in which files, and what to do."""
    window = "{model: reference, attention: {pattern: sliding_window, window: 9}}"
    text = good.replace(*SECOND).replace("{model: reference}", window)
    text = text.replace("trace.csv", "other.csv").replace(
        "2x",
        "{baseline_load: 50%}\n  format: azure\n  limit: {requests: 5}",
    )
    policies = load_policies([write(good, "a.yaml"), write(text, "b.yaml")])

    with pytest.raises(PolicyError) as caught:
        comparable(policies)

    said = (
        "but the policies of a run share baseline and traffic; write the same, or run "
        "them apart"
    )
    assert [
        f"b.yaml:3:11: baseline: differs from a.yaml:3, {said}",
        f"b.yaml:8:11: traffic.source: differs from a.yaml:8, {said}",
        f"b.yaml:9:10: traffic.speed: differs from a.yaml:9, {said}",
        f"b.yaml:10:11: traffic.format: differs from a.yaml:7, {said}",
        f"b.yaml:11:10: traffic.limit: differs from a.yaml:7, {said}",
    ] == str(caught.value).splitlines()


def test_policies_of_one_run_have_names_of_their_own(good: str, write: Write) -> None:
    """Two policies of one name would overwrite each other's decision."""
    policies = load_policies([write(good, "a.yaml"), write(good, "b.yaml")])

    with pytest.raises(PolicyError) as caught:
        comparable(policies)

    said = "b.yaml:2:7: name: a.yaml:2 has this name too; write another"
    assert said == str(caught.value)


@pytest.mark.parametrize(
    ("boundaries", "names"),
    [
        ((), ("all",)),
        ((8192,), ("<8k", ">=8k")),
        ((1000, 2048, 2097152), ("<1000", "1000-2k", "2k-2048k", ">=2048k")),
    ],
)
def test_regimes_are_named_by_their_boundaries(
    boundaries: tuple[int, ...], names: tuple[str, ...]
) -> None:
    """Each range between two boundaries has one name, with k where it is exact."""
    assert names == regime_names(boundaries)


def test_equal_variants_have_one_name() -> None:
    """However a policy writes it, the same attention is the same arm."""
    one = {"pattern": "local_global", "window": 4, "global_tokens": 2}
    two = dict(reversed(one.items()))

    names = {
        variant_name(VariantSpec(model="m", attention=spec)) for spec in (one, two)
    }
    assert 1 == len(names)
    assert "m/dense" == variant_name(VariantSpec(model="m"))


def test_a_patterns_table_is_found_beside_the_policy(good: str, write: Write) -> None:
    """As sources and validation sets are, in a mix of layers too."""
    rows = "\t".join(["0.1"] * 4) + "\n"
    write(rows * 4, "below/heads.tsv")
    attention = (
        "{layers: {0-2: dense, 3: {pattern: head_table, table_file: heads.tsv, "
        "sparse: {pattern: sliding_window, window: 8}}}}"
    )
    text = good.replace("{pattern: sliding_window, window: 256}", attention)

    candidate = load_policy(write(text, "below/policy.yaml")).candidate

    assert "below/heads.tsv" == candidate.attention["layers"]["3"]["table_file"]
