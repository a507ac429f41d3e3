"""What each pattern shows, against its definition written out in another way."""

# ruff: noqa: E501 - specs and sentences stand on one line each, to be read across

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from every_pattern import BY_LISTS, BY_POSITION, EVERY, tensors

from canary.attention import (
    Adaptive,
    AntidiagonalBlocks,
    BlockTable,
    ChosenBlocks,
    Dense,
    HeadTable,
    LocalGlobal,
    Memory,
    PatternSpecError,
    RandomBlocks,
    Relu,
    SlidingWindow,
    Strided,
    TriShape,
    attend,
    pattern,
)
from canary.attention.masks import Mask
from canary.attention.rules import Look
from canary.attention.tiles import tiles
from canary.errors import AttentionError

CPU = torch.device("cpu")


def drawn(rule, q_len, kv_len, head=0):
    return [
        "".join("x" if seen else "." for seen in row)
        for row in rule.visible(q_len, kv_len, head=head).tolist()
    ]


def test_a_tri_shape_lets_the_last_queries_see_all():
    """Window and globals first; the prompt's last queries, and decode, are dense."""
    rule = TriShape(window=1, global_tokens=1, last_queries=2)

    assert ["x....", "xx...", "x.x..", "xxxx.", "xxxxx"] == drawn(rule, 5, 5)
    assert ["xxxxxx"] == drawn(rule, 1, 6)


def test_a_stride_takes_whole_blocks_at_fixed_places():
    """Blocks 0, 2, 4 of two keys each, wherever the query stands, and its window."""
    rule = Strided(window=1, stride=2, block=2)

    assert ["xx..xxx", "xx..xx.x"] == [
        drawn(rule, 1, 7)[0],
        drawn(rule, 1, 8)[0],
    ]


def test_random_blocks_are_the_first_the_own_and_distinct_earlier_ones():
    """As many as asked for, fewer only where there aren't more; the same each time."""
    rule = RandomBlocks(blocks=3, block=16, local_blocks=2, seed=1)
    lists = rule.lists(layer=2, heads=4, rows=40)

    for r in range(40):
        for head in range(4):
            listed = lists[head, r][lists[head, r] >= 0].tolist()
            held = set(listed)
            assert len(held) == len(listed)
            near = {0, r, max(r - 1, 0)}
            assert near <= held
            assert len(held - near) == min(3, max(r - 2, 0))
            assert max(held) == r
    longer = rule.lists(layer=2, heads=4, rows=80)[:, :40]
    assert (longer[..., : lists.shape[2]] == lists).all()
    assert not (lists == rule.lists(layer=3, heads=4, rows=40)).all()
    assert not (lists[0] == lists[1]).all()


def test_random_blocks_are_drawn_evenly():
    """Every earlier block is as likely as any other: 32 of 62 for a row far down."""
    lists = RandomBlocks(blocks=32, block=16).lists(layer=0, heads=400, rows=64)[:, 63]
    shares = [(lists == block).any(1).mean() for block in range(1, 63)]

    assert 0.516 == pytest.approx(np.mean(shares), abs=0.001)
    assert np.ptp(shares) < 6 * (0.25 / 400) ** 0.5 * 2


@pytest.mark.parametrize("rule", [*BY_POSITION, *BY_LISTS], ids=str)
@pytest.mark.parametrize(("q_len", "kv_len"), [(300, 300), (70, 333), (1, 200)])
def test_density_counts_what_is_visible(rule, q_len, kv_len):
    """The closed forms of band and lists agree with the table; causal, own key seen."""
    seen = rule.visible(q_len, kv_len, head=1)
    before = kv_len - q_len

    assert not seen.triu(before + 1).any()
    assert seen.diagonal(before).all()
    assert int(seen.sum()) / int(torch.ones(q_len, kv_len).tril(before).sum()) == (
        pytest.approx(rule.density(q_len, kv_len, head=1), rel=1e-12)
    )


