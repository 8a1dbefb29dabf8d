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
from collections.abc import Callable
from typing import Any, Final

from ...core import error_texts, stop_world
from ...core.farewell import Farewell
from ...core.guard import Guard
from ...core.workers import Worker
from ...system.complaints import complain
from ...system.interruption import is_interruption
from .pool_queue import PoolQueue
from .result_pipe import ResultPipe
from .results import Barrier, Remains, end_result
from .task_pipe import TaskPipe, write_message
from .threads import PoolThreads
from .unsubmitted import Unsubmitted
from .worker_starts import WorkerStarts

log = logging.getLogger("poolwarden")

#: Seconds that a worker has between SIGTERM and SIGKILL, or to leave by itself.
TERM_BOUND: Final = 1.0
#: Seconds for busy workers to end by SIGTERM before idle ones are told to leave.
TOLD_BOUND: Final = 0.02
#: Seconds that a repair that is going on may take.
REPAIR_BOUND: Final = 2.0
#: Seconds for the worker handler to end once it has nothing left to do.
HANDLER_BOUND: Final = 0.1


class PoolShutdown:
    """Stands in for ``Pool._terminate_pool`` of one pool, and looks after one that is closed.

    Parameters
    ----------
    pool : object
        The pool; it is not kept.
    guard : Guard
        Its guard.
    threads, starts, queue, pipe, results, unsubmitted : object
        What has to be ended, emptied or answered.
    release : callable
        Releases all that the guard of the pool holds.
    """

    def __init__(
        self,
        pool: Any,
        guard: Guard,
        threads: PoolThreads,
        starts: WorkerStarts,
        queue: PoolQueue,
        pipe: TaskPipe,
        results: ResultPipe,
        unsubmitted: Unsubmitted,
        release: Callable[[], None],
    ) -> None:
        self._guard = guard
        self._threads = threads
        self._starts = starts
        self._queue = queue
        self._pipe = pipe
        self._results = results
        self._unsubmitted = unsubmitted
        self._release = release
        self._finalizer = pool._terminate
        self._original = self._finalizer._callback
        self._finalizer._callback = self._terminate
        self._once = threading.Lock()
        self._stuck: set[Worker] = set()
        self._seeing_out = False
        self._began = False

    def came_before(self) -> bool:
        """Return whether the pool was terminated by somebody who had not met this guard."""
        return not self._began and not self._finalizer.still_active()

    def retire(self) -> None:
        """Let go of a pool that needs no guard any more; several threads may get here."""
        if self._once.acquire(blocking=False):
            self._finalizer._callback = self._original
            self._release()

    def retire_if_ended(self) -> None:
        """Let go of a pool without workers, if it is closed and everything is answered."""
        # Without this an on_event that refers to the pool would keep it alive until the exit.
        if self._starts.stopped or self._results.cache or not self._threads.is_closed:
            return
        # It has told the workers to leave, and may be about to end itself.
        self._threads.worker_handler.join(HANDLER_BOUND)
        if not self._threads.worker_handler.is_alive():
            # terminate() of a pool that has ended still takes them.
            stop_world.free(self._queue.read_lock())
            self._queue.free_other_locks()
            self.retire()

    def after_repair(self) -> None:
        """See the idle workers of a closed pool out; what tells them to leave may have been lost."""
        if self._threads.is_closed:
            # With the dead one, or in this repair; and it may not be missed yet.
            self.end_idle_workers()
            self._guard.call_later(TERM_BOUND, self.end_idle_workers)

    def end_idle_workers(self) -> None:
        """End who is left of a pool that is closed and has answered everything."""
        if self._threads.worker_handler.is_alive():
            return
        workers = self._guard.live_workers()
        stop_world.wait_until(lambda: all(worker.has_ended() for worker in workers), TERM_BOUND)
        for worker in workers:
            worker.send(signal.SIGKILL)

    def see_workers_out(self) -> None:
        """End workers that will never leave, from now on, if the pool is closed. Any thread."""
        if self._threads.is_closed and not self._seeing_out and not self._guard.closed:
            self._seeing_out = True
            self._guard.call_later(TERM_BOUND, self._end_stuck_workers)

    def _end_stuck_workers(self) -> None:
        if self._threads.worker_handler.is_alive():
            self._unsubmitted.look()
        else:
            self._stuck = stop_world.end_stuck(self._guard.live_workers(), self._stuck)
        self._guard.call_later(TERM_BOUND, self._end_stuck_workers)

    def _terminate(self, *args: Any) -> None:
        self._began = True
        try:
            self._put_down_safely()
        finally:
            try:
                if not self._results.is_read:
                    # The pool asserts that nothing is left then.
                    self._fail_the_rest()
                self._original(*args)
            finally:
                self._fail_the_rest()
                self._release()

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
        guard, queue = self._guard, self._queue
        acquired = guard.births.acquire(timeout=REPAIR_BOUND)
        try:
            self._starts.stopped = True
            guard.breaker.stop_waiting()
            guard.stop_watching()
            farewell = Farewell(guard.live_workers())
            leaving = farewell.idle(queue.reader()) if self._may_wait() else []
            farewell.tell_all_but(leaving)
            # Before the words: one that gets to the pipe before SIGTERM gets to it takes its lock with it.
            may_leave = bool(leaving) and farewell.await_told(TOLD_BOUND)
            self._stop_threads()
            if may_leave:
                self._tell_to_leave(len(leaving))
                farewell.see_out(leaving)
            farewell.finish(TERM_BOUND)
            stop_world.free(queue.read_lock())
            queue.free_other_locks()
        finally:
            if acquired:
                guard.births.release()
        if self._may_wait():
            # What the dead left half read would be unpickled by the pool.
            queue.drain(self._has_task_thread_ended)

    def _has_task_thread_ended(self) -> bool:
        return not self._threads.task_handler.is_alive()

    def _may_wait(self) -> bool:
        """Return whether the task thread is another one, which can be waited for."""
        return threading.current_thread() is not self._threads.task_handler

    def _stop_threads(self) -> None:
        """Have the pool's threads end; the task thread tells the workers to leave before it does."""
        self._threads.end()
        self._pipe.gate.open()
        self._guard.tickets.relief.set()
        self._threads.wake_both()

    def _tell_to_leave(self, count: int) -> None:
        """See to it that `count` idle workers find the word to leave, and no task before it."""
        lock = self._queue.read_lock()
        if lock is not None and not lock.acquire(False):
            # One of them holds it, and waits for what the task thread writes.
            return
        try:
            # Nobody reads: all are busy, or on their way from a task to the pipe.
            self._queue.drain(self._has_task_thread_ended)
            word = pickle.dumps(None)
            for _ in range(count):
                write_message(self._pipe.connection, word)
        except OSError:
            log.debug("poolwarden: the workers cannot be told to leave", exc_info=True)
        finally:
            if lock is not None:
                lock.release()

    def _fail_the_rest(self) -> None:
        """Answer whatever was not answered; the result thread has ended."""
        cache = self._results.cache
        open_tickets = list(self._guard.tickets.open.values())
        for result in list(cache.values()):
            if isinstance(result, Barrier):
                cache.pop(result.job, None)
                continue
            if isinstance(result, Remains):
                continue
            info = next((ticket.info() for ticket in open_tickets if ticket.key[0] == result._job), None)
            error = error_texts.pool_broken("it was terminated before the task ended", task=info)
            end_result(result, error, self._results.quiet_cache)
