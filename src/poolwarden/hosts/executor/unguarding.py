"""How a guard lets its executor go: one that was unguarded, or has ended.

An executor that is unguarded goes on without the guard; what is in flight stays
guarded until it is answered, and only then is the manager thread given back.
Until then the executor can be guarded again, and the same guard goes on.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any, Final

from ...policy import Policy
from .work_item import Work

if TYPE_CHECKING:
    from .adapter import ExecutorAdapter

#: Adapters whose guard has not ended.
guarded: Final[weakref.WeakSet[ExecutorAdapter]] = weakref.WeakSet()


class Release:
    """The end of the guard of one executor.

    Attributes
    ----------
    leaving : bool
        True while the manager thread is about to be given back.
    """

    def __init__(self, adapter: ExecutorAdapter) -> None:
        self._adapter = adapter
        self._finished = False
        self._at_collection: Any = None
        self.leaving = False

    def expect_end(self, executor: Any) -> None:
        """Keep the guard in the table until its executor is let go, collected at the latest."""
        guarded.add(self._adapter)
        self._at_collection = weakref.finalize(executor, self.finish_unused)
        # It stays there for an executor that lives until the exit, when nothing is left to be released.
        self._at_collection.atexit = False

    def withdraw(self, executor: Any) -> None:
        """Take back what an attempt to guard `executor` has come to."""
        if getattr(executor, "_poolwarden", None) is self._adapter:
            self._adapter.unhook(executor)
        if self._adapter.thread is not None:
            self._adapter.manager.give_back()
        self.finish()

    def begin(self, executor: Any) -> None:
        """Leave `executor` to itself; tasks in flight stay guarded until they are answered."""
        with self._adapter.no_submission(executor):
            self._adapter.unhook(executor)
        self._adapter.guard.retire()

    def revoke(self, executor: Any, policy: Policy) -> bool:
        """Guard an executor again that still has tasks of ours; False if they are all answered by now."""
        adapter = self._adapter
        with adapter.no_submission(executor):
            if self._finished:
                return False
            adapter.guard.stay(policy)
            adapter.older.note(adapter.pending)
            adapter.adopt()
            adapter.hook(executor)
        return True

    def answered_all(self) -> None:
        """As `PoolAdapter.answered_all`."""
        adapter, thread = self._adapter, self._adapter.thread
        if thread is None:
            self.finish()
        elif threading.current_thread() is not thread:
            # Only there nothing can be sent between the look and the end.
            adapter.mail.call(adapter.guard.look_for_end)
        elif not self.leaving and not any(isinstance(item, Work) for item in adapter.pending.values()):
            # Behind the messages that are on their way; there will be no more.
            self.leaving = True
            adapter.mail.call_last(self._leave)

    def _leave(self) -> None:
        """Give the manager thread back to the executor, unless that was guarded again. Manager thread."""
        adapter, guard = self._adapter, self._adapter.guard
        # Or the bare thread would take these ends for the executor's.
        guard.wait_for_burials()
        is_behind = not guard.closed and any(worker.has_ended() for worker in guard.live_workers())
        adapter.replacements.make()
        with adapter.thread.shutdown_lock:
            if guard.is_retiring and is_behind:
                # The watchdog has answered for one that it has not handed over yet.
                adapter.mail.call_last(self._leave)
                return
            if guard.is_retiring:
                adapter.manager.give_back()
                self.finish()
        self.leaving = False

    def disown(self) -> None:
        """Release nothing, in a process that was forked: it is the parent's."""
        self._finished = True

    def finish_unused(self) -> None:
        """End the guard of an executor that was shut down or collected, if its manager thread cannot.

        It has never started, or was about to end when the guard came.
        """
        thread = self._adapter.thread
        if thread is None or not thread.is_alive():
            self.finish()

    def finish(self) -> None:
        """Release everything; the executor has ended, or is left to itself. Twice is no error."""
        if not self._finished:
            self._finished = True
            if self._at_collection is not None:
                self._at_collection.detach()
            guarded.discard(self._adapter)
            self._adapter.mail.close()
            self._adapter.guard.close()
            self._adapter.let_go()