@pytest.mark.parametrize("rule", [*BY_POSITION, *BY_LISTS], ids=str)
@pytest.mark.parametrize("sizes", [(128, 128), (64, 64), (16, 16), (128, 16)])
@pytest.mark.parametrize(("q_len", "kv_len"), [(300, 300), (170, 400)])
def test_tiles_are_those_that_the_table_of_pairs_says(rule, sizes, q_len, kv_len):
    """Listed in part or whole exactly as visible; kernels read nothing else.

    A tile at the diagonal or at the end is never whole: it has pairs that aren't there.
    """
    tile_q, tile_k = sizes
    if isinstance(rule, RandomBlocks):
        tile_k = max(tile_k, rule.block)  # kernels' tiles hold whole blocks
    look = Look(q_len, kv_len, 0, 2, CPU)
    mask = rule.mask(look)
    listed = tiles(mask, tile_q, tile_k, CPU)
    start = kv_len - q_len
    rows = listed.some_counts.shape[2]
    columns = -(-kv_len // tile_k)
    pairs = torch.zeros(rows * tile_q, columns * tile_k, dtype=torch.bool)
    low = listed.first_row * tile_q
    pairs[start - low : kv_len - low, :kv_len] = mask.visible(CPU)[0, -1]
    real = torch.zeros(rows * tile_q, dtype=torch.bool)
    real[start - low : kv_len - low] = True
    grid = pairs.view(rows, tile_q, columns, tile_k)

    for row in range(rows):
        some, whole = (
            set(lists[0, -1, row, : counts[0, -1, row]].tolist())
            for lists, counts in (
                (listed.some, listed.some_counts),
                (listed.whole, listed.whole_counts),
            )
        )
        touched = set(grid[row].any(0).any(1).nonzero()[:, 0].tolist())
        present = grid[row][real.view(rows, tile_q)[row]]
        entire = set(present.all(0).all(1).nonzero()[:, 0].tolist())
        assert touched == some | whole
        assert not some & whole
        assert whole <= entire
        if isinstance(rule, Dense | SlidingWindow | RandomBlocks):
            assert whole == entire
        # What two reasons fill together counts as seen in part: a mask, no harm.


def by_hand(rule, q, keys, i):
    """Choose blocks for one query of one head by writing the definition out."""
    size, own = rule.block, i // rule.block
    scores = {}
    for c in range(1, own - 1):
        block = keys[c * size : (c + 1) * size]
        if rule.choose == "mean":
            scores[c] = float(q @ block.mean(0))
        else:
            low, high = block.min(0).values, block.max(0).values
            scores[c] = float(torch.maximum(q * low, q * high).sum())
    always = {0, own, max(own - 1, 0)}
    best = sorted(scores, key=scores.get, reverse=True)[: rule.blocks - 3]
    return always | set(best)


@pytest.mark.parametrize("choose", ["bounds", "mean"])
def test_each_query_chooses_the_blocks_that_its_score_ranks_first(choose):
    """As Quest defines it, query by query and head by head."""
    rule = ChosenBlocks(choose=choose, blocks=5, block=16, per="query")
    q, k, _ = tensors((1, 4, 2, 150, 150), torch.float64)
    table = rule.table(Look(150, 150, 0, 4, CPU, q, k))

    for head in range(4):
        for i in range(150):
            held = table.blocks[0, head, i]
            assert by_hand(rule, q[0, head, i], k[0, head // 2], i) == set(
                held[held >= 0].tolist()
            )


def test_a_block_of_queries_takes_the_best_of_their_bounds():
    """One choice for 16 queries: by the largest bound that any of them has."""
    rule = ChosenBlocks(choose="bounds", blocks=4, block=16)
    q, k, _ = tensors((1, 1, 1, 160, 160), torch.float64)
    table = rule.table(Look(160, 160, 0, 1, CPU, q, k))
    blocks = k[0, 0].view(10, 16, -1)
    low, high = blocks.amin(1), blocks.amax(1)

    for row in range(4, 10):
        part = q[0, 0, row * 16 : row * 16 + 16, None]
        bounds = torch.maximum(part * low, part * high).sum(2).amax(0)
        best = int(bounds[1 : row - 1].argmax()) + 1
        held = table.blocks[0, 0, row]
        assert {0, row - 1, row, best} == set(held[held >= 0].tolist())


def test_antidiagonals_are_those_of_the_score_matrix():
    """Sums of every eighth antidiagonal, softmaxed by row, and blocks until the mass."""
    rule = AntidiagonalBlocks(choose="antidiagonal", mass=0.7, block=16, stride=8)
    q, k, _ = tensors((1, 1, 1, 96, 96), torch.float64)
    scores = (q[0, 0] @ k[0, 0].T).view(12, 8, 12, 8)
    anti = sum(scores[:, 7 - s, :, s] for s in range(8)) * 16**-0.5 / 8
    hidden = torch.ones(12, 12, dtype=torch.bool).triu(1)
    mass = anti.masked_fill(hidden, -torch.inf).softmax(1)
    mass = mass.view(6, 2, 6, 2).sum(3).sum(1) / 2
    table = rule.table(Look(96, 96, 0, 1, CPU, q, k))

    for row in range(6):
        held = table.blocks[0, 0, row]
        chosen = set(held[held >= 0].tolist())
        ranked = [c for c in mass[row].argsort(descending=True).tolist() if c <= row]
        taken = {0, row}
        for c in ranked:
            if sum(float(mass[row, n]) for n in taken) >= 0.7:
                break
            taken.add(c)
        assert taken == chosen


def test_a_head_is_sparse_only_if_its_attention_lies_where_the_pattern_looks():
    """One head looks at its neighbours, one at the start: only the first is sparse."""
    rule = Adaptive(sparse=SlidingWindow(window=32), mass=0.9, probe=16)
    near = torch.randn(200, 16, generator=torch.Generator().manual_seed(1)).double()
    near = near / near.norm(dim=1, keepdim=True)
    place = torch.zeros(200, 16, dtype=torch.float64)
    place[:8, 0] = 20.0
    k = torch.stack([near, place])[None]
    q = torch.stack([400 * near, place[:1].expand(200, 16)])[None]
    v = torch.randn(1, 2, 200, 16, dtype=torch.float64)
    memory = Memory()
    out, evidence = attend(q, k, v, rule, memory=memory)
    window, _ = attend(q, k, v, SlidingWindow(window=32))
    dense, _ = attend(q, k, v, Dense())

    assert [[True, False]] == memory.sparse_heads[0].tolist()
    torch.testing.assert_close(out[:, 0], window[:, 0], rtol=0, atol=1e-11)
    torch.testing.assert_close(out[:, 1], dense[:, 1], rtol=0, atol=1e-11)
    assert "sdpa+blocked" == evidence.name
    share = SlidingWindow(window=32).density(200, 200)
    assert (pytest.approx((1 + share) / 2), pytest.approx(share), 1) == (
        evidence.density()
    )
    token, _ = attend(q[:, :, -1:], k, v, rule, memory=memory)
    torch.testing.assert_close(token, out[:, :, -1:], rtol=0, atol=1e-11)


def test_a_table_of_heads_is_read_as_duo_attention_writes_it(tmp_path):
    """A line a layer, a column a key head; the query heads that share it follow it."""
    file = tmp_path / "full_attention_heads.tsv"
    file.write_text("1.0\t0.2\n0.0\t0.7\n")
    sparse = LocalGlobal(window=20, global_tokens=4)
    rule = HeadTable(table_file=str(file), sparse=sparse)
    q, k, v = tensors((1, 4, 2, 90, 90), torch.float64)
    parts = [attend(q, k, v, each)[0] for each in (Dense(), sparse)]

    for layer, which in ((0, (0, 0, 1, 1)), (1, (1, 1, 0, 0))):
        out, _ = attend(q, k, v, rule, layer=layer)
        for head, part in enumerate(which):
            torch.testing.assert_close(
                out[:, head], parts[part][:, head], rtol=0, atol=1e-11
            )
        assert rule.density(90, 90, layer=layer, head=0) == (
            (Dense(), sparse)[which[0]].density(90, 90)
        )
    with pytest.raises(AttentionError, match="2 layers, and none is layer 2"):
        attend(q, k, v, rule, layer=2)
    with pytest.raises(AttentionError, match="no multiple"):
        attend(q[:, :3], k[:, :1], v[:, :1], rule)


def test_blocks_come_from_a_file_as_it_lists_them(tmp_path):
    """By layer and head; what is above the diagonal doesn't matter."""
    chance = np.random.default_rng(0)
    seen = chance.random((2, 4, 6, 6)) < 0.4
    seen |= np.eye(6, dtype=bool)
    np.save(tmp_path / "blocks.npy", seen)
    rule = BlockTable(table_file=str(tmp_path / "blocks.npy"), block=16)
    i = np.arange(90) // 16
    for layer in range(2):
        for head in range(4):
            expected = np.tril(seen[layer, head][i][:, i] & np.tri(90, dtype=bool))
            visible = rule.mask(Look(90, 90, layer, 4, CPU)).visible(CPU)[0, head]
            assert (expected == visible.numpy()).all()
    q, k, v = tensors((1, 4, 2, 90, 90), torch.float64)
    exact, _ = attend(q, k, v, rule, layer=1, backend="reference")
    out, _ = attend(q, k, v, rule, layer=1)

    torch.testing.assert_close(out, exact, rtol=0, atol=1e-11)
    with pytest.raises(AttentionError, match="reaches 96 tokens, and there are 97"):
        attend(*tensors((1, 4, 2, 97, 97), torch.float64), rule)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (
            {"pattern": "block_sparse", "block": 64},
            "block_sparse takes its blocks from table_file, or has choose: bounds, mean or antidiagonal",
        ),
        (
            {"pattern": "block_sparse", "choose": "best"},
            "choose: unknown way to choose 'best'; known: antidiagonal, bounds, mean",
        ),
        (
            {"pattern": "block_sparse", "choose": "mean", "blocks": 2},
            "blocks: expected a number of blocks from 3 to 2147483646, got 2",
        ),
        (
            {"pattern": "block_sparse", "choose": "mean", "blocks": 9, "block": 48},
            "block: expected blocks of 16, 32, 64 or 128 tokens, got 48",
        ),
        (
            {"pattern": "block_sparse", "choose": "mean", "blocks": 9, "per": "head"},
            "per: expected block or query, got 'head'",
        ),
        (
            {"pattern": "block_sparse", "choose": "antidiagonal", "mass": "120%"},
            "mass: expected a share above 0 and up to 100%, got 1.2; write 90%",
        ),
        (
            {"pattern": "block_sparse", "choose": "antidiagonal", "stride": 7},
            "stride: 7 doesn't divide the block of 128 tokens",
        ),
        (
            {"pattern": "block_sparse", "table_file": "nowhere.npy", "block": 64},
            "table_file: can't read nowhere.npy: No such file or directory",
        ),
        (
            {"pattern": "relu", "threshold": "much"},
            "threshold: expected a number, got 'much'",
        ),
        (
            {"pattern": "relu", "within": {"pattern": "relu"}},
            "within: relu can't stand within another; write what is seen, for example {pattern: sliding_window, window: 1024}",
        ),
        (
            {"pattern": "relu", "within": {"pattern": "sliding_window"}},
            "within: sliding_window needs window; write {pattern: sliding_window, window: 256}",
        ),
        (
            {"pattern": "soft_threshold"},
            "soft_threshold needs threshold; write {pattern: soft_threshold, threshold: 0.1%}",
        ),
        (
            {"pattern": "hyperbolic", "model": "klein"},
            "model: expected lorentz or poincare, got 'klein'",
        ),
        (
            {"pattern": "hyperbolic", "model": "lorentz", "curvature": 0},
            "curvature: expected a number above 0, got 0",
        ),
        (
            {
                "pattern": "adaptive",
                "sparse": {"pattern": "block_sparse", "choose": "mean", "blocks": 9},
            },
            "sparse: block_sparse chooses at run time itself; write a pattern by position, for example local_global",
        ),
        (
            {
                "pattern": "adaptive",
                "sparse": {"pattern": "sliding_window", "window": 9},
                "mass": 0,
            },
            "mass: expected a share above 0 and up to 100%, got 0; write 90%",
        ),
        (
            {"pattern": "random_blocks", "blocks": 3, "seed": -1},
            "seed: expected a number of a seed from 0 to 2147483646, got -1",
        ),
        (
            {
                "pattern": "tri_shape",
                "window": 9,
                "global_tokens": 9,
                "last_queries": 0,
            },
            "last_queries: expected a number of tokens from 1 to 2147483646, got 0",
        ),
    ],
    ids=json.dumps,
)
def test_a_broken_spec_says_where_and_what_to_write(spec, sentence):
    """One sentence: the path of keys, what is wrong, and what would be right."""
    with pytest.raises(PatternSpecError) as caught:
        pattern(spec)

    assert sentence == str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"words", "is no NumPy array file"),
        (np.zeros((2, 2)), "expected booleans"),
        (np.zeros((2, 3), bool), "as many rows as columns"),
        (np.zeros((2, 2), bool), "a block doesn't see itself; set the diagonal True"),
    ],
)
def test_a_broken_table_of_blocks_is_refused_when_it_is_named(
    tmp_path, content, sentence
):
    """Before anything runs, with what it should be."""
    file = tmp_path / "blocks.npy"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        np.save(file, content)

    with pytest.raises(PatternSpecError, match=sentence):
        pattern({"pattern": "block_sparse", "table_file": str(file), "block": 64})


