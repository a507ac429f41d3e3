from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canary.errors import TrafficError
from canary.traffic.formats import Trace, TraceRow, read_trace
from canary.traffic.plan import make_plan, with_speed
from canary.traffic.request import Plan, TokenBlocks
from canary.traffic.seeds import permuted, stable_seed, stable_uniform, token_blocks
from canary.traffic.selection import Selection
from canary.traffic.validation import ValidationItem

REPLAY = Path(__file__).parents[2] / "replay"
BUSY = read_trace(REPLAY / "azure-code-2023-busy.csv")
LIMITS = Selection(prompt_tokens=2048, output_tokens=24)


def item(name: str, task: str = "sums", group: str | None = None) -> ValidationItem:
    return ValidationItem(
        id=name, input=f"ask {name}", target=(name,), task=task, group=group
    )


ITEMS = tuple(
    item(f"{task}-{n}", task, f"{task}-doc{n // 4}")
    for task, count in (("contract", 120), ("code", 40), ("chat", 20))
    for n in range(count)
)


def trace_of(*rows: tuple[float, int, int]) -> Trace:
    return Trace(
        path="t.csv",
        sha256="",
        format="azure",
        rows=tuple(
            TraceRow(index=index, arrival_s=at, prompt_tokens=prompt, output_tokens=out)
            for index, (at, prompt, out) in enumerate(rows)
        ),
    )


def by_kind(plan: Plan, kind: str) -> list[str]:
    return [r.request_id for r in plan.requests if r.kind == kind]


def test_traffic_keeps_its_distances() -> None:
    """Rows within the limits become requests at their recorded distances, from 0."""
    trace = trace_of((0, 900, 1), (3, 10, 5), (4.5, 20, 6), (100, 30, 7))
    plan = make_plan(trace, [], Selection(prompt_tokens=500), seed=1)

    assert ["azure-000001", "azure-000002", "azure-000003"] == by_kind(plan, "latency")
    assert [0, 1.5, 97] == [r.arrival_s for r in plan.requests]
    assert [5, 6, 7] == [r.max_output_tokens for r in plan.requests]
    assert [10, 20, 30] == [r.blocks.length_tokens for r in plan.requests if r.blocks]
    assert "starts with the row at 3.0 s, the first that is used" in plan.notes


def test_limits_include_their_value() -> None:
    """A row exactly at a limit is used."""
    trace = trace_of((0, 500, 8), (1, 501, 8), (2, 500, 9))
    plan = make_plan(trace, [], Selection(prompt_tokens=500, output_tokens=8), seed=1)

    assert ["azure-000000"] == by_kind(plan, "latency")


def test_what_is_left_out_is_said() -> None:
    """The notes count what each limit leaves out, with shares of the whole trace."""
    plan = make_plan(BUSY, ITEMS, replace(LIMITS, requests=250), seed=1)

    assert (
        f"uses 250 of 531 rows of {BUSY.path}: left out "
        "211 with prompts over 2,048 tokens (39.7%), "
        "58 with outputs over 24 tokens (10.9%), "
        "12 after the first 250 (2.3%)"
    ) == plan.notes[0]
    assert (
        "180 validation items are mixed in: 120 contract, 40 code, 20 chat"
        == (plan.notes[-1])
    )


def test_long_outputs_are_cut_and_counted() -> None:
    """Cutting keeps every row and says how many it changed."""
    trace = trace_of((0.0, 100, 5), (1.0, 100, 16), (2.0, 100, 400))

    plan = make_plan(trace, [], Selection(max_output_tokens=16), seed=0)

    assert [5, 16, 16] == [request.max_output_tokens for request in plan.requests]
    assert "1 longer outputs are cut to 16 tokens" in plan.notes


def test_no_limits_leave_nothing_out() -> None:
    """Without limits the note says that all rows are used."""
    plan = make_plan(BUSY, [], seed=1)

    assert (f"uses 531 of 531 rows of {BUSY.path}",) == plan.notes


