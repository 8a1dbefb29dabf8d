"""`multiprocessing.Pool` and its subclasses.

Seams (private names, the same from 3.10 to 3.15): every submission method puts
an iterator of tasks into ``pool._taskqueue``, which the pool's task thread
turns into messages; the result thread calls ``_set`` of the object in
``pool._cache``; workers are started by ``Pool._repopulate_pool_static``, looked
up at call time; the pool ends by the `Finalize` object ``pool._terminate``,
whichever way it ends. The pool's class is left alone.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import logging
import multiprocessing.pool
import pickle
import signal
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Final

from ..core import plumbing, verdicts
from ..core.gate import Gate
from ..core.guard import Guard
from ..core.mailbox import Mailbox
from ..core.repair import repair
from ..core.seams import Patch, Seam, check, check_attributes
from ..core.tickets import Ticket
from ..core.workers import Worker
from ..errors import ConfigurationError
from ..policy import Policy
from ..worker.member import birth
from .base import PoolAdapter
from .pool_feed import TaskQueue
from .pool_older import OlderTasks
from .pool_results import Barrier, QuietCache, fail_result

log = logging.getLogger("poolwarden")

#: Seconds that a worker has between SIGTERM and SIGKILL when the pool ends.
TERM_BOUND: Final = 1.0
#: Failures in a row to start a worker before the pool is given up; about 6 s.
START_TRIES: Final = 10
#: Seconds for one of the pool's own threads to react.
THREAD_BOUND: Final = 2.0

_ATTRIBUTES: Final = (
    "_taskqueue", "_cache", "_inqueue", "_outqueue", "_change_notifier", "_terminate", "_pool", "_state",
    "_task_handler", "_worker_handler", "_result_handler",
)  # fmt: skip
_STATIC: Final = ("processes", "pool", "initializer", "initargs")


class MultiprocessingPool(PoolAdapter):
    """Guards one `multiprocessing.pool.Pool`.

    Parameters
    ----------
    policy : Policy
        What the guard does.
    workers : list
        The pool's own list of processes; identifies the pool in
        ``_repopulate_pool_static``, which is not given the pool.
    """

    name: ClassVar[str] = "Pool"
    module: ClassVar[Any] = multiprocessing.pool
    _births: ClassVar[Patch]
    _construction: ClassVar[Patch]
    _default: ClassVar[Policy | None] = None

    def __init__(self, policy: Policy, workers: list[Any]) -> None:
        super().__init__()
        self.gate = Gate()
        self._list = workers
        self._early: list[Any] | None = []
        self._pool: weakref.ref[Any] = lambda: None  # type: ignore[assignment]
        self._ending = False
        self._retiring = threading.Lock()
        self._failed_starts = 0
        self.guard = Guard(self, policy, f"{self.name}-{next(_numbers)}")
        _by_workers[id(workers)] = self
        self._births.take()

    @classmethod
    def seams(cls) -> tuple[Seam, ...]:
        """Return the private names that are used."""
        return (
            Seam(cls.module.Pool, "_repopulate_pool_static", _STATIC),
            Seam(cls.module.Pool, "_terminate_pool"),
            Seam(cls.module.ApplyResult, "_set"),
            Seam(cls.module.MapResult, "_set"),
            Seam(cls.module.IMapIterator, "_set"),
            Seam(cls.module.IMapIterator, "_set_length"),
        )

    @classmethod
    def guards(cls, pool: object) -> bool:
        """Return whether `pool` is of this host, with processes as workers."""
        return isinstance(pool, cls.module.Pool) and not isinstance(pool, cls.module.ThreadPool)

    @classmethod
    def guard_object(cls, pool: Any, policy: Policy) -> None:
        """Guard `pool`, or change the policy of one that is guarded."""
        adapter = getattr(pool, "_poolwarden", None)
        if adapter is not None:
            adapter.guard.policy = policy
            return
        check(cls.seams(), cls.name)
        check_attributes(pool, _ATTRIBUTES, cls.name)
        if pool._state not in (cls.module.RUN, cls.module.CLOSE):
            raise ConfigurationError("the pool has been terminated already; there is nothing left to guard")
        cls(policy, pool._pool).attach(pool)

    @classmethod
    def unguard_object(cls, pool: Any) -> None:
        """Leave `pool` to itself."""
        adapter = getattr(pool, "_poolwarden", None)
        if adapter is not None:
            adapter.detach(pool)

    @classmethod
    def install(cls, policy: Policy) -> None:
        """Guard every pool of this host from its birth."""
        check(cls.seams(), cls.name)
        if cls._default is None:
            cls._construction.take()
        cls._default = policy

    @classmethod
    def uninstall(cls) -> None:
        """Take `install` back."""
        cls._default = None
        cls._construction.drop()

    def attach(self, pool: Any) -> None:
        """Hook `pool` up; its private names have been checked."""
        self._pool = weakref.ref(pool)
        self.cache: dict[Any, Any] = pool._cache
        self._inqueue, self._outqueue = pool._inqueue, pool._outqueue
        self._notifier = pool._change_notifier
        self.task_handler, self._worker_handler = pool._task_handler, pool._worker_handler
        self._result_handler = pool._result_handler
        self.quiet_cache = QuietCache(
            pool._cache, pool._worker_handler, pool._change_notifier, self.module.RUN
        )
        _spare_worker_handler(pool)
        self._mailbox = Mailbox(pool._outqueue._writer)
        self._queue = pool._taskqueue
        self.task_writer = pool._inqueue._writer
        self.older_tasks = OlderTasks(self)
        with self.guard.births:
            older = self._early == []
            for process in list(self._list) if older else self._early or []:
                self.guard.born(process, older=older)
            self._early = None
        self.line = TaskQueue(self, self._queue)
        pool._taskqueue = self.line
        pool._poolwarden = self
        finalizer = pool._terminate
        self._terminate_bare = finalizer._callback
        finalizer._callback = self.terminate
        self.older_tasks.forget_waiting(self.line.adopt_waiting())
        if older:
            self.line.call_roll(len(self._list))

    def detach(self, pool: Any) -> None:
        """Leave `pool` to itself; tasks in flight stay guarded until they are answered."""
        pool._taskqueue = self._queue
        del pool._poolwarden
        self.guard.retire()

    def answered_all(self) -> None:
        pool = self._pool()
        if pool is not None and not self._ending and self.line.is_idle:
            self._retire(pool)

    def workers_are_gone(self) -> None:
        pool = self._pool()
        # Closed, and everything is answered. Without this an on_event that
        # refers to the pool would keep it alive until the exit.
        if pool is not None and not self._ending and not self._worker_handler.is_alive() and not self.cache:
            self._retire(pool)

    def _retire(self, pool: Any) -> None:
        """Let go of a pool that needs no guard any more; several threads may get here."""
        if self._retiring.acquire(blocking=False):
            pool._terminate._callback = self._terminate_bare
            self._forget()
            self._mailbox.close()
            self.guard.close()

    # Births.

    def repopulate(self, start: Any, arguments: dict[str, Any]) -> None:
        """Start missing workers under the guard. Worker handler's thread, or the pool's maker."""
        guard = self.guard
        guard.wait_for_burials()
        guard.breaker.wait_before_birth()
        with guard.births:
            if guard.broken is not None or self._ending:
                return
            initargs = (guard.folder, arguments["initializer"], arguments["initargs"])
            before = {id(process) for process in self._list}
            try:
                start(**{**arguments, "initializer": birth, "initargs": initargs})
                self._failed_starts = 0
            except Exception as error:
                # In the worker handler's thread: it would end, and nobody
                # would ever replace a worker or end the pool.
                if self._early is not None:
                    raise
                self._try_again(error, start, arguments)
            finally:
                new = [process for process in self._list if id(process) not in before]
                if self._early is not None:
                    self._early.extend(new)
                else:
                    for process in new:
                        guard.born(process)
        guard.dismiss_strays()

    def _try_again(self, error: Exception, start: Any, arguments: dict[str, Any]) -> None:
        """No worker could be started: no memory, no process left, or a fork server that dies."""
        self._failed_starts += 1
        reason = f"no worker can be started ({type(error).__name__}: {error})"
        if self._failed_starts >= START_TRIES:
            self.guard.break_pool(reason)
            return
        self.guard.tell("init_failed", detail=reason)
        pause = min(0.05 * 2**self._failed_starts, 1.0)
        self.guard.call_later(pause, lambda: self.repopulate(start, arguments))

    # PoolAdapter.

    def processes(self) -> list[Any]:
        return list(self._list)

    def with_remote_traceback(self, error: BaseException, text: str) -> BaseException:
        error.__cause__ = self.module.RemoteTraceback(f'\n"""\n{text}"""')
        return error

    def unsendable(self, why: str, what: str, text: str, cause: BaseException | None) -> BaseException:
        error: BaseException = self.module.MaybeEncodingError.__new__(self.module.MaybeEncodingError)
        # Its __init__ takes the objects themselves and keeps only their repr.
        error.exc, error.value = why, what  # type: ignore[attr-defined]
        error.args = (why, what)
        return error

    def deliver(self, ticket: Ticket, kind: int, data: bytes) -> None:
        job, _ = ticket.key
        self.post((job, -ticket.number, (True, (ticket.number, kind, data))))

    def post(self, message: Any) -> None:
        """Put a message of the workers' form into the result pipe; never blocks."""
        self._mailbox.post(pickle.dumps(message))

    def resend(self, tickets: Iterable[Ticket]) -> None:
        self.gate.send_again(tickets)
        self.line.poke()

    def may_worker_leave(self, code: int | None) -> bool:
        pool = self._pool()
        if pool is None or self._worker_handler._state != self.module.RUN:
            return True
        return code == 0 and pool._maxtasksperchild is not None

    def nudge(self) -> None:
        # A grandchild may hold the sentinel open that the pool waits for.
        with contextlib.suppress(OSError, ValueError):
            self._notifier.put(None)

    def repair(self, guard: Guard) -> None:
        if not self._ending and self.task_handler.is_alive():
            repair(guard, self)
        if self._worker_handler._state != self.module.RUN:
            # What tells the workers of a closed pool to leave may have been
            # lost with the dead one, or in this repair; and not yet be missed.
            self._end_idle_workers()
            guard.call_later(TERM_BOUND, self._end_idle_workers)

    # core.repair.HostQueue.

    def reader(self) -> int:
        return int(self._inqueue._reader.fileno())

    def read_lock(self) -> Any:
        return getattr(self._inqueue, "_rlock", None)

    def free_other_locks(self) -> None:
        plumbing.free(getattr(self._outqueue, "_wlock", None))

    def is_quiet(self) -> bool:
        return not self.gate.busy

    def may_keep(self, worker: Worker) -> bool:
        return self.older_tasks.may_be_run_by(worker)

    def empty(self) -> None:
        self.drain(self.is_quiet)

    def call_behind(self, action: Callable[[], None]) -> None:
        def both() -> None:
            action()
            self.older_tasks.after_repair()

        self.post((Barrier(self.quiet_cache, both).job, 0, None))

    def drain(self, finished: Callable[[], bool]) -> None:
        """Empty the task pipe until `finished` says that nobody writes any more."""
        left = bytearray()

        def step() -> bool:
            done = finished()
            left.extend(plumbing.read_available(self.reader()))
            return done

        plumbing.wait_until(step, THREAD_BOUND)
        self.older_tasks.rescue(bytes(left))

    def _end_idle_workers(self) -> None:
        """End who is left of a pool that is closed and has answered everything."""
        if self._worker_handler.is_alive():
            return
        workers = self.guard.live_workers()
        plumbing.wait_until(lambda: all(worker.has_ended() for worker in workers), TERM_BOUND)
        for worker in workers:
            worker.send(signal.SIGKILL)

    def on_broken(self) -> None:
        self.line.poke()

    def cancel(self, result: Any) -> bool:
        """Stop the task or tasks behind a result object; False when it has ended."""
        if result._job not in self.cache:
            return False
        self.line.cancelled.add(result._job)
        for ticket in list(self.guard.tickets.open.values()):
            if ticket.key[0] == result._job:
                self.guard.cancel(ticket)
        return True

    # The end of the pool.

    def terminate(self, *args: Any) -> None:
        """Stand in for ``Pool._terminate_pool``: ends in bounded time, answers everybody."""
        try:
            self._put_down()
        except Exception:
            log.exception("poolwarden: could not end the workers; the pool tries by itself")
        if not self._result_handler.is_alive():
            # The pool asserts that nothing is left then.
            self._fail_the_rest()
        try:
            self._terminate_bare(*args)
        finally:
            self._forget()
            self._fail_the_rest()
            self._mailbox.close()
            self.guard.close()

    def _fail_the_rest(self) -> None:
        """Answer whatever was not answered; the result thread has ended."""
        open_tickets = list(self.guard.tickets.open.values())
        for result in list(self.cache.values()):
            if isinstance(result, Barrier):
                self.cache.pop(result.job, None)
                continue
            info = next((ticket.info() for ticket in open_tickets if ticket.key[0] == result._job), None)
            fail_result(result, verdicts.pool_broken("it was terminated before the task ended", task=info))

    def _put_down(self) -> None:
        guard = self.guard
        # A repair may be going on; it is bounded.
        acquired = guard.births.acquire(timeout=THREAD_BOUND)
        try:
            self._ending = True
            guard.breaker.stop_waiting()
            guard.stop_watching()
            plumbing.end_workers(guard.live_workers(), TERM_BOUND)
            plumbing.free(self.read_lock())
            self.free_other_locks()
            self._worker_handler._state = self.module.TERMINATE
            self.task_handler._state = self.module.TERMINATE
            self.gate.open()
            self.nudge()
            if not self._worker_handler.is_alive():
                # Whatever ended it, it may not have told the task thread.
                self._queue.put(None)
        finally:
            if acquired:
                guard.births.release()
        if threading.current_thread() is not self.task_handler:
            # What the dead left half read would be unpickled by the pool.
            self.drain(lambda: not self.task_handler.is_alive())

    def abandon(self) -> None:
        """The pool could not be made."""
        self._forget()
        self.guard.close()

    def _forget(self) -> None:
        if _by_workers.pop(id(self._list), None) is not None:
            self._births.drop()


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


