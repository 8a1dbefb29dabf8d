"""How a guard lets its executor go: one that was unguarded, or has ended.

An executor that is unguarded goes on without the guard; what is in flight stays
guarded until it is answered, and only then is the manager thread given back.
Until then the executor can be guarded again, and the same guard goes on.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...core.guard import Guard
    from .manager_messages import ManagerMessages
    from .manager_thread import ManagerThread
    from .submissions import Submissions
    from .worker_starts import WorkerStarts


class Unguarding:
    """The end of the guard of one executor.

    Parameters
    ----------
    guard : Guard
        Ended.
    messages : ManagerMessages
        The way to the manager thread.
    manager : ManagerThread
        Given back.
    workers : WorkerStarts
        Those that have died are replaced before.
    submissions : Submissions
        Says whether a task of ours is unanswered.
    give_back : callable
        Leaves the manager thread to the executor.
    let_go : callable
        Drops what the guard keeps of its executor; called once, at the very end.
    """

    def __init__(
        self,
        guard: Guard,
        messages: ManagerMessages,
        manager: ManagerThread,
        workers: WorkerStarts,
        submissions: Submissions,
        *,
        give_back: Callable[[], None],
        let_go: Callable[[], None],
    ) -> None:
        self._guard = guard
        self._messages = messages
        self._manager = manager
        self._workers = workers
        self._submissions = submissions
        self._give_back = give_back
        self._let_go = let_go
        self._finished = False
        self._at_collection: Any = None

    @property
    def is_finished(self) -> bool:
        """Whether the guard has ended; it cannot go on any more. Under the executor's lock."""
        return self._finished

    def expect_end(self, executor: Any) -> None:
        """Let tasks be cancelled until the executor is let go, collected at the latest."""
        self._submissions.open()
        self._at_collection = weakref.finalize(executor, self.finish_unused)
        # It stays there for an executor that lives until the exit, when nothing is left to be released.
        self._at_collection.atexit = False

    def withdraw(self) -> None:
        """Take back what an attempt to guard the executor has come to, but for its own methods."""
        if self._manager.thread is not None:
            self._give_back()
        self.finish()

    def answered_all(self) -> None:
        """As `Host.answered_all`."""
        thread, messages = self._manager.thread, self._messages
        if thread is None:
            self.finish()
        elif threading.current_thread() is not thread:
            # Only there nothing can be sent between the look and the end.
            messages.call_soon(self._guard.look_for_end)
        elif not messages.is_last_posted and not self._submissions.has_ours:
            # This comes after the messages that are on their way, and is the last one.
            messages.call_last(self._leave)

    def _leave(self) -> None:
        """Give the manager thread back to the executor, unless that was guarded again. Manager thread."""
        guard = self._guard
        # Otherwise the host's own wait, once it is back in place, sees these dead workers and declares
        # the executor broken.
        guard.wait_for_burials()
        is_behind = not guard.closed and any(worker.has_ended() for worker in guard.live_workers())
        self._workers.make()
        with self._manager.thread.shutdown_lock:
            if guard.is_retiring and is_behind:
                # The watchdog has answered for one that it has not handed over yet.
                self._messages.call_last(self._leave)
                return
            if guard.is_retiring:
                self._give_back()
                self.finish()
        self._messages.revoke_last()

    def disown(self) -> None:
        """Release nothing, in a process that was forked: it is the parent's."""
        self._finished = True

    def finish_unused(self) -> None:
        """End the guard of an executor that was shut down or collected, if its manager thread cannot.

        It has never started, or was about to end when the guard came.
        """
        thread = self._manager.thread
        if thread is None or not thread.is_alive():
            self.finish()

    def finish(self) -> None:
        """Release everything; the executor has ended, or is left to itself. Twice is no error."""
        if not self._finished:
            self._finished = True
            if self._at_collection is not None:
                self._at_collection.detach()
            self._submissions.close()
            self._messages.close()
            self._guard.close()
            self._let_go()
