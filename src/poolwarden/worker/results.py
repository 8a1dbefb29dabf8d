"""The room for one worker's outcomes, and the way of what finds none there.

Runs in the worker. The room is a ring in the pool's shared memory: the worker
puts outcomes into it one behind the other, and the parent says how far it has
read. So the bytes that wait for the parent are bounded. An outcome for which
there is no room goes through the host's own result pipe, which makes the worker
wait, as a bare one waits. Ordinary outcomes take that pipe too, but without the
host's own pickler: what an executor sends back holds what `envelope.run` has
returned, two numbers and bytes, which every pickler writes alike. To make one
of loky's takes 11 us (3.13), and the result itself has been through one.
"""

from __future__ import annotations

import pickle

from . import ledger
from .ledger import INLINE_MAX, RING_LIMIT, RING_PUT, RING_TAKEN, TELLING
from .memory import Memory, own_process
from .payload import HEAD, NOTE, PIECE, RING_PLACE, Note, NoteMessage, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

#: Bytes of a piece: with what goes around it, it stays below PIPE_BUF.
_PIECE: Final = INLINE_MAX


class Ring:
    """Takes one worker's outcomes.

    Parameters
    ----------
    memory : Memory
        The pool's.
    place : int
        The worker's.
    cells : memoryview
        Of the worker's record.
    """

    __slots__ = ("_cells", "_memory", "_next", "_start")

    def __init__(self, memory: Memory, place: int, cells: memoryview) -> None:
        self._memory, self._cells = memory, cells
        self._start = memory.ring_start(place)
        self._next = 0  # offset of the next byte

    def put(self, number: int, parts: list[Any], size: int) -> bytes | None:
        """Store an outcome; see `payload.Room`."""
        offset = self._take(HEAD.size + size)
        if offset is None:
            return None
        write(self._memory, self._start + offset, number, parts, size)
        return self._sent(self._start + offset, size)

    def _take(self, size: int) -> int | None:
        """Return the offset of `size` bytes that are free now; None if there are not so many."""
        cells = self._cells
        limit, put = min(cells[RING_LIMIT], self._memory.ring), cells[RING_PUT]
        waiting = put - cells[RING_TAKEN]
        if waiting <= 0:
            # Its beginning is in memory already, from the outcomes before.
            self._next, waiting = 0, 0
        offset = self._next
        # The rest at the end is passed over if the outcome does not fit there.
        passed = limit - offset if offset + size > limit else 0
        if waiting + passed + size > limit:
            return None
        offset = 0 if passed else offset
        self._next = offset + size
        cells[RING_PUT] = put + passed + size
        return offset

    def mark(self) -> tuple[int, int]:
        """Return how far it is filled, for `roll_back`."""
        return self._next, self._cells[RING_PUT]

    def roll_back(self, mark: tuple[int, int]) -> None:
        """Give up what was put since `mark`: the parent will never hear of it."""
        self._next, self._cells[RING_PUT] = mark
        self._cells[ledger.RING_SENT] = min(self._cells[ledger.RING_SENT], mark[1])

    # Results of a chunk's items, which the parent finds when the worker has died.

    def begin_keeping(self, ticket: int) -> None:
        """Note that what is kept from now on belongs to a chunk."""
        cells = self._cells
        if cells[RING_PUT] <= cells[RING_TAKEN]:
            self._next = 0
        cells[ledger.KEEP_TICKET] = 0
        cells[ledger.KEEP_START] = cells[ledger.KEEP_END] = self._start + self._next
        cells[ledger.KEEP_TICKET] = ticket

    def keep(self, item: int, data: bytes) -> bool:
        """Keep an item's pickled result behind those before it; False if there is no room."""
        cells = self._cells
        end, size = cells[ledger.KEEP_END], HEAD.size + len(data)
        limit, waiting = min(cells[RING_LIMIT], self._memory.ring), cells[RING_PUT] - cells[RING_TAKEN]
        if end + size > self._start + limit or waiting + size > limit:
            return False
        write(self._memory, end, item, [data], len(data))
        self._next = end + size - self._start
        cells[RING_PUT] += size
        # Last: it is kept once this says so.
        cells[ledger.KEEP_END] = end + size
        return True

    def forget_kept(self, ticket: int) -> None:
        """Give up what was kept of a chunk that failed as a whole: the parent will not read it."""
        cells = self._cells
        if cells[ledger.KEEP_TICKET] == ticket:
            cells[ledger.KEEP_TICKET] = 0
            start = cells[ledger.KEEP_START]
            cells[RING_PUT] -= cells[ledger.KEEP_END] - start
            self._next = start - self._start

    def kept(self, ticket: int) -> bytes:
        """Return where the results lie that were kept of a chunk, for `kept_results`; empty for none."""
        cells = self._cells
        if cells[ledger.KEEP_TICKET] != ticket:
            return b""
        start = cells[ledger.KEEP_START]
        return self._sent(start, cells[ledger.KEEP_END] - start)

    def _sent(self, start: int, size: int) -> bytes:
        cells = self._cells
        # Before the outcome is stored: until this is read, nobody else is given the ring.
        put = cells[ledger.RING_SENT] = cells[RING_PUT]
        return RING_PLACE.pack(start, size, cells[ledger.IDENT], put)