@pytest.mark.parametrize("content", ["", "a\tb\n", "1\t2\n3\n", "nan\t1\n"])
def test_a_broken_table_of_heads_is_refused_when_it_is_named(tmp_path, content):
    """Before anything runs, with what it should be."""
    file = tmp_path / "heads.tsv"
    file.write_text(content)

    with pytest.raises(PatternSpecError, match=r"heads\.tsv"):
        pattern(
            {
                "pattern": "head_table",
                "table_file": str(file),
                "sparse": {"pattern": "sliding_window", "window": 9},
            }
        )


@pytest.mark.parametrize("rule", [r for r in EVERY if r.chooses], ids=str)
def test_what_is_chosen_at_run_time_has_no_table_beforehand(rule):
    """It says so, and where the density is; an evidence has it."""
    with pytest.raises(AttentionError, match="ask attend"):
        rule.density(300, 300)
    q, k, v = tensors((1, 4, 2, 300, 300), torch.float32)
    _, evidence = attend(q, k, v, rule)
    overall, least, most = evidence.density()

    assert 0 < least <= overall <= most <= 1


def test_windows_without_end_are_dense_exactly():
    """A window or a stride that reaches everything gives dense attention's own bits."""
    q, k, v = tensors((1, 4, 2, 300, 300), torch.float32)
    dense, _ = attend(q, k, v, Dense())

    for rule in (
        SlidingWindow(window=300),
        LocalGlobal(window=1, global_tokens=299),
        TriShape(window=2, global_tokens=1, last_queries=300),
        Strided(window=1, stride=1),
        Adaptive(sparse=SlidingWindow(window=9), mass=1.0),
    ):
        assert dense.equal(attend(q, k, v, rule)[0])


