import pickle
import subprocess
import sys

import pytest

from canary import attention
from canary.attention import (
    Dense,
    Layers,
    LocalGlobal,
    PatternSpecError,
    SlidingWindow,
    pattern,
)
from canary.errors import AttentionError
from canary.policy.model import VariantSpec, variant_name

WINDOW = {"pattern": "sliding_window", "window": 256}
MIX = {"layers": {"0-2": WINDOW, "rest": "dense"}}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("dense", Dense()),
        ({"pattern": "dense"}, Dense()),
        (WINDOW, SlidingWindow(window=256)),
        (
            {"pattern": "local_global", "global_tokens": 256, "window": 1024},
            LocalGlobal(window=1024, global_tokens=256),
        ),
        (MIX, Layers(parts=((0, 2, SlidingWindow(window=256)),), rest=Dense())),
        (
            {"layers": {3: "dense", "0-2": SlidingWindow(window=256)}},
            Layers(parts=((0, 2, SlidingWindow(window=256)), (3, 3, Dense()))),
        ),
        (Dense(), Dense()),
    ],
)
def test_a_spec_reads_as_the_pattern_it_names(spec: object, expected: object) -> None:
    """Names, mappings, layers with text or number keys, and patterns themselves."""
    assert expected == pattern(spec)


@pytest.mark.parametrize(
    "spec",
    [
        "dense",
        {"pattern": "dense"},
        WINDOW,
        {"pattern": "local_global", "window": 1024, "global_tokens": 256},
        {"pattern": "local_global", "global_tokens": 256, "window": 1024},
        MIX,
        {"layers": {"rest": "dense", "0-2": WINDOW}},
        {"layers": {3: "dense", "0-2": WINDOW}},
    ],
)
def test_a_pattern_is_named_as_the_arm_that_runs_it(spec: str | dict) -> None:
    """Policies name arms without this package; both spell a pattern alike."""
    variant = VariantSpec(model="reference", attention=spec)

    assert variant_name(variant) == f"reference/{pattern(spec)}"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            "slidng_window",
            "pattern: unknown pattern 'slidng_window'; did you mean sliding_window?",
        ),
        (
            "flash",
            (
                "pattern: unknown pattern 'flash'; known: adaptive, block_sparse, "
                "dense, head_table, hyperbolic, local_global, random_blocks, relu, "
                "sliding_window, soft_threshold, strided, tri_shape"
            ),
        ),
        (
            {"pattern": ["dense"]},
            "pattern: unknown pattern ['dense']; did you mean dense?",
        ),
        (
            7,
            (
                "expected a pattern, got 7; write dense or "
                "{pattern: local_global, window: 1024, global_tokens: 256}"
            ),
        ),
        ({"patern": "dense"}, "patern: unknown key 'patern'; did you mean pattern?"),
        (
            {"window": 256},
            (
                "the pattern is missing; add pattern: adaptive, block_sparse, dense, "
                "head_table, hyperbolic, local_global, random_blocks, relu, "
                "sliding_window, soft_threshold, strided or tri_shape"
            ),
        ),
        (
            "sliding_window",
            "sliding_window needs window; write {pattern: sliding_window, window: 256}",
        ),
        (
            "local_global",
            (
                "local_global needs window and global_tokens; "
                "write {pattern: local_global, window: 1024, global_tokens: 256}"
            ),
        ),
        (
            {"pattern": "sliding_window", "windw": 256},
            "windw: unknown key of sliding_window 'windw'; did you mean window?",
        ),
        (
            {"pattern": "dense", "window": 256},
            "window: unknown key of dense 'window'; known: pattern",
        ),
        (
            MIX | {"window": 256},
            "window: can't stand beside layers; move it into a layer or rest",
        ),
        (
            {"layers": "dense"},
            (
                "layers: expected patterns by layer, got 'dense'; "
                "write {0-2: {pattern: sliding_window, window: 256}, rest: dense}"
            ),
        ),
        ({"layers": {}}, "layers: names no layer; write for example rest: dense"),
        (
            {"layers": {"rest": MIX}},
            "layers.rest.layers: layers can't stand within a layer",
        ),
        (
            {"layers": {"0-2": {"pattern": "sliding_window", "window": 0}}},
            (
                "layers.0-2.window: "
                "expected a number of tokens from 1 to 2147483646, got 0"
            ),
        ),
        (
            {"layers": {"0-2": {"pattern": "slide"}, "rest": "dense"}},
            ("layers.0-2.pattern: unknown pattern 'slide'; did you mean strided?"),
        ),
        (
            {"layers": {"first": "dense"}},
            (
                "layers.first: expected a layer, a range or rest, got 'first'; "
                "write 3, 0-2 or rest"
            ),
        ),
        (
            {"layers": {True: "dense"}},
            (
                "layers.True: expected a layer, a range or rest, got True; "
                "write 3, 0-2 or rest"
            ),
        ),
        (
            {"layers": {"3-3": "dense"}},
            (
                "layers.3-3: expected a layer, a range or rest, got '3-3'; "
                "write 3, 0-2 or rest"
            ),
        ),
        (
            {"layers": {"03": "dense"}},
            (
                "layers.03: expected a layer, a range or rest, got '03'; "
                "write 3, 0-2 or rest"
            ),
        ),
        (
            {"layers": {-1: "dense"}},
            (
                "layers.-1: expected a layer, a range or rest, got -1; "
                "write 3, 0-2 or rest"
            ),
        ),
        (
            {"layers": {"2-0": "dense", "rest": "dense"}},
            "layers.2-0: expected layers from 0 in ascending order, got 2-0",
        ),
        (
            {"layers": {"2-4": "dense", "0-2": WINDOW}},
            "layers.2-4: overlaps with 0-2; each layer has one pattern",
        ),
        (
            {"layers": {3: "dense", "3": "dense", "rest": "dense"}},
            "layers.3: overlaps with 3; each layer has one pattern",
        ),
        (
            {"layers": {"0-1": WINDOW, 4: "dense"}},
            (
                "layers: 2-3 left out; "
                "name every layer or add rest, for example rest: dense"
            ),
        ),
        (
            {"layers": {1: "dense"}},
            (
                "layers: 0 left out; "
                "name every layer or add rest, for example rest: dense"
            ),
        ),
    ],
)
def test_a_broken_spec_says_where_and_what_to_write(
    spec: object, expected: str
) -> None:
    """One sentence: the path of keys, what is wrong, and what would be right."""
    with pytest.raises(PatternSpecError) as caught:
        pattern(spec)
    where = ".".join(caught.value.where)

    assert expected == str(caught.value)
    assert expected.removeprefix(f"{where}: ") == caught.value.message