def test_broken_rows_are_said() -> None:
    """Rows that the reader left out are in the notes too."""
    plan = make_plan(replace(BUSY, bad_row_count=3), [], seed=1)

    assert "3 further rows are broken and left out" in plan.notes


def test_nothing_within_the_limits_is_an_error() -> None:
    """A plan without traffic would measure nothing."""
    with pytest.raises(TrafficError, match=r"none of 1 rows .* 1 with prompts over 5"):
        make_plan(trace_of((0, 6, 1)), [], Selection(prompt_tokens=5), seed=1)


def test_same_seed_same_plan() -> None:
    """Trace, items, limits and seed decide the plan and its hash."""
    first = make_plan(BUSY, ITEMS, LIMITS, seed=7)

    assert first == make_plan(BUSY, ITEMS, LIMITS, seed=7)
    assert first.sha256 != make_plan(BUSY, ITEMS, LIMITS, seed=8).sha256


def test_plan_is_the_same_everywhere() -> None:
    """The hash of a small plan is a constant: no library or platform changes it."""
    plan = make_plan(trace_of((0, 600, 5), (2.5, 7, 1)), [item("q")], seed=3)

    expected = "8b1d7438aa34b61e8c28ac20458fd261b236812c875f386b770c887c834642b2"
    assert expected == plan.sha256


def test_other_seed_moves_items_not_traffic() -> None:
    """The seed decides times and order of items; the traffic stays as recorded."""
    one, two = (make_plan(BUSY, ITEMS, LIMITS, seed=seed) for seed in (1, 2))

    assert by_kind(one, "latency") == by_kind(two, "latency")
    assert by_kind(one, "quality") != by_kind(two, "quality")
    assert sorted(by_kind(one, "quality")) == sorted(by_kind(two, "quality"))
    assert tuple(one.arm_orders) != tuple(two.arm_orders)


@pytest.mark.parametrize(
    "change",
    [
        {"target": ("other",)},
        {"stop": ("x",)},
        {"weight": 2.0},
        {"max_tokens": 5},
        {"answer_prefix": "!"},
        {"group": "g"},
    ],
)
def test_hash_covers_what_an_arm_sees(change: dict[str, object]) -> None:
    """Any change to an item changes the hash."""
    one = make_plan(BUSY, [item("q")], seed=1)
    two = make_plan(BUSY, [replace(item("q"), **change)], seed=1)

    assert one.sha256 != two.sha256


def test_speed_scales_arrivals_alone() -> None:
    """At speed 10 order and content stay and every arrival is a tenth."""
    slow = make_plan(BUSY, ITEMS, LIMITS, seed=1)
    fast = make_plan(BUSY, ITEMS, LIMITS, seed=1, speed=10)

    still = [replace(request, arrival_s=0.0) for request in slow.requests]
    assert still == [replace(request, arrival_s=0.0) for request in fast.requests]
    assert [r.arrival_s / 10 for r in slow.requests] == [
        r.arrival_s for r in fast.requests
    ]
    assert tuple(slow.arm_orders) == tuple(fast.arm_orders)
    assert (10.0, True) == (fast.speed, slow.sha256 != fast.sha256)


def test_with_speed_equals_planning_at_that_speed() -> None:
    """Setting the speed later gives the same plan, hash included."""
    plan = make_plan(BUSY, ITEMS, LIMITS, seed=1)

    assert make_plan(BUSY, ITEMS, LIMITS, seed=1, speed=1.7) == with_speed(plan, 1.7)
    assert plan == with_speed(with_speed(plan, 4), 1)


@pytest.mark.parametrize("speed", [0, -1, float("inf"), float("nan")])
def test_impossible_speed(speed: float) -> None:
    """A speed that isn't above 0 is refused."""
    with pytest.raises(TrafficError, match="speed must be above 0"):
        make_plan(BUSY, [], seed=1, speed=speed)


