"""Time as an argument: whatever is timed takes a clock, so that tests own it."""

from collections.abc import Callable

Clock = Callable[[], float]
"""Seconds from any fixed point, monotonic: `time.perf_counter` or a test's own."""
