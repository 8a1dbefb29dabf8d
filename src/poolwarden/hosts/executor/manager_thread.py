"""An executor's manager thread, hooked up: what it waits for, and what it sends.

The host's own wait takes the end of any worker for the end of the executor.
This one does not look at workers; it reads results, and the guard's mail.
Everything here runs in the manager thread, but for `take`.
"""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING, Any, Final

from ...system.waiting import poll
from ...system.watchdog import watchdog
from ...worker.payload import NOTE
from .stand_ins import MAIL

if TYPE_CHECKING:
    from .adapter import ExecutorAdapter

#: Milliseconds until the next try to start a watchdog that could not be started.
_AGAIN: Final = 200
#: Its methods that are replaced, on the instance.
METHODS: Final = (
    "wait_result_broken_or_wakeup",
    "add_call_item_to_queue",
    "flag_executor_shutting_down",
    "join_executor_internals",
    "terminate_broken",
)


class ManagerThread:
    """The manager thread of one executor, once it is there.

    Attributes
    ----------
    thread : threading.Thread or None
        The host's; None before the first task and after the end.
    """

    def __init__(self, adapter: ExecutorAdapter, executor: Any) -> None:
        self._adapter = adapter
        self._work_ids = executor._work_ids
        self._results = executor._result_queue._reader
        self.thread: Any = None

    def take(self, thread: Any) -> None:
        """Hook the thread up, before it is started if possible."""
        adapter = self._adapter
        self.thread = thread
        thread.processes = adapter.processes_by_pid
        # Kept: what the mail asked for may have been to give the thread back.
        self._wakeup = thread.thread_wakeup
        self._wakeups = thread.thread_wakeup._reader
        self._poll = poll()
        self._poll.register(self._results.fileno(), select.POLLIN)
        self._poll.register(self._wakeups.fileno(), select.POLLIN)
        thread.wait_result_broken_or_wakeup = self._wait
        thread.add_call_item_to_queue = self._add_calls
        thread.flag_executor_shutting_down = adapter.flag_shutting_down
        thread.join_executor_internals = adapter.end.join_internals
        thread.terminate_broken = adapter.end.terminate_broken
        thread._poolwarden = adapter
        self._work_ids.get = self._next_id
        adapter.queue.calls.put = adapter.queue.put

    def give_back(self) -> None:
        """Leave the thread to the executor."""
        for name in (*METHODS, *self._adapter.birth_methods, "_poolwarden"):
            vars(self.thread).pop(name, None)
        vars(self._work_ids).pop("get", None)

    def _add_calls(self) -> None:
        gate = self._adapter.queue.gate
        gate.enter()
        try:
            type(self.thread).add_call_item_to_queue(self.thread)
        finally:
            gate.leave()

    def _next_id(self, *args: Any, **kwargs: Any) -> Any:
        """Stand in for ``_work_ids.get``, without ids that are answered already.

        The host looks each of them up among those that are pending. loky's
        leaves some behind when it is shut down with ``kill_workers``.
        """
        while True:
            work_id = type(self._work_ids).get(self._work_ids, *args, **kwargs)
            if work_id in self._adapter.pending:
                return work_id

    def _wait(self) -> tuple[Any, bool, Any]:
        """Stand in for ``wait_result_broken_or_wakeup``; never reports a broken executor for a death."""
        adapter = self._adapter
        result, broken, cause = None, False, None
        if adapter.mail.is_held and not adapter.release.leaving:
            adapter.mail.release()
        # While the watchdog is missing nobody else notices that it is not there.
        ready = {fd for fd, _ in self._poll.poll(None if watchdog().look_alive() else _AGAIN)}
        if self._results.fileno() in ready:
            try:
                result = self._results.recv()
            except BaseException as error:
                # Of a task that was sent before the guard came.
                broken, cause = True, adapter.undecodable(error)
            if type(result) is tuple and result[0] == MAIL:
                adapter.mail.handle(*result[1:])
                result = None
            elif isinstance(result, tuple) and result[0] == NOTE:
                # It was taken in when it was unpickled.
                result = None
            elif getattr(result, "work_id", None) == MAIL:
                result = None
            elif adapter.is_bad(result):
                # A guarded call is never what could not be read: the worker was idle, and a handler of
                # the user's has raised. It leaves, which is seen, and what it may have lost is sent again.
                if adapter.has_older_tasks():
                    broken, cause = True, adapter.bad_cause(result)
                result = None
        if self._wakeups.fileno() in ready:
            # All of them at once; each is an empty message.
            os.read(self._wakeups.fileno(), 1 << 16)
            # Finds nothing, but somebody may have put something else behind it.
            self._wakeup.clear()
        return result, broken or adapter.guard.broken is not None, cause

    def let_go(self) -> None:
        """Drop what would keep pipes open as long as somebody keeps the executor, which has ended."""
        self.thread = self._results = None