def test_requests_carry_the_item() -> None:
    """A quality request has all that is needed to ask and to score."""
    question = ValidationItem(
        id="q",
        input="2 + 2",
        target=("4", "four"),
        task="sums",
        scorer="includes_any",
        max_tokens=3,
        stop=("\n",),
        answer_prefix=" =",
        weight=2.0,
        group="doc",
    )
    plan = make_plan(trace_of((0, 5, 1)), [question], seed=1)
    request = next(r for r in plan.requests if r.kind == "quality")

    assert ("q", "2 + 2 =", None, 3) == (
        request.request_id,
        request.text,
        request.blocks,
        request.max_output_tokens,
    )
    assert (("4", "four"), "includes_any", ("\n",), "sums", "doc", 2.0) == (
        request.target,
        request.scorer,
        request.stop,
        request.task,
        request.group,
        request.weight,
    )


def test_order_and_span() -> None:
    """Requests stand in order of arrival, items within the traffic's span."""
    plan = make_plan(BUSY, ITEMS, LIMITS, seed=1)
    arrivals = [request.arrival_s for request in plan.requests]
    traffic = [r.arrival_s for r in plan.requests if r.kind == "latency"]

    assert sorted(arrivals) == arrivals
    assert (0.0, max(traffic)) == (arrivals[0], arrivals[-1])
    assert len(plan.arm_orders) == len(plan.requests)
    assert len(set(plan.arm_orders)) == len(plan.requests)
    assert len({request.seed for request in plan.requests}) == len(plan.requests)


def test_items_are_spread_uniformly() -> None:
    """Item times are uniform over the span (Kolmogorov-Smirnov at a loose level)."""
    span = 1000.0
    plan = make_plan(trace_of((0, 5, 1), (span, 5, 1)), ITEMS, seed=5)
    times = [r.arrival_s / span for r in plan.requests if r.kind == "quality"]
    n = len(times)
    distance = max(abs(t - (i + 0.5) / n) for i, t in enumerate(times)) + 0.5 / n

    assert distance < 1.95 / n**0.5  # exceeded once in a thousand


@pytest.mark.parametrize("seed", range(5))
def test_any_beginning_has_each_task_in_proportion(seed: int) -> None:
    """After any number of items each task is within one of its share."""
    plan = make_plan(BUSY, ITEMS, LIMITS, seed=seed)
    total = Counter(i.task for i in ITEMS)
    seen: Counter[str] = Counter()
    tasks = [r.task for r in plan.requests if r.task]
    for position, task in enumerate(tasks, 1):
        seen[task] += 1
        for name, count in total.items():
            assert abs(seen[name] - count * position / len(tasks)) <= 2


def test_groups_stay_together() -> None:
    """Within a task a group's items follow each other, so that groups complete."""
    plan = make_plan(BUSY, ITEMS, LIMITS, seed=1)
    groups = [r.group for r in plan.requests if r.task == "contract"]
    changes = sum(a != b for a, b in pairwise(groups))

    assert 30 - 1 == changes
    assert sorted(groups, key=str) != groups


def test_item_id_that_is_a_request_id() -> None:
    """An item can't take the id of a traffic request."""
    with pytest.raises(TrafficError, match="'azure-000000' stands for 2 requests"):
        make_plan(trace_of((0, 5, 1)), [item("azure-000000")], seed=1)


def test_mooncake_blocks_reach_the_request() -> None:
    """Block ids and block size come from the trace, the seed from the run."""
    trace = read_trace(REPLAY / "mooncake-conversation.jsonl.gz")
    plan = make_plan(trace, [], Selection(requests=2), seed=9)

    first, second = (request.blocks for request in plan.requests)
    assert first is not None
    assert second is not None
    assert (6758, 14, 512, 9) == (
        first.length_tokens,
        len(first.block_ids),
        first.block_tokens,
        first.seed,
    )
    tokens = [
        token_blocks(blocks, request_id=request.request_id, low=4, high=300)
        for blocks, request in zip((first, second), plan.requests, strict=True)
    ]
    assert (6758, 7322) == tuple(map(len, tokens))
    assert np.array_equal(tokens[0][:512], tokens[1][:512])
    assert not np.array_equal(tokens[0][512:1024], tokens[1][512:1024])


