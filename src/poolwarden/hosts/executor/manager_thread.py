"""An executor's manager thread, hooked up: what it waits for, and what it sends.

The host's own wait takes the end of any worker for the end of the executor.
This one does not look at workers; it reads results, and the guard's messages.
Everything here runs in the manager thread, but for `take`.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from ...system.waiting import poll
from ...system.watchdog import watchdog
from ...worker.payload import NOTE
from .stand_ins import MESSAGE

if TYPE_CHECKING:
    from ...core.guard import Guard
    from ...core.send_gate import Gate
    from .host_errors import ExecutorErrors
    from .manager_messages import ManagerMessages

#: Milliseconds until the next try to start a watchdog that could not be started.
_AGAIN: Final = 200
#: Its methods that are replaced, on the instance; the first two here, the others by who takes it.
METHODS: Final = (
    "wait_result_broken_or_wakeup",
    "add_call_item_to_queue",
    "flag_executor_shutting_down",
    "join_executor_internals",
    "terminate_broken",
)


class ManagerThread:
    """The manager thread of one executor, once it is there.

    Parameters
    ----------
    results : multiprocessing.connection.Connection
        The reading end of the result queue.
    messages : ManagerMessages
        The guard's.
    gate : Gate
        Passed when calls are sent.
    guard : Guard
        Says whether the executor is broken.
    errors : ExecutorErrors
        The host's signs of a failure.
    find_earlier_calls : callable
        Returns the calls that were sent before the guard and are unanswered.

    Attributes
    ----------
    thread : threading.Thread or None
        The host's; None before the first task and after the end.
    is_joining : bool
        True once it takes the executor down: nothing is pending, and the queues may be closed.
    """

    def __init__(
        self,
        results: Any,
        messages: ManagerMessages,
        gate: Gate,
        guard: Guard,
        errors: ExecutorErrors,
        find_earlier_calls: Callable[[], list[Any]],
    ) -> None:
        self._results = results
        self._messages = messages
        self._gate = gate
        self._guard = guard
        self._errors = errors
        self._find_earlier_calls = find_earlier_calls
        self._overridden: set[str] = set()
        self.thread: Any = None
        self.is_joining = False

    def take(self, thread: Any, overrides: Mapping[str, Any]) -> None:
        """Hook the thread up, before it is started if possible.

        Parameters
        ----------
        thread : threading.Thread
            The host's.
        overrides : mapping
            What takes the place of its attributes, by name.
        """
        self.thread = thread
        # Kept: what a message asked for may have been to give the thread back.
        self._wakeup = thread.thread_wakeup
        self._wakeups = thread.thread_wakeup._reader
        self._poll = poll()
        self._poll.register(self._results.fileno(), select.POLLIN)
        self._poll.register(self._wakeups.fileno(), select.POLLIN)
        own = {"wait_result_broken_or_wakeup": self._wait, "add_call_item_to_queue": self._add_calls}
        for name, stand_in in {**own, **overrides}.items():
            setattr(thread, name, stand_in)
            self._overridden.add(name)

    def give_back(self) -> None:
        """Leave the thread to the executor."""
        for name in self._overridden:
            vars(self.thread).pop(name, None)

    def _add_calls(self) -> None:
        self._gate.enter()
        try:
            type(self.thread).add_call_item_to_queue(self.thread)
        finally:
            self._gate.leave()

    def _wait(self) -> tuple[Any, bool, Any]:
        """Stand in for ``wait_result_broken_or_wakeup``; never reports a broken executor for a death."""
        result, broken, cause = None, False, None
        self._messages.let_through()
        # While the watchdog is missing nobody else notices that it is not there.
        ready = {fd for fd, _ in self._poll.poll(None if watchdog().look_alive() else _AGAIN)}
        if self._results.fileno() in ready:
            result, broken, cause = self._receive()
        if self._wakeups.fileno() in ready:
            # All of them at once; each is an empty message.
            os.read(self._wakeups.fileno(), 1 << 16)
            # Finds nothing, but somebody may have put something else behind it.
            self._wakeup.clear()
        return result, broken or self._guard.broken is not None, cause

    def _receive(self) -> tuple[Any, bool, Any]:
        """Read a message; return it if it is the host's, whether it breaks the executor, and why."""
        try:
            result = self._results.recv()
        except BaseException as error:
            # This is the result of a task that was sent before the guard came.
            return None, True, self._errors.undecodable(error)
        if type(result) is tuple and result[0] == MESSAGE:
            self._messages.handle(*result[1:])
            return None, False, None
        if isinstance(result, tuple) and result[0] == NOTE:
            # It was taken in when it was unpickled.
            return None, False, None
        if getattr(result, "work_id", None) == MESSAGE:
            return None, False, None
        if self._errors.is_bad(result):
            # A guarded call is never what could not be read: the worker was idle, and a handler of
            # the user's has raised. It leaves, which is seen, and what it may have lost is sent again.
            if self._find_earlier_calls():
                return None, True, self._errors.bad_cause(result)
            return None, False, None
        return result, False, None

    def let_go(self) -> None:
        """Drop what would keep pipes open as long as somebody keeps the executor, which has ended."""
        self.thread = self._results = None