def kept_results(memory: Memory, start: int, size: int) -> dict[int, bytes]:
    """Return the pickled results of a chunk's items that lie in a worker's ring. Parent."""
    found: dict[int, bytes] = {}
    with memory.view(start, size) as view:
        position = 0
        while position + HEAD.size <= size:
            item, length = HEAD.unpack_from(view, position)
            position += HEAD.size
            found[item] = bytes(view[position : position + length])
            position += length
    return found


class NoPipeError(OSError):
    """This process has no pipe for results that is known."""


class ResultPipe:
    """Tells the parent of things through the host's result pipe.

    Parameters
    ----------
    pool : str
        Names the pool to the parent.
    cells : memoryview
        Of the worker's record.

    Raises
    ------
    NoPipeError
        It has none; this process is no worker of a host that is known.
    """

    def __init__(self, pool: str, cells: memoryview) -> None:
        self._pool = pool
        self._cells = cells
        # Source: `worker` of multiprocessing.pool and `_process_worker` of concurrent.futures
        # and loky have it as their second argument, from 3.10 to 3.15.
        arguments: tuple[Any, ...] = getattr(own_process(), "_args", ())
        put = getattr(arguments[1], "put", None) if len(arguments) > 1 else None
        if put is None:
            raise NoPipeError("no pipe for results is known")
        self._put: Callable[[Any], object] = put

    def tell(self, kind: int, *values: Any) -> None:
        """Send a note. Blocks while the pipe is full."""
        # The lock for results is taken below, in the middle of a task: a death there is no ordinary one.
        self._cells[TELLING] |= 1
        self._put(NoteMessage((NOTE, 0, Note(self._pool, kind, *values))))
        # Counted: who looks twice must see that there was one between.
        self._cells[TELLING] = (self._cells[TELLING] | 1) + 1

    def send_pieces(self, ticket: int, data: bytes) -> bytes:
        """Send an outcome piece by piece and return what is sent in its place."""
        for start in range(0, len(data), _PIECE):
            self.tell(PIECE, ticket, data[start : start + _PIECE])
        return len(data).to_bytes(8, "little")


def send_plainly(results: Any) -> None:
    """Have a host's queue pickle outcomes with `pickle` itself, and the rest as before.

    Parameters
    ----------
    results : multiprocessing.queues.SimpleQueue
        Through which this worker sends its results; loky's is one.
    """
    as_before, lock, send = results.put, results._wlock, results._writer.send_bytes

    def put(item: Any) -> None:
        if not _is_outcome(getattr(item, "result", None)):
            as_before(item)
            return
        message = pickle.dumps(item)
        with lock:
            send(message)

    if lock is not None:
        results.put = put


def _is_outcome(result: object) -> bool:
    # Looked at closely: a task that was sent before the guard, or after it,
    # may return a tuple of anything.
    return type(result) is tuple and len(result) == 3 and tuple(map(type, result)) == (int, int, bytes)
