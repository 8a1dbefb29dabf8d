"""The flight recorder: one small record of shared memory for each worker.

The worker writes it with plain stores, the parent reads it: after a death, to
know which task died, and for deadlines, to know how long a task has run. There
is no lock and no message, so no death can corrupt it or hold anybody up.

Runs in both processes. Covers the layout only; where a record lies is in
`memory`, what is written when is in `envelope`, what it means after a death is
in ``core.guard``.

Layout of a record (one page, native byte order)::

    offset 0      32 unsigned 64-bit cells, named below
    offset 256    the last outcome, at most `INLINE_MAX` bytes
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

SIZE: Final = 4096
OUTCOME: Final = 256

#: Bytes of a payload that travel inside a message. The whole message has to
#: stay below PIPE_BUF (4096 on Linux), since only such writes are all or
#: nothing; the rest of it (function, pool, ids) takes less than 300 bytes.
INLINE_MAX: Final = 3500

# Cells.
PHASE: Final = 0
TICKET: Final = 1
ITEM: Final = 2
STARTED: Final = 3  # clock.now_ns() at the start of the running item
OUT_TICKET: Final = 4
OUT_KIND: Final = 5
OUT_SIZE: Final = 6
ARMED: Final = 7  # bits: what the worker could install
RETIRE: Final = 8  # set by the parent: one of the two below
SOFT_TICKET: Final = 9  # set by the parent: the ticket to be interrupted
SOFT_ITEM: Final = 10
GONE: Final = 11  # 1: an orderly exit has come behind all exit handlers
IDENT: Final = 12  # which process the place is for (`memory.identity_of`); 0 for a place that is free
# The worker's ring for large outcomes; all count bytes since its birth.
RING_LIMIT: Final = 13  # set by the parent: how many bytes may wait for it
RING_PUT: Final = 14  # what the worker has put there
RING_TAKEN: Final = 15  # set by the parent: what it has read
RING_SENT: Final = 16  # what of it the outcomes hold that were sent so far
# Results of the running chunk's items that the worker keeps in its ring.
KEEP_TICKET: Final = 17
KEEP_START: Final = 18  # where in the memory
KEEP_END: Final = 19
TELLING: Final = 21  # odd while a running task sends a note or piece: it may hold the lock for results
STACK_FD: Final = 20  # the descriptor that faulthandler writes to

# Values of RETIRE.
LEAVE: Final = 1  # end at once behind the running task
END: Final = 2  # the pool ends: leave in order behind the running task, or by what it raises to end

# Phases, in this order: below READY no task was ever taken. All zeros is UNBORN.
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
    """One worker's record.

    Parameters
    ----------
    page : memoryview
        `SIZE` bytes, shared with the other process; in a worker that could not
        map its pool's memory they are its own.

    Attributes
    ----------
    cells : memoryview
        The cells, as integers from 0 to 2**64 - 1.

    Notes
    -----
    The store of a cell is one aligned 8-byte store, so a reader never sees
    half a value. The worker stores ticket, item and start before the phase: a
    reader that sees RUNNING sees a complete record.
    """

    __slots__ = ("_page", "cells")

    def __init__(self, page: memoryview) -> None:
        self._page = page
        self.cells = page[:OUTCOME].cast("Q")

    def store_outcome(self, ticket: int, kind: int, data: bytes) -> None:
        """Keep an outcome of at most `INLINE_MAX` bytes; the phase is the caller's."""
        size = len(data)
        self._page[OUTCOME : OUTCOME + size] = data
        cells = self.cells
        cells[OUT_KIND] = kind
        cells[OUT_SIZE] = size
        cells[OUT_TICKET] = ticket

    def outcome(self) -> tuple[int, int, bytes]:
        """Return ticket, kind and bytes of the outcome stored last; ticket 0 when there is none."""
        cells = self.cells
        size = min(cells[OUT_SIZE], INLINE_MAX)
        return cells[OUT_TICKET], cells[OUT_KIND], bytes(self._page[OUTCOME : OUTCOME + size])

    def close(self) -> None:
        """Let go of the memory; twice is no error."""
        self.cells.release()
        self._page.release()
