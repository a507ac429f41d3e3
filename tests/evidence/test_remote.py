"""Run folders at URLs: what an object store can do is enough, also when it fails."""

import os
import time
from concurrent.futures import wait
from contextlib import suppress

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from canary.errors import StorageError, UsageError
from canary.evidence.folder import RunFolder
from canary.evidence.journal import Journal, read_segments
from canary.evidence.lease import LEASE_S, Lease
from canary.evidence.remote import RemotePath, located
from canary.orders import Orders, ask_to_stop, stop_file
from canary.overrides import _LOG, Override, read_overrides
from canary.testing import FakeClock, observe

COUNT = 220  # 74 commits: 64 of them become one segment
SECRET = "hunter2"  # noqa: S105 - of nobody


class Flaky(MemoryFileSystem):
    """Lets each k-th request fail, every other time after it was done."""

    cachable = False

    def __init__(self, each, error):
        super().__init__()
        self._each, self._error, self._calls = each, error, 0

    def _failing(self, do):
        self._calls += 1
        fails = self._calls % self._each == 0
        done = None
        if not fails or self._calls // self._each % 2:
            done = do()
        if fails:
            raise self._error
        return done

    def pipe_file(self, path, value, mode="overwrite", **_):
        """Put an object, or not."""
        return self._failing(
            lambda: MemoryFileSystem.pipe_file(self, path, value, mode)
        )

    def rm_file(self, path):
        """Remove an object, or not."""
        return self._failing(lambda: MemoryFileSystem.rm_file(self, path))

    def cat_file(self, path, *_, **__):
        """Read an object, or not."""
        return self._failing(lambda: MemoryFileSystem.cat_file(self, path))


@pytest.fixture(autouse=True)
def empty_store():
    """Memory that holds nothing from another test."""
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def folder():
    folder = RunFolder.at("memory://bucket/runs/one")
    folder.create()
    return folder


def through(folder, *, each, error):
    """Return the same folder as somebody sees it whose store fails."""
    root = folder.root
    return RunFolder(RemotePath(root.url, Flaky(each, error), root._key))


def record(folder, *, first=0, until=COUNT, lease=None):
    """Append rows as a run does, and send nothing while nothing can be written."""
    clock = FakeClock()
    renew = (lambda: None) if lease is None else lease.renew
    journal = Journal(folder, clock=clock, every_s=3.0, before_commit=renew)
    troubles = []
    for second in range(first, until):
        journal.append(observe(arm="a", arrived_s=[second], request_id=f"r{second}"))
        settle(journal)
        clock.sleep(1.0)
        while journal.trouble is not None:
            troubles.append(journal.trouble)
            clock.sleep(1.0)
            journal.commit_if_due()
            settle(journal)
    journal.commit()
    while journal.trouble is not None:
        clock.sleep(1.0)
        journal.commit()
    return troubles


def settle(journal):
    """Let what is written beside the loop be written before time goes on."""
    if journal._beside is not None:
        wait([journal._beside])


def requests_of(folder):
    return read_segments(folder)["request_id"].to_pylist()


EXPECTED = [f"r{second}" for second in range(COUNT)]


def test_what_is_committed_at_a_url_is_read_back(folder, tmp_path):
    """Also by the next runner, and from a copy on this machine, which may go on."""
    record(folder, until=100)
    record(folder, first=100, until=150)
    assert EXPECTED[:150] == requests_of(folder)

    fsspec.filesystem("memory").get(
        "/bucket/runs/one", str(tmp_path / "one"), recursive=True
    )
    copy = RunFolder(tmp_path / "one")
    assert EXPECTED[:150] == requests_of(copy)
    record(copy, first=150)

    assert EXPECTED == requests_of(copy)
    assert ["manifest.json"] == [p.name for p in copy.observations.glob("man*")]


def test_small_segments_become_one(folder):
    """What is merged is listed once, and its parts and old manifests are gone."""
    for number in range(66):
        record(folder, first=number, until=number + 1)

    names = sorted(path.name for path in folder.observations.glob("*"))
    assert names == [
        "began",
        "manifest-000066-000003.json",
        "part-000000-000063.parquet",
        "part-000064.parquet",
        "part-000065.parquet",
    ]
    assert EXPECTED[:66] == requests_of(folder)


@pytest.mark.parametrize("each", [5, 7, 11])
def test_a_store_that_fails_now_and_then_loses_nothing(folder, each):
    """Whatever fails, before or after it happened: each row is kept once.

    A commit is four or five requests: were each third to fail, none would be complete.
    """
    error = OSError(503, f"Slow Down: https://host/x?X-Amz-Signature={SECRET}")
    record(folder, until=1)

    flaky = through(folder, each=each, error=error)
    lease = Lease(flaky, wall_clock=FakeClock(), boot_clock=FakeClock())
    with suppress(StorageError):  # it may count all the same, or be asked for again
        lease.take()
    troubles = record(flaky, first=1, lease=lease)

    assert {"Slow Down: https://host/x"} == set(troubles)
    assert EXPECTED == requests_of(folder)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError("Forbidden"), "access is denied"),
        (TimeoutError(), "it doesn't answer in time"),
        (FileNotFoundError("NoSuchBucket"), "there is no such bucket"),
        (RuntimeError("No credentials"), "No credentials"),
        (OSError(f"at https://h/?X-Amz-Signature={SECRET} 503"), "503"),
    ],
)
def test_whatever_a_store_raises_is_trouble_in_words(folder, error, reason):
    """As a full disk it is waited out, and nothing that signs a request is told."""
    broken = through(folder, each=1, error=error)
    journal = Journal(broken, clock=FakeClock())
    journal.append(observe(arm="a", arrived_s=[0.0]))

    journal.commit()

    assert reason in journal.trouble
    assert SECRET not in journal.trouble
    with pytest.raises(StorageError, match="canary resume memory://bucket/runs/one"):
        journal.close()


