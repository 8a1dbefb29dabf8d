"""What is replaced in one pool object while it is guarded, and put back afterwards.

Nothing that is put into the pool keeps it, nor makes a cycle with it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from . import chunk_size
from .earlier_jobs import EarlierJobs
from .shutdown import PoolShutdown
from .submission import TaskQueue


class PoolHooks:
    """The replaced attributes of one pool.

    Parameters
    ----------
    task_queue : TaskQueue
        Stands in for the pool's queue of submissions.
    original_queue : queue.SimpleQueue
        The pool's own.
    shutdown : PoolShutdown
        Learns when the pool is closed.
    earlier : EarlierJobs
        Learns what was submitted before.
    """

    def __init__(
        self, task_queue: TaskQueue, original_queue: Any, shutdown: PoolShutdown, earlier: EarlierJobs
    ) -> None:
        self._task_queue = task_queue
        self._original_queue = original_queue
        self._shutdown = shutdown
        self._earlier = earlier

    def set(self, pool: Any, adapter: object) -> None:
        """Have `pool` go through the guard, whose adapter it keeps as its ``_poolwarden``."""
        pool._taskqueue = self._task_queue
        chunk_size.hook(pool)
        # ``close`` itself would not do: whoever keeps the bound method keeps the pool.
        pool._change_notifier = _Notifier(pool._change_notifier, self._shutdown.see_workers_out)
        # On the object, and weak.
        pool._worker_handler.join = _Join(pool)
        # The pool may be closed already.
        self._shutdown.see_workers_out()
        pool._poolwarden = adapter
        # The cache is read after the hook: whoever still has the bare queue has put his job into the cache.
        self._earlier.note()
        self._earlier.forget_waiting(self._task_queue.adopt_waiting())

    def restore(self, pool: Any) -> None:
        """Leave `pool` to itself."""
        pool._taskqueue = self._original_queue
        chunk_size.unhook(pool)
        pool._change_notifier = pool._change_notifier.original
        del pool._worker_handler.join
        del pool._poolwarden


class _Notifier:
    """Stands in for ``pool._change_notifier``, by which ``close`` wakes the worker handler."""

    def __init__(self, original: Any, on_change: Callable[[], None]) -> None:
        self.original = original
        self._on_change = on_change

    def put(self, item: Any) -> None:
        """As the host's."""
        self.original.put(item)
        self._on_change()


class _Join:
    """Stands in for the ``join`` of the worker handler, which ``Pool.join`` waits for first.

    Whoever was interrupted in ``close`` may have closed only half of the pool;
    another ``close`` does nothing then, and the ``join`` behind it waited for ever.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = weakref.ref(pool)
        self._handler = weakref.ref(pool._worker_handler)

    def __call__(self, timeout: float | None = None) -> None:
        """As the host's."""
        pool, handler = self._pool(), self._handler()
        if handler is None:
            return
        if pool is not None and pool._state != handler._state:
            if handler._state == "RUN":
                handler._state = pool._state
            pool._change_notifier.put(None)
        del pool
        type(handler).join(handler, timeout)
