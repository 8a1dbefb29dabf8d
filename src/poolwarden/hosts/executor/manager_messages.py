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
from typing import Any

from ...system.complaints import complain
from ...system.mailbox import Mailbox
from .stand_ins import MESSAGE


class ManagerMessages:
    """The guard's messages to one manager thread.

    They are held back until the thread is in a wait that knows them: at first,
    when it may still be in the host's own wait, and again behind `call_last`,
    when it is about to be given back to the host.

    Parameters
    ----------
    connection : multiprocessing.connection.Connection
        The writing end of the result queue.
    on_outcome : callable
        Called in the manager thread with a work item's id and the outcome that was posted for it.
    on_failure : callable
        Called in the manager thread with what an action has raised.
    """

    def __init__(
        self,
        connection: Any,
        *,
        on_outcome: Callable[[Any, tuple[int, int, bytes]], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._on_outcome = on_outcome
        self._on_failure = on_failure
        self._mailbox = Mailbox(connection)
        # Re-entrant: a signal handler may post while it is held.
        self._posting = threading.RLock()
        self._held: list[bytes] | None = []
        self._is_last_posted = False
        self._actions: dict[int, Callable[[], None]] = {}
        self._numbers = itertools.count(1)

    def post_outcome(self, number: int, kind: int, data: bytes, work_id: Any) -> None:
        """Post the outcome of a ticket. Never blocks."""
        self._post(pickle.dumps((MESSAGE, number, kind, data, work_id)))

    def call_soon(self, action: Callable[[], None]) -> None:
        """Have the manager thread call `action`, behind what is on its way to it."""
        self._post(self._message(action))

    def call_last(self, action: Callable[[], None]) -> None:
        """As `call_soon`, and hold back what is posted from now on; what was posted arrives before."""
        message = self._message(action)
        self._is_last_posted = True
        # In one step: what another thread posted in between arrived after the manager thread was
        # given back, which died of it.
        with self._posting:
            self._held = self._held or []
            self._mailbox.post(message)

    def revoke_last(self) -> None:
        """Let messages through again at the next `let_through`. Manager thread, behind `call_last`."""
        self._is_last_posted = False

    @property
    def is_last_posted(self) -> bool:
        """Whether the message of `call_last` is on its way; the manager thread is given back behind it."""
        return self._is_last_posted

    def _message(self, action: Callable[[], None]) -> bytes:
        number = next(self._numbers)
        self._actions[number] = action
        return pickle.dumps((MESSAGE, number, 0, b"", None))

    def _post(self, message: bytes) -> None:
        with self._posting:
            if self._held is not None:
                self._held.append(message)
            else:
                self._mailbox.post(message)

    def let_through(self) -> None:
        """Post what was held back, and hold nothing back any more, unless the last message is on its way.

        Called by the manager thread in a wait that knows the messages.
        """
        if self._held is None or self._is_last_posted:
            return
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
            self._on_outcome(work_id, (number, kind, data))
            return
        try:
            # Posted twice if something was raised in the thread that posted it.
            if (action := self._actions.pop(number, None)) is not None:
                action()
        except Exception as error:
            # Without this thread nobody would ever be answered.
            complain("poolwarden: internal error; the executor is given up", error)
            self._on_failure(error)

    def disown(self) -> None:
        """Write nothing any more, in a process that was forked."""
        self._posting = threading.RLock()
        self._mailbox.disown()

    def close(self) -> None:
        """Drop what is waiting."""
        self._mailbox.close()
