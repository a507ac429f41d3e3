"""The columns that a runner's looks read, against the table that a judge reads."""

import tracemalloc
from dataclasses import fields

import numpy as np
import pytest

from canary.evidence.observation import Observation, Status, to_table
from canary.evidence.pairs import CONTROL_ARM, Pairs, Side, pair_up
from canary.evidence.store import PairStore


def rows_of(index, *, arms):
    """One request's rows, with every kind of hole that a runner leaves."""
    quality = index % 3 == 0
    failed = index % 7 == 0
    if index % 11 == 4:  # shed: sent to no arm
        return [shed(index, arm) for arm in arms]
    timed = "live" if index % 2 else "latency"
    return [
        Observation(
            request_id=f"r{index:05d}",
            arm=arm,
            arrived_s=float(index // 2),  # ties
            status=Status.ERROR if failed and arm == "b" else Status.OK,
            prompt_tokens=100 + index,
            kind="quality" if quality else timed,
            task="code" if quality else None,
            group=f"g{index // 6}" if quality else None,
            session_id=f"s{index // 4}" if index % 2 else None,
            group_items=2 if quality else None,
            score=1.0 if quality else None,
            ttft_s=None if failed else 0.1 + index / 1000,
            service_s=0.2 + index / 500,
            latency_s=None if arm == CONTROL_ARM else 0.3 + index / 400,
            send_lag_s=None if index % 2 else index / 10_000,
            peak_memory_bytes=1000 + index,
            kernel=f"kernel-{arm}",
            device="cpu",
        )
        for arm in arms
    ]


def shed(index, arm):
    return Observation(
        request_id=f"r{index:05d}",
        arm=arm,
        arrived_s=float(index // 2),
        status=Status.SHED,
        prompt_tokens=100 + index,
        kind="latency",
    )


def same(mine, theirs):
    """Whether two values of a Pairs are the same, down to NaN."""
    if isinstance(mine, Side | Pairs):
        return all(
            same(getattr(mine, f.name), getattr(theirs, f.name)) for f in fields(mine)
        )
    if isinstance(mine, np.ndarray):
        exact = mine.dtype.kind == "f"
        return mine.dtype == theirs.dtype and np.array_equal(
            mine, theirs, equal_nan=exact
        )
    return mine == theirs


def test_pairs_are_those_of_the_table():
    """A look while the run goes on sees what a judge will see, to the last bit."""
    store, recorded = PairStore(), []
    for index in range(3000):
        arms = ["a", "b", CONTROL_ARM] if index % 5 == 0 else ["b", "a"]
        rows = rows_of(index, arms=arms)
        store.append(rows)
        recorded += rows

    live = store.pairs(baseline="a", candidate="b")
    judged = pair_up(to_table(recorded), baseline="a", candidate="b")

    assert len(live) == 3000 - 273
    assert len(live.control) == 600 - 55
    assert [] == [
        f.name
        for f in fields(live)
        if not same(getattr(live, f.name), getattr(judged, f.name))
    ]


def test_what_a_run_recorded_is_taken_up_as_it_was():
    """After a pause the columns are those of a run without one, to the last bit."""
    whole, resumed, recorded = PairStore(), PairStore(), []
    for index in range(3000):
        arms = ["a", "b", CONTROL_ARM] if index % 5 == 0 else ["b", "a"]
        rows = rows_of(index, arms=arms)
        whole.append(rows)
        if index < 2000:
            recorded += rows
            continue
        if index == 2000:
            table = to_table(recorded)
            cut = 2 * 200 + 40  # where a request ends
            for part in (table.slice(0, cut), table.slice(cut)):
                resumed.take_up(part)
        resumed.append(rows)

    expected = whole.pairs(baseline="a", candidate="b")
    found = resumed.pairs(baseline="a", candidate="b")

    assert (len(whole), whole.peak_bytes()) == (len(resumed), resumed.peak_bytes())
    assert [] == [
        f.name
        for f in fields(expected)
        if not same(getattr(expected, f.name), getattr(found, f.name))
    ]


def test_an_arm_that_was_released_leaves_its_pairs():
    """Later requests without an arm change nothing about the pairs that it has."""
    store = PairStore()
    for index in range(40):
        store.append(rows_of(index, arms=["a", "b"] if index < 10 else ["a"]))

    assert len(store.pairs(baseline="a", candidate="b")) == 9
    assert store.pairs(baseline="a", candidate="b").control is None
    assert store.last_arrived_s == pytest.approx(19.0)
    assert store.peak_bytes() == {"a": 1039, "b": 1009}


def test_a_request_costs_a_few_hundred_bytes():
    """What is kept of a request doesn't grow into objects."""
    store = PairStore()
    for index in range(4096):
        store.append(rows_of(index, arms=["a", "b"]))
    tracemalloc.start()
    for index in range(4096, 8192):
        store.append(rows_of(index, arms=["a", "b"]))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    # ids, groups and sessions are text of their own here; in a run they are the plan's
    assert held / 4096 < 640


def test_what_is_forgotten_changes_no_later_pairs():
    """Pairs since a request are the same, whatever before it was forgotten; peaks, the
    number of requests and what the arms ran on stay those of all."""
    whole, short = PairStore(), PairStore()
    for index in range(3000):
        arms = ["a", "b", CONTROL_ARM] if index % 5 == 0 else ["b", "a"]
        for store in (whole, short):
            store.append(rows_of(index, arms=arms))
        if index in (999, 1999, 2499):
            short.forget(index - 99)

    expected = whole.pairs(baseline="a", candidate="b", since=2500)
    found = short.pairs(baseline="a", candidate="b", since=2500)

    assert (len(whole), whole.peak_bytes()) == (len(short), short.peak_bytes())
    assert 600 == short.kept
    assert [] == [
        f.name
        for f in fields(expected)
        if not same(getattr(expected, f.name), getattr(found, f.name))
    ]


def test_an_empty_store_may_forget():
    """Everything may be forgotten, and the last arrival is still known."""
    store = PairStore()
    store.append(rows_of(8, arms=["a", "b"]))
    store.forget(1)
    store.forget(1)

    assert (1, 0) == (len(store), store.kept)
    assert store.last_arrived_s == pytest.approx(4.0)
    assert 0 == len(store.pairs(baseline="a", candidate="b", since=1))
