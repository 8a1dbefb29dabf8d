"""The flight recorder: one small record of shared memory for each worker.

The worker writes it with plain stores, the parent reads it: after a death, to
know which task died, and for deadlines, to know how long a task has run. There
is no lock and no message, so no death can corrupt it or hold anybody up.

Runs in both processes. Covers the layout only; what is written when is in
`envelope`, what it means after a death is in ``core.guard``.

Layout of the file ``<folder>/<pid>`` (one page, native byte order)::

    offset 0      16 unsigned 64-bit cells, named below
    offset 128    the last outcome, at most `INLINE_MAX` bytes
"""

from __future__ import annotations

import mmap
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

SAFE_OPEN: Final = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
SIZE: Final = 4096
OUTCOME: Final = 128

#: Bytes of a payload that travel inside a message. The whole message has to
#: stay below PIPE_BUF (4096 on Linux), since only such writes are all or
#: nothing; the rest of it (function, folder, ids) takes less than 300 bytes.
INLINE_MAX: Final = 3500

# Cells.
PHASE: Final = 0
TICKET: Final = 1
ITEM: Final = 2
STARTED: Final = 3  # time.monotonic_ns() of the running item
OUT_TICKET: Final = 4
OUT_KIND: Final = 5
OUT_SIZE: Final = 6
ARMED: Final = 7  # bits: what the worker could install
RETIRE: Final = 8  # set by the parent: one of the two below
SOFT_TICKET: Final = 9  # set by the parent: the ticket to be interrupted
SOFT_ITEM: Final = 10
GONE: Final = 11  # 1: an orderly exit has come behind all exit handlers

# Values of RETIRE.
LEAVE: Final = 1  # end at once behind the running task
END: Final = 2  # the pool ends: leave in order behind the running task, or by what it raises to end

# Phases, in this order: below READY no task was ever taken. A record that is
# missing, short or zero reads as UNBORN.
UNBORN: Final = 0
STARTING: Final = 1  # in the initializer
FAILED: Final = 2  # the initializer raised; its traceback is in the record
READY: Final = 3  # no task yet
RUNNING: Final = 4  # user code; holds no lock of the pool
DONE: Final = 5  # the outcome is in the record; sending it, or idle
LEFT: Final = 6  # an orderly exit has begun; holds no lock of the pool

# Bits of ARMED.
ARMED_STACK: Final = 1
ARMED_SOFT: Final = 2


class Record:
    """One worker's record, mapped into this process.

    Parameters
    ----------
    path : str
        The record's file.
    create : bool
        True in the worker, which makes the file; the parent opens it.

    Raises
    ------
    OSError
        No room for one page (``create``), or no such file.
    ValueError
        The file has not got its size yet: its worker was killed between
        making and sizing it, or is doing so now. Such a worker holds no task.

    Notes
    -----
    The store of a cell is one aligned 8-byte store, so a reader never sees
    half a value. The worker stores ticket, item and start before the phase: a
    reader that sees RUNNING sees a complete record.
    """

    __slots__ = ("_map", "_view", "cells")

    def __init__(self, path: str, *, create: bool = False) -> None:
        flags = os.O_RDWR | SAFE_OPEN
        if create:
            flags |= os.O_CREAT | os.O_EXCL
        fd = os.open(path, flags, 0o600)
        try:
            if create:
                # Written, not truncated to size: a store into a page that a
                # full tmpfs cannot supply is a SIGBUS, here it is an error.
                os.write(fd, bytes(SIZE))
            self._map = mmap.mmap(fd, SIZE)
        finally:
            os.close(fd)
        self._view = memoryview(self._map)
        self.cells = self._view[:OUTCOME].cast("Q")

    def store_outcome(self, ticket: int, kind: int, data: bytes) -> None:
        """Keep an outcome of at most `INLINE_MAX` bytes; the phase is the caller's."""
        size = len(data)
        self._map[OUTCOME : OUTCOME + size] = data
        cells = self.cells
        cells[OUT_KIND] = kind
        cells[OUT_SIZE] = size
        cells[OUT_TICKET] = ticket

    def outcome(self) -> tuple[int, int, bytes]:
        """Return ticket, kind and bytes of the outcome stored last."""
        cells = self.cells
        size = min(cells[OUT_SIZE], INLINE_MAX)
        return cells[OUT_TICKET], cells[OUT_KIND], self._map[OUTCOME : OUTCOME + size]

    def close(self) -> None:
        """Unmap the record; the file stays."""
        self.cells.release()
        self._view.release()
        self._map.close()
