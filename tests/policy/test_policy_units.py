from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canary.policy import units

repeatable = settings(derandomize=True, deadline=None)


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (units.duration_s, "250ms", 0.25),
        (units.duration_s, "0s", 0.0),
        (units.duration_s, "1.5h", 5400.0),
        (units.duration_s, "7 d", 604800.0),
        (units.duration_s, "0.001ms", 1e-6),
        (units.duration_s, "3650d", 315360000.0),
        (units.positive_duration_s, "1ms", 0.001),
        (units.block, "auto", "auto"),
        (units.block, "request", "request"),
        (units.block, "10s", 10.0),
        (units.block, "0.5m", 30.0),
        (units.block, "20000 ms", 20.0),
        (units.block, "1d", 86400.0),
        (units.share, "5%", 0.05),
        (units.share, "7%", 0.07),
        (units.share, "99.9%", 0.999),
        (units.share, "100%", 1.0),
        (units.share, "100.0 %", 1.0),
        (units.tokens, 512, 512),
        (units.tokens, "512", 512),
        (units.tokens, "8k", 8192),
        (units.tokens, "0.5k", 512),
        (units.tokens, "1m", 1048576),
        (units.factor, "4x", 4.0),
        (units.factor, "0.25x", 0.25),
        (units.percentile, "p50", 0.5),
        (units.percentile, "p99.9", 0.999),
        (units.percentile, "p0.1", 0.001),
    ],
)
def test_a_quantity_means_what_it_says(
    read: Callable[[object], object], text: object, value: object
) -> None:
    """A number with its unit is read exactly, to the nearest float of the decimal."""
    assert value == read(text)


@pytest.mark.parametrize(
    ("read", "texts"),
    [
        (units.duration_s, ["", "5", "5 minutes", "-5s", "1e3s", "5S", "3651d", "٣s"]),
        (units.positive_duration_s, ["0s", "0.0d", "5"]),
        (units.block, ["Auto", "0s", "5s", "15s", "10", "10.001s", "3651d", "-10s"]),
        (units.share, ["5", "101%", "100.1%", "-1%", "%", "0.05", "1e1%", "5 percent"]),
        (units.tokens, ["", "0", "0k", "8K", "8kb", "0.3", "1.0001k", "-8k", "9" * 99]),
        (units.factor, ["4", "0x", "-1x", "x", "x4", "4X"]),
        (units.percentile, ["50", "p0", "p100", "p", "P50", "p-1", "p99.", "50%"]),
    ],
)  # fmt: skip
def test_what_is_no_quantity_is_refused(
    read: Callable[[object], object], texts: list[str]
) -> None:
    """No unit, another's unit, other letters, signs and infinities are not guessed."""
    for text in [*texts, None, True, False, 0, -1, 0.5, [], {}, float("inf")]:
        with pytest.raises(ValueError, match=r"expected .*"):
            read(text)


SECONDS = st.tuples(
    st.integers(0, 9999), st.sampled_from(["ms", "s", "m", "h"]), st.integers(0, 999)
).map(lambda parts: f"{parts[0]}.{parts[2]:03}{parts[1]}")


@repeatable
@given(SECONDS)
def test_a_duration_can_be_written_and_read_again(text: str) -> None:
    """The text of a duration is one that a policy may write, and means the same."""
    seconds = units.duration_s(text)

    assert seconds == units.duration_s(units.duration_text(seconds))


@repeatable
@given(st.sampled_from(["auto", "request"]) | st.integers(1, 10**7).map("{}0s".format))
def test_a_block_can_be_written_and_read_again(text: str) -> None:
    """The text of a block is one that a policy may write, and means the same."""
    value = units.block(text)

    assert value == units.block(units.block_text(value))


@repeatable
@given(st.decimals(0, 100, places=6))
def test_a_share_can_be_written_and_read_again(number: object) -> None:
    """The text of a share is one that a policy may write, and means the same."""
    value = units.share(f"{number}%")

    assert value == units.share(units.share_text(value))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (86400.0, "1d"),
        (90000.0, "25h"),
        (5400.0, "90m"),
        (61.0, "61s"),
        (1.5, "1.5s"),
        (0.25, "250ms"),
        (0.0015, "1.5ms"),
        (0.0, "0s"),
    ],
)
def test_a_duration_is_shown_in_its_largest_whole_unit(
    seconds: float, text: str
) -> None:
    """People read 90m more easily than 5400s."""
    assert text == units.duration_text(seconds)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "nothing"),
        (True, "true"),
        ({}, "a mapping"),
        ((1,), "a list"),
        ("a", "'a'"),
        ("x" * 99, f"'{'x' * 56}..."),
    ],
)
def test_a_message_quotes_values_as_yaml_writes_them(value: object, text: str) -> None:
    """No Python names of types, and no endless text, reach a user."""
    assert text == units.shown(value)
