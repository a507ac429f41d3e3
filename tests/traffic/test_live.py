"""Live traffic: what a spool gets, a few seconds later, in order, each once."""

import json
from pathlib import Path

import pytest

from canary.errors import TrafficError
from canary.testing import FakeClock
from canary.traffic.live import DELAY_S, LiveFeed, LiveTraffic
from canary.traffic.request import Request
from canary.traffic.rows import RowError
from canary.traffic.shard import Shard
from canary.traffic.spool import SpoolTail, recorded

BEGAN = 1_764_000_000.0


def line(name: str, at_s: float, **more: object) -> str:
    row = {
        "schema": "canary.ingress/1",
        "id": name,
        "arrived_unix_s": BEGAN + at_s,
        "kind": "chat",
        "session": None,
        "prompt_tokens": 100,
        "prompt_tokens_from": "characters",
        "body_bytes": 400,
        "max_tokens": None,
        "capture": "lengths",
        "weight": 1.0,
    }
    return json.dumps(row | more) + "\n"


class Spool:
    """A folder that an ingress writes to, and a clock."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = FakeClock(1000.0)

    def write(self, *lines: str, file: str = "requests-a.jsonl") -> None:
        """Append to a file, as an ingress does."""
        with (self.root / file).open("a") as out:
            out.write("".join(lines))

    def feed(
        self,
        *,
        questions: tuple[Request, ...] = (),
        shares: tuple[float, ...] | None = None,
        shard: Shard | None = None,
        **more: object,
    ) -> LiveFeed:
        """Follow it."""
        traffic = LiveTraffic(
            source=str(self.root),
            questions=questions,
            questions_for_s=100.0,
            boundaries=(1000,),
            shares=shares,
            max_output_tokens=16,
            seed=3,
            shard=shard,
        )
        return LiveFeed(
            traffic,
            began_unix_s=BEGAN,
            clock=self.clock,
            wall_clock=lambda: BEGAN + self.clock() - 1000.0,
            **more,
        )

    def after(self, seconds: float, feed: LiveFeed) -> list[tuple[str, float]]:
        """What the feed gives by then."""
        self.clock.sleep(seconds)
        found = []
        while due := feed.next(float("inf")):
            found.append((due.request.request_id, due.request.arrival_s))
        return found


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path)


def test_requests_come_at_their_distances_a_delay_later(spool: Spool) -> None:
    """Each is due a fixed time after it came; half of it is for slow writers."""
    feed = spool.feed()
    spool.write(line("a", 0.5), line("b", 2.0))

    assert [("a", 0.5 + DELAY_S)] == spool.after(DELAY_S / 2 + 1, feed)
    assert [("b", 2.0 + DELAY_S)] == spool.after(1, feed)
    assert (False, None) == (feed.over, feed.planned)


def test_shards_of_live_traffic_are_the_whole_taken_apart(spool: Spool) -> None:
    """Each session goes to one of them, and what is skipped is counted by one."""
    whole = spool.feed()
    feeds = [spool.feed(shard=Shard(number, 3)) for number in (1, 2, 3)]
    names = [f"r{n}" for n in range(60)]
    spool.write(
        *[line(name, 0.1, session=f"s{n // 4}") for n, name in enumerate(names)]
    )

    sent = [{name for name, _ in spool.after(9, feed)} for feed in (whole, *feeds)]
    spool.write(*[line(f"late{n}", 9.5) for n in range(9)])
    spool.clock.sleep(60)
    for feed in feeds:
        feed.skip()

    assert set(names) == sent[0] == set().union(*sent[1:])
    assert 60 == sum(map(len, sent[1:]))
    places = [{int(name[1:]) // 4 for name in some} for some in sent[1:]]
    assert 15 == sum(map(len, places))
    assert 9 == sum(feed.skipped for feed in feeds)


def test_files_that_grow_side_by_side_come_in_order(spool: Spool) -> None:
    """Two ingresses write two files; a new file is found when it is there."""
    feed = spool.feed()
    spool.write(line("a", 0.1), line("c", 0.3))
    spool.write(line("b", 0.2), file="requests-b.jsonl")

    assert ["a", "b", "c"] == [name for name, _ in spool.after(9, feed)]
    spool.write(line("d", 10.0), file="requests-c.jsonl")
    assert ["d"] == [name for name, _ in spool.after(9, feed)]


def test_half_a_line_waits_for_its_end(spool: Spool) -> None:
    """What is being written is not read before it is whole."""
    feed = spool.feed()
    text = line("a", 0.1)
    spool.write(text[:30])
    assert [] == spool.after(9, feed)

    spool.write(text[30:])
    assert ["a"] == [name for name, _ in spool.after(1, feed)]


def test_what_came_before_the_run_is_history(spool: Spool) -> None:
    """A recording of last week isn't sent in a burst."""
    spool.write(line("old", -100.0), line("fresh", -1.0))
    feed = spool.feed()

    assert [("fresh", DELAY_S - 1.0)] == spool.after(9, feed)
    assert {"skipped": 0, "bad_lines": 0, "repeated": 0} == feed.counts({})


def test_what_came_during_a_pause_is_skipped_and_counted(spool: Spool) -> None:
    """A run that goes on never catches up, and says what it left out."""
    spool.write(line("a", 1.0), line("b", 50.0), line("c", 99.0))
    spool.clock.sleep(100.0)
    feed = spool.feed(first=1, until_s=1.0 + DELAY_S, asked=frozenset())

    spool.write(line("d", 100.5))
    assert ["c", "d"] == [name for name, _ in spool.after(9, feed)]
    assert {"skipped": 3, "bad_lines": 0, "repeated": 0} == feed.counts({"skipped": 2})