def test_a_segment_of_another_runner_is_never_replaced(folder):
    """Two that write the same number: the second stops, and its rows are not kept."""
    first, second = (Journal(folder, clock=FakeClock()) for _ in range(2))
    first.append(observe(arm="a", arrived_s=[0.0]))
    second.append(observe(arm="b", arrived_s=[0.0]))
    first.commit()

    with pytest.raises(UsageError, match="another runner wrote it"):
        second.commit()

    assert ["a"] == read_segments(folder)["arm"].to_pylist()


def leases(folder):
    clock = FakeClock(1000.0)
    return clock, *(Lease(folder, wall_clock=clock, boot_clock=clock) for _ in range(2))


def test_one_runner_at_a_time(folder):
    """A living lease keeps others out, letting go makes room, and readers see which."""
    clock, mine, yours = leases(folder)
    mine.take()
    for _ in range(5):
        clock.sleep(LEASE_S / 2)
        mine.renew()

    with pytest.raises(UsageError, match="is running it"):
        yours.take()
    assert yours.is_taken()
    mine.release()
    assert not mine.is_taken()
    yours.take()
    assert 1 == len(list(folder.root.glob("lease-*.json")))


def test_a_runner_that_slept_is_fenced_off(folder):
    """It finds out before it writes, although what it wakes up to is long gone."""
    clock, mine, yours = leases(folder)
    mine.take()
    with mine._place.alone():  # it has read its own lease, and falls asleep
        mine._read()
    clock.sleep(LEASE_S + 1)
    yours.take()
    for _ in range(3):
        clock.sleep(LEASE_S / 2)
        yours.renew()

    with pytest.raises(UsageError, match="another runner has taken this run over"):
        mine._write()
    yours.renew()
    with pytest.raises(UsageError, match="another runner has taken this run over"):
        mine.renew()


def test_a_manifest_that_comes_too_late_never_counts(folder):
    """What an old runner had under way lands when the new one has gone on."""
    record(folder, until=9)
    old = {p.name: p.read_bytes() for p in folder.observations.glob("manifest-*")}
    record(folder, first=9, until=30)
    for name, content in old.items():
        (folder.observations / name).put(content)

    assert EXPECTED[:30] == requests_of(folder)
    record(folder, first=30)
    assert EXPECTED == requests_of(folder)


def test_one_run_begins_at_a_url(folder):
    """Of two that begin at once, one is told."""
    with pytest.raises(UsageError, match="already exists and is not empty"):
        folder.create()
    with pytest.raises(UsageError, match="another run has just begun here"):
        folder._claim(folder.observations / "began")


class Careless(MemoryFileSystem):
    """Speaks like a store, but overwrites whatever it is asked not to."""

    cachable = False

    def pipe_file(self, path, value, mode="overwrite", **_):
        """Put an object."""
        super().pipe_file(path, value, mode and "overwrite")


def test_a_store_that_overwrites_is_refused():
    """It is tried, not believed."""
    root = RemotePath("s3://bucket/run", Careless(), "/bucket/run")

    with pytest.raises(UsageError, match=r"ignores If-None-Match.*another store"):
        RunFolder(root).create()


def test_a_store_that_cannot_keep_runners_apart_is_refused():
    """Before anything is started, in a sentence that names others."""
    root = RemotePath("webdav://host/run", Careless(), "/host/run")

    with pytest.raises(UsageError, match="put the run on s3, gs, az or a local path"):
        RunFolder(root).refuse_if_used()


@pytest.mark.parametrize(
    "url", [f"s3://key:{SECRET}@bucket/run", f"az://box/run?sig={SECRET}"]
)
def test_a_url_with_credentials_is_refused(url):
    """They would be written into records and messages; this one doesn't repeat them."""
    with pytest.raises(UsageError, match="into the environment") as caught:
        located(url)
    assert SECRET not in str(caught.value)


def test_file_urls_are_local_paths(tmp_path):
    """What lies on this machine is synced and locked as ever."""
    assert tmp_path == located(f"file://{tmp_path}")
    assert not RunFolder.at(f"file://{tmp_path}").remote


def test_lines_that_are_written_down_at_a_url_all_stay(folder):
    """Each is an object; they come back in order."""
    words = ("promote", "hold", "rollback")
    for action in words:
        entry = Override(policy="p", action=action, by="me", when="now", why="so")
        _LOG.append(folder.overrides, entry)

    assert words == tuple(entry.action for entry in read_overrides(folder))


def test_a_run_at_a_url_hears_that_it_is_to_stop(folder):
    """It looks once a second, and never waits for the answer."""
    clock = FakeClock()
    orders = Orders(stop=stop_file(folder), clock=clock)
    assert not orders.stop_asked()
    ask_to_stop(folder, wall_clock=FakeClock())

    until_s = time.monotonic() + 20
    while not orders.stop_asked():
        clock.sleep(1.0)
        os.sched_yield()
        assert time.monotonic() < until_s
