"""Evidence that was written: read back, or refused in one sentence."""

import io
import json

import numpy as np
import pytest

from canary.errors import ObservationError
from canary.evidence.pairs import pair_up
from canary.gates import Evidence
from canary.gates.evidence import read_evidence


@pytest.fixture
def policy(policy_of):
    """A limit on answers and one on times."""
    return policy_of(
        {"metric": "accuracy", "margin": "5%"},
        {"metric": "latency", "quantile": "p50", "max_ratio": 1.1},
    )


@pytest.fixture
def content(policy, table_of):
    """What folding 100 requests has given."""
    rng = np.random.default_rng(0)
    table = table_of(latency_s=list(rng.lognormal(size=100)), score=[1.0] * 100)
    evidence = Evidence(policy)
    evidence.fold(pair_up(table, baseline="baseline", candidate="candidate"))
    return evidence.to_bytes()


def repacked(content, **changes):
    """The same evidence with some of its parts replaced."""
    with np.load(io.BytesIO(content)) as columns:
        parts = dict(columns)
    sink = io.BytesIO()
    np.savez_compressed(sink, allow_pickle=False, **{**parts, **changes})
    return sink.getvalue()


def test_damaged_evidence_is_one_sentence(policy, content):
    """Cut anywhere, with bytes changed anywhere: refused in words, or as it was."""
    rng = np.random.default_rng(0)
    damaged = [content[: int(n)] for n in rng.integers(0, len(content), 100)]
    for _ in range(500):
        turned = bytearray(content)
        for at in rng.integers(0, len(content), 3):
            turned[at] ^= int(rng.integers(1, 256))
        damaged.append(bytes(turned))

    said = []
    for some in damaged:
        try:
            assert read_evidence(policy, some).to_bytes() == content
        except ObservationError as error:
            said.append(str(error))

    assert len(said) > 400
    assert all("fold the observations again" in sentence for sentence in said)


@pytest.mark.parametrize(
    "changes",
    [
        {"facts": []},
        {"facts": 3},
        {"facts": {}},
        {"weights": 1.0},
        {"weights": [1.0]},
        {"questions": None},
        {"kernels": ["dense"]},
        {"devices": {"baseline": 3}},
        {"books|block": np.array(3)},
        {"books|block": np.arange(3)},
        {"stray": np.arange(3)},
    ],
    ids=str,
)
def test_evidence_of_another_make_is_one_sentence(policy, content, changes):
    """What is packed alike but holds something else is refused in words as well."""
    facts = json.loads(str(np.load(io.BytesIO(content))["facts"]))
    columns = {name: some for name, some in changes.items() if name not in facts}
    facts |= {name: some for name, some in changes.items() if name in facts}
    columns = {"facts": facts, **columns}
    columns["facts"] = np.array(json.dumps(columns["facts"]))

    with pytest.raises(ObservationError, match="fold the observations again"):
        read_evidence(policy, repacked(content, **columns))


def test_an_array_is_no_evidence(policy):
    """Nor is what holds nothing that was written with evidence."""
    sink, other = io.BytesIO(), io.BytesIO()
    np.save(sink, np.arange(3))
    np.savez(other, rows=np.arange(3))

    for content in (sink.getvalue(), other.getvalue(), b""):
        with pytest.raises(ObservationError, match="not evidence that was folded"):
            read_evidence(policy, content)
