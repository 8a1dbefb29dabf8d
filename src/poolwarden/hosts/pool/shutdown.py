"""The end of a guarded pool of `multiprocessing` or a copy of it, whichever way it ends.

Covers ``terminate``, the end of ``with``, being collected and the exit of the
interpreter (all come through the pool's `Finalize` object), a pool that was
closed and has ended by itself, and one that was unguarded. Every wait is
bounded, and nobody is left without an answer.
"""

from __future__ import annotations

import logging
import pickle
import signal
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final

from ...core import error_texts, stop_world
from ...core.farewell import Farewell
from ...core.workers import Worker
from ...system.complaints import complain
from ...system.interruption import is_interruption
from .feed import write_message
from .results import Barrier, Remains, end_result
from .unsubmitted import Unsubmitted

if TYPE_CHECKING:
    from .adapter import BasePool

log = logging.getLogger("poolwarden")

#: Seconds that a worker has between SIGTERM and SIGKILL, or to leave by itself.
TERM_BOUND: Final = 1.0
#: Seconds for busy workers to end by SIGTERM before idle ones are told to leave.
TOLD_BOUND: Final = 0.02
#: Seconds that a repair that is going on may take.
REPAIR_BOUND: Final = 2.0


class PoolEnd:
    """Stands in for ``Pool._terminate_pool`` of one pool, and looks after one that is closed."""

    def __init__(self, adapter: BasePool, pool: Any) -> None:
        self._adapter = adapter
        self._result_handler = pool._result_handler
        self._finalizer = pool._terminate
        self._bare = self._finalizer._callback
        self._finalizer._callback = self._terminate
        self._once = threading.Lock()
        self._stuck: set[Worker] = set()
        self._seeing_out = False
        self._began = False
        self._unsubmitted = Unsubmitted(adapter)

    def came_before(self) -> bool:
        """Return whether the pool was terminated by somebody who had not met this guard."""
        return not self._began and not self._finalizer.still_active()

    def retire(self) -> None:
        """Let go of a pool that needs no guard any more; several threads may get here."""
        if self._once.acquire(blocking=False):
            self._finalizer._callback = self._bare
            self._adapter.let_go()

    def end_idle_workers(self) -> None:
        """End who is left of a pool that is closed and has answered everything."""
        if self._adapter.worker_handler.is_alive():
            return
        workers = self._adapter.guard.live_workers()
        stop_world.wait_until(lambda: all(worker.has_ended() for worker in workers), TERM_BOUND)
        for worker in workers:
            worker.send(signal.SIGKILL)

    def hook(self, pool: Any) -> None:
        """See to it that the workers leave once `pool` is closed, or if it is already."""
        # Not ``close`` itself: whoever keeps the bound method keeps the pool.
        pool._change_notifier = _Notifier(pool._change_notifier, self)
        # On the object, and weak: nothing here may keep the pool, nor make a cycle.
        pool._worker_handler.join = _Join(pool)
        self.see_workers_out()

    @staticmethod
    def unhook(pool: Any) -> None:
        """Leave `pool` to itself when it is closed."""
        pool._change_notifier = pool._change_notifier.bare
        del pool._worker_handler.join

    @property
    def has_result_thread(self) -> bool:
        """Whether the pool's result thread still reads what comes."""
        return bool(self._result_handler.is_alive())

    def see_workers_out(self) -> None:
        """End workers that will never leave, from now on, if the pool is closed. Any thread."""
        adapter = self._adapter
        is_closed = adapter.worker_handler._state != adapter.module.RUN
        if is_closed and not self._seeing_out and not adapter.guard.closed:
            self._seeing_out = True
            adapter.guard.call_later(TERM_BOUND, self._end_stuck_workers)

    def _end_stuck_workers(self) -> None:
        guard = self._adapter.guard
        if self._adapter.worker_handler.is_alive():
            self._unsubmitted.look()
        else:
            self._stuck = stop_world.end_stuck(guard.live_workers(), self._stuck)
        guard.call_later(TERM_BOUND, self._end_stuck_workers)

    def _terminate(self, *args: Any) -> None:
        self._began = True
        try:
            self._put_down_safely()
        finally:
            try:
                if not self._result_handler.is_alive():
                    # The pool asserts that nothing is left then.
                    self._fail_the_rest()
                self._bare(*args)
            finally:
                self._fail_the_rest()
                self._adapter.let_go()

    def _put_down_safely(self) -> None:
        try:
            self._put_down()
        except BaseException as error:
            if isinstance(error, Exception) and not is_interruption(error):
                complain("poolwarden: could not end the workers; the pool tries by itself", error)
                return
            # A signal handler's, in the middle. Nobody can terminate the pool a second time.
            self._put_down()
            raise

    def _put_down(self) -> None:
        """End the workers and free the pool's locks, which it would wait for without a bound."""
        adapter, guard = self._adapter, self._adapter.guard
        acquired = guard.births.acquire(timeout=REPAIR_BOUND)
        try:
            adapter.ending = True
            guard.breaker.stop_waiting()
            guard.stop_watching()
            farewell = Farewell(guard.live_workers())
            leaving = farewell.idle(adapter.reader()) if self._may_wait() else []
            farewell.tell_all_but(leaving)
            # Before the words: one that gets to the pipe before SIGTERM gets to it takes its lock with it.
            may_leave = bool(leaving) and farewell.await_told(TOLD_BOUND)
            self._stop_threads()
            if may_leave:
                self._tell_to_leave(len(leaving))
                farewell.see_out(leaving)
            farewell.finish(TERM_BOUND)
            stop_world.free(adapter.read_lock())
            adapter.free_other_locks()
        finally:
            if acquired:
                guard.births.release()
        if self._may_wait():
            # What the dead left half read would be unpickled by the pool.
            adapter.drain(lambda: not adapter.task_handler.is_alive())

    def _may_wait(self) -> bool:
        """Return whether the task thread is another one, which can be waited for."""
        return threading.current_thread() is not self._adapter.task_handler

    def _stop_threads(self) -> None:
        """Have the pool's threads end; the task thread tells the workers to leave before it does."""
        adapter = self._adapter
        adapter.worker_handler._state = adapter.module.TERMINATE
        adapter.task_handler._state = adapter.module.TERMINATE
        adapter.gate.open()
        adapter.guard.tickets.relief.set()
        # As the worker handler does, which has to be woken for it and may have ended.
        adapter.bare_queue.put(None)
        adapter.nudge()

    def _tell_to_leave(self, count: int) -> None:
        """See to it that `count` idle workers find the word to leave, and no task before it."""
        adapter, lock = self._adapter, self._adapter.read_lock()
        if lock is not None and not lock.acquire(False):
            # One of them holds it, and waits for what the task thread writes.
            return
        try:
            # Nobody reads: all are busy, or on their way from a task to the pipe.
            adapter.drain(lambda: not adapter.task_handler.is_alive())
            word = pickle.dumps(None)
            for _ in range(count):
                write_message(adapter.task_writer, word)
        except OSError:
            log.debug("poolwarden: the workers cannot be told to leave", exc_info=True)
        finally:
            if lock is not None:
                lock.release()

    def _fail_the_rest(self) -> None:
        """Answer whatever was not answered; the result thread has ended."""
        adapter = self._adapter
        open_tickets = list(adapter.guard.tickets.open.values())
        for result in list(adapter.cache.values()):
            if isinstance(result, Barrier):
                adapter.cache.pop(result.job, None)
                continue
            if isinstance(result, Remains):
                continue
            info = next((ticket.info() for ticket in open_tickets if ticket.key[0] == result._job), None)
            error = error_texts.pool_broken("it was terminated before the task ended", task=info)
            end_result(result, error, adapter.quiet_cache)


class _Notifier:
    """Stands in for ``pool._change_notifier``, by which ``close`` wakes the worker handler."""

    def __init__(self, bare: Any, end: PoolEnd) -> None:
        self.bare = bare
        self._end = end

    def put(self, item: Any) -> None:
        """As the host's."""
        self.bare.put(item)
        self._end.see_workers_out()


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
