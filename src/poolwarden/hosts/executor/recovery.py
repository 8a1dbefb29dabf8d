"""What a recovery does with the calls of an executor (`core.ports.HostQueue`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...core.workers import Worker
    from .call_queue import CallQueue
    from .earlier_calls import EarlierCalls
    from .manager_messages import ManagerMessages


class RecoveredCalls:
    """One executor's calls, those included that were sent before it was guarded."""

    def __init__(self, queue: CallQueue, earlier: EarlierCalls, messages: ManagerMessages) -> None:
        self._queue = queue
        self._earlier = earlier
        self._messages = messages
        self.gate = queue.gate
        self.reader = queue.reader
        self.read_lock = queue.read_lock
        self.free_other_locks = queue.free_other_locks
        self.is_quiet = queue.is_quiet
        self.may_keep: Callable[[Worker], bool] = earlier.may_be_run_by

    def empty(self) -> set[int]:
        """Empty the queue; return the numbers of the guarded tickets that were in it."""
        return self._earlier.note_unread(self._queue.empty())

    def call_behind(self, action: Callable[[], None]) -> None:
        """Have the manager thread call `action`, and see to earlier calls."""

        def both() -> None:
            action()
            self._earlier.after_repair()

        self._messages.call_soon(both)