_numbers = itertools.count(1)
#: Guarded pools by the id of their list of workers, which lives as long as they do.
_by_workers: dict[int, MultiprocessingPool] = {}
#: The policy of the pool that this thread is making, and what guards it.
_making = threading.local()


def _on_repopulate(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    arguments = inspect.signature(wrapped).bind(*args, **kwargs).arguments
    adapter = _by_workers.get(id(arguments["pool"]))
    make = getattr(_making, "adapter", None)
    if adapter is None and make is not None:
        adapter = make(arguments["pool"])
    if adapter is None:
        return wrapped(*args, **kwargs)
    return adapter.repopulate(wrapped, arguments)


def _on_construction(wrapped: Any, pool: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Guard a pool from its birth; a pool that cannot be guarded is made bare, with one warning."""
    policy = MultiprocessingPool._default
    if policy is None or not MultiprocessingPool.guards(pool):
        wrapped(*args, **kwargs)
        return
    made: list[MultiprocessingPool] = []

    def make(workers: list[Any]) -> MultiprocessingPool | None:
        del _making.adapter
        try:
            made.append(MultiprocessingPool(policy, workers))
        except Exception as error:
            log.warning("poolwarden: this pool is not guarded: %s", error)
            return None
        return made[0]

    MultiprocessingPool._births.take()
    _making.adapter = make
    try:
        wrapped(*args, **kwargs)
    except BaseException:
        for adapter in made:
            adapter.abandon()
        raise
    finally:
        if hasattr(_making, "adapter"):
            del _making.adapter
        MultiprocessingPool._births.drop()
    for adapter in made:
        adapter.attach(pool)


MultiprocessingPool._births = Patch(multiprocessing.pool.Pool, "_repopulate_pool_static", _on_repopulate)
MultiprocessingPool._construction = Patch(multiprocessing.pool.Pool, "__init__", _on_construction)