def test_with_speed_is_cheap_at_mooncake_size() -> None:
    """A plan of the whole conversation trace can be rebuilt at another speed."""
    plan = make_plan(read_trace(REPLAY / "mooncake-conversation.jsonl.gz"), [], seed=9)

    assert 7851 == len(with_speed(plan, 2).requests)
    assert 2397.0 / 2 == with_speed(plan, 2).requests[-1].arrival_s


@given(
    length=st.integers(1, 3000),
    ids=st.integers(0, 10),
    low=st.integers(0, 50),
    width=st.integers(1, 400),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_prompt_has_exact_length(length: int, ids: int, low: int, width: int) -> None:
    """The prompt has the asked length and range, however many blocks are named."""
    names = tuple(map(str, range(min(ids, -(-length // 512)))))
    blocks = TokenBlocks(length_tokens=length, block_ids=names, seed=1)
    tokens = token_blocks(blocks, request_id="r", low=low, high=low + width)

    assert (length, np.int64) == (len(tokens), tokens.dtype)
    assert low <= tokens.min()
    assert tokens.max() < low + width


def draw(length: int, *ids: str, request: str = "r", seed: int = 1) -> list[int]:
    blocks = TokenBlocks(length_tokens=length, block_ids=ids, block_tokens=8, seed=seed)
    return token_blocks(blocks, request_id=request, low=0, high=10**6).tolist()


def test_block_content_depends_on_id_and_seed_alone() -> None:
    """Equal ids give equal tokens wherever they stand, whoever asks."""
    assert draw(16, "a", "b")[:8] == draw(8, "a", request="other")
    assert draw(16, "a", "b")[8:] == draw(8, "b")
    assert draw(8, "a") != draw(8, "b")
    assert draw(8, "a") != draw(8, "a", seed=2)


def test_partial_last_block_begins_its_block() -> None:
    """A partial block is the beginning of the whole one."""
    assert draw(16, "a", "b")[:11] == draw(11, "a", "b")


def test_uncovered_tokens_are_the_request_s_own() -> None:
    """Without block ids, no two requests share a prompt, and no block does either."""
    assert draw(8) == draw(8)
    assert draw(8) != draw(8, request="other")
    assert draw(8, request="a") != draw(8, "a")
    assert draw(12, "a")[:8] == draw(8, "a")
    assert draw(12, "a")[8:] != draw(12, "a", request="other")[8:]


def test_tokens_are_the_same_everywhere() -> None:
    """The stream is a constant: prompts are equal on every machine and version."""
    assert [316310, 6478, 138099, 631019] == draw(4, "a")


def test_tokens_are_uniform() -> None:
    """Each token id is about equally frequent (chi-square at a loose level)."""
    blocks = TokenBlocks(length_tokens=40_000)
    tokens = token_blocks(blocks, request_id="r", low=0, high=100)
    chi_square = float(((np.bincount(tokens, minlength=100) - 400) ** 2 / 400).sum())

    assert 50 < chi_square < 160


def test_impossible_blocks() -> None:
    """More ids than blocks, or an empty range, is a fault of the caller."""
    with pytest.raises(ValueError, match="more block ids"):
        draw(8, "a", "b")
    with pytest.raises(ValueError, match="low < high"):
        token_blocks(TokenBlocks(length_tokens=1), request_id="r", low=5, high=5)


def test_stable_numbers() -> None:
    """Derived numbers depend on each name and its place, and stay in range."""
    assert stable_seed("a", "bc") != stable_seed("ab", "c")
    assert stable_seed(1) != stable_seed("1")
    assert 0 <= stable_seed("x") < 2**63
    assert all(0 <= stable_uniform(n) < 1 for n in range(100))
    assert abs(sum(stable_uniform(n) for n in range(1000)) / 1000 - 0.5) < 0.05


def test_arms_come_in_each_order_equally_often():
    """What a seed says of three arms is any of six orders."""
    found = Counter("".join(permuted("abc", stable_seed(n))) for n in range(6000))

    assert set(found) == {"abc", "acb", "bac", "bca", "cab", "cba"}
    assert all(900 < count < 1100 for count in found.values())
