"""A pipe that wakes a thread which waits for descriptors.

Runs in the parent; any thread may wake, and be interrupted at any point of it.
"""

from __future__ import annotations

import contextlib
import os
from multiprocessing.connection import Pipe
from typing import Any


class Wakeup:
    """Wakes the one thread that waits for `reader`.

    A mark says that a byte is in the pipe, and spares others to write one more.
    It is set behind the write and taken back before the read: an exception that
    comes between the two costs a byte too many, and nobody is left asleep.
    """

    def __init__(self) -> None:
        self._marked = False
        self._open()

    def _open(self) -> None:
        self.reader: Any
        self._writer: Any
        self.reader, self._writer = Pipe(duplex=False)
        if os.name == "posix":
            for end in (self.reader, self._writer):
                os.set_blocking(end.fileno(), False)
        self._files = _identity(self.reader), _identity(self._writer)

    @property
    def is_pending(self) -> bool:
        """Whether somebody has woken the thread, and it has not come to know."""
        return self._marked

    def wake(self) -> None:
        """Let the next wait return at once, or the one that is going on."""
        if self._marked or _identity(self._writer) != self._files[1]:
            return
        # A pipe that is full wakes as well.
        with contextlib.suppress(OSError):
            self._writer.send_bytes(b"")
        self._marked = True

    def clear(self) -> None:
        """Take note of having been woken; only the thread itself, which looks at what is new behind this."""
        self._marked = False
        with contextlib.suppress(OSError, EOFError):
            self.reader.recv_bytes()

    def mend(self) -> None:
        """Make a new pipe if the program has closed ours, and perhaps opened files in its place."""
        if (_identity(self.reader), _identity(self._writer)) != self._files:
            self.close()
            self._marked = False
            self._open()

    def close(self) -> None:
        """Release the pipe; a number that is somebody else's by now is not closed."""
        for end, file in zip((self.reader, self._writer), self._files, strict=True):
            if _identity(end) == file:
                end.close()
            else:
                end._handle = None


def _identity(end: Any) -> tuple[int, int] | None:
    try:
        status = os.fstat(end.fileno())
    except OSError:
        return None
    return status.st_dev, status.st_ino
