"""An executor's call queue: how calls get to the workers, and how it is emptied.

The queue is a `multiprocessing.Queue`: calls go through a buffer and a feeder
thread of this process into a pipe, behind a semaphore that counts the room.
Guarded calls are small, and go into the pipe at once if there is room. A repair
has to empty all of that, in this order, and to make the room again.
"""

from __future__ import annotations

import contextlib
import pickle
import select
from collections.abc import Callable
from typing import Any, Final

from ...core import stop_world
from ...core.send_gate import Gate
from ...system.waiting import poll
from ...worker import envelope
from .stand_ins import Mark

#: Seconds for the manager thread to come out of the gate, and for the feeder thread to write.
THREAD_BOUND: Final = 2.0
#: What is used of the host's queues.
CALL_QUEUE: Final = (
    "_reader", "_writer", "_rlock", "_wlock", "_sem", "_maxsize",
    "_buffer", "_notempty", "_thread", "_closed",
)  # fmt: skip
RESULT_QUEUE: Final = ("_reader", "_writer")


class CallQueue:
    """The way of one executor's calls to its workers.

    Attributes
    ----------
    gate : Gate
        Passed by the manager thread whenever it may send calls.
    calls : multiprocessing.Queue
        The host's queue.
    emptied : int
        How often a repair has emptied it.
    """

    def __init__(self, executor: Any) -> None:
        self._result_lock = getattr(executor._result_queue, "_wlock", None)
        self.calls = executor._call_queue
        # None where there is no such thing as a pipe that tells of its room: Windows.
        self._room = poll and poll()
        if self._room is not None:
            self._room.register(self.calls._writer.fileno(), select.POLLOUT)
        self.gate = Gate()
        self.emptied = 0

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Stand in for the queue's ``put``: writes a guarded call now, if there is room for it.

        That spares the way through the feeder thread, and the host's pickler,
        which such a message does not need. Manager thread, inside of the gate.

        The first call takes the long way, and starts the feeder thread: what
        tells the workers to leave takes it as well, and when the interpreter
        ends, from Python 3.12 on, no thread can be started any more.
        """
        calls = self.calls
        is_ours = calls._thread is not None and getattr(item, "fn", None) is envelope.run
        if is_ours and not calls._closed and calls._sem.acquire(False):
            if self._write_now(pickle.dumps(item)):
                return
            calls._sem.release()
        type(calls).put(calls, item, block, timeout)

    def _write_now(self, message: bytes) -> bool:
        """Write a message if that does not block, and nothing waits to be written before it."""
        calls, room = self.calls, self._room
        # 4: the length before it. What is longer may find less room than it needs.
        if room is None or len(message) + 4 > select.PIPE_BUF:
            return False
        if calls._buffer or not calls._wlock.acquire(False):
            return False
        try:
            if [event for _, event in room.poll(0)] != [select.POLLOUT]:
                return False
            calls._writer.send_bytes(message)
            return True
        finally:
            calls._wlock.release()

    def hook(self) -> None:
        """Have the manager thread's calls take our way."""
        self.calls.put = self.put

    def reader(self) -> int:
        """Return the descriptor of the end that workers read, in this process."""
        return int(self.calls._reader.fileno())

    def read_lock(self) -> Any:
        """Return the lock that a worker holds while it waits for a call."""
        return self.calls._rlock

    def free_other_locks(self, free: Callable[[Any], None] = stop_world.free) -> None:
        """Free the lock for results, with `free`."""
        free(self._result_lock)

    def is_quiet(self) -> bool:
        """Return whether every call that was put has been taken by a worker."""
        calls = self.calls
        return not self.gate.busy and not calls._buffer and calls._sem._semlock._get_value() == calls._maxsize

    def is_somebody_sending(self) -> bool:
        """Return whether the lock for sending results is taken, by the living or the dead."""
        return self._result_lock is not None and self._result_lock._semlock._is_zero()

    def empty(self) -> bytes:
        """Empty the queue and return what was in it, or on its way there; the reader's lock is ours."""
        stop_world.wait_until(lambda: not self.gate.busy, THREAD_BOUND)
        # What tells loky's workers to leave was in the queue as well.
        self.emptied += 1
        return self._drain()

    def unblock(self) -> None:
        """Empty it for a feeder thread that stands before a full pipe, which 3.10 waits for at the end."""
        if self.gate.try_enter():
            self._drain()
            self.gate.leave()

    def _drain(self) -> bytes:
        """Empty the queue, and make room for as many calls as before; return what was in it."""
        calls = self.calls
        fd, left = calls._reader.fileno(), bytearray()
        if calls._thread is not None and calls._thread.is_alive():
            # The feeder thread may hold a call that it has not written yet.
            # It writes in order, so all is there once this one has come.
            mark = Mark()
            with calls._notempty:
                calls._buffer.append(mark)
                calls._notempty.notify()

            def arrived() -> bool:
                left.extend(stop_world.read_available(fd))
                return mark.text in left

            stop_world.wait_until(arrived, THREAD_BOUND)
        left.extend(stop_world.read_available(fd))
        with contextlib.suppress(ValueError):
            while calls._sem._semlock._get_value() < calls._maxsize:
                calls._sem.release()
        return bytes(left)

    def let_go(self) -> None:
        """Drop the host's queue, which has been closed or given back."""
        vars(self.calls).pop("put", None)
        self.calls = self._result_lock = None
