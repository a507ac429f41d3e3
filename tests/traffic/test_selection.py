"""What of a trace is sent: samples, crops, rates, ticks and rounds, sessions whole."""

from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from canary.errors import TrafficError
from canary.traffic.formats import Trace, TraceRow, read_trace
from canary.traffic.plan import make_plan, with_speed
from canary.traffic.request import Plan
from canary.traffic.seeds import token_blocks
from canary.traffic.selection import Selection
from canary.traffic.validation import ValidationItem

REPLAY = Path(__file__).parents[2] / "replay"
MOONCAKE = read_trace(REPLAY / "mooncake-conversation.jsonl.gz")
REGIMES = (8192, 32768)


def trace_of(*rows: TraceRow) -> Trace:
    return Trace(path="t.csv", sha256="", format="azure", rows=rows)


def row(index: int, at_s: float, prompt: int = 10, **more: object) -> TraceRow:
    return TraceRow(
        **{
            "index": index,
            "arrival_s": at_s,
            "prompt_tokens": prompt,
            "output_tokens": 5,
            **more,
        }
    )


def sessions(count: int, turns: int, every_s: float = 1.0) -> Trace:
    """Sessions that begin one after the other, each turn 100 tokens longer."""
    rows = [
        row(0, s * every_s + t * 0.4, 100 * (t + 1), session_id=f"s{s}", turn=t)
        for s in range(count)
        for t in range(turns)
    ]
    rows.sort(key=lambda one: one.arrival_s)
    return trace_of(*(replace(one, index=i) for i, one in enumerate(rows)))


def turns_of(plan: Plan) -> dict[str, int]:
    return Counter(r.session_id for r in plan.requests if r.session_id)


def test_a_sample_keeps_sessions_whole_and_says_what_each_stands_for() -> None:
    """A tenth of the sessions, with all turns, each with a weight of ten."""
    chosen = Selection(regimes=(250,), shares=(0.1, 0.1))
    plan = make_plan(sessions(2000, 3), [], chosen, seed=1)

    assert {3} == set(turns_of(plan).values())
    assert 160 < len(turns_of(plan)) < 240
    assert {10.0} == {r.weight for r in plan.requests}
    assert plan.sha256 == make_plan(sessions(2000, 3), [], chosen, seed=1).sha256
    assert turns_of(plan) != turns_of(make_plan(sessions(2000, 3), [], chosen, seed=2))


def test_a_session_counts_in_its_most_wanted_regime() -> None:
    """What has one long turn is kept as long prompts are, short turns and all."""
    long = Selection(regimes=(250,), shares=(0.0, 1.0))
    mixed = [row(0, 0, 10, session_id="a"), row(1, 1, 900, session_id="a", turn=1)]
    plan = make_plan(trace_of(*mixed, row(2, 2, 10)), [], long, seed=1)

    assert {"a": 2} == turns_of(plan)
    assert "1 not sampled (33.3%)" in plan.notes[0]


def test_weights_make_up_for_unequal_shares() -> None:
    """Weighted counts of a stratified sample are those of the trace, within 3 sigma."""
    chosen = Selection(regimes=REGIMES, shares=(0.1, 0.5, 1.0))
    plan = make_plan(MOONCAKE, [], chosen, seed=4)
    for low, high in ((0, 8192), (8192, 32768), (32768, 10**9)):
        recorded = sum(low <= r.prompt_tokens < high for r in MOONCAKE.rows)
        weighted = sum(
            r.weight for r in plan.requests if low <= r.blocks.length_tokens < high
        )
        assert abs(weighted - recorded) <= 3 * (9 * recorded) ** 0.5


def test_a_crop_keeps_sessions_that_begin_in_it() -> None:
    """From 10 s for 5 s: five sessions, the last with its turns after the end."""
    chosen = Selection(crop_from_s=10.0, crop_for_s=5.0)
    plan = make_plan(sessions(40, 4), [], chosen, seed=1)

    assert {f"s{n}": 4 for n in range(10, 15)} == turns_of(plan)
    assert "starts with the row at 10.0 s, the first that is used" in plan.notes


