"""What executors with a manager thread have in common.

`concurrent.futures.ProcessPoolExecutor` and loky's are of one design: a
manager thread moves work items into a call queue, reads a result queue, and
takes the end of any worker for the end of the executor. Here it is kept from
seeing such ends: the watchdog does, and tells the manager thread what to do
through the result queue, so that one thread answers everything.

Seams, all on the instance, so that they reach an executor that is in use:
``_work_ids.put`` sees every task; ``_processes`` every birth;
``wait_result_broken_or_wakeup`` of the manager thread is replaced; the
initializer is exchanged for `worker.member.birth`.

The adapter itself answers to `PoolAdapter` and to what hosts override, in one
place; what takes more than a few lines is in the other files of this folder.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import sys
import threading
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Final

from ...core.belonging import is_made_here
from ...core.guard import Guard
from ...core.left_bare import warn_left_bare
from ...core.recovery import repair
from ...core.task_names import caller_site
from ...core.tickets import Ticket
from ...core.workers import Snapshot, Worker
from ...errors import ConfigurationError
from ...policy import Policy
from ...system.capabilities import require
from ...system.patches import Seam, attributes_of, check_attributes
from ...system.stepping import acquire, in_one_step
from ...worker.ledger import LEFT
from ...worker.member import birth
from ..base import NOT_OURS
from ..registry import own_files
from .call_queue import CALL_QUEUE, RESULT_QUEUE, CallQueue
from .earlier_calls import OlderTasks
from .forked_child import leave_to_host, renew_copied
from .host_errors import ExecutorErrors
from .manager_messages import ManagerMail
from .manager_thread import METHODS, ManagerThread
from .shutdown import ExecutorEnd
from .stand_ins import Birth, Context, Processes, Shutdown, Starter
from .unguarding import Release, guarded
from .work_item import Work
from .worker_starts import Replacements

log = logging.getLogger("poolwarden")

#: Seconds for a birth to be over, at the beginning of a repair.
_BIRTH_BOUND: Final = 2.0

_OWN_FILES: Final = (
    "poolwarden/hosts/executor/adapter.py",
    *own_files("concurrent.futures.process", "loky.process_executor"),
)


class ExecutorAdapter(ExecutorErrors):
    """Guards one executor; a host adds its names and what is different."""

    reaps = False
    #: Attribute of an executor that makes process objects.
    context_name: ClassVar[str]
    birth_methods: ClassVar[tuple[str, ...]] = (
        "_spawn_process",
        "_adjust_process_count",
        "_replace_dead_worker",
    )
    attributes: ClassVar[tuple[str, ...]] = (
        "_processes",
        "_work_ids",
        "_pending_work_items",
        "_call_queue",
        "_result_queue",
        "_initializer",
        "_initargs",
        "_executor_manager_thread",
        "_executor_manager_thread_wakeup",
        "_start_executor_manager_thread",
    )

    def __init__(self, policy: Policy, executor: Any) -> None:
        super().__init__(getattr(executor._call_queue, "_reducers", None))
        self.queue = CallQueue(self, executor)
        self.manager = ManagerThread(self, executor)
        self.replacements = Replacements(self)
        self.end = ExecutorEnd(self)
        self.processes_by_pid = Processes(self, {})
        self.release = Release(self)
        self.process_chunk = self.module._process_chunk
        writer = executor._result_queue._writer
        self.guard = Guard(self, policy, self.title(), executor._max_workers)
        if executor._processes and (reducers := getattr(executor._result_queue, "_reducers", None)):
            # For those workers; later ones find them at the queue.
            self.guard.memory.reducers = self.dumper.dumps(reducers)
        # This opens a descriptor, so it comes after all that may fail.
        self.mail = ManagerMail(self, writer)
        self.executor: weakref.ref[Any] = weakref.ref(executor)
        self._result_queue = executor._result_queue
        self._pending: dict[Any, Any] = executor._pending_work_items
        self._work_ids = executor._work_ids
        self._bare_initializer = executor._initializer, executor._initargs
        self._bare_context = getattr(executor, self.context_name)
        self._max_workers: int = executor._max_workers
        # Re-entrant: a signal handler may cancel while it is held.
        self.settling = threading.RLock()
        # The host counts them in steps: two tasks had the same number when Ctrl-C came between, and one
        # got the other's result. Negative, so that they are none of the host's.
        self._numbers = itertools.count(-1, -1)

    @classmethod
    def all_seams(cls) -> tuple[Seam, ...]:
        """Return the private names that are used."""
        executor, thread = cls.module.ProcessPoolExecutor, cls.module._ExecutorManagerThread
        return (
            *attributes_of(executor, cls.attributes),
            *attributes_of(cls.module._SafeQueue, CALL_QUEUE),
            *(Seam(thread, name) for name in METHODS),
        )

    # Guarding.

    @classmethod
    def guard_object(cls, executor: Any, policy: Policy) -> None:
        """Guard `executor`, or change the policy of one that is guarded."""
        # First: where the standard library is patched its parts are none of those that are known.
        require()
        in_one_step(lambda: cls._guard(executor, policy))

    @classmethod
    def _guard(cls, executor: Any, policy: Policy) -> None:
        adapter = getattr(executor, "_poolwarden", None)
        if adapter is not None:
            adapter.guard.policy = policy
            return
        adapter = getattr(executor._executor_manager_thread, "_poolwarden", None)
        if adapter is not None and adapter.release.revoke(executor, policy):
            return
        check_attributes(executor, cls.attributes, cls.name)
        renew_copied(executor)
        if not cls._is_made_here(executor):
            raise ConfigurationError(NOT_OURS)
        try:
            if executor._result_queue is not None:
                check_attributes(executor._call_queue, CALL_QUEUE, cls.name)
                check_attributes(executor._result_queue, RESULT_QUEUE, cls.name)
                cls(policy, executor).attach(executor)
                return
        except Exception:
            # Its end takes one part away after the other, in another thread.
            if not cls.has_ended(executor):
                raise
        raise ConfigurationError("the executor has been shut down; there is nothing left to guard")

    @classmethod
    def _is_made_here(cls, executor: Any) -> bool:
        """Return whether `executor` has its workers and its thread in this process, as far as it has any."""
        thread, workers = executor._executor_manager_thread, dict(executor._processes or {}).values()
        is_copied = thread is not None and not thread.is_alive() and thread.ident is not None
        return all(map(is_made_here, workers)) and not (is_copied and not cls.has_ended(executor))

    @staticmethod
    def has_ended(executor: Any) -> bool:
        """Return whether `executor` was shut down."""
        return bool(executor._shutdown_thread)

    @classmethod
    def guard_new(cls, executor: Any, policy: Policy) -> None:
        """Guard an executor that has just been made; one that cannot be is left bare, with a warning."""
        try:
            cls.guard_object(executor, policy)
        except Exception as error:
            warn_left_bare(f"this {cls.name} is", error)

    @classmethod
    def unguard_object(cls, executor: Any) -> None:
        """Leave `executor` to itself."""
        in_one_step(lambda: cls._unguard(executor))

    @staticmethod
    def _unguard(executor: Any) -> None:
        adapter = getattr(executor, "_poolwarden", None)
        if adapter is not None:
            adapter.release.begin(executor)

    def attach(self, executor: Any) -> None:
        """Hook `executor` up; its private names have been checked. If that fails, it is as it was."""
        try:
            with self.no_submission(executor), self.guard.births:
                self._attach(executor)
        except BaseException:
            self.release.withdraw(executor)
            raise

    def _attach(self, executor: Any) -> None:
        self.older = OlderTasks(self, set(self._pending))
        thread, wakeup = executor._executor_manager_thread, executor._executor_manager_thread_wakeup
        self.processes_by_pid = Processes(self, executor._processes)
        executor._processes = self.processes_by_pid
        if thread is not None:
            self.take_thread(thread)
        self.hook(executor)
        # Every part is there: the watchdog may ask for any of them, for a worker that has ended already.
        for process in list(self.processes_by_pid.values()):
            self.guard.born(process, older=True)
        self.release.expect_end(executor)
        if thread is not None:
            wakeup.wakeup()
            self.mail.call(self.older.call_roll)
        # Last, as nothing can fail any more.
        self.adopt()

    def adopt(self) -> None:
        """Guard what is pending and was not sent yet; under the executor's lock."""
        for work_id, item in list(self._pending.items()):
            if not isinstance(item, Work) and not item.future.running():
                self._pending[work_id] = Work(self, work_id, item, None)

    def hook(self, executor: Any) -> None:
        """Put on the executor what stands in for its own; under its lock."""
        executor._initializer, executor._initargs = birth, self.birth_arguments()
        context = getattr(executor, self.context_name)
        if not isinstance(context, Context):
            setattr(executor, self.context_name, Context(context, self.guard.memory))
        self._work_ids.put = self._on_put
        executor._start_executor_manager_thread = Starter(self, executor)
        executor.shutdown = Shutdown(self, executor, "shutdown")
        self._lock_births(executor)
        executor._poolwarden = self

    def unhook(self, executor: Any) -> None:
        """Take back what `hook` has put there; under the executor's lock."""
        executor._initializer, executor._initargs = self._bare_initializer
        setattr(executor, self.context_name, self._bare_context)
        del self._work_ids.put
        for name in ("_start_executor_manager_thread", "shutdown", "_poolwarden"):
            delattr(executor, name)
        for name in self.birth_methods:
            vars(executor).pop(name, None)

    def birth_arguments(self) -> tuple[Any, ...]:
        """Return the arguments of `worker.member.birth`."""
        return (self.guard.pool_name, *self._bare_initializer, self._result_queue)

    @staticmethod
    def cancel_future(future: Any) -> bool | None:
        """Stop the task of a guarded executor's future; None if no such executor knows it. Any thread.

        The future may also be asyncio's one of the executor's.
        """
        for adapter in list(guarded):
            for item in list(adapter.pending.values()):
                if isinstance(item, Work) and item.belongs_to(future):
                    return not adapter.guard.disowned and item.stop()
        return None

    @property
    def thread(self) -> Any:
        """The host's manager thread; None before the first task and after the end."""
        return self.manager.thread

    @property
    def pending(self) -> dict[Any, Any]:
        """The work items that are not answered, by id; the manager thread changes them."""
        # A new dict, once futures were cancelled at a shutdown.
        found: dict[Any, Any] = self._pending if self.thread is None else self.thread.pending_work_items
        return found

    @contextlib.contextmanager
    def no_submission(self, executor: Any) -> Iterator[None]:
        """Hold the lock under which the host submits.

        Raises
        ------
        ConfigurationError
            It is not to be had in time.
        """
        lock = executor._shutdown_lock
        acquire(lock, f"this {self.name}")
        try:
            yield
        finally:
            lock.release()

    def _on_put(self, work_id: Any, *args: Any) -> None:
        """Stand in for ``_work_ids.put``: in the thread that submits."""
        item = self._pending.get(work_id)
        if item is None or isinstance(item, Work):
            self._work_ids.queue.append(work_id)
            return
        own = next(self._numbers)
        self._pending[own] = Work(self, own, item, caller_site(_OWN_FILES, sys._getframe(1)))
        self._pending.pop(work_id, None)
        # In C, and not by ``put``, whose lock stays taken if a signal handler raises in the middle of it.
        self._work_ids.queue.append(own)

    def may_host_start(self, owner: Any) -> bool:
        """Return whether the host may start workers now; `owner` is the executor or its manager thread."""
        return self.guard.broken is None

    def note_wakeup(self, thread: Any, executor: Any) -> None:
        """Have the exit of the interpreter wake the manager thread, as the host does behind its start."""
        self.module._threads_wakeups.setdefault(thread, executor._executor_manager_thread_wakeup)

    def _lock_births(self, owner: Any) -> None:
        """Have no worker born while the world is stopped."""
        for name in self.birth_methods:
            if hasattr(owner, name):
                setattr(owner, name, Birth(self, owner, name))

    def take_thread(self, thread: Any) -> None:
        """Hook the manager thread up, before it is started if possible."""
        self._lock_births(thread)
        self.manager.take(thread)

    def let_go(self) -> None:
        """Drop what would keep pipes open as long as somebody keeps the executor, which has ended."""
        executor: Any = self.executor()
        if getattr(executor, "_poolwarden", None) is self:
            executor._initializer, executor._initargs = self._bare_initializer
            setattr(executor, self.context_name, self._bare_context)
        self._result_queue = None
        self.manager.let_go()
        self.queue.let_go()
        self.processes_by_pid.let_go()
        self.processes_by_pid = Processes(self, {})

    # In the manager thread.

    def finish(self, work_id: Any, outcome: tuple[int, int, bytes]) -> None:
        """Answer a work item, as the host does for a result."""
        item = self.thread.pending_work_items.pop(work_id, None)
        if item is not None:
            item.future.set_result(outcome)

    def keep(self, work: Work) -> None:
        """Have a work item back among those that are pending. Manager thread."""
        self.thread.pending_work_items[work.work_id] = work

    def flag_shutting_down(self) -> None:
        """Stand in for ``flag_executor_shutting_down``."""
        thread, work_ids = self.thread, self._work_ids
        type(thread).flag_executor_shutting_down(thread)
        # With cancel_futures the host empties its queue of ids; tasks that
        # wait to be sent again are running, and cannot be cancelled.
        with work_ids.mutex:
            waiting = set(work_ids.queue)
            for work_id, item in list(thread.pending_work_items.items()):
                if work_id in waiting:
                    continue
                if isinstance(item, Work) and item.waits_again:
                    work_ids.queue.append(work_id)
                elif not (item.is_running if isinstance(item, Work) else work_id in self.older):
                    # Its submission was interrupted: nobody has its future, and it would never be sent.
                    thread.pending_work_items.pop(work_id, None)
                    item.future.cancel()

    def wanted_workers(self, executor: Any) -> int:
        """Return how many workers there should be after one has left by itself. Manager thread."""
        return min(self.max_workers(executor), len(self.thread.pending_work_items))

    def max_workers(self, executor: Any) -> int:
        """Return how many workers the executor, which may be gone, is to have."""
        if executor is not None:
            self._max_workers = executor._max_workers
        return self._max_workers

    def spawn(self, executor: Any) -> None:
        """Start one worker; the executor may be gone. Manager thread."""
        raise NotImplementedError

    def renew_queues(self, executor: Any) -> None:
        """Give an executor that has none of its threads yet pipes of its own, in a forked process."""
        raise NotImplementedError

    # PoolAdapter.

    def disown(self) -> None:
        self.release.disown()
        executor = self.executor()
        if executor is not None:
            leave_to_host(self, executor)
        self.mail.disown()

    def processes(self) -> list[Any]:
        return list(self.processes_by_pid.values())

    def deliver(self, ticket: Ticket, kind: int, data: bytes) -> None:
        self.mail.outcome(ticket.number, kind, data, ticket.key)

    def answer_unbegun(self, ticket: Ticket) -> None:
        def answer() -> None:
            work = self.pending.get(ticket.key)
            if isinstance(work, Work) and not self.guard.has_begun(ticket):
                work.end_cancelled()

        self.mail.call(answer)

    def resend(self, tickets: Iterable[Ticket]) -> None:
        tickets = sorted(tickets, key=lambda ticket: ticket.number)
        with self._work_ids.mutex:
            for ticket in tickets:
                ticket.sent = False
            self._work_ids.queue.extendleft(ticket.key for ticket in reversed(tickets))
        self.mail.call(lambda: None)

    def put_first(self, work_ids: list[Any]) -> None:
        """Have work items sent before those that wait. Manager thread."""
        with self._work_ids.mutex:
            self._work_ids.queue.extendleft(reversed(work_ids))

    def buried(self, worker: Worker, seen: Snapshot) -> None:
        worker.left = seen.phase == LEFT
        self.replacements.note(worker)

    def catch_up(self, bound: float) -> None:
        done = threading.Event()
        self.mail.call(done.set)
        done.wait(bound)

    def is_somebody_sending(self) -> bool:
        return self.queue.is_somebody_sending()

    def may_worker_leave(self, code: int | None) -> bool:
        if self.end.joining or self.thread.is_shutting_down():
            return True
        return code == 0 and getattr(self.thread, "max_tasks_per_child", None) is not None

    def has_older_tasks(self) -> bool:
        return bool(self.older.unanswered())

    def nudge(self) -> None:
        if self.replacements.are_due and self.thread is not None:
            self.mail.call(self.replacements.make)

    def answered_all(self) -> None:
        self.release.answered_all()

    def on_broken(self) -> None:
        self.end.refuse_more()
        self.mail.call(lambda: None)

    def repair(self, guard: Guard) -> None:
        acquired = guard.births.acquire(timeout=_BIRTH_BOUND)
        try:
            # While the executor is taken down nothing is pending any more, and
            # its queues may be closed already.
            if not self.end.joining:
                repair(guard, self.queue)
        finally:
            if acquired:
                guard.births.release()
