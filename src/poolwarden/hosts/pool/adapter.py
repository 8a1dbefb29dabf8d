"""The ``Pool`` of `multiprocessing` and of its copies, and their subclasses: one guarded pool.

A host says which module it is and how it pickles: see ``multiprocess.py``. Seams
(private names, the same from 3.10 to 3.15): every submission method puts an
iterator of tasks into ``pool._taskqueue``, which the pool's task thread turns
into messages; the result thread calls ``_set`` of the object in
``pool._cache``; workers are started by ``Pool._repopulate_pool_static``, looked
up at call time; the pool ends by the `Finalize` object ``pool._terminate``,
whichever way it ends. The pool's class is left alone.

The adapter makes the parts, each of which gets what it uses, and answers what
core asks of a host (`PoolAdapter`). What takes more than a few lines is in the
other files of this folder.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from concurrent.futures import CancelledError
from functools import partial
from typing import Any

from ...core.guard import Guard
from ...core.recovery import repair
from ...core.send_gate import Gate
from ...core.tickets import Ticket
from ...errors import ConfigurationError
from ...policy import Policy
from .earlier_jobs import EarlierJobs
from .earlier_tasks import EarlierTasks
from .hooks import PoolHooks
from .host import ENDED, PoolHost
from .issuing import Issuer
from .pool_queue import PoolQueue
from .result_pipe import ResultPipe
from .results import fail_result, take_over
from .shutdown import PoolShutdown
from .submission import TaskQueue
from .task_pipe import TaskPipe
from .threads import PoolThreads
from .unsubmitted import Unsubmitted
from .worker_starts import WorkerStarts


class BasePool(PoolHost):
    """Guards one ``Pool``; a subclass for each host.

    Parameters
    ----------
    policy : Policy
        What the guard does.
    workers : list
        The pool's own list of processes; identifies the pool in
        ``_repopulate_pool_static``, which is not given the pool.
    pool : object
        The pool; while it is made, it has no more than what a subclass gives
        it before it calls ``Pool.__init__``.
    """

    def __init__(self, policy: Policy, workers: list[Any], pool: Any) -> None:
        super().__init__(policy, workers, pool)
        self._pool: weakref.ref[Any] = weakref.ref(pool)
        self.guard = Guard(self, policy, self.title(), getattr(pool, "_processes", 1))
        self.starts = WorkerStarts(self.guard, workers)
        self.patches.watch(self.starts)

    def _attach(self, pool: Any) -> None:
        try:
            self._make_parts(pool)
            # Every part is there before the guard knows of a worker: one of a closed pool may have ended
            # already, and the watchdog asks for any part then.
            had_workers = self.starts.begin()
            self._hooks.set(pool, self)
            if had_workers:
                self._task_queue.register_existing_workers()
            if self._shutdown.came_before():
                raise ConfigurationError(ENDED)
        except BaseException:
            if getattr(pool, "_poolwarden", None) is self:
                self._hooks.restore(pool)
            if hasattr(self, "_shutdown"):
                self._shutdown.retire()
            else:
                self.let_go()
            raise

    def _make_parts(self, pool: Any) -> None:
        """Make what this adapter is made of; each part is given the ones that it uses."""
        guard, tickets = self.guard, self.guard.tickets
        threads = self._threads = PoolThreads(pool, self.module)
        results = self._results = ResultPipe(pool, threads)
        gate = self._gate = Gate()
        pipe = TaskPipe(pool._inqueue._writer, gate)
        jobs = self._earlier_jobs = EarlierJobs(results.cache, tickets)
        issuer = Issuer(guard, results, self.module)
        task_queue = self._task_queue = TaskQueue(
            guard, issuer, pipe, threads, results, jobs, self.starts.workers, self.dumper
        )
        earlier_tasks = EarlierTasks(jobs, guard, results, task_queue, self.loads)
        queue = self._queue = PoolQueue(pool, gate, results, earlier_tasks)
        unsubmitted = Unsubmitted(tickets, gate, task_queue, results, jobs)
        self._shutdown = PoolShutdown(
            pool, guard, threads, self.starts, queue, pipe, results, unsubmitted, self.let_go
        )
        self._hooks = PoolHooks(task_queue, threads.original_queue, self._shutdown, jobs)

    def detach(self, pool: Any) -> None:
        self._hooks.restore(pool)
        pool._poolwarden_leaving = self
        self.guard.retire()

    def come_back(self, pool: Any, policy: Policy) -> bool:
        """Guard a pool again that was unguarded a moment ago; False if its guard has ended."""
        if not self.guard.stay(policy):
            return False
        self._hooks.set(pool, self)
        del pool._poolwarden_leaving
        return True

    def let_go(self) -> None:
        self.patches.forget(self.starts)
        if hasattr(self, "_results"):
            self._results.close()
        self.guard.close()
        if hasattr(self, "_task_queue"):
            self._task_queue.let_go()

    def cancel(self, result: Any) -> bool:
        """Stop the task or tasks behind a result object; False when it has ended."""
        cache = self._results.cache
        # What takes the place of one that is done is another.
        if result._job not in cache or cache[result._job] is not result:
            return False
        # On the object: a set of the jobs' numbers would grow for ever.
        result._poolwarden_cancelled = True
        feed = getattr(result, "_poolwarden_feed", None)
        if feed is not None and feed.take_back():
            take_over(result, self.guard, self._results.quiet_cache)
            self._results.call_behind(partial(fail_result, result, CancelledError()))
            return True
        for ticket in list(self.guard.tickets.open.values()):
            if ticket.key[0] == result._job:
                self.guard.cancel(ticket)
        return True

    # What core asks of a host: PoolAdapter.

    def deliver(self, ticket: Ticket, kind: int, data: bytes) -> None:
        self._results.deliver(ticket, kind, data)

    def answer_unbegun(self, ticket: Ticket) -> None:
        def answer() -> None:
            is_open = ticket.number in self.guard.tickets.open and not ticket.answered
            if is_open and not self.guard.has_begun(ticket):
                self._results.quiet_cache.answer_early(ticket)

        self._results.call_behind(answer)

    def resend(self, tickets: Iterable[Ticket]) -> None:
        self._gate.send_again(tickets)
        self._task_queue.wake()

    def may_worker_leave(self, code: int | None) -> bool:
        pool = self._pool()
        if pool is None or self._threads.is_closed:
            return True
        return code == 0 and pool._maxtasksperchild is not None

    def has_older_tasks(self) -> bool:
        return bool(self._earlier_jobs.unanswered())

    def nudge(self) -> None:
        self._threads.wake_worker_handler()

    def repair(self, guard: Guard) -> None:
        if not self.starts.stopped and self._threads.task_handler.is_alive():
            repair(guard, self._queue)
        self._shutdown.after_repair()

    def catch_up(self, bound: float) -> None:
        if self._results.is_read:
            self._results.wait_behind(lambda: None, bound)

    def is_somebody_sending(self) -> bool:
        return self._queue.is_somebody_sending()

    def on_broken(self) -> None:
        self._task_queue.wake()

    def answered_all(self) -> None:
        if not self.starts.stopped and self._task_queue.is_idle:
            self._shutdown.retire()

    def workers_are_gone(self) -> None:
        self._shutdown.retire_if_ended()

    def disown(self) -> None:
        self.starts.stopped = True
        self.patches.forget(self.starts)
        if hasattr(self, "_results"):
            self._results.disown()
        pool = self._pool()
        if pool is not None:
            if getattr(pool, "_poolwarden", None) is self:
                self._hooks.restore(pool)
            pool.__dict__.pop("_poolwarden_leaving", None)
