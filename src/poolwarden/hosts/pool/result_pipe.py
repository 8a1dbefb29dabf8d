"""The guard's own messages to a pool's result thread.

That one thread answers everything, in the order in which it reads: what is
posted here is handled behind all results that were sent before. Any thread may
post; nothing here blocks.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from typing import Any

from ...core.tickets import Ticket
from ...system.mailbox import Mailbox
from .results import Barrier, QuietCache
from .threads import PoolThreads


class ResultPipe:
    """The way to the result thread of one pool.

    Attributes
    ----------
    cache : dict
        The pool's own table of results that somebody waits for, by job.
    quiet_cache : QuietCache
        What guarded results remove themselves from.
    """

    def __init__(self, pool: Any, threads: PoolThreads) -> None:
        self.cache: dict[Any, Any] = pool._cache
        self.quiet_cache = QuietCache(
            pool._cache, threads.worker_handler, pool._change_notifier, threads.running
        )
        self._result_handler = threads.result_handler
        self._mailbox = Mailbox(pool._outqueue._writer)

    @property
    def is_read(self) -> bool:
        """Whether the result thread still reads what comes."""
        return bool(self._result_handler.is_alive())

    def deliver(self, ticket: Ticket, kind: int, data: bytes) -> None:
        """Have the result thread settle a ticket."""
        job, _ = ticket.key
        self._post((job, -ticket.number, (True, (ticket.number, kind, data))))

    def call_behind(self, action: Callable[[], None]) -> None:
        """Have the result thread call `action` behind all results that were sent before."""
        self._post((Barrier(self.quiet_cache, action).job, 0, None))

    def wait_behind(self, action: Callable[[], None], bound: float) -> None:
        """As `call_behind`, and wait until that is done, `bound` seconds at most."""
        done = threading.Event()

        def both() -> None:
            action()
            done.set()

        self.call_behind(both)
        done.wait(bound)

    def _post(self, message: Any) -> None:
        self._mailbox.post(pickle.dumps(message))

    def disown(self) -> None:
        """Write nothing any more, in a process that was forked."""
        self._mailbox.disown()

    def close(self) -> None:
        """Drop what is not written yet."""
        self._mailbox.close()
