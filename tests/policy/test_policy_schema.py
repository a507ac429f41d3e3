"""The JSON Schema against the loader: what one accepts, the other does."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
import yaml

from canary.policy.explain import explain
from canary.policy.load import load_policy
from canary.policy.schema import json_schema
from canary.policy.traffic import Format
from canary.traffic.names import FORMATS

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "policies").glob("*.yaml"))
FIXTURES = sorted((Path(__file__).parent / "fixtures").glob("*.yaml"))

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", SHIPPED + FIXTURES, ids=lambda path: path.stem)
def test_every_policy_passes_loader_and_schema(
    path: Path,
    validator: jsonschema.Draft202012Validator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What ships, and each form of a limit, is a policy to both of them."""
    monkeypatch.chdir(ROOT)
    policy = load_policy(path)

    validator.validate(yaml.safe_load(path.read_text()))
    validator.validate(policy.model_dump(mode="json", by_alias=True, exclude_none=True))


WINDOW = "{pattern: sliding_window, window: 256}"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("version: 1", "version: 2"),
        ("version: 1", "versin: 1"),
        ("window-256", "Window 256"),
        ("{model: reference}", "reference"),
        ("{model: reference}", "{model: gpt}"),
        ("{model: reference}", "{attention: dense}"),
        (WINDOW, "5"),
        ("source: trace.csv", "format: azure"),
        ("trace.csv", "''"),
        ("2x", "2"),
        ("2x", "{baseline_load: 60}"),
        ("2x", "{}"),
        ("speed: 2x", "loop: 'yes'"),
        ("speed: 2x", "limit: {prompt_tokens: 8K}"),
        ("speed: 2x", "limit: {requests: 0}"),
        ("[contracts.jsonl]", "contracts.jsonl"),
        ("[1k, 2k]", "[0]"),
        ("metric: accuracy", "metric: acuracy"),
        ("metric: accuracy, ", ""),
        ("metric: accuracy", "metric: errors"),
        ("metric: accuracy", "metric: agreement"),
        ("metric: accuracy, task: contracts", "metric: output_tokens"),
        ("margin: 5%", "margin: 5"),
        ("margin: 5%", "margin: 5%, over: 2s"),
        ("margin: 5%", "max_ratio: 1.1"),
        ("quantile: p99", "quantile: 99"),
        ("max_ratio: 1.1", "max_ratio: -1"),
        ("max_ratio: 1.1", "margin: 1%"),
        ("max_ratio: 1.1, ", ""),
        ("regime: 1k-2k", "task: code"),
        ("min_duration: 10s", "min_duration: 10"),
        ("min_pairs: 100", "min_pairs: 0"),
        ("look_every: 5s", "look_evry: 5s"),
        ("look_every: 5s", "look_every: 5s\n  mode: fixed"),
        ("look_every: 5s", "mode: once"),
        ("look_every: 5s", "look_every: 5s\n  inference: sample"),
        ("look_every: 5s", "look_every: 5s\n  block: never"),
        ("look_every: 5s", "look_every: 5s\n  block: 10"),
        ("look_every: 5s", "path: x"),
        ("[1k, 2k]", "[1k, 2k]\nschedule: {only: Mon-Fri}"),
        ("[1k, 2k]", "[1k, 2k]\nschedule: {start: '2026-12-01'}"),
        ("[1k, 2k]", "[1k, 2k]\nhooks: {promote: {webhook: example.org}}"),
        ("[1k, 2k]", "[1k, 2k]\nhooks: {promote: {command: []}}"),
        ("[1k, 2k]", "[1k, 2k]\nhooks: {promoted: {command: [a]}}"),
    ],
)
def test_what_the_loader_refuses_by_form_the_schema_refuses(
    old: str,
    new: str,
    good: str,
    faults_of: Callable[..., list[str]],
    validator: jsonschema.Draft202012Validator,
) -> None:
    """An editor underlines what `canary validate` would refuse."""
    text = good.replace(old, new)

    assert text != good
    assert faults_of(text)
    assert not validator.is_valid(yaml.safe_load(text))


def test_a_policy_that_extends_may_be_short(
    good: str, write: Write, validator: jsonschema.Draft202012Validator
) -> None:
    """What the base has, an editor doesn't ask for."""
    write(good, "base.yaml")
    text = "extends: base.yaml\nname: short\ntraffic: {loop: false}\n"
    load_policy(write(text))

    validator.validate(yaml.safe_load(text))
    assert not validator.is_valid(yaml.safe_load(text.split("\n", 1)[1]))


def _fields(schema: Any) -> Iterator[tuple[str, Any]]:
    for owner in [schema, *schema["$defs"].values()]:
        yield from owner["properties"].items()


def test_every_key_is_described_with_its_default() -> None:
    """An editor can say what each key means, in words and as a policy writes it."""
    schema = json_schema()
    fields = dict(_fields(schema))

    assert [] == [key for key, field in fields.items() if not field.get("description")]
    assert {"alpha": "5%", "min_duration": "1d", "speed": "1x", "loop": False} == {
        key: fields[key]["default"]
        for key in ("alpha", "min_duration", "speed", "loop")
    }
    assert {"path", "text", "sha256", "places", "over_s"}.isdisjoint(fields)
    assert "null" not in json.dumps(schema)


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_a_policy_is_explained_in_plain_sentences(
    path: Path, golden: Callable[[str, str], None]
) -> None:
    """`canary validate` says what is compared, and when it promotes and rolls back."""
    golden(f"explained-{path.stem}.txt", explain(load_policy(path)) + "\n")


def test_a_policy_may_name_every_format_that_is_read() -> None:
    """A format that is added is in the policy's words too."""
    assert ("auto", *FORMATS) == get_args(Format)