def test_a_rate_thins_sessions_to_what_was_asked() -> None:
    """Three requests a second instead of 10 leave about 30 % of the sessions, whole."""
    trace = sessions(3000, 2, every_s=0.2)
    plan = make_plan(trace, [], Selection(rate_rps=3.0), seed=1)

    assert {2} == set(turns_of(plan).values())
    assert 0.27 < len(turns_of(plan)) / 3000 < 0.33
    assert "to come to 3 requests/s" in plan.notes[0]


def test_a_rate_counts_at_the_speed_at_which_is_sent() -> None:
    """At half the speed, twice the share of the recorded rate is kept."""
    trace = sessions(3000, 1, every_s=0.1)
    slow = make_plan(trace, [], Selection(rate_rps=3.0), speed=0.5, seed=1)

    assert 0.57 < len(slow.requests) / 3000 < 0.63


def test_a_rate_that_the_trace_lacks_is_refused() -> None:
    """Leaving out makes no more of it; the speed that does is said."""
    with pytest.raises(TrafficError, match=r"less than the 30 of .* write speed: 3x"):
        make_plan(sessions(1000, 1, every_s=0.1), [], Selection(rate_rps=30), seed=1)


def test_ticks_are_spread_and_sessions_keep_their_order() -> None:
    """Three-second stamps of Mooncake become distinct times within their ticks."""
    plan = make_plan(MOONCAKE, [], Selection(tick_spread_s="auto"), seed=1)
    raw = {f"mooncake-{r.index:06d}": r.arrival_s for r in MOONCAKE.rows}
    zero_s = min(
        raw[r.request_id] - r.arrival_s for r in plan.requests
    )  # the first one's shift
    moved = [r.arrival_s + -zero_s - raw[r.request_id] for r in plan.requests]

    assert "arrivals are spread at random over ticks of 3 s" in plan.notes
    assert len({r.arrival_s for r in plan.requests}) == len(plan.requests)
    assert max(moved) - min(moved) < 3.0
    assert 0.45 < sum(m - min(moved) for m in moved) / len(moved) / 3 < 0.55


def test_turns_of_a_tick_stay_in_order() -> None:
    """Two turns with one stamp move together."""
    rows = [row(i, 0.0, session_id=f"s{i // 2}", turn=i % 2) for i in range(40)]
    rows += [row(40 + i, 3.0, session_id=f"t{i}") for i in range(3)]
    plan = make_plan(trace_of(*rows), [], Selection(tick_spread_s=3.0), seed=1)
    seen = defaultdict(list)
    for request in plan.requests:
        seen[request.session_id].append(request.turn)

    assert all(turns == sorted(turns) for turns in seen.values())


def test_what_is_spread_already_is_left_alone() -> None:
    """`auto` moves nothing where the stamps are fine."""
    trace = sessions(50, 1)
    plain = make_plan(trace, [], seed=1)

    spread = make_plan(trace, [], Selection(tick_spread_s="auto"), seed=1)
    assert [r.arrival_s for r in plain.requests] == [
        r.arrival_s for r in spread.requests
    ]


def test_a_trace_begins_again_until_the_end() -> None:
    """Each round has ids, sessions and prompts of its own, a mean gap later."""
    chosen = Selection(loop_for_s=25.0)
    plan = make_plan(sessions(10, 1), [], chosen, seed=1)

    assert [float(n) for n in range(26)] == [r.arrival_s for r in plan.requests]
    assert ["azure-000009", "azure-000000~1"] == [
        r.request_id for r in plan.requests[9:11]
    ]
    assert "s0~1" == plan.requests[10].session_id
    first, again = plan.requests[0], plan.requests[10]
    tokens = [
        token_blocks(r.blocks, request_id=r.request_id, low=0, high=1000)
        for r in (first, again)
    ]
    assert list(tokens[0]) != list(tokens[1])
    assert "begins again at its end, 3 rounds in all" in plan.notes


