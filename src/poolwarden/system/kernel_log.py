"""Which processes the kernel says that it has killed for want of memory.

Covers the kernel's log, where this process may read it (root, or a machine
without ``dmesg_restrict``). It is the one source that names the victims, but
only by the machine's own pids: in a pid namespace (a container) they say
nothing. The parent process, any thread; never raises.
"""

from __future__ import annotations

import os
import re
from collections import deque
from pathlib import Path
from typing import Final

__all__ = ["KernelLog"]

#: Records that are read at most; each takes a microsecond or two. The largest usual ring holds fewer.
_RECORDS_MAX: Final = 50_000
#: What one record takes at most. Source: CONSOLE_EXT_LOG_MAX in the kernel's printk.
_RECORD_SIZE: Final = 8192
# Source: __oom_kill_process in mm/oom_kill.c, and the record's head in Documentation/ABI/testing/dev-kmsg.
# Programs may write there too, but never with the facility 0 (priorities 0 to 7).
_KILLED: Final = re.compile(
    rb"^[0-7],[^;]*;(?:Memory cgroup out|Out) of memory[^:]*: Killed process (\d+)\b", re.M
)
# Source: PROC_PID_INIT_INO in linux/proc_ns.h.
_MACHINES_PIDS: Final = "pid:[4026531836]"


class KernelLog:
    """The log below `root`, opened anew for each question.

    No descriptor is kept: the program may close it and get its number for a file of its own.
    """

    def __init__(self, root: str = "/") -> None:
        self._file = Path(root) / "dev/kmsg"
        self._namespace = Path(root) / "proc/self/ns/pid"

    def names(self, pid: int, kills: int) -> bool | None:
        """Return whether `pid` is among the last victims; None if that cannot be known.

        Parameters
        ----------
        pid : int
            A process that was killed.
        kills : int
            How many victims to look at: as many as the machine's counter says.
        """
        try:
            if os.readlink(self._namespace) != _MACHINES_PIDS:
                return None
            victims = self._victims(kills)
        except (OSError, ValueError):
            return None
        # With fewer than were counted, some have left the ring already.
        return True if pid in victims else None if len(victims) < kills else False

    def _victims(self, kills: int) -> deque[int]:
        found: deque[int] = deque(maxlen=max(kills, 1))
        fd = os.open(self._file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            for _ in range(_RECORDS_MAX):
                try:
                    record = os.read(fd, _RECORD_SIZE)
                except BlockingIOError:  # the end
                    break
                except BrokenPipeError:  # older records were overwritten meanwhile; the next call goes on
                    continue
                if not record:
                    break
                found.extend(int(match) for match in _KILLED.findall(record))
        finally:
            os.close(fd)
        return found