@pytest.mark.parametrize("value", [True, "256", 0, -1, 256.0, None, [256], 2**31])
@pytest.mark.parametrize("option", ["window", "global_tokens"])
def test_token_counts_are_whole_positive_numbers(option: str, value: object) -> None:
    """Text, booleans, fractions and what isn't positive are refused, not converted."""
    spec = {"pattern": "local_global", "window": 8, "global_tokens": 8, option: value}

    with pytest.raises(PatternSpecError, match="expected a number of tokens") as caught:
        pattern(spec)

    assert (option,) == caught.value.where


def test_a_spec_error_survives_the_way_between_processes() -> None:
    """It is an AttentionError that pickles whole, as remote arms raise it."""
    error = PatternSpecError("is wrong", ("layers", "0-2"))
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes

    assert isinstance(copy, AttentionError)
    assert error.message == copy.message
    assert error.where == copy.where


@pytest.mark.parametrize("module", ["canary.attention", "canary.attention.patterns"])
def test_specs_are_read_without_torch(module: str) -> None:
    """A policy is checked in a process that never loads torch."""
    code = (
        f"import sys; from {module} import pattern\n"
        f"rule = pattern({WINDOW!r}); rule.density(8, 8); str(rule)\n"
        "assert 'torch' not in sys.modules"
    )

    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there() -> None:
    """What `__all__` lists can be had, and nothing else is made up on the way."""
    for name in attention.__all__:
        assert getattr(attention, name) is not None

    with pytest.raises(AttributeError, match="no attribute 'atend'"):
        _ = attention.atend
