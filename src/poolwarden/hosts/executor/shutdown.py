"""How a guarded executor ends: shut down, or broken for good.

The executor's own methods join its workers and queues without a bound; here
what they wait for is made to come. Runs in the manager thread, but for
`_end_idle_workers`, which the watchdog's calls.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ...core import stop_world
from ...core.farewell import Farewell
from ...core.workers import Kill, Worker
from ...worker.ledger import DONE, READY
from .stand_ins import Refuser

if TYPE_CHECKING:
    from ...core.guard import Guard
    from .call_queue import CallQueue
    from .host_errors import ExecutorErrors
    from .manager_thread import ManagerThread
    from .worker_starts import WorkerStarts

#: Seconds that a repair may still take.
REPAIR_BOUND: Final = 2.0
#: Seconds that a worker has to leave by itself.
TERM_BOUND: Final = 1.0


class ExecutorShutdown:
    """The end of one executor.

    Parameters
    ----------
    guard : Guard
        Of the executor.
    queue : CallQueue
        Emptied, and its locks freed, when the executor is broken.
    manager : ManagerThread
        Whose thread ends the executor.
    workers : WorkerStarts
        Seen out.
    errors : ExecutorErrors
        The host's signs of a failure.
    find_executor : callable
        Returns the executor, or None when it is gone.
    on_end : callable
        Called when nothing of the executor is left but its workers' process objects.
    """

    def __init__(
        self,
        guard: Guard,
        queue: CallQueue,
        manager: ManagerThread,
        workers: WorkerStarts,
        errors: ExecutorErrors,
        find_executor: Callable[[], Any],
        on_end: Callable[[], None],
    ) -> None:
        self._guard = guard
        self._queue = queue
        self._manager = manager
        self._workers = workers
        self._errors = errors
        self._find_executor = find_executor
        self._on_end = on_end
        self._stuck: set[Worker] = set()

    def join_internals(self, *args: Any, **kwargs: Any) -> None:
        """Stand in for ``join_executor_internals``: all is answered, and the workers are told to leave."""
        self._begin_joining()
        self._guard.call_later(TERM_BOUND, self._end_idle_workers)
        self._take_down("join_executor_internals", args, kwargs)

    def terminate_broken(self, *args: Any, **kwargs: Any) -> None:
        """Stand in for ``terminate_broken``: answers everybody, and ends in bounded time."""
        guard, thread = self._guard, self._manager.thread
        if guard.broken is None and self._errors.is_death(*args, **kwargs):
            # Seen in the host's own wait, which was going on when the guard came.
            type(thread).run(thread)
            return
        self._begin_joining()
        guard.stop_watching()
        if guard.broken is not None:
            # Before the host does, which has only its own error to give.
            self.refuse_more()
            for item in list(thread.pending_work_items.values()):
                item.future.set_exception(guard.broken_error(None))
            thread.pending_work_items.clear()
            args = self._errors.broken_arguments(args, guard)
        Farewell(guard.live_workers()).finish(TERM_BOUND)
        stop_world.free(self._queue.read_lock())
        self._queue.free_other_locks()
        self._queue.unblock()
        self._take_down("terminate_broken", args, kwargs)

    def refuse_more(self) -> None:
        """Have ``submit`` raise why the executor is broken. Any thread."""
        executor = self._find_executor()
        if executor is not None:
            executor.submit = Refuser(self._guard)

    def _begin_joining(self) -> None:
        # No repair may be going on when the queues are closed.
        births = self._guard.births
        acquired = births.acquire(timeout=REPAIR_BOUND)
        self._manager.is_joining = True
        if acquired:
            births.release()

    def _take_down(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        thread, processes = self._manager.thread, self._workers.table
        try:
            getattr(type(thread), name)(thread, *args, **kwargs)
        finally:
            self._wait_for_leavers()
            self._on_end()
            # Their process objects hold descriptors.
            self._stuck = set()
            # Once more, now that the watchdog is out of it: the one of two
            # threads that loses the race to reap takes the worker for alive,
            # and its pipes would stay open until another process is started.
            for process in processes.values():
                process.join(0)
            processes.clear()
            self._workers.reap()

    def _wait_for_leavers(self) -> None:
        """See workers out that have left by themselves: the executor has forgotten them already."""
        known = self._workers.table
        for worker in self._guard.live_workers():
            if known.get(worker.pid) is not worker.process:
                if not worker.has_ended(TERM_BOUND):
                    worker.send(signal.SIGKILL)
                worker.process.join(TERM_BOUND)

    def _end_idle_workers(self) -> None:
        """End workers that were told to leave and do not.

        What told them may have been lost with a dead one, or in a repair. Those
        that still start, or that run exit handlers, are left alone while they
        are not stuck.
        """
        guard = self._guard
        self._stuck = stop_world.end_stuck(guard.live_workers(), self._stuck)
        for worker in guard.live_workers():
            if worker.snapshot().phase in (READY, DONE) or worker.is_unknown():
                worker.killed = worker.killed or Kill("repair")
                worker.send(signal.SIGKILL)
        guard.call_later(TERM_BOUND, self._end_idle_workers)
