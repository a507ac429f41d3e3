import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from canary.errors import TrafficError
from canary.traffic.validation import ValidationItem, read_validation

Write = Callable[..., Path]
BASE = {"id": "a", "input": "2 + 2 =", "target": ["4"], "task": "sums"}


def line(**changes: object) -> str:
    return json.dumps(BASE | changes) + "\n"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: str | bytes, name: str = "set.jsonl") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def test_smallest_item(write: Write) -> None:
    """The four required fields are enough; the rest has defaults."""
    (found,) = read_validation([write(line())])

    expected = ValidationItem(id="a", input="2 + 2 =", target=("4",), task="sums")
    assert (expected,) == found.items


def test_every_field(write: Write) -> None:
    """Every documented field is read."""
    fields = {
        "scorer": "includes_all",
        "max_tokens": 9,
        "stop": ["\n"],
        "answer_prefix": "Answer:",
        "domain": "maths",
        "length_bucket": 1024,
        "depth": 0.5,
        "weight": 2,
        "group": "doc-1",
        "metadata": '{"seed": 1}',
    }
    (found,) = read_validation([write(line(**fields, choices=None))])

    expected = ValidationItem(
        **(BASE | fields | {"target": ("4",), "stop": ("\n",)})  # type: ignore[arg-type]  # any field
    )
    assert (expected,) == found.items


def test_hash_and_path_are_of_the_file(write: Write) -> None:
    """Each set carries the hash of its file as it lies on disk, gzip included."""
    path = write(gzip.compress(line().encode()))
    (found,) = read_validation([path])

    assert str(path) == found.path
    assert hashlib.sha256(path.read_bytes()).hexdigest() == found.sha256


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"id": None}, "id: is required"),
        ({"id": ""}, "id: expected text that is not empty, got ''"),
        ({"id": 7}, "id: expected text that is not empty, got 7"),
        ({"input": None}, "input: is required"),
        ({"input": ["chat"]}, "input: expected text that is not empty"),
        ({"input": "\ud800"}, "input: expected text that is not empty"),
        ({"task": None}, "task: is required"),
        ({"target": []}, "target: expected at least one answer"),
        ({"target": "4"}, "target: expected a list of texts"),
        ({"target": ["4", ""]}, "target: expected a list of texts"),
        ({"scorer": "f1"}, "scorer: expected one of exact, includes_all, includes_any"),
        ({"scorer": ["exact"]}, "scorer: expected one of"),
        ({"max_tokens": 0}, "max_tokens: expected a whole number above 0, got 0"),
        ({"max_tokens": True}, "max_tokens: expected a whole number above 0"),
        ({"max_tokens": 1.5}, "max_tokens: expected a whole number above 0"),
        ({"depth": 1.1}, "depth: expected a number from 0 to 1"),
        ({"weight": 0}, "weight: expected a number above 0"),
        ({"weight": float("inf")}, "weight: expected a number above 0"),
        ({"weight": 10**400}, "weight: expected a number above 0"),
        ({"weight": float("nan")}, "weight: expected a number above 0"),
        ({"metadata": {"a": 1}}, "metadata: expected text"),
        ({"choices": ["A", "B"]}, "choices: multiple choice can't be scored yet"),
        ({"max_token": 5}, "'max_token': there is no such field; did you mean max_tok"),
        ({"zzz": 5}, "'zzz': there is no such field; put it into metadata"),
    ],
)
def test_faults_are_located(
    write: Write, changes: dict[str, object], fault: str
) -> None:
    """A fault is said as path:line: field: what."""
    path = write(line(id="fine") + "\n" + line(**changes))

    with pytest.raises(TrafficError) as caught:
        read_validation([path])

    assert str(caught.value).startswith(f"{path}:3: {fault}")


def test_all_faults_are_said_at_once(write: Write) -> None:
    """Several faults come together, the tail as a count."""
    with pytest.raises(TrafficError) as caught:
        read_validation([write(line(id=1, depth=2) * 8)])

    lines = str(caught.value).splitlines()
    assert 11 == len(lines)
    assert lines[-1].endswith("and 6 more")


@pytest.mark.parametrize("text", ["{", "[1]", "7", "[" * 100_000, "\x00"])
def test_lines_that_are_no_objects(write: Write, text: str) -> None:
    """A line that isn't a JSON object is a located fault."""
    with pytest.raises(TrafficError, match=r":2: not a JSON object on one line"):
        read_validation([write(line() + text)])


def test_field_that_stands_twice(write: Write) -> None:
    """A key given twice is refused: which one counts would be a guess."""
    with pytest.raises(TrafficError, match=":1: id: stands twice in one item"):
        read_validation([write(line().replace("{", '{"id": "b", ', 1))])


def test_ids_are_unique_over_files(write: Write) -> None:
    """An id used in two files is refused, and both places are named."""
    first, second = write(line(), "one"), write(line(id="b") + line(), "two")

    with pytest.raises(TrafficError) as caught:
        read_validation([first, second])

    assert f"{second}:2: id: 'a' is used already at {first}:1" == str(caught.value)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_empty_set_is_refused(write: Write, content: str) -> None:
    """A set without items would prove nothing, so it is an error."""
    with pytest.raises(TrafficError, match="is empty"):
        read_validation([write(content)])


def test_missing_set(tmp_path: Path) -> None:
    """A set that isn't there is said plainly."""
    with pytest.raises(TrafficError, match="there is no file"):
        read_validation([tmp_path / "gone.jsonl"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@given(
    changes=st.dictionaries(
        st.sampled_from([*BASE, "weight", "depth", "stop", "group", "scorer", "x"]),
        JSON,
        max_size=4,
    )
)
@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_no_json_crashes(write: Write, changes: dict[str, object]) -> None:
    """Whatever the fields hold, a line gives an item or a TrafficError."""
    try:
        (found,) = read_validation([write(line(**changes))])
    except TrafficError:
        return

    (item,) = found.items
    assert item.target
    assert item.weight > 0
