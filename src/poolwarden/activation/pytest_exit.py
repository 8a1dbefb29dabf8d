"""How a process that something else has started ended, and what it had used.

Covers children of this process that nobody has waited for yet: who started
them goes on to do so. Runs in xdist's controller. Never raises for a process
that is gone, or that is no child.
"""

from __future__ import annotations

import os
import platform
import sys
from typing import Any, Final, NamedTuple

from .. import clock

#: Seconds between two looks.
_STEP: Final = 0.005
#: The system call `waitid` by machine: the C library's function of that name has no rusage.
#: Source: the kernel's unistd tables.
_WAITID: Final = {"x86_64": 247, "aarch64": 95, "riscv64": 95, "ppc64le": 272, "s390x": 281}
#: Source: struct rusage in linux/resource.h: two pairs of seconds and microseconds, then 14 numbers.
_NUMBERS: Final = 18
_PEAK: Final = 4


class Ending(NamedTuple):
    """The end of a process.

    Attributes
    ----------
    exitcode : int or None
        As `subprocess.Popen.returncode`; None if it could not be learnt.
    peak : int or None
        Peak memory in bytes, of the largest among it and the children that it had waited for.
    cpu : float or None
        Seconds of CPU time, of it and those children.
    """

    exitcode: int | None
    peak: int | None = None
    cpu: float | None = None


def ending_of(popen: Any, timeout: float) -> Ending | None:
    """Return how a process ended, None if it still runs after `timeout` seconds.

    Parameters
    ----------
    popen : subprocess.Popen
        The process; it is left for its owner to wait for.
    timeout : float
        Seconds. A process whose pipes are closed ends a moment later.
    """
    end = clock.now() + timeout
    while True:
        if popen.returncode is not None:
            return Ending(popen.returncode)
        if (ended := _look(popen)) is not None:
            return ended
        if clock.now() >= end:
            return None
        clock.sleep(_STEP)


def _look(popen: Any) -> Ending | None:
    if not hasattr(os, "waitid"):
        status = popen.poll()
        return None if status is None else Ending(status)
    try:
        seen = os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    except ChildProcessError:  # somebody else has waited for it
        return Ending(None)
    if seen is None:
        return None
    exitcode = seen.si_status if seen.si_code == os.CLD_EXITED else -seen.si_status
    return Ending(exitcode, *_use(popen.pid))


def _use(pid: int) -> tuple[int, float] | tuple[None, None]:
    """Return peak memory and CPU time of a child that nobody has waited for; Nones if not known."""
    number = _WAITID.get(platform.machine())
    if sys.platform != "linux" or number is None:
        return None, None
    try:
        import ctypes

        use = (ctypes.c_long * _NUMBERS)()
        options = os.WEXITED | os.WNOWAIT | os.WNOHANG
        given = (ctypes.c_long(each) for each in (number, os.P_PID, pid))
        system_call = ctypes.CDLL(None).syscall
        system_call.restype = ctypes.c_long
        failed = system_call(*given, None, ctypes.c_long(options), ctypes.byref(use))
    except (ImportError, OSError, AttributeError):
        return None, None
    if failed or ctypes.sizeof(ctypes.c_long) != 8:
        return None, None
    return use[_PEAK] * 1024, use[0] + use[2] + (use[1] + use[3]) / 1e6


def own_peak() -> int:
    """Return the peak memory of this process in bytes, 0 if not known: those that it starts begin with it."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
