"""Workers of loky that are told to leave because the reusable executor was resized."""

from __future__ import annotations

import contextlib
import queue
from typing import TYPE_CHECKING, Any, Final

from ... import clock
from .stand_ins import Method

if TYPE_CHECKING:
    from .call_queue import CallQueue
    from .manager_messages import ManagerMessages

#: Seconds for the manager thread to tell workers to leave.
TELL_BOUND: Final = 1.0


class Resize(Method):
    """``_resize`` of the reusable executor, which may lose workers, and the words for them, meanwhile.

    The host's waits for ever then: for a worker that has died to be alive, or
    for one to leave that was never told.

    Parameters
    ----------
    executor : object
        The host's.
    calls : CallQueue
        Takes the words for those that are to leave.
    messages : ManagerMessages
        The way to the manager thread.
    """

    def __init__(self, executor: Any, calls: CallQueue, messages: ManagerMessages) -> None:
        super().__init__(executor, "_resize")
        self._calls = calls
        self._messages = messages

    def __call__(self, max_workers: int) -> None:
        executor: Any = self._owner()
        thread = executor._executor_manager_thread
        if max_workers in (None, executor._max_workers) or thread is None:
            self.original(max_workers)
            return
        executor._wait_job_completion()
        with executor._processes_management_lock:
            executor._max_workers = max_workers
        self._shrink(executor._processes, max_workers, thread)
        executor._adjust_process_count()

    def _shrink(self, processes: Any, size: int, thread: Any) -> None:
        emptied, left_to_tell = -1, 0
        while len(processes) > size and thread.is_alive():
            if emptied != self._calls.emptied:
                emptied, left_to_tell = self._calls.emptied, len(processes) - size
            left_to_tell -= self._have_told(left_to_tell)
            clock.sleep(0.001)

    def _have_told(self, count: int) -> int:
        """Have `count` workers told to leave, or as many as there is room for now; return how many.

        The manager thread does it, which alone may go through the gate.
        """
        answer: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._messages.call_soon(lambda: answer.put(self._tell(count)))
        try:
            return answer.get(timeout=TELL_BOUND)
        except queue.Empty:
            return 0

    def _tell(self, count: int) -> int:
        told, calls = 0, self._calls
        calls.gate.enter()
        try:
            with contextlib.suppress(queue.Full):
                while told < count:
                    calls.calls.put_nowait(None)
                    told += 1
        finally:
            calls.gate.leave()
        return told
