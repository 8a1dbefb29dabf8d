"""The ``Pool`` of `multiprocessing` and of its copies, and their subclasses.

A host says which module it is and how it pickles: see ``pool.py``. Seams
(private names, the same from 3.10 to 3.15): every submission method puts an
iterator of tasks into ``pool._taskqueue``, which the pool's task thread turns
into messages; the result thread calls ``_set`` of the object in
``pool._cache``; workers are started by ``Pool._repopulate_pool_static``, looked
up at call time; the pool ends by the `Finalize` object ``pool._terminate``,
whichever way it ends. The pool's class is left alone.

The adapter itself answers to the three contracts (`PoolAdapter`, the repair's
`HostQueue`, what hosts override), in one place; what takes more than a few
lines is in the other files of this folder.
"""

from __future__ import annotations

import contextlib
import importlib
import pickle
import threading
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from functools import partial
from typing import Any, ClassVar, Final

from ...core import stop_world
from ...core.belonging import is_made_here
from ...core.guard import Guard
from ...core.recovery import repair
from ...core.send_gate import Gate
from ...core.tickets import Ticket
from ...core.workers import Worker
from ...errors import ConfigurationError
from ...policy import Policy
from ...system.mailbox import Mailbox
from ...system.patches import Seam, attributes_of, check, check_attributes
from ...system.stepping import in_one_step
from ..base import NOT_OURS, PoolAdapter
from . import chunk_size
from .earlier_tasks import OlderTasks
from .feed import TaskQueue
from .results import Barrier, QuietCache, fail_result, take_over
from .shutdown import TERM_BOUND, PoolEnd
from .worker_starts import Births, PoolPatches

_ENDED: Final = "the pool has been terminated already; there is nothing left to guard"
#: Seconds for one of the pool's own threads to react.
THREAD_BOUND: Final = 2.0

_ATTRIBUTES: Final = (
    "_taskqueue", "_cache", "_inqueue", "_outqueue", "_change_notifier", "_terminate", "_pool", "_state",
    "_task_handler", "_worker_handler", "_result_handler", "_processes", "_map_async", "_check_running",
)  # fmt: skip
_QUEUE_ATTRIBUTES: Final = ("_reader", "_writer", "_rlock")
#: Seconds for the result thread to come to what is to be done behind the answers on their way.
BEHIND_BOUND: Final = 0.1
#: Seconds for the worker handler to end once it has nothing left to do.
HANDLER_BOUND: Final = 0.1
#: Seconds from the first call of older workers to join to the second; each pause is twice the one before.
ROLL_PAUSE: Final = 0.25
_STATIC: Final = ("Process", "processes", "pool", "initializer", "initargs")


