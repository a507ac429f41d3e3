"""Weekly hours by the clocks of a place, through the nights when those are changed."""

import math
from datetime import UTC, datetime, timedelta

import pytest

from canary.policy.windows import window

OFFICE = "Mon-Fri 08:00-20:00 Europe/Berlin"


def at(text: str) -> float:
    """Seconds since the epoch of a time in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def opened(text: str, day: str) -> list[str]:
    """When a window opens and closes, from two hours before a UTC day to next noon."""
    now_s, end_s = at(day) - 2 * 3600, at(day) + 36 * 3600
    found = []
    while (now_s := window(text).changes_after_s(now_s)) < end_s:
        found.append(f"{datetime.fromtimestamp(now_s, UTC):%d %H:%M}")
    return found


@pytest.mark.parametrize(
    ("text", "day", "changes"),
    [
        (OFFICE, "2026-12-01", ["01 07:00", "01 19:00", "02 07:00"]),
        (OFFICE, "2026-07-01", ["01 06:00", "01 18:00", "02 06:00"]),
        (OFFICE, "2026-11-28", []),  # a Saturday
        ("daily 22:00-06:00 UTC", "2026-12-01", ["01 06:00", "01 22:00", "02 06:00"]),
        ("Sun 12:00-24:00 UTC", "2026-11-29", ["29 12:00", "30 00:00"]),
        ("Sun 22:00-02:00 UTC", "2026-11-29", ["29 22:00", "30 02:00"]),
    ],
)
def test_a_window_opens_and_closes_by_the_clocks_there(
    text: str, day: str, changes: list[str]
) -> None:
    """Winter, summer, weekends, nights, and midnight itself."""
    assert changes == opened(text, day)


@pytest.mark.parametrize(
    ("text", "day", "changes"),
    [
        # In Berlin 02:00 is followed by 03:00, at 01:00 UTC on 29 March 2026,
        (
            "daily 01:00-05:00 Europe/Berlin",
            "2026-03-29",
            ["29 00:00", "29 03:00", "29 23:00", "30 03:00"],
        ),
        (
            "daily 02:30-05:00 Europe/Berlin",
            "2026-03-29",
            ["29 01:00", "29 03:00", "30 00:30", "30 03:00"],
        ),
        ("Sun 02:00-03:00 Europe/Berlin", "2026-03-29", []),
        # and 03:00 by 02:00, at 01:00 UTC on 25 October.
        (
            "Sun 02:00-02:30 Europe/Berlin",
            "2026-10-25",
            ["25 00:00", "25 00:30", "25 01:00", "25 01:30"],
        ),
        ("Sun 01:00-04:00 Europe/Berlin", "2026-10-25", ["24 23:00", "25 03:00"]),
    ],
)
def test_a_window_follows_the_clocks_when_they_are_changed(
    text: str, day: str, changes: list[str]
) -> None:
    """An hour that clocks skip opens nothing, one that they show twice opens twice."""
    assert changes == opened(text, day)


def test_an_hour_that_is_skipped_opens_a_week_later() -> None:
    """Nobody waits for ever, also if the only hour of the week is missing."""
    found = window("Sun 02:00-03:00 Europe/Berlin")

    opens_s = found.changes_after_s(at("2026-03-28"))

    assert at("2026-04-05") == opens_s


def test_the_whole_week_never_closes() -> None:
    """A window without a gap has no next change, and counts all hours."""
    always = window("daily 00:00-24:00 UTC")

    assert math.inf == always.changes_after_s(at("2026-12-01"))
    assert 7 * 86400 == always.open_s_per_week
    assert 60 * 3600 == window(OFFICE).open_s_per_week
    assert 14 * 3600 == window("Sat-Sun,Wed 22:00-02:40 UTC").open_s_per_week


def test_what_changes_is_found_minute_by_minute() -> None:
    """Between two changes a window is what it was after the first of them."""
    found = window("Fri-Mon 21:30-01:15 America/St_Johns")
    now = datetime(2026, 10, 30, tzinfo=UTC)
    change_s = found.changes_after_s(now.timestamp())

    for step in range(4 * 1440):
        now_s = (now + timedelta(minutes=step)).timestamp()
        if now_s >= change_s:
            assert found.is_open(now_s) != found.is_open(now_s - 60)
            change_s = found.changes_after_s(now_s)
        elif step:
            assert found.is_open(now_s) == found.is_open(now_s - 60)
