"""How a guarded executor ends: shut down, or broken for good.

The executor's own methods join its workers and queues without a bound; here
what they wait for is made to come. Runs in the manager thread, but for
`_end_idle_workers`, which the watchdog's calls.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, Final

from ...core import stop_world
from ...core.farewell import Farewell
from ...core.workers import Kill, Worker
from ...worker.ledger import DONE, READY
from .stand_ins import Refuser

if TYPE_CHECKING:
    from .adapter import ExecutorAdapter

#: Seconds that a repair may still take.
REPAIR_BOUND: Final = 2.0
#: Seconds that a worker has to leave by itself.
TERM_BOUND: Final = 1.0


class ExecutorEnd:
    """The end of one executor.

    Attributes
    ----------
    joining : bool
        True once the executor is taken down: nothing is pending, and its queues may be closed.
    """

    def __init__(self, adapter: ExecutorAdapter) -> None:
        self._adapter = adapter
        self._stuck: set[Worker] = set()
        self.joining = False

    def join_internals(self, *args: Any, **kwargs: Any) -> None:
        """Stand in for ``join_executor_internals``: all is answered, and the workers are told to leave."""
        self._begin_joining()
        self._adapter.guard.call_later(TERM_BOUND, self._end_idle_workers)
        self._take_down("join_executor_internals", args, kwargs)

    def terminate_broken(self, *args: Any, **kwargs: Any) -> None:
        """Stand in for ``terminate_broken``: answers everybody, and ends in bounded time."""
        adapter, guard, thread = self._adapter, self._adapter.guard, self._adapter.thread
        if guard.broken is None and adapter.is_death(*args, **kwargs):
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
            args = adapter.broken_arguments(args)
        Farewell(guard.live_workers()).finish(TERM_BOUND)
        stop_world.free(adapter.queue.read_lock())
        adapter.queue.free_other_locks()
        adapter.queue.unblock()
        self._take_down("terminate_broken", args, kwargs)

    def refuse_more(self) -> None:
        """Have ``submit`` raise why the executor is broken. Any thread."""
        executor = self._adapter.executor()
        if executor is not None:
            executor.submit = Refuser(self._adapter.guard)

    def _begin_joining(self) -> None:
        # No repair may be going on when the queues are closed.
        births = self._adapter.guard.births
        acquired = births.acquire(timeout=REPAIR_BOUND)
        self.joining = True
        if acquired:
            births.release()

    def _take_down(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        adapter = self._adapter
        thread, processes = adapter.thread, adapter.processes_by_pid
        try:
            getattr(type(thread), name)(thread, *args, **kwargs)
        finally:
            self._wait_for_leavers()
            adapter.release.finish()
            # Their process objects hold descriptors.
            self._stuck = set()
            # Once more, now that the watchdog is out of it: the one of two
            # threads that loses the race to reap takes the worker for alive,
            # and its pipes would stay open until another process is started.
            for process in processes.values():
                process.join(0)
            processes.clear()
            adapter.replacements.reap()

    def _wait_for_leavers(self) -> None:
        """See workers out that have left by themselves: the executor has forgotten them already."""
        known = self._adapter.processes_by_pid
        for worker in self._adapter.guard.live_workers():
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
        guard = self._adapter.guard
        self._stuck = stop_world.end_stuck(guard.live_workers(), self._stuck)
        for worker in guard.live_workers():
            if worker.snapshot().phase in (READY, DONE) or worker.is_unknown():
                worker.killed = worker.killed or Kill("repair")
                worker.send(signal.SIGKILL)
        guard.call_later(TERM_BOUND, self._end_idle_workers)
