import pickle
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from canary.attention import Dense, Layers, LocalGlobal, Rule, SlidingWindow
from canary.errors import AttentionError

repeatable = settings(deadline=None, derandomize=True)
sizes = st.integers(1, 40)
rules = st.one_of(
    st.just(Dense()),
    st.builds(SlidingWindow, window=sizes),
    st.builds(LocalGlobal, window=sizes, global_tokens=sizes),
)
lengths = st.tuples(sizes, sizes).map(sorted)
"""(q_len, kv_len) with q_len <= kv_len."""


def table(rule: Rule, q_len: int, kv_len: int) -> list[str]:
    """Draw what is visible, a row per query."""
    rows = rule.visible(q_len, kv_len).tolist()
    return ["".join("x" if seen else "." for seen in row) for row in rows]


def test_a_window_of_three_is_a_query_and_the_two_keys_before_it() -> None:
    """A window counts keys, the query's own included."""
    expected = [
        "x....",
        "xx...",
        "xxx..",
        ".xxx.",
        "..xxx",
    ]

    assert expected == table(SlidingWindow(window=3), 5, 5)


def test_a_window_of_one_is_the_query_itself() -> None:
    """The smallest window leaves a query alone with its own key."""
    expected = ["x..", ".x.", "..x"]

    assert expected == table(SlidingWindow(window=1), 3, 3)


def test_globals_are_seen_by_all_and_see_no_future() -> None:
    """Global tokens are keys for everyone after them, and stay causal themselves."""
    expected = [
        "x.....",
        "xx....",
        "xxx...",
        "xxxx..",
        "xx.xx.",
        "xx..xx",
    ]

    assert expected == table(LocalGlobal(window=2, global_tokens=2), 6, 6)


def test_dense_sees_the_whole_past() -> None:
    """Dense attention is the lower triangle."""
    expected = ["x..", "xx.", "xxx"]

    assert expected == table(Dense(), 3, 3)


def test_fewer_queries_than_keys_are_the_last_ones() -> None:
    """Chunked prefill and decode see what the last rows of a prefill see."""
    whole = table(SlidingWindow(window=3), 6, 6)

    assert whole[-2:] == table(SlidingWindow(window=3), 2, 6)
    assert whole[-1:] == table(SlidingWindow(window=3), 1, 6)


@repeatable
@given(rule=rules, lengths=lengths)
def test_a_query_sees_itself_and_never_the_future(
    rule: Rule, lengths: list[int]
) -> None:
    """Every rule is causal and leaves no query without a key."""
    q_len, kv_len = lengths
    visible = rule.visible(q_len, kv_len)
    position = torch.arange(kv_len - q_len, kv_len)

    assert (q_len, kv_len) == visible.shape
    assert torch.bool == visible.dtype
    assert visible[torch.arange(q_len), position].all()
    assert not visible.triu(kv_len - q_len + 1).any()


@repeatable
@given(rule=rules, lengths=lengths)
def test_density_is_the_visible_share_of_the_causal_pairs(
    rule: Rule, lengths: list[int]
) -> None:
    """The closed form counts what the table shows."""
    q_len, kv_len = lengths
    visible = int(rule.visible(q_len, kv_len).sum())
    causal = int(Dense().visible(q_len, kv_len).sum())

    assert visible / causal == rule.density(q_len, kv_len)


