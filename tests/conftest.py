"""Golden files: expected output kept beside the test that compares with it.

Refresh them with ``pytest --update-golden`` and read the difference before committing.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

# As the arms do, and before any test loads torch: see canary.variants.build.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that rewrites golden files."""
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write what the code produces to the golden files instead of comparing",
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with ``golden/<name>`` beside the test, or rewrite that file."""
    folder = Path(request.path).parent / "golden"

    def check(name: str, text: str) -> None:
        path = folder / name
        if request.config.getoption("--update-golden"):
            folder.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{path} is missing: run pytest --update-golden"
        assert path.read_text(encoding="utf-8") == text

    return check
