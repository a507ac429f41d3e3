import math

import numpy as np
import pytest

from canary.evidence.blocks import SessionBlocks, block_of

LENGTHS = [0.1, 0.3, 1 / 3, 0.7, 60.0]


def _around(boundaries: np.ndarray) -> np.ndarray:
    """Boundaries and the floats next to them."""
    below, above = (np.nextafter(boundaries, end) for end in (0, math.inf))
    return np.concatenate([below, boundaries, above])


def _blocks(sessions: SessionBlocks, *requests: tuple[float, str]) -> list[int]:
    arrived, names = zip(*requests, strict=True)
    return sessions.blocks(np.array(arrived), np.array(names, object)).tolist()


@pytest.mark.parametrize("length", LENGTHS)
def test_every_arrival_is_inside_its_block(length: float) -> None:
    """At and next to many boundaries, block k is from k l on to before (k + 1) l."""
    arrived = _around(length * np.arange(1, 50_000))
    blocks = block_of(arrived, length)

    assert np.all((length * blocks <= arrived) & (arrived < length * (blocks + 1)))


@pytest.mark.parametrize("length", LENGTHS)
def test_a_boundary_begins_its_block(length: float) -> None:
    """The product k l is in block k, however it is rounded."""
    k = np.arange(50_000)

    assert np.array_equal(k, block_of(length * k, length))


def test_a_session_stays_in_the_block_of_its_first_request() -> None:
    """Later requests count where the session began, until that block's deadline."""
    sessions = SessionBlocks(length_s=1.0, linger_s=2.0)

    assert [0, 0, 0] == _blocks(sessions, (0.5, "a"), (1.5, "a"), (2.9, "a"))


def test_after_the_deadline_a_session_begins_anew() -> None:
    """From the deadline on requests count in the block of their own arrival."""
    sessions = SessionBlocks(length_s=1.0, linger_s=2.0)

    assert [0, 3, 3] == _blocks(sessions, (0.5, "a"), (3.0, "a"), (5.9, "a"))


def test_without_a_session_each_request_has_its_own_block() -> None:
    """The empty text is no session."""
    sessions = SessionBlocks(length_s=1.0, linger_s=2.0)

    assert [0, 1, 2] == _blocks(sessions, (0.5, ""), (1.5, ""), (2.5, ""))


def test_sessions_do_not_mix() -> None:
    """Each session has a block of its own beginning."""
    sessions = SessionBlocks(length_s=1.0, linger_s=2.0)
    requests = [(0.5, "a"), (1.5, "b"), (1.6, "a"), (2.5, "b"), (2.6, "")]

    assert [0, 1, 0, 1, 2] == _blocks(sessions, *requests)


def _arrivals(seed: int, n: int = 500) -> list[tuple[float, str]]:
    generator = np.random.default_rng(seed)
    arrived = np.sort(generator.uniform(0, 50, n)).tolist()
    return list(
        zip(arrived, generator.choice(["", "a", "b", "c"], n).tolist(), strict=True)
    )


@pytest.mark.parametrize("size", [1, 7, 100])
def test_sessions_last_from_call_to_call(size: int) -> None:
    """How requests are cut up changes no block."""
    requests = _arrivals(1)
    whole, pieces = (SessionBlocks(length_s=1.0, linger_s=2.0) for _ in range(2))
    found = [
        block
        for begin in range(0, len(requests), size)
        for block in _blocks(pieces, *requests[begin : begin + size])
    ]

    assert _blocks(whole, *requests) == found


def test_many_sessions_are_forgotten_after_their_deadline_only() -> None:
    """Of very many sessions those that are still open keep their block."""
    sessions = SessionBlocks(length_s=1.0, linger_s=2.0)
    passed = [(0.0, f"passed {index}") for index in range(20_001)]
    _blocks(sessions, *passed, (2.5, "open"), (3.5, "now"))

    assert [2, 3] == _blocks(sessions, (4.5, "open"), (4.6, "now"))
    assert len(sessions._anchors) == 2


@pytest.mark.parametrize(
    ("now", "expected"), [(0.0, 0), (2.9, 0), (3.0, 1), (3.9, 1), (4.0, 2)]
)
def test_a_block_closes_at_its_deadline(now: float, expected: int) -> None:
    """As many blocks have closed as ended at least the linger ago."""
    assert expected == SessionBlocks(length_s=1.0, linger_s=2.0).closed(now)


@pytest.mark.parametrize("length", [0.1, 0.7, 60.0])
@pytest.mark.parametrize("linger", [0.3, 0.1, 90.1])
def test_nothing_joins_a_block_that_has_closed(length: float, linger: float) -> None:
    """A request just before, at or after a deadline counts in an open block."""
    late = []
    for block in range(300):
        deadline = np.array([length * (block + 1) + linger])
        for now in _around(deadline).tolist():
            sessions = SessionBlocks(length_s=length, linger_s=linger)
            _, found = _blocks(sessions, (length * block, "a"), (now, "a"))
            if found < sessions.closed(now):
                late.append((block, now))

    assert [] == late


@pytest.mark.parametrize(("length", "linger"), [(0.1, 0.3), (0.7, 0.3), (60.0, 90.1)])
def test_a_block_has_closed_from_its_deadline_on(length: float, linger: float) -> None:
    """Not one float before the deadline, however sums are rounded."""
    sessions = SessionBlocks(length_s=length, linger_s=linger)
    deadlines = [length * (block + 1) + linger for block in range(300)]
    before = [sessions.closed(np.nextafter(time, 0)) for time in deadlines]
    after = [sessions.closed(time) for time in deadlines]

    assert (list(range(300)), list(range(1, 301))) == (before, after)
