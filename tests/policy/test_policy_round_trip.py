"""Any policy survives being written, and no file whatever breaks the loader."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from canary.errors import PolicyError
from canary.policy.load import load_policies, load_policy
from canary.policy.model import GATE_FORMS, Policy, regime_names
from canary.policy.units import tokens_text

# A busy machine is slow to draw; that says nothing about the loader.
repeatable = settings(
    derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

WORDS = st.text("abcé01 :#-{}'\"%~", min_size=1, max_size=8)
SHARES = st.decimals("0.001", 50, places=3).map(lambda number: f"{number}%")
PERCENTILES = st.decimals("0.1", "99.9", places=1).map(lambda number: f"p{number}")
TOKENS = st.integers(1, 2**20) | st.integers(1, 999).map(lambda number: f"{number}k")
VALUES = {
    "quantile": PERCENTILES,
    "over": st.sampled_from(["250ms", "2s", "0.5h"]),
    "margin": SHARES,
    "max_ratio": st.floats(1e-9, 1e9) | st.integers(1, 9),
}
PATTERNS = st.one_of(
    st.just("dense"),
    st.fixed_dictionaries(
        {"pattern": st.just("sliding_window"), "window": st.integers(1, 10**6)}
    ),
    st.fixed_dictionaries(
        {
            "pattern": st.just("local_global"),
            "window": st.integers(1, 10**6),
            "global_tokens": st.integers(1, 10**6),
        }
    ),
)
ATTENTION = PATTERNS | st.fixed_dictionaries(
    {"layers": st.fixed_dictionaries({"0-2": PATTERNS, "3": PATTERNS})}
)


@st.composite
def gates(draw: st.DrawFn, regimes: tuple[str, ...]) -> dict[str, Any]:
    metric = draw(st.sampled_from(sorted(GATE_FORMS)))
    form = draw(st.sampled_from(GATE_FORMS[metric]))
    gate = {"metric": metric, **{key: draw(VALUES[key]) for key in form}}
    if draw(st.booleans()):
        gate["regime"] = draw(st.sampled_from(regimes))
    if metric == "accuracy" and draw(st.booleans()):
        gate["task"] = draw(WORDS)
    return gate


def name_of(gate: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(gate.get(k) for k in ("metric", "task", "regime", "quantile", "over"))


@st.composite
def policies(draw: st.DrawFn) -> dict[str, Any]:
    """A policy as a file says it, with every key that the dice choose."""
    sizes = sorted(draw(st.sets(st.integers(1, 2**20), max_size=4)))
    regimes = regime_names(tuple(sizes))
    limits = draw(st.lists(gates(regimes), min_size=1, max_size=4, unique_by=name_of))
    limit = st.fixed_dictionaries(
        {},
        optional={
            "prompt_tokens": TOKENS,
            "output_tokens": TOKENS,
            "requests": st.integers(1, 10**6),
        },
    )
    traffic = st.fixed_dictionaries(
        {"source": WORDS},
        optional={
            "format": st.sampled_from(["auto", "csv", "parquet"]),
            "speed": st.sampled_from(["1x", "0.25x", {"baseline_load": "60%"}]),
            "loop": st.booleans(),
            "crop": st.sampled_from([{"from": "10m"}, {"from": "0s", "for": "1h"}]),
            "sample": st.sampled_from(["10%", {"rest": "0.5%"}]),
            "tick_spread": st.sampled_from(["auto", "off", "3s"]),
            "columns": st.just({"arrival": "ts", "prompt_tokens": "in"}),
            "limit": limit,
        },
    )
    looks = st.sampled_from(
        [{}, {"mode": "fixed"}, {"mode": "sequential", "look_every": "1m"}]
        + [{"look_every": every} for every in ("100ms", "60m")]
    )
    times = st.sampled_from(
        [
            {"block": "request", "max_duration": "1d"},
            {"block": "request", "max_duration": "7d"},
            {"block": "auto", "max_duration": "1h", "min_duration": "0s"},
            {"block": "auto", "max_duration": "3650d"},
            {"block": "10s", "max_duration": "87600h"},
            {"block": "0.5m", "max_duration": "3000d"},
        ]
    )
    rules = st.fixed_dictionaries(
        {},
        optional={
            "alpha": SHARES,
            "harm_alpha": SHARES,
            "min_duration": st.sampled_from(["0s", "0.5h", "3600s"]),
            "min_pairs": st.integers(1, 10**9),
            "at_deadline": st.sampled_from(["rollback", "hold"]),
        },
    )
    inference = {}
    if any(gate["metric"] == "accuracy" for gate in limits):
        inference = {"inference": draw(st.sampled_from(["population", "set"]))}
    candidate = draw(ATTENTION.filter(lambda spec: spec != "dense"))
    return {
        "version": 1,
        "name": draw(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,10}", fullmatch=True)),
        "baseline": {"model": "reference"},
        "candidate": {"model": "reference", "attention": candidate},
        "traffic": draw(traffic),
        "validation": draw(st.lists(WORDS, min_size=1, max_size=3)),
        "regimes": [draw(st.sampled_from([n, tokens_text(n)])) for n in sizes],
        "gates": limits,
        "decision": draw(rules) | draw(times) | draw(looks) | inference,
    }


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policies") / "policy.yaml"


@repeatable
@given(document=policies())
def test_a_policy_that_is_dumped_can_be_loaded(
    document: dict[str, Any], file: Path
) -> None:
    """YAML made from a policy's values gives the same policy when it is loaded."""
    policy = Policy.model_validate(document)
    written = policy.model_dump(mode="json", by_alias=True, exclude_none=True)
    file.write_text(yaml.safe_dump(written, allow_unicode=True))

    assert policy.model_dump() == load_policy(file).model_dump()


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.floats(allow_nan=True)
    | st.sampled_from(["5%", "p99", "2s", "8k", "4x", "dense", "accuracy", "1e3", "0"])
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
JARGON = ("nput should", "ield required", "xtra inputs", "ydantic", "<factor>", "None")


def spots(value: Any) -> list[tuple[Any, Any]]:
    """Every container in a document with each of its keys or indexes."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    found: list[tuple[Any, Any]] = [(value, key) for key in keys]
    for key in keys:
        if isinstance(value[key], (dict, list)):
            found += spots(value[key])
    return found


@repeatable
@given(document=policies(), value=PLAIN, data=st.data())
def test_any_value_in_any_place_is_a_policy_or_a_plain_fault(
    document: dict[str, Any],
    value: Any,
    data: st.DataObject,
    file: Path,
) -> None:
    """Whatever stands wherever, the loader says so in our words and within the file."""
    holder, key = data.draw(st.sampled_from(spots(document)))
    holder[key] = value
    text = yaml.safe_dump(document, allow_unicode=True)
    file.write_text(text)

    check_faults(file, text)


@repeatable
@given(text=st.text("ab1:- \n\t[]{},'\"#&*!|>%@?<~\x85\ufeff", max_size=40))
def test_any_text_is_a_policy_or_a_plain_fault(text: str, file: Path) -> None:
    """However broken the YAML is, it is a fault and never a traceback."""
    file.write_bytes(text.encode())

    check_faults(file, text)


def check_faults(file: Path, text: str) -> None:
    try:
        load_policies([file])
    except PolicyError as error:
        faults = error.faults
    else:
        return
    lines = len(text.splitlines()) + 1
    messages = [fault.message for fault in faults]

    assert all(1 <= fault.line <= lines and 1 <= fault.column for fault in faults)
    assert [] == [m for m in messages if any(word in m for word in JARGON)]
