"""Who may write: clocks that step, machines that boot, runners that start at once."""

import json
import subprocess
import sys

import pytest

from canary.errors import StorageError, UsageError
from canary.evidence import lease as module
from canary.evidence.folder import RunFolder
from canary.evidence.lease import LEASE_S, Lease
from canary.testing import FakeClock


class Machine:
    """A machine's clocks: one that people set, and one since it booted."""

    def __init__(self, *, wall_s=1_000_000.0, boot_s=500.0):
        self.wall, self.boot = FakeClock(wall_s), FakeClock(boot_s)

    def lease(self, folder):
        """Return a lease as this machine sees it."""
        return Lease(folder, wall_clock=self.wall, boot_clock=self.boot)

    def wait(self, seconds):
        """Let time pass on both."""
        self.wall.sleep(seconds)
        self.boot.sleep(seconds)


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def elsewhere(folder, **changed):
    """Make the lease one that another machine wrote."""
    found = json.loads(folder.lease.read_text())
    other = {"host": "other", "boot": "another boot", "pid": 1, **changed}
    folder.lease.write_text(json.dumps({**found, **other}))


@pytest.mark.parametrize("step_s", [-86_400.0, -30.0, 30.0, 86_400.0])
def test_steps_of_the_clock_change_nothing_on_one_machine(folder, step_s):
    """Expiry counts from the boot: neither early nor late, whatever the wall says."""
    machine = Machine()
    machine.lease(folder).take()
    machine.wall.sleep(step_s)
    other = machine.lease(folder)

    machine.wait(LEASE_S - 1)
    with pytest.raises(UsageError, match=r"wait 1 s if it is gone"):
        other.take()
    machine.wait(2)
    other.take()


@pytest.mark.parametrize("step_s", [-86_400.0, 86_400.0])
def test_an_owner_whose_clock_was_set_tells_other_machines(folder, step_s):
    """At its next commit the lease says what the wall clock says from now on."""
    machine = Machine()
    mine = machine.lease(folder)
    mine.take()
    machine.wall.sleep(step_s)

    mine.renew()

    found = json.loads(folder.lease.read_text())
    assert machine.wall() + LEASE_S == found["expires_unix_s"]


def test_another_machine_waits_until_the_lease_expires(folder):
    """Nobody knows whether a process elsewhere is gone; the wall clock decides."""
    machine, other = Machine(), Machine(boot_s=9_999.0)
    machine.lease(folder).take()
    elsewhere(folder, pid=2**22 + 1)

    other.wait(LEASE_S - 1)
    with pytest.raises(UsageError, match="on other is running it"):
        other.lease(folder).take()
    other.wait(2)
    other.lease(folder).take()


def test_a_clock_that_is_ahead_takes_over_too_early_and_safely(folder):
    """Who is taken over finds out before it writes: the two never write both."""
    machine, ahead = Machine(), Machine(wall_s=1_000_000.0 + 3600)
    mine, theirs = machine.lease(folder), ahead.lease(folder)
    mine.take()
    elsewhere(folder)

    theirs.take()

    with pytest.raises(UsageError, match="another runner has taken this run over"):
        mine.renew()


def test_after_a_reboot_process_numbers_mean_nothing(folder):
    """The same number is another process then: the lease runs out like any other."""
    machine = Machine()
    machine.lease(folder).take()
    found = json.loads(folder.lease.read_text())
    found |= {"boot": "the boot before", "pid": 2**22 + 1}
    folder.lease.write_text(json.dumps(found))

    with pytest.raises(UsageError, match="is running it"):
        machine.lease(folder).take()
    machine.wait(LEASE_S + 1)
    machine.lease(folder).take()


def test_a_container_with_the_same_name_is_not_this_machine(folder):
    """Two containers of one host see each other's processes as gone; they aren't."""
    machine = Machine()
    machine.lease(folder).take()
    elsewhere_here = {"pids": "pid:[1]", "pid": 2**22 + 1}
    found = json.loads(folder.lease.read_text()) | elsewhere_here
    folder.lease.write_text(json.dumps(found))

    with pytest.raises(UsageError, match="is running it"):
        machine.lease(folder).take()


def test_commits_do_not_write_the_lease_each_time(folder):
    """It is looked at before every commit, and written once a tenth of it is gone."""
    machine = Machine()
    mine = machine.lease(folder)
    mine.take()
    written = set()
    for _ in range(60):
        machine.wait(1.0)
        mine.renew()
        written.add(folder.lease.read_text())

    assert 9 <= len(written) <= 11


RACER = """\
import sys, time
from pathlib import Path
from canary.errors import UsageError
from canary.evidence.folder import RunFolder
from canary.evidence.lease import Lease
folder = RunFolder(Path(sys.argv[1]))
lease = Lease(folder, wall_clock=time.time)
print("ready", flush=True)
sys.stdin.readline()
try:
    lease.take()
except UsageError as error:
    print("refused" if "is running it" in str(error) else error, flush=True)
else:
    print("taken", flush=True)
sys.stdin.readline()
"""


def test_of_runners_that_start_at_once_one_runs(folder):
    """Six processes reach for one run in the same moment; five are refused."""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(folder.root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    assert ["ready\n"] * 6 == [racer.stdout.readline() for racer in racers]
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = sorted(racer.stdout.readline() for racer in racers)
    for racer in racers:
        racer.communicate("go\n")

    assert [*["refused\n"] * 5, "taken\n"] == said


def test_a_file_system_without_locks_is_refused(folder, monkeypatch):
    """Without them two runners could both believe that they are alone."""

    def no_locks(file, how):
        del file, how
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(module.fcntl, "flock", no_locks)

    with pytest.raises(UsageError, match="put the run on a file system that has locks"):
        Machine().lease(folder).take()


def test_a_folder_that_is_gone_is_one_sentence(tmp_path):
    """A lease that can't be written is a storage that fails, which may mend."""
    with pytest.raises(StorageError, match="can't be written") as caught:
        Machine().lease(RunFolder(tmp_path / "gone")).take()

    assert 1 == len(str(caught.value).splitlines())
