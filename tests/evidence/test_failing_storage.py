"""Runs on disks that are full, read-only or failing: nothing lost, nothing twice.

A full disk and a read-only one are real ones, small and in memory, where this machine
lets tests mount them. A folder goes away as an unmounted share does. No real disk fails
every seventh time, so that one is made where Python calls the system.
"""

import errno
import os
import subprocess
from contextlib import suppress
from functools import partial

import pytest

from canary.arms.local import start_local_arms
from canary.errors import StorageError
from canary.evidence.journal import Journal, RunFolder, read_segments
from canary.policy.model import Policy
from canary.runner import Runner
from canary.testing import FakeClock, Quiet, ScriptedVariant, observe
from canary.traffic.request import Plan, Request
from canary.watches import END_OF_TRAFFIC, arms_of

COUNT = 220  # 74 commits: 64 of them become one segment
PATIENCE_S = 60.0
POLICY = Policy.model_validate(
    {
        "version": 1,
        "name": "one",
        "baseline": {"model": "reference"},
        "candidate": {
            "model": "reference",
            "attention": {"pattern": "sliding_window", "window": 256},
        },
        "traffic": {"source": "trace.csv"},
        "validation": ["items.jsonl"],
        "gates": [{"metric": "accuracy", "margin": "5%"}],
        "decision": {
            "min_duration": "1h",
            "max_duration": "7d",
            "look_every": "60s",
            "block": "request",
        },
    }
)
PLAN = Plan(
    requests=tuple(
        Request(
            request_id=f"q{index}",
            kind="quality",
            arrival_s=float(index),
            max_output_tokens=3,
            text="what is it ?",
            target=("42",),
            seed=index,
        )
        for index in range(COUNT)
    ),
    arm_orders=tuple(range(COUNT)),
    seed=0,
    sha256="",
    speed=1.0,
)


class Patient(FakeClock):
    """Somebody who notices a pause after so many seconds of it, and mends the disk."""

    def __init__(self, listener, *, after_s, mend):
        super().__init__()
        self._listener, self._after_s, self._mend = listener, after_s, mend

    def sleep(self, seconds):
        """Wait; mend what is broken once it has been for long enough."""
        super().sleep(seconds)
        if len(self._listener.pauses) == self._after_s:
            self._after_s = 0
            self._mend()


class Play:
    """One run in a folder; `serves` is the clock at each answer."""

    def __init__(self, path, *, after_s=30, mend=lambda: None, breaks=()):
        self.folder = RunFolder(path)
        self.listener = Quiet()
        self.clock = Patient(self.listener, after_s=after_s, mend=mend)
        self.served_s = []
        self.breaks = dict(breaks)

    def run(self, earlier=()):
        """Play the plan, or the rest of it."""
        if not self.folder.observations.exists():
            self.folder.create()
        arms = start_local_arms(
            arms_of([POLICY]), build=partial(self._build), clock=self.clock
        )
        runner = Runner(
            [POLICY],
            PLAN,
            arms,
            Journal(self.folder, clock=self.clock, every_s=3.0, patience_s=PATIENCE_S),
            earlier=earlier,
            clock=self.clock,
            sleep=self.clock.sleep,
            listener=self.listener,
        )
        return runner.run()

    def _build(self, spec):
        def service_s(request):
            self.served_s.append(self.clock())
            self.breaks.get((spec.attention == "dense", request.seed), int)()
            return (request.seed * 7919 % 31 + 1) / 100

        return ScriptedVariant(service_s=service_s, right=lambda r: r.seed % 9 != 0)

    @property
    def longest_gap_s(self):
        """The longest time in which nothing was sent."""
        pairs = zip(self.served_s, self.served_s[1:], strict=False)
        return max(after - before for before, after in pairs)


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """What a run on a sound disk records."""
    play = Play(tmp_path_factory.mktemp("calm") / "run")
    assert END_OF_TRAFFIC == play.run().reason
    return read_segments(play.folder)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2 MiB in memory."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this machine mounts nothing for tests: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)  # noqa: S607 - the system's


def fill(disk):
    """Leave no room on the disk."""
    with (disk / "precious").open("wb") as file, suppress(OSError):
        while True:
            os.write(file.fileno(), bytes(4096))


def remount(disk, how):
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)  # noqa: S607


