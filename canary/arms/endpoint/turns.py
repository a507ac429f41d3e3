"""Short turns on a shared core, for a process that has to be punctual."""

import ctypes
import os
import platform
import struct

# Neither Python nor the C library has a function for it.
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
_TURN_NS = 100_000


def ask_for_short_turns() -> None:
    """Ask Linux for turns of 0.1 ms, so that waking up isn't waiting for others' ends.

    From Linux 6.12 on, a process that wakes up takes the core from one whose turns are
    longer (3 ms by default); it gets no larger share, and needs no right for it.
    Elsewhere this does nothing; what a busy machine costs stands in every `send_lag_s`.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if platform.system() != "Linux" or number is None:
        return
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        return  # somebody has chosen something better
    # struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period
    wish = struct.pack("IIQiIQQQ", 48, os.SCHED_OTHER, 0, os.nice(0), 0, _TURN_NS, 0, 0)
    ctypes.CDLL(None).syscall(number, 0, wish, 0)