def test_a_query_whose_scores_are_all_below_the_threshold_gets_zero():
    """Nothing attended to is zero, not no number, in every kernel that runs here."""
    q, k, v = tensors((1, 2, 2, 140, 140), torch.float64)
    rule = Relu(threshold=1e6)

    for backend in ("reference", "blocked", "flex"):
        out, _ = attend(q, k, v, rule, backend=backend)
        assert not out.any()


def test_a_mask_of_some_heads_is_theirs():
    """Heads that run apart keep the lists that were drawn for them."""
    rule = RandomBlocks(blocks=1, block=16)
    mask = rule.mask(Look(200, 200, 0, 4, CPU))
    some = mask.of_heads(torch.tensor([1, 3]))

    assert isinstance(some, Mask)
    assert some.visible(CPU).equal(mask.visible(CPU)[:, [1, 3]])


def test_patterns_are_read_without_torch():
    """A policy with any of them is checked in a process that never loads torch."""
    code = (
        "import sys; from canary.attention import EXAMPLES, pattern\n"
        "import yaml\n"
        "for name, text in EXAMPLES.items():\n"
        "    if name != 'head_table': str(pattern(yaml.safe_load(text)))\n"
        "assert 'torch' not in sys.modules"
    )

    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("rule", [r for r in EVERY if r.chooses], ids=str)
def test_choosing_in_small_portions_chooses_the_same(rule, monkeypatch):
    """Scores of long prompts are made portion by portion, so that they fit."""
    q, k, v = tensors((1, 4, 2, 500, 500), torch.float64)
    at_once, _ = attend(q, k, v, rule)
    monkeypatch.setattr("canary.attention.choosing._MOST_SCORE_BYTES", 4096)
    portions, _ = attend(q, k, v, rule)

    torch.testing.assert_close(portions, at_once, rtol=0, atol=1e-12)
