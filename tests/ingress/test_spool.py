import os
import stat

import pytest

from canary.errors import UsageError
from canary.ingress.app import Ingress
from canary.ingress.counts import Counts
from canary.ingress.identity import folder_key
from canary.ingress.keeper import Keeper, find_audit
from canary.ingress.settings import Settings
from canary.ingress.spool import Spool, opened_unix_s, spooled_files
from canary.testing import FakeClock

DAY_S = 86400.0


@pytest.fixture
def clock():
    return FakeClock(1.7e9)


@pytest.fixture
def spool(tmp_path, clock):
    found = Spool(tmp_path, roll_s=3600.0, wall_clock=clock)
    yield found
    found.close()


def test_a_file_is_named_by_when_it_was_begun(tmp_path, spool, clock):
    """The name is the UTC time and the process, and tells the time again."""
    spool.append(b"{}\n")
    (path,) = spooled_files(tmp_path)

    assert f"requests-20231114T221320000000Z-{os.getpid()}.jsonl" == path.name
    assert clock() == opened_unix_s(path.name)
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)


def test_files_roll_over_by_age(tmp_path, spool, clock):
    """An hour after a file was begun, the next line begins another."""
    for _ in range(4):
        spool.append(b"{}\n")
        clock.sleep(1800.0)

    assert [6, 6] == [path.stat().st_size for path in spooled_files(tmp_path)]


def test_nothing_recorded_leaves_no_file(tmp_path, clock):
    """No empty file waits for a reader to wonder about it."""
    Spool(tmp_path, roll_s=1.0, wall_clock=clock).close()

    assert [] == spooled_files(tmp_path)


def test_a_key_is_made_once(tmp_path):
    """It is random, for its owner alone, and the same the next time."""
    key = folder_key(tmp_path)

    assert (32, key) == (len(key), folder_key(tmp_path))
    (tmp_path / "ingress.json").write_text("{}")
    with pytest.raises(UsageError, match="no key can be read from it; remove it"):
        folder_key(tmp_path)


def keeper(settings, spool, clock, counts=None):
    return Keeper(
        settings,
        spool=spool,
        counts=counts or Counts(),
        clock=clock,
        wall_clock=clock,
    )


def test_old_files_are_removed(tmp_path, spool, clock):
    """Once a file's last line is older than the retention, and not before."""
    settings = Settings(spool=str(tmp_path), retention_s=DAY_S, roll_s=3600.0)
    spool.append(b"{}\n")
    clock.sleep(3601.0)
    spool.append(b"{}\n")
    first, second = spooled_files(tmp_path)

    clock.sleep(DAY_S - 1.0)
    keeper(settings, spool, clock).tend()
    assert [first, second] == spooled_files(tmp_path)

    clock.sleep(1.0)
    keeper(settings, spool, clock).tend()
    assert [second] == spooled_files(tmp_path)


def test_a_finding_holds_as_long_as_what_it_is_about(tmp_path, spool, clock):
    """A restart forgets counts, not that what lies in the spool is biased."""
    settings = Settings(spool=str(tmp_path), retention_s=DAY_S, roll_s=3600.0)
    counts = Counts()
    for _ in range(100):
        counts.measure_body(300_000)
        counts.measure_body(800_000)
    spool.append(b"{}\n")
    keeper(settings, spool, clock, counts).tend()
    assert find_audit(str(tmp_path)).biased

    clock.sleep(1800.0)
    keeper(settings, spool, clock).tend()
    found = find_audit(str(tmp_path))
    assert found.biased
    assert "none above" in found.because[0]

    clock.sleep(2 * DAY_S)
    later = keeper(settings, spool, clock)
    later.tend()
    clock.sleep(10.0)
    later.tend()
    assert not find_audit(str(tmp_path)).biased


def tend(ingress):
    ingress.keeper.tend()
    ingress.keeper.tend_far()


def test_a_spool_behind_a_url(tmp_path, clock):
    """Closed files are uploaded whole and kept no longer here; the audit goes along."""
    settings = Settings(
        spool=f"file://{tmp_path}/far", staging=tmp_path / "near", retention_s=DAY_S
    )
    ingress = Ingress(settings, clock=clock, wall_clock=clock)
    ingress.spool.append(b"{}\n")
    tend(ingress)
    assert 1 == len(spooled_files(tmp_path / "near"))

    clock.sleep(settings.roll_s)
    tend(ingress)
    assert [] == spooled_files(tmp_path / "near")
    (there,) = spooled_files(tmp_path / "far")
    assert b"{}\n" == there.read_bytes()
    assert not find_audit(settings.spool).biased
    assert not (tmp_path / "far/ingress.json").exists()

    clock.sleep(2 * DAY_S)
    tend(ingress)
    assert [] == spooled_files(tmp_path / "far")
    ingress.start()
    ingress.close()


def test_what_a_killed_process_staged_is_uploaded_by_the_next(tmp_path, clock):
    """A file that nobody writes to any more is closed, whoever wrote it."""
    settings = Settings(spool=f"file://{tmp_path}/far", staging=tmp_path / "near")
    left = "requests-20231114T221320000000Z-1.jsonl"
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / left).write_text("{}\n")

    ingress = Ingress(settings, clock=clock, wall_clock=clock)
    ingress.start()
    ingress.close()

    assert [left] == [path.name for path in spooled_files(tmp_path / "far")]


def test_an_upload_that_fails_is_tried_again(tmp_path, clock, caplog):
    """Nothing is lost; it is said once, and seen until it works."""
    settings = Settings(spool=f"file://{tmp_path}/far", staging=tmp_path / "near")
    ingress = Ingress(settings, clock=clock, wall_clock=clock)
    ingress.spool.append(b"{}\n")
    clock.sleep(settings.roll_s)
    (tmp_path / "far").rmdir()
    (tmp_path / "far").write_text("in the way")
    for _ in range(2):
        tend(ingress)
    assert "uploading" in ingress.keeper.failing
    assert 1 == sum("uploading fails" in line for line in caplog.messages)
    assert 1 == len(spooled_files(tmp_path / "near"))

    (tmp_path / "far").unlink()
    (tmp_path / "far").mkdir()
    tend(ingress)
    assert "uploading" not in ingress.keeper.failing
    assert 1 == len(spooled_files(tmp_path / "far"))
    ingress.start()
    ingress.close()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"spool": "s3://bucket/x"}, "lines are written to a local folder first"),
        ({"spool": "x", "staging": "y"}, "--staging is for a spool behind a URL"),
        ({"spool": "nosuch://x", "staging": "y"}, "can't be used as a spool"),
        ({"spool": "/dev/null/x"}, "/dev/null/x: can't be used as a spool"),
    ],
)
def test_where_a_spool_cant_be(tmp_path, monkeypatch, settings, sentence):
    """A wrong place is told before the first request, in one sentence."""
    monkeypatch.chdir(tmp_path)
    paths = {**settings, "staging": settings.get("staging") and tmp_path / "y"}

    with pytest.raises(UsageError, match=sentence):
        Ingress(Settings(**paths))
