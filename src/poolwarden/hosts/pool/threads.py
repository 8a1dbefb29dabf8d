"""The three threads of a pool of `multiprocessing` or a copy of it, and what wakes and ends them.

Covers private names: the task thread sends tasks, the worker handler replaces
workers, the result thread reads results. Each ends once its ``_state`` says so.
"""

from __future__ import annotations

import contextlib
from typing import Any


class PoolThreads:
    """The threads of one pool.

    Attributes
    ----------
    task_handler, worker_handler, result_handler : threading.Thread
        The host's own threads.
    original_queue : queue.SimpleQueue
        What the task thread reads: the pool's own queue of submissions.
    running : str
        What the ``_state`` of a thread is while it goes on.
    """

    def __init__(self, pool: Any, module: Any) -> None:
        self.task_handler = pool._task_handler
        self.worker_handler = pool._worker_handler
        self.result_handler = pool._result_handler
        self.original_queue = pool._taskqueue
        self.running = module.RUN
        self._ended = module.TERMINATE
        self._notifier = pool._change_notifier
        _spare_worker_handler(pool)

    @property
    def is_closed(self) -> bool:
        """Whether the pool was closed or terminated."""
        return bool(self.worker_handler._state != self.running)

    def wake_worker_handler(self) -> None:
        """Have the worker handler look for dead workers now."""
        # A grandchild may hold the sentinel open that the pool waits for.
        with contextlib.suppress(OSError, ValueError):
            self._notifier.put(None)

    def end(self) -> None:
        """Have the worker handler and the task thread end as soon as they are woken."""
        self.worker_handler._state = self._ended
        self.task_handler._state = self._ended

    def wake_both(self) -> None:
        """Wake the task thread and the worker handler."""
        # As the worker handler does, which has to be woken for it and may have ended.
        self.original_queue.put(None)
        self.wake_worker_handler()


def _spare_worker_handler(pool: Any) -> None:
    """Let the worker handler sleep while results come in.

    It waits, among other things, for the result pipe, and so spins from the
    moment a result is there until the result thread has read it: half of the
    CPU that the bare pool spends on a no-op. It has nothing to do then; once
    the pool is closed the cache wakes it.
    """
    for argument in getattr(pool._worker_handler, "_args", ()):
        if isinstance(argument, list) and pool._outqueue._reader in argument:
            argument.remove(pool._outqueue._reader)
