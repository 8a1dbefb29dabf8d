"""What the guard tells an executor's manager thread, through the result queue.

That one thread answers everything is what keeps a result from being delivered
twice, so outcomes and actions of the guard take the same way as results. Any
thread may post; the manager thread opens what arrives.
"""

from __future__ import annotations

import itertools
import pickle
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...system.complaints import complain
from ...system.mailbox import Mailbox
from .stand_ins import MAIL

if TYPE_CHECKING:
    from .adapter import ExecutorAdapter


class ManagerMail:
    """The guard's messages to one manager thread.

    Held back until `release`: the thread may be in the host's own wait, which
    knows nothing of them.
    """

    def __init__(self, adapter: ExecutorAdapter, connection: Any) -> None:
        self._adapter = adapter
        self._mailbox = Mailbox(connection)
        # Re-entrant: a signal handler may post while it is held.
        self._posting = threading.RLock()
        self._held: list[bytes] | None = []
        self._actions: dict[int, Callable[[], None]] = {}
        self._numbers = itertools.count(1)

    def outcome(self, number: int, kind: int, data: bytes, work_id: Any) -> None:
        """Post the outcome of a ticket. Never blocks."""
        self._post(pickle.dumps((MAIL, number, kind, data, work_id)))

    def call(self, action: Callable[[], None]) -> None:
        """Have the manager thread call `action`, behind what is on its way to it."""
        self._post(self._message(action))

    def call_last(self, action: Callable[[], None]) -> None:
        """As `call`, and hold back what is posted from now on; what was posted arrives before."""
        message = self._message(action)
        # In one step: what another thread posted in between arrived after the manager thread was
        # given back, which died of it.
        with self._posting:
            self._held = self._held or []
            self._mailbox.post(message)

    def _message(self, action: Callable[[], None]) -> bytes:
        number = next(self._numbers)
        self._actions[number] = action
        return pickle.dumps((MAIL, number, 0, b"", None))

    def _post(self, message: bytes) -> None:
        with self._posting:
            if self._held is not None:
                self._held.append(message)
            else:
                self._mailbox.post(message)

    def release(self) -> None:
        """Post what was held back, and hold nothing back any more."""
        with self._posting:
            for message in self._held or ():
                self._mailbox.post(message)
            self._held = None

    @property
    def is_held(self) -> bool:
        """Whether messages are held back."""
        return self._held is not None

    def handle(self, number: int, kind: int, data: bytes, work_id: Any) -> None:
        """Do what a message asks for. Manager thread."""
        if work_id is not None:
            self._adapter.finish(work_id, (number, kind, data))
            return
        try:
            # Posted twice if something was raised in the thread that posted it.
            if (action := self._actions.pop(number, None)) is not None:
                action()
        except Exception as error:
            # Without this thread nobody would ever be answered.
            complain("poolwarden: internal error; the executor is given up", error)
            self._adapter.guard.on_failure(error)

    def disown(self) -> None:
        """Write nothing any more, in a process that was forked."""
        self._posting = threading.RLock()
        self._mailbox.disown()

    def close(self) -> None:
        """Drop what is waiting."""
        self._mailbox.close()