def test_a_full_disk_pauses_a_run(calm, small_disk):
    """Nothing is sent while it is full; with room again the run goes on by itself."""
    play = Play(
        small_disk / "run",
        mend=(small_disk / "precious").unlink,
        breaks={(True, 100): partial(fill, small_disk)},
    )

    assert END_OF_TRAFFIC == play.run().reason

    assert {"the disk is full"} == set(play.listener.pauses)
    assert 30 <= len(play.listener.pauses) <= 33
    assert 30 <= play.longest_gap_s <= 34
    assert 1 == sum(lag_s > 0.5 for lag_s in [*play.listener.lags_s, 1])
    assert calm == read_segments(play.folder)


def test_a_read_only_disk_pauses_a_run(calm, small_disk):
    """What a kernel does to a disk that it distrusts is waited out, too."""
    play = Play(
        small_disk / "run",
        mend=partial(remount, small_disk, "rw"),
        breaks={(False, 50): partial(remount, small_disk, "ro")},
    )

    assert END_OF_TRAFFIC == play.run().reason

    assert {"the file system is read-only"} == set(play.listener.pauses)
    assert calm == read_segments(play.folder)


@pytest.fixture
def waited_too_long(tmp_path):
    """A run whose folder went away until it ended, and what it said."""
    play = Play(tmp_path / "run")
    there, away = play.folder.observations, play.folder.root / "away"
    play.breaks[True, 120] = partial(there.rename, away)
    with pytest.raises(StorageError) as caught:
        play.run()
    away.rename(there)
    return play, str(caught.value)


def test_a_run_that_waited_too_long_ends_in_order(waited_too_long):
    """After its time without writing it says in one sentence why, and what to do."""
    play, told = waited_too_long

    assert 1 == len(told.splitlines())
    assert "nothing could be written for 1 min (No such file or directory)" in told
    assert f"canary resume {play.folder.root}" in told
    assert pytest.approx(PATIENCE_S, abs=6) == len(play.listener.pauses)
    assert "interrupted" == play.listener.reason


def test_a_run_that_waited_too_long_can_be_resumed(calm, waited_too_long):
    """What it had recorded is still there, and what comes after is as on a calm day."""
    play, _ = waited_too_long
    kept = read_segments(play.folder)

    Play(play.folder.root).run(earlier=[kept])

    assert 0 < kept.num_rows < 2 * 121
    assert calm.slice(0, kept.num_rows) == kept
    assert calm == read_segments(play.folder)


class Flaky:
    """Lets each k-th sync or rename fail, every other time after it was done."""

    def __init__(self, monkeypatch, *, each):
        self._each, self._calls = each, 0
        for name in ("fsync", "replace"):
            monkeypatch.setattr(os, name, self._failing(getattr(os, name)))

    def _failing(self, real):
        def call(*arguments):
            self._calls += 1
            fails = self._calls % self._each == 0
            if not fails or self._calls // self._each % 2:
                real(*arguments)
            if fails:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        return call


@pytest.mark.parametrize("each", [7, 8, 11])
def test_a_disk_that_fails_now_and_then_loses_nothing(
    calm, tmp_path, monkeypatch, each
):
    """Whatever fails, before or after it happened: each row is kept once.

    A commit is six such steps: were each sixth to fail, none would ever be complete.
    """
    Flaky(monkeypatch, each=each)
    play = Play(tmp_path / "run")

    assert END_OF_TRAFFIC == play.run().reason

    assert {"Input/output error"} == set(play.listener.pauses)
    assert calm == read_segments(play.folder)


@pytest.mark.parametrize(("takes_s", "idle_s"), [(0.01, 2), (0.5, 10), (30.0, 60)])
def test_keeping_takes_a_twentieth_of_the_time_at_most(tmp_path, takes_s, idle_s):
    """On a slow disk commits come more rarely, but never over a minute apart."""
    folder = RunFolder(tmp_path / "run")
    folder.create()
    clock, began_s, ended_s = FakeClock(), [], []

    def slow():
        began_s.append(clock())
        clock.sleep(takes_s)
        ended_s.append(clock())

    journal = Journal(folder, clock=clock, before_commit=slow)
    for second in range(120):
        journal.append(observe(arm="a", arrived_s=[second], request_id=f"r{second}"))
        clock.sleep(1.0)

    gaps_s = [begun - end for end, begun in zip(ended_s, began_s[1:], strict=False)]
    assert all(idle_s - 0.6 <= gap_s <= idle_s + 1.1 for gap_s in gaps_s)
