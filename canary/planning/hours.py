"""Traffic's own time, which stands still while a schedule sends nothing, and the
clock's."""

import math

from canary.policy.windows import Window

_WEEK_S = 7 * 86400.0
_WEEKS_LOOKED_AT = 4


class Hours:
    """The hours at which a run sends, from when it begins.

    Of times far away, whole weeks are taken to be alike, whatever clocks change.

    Args:
        window: When it may send; None if always.
        begin_unix_s: When it begins.
    """

    def __init__(self, window: Window | None = None, begin_unix_s: float = 0.0) -> None:
        self._window = window
        self._begin_unix_s = begin_unix_s

    def wall_s(self, traffic_s: float) -> float:
        """Return how long after its beginning a run has sent for so long."""
        window, now_s, left_s = self._window, self._begin_unix_s, traffic_s
        if window is None or not math.isfinite(traffic_s):
            return traffic_s
        weeks = math.floor(left_s / window.open_s_per_week) - _WEEKS_LOOKED_AT
        if weeks > 0:
            now_s += weeks * _WEEK_S
            left_s -= weeks * window.open_s_per_week
        while True:
            change_s = window.changes_after_s(now_s)
            if window.is_open(now_s):
                if now_s + left_s <= change_s:
                    return now_s + left_s - self._begin_unix_s
                left_s -= change_s - now_s
            now_s = change_s

    def traffic_s(self, wall_s: float) -> float:
        """Return for how long a run has sent so long after its beginning."""
        window, now_s = self._window, self._begin_unix_s
        if window is None:
            return wall_s
        end_s, sent_s = now_s + wall_s, 0.0
        weeks = math.floor(wall_s / _WEEK_S) - _WEEKS_LOOKED_AT
        if weeks > 0:
            now_s += weeks * _WEEK_S
            sent_s += weeks * window.open_s_per_week
        while now_s < end_s:
            change_s = min(window.changes_after_s(now_s), end_s)
            sent_s += (change_s - now_s) * window.is_open(now_s)
            now_s = change_s
        return sent_s

    def is_open(self, wall_s: float) -> bool:
        """Whether a run sends so long after its beginning."""
        return self._window is None or self._window.is_open(self._begin_unix_s + wall_s)


ALWAYS = Hours()
"""Without a schedule both times are one."""
