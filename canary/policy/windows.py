"""Weekly hours in a time zone: ``Mon-Fri 08:00-20:00 Europe/Berlin``.

A window is open while the clocks of its zone show a time within it. So it doesn't open
for an hour that they skip in spring, and opens twice for one that they show twice in
autumn.
"""

import math
import re
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from zoneinfo import ZoneInfo, available_timezones

from canary.policy.units import shown

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

_DAY = f"(?:{'|'.join(DAYS)})"
_SPAN = f"{_DAY}(?:-{_DAY})?"
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]"
WINDOW_PATTERN = (
    rf"^(daily|{_SPAN}(?:,{_SPAN})*) ({_TIME})-({_TIME}|24:00) ([A-Za-z0-9_+/-]+)$"
)
"""What the parser reads and what the JSON Schema shows."""

_EXAMPLE = "Mon-Fri 08:00-20:00 Europe/Berlin"
_MINUTE_S = 60
_DAY_MINUTES = 24 * 60
_LOOKED_AHEAD_S = 15 * 86400
"""More than two weeks: an hour a week that clocks skip once opens a week later."""


@dataclass(frozen=True, slots=True)
class Window:
    """Hours on some days of the week, in minutes of the day; days count from Monday.

    A window that closes before it opens closes on the next day.
    """

    days: frozenset[int]
    opens_minute: int
    closes_minute: int
    zone: str

    @property
    def open_s_per_week(self) -> float:
        """How long it is open in a week whose clocks don't change."""
        minutes = (self.closes_minute - self.opens_minute) % _DAY_MINUTES
        return float(len(self.days) * (minutes or _DAY_MINUTES) * _MINUTE_S)

    def is_open(self, unix_s: float) -> bool:
        """Whether it is open at a time."""
        there = datetime.fromtimestamp(unix_s, ZoneInfo(self.zone))
        day, minute = there.weekday(), there.hour * 60 + there.minute
        if self.opens_minute < self.closes_minute:
            return day in self.days and (
                self.opens_minute <= minute < self.closes_minute
            )
        tonight = day in self.days and minute >= self.opens_minute
        return tonight or ((day - 1) % 7 in self.days and minute < self.closes_minute)

    def changes_after_s(self, unix_s: float) -> float:
        """Return when it next opens or closes; infinity if it is always open."""
        now_open = self.is_open(unix_s)
        # Clocks change by whole minutes, so nothing happens between two of them.
        first_s = (math.floor(unix_s / _MINUTE_S) + 1) * _MINUTE_S
        for minute_s in range(first_s, first_s + _LOOKED_AHEAD_S, _MINUTE_S):
            if self.is_open(minute_s) != now_open:
                return float(minute_s)
        return math.inf


def window(value: object) -> Window:
    """Read ``Mon-Fri 08:00-20:00 Europe/Berlin``.

    Days are ``daily``, single days and ranges of them, with commas between; a window
    may go past midnight (``daily 22:00-06:00 UTC``).

    Raises:
        ValueError: It is something else, or there is no such time zone.
    """
    match = re.fullmatch(WINDOW_PATTERN, value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(
            f"expected days, hours and a time zone, got {shown(value)}; "
            f"write for example {_EXAMPLE}"
        )
    days, opens, closes, zone = match.groups()
    if opens == closes:
        raise ValueError(
            f"opens and closes at {opens}; write 00:00-24:00 for the whole day"
        )
    if zone not in available_timezones():
        close = get_close_matches(zone, available_timezones(), n=1)
        told = close[0] if close else "for example Europe/Berlin or UTC"
        raise ValueError(f"no time zone is called {zone}; write {told}")
    return Window(_days(days), _minute(opens), _minute(closes), zone)


def _days(text: str) -> frozenset[int]:
    if text == "daily":
        return frozenset(range(7))
    found: set[int] = set()
    for span in text.split(","):
        first, _, last = span.partition("-")
        begin = DAYS.index(first)
        length = (DAYS.index(last or first) - begin) % 7 + 1
        found |= {(begin + step) % 7 for step in range(length)}
    return frozenset(found)


def _minute(text: str) -> int:
    hour, minute = text.split(":")
    return int(hour) * 60 + int(minute)
