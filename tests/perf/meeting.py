"""Tasks and the parent tell each other where they are, through named pipes.

A path works under every start method and reaches a task as an argument, which
a pipe or a lock of `multiprocessing` does not.
"""

from __future__ import annotations

import os
import select
import struct
import tempfile
from types import TracebackType

_NUMBER = struct.Struct("<d")

#: Seconds to wait for a task that should be there in milliseconds.
BOUND = 30.0


class Meeting:
    """A place where tasks report numbers and wait to be let go; a context manager.

    Attributes
    ----------
    reports, gate : str
        Paths, for `report` and `wait_at` in the tasks.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="meeting-")
        self.reports, self.gate = f"{self._folder.name}/reports", f"{self._folder.name}/gate"
        for path in (self.reports, self.gate):
            os.mkfifo(path)
        # For reading and writing: neither side then waits for the other to open it, nor sees its end.
        self._reader, self._opener = (os.open(path, os.O_RDWR) for path in (self.reports, self.gate))

    def __enter__(self) -> Meeting:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._reader)
        os.close(self._opener)
        self._folder.cleanup()

    def next_report(self) -> float:
        """Return the next number that a task reports."""
        if not select.select([self._reader], [], [], BOUND)[0]:
            raise TimeoutError("no task reported")
        number: float = _NUMBER.unpack(os.read(self._reader, _NUMBER.size))[0]
        return number

    def let_go(self, count: int) -> None:
        """Let `count` tasks pass the gate, now or when they come to it."""
        os.write(self._opener, bytes(count))


def report(path: str, number: float) -> None:
    """Report a number to the parent. In a task."""
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, _NUMBER.pack(number))
    os.close(fd)


def wait_at(path: str) -> None:
    """Wait until the parent lets one more task go. In a task."""
    fd = os.open(path, os.O_RDONLY)
    os.read(fd, 1)
    os.close(fd)


def report_and_wait(reports: str, gate: str) -> None:
    """Report this worker's pid, and wait."""
    report(reports, os.getpid())
    wait_at(gate)
