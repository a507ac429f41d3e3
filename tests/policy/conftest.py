from collections.abc import Callable
from pathlib import Path

import pytest

from canary.errors import PolicyError
from canary.policy.load import load_policies

GOOD = """\
version: 1
name: window-256
baseline: {model: reference}
candidate:
  model: reference
  attention: {pattern: sliding_window, window: 256}
traffic:
  source: trace.csv
  speed: 2x
validation: [contracts.jsonl]
regimes: [1k, 2k]
gates:
  - {metric: accuracy, task: contracts, margin: 5%}
  - {metric: ttft, quantile: p99, max_ratio: 1.1, regime: 1k-2k}
decision:
  min_duration: 10s
  max_duration: 30m
  min_pairs: 100
  look_every: 5s
"""


@pytest.fixture
def good() -> str:
    """The text of a policy without a fault."""
    return GOOD


@pytest.fixture
def write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str | bytes, str], Path]:
    """Write a policy file into an empty folder, which becomes the current one."""
    monkeypatch.chdir(tmp_path)

    def write_policy(text: str | bytes, name: str = "policy.yaml") -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write_policy


@pytest.fixture
def faults_of(write: Callable[..., Path]) -> Callable[..., list[str]]:
    """Load files, or texts, of which at least one is broken; return what is said."""

    def load_broken(*broken: Path | str | bytes) -> list[str]:
        paths = [one if isinstance(one, Path) else write(one) for one in broken]
        with pytest.raises(PolicyError) as caught:
            load_policies(paths)
        return str(caught.value).splitlines()

    return load_broken