class BasePool(PoolAdapter):
    """Guards one ``Pool``; a subclass for each host.

    Attributes
    ----------
    module : module
        Where the host has its ``Pool``. Not a subclass of one: that of
        another host, or of none, has no seams of its own.

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

    module: ClassVar[Any]
    patches: ClassVar[PoolPatches]

    def __init_subclass__(cls) -> None:
        if "module" in vars(cls):
            cls.patches = PoolPatches(cls)

    def __init__(self, policy: Policy, workers: list[Any], pool: Any) -> None:
        super().__init__()
        self.gate = Gate()
        self.ending = False
        self._pool: weakref.ref[Any] = weakref.ref(pool)
        self.guard = Guard(self, policy, self.title(), getattr(pool, "_processes", 1))
        self.births = Births(self, workers)

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
    def all_seams(cls) -> tuple[Seam, ...]:
        """Return them, and the attributes that a pool has to have."""
        queues = importlib.import_module(cls.module.__name__.replace(".pool", ".queues"))
        return (
            *cls.seams(),
            *attributes_of(cls.module.Pool, _ATTRIBUTES),
            *attributes_of(queues.SimpleQueue, _QUEUE_ATTRIBUTES),
        )

    @classmethod
    def guards(cls, pool: object) -> bool:
        """Return whether `pool` is of this host, with processes as workers."""
        return isinstance(pool, cls.module.Pool) and not isinstance(pool, cls.module.ThreadPool)

    @classmethod
    def class_for(cls, pool: object) -> type[BasePool]:
        """Return this class, or the one of a subclass of the host's pool, if it has its own."""
        return next((special for special in cls.__subclasses__() if special.guards(pool)), cls)

    @classmethod
    def guard_object(cls, pool: Any, policy: Policy) -> None:
        """Guard `pool`, or change the policy of one that is guarded."""
        in_one_step(lambda: cls._guard(pool, policy))

    @classmethod
    def _guard(cls, pool: Any, policy: Policy) -> None:
        adapter = getattr(pool, "_poolwarden", None)
        if adapter is not None:
            adapter.guard.policy = policy
            return
        leaving = pool.__dict__.get("_poolwarden_leaving")
        if leaving is not None and leaving.come_back(pool, policy):
            return
        check(cls.seams(), cls.name)
        check_attributes(pool, _ATTRIBUTES, cls.name)
        if not all(map(is_made_here, pool._pool)):
            raise ConfigurationError(NOT_OURS)
        check_attributes(pool._inqueue, _QUEUE_ATTRIBUTES, cls.name)
        check_attributes(pool._outqueue, _QUEUE_ATTRIBUTES, cls.name)
        if pool._state not in (cls.module.RUN, cls.module.CLOSE):
            raise ConfigurationError(_ENDED)
        cls.class_for(pool)(policy, pool._pool, pool).attach(pool)

    @classmethod
    def unguard_object(cls, pool: Any) -> None:
        """Leave `pool` to itself."""
        in_one_step(lambda: cls._unguard(pool))

    @staticmethod
    def _unguard(pool: Any) -> None:
        adapter = getattr(pool, "_poolwarden", None)
        if adapter is not None:
            adapter.detach(pool)

    @classmethod
    def install(cls, policy: Policy) -> None:
        """Guard every pool of this host from its birth."""
        check(cls.seams(), cls.name)
        cls.patches.install(policy)

    @classmethod
    def uninstall(cls) -> None:
        """Take `install` back."""
        cls.patches.uninstall()

    def attach(self, pool: Any) -> None:
        """Hook `pool` up in one step; its private names have been checked. If that fails, it is as it was."""
        in_one_step(lambda: self._attach_or_withdraw(pool))

    def _attach_or_withdraw(self, pool: Any) -> None:
        try:
            self._attach(pool)
            if self.end.came_before():
                raise ConfigurationError(_ENDED)
        except BaseException:
            if getattr(pool, "_poolwarden", None) is self:
                self._unhook(pool)
            if hasattr(self, "end"):
                self.end.retire()
            else:
                self.let_go()
            raise

    def _attach(self, pool: Any) -> None:
        self.cache: dict[Any, Any] = pool._cache
        self._inqueue, self._outqueue = pool._inqueue, pool._outqueue
        self._notifier = pool._change_notifier
        self.task_handler, self.worker_handler = pool._task_handler, pool._worker_handler
        self.quiet_cache = QuietCache(
            pool._cache, pool._worker_handler, pool._change_notifier, self.module.RUN
        )
        _spare_worker_handler(pool)
        self._mailbox = Mailbox(pool._outqueue._writer)
        self.bare_queue = pool._taskqueue
        self.task_writer = pool._inqueue._writer
        self.older_tasks = OlderTasks(self)
        self.line = TaskQueue(self, self.bare_queue)
        # Every part is there before the guard knows of a worker: one of a closed pool may have ended
        # already, and the watchdog asks for any part then.
        self.end = PoolEnd(self, pool)
        older = self.births.begin()
        self._hook(pool)
        if older:
            self._call_roll(ROLL_PAUSE)

    def _hook(self, pool: Any) -> None:
        pool._taskqueue = self.line
        chunk_size.hook(pool)
        self.end.hook(pool)
        pool._poolwarden = self
        # The cache is read after the hook: whoever still has the bare queue has put his job into the cache.
        self.older_tasks.note()
        self.older_tasks.forget_waiting(self.line.adopt_waiting())

    def _unhook(self, pool: Any) -> None:
        pool._taskqueue = self.bare_queue
        chunk_size.unhook(pool)
        self.end.unhook(pool)
        del pool._poolwarden

    def _call_roll(self, pause: float) -> None:
        """Let workers that are older than the guard join it; again, while some still start or are busy."""
        missing = [worker for worker in self.guard.live_workers() if worker.is_unknown()]
        if missing and not self.ending:
            self.line.call_roll(len(missing))
            self.guard.call_later(pause, lambda: self._call_roll(2 * pause))

    def detach(self, pool: Any) -> None:
        """Leave `pool` to itself; tasks in flight stay guarded until they are answered."""
        self._unhook(pool)
        pool._poolwarden_leaving = self
        self.guard.retire()

    def come_back(self, pool: Any, policy: Policy) -> bool:
        """Guard a pool again that was unguarded a moment ago; False if its guard has ended."""
        if not self.guard.stay(policy):
            return False
        self._hook(pool)
        del pool._poolwarden_leaving
        return True

    def disown(self) -> None:
        self.ending = True
        self.births.end()
        if hasattr(self, "_mailbox"):
            self._mailbox.disown()
        pool = self._pool()
        if pool is not None:
            if getattr(pool, "_poolwarden", None) is self:
                self._unhook(pool)
            pool.__dict__.pop("_poolwarden_leaving", None)

    def answered_all(self) -> None:
        if not self.ending and self.line.is_idle:
            self.end.retire()

    def workers_are_gone(self) -> None:
        # Closed, and everything is answered. Without this an on_event that
        # refers to the pool would keep it alive until the exit.
        if self.ending or self.cache or self.worker_handler._state == self.module.RUN:
            return
        # It has told the workers to leave, and may be about to end itself.
        self.worker_handler.join(HANDLER_BOUND)
        if not self.worker_handler.is_alive():
            # terminate() of a pool that has ended still takes them.
            stop_world.free(self.read_lock())
            self.free_other_locks()
            self.end.retire()

    def let_go(self) -> None:
        """Release all that the guard holds; twice is no error."""
        self.births.end()
        if hasattr(self, "_mailbox"):
            self._mailbox.close()
        self.guard.close()
        if hasattr(self, "line") and not self.task_handler.is_alive():
            self.line.let_go()

    # PoolAdapter.

    def processes(self) -> list[Any]:
        return list(self.births.workers)

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

    def answer_unbegun(self, ticket: Ticket) -> None:
        def answer() -> None:
            is_open = ticket.number in self.guard.tickets.open and not ticket.answered
            if is_open and not self.guard.has_begun(ticket):
                self.quiet_cache.answer_early(ticket)

        self.post((Barrier(self.quiet_cache, answer).job, 0, None))

    def resend(self, tickets: Iterable[Ticket]) -> None:
        self.gate.send_again(tickets)
        self.line.poke()

    def may_worker_leave(self, code: int | None) -> bool:
        pool = self._pool()
        if pool is None or self.worker_handler._state != self.module.RUN:
            return True
        return code == 0 and pool._maxtasksperchild is not None

    def has_older_tasks(self) -> bool:
        return bool(self.older_tasks.unanswered())

    def nudge(self) -> None:
        # A grandchild may hold the sentinel open that the pool waits for.
        with contextlib.suppress(OSError, ValueError):
            self._notifier.put(None)

    def repair(self, guard: Guard) -> None:
        if not self.ending and self.task_handler.is_alive():
            repair(guard, self)
        if self.worker_handler._state != self.module.RUN:
            # What tells the workers of a closed pool to leave may have been
            # lost with the dead one, or in this repair; and not yet be missed.
            self.end.end_idle_workers()
            guard.call_later(TERM_BOUND, self.end.end_idle_workers)

    # core.repair.HostQueue.

    def reader(self) -> int:
        return int(self._inqueue._reader.fileno())

    def read_lock(self) -> Any:
        return getattr(self._inqueue, "_rlock", None)

    def free_other_locks(self, free: Callable[[Any], None] = stop_world.free) -> None:
        free(getattr(self._outqueue, "_wlock", None))

    def is_quiet(self) -> bool:
        return not self.gate.busy

    def may_keep(self, worker: Worker) -> bool:
        return self.older_tasks.may_be_run_by(worker)

    def empty(self) -> set[int]:
        return self.drain(self.is_quiet)

    def catch_up(self, bound: float) -> None:
        if not self.end.has_result_thread:
            return
        done = threading.Event()
        self.post((Barrier(self.quiet_cache, done.set).job, 0, None))
        done.wait(bound)

    def is_somebody_sending(self) -> bool:
        lock = getattr(self._outqueue, "_wlock", None)
        return lock is not None and lock._semlock._is_zero()

    def call_behind(self, action: Callable[[], None]) -> None:
        done = threading.Event()

        def both() -> None:
            action()
            self.older_tasks.after_repair()
            done.set()

        self.post((Barrier(self.quiet_cache, both).job, 0, None))
        # The gate is shut: new tasks would fill the pipe before those that are sent again, and with
        # one death after another the oldest waited for ever.
        done.wait(BEHIND_BOUND)

    def drain(self, finished: Callable[[], bool]) -> set[int]:
        """Empty the task pipe until `finished` says that nobody writes; return the tickets in it."""
        left = bytearray()

        def step() -> bool:
            done = finished()
            left.extend(stop_world.read_available(self.reader()))
            return done

        stop_world.wait_until(step, THREAD_BOUND)
        return self.older_tasks.rescue(bytes(left))

    def on_broken(self) -> None:
        self.line.poke()

    def cancel(self, result: Any) -> bool:
        """Stop the task or tasks behind a result object; False when it has ended."""
        # What takes the place of one that is done is another.
        if result._job not in self.cache or self.cache[result._job] is not result:
            return False
        # On the object: a set of the jobs' numbers would grow for ever.
        result._poolwarden_cancelled = True
        feed = getattr(result, "_poolwarden_feed", None)
        if feed is not None and feed.take_back():
            take_over(result, self.guard, self.quiet_cache)
            end = partial(fail_result, result, CancelledError())
            self.post((Barrier(self.quiet_cache, end).job, 0, None))
            return True
        for ticket in list(self.guard.tickets.open.values()):
            if ticket.key[0] == result._job:
                self.guard.cancel(ticket)
        return True


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