def test_lines_that_are_none_are_counted(spool: Spool) -> None:
    """A line that can't be read stops nothing, and isn't forgotten."""
    feed = spool.feed()
    spool.write("{}\n", "nonsense\n", line("a", 0.1), line("b", 0.2, prompt_tokens=0))

    assert ["a"] == [name for name, _ in spool.after(9, feed)]
    assert 3 == feed.bad_lines


def test_two_mirrors_of_one_request_are_one(spool: Spool) -> None:
    """A request that comes twice is sent once."""
    feed = spool.feed()
    spool.write(line("a", 0.1), line("b", 0.2))
    spool.write(line("a", 0.15), file="requests-b.jsonl")

    assert ["a", "b"] == [name for name, _ in spool.after(9, feed)]
    assert 1 == feed.repeated


def test_a_line_that_comes_late_is_sent_in_the_order_of_evidence(spool: Spool) -> None:
    """What is written down after its turn arrives when the last one did."""
    feed = spool.feed()
    spool.write(line("a", 5.0))
    spool.after(9, feed)

    spool.write(line("late", 1.0))
    assert [("late", 5.0 + DELAY_S)] == spool.after(9, feed)


def test_sessions_are_sampled_per_regime_and_weighted(spool: Spool) -> None:
    """A tenth of the short ones, each for ten; all long ones; sessions stick."""
    feed = spool.feed(shares=(0.1, 1.0))
    rows = [
        line(f"r{n}", n / 1000, session=f"s{n % 400}", prompt_tokens=100)
        for n in range(800)
    ]
    spool.write(*rows, line("long", 0.9, prompt_tokens=5000, weight=2.0))
    spool.clock.sleep(9)
    given = []
    while due := feed.next(float("inf")):
        given.append(due.request)

    short = [r for r in given if r.request_id != "long"]
    assert {10.0} == {r.weight for r in short}
    assert 2 * len({r.session_id for r in short}) == len(short)
    assert 20 < len({r.session_id for r in short}) < 65
    assert [2.0] == [r.weight for r in given if r.request_id == "long"]


def test_lengths_become_prompts_of_that_length_and_text_stays_text(
    spool: Spool,
) -> None:
    """Without text a prompt is made up; the answer is cut to what the policy says."""
    feed = spool.feed()
    chat = [{"role": "user", "content": "zwölf"}]
    spool.write(
        line("a", 0.1, max_tokens=4),
        line("b", 0.2, capture="full", messages=chat, max_tokens=400),
        line("c", 0.3, capture="redacted", prompt="hello"),
    )
    spool.clock.sleep(9)
    a, b, c = (feed.next(float("inf")).request for _ in range(3))

    assert ("latency", 100, 4) == (a.kind, a.blocks.length_tokens, a.max_output_tokens)
    assert ("live", chat, 16) == (b.kind, json.loads(b.messages), b.max_output_tokens)
    assert ("live", "hello", None) == (c.kind, c.text, c.blocks)


def test_questions_are_mixed_in_and_asked_once(spool: Spool) -> None:
    """They are spread over the time asked for; after a pause the rest begins then."""
    questions = tuple(
        Request(
            request_id=f"q{n}",
            kind="quality",
            arrival_s=0.0,
            max_output_tokens=3,
            text="?",
            target=("a",),
        )
        for n in range(20)
    )
    feed = spool.feed(questions=questions)
    given = spool.after(200, feed)

    assert [q.request_id for q in questions] == [name for name, _ in given]
    assert DELAY_S < given[0][1] < given[-1][1] < DELAY_S + 100
    asked = frozenset(name for name, _ in given[:15])
    again = spool.feed(questions=questions, first=15, until_s=60.0, asked=asked)
    rest = [each for _ in range(100) for each in spool.after(1, again)]
    late_s = rest[0][1] - given[15][1]
    assert late_s > 0
    assert [(name, pytest.approx(at_s + late_s)) for name, at_s in given[15:]] == rest


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    """It says how to begin."""
    with pytest.raises(TrafficError, match="start `canary ingress --spool"):
        SpoolTail(str(tmp_path / "none"))


def test_a_spool_that_goes_away_is_one_sentence(spool: Spool) -> None:
    """A file that can't be read any more stops the run in order."""
    feed = spool.feed()
    spool.write(line("a", 0.1))
    (spool.root / "requests-z.jsonl").mkdir()

    # A folder of that name has a size, but nothing to read.
    with pytest.raises(TrafficError, match="can't be read"):
        spool.after(9, feed)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"id": ""}, "id is not text"),
        ({"arrived_unix_s": "now"}, "arrived_unix_s is not a number"),
        ({"arrived_unix_s": -1}, "arrived_unix_s is negative"),
        ({"prompt_tokens": True}, "prompt_tokens is not a whole number"),
        ({"max_tokens": 0}, "max_tokens is zero"),
        ({"messages": "x", "capture": "full"}, "messages is not a list"),
        ({"schema": "canary.ingress/2"}, "schema is not canary.ingress/1"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(
    change: dict[str, object], told: str
) -> None:
    """Each field has its own sentence."""
    with pytest.raises(RowError, match=told):
        recorded(line("a", 0.0, **change).encode())