def test_text_that_is_sent_again_is_said() -> None:
    """Made-up prompts are new in each round; recorded text can't be."""
    rows = [row(n, float(n), text=f"say {n}") for n in range(3)]
    again = make_plan(trace_of(*rows), [], Selection(loop_for_s=9.0), seed=1)
    once = make_plan(trace_of(*rows), [], seed=1)

    told = "recorded text is the same in every round"
    assert [True, False] == [any(told in n for n in p.notes) for p in (again, once)]


def test_faster_means_more_rounds() -> None:
    """Rounds fill the run's time, whatever the speed."""
    plan = make_plan(sessions(10, 1), [], Selection(loop_for_s=25.0), seed=1)

    assert 51 == len(with_speed(plan, 2).requests)
    assert 25.0 == with_speed(plan, 2).requests[-1].arrival_s


def test_questions_come_while_nothing_can_be_promoted_yet() -> None:
    """In a loop they are mixed into the least duration, not into a whole week."""
    items = [
        ValidationItem(id=f"q{n}", input="ask", target=("a",), task="t")
        for n in range(50)
    ]
    chosen = Selection(loop_for_s=1000.0, items_for_s=40.0)
    plan = make_plan(sessions(10, 1), items, chosen, seed=1)

    assert 50 == len(plan.questions)
    assert 30 < max(r.arrival_s for r in plan.questions) <= 40.0


def test_speed_shortens_the_time_to_think() -> None:
    """A session at twice the speed is half as long, thinking included."""
    trace = trace_of(
        row(0, 0, session_id="a"), row(1, 0, session_id="a", turn=1, think_s=3.0)
    )
    plan = make_plan(trace, [], speed=2, seed=1)

    assert [0.0, 1.5] == [r.think_s for r in plan.requests]
    assert 3.0 == with_speed(plan, 1).requests[1].think_s


def test_a_moment_can_not_loop() -> None:
    """A trace without duration has no second round."""
    with pytest.raises(TrafficError, match="arrives at the same moment"):
        make_plan(trace_of(row(0, 0)), [], Selection(loop_for_s=9.0), seed=1)


def test_unknown_outputs_need_a_length() -> None:
    """A request without a recorded answer asks for max_output_tokens, and takes it."""
    trace = trace_of(row(0, 0, output_tokens=None), row(1, 1))

    with pytest.raises(TrafficError, match="row 1 doesn't say how long"):
        make_plan(trace, [], seed=1)
    plan = make_plan(trace, [], Selection(max_output_tokens=7), seed=1)
    assert [7, 5] == [r.max_output_tokens for r in plan.requests]


def test_recorded_text_is_sent_as_it_is_and_never_scored() -> None:
    """Text and chats become live requests, whose answers end by themselves."""
    chat = '[{"role":"user","content":"hi"}]'
    trace = trace_of(row(0, 0, text="hello"), row(1, 1, messages=chat), row(2, 2))
    plan = make_plan(trace, [], seed=1)

    assert ["live", "live", "latency"] == [r.kind for r in plan.requests]
    assert [("hello", None), (None, chat), (None, None)] == [
        (r.text, r.messages) for r in plan.requests
    ]
    assert [True, True, False] == [r.blocks is None for r in plan.requests]


@pytest.mark.parametrize(
    "chosen",
    [
        Selection(max_output_tokens=3),
        Selection(loop_for_s=100.0),
        Selection(regimes=(50,), shares=(0.5, 0.5)),
        Selection(tick_spread_s=3.0),
        Selection(requests=5),
    ],
    ids=["cut", "loop", "sample", "ticks", "first"],
)
def test_the_hash_covers_what_is_chosen(chosen: Selection) -> None:
    """Any choice that changes what is sent changes the plan's hash."""
    trace = sessions(20, 2)

    assert make_plan(trace, [], seed=1).sha256 != (
        make_plan(trace, [], chosen, seed=1).sha256
    )


def test_the_plan_of_a_week_is_small() -> None:
    """A million requests take no objects until they are asked for."""
    plan = make_plan(MOONCAKE, [], Selection(loop_for_s=7 * 86400.0), seed=1)

    assert 1_980_000 < len(plan.requests) < 1_985_000
    last = plan.requests[-1]
    assert (True, last) == (last.request_id.endswith("~252"), plan.requests[-1])