def test_density_of_long_prompts_needs_no_table() -> None:
    """128k tokens squared would be 16 GiB; the known value comes at once."""
    tokens = 128 * 1024
    pairs = 1024 * 1025 // 2 + (tokens - 1024) * 1024

    density = SlidingWindow(window=1024).density(tokens, tokens)

    assert pairs / (tokens * (tokens + 1) // 2) == density


@repeatable
@given(rule=rules, lengths=lengths)
def test_key_ranges_are_exactly_what_a_block_of_queries_sees(
    rule: Rule, lengths: list[int]
) -> None:
    """A kernel that reads only these ranges misses nothing and reads no spare key."""
    q_len, kv_len = lengths
    ranges = rule.band(kv_len).key_ranges(kv_len - q_len, kv_len)
    seen = rule.visible(q_len, kv_len).any(dim=0)

    assert [j for j in range(kv_len) if seen[j]] == [
        j for low, high in ranges for j in range(low, high)
    ]
    assert all(low < high for low, high in ranges)
    assert all(end < begin for (_, end), (begin, _) in pairwise(ranges))


def test_globals_and_window_are_one_range_until_a_key_lies_between_them() -> None:
    """Ranges that touch are one, so that a kernel needn't gather what is contiguous."""
    band = LocalGlobal(window=2, global_tokens=3).band(7)
    found = [band.key_ranges(start, 7) for start in (0, 4, 5)]

    assert found == [((0, 7),), ((0, 7),), ((0, 3), (4, 7))]


@repeatable
@given(rule=rules, position=st.integers(0, 100))
def test_max_keys_is_how_many_keys_a_query_sees(rule: Rule, position: int) -> None:
    """A query sees all keys up to `max_keys` of them, and that many ever after."""
    seen = int(rule.visible(1, position + 1).sum())
    most = rule.band(position + 1).max_keys
    bound = position + 1 if most is None else most

    assert min(position + 1, bound) == seen


@repeatable
@given(
    rule=rules.filter(lambda rule: rule.band(0).max_keys is not None),
    queries=st.integers(1, 20),
    shift=st.integers(0, 30),
)
def test_blocks_of_queries_beyond_max_keys_look_alike(
    rule: Rule, queries: int, shift: int
) -> None:
    """One mask over the gathered keys serves every later block, as kernels rely on."""
    band = rule.band(0)

    def gathered(start: int) -> torch.Tensor:
        stop = start + queries
        keys = [
            j for low, high in band.key_ranges(start, stop) for j in range(low, high)
        ]
        return rule.visible(queries, stop)[:, keys]

    assert gathered(band.max_keys).equal(gathered(band.max_keys + shift))


def test_lengths_that_make_no_sense_are_refused() -> None:
    """More queries than keys, or none at all, is an error that says so."""
    with pytest.raises(AttentionError, match="5 queries on 4 keys: expected 1 <= "):
        Dense().visible(5, 4)
    with pytest.raises(AttentionError, match="0 queries on 4 keys"):
        SlidingWindow(window=2).density(0, 4)


def test_layers_resolve_to_the_rule_of_each_layer() -> None:
    """Ranges include both ends; the rest is everything else."""
    window = SlidingWindow(window=4)
    mix = Layers(parts=((1, 2, window),), rest=Dense())

    assert [Dense(), window, window, Dense()] == [mix.at(n) for n in range(4)]
    assert mix.visible(6, 6, layer=1).equal(window.visible(6, 6))
    assert Dense().density(6, 6) == mix.density(6, 6, layer=0)
    assert window.density(6, 6) == mix.density(6, 6, layer=2)


def test_layers_without_a_rest_refuse_a_layer_beyond_them() -> None:
    """A model with more layers than the mix names gets an error, not a guess."""
    mix = Layers(parts=((0, 2, Dense()),))

    with pytest.raises(AttentionError, match=r"0-2:dense says nothing about layer 3"):
        mix.at(3)


@pytest.mark.parametrize("rule", [Dense(), Layers(parts=(), rest=Dense())])
def test_layers_count_from_zero(rule: Rule) -> None:
    """A negative layer is a mistake of the caller, not the last layer."""
    with pytest.raises(AttentionError, match="layer -1"):
        rule.at(-1)


def test_equal_mixes_are_equal_however_they_are_ordered() -> None:
    """Parts are kept by layer: their order changes neither caches nor names."""
    parts = ((0, 2, SlidingWindow(window=4)), (3, 3, Dense()))
    mix, other = Layers(parts=parts), Layers(parts=parts[::-1])
    name = "0-2:sliding_window(window=4)+3:dense"

    assert mix == other
    assert hash(mix) == hash(other)
    assert name == str(other)
    assert mix == pickle.loads(pickle.dumps(mix))  # noqa: S301 - our own bytes
