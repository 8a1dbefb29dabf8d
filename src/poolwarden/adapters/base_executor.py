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
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import pickle
import select
import signal
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from traceback import format_exception
from typing import Any, ClassVar, Final

from ..core import plumbing
from ..core.gate import Gate
from ..core.guard import Guard
from ..core.mailbox import Mailbox
from ..core.repair import repair
from ..core.seams import Seam, attributes_of, check_attributes
from ..core.tickets import Ticket, caller_site
from ..core.workers import Kill, Snapshot, Worker
from ..errors import ConfigurationError
from ..policy import Policy
from ..worker.ledger import DONE, LEFT, READY
from ..worker.member import birth
from .base import PoolAdapter
from .base_executor_hooks import MAIL, Birth, Mark, Processes, Refuser, Shutdown, Starter
from .base_executor_older import OlderTasks
from .base_executor_work import Work

log = logging.getLogger("poolwarden")

#: Seconds for one of the executor's own threads to react.
THREAD_BOUND: Final = 2.0
#: Seconds that a worker has to leave by itself when the executor ends.
TERM_BOUND: Final = 1.0
#: Seconds until the next try when a worker could not be started, and others live.
BIRTH_RETRY: Final = 1.0

_OWN_FILES: Final = (
    "poolwarden/adapters/base_executor.py",
    "concurrent/futures/process.py",
    "concurrent/futures/_base.py",
    "asyncio/base_events.py",
    "process_executor.py",
    "reusable_executor.py",
)
_THREAD_METHODS: Final = (
    "wait_result_broken_or_wakeup",
    "add_call_item_to_queue",
    "flag_executor_shutting_down",
    "join_executor_internals",
    "terminate_broken",
)
_numbers = itertools.count(1)
_guarded: weakref.WeakSet[ExecutorAdapter] = weakref.WeakSet()


class ExecutorAdapter(PoolAdapter):
    """Guards one executor; a host adds its names and what is different."""

    module: ClassVar[Any]
    reaps = False
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
        self.gate = Gate()
        self.process_chunk = self.module._process_chunk
        self.guard = Guard(self, policy, f"{self.name}-{next(_numbers)}")
        self._executor: weakref.ref[Any] = weakref.ref(executor)
        self.call_queue, self._result_queue = executor._call_queue, executor._result_queue
        self._pending: dict[Any, Any] = executor._pending_work_items
        self._work_ids = executor._work_ids
        self._bare_initializer = executor._initializer, executor._initargs
        self._mailbox = Mailbox(executor._result_queue._writer)
        self._max_workers: int = executor._max_workers
        self._thread: Any = None
        self._joining = False
        self._ended = False
        self.settling = threading.Lock()
        self._posting = threading.Lock()
        self._held: list[bytes] | None = []
        self._leaving = False
        self._gone: deque[Worker] = deque()
        self._actions: dict[int, Callable[[], None]] = {}
        self._action_numbers = itertools.count(1)

    @classmethod
    def all_seams(cls) -> tuple[Seam, ...]:
        """Return the private names that are used."""
        executor, thread = cls.module.ProcessPoolExecutor, cls.module._ExecutorManagerThread
        return (
            *attributes_of(executor, cls.attributes),
            *(Seam(thread, name) for name in _THREAD_METHODS),
        )

    # Guarding.

    @classmethod
    def guard_object(cls, executor: Any, policy: Policy) -> None:
        """Guard `executor`, or change the policy of one that is guarded."""
        adapter = getattr(executor, "_poolwarden", None)
        if adapter is not None:
            adapter.guard.policy = policy
            return
        adapter = getattr(executor._executor_manager_thread, "_poolwarden", None)
        if adapter is not None and adapter.resume(executor, policy):
            return
        check_attributes(executor, cls.attributes, cls.name)
        if executor._result_queue is None:
            raise ConfigurationError("the executor has been shut down; there is nothing left to guard")
        cls(policy, executor).attach(executor)

    @classmethod
    def guard_new(cls, executor: Any, policy: Policy) -> None:
        """Guard an executor that has just been made; one that cannot be is left bare, with a warning."""
        try:
            cls.guard_object(executor, policy)
        except Exception as error:
            log.warning("poolwarden: this %s is not guarded: %s", cls.name, error)

    @classmethod
    def unguard_object(cls, executor: Any) -> None:
        """Leave `executor` to itself."""
        adapter = getattr(executor, "_poolwarden", None)
        if adapter is not None:
            adapter.detach(executor)

    def attach(self, executor: Any) -> None:
        """Hook `executor` up; its private names have been checked."""
        with self.submit_lock(executor), self.guard.births:
            self.processes_by_pid = Processes(self, executor._processes)
            executor._processes = self.processes_by_pid
            for process in list(self.processes_by_pid.values()):
                self.guard.born(process, older=True)
            adopted = [id for id, item in list(self._pending.items()) if not item.future.running()]
            for work_id in adopted:
                self._pending[work_id] = Work(self, work_id, self._pending[work_id], None)
            self._older = OlderTasks(self, set(self._pending))
            if executor._executor_manager_thread is not None:
                self.take_thread(executor._executor_manager_thread)
                executor._executor_manager_thread_wakeup.wakeup()
                self.call_in_manager(self._older.call_roll)
            self._hook(executor)
        _guarded.add(self)
        weakref.finalize(executor, self.end_unused)

    def _hook(self, executor: Any) -> None:
        executor._initializer, executor._initargs = birth, self.birth_arguments()
        self._work_ids.put = self._on_put
        executor._start_executor_manager_thread = Starter(self, executor)
        executor.shutdown = Shutdown(self, executor, "shutdown")
        self._lock_births(executor)
        executor._poolwarden = self

    def birth_arguments(self) -> tuple[Any, ...]:
        """Return the arguments of `worker.member.birth`."""
        return (self.guard.folder, *self._bare_initializer, getattr(self._result_queue, "_reducers", None))

    def detach(self, executor: Any) -> None:
        """Leave `executor` to itself; tasks in flight stay guarded until they are answered."""
        with self.submit_lock(executor):
            executor._initializer, executor._initargs = self._bare_initializer
            del self._work_ids.put
            for name in ("_start_executor_manager_thread", "shutdown", "_poolwarden"):
                delattr(executor, name)
            for name in self.birth_methods:
                vars(executor).pop(name, None)
        self.guard.retire()

    def resume(self, executor: Any, policy: Policy) -> bool:
        """Guard an executor again that still has tasks of ours; False if they are all answered by now."""
        with self.submit_lock(executor):
            if self._ended:
                return False
            self.guard.stay(policy)
            for work_id, item in list(self.pending.items()):
                if not isinstance(item, Work) and not item.future.running():
                    self.pending[work_id] = Work(self, work_id, item, None)
            self._hook(executor)
        return True

    def answered_all(self) -> None:
        thread = self._thread
        if thread is None:
            self._end()
        elif threading.current_thread() is not thread:
            # Only there nothing can be sent between the look and the end.
            self.call_in_manager(self.guard.look_for_end)
        elif not self._leaving and not any(isinstance(item, Work) for item in self.pending.values()):
            # Behind the messages that are on their way; there will be no more.
            self._leaving = True
            self.call_in_manager(self._leave)
            with self._posting:
                self._held = []

    def _leave(self) -> None:
        """Give the manager thread back to the executor, unless that was guarded again. Manager thread."""
        # Or the bare thread would take these ends for the executor's.
        self.guard.wait_for_burials()
        self._replace_gone()
        with self._thread.shutdown_lock:
            if self.guard.is_retiring:
                for name in (*_THREAD_METHODS, *self.birth_methods, "_poolwarden"):
                    vars(self._thread).pop(name, None)
                self._end()
        self._leaving = False

    @staticmethod
    def cancel_future(future: Any) -> bool | None:
        """Stop the task of a guarded executor's future; None if no such executor knows it. Any thread."""
        for adapter in list(_guarded):
            for item in list(adapter.pending.values()):
                if isinstance(item, Work) and item.caller is future:
                    return item.stop()
        return None

    @property
    def pending(self) -> dict[Any, Any]:
        """The work items that are not answered, by id; the manager thread changes them."""
        # A new dict, once futures were cancelled at a shutdown.
        found: dict[Any, Any] = self._pending if self._thread is None else self._thread.pending_work_items
        return found

    def submit_lock(self, executor: Any) -> Any:
        """Return the lock under which the host submits."""
        return executor._shutdown_lock

    def _on_put(self, work_id: Any, *args: Any) -> None:
        """Stand in for ``_work_ids.put``: in the thread that submits."""
        item = self._pending.get(work_id)
        if item is not None and not isinstance(item, Work):
            self._pending[work_id] = Work(self, work_id, item, caller_site(_OWN_FILES, sys._getframe(1)))
        type(self._work_ids).put(self._work_ids, work_id, *args)

    def may_host_start(self, owner: Any) -> bool:
        """Return whether the host may start workers now; `owner` is the executor or its manager thread."""
        return self.guard.broken is None

    def _lock_births(self, owner: Any) -> None:
        """Have no worker born while the world is stopped."""
        for name in self.birth_methods:
            if hasattr(owner, name):
                setattr(owner, name, Birth(self, owner, name))

    def take_thread(self, thread: Any) -> None:
        """Hook the manager thread up, before it is started if possible."""
        self._thread = thread
        self._lock_births(thread)
        thread.processes = self.processes_by_pid
        self._poll = select.poll()
        self._results = self._result_queue._reader
        self._wakeups = thread.thread_wakeup._reader
        self._poll.register(self._results.fileno(), select.POLLIN)
        self._poll.register(self._wakeups.fileno(), select.POLLIN)
        thread.wait_result_broken_or_wakeup = self._wait
        thread.add_call_item_to_queue = self._add_calls
        thread.flag_executor_shutting_down = self._flag_shutting_down
        thread.join_executor_internals = self._join_internals
        thread.terminate_broken = self._terminate_broken
        thread._poolwarden = self

    def end_unused(self) -> None:
        """End the guard of an executor that was shut down or collected, and had never started."""
        if self._thread is None:
            self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            _guarded.discard(self)
            self._mailbox.close()
            self.guard.close()
            self.let_go()

    def let_go(self) -> None:
        """Drop what would keep pipes open as long as somebody keeps the executor, which has ended."""
        self.call_queue = self._result_queue = self._results = self._thread = None
        self.processes_by_pid = Processes(self, {})

    # In the manager thread.

    def _add_calls(self) -> None:
        self.gate.enter()
        try:
            type(self._thread).add_call_item_to_queue(self._thread)
        finally:
            self.gate.leave()

    def _wait(self) -> tuple[Any, bool, Any]:
        """Stand in for ``wait_result_broken_or_wakeup``; never reports a broken executor for a death."""
        result, broken, cause = None, False, None
        if self._held is not None and not self._leaving:
            self._post_held()
        ready = {fd for fd, _ in self._poll.poll()}
        if self._results.fileno() in ready:
            try:
                result = self._results.recv()
            except BaseException as error:
                # Of a task that was sent before the guard came.
                broken, cause = True, self.undecodable(error)
            if type(result) is tuple and result[0] == MAIL:
                self._handle_mail(*result[1:])
                result = None
            elif getattr(result, "work_id", None) == MAIL:
                result = None
            elif self.is_bad(result):
                broken, cause, result = True, self.bad_cause(result), None
        if self._wakeups.fileno() in ready:
            # All of them at once; each is an empty message.
            os.read(self._wakeups.fileno(), 1 << 16)
        return result, broken or self.guard.broken is not None, cause

    def unpicklable(self, error: BaseException) -> BaseException:
        """Return what the host says of a call that cannot be pickled."""
        return error

    def is_death(self, cause: Any, *args: Any) -> bool:
        """Return whether these arguments of ``terminate_broken`` tell of the death of a worker."""
        return cause is None

    def undecodable(self, error: BaseException) -> Any:
        """Return what the host says of a result that cannot be unpickled."""
        return format_exception(type(error), error, error.__traceback__)

    def is_bad(self, result: Any) -> bool:
        """Return whether a worker reports something that breaks the executor."""
        return False

    def bad_cause(self, result: Any) -> Any:
        """Return what the host makes of such a report."""
        return None

    def _handle_mail(self, number: int, kind: int, data: bytes, work_id: Any) -> None:
        if work_id is not None:
            self.finish(work_id, (number, kind, data))
            return
        try:
            self._actions.pop(number)()
        except Exception as error:
            # Without this thread nobody would ever be answered.
            log.exception("poolwarden: internal error; the executor is given up")
            self.guard.on_failure(error)

    def finish(self, work_id: Any, outcome: tuple[int, int, bytes]) -> None:
        """Answer a work item, as the host does for a result."""
        item = self._thread.pending_work_items.pop(work_id, None)
        if item is not None:
            if isinstance(item, Work) and item.waits_again:
                # Or the host would look for it among those that are pending.
                with contextlib.suppress(ValueError), self._work_ids.mutex:
                    self._work_ids.queue.remove(work_id)
            item.future.set_result(outcome)

    def keep(self, work: Work) -> None:
        """Have a work item back among those that are pending. Manager thread."""
        self._thread.pending_work_items[work.work_id] = work

    def _flag_shutting_down(self) -> None:
        thread, work_ids = self._thread, self._work_ids
        type(thread).flag_executor_shutting_down(thread)
        # With cancel_futures the host empties its queue of ids; tasks that
        # wait to be sent again are running, and cannot be cancelled.
        with work_ids.mutex:
            waiting = set(work_ids.queue)
            for work_id, item in thread.pending_work_items.items():
                if work_id not in waiting and isinstance(item, Work) and item.waits_again:
                    work_ids.queue.append(work_id)

    def _join_internals(self, *args: Any, **kwargs: Any) -> None:
        """Stand in for ``join_executor_internals``: all is answered, and the workers are told to leave."""
        self._begin_joining()
        self.guard.call_later(TERM_BOUND, self._end_idle_workers)
        self._take_down("join_executor_internals", args, kwargs)

    def _terminate_broken(self, *args: Any, **kwargs: Any) -> None:
        """Stand in for ``terminate_broken``: answers everybody, and ends in bounded time."""
        if self.guard.broken is None and self.is_death(*args, **kwargs):
            # Seen in the host's own wait, which was going on when the guard came.
            type(self._thread).run(self._thread)
            return
        self._begin_joining()
        guard, thread = self.guard, self._thread
        guard.stop_watching()
        if guard.broken is not None:
            # Before the host does, which has only its own error to give.
            self._refuse_more()
            for item in list(thread.pending_work_items.values()):
                item.future.set_exception(guard.broken_error(None))
            thread.pending_work_items.clear()
        plumbing.end_workers(guard.live_workers(), TERM_BOUND)
        plumbing.free(self.read_lock())
        self.free_other_locks()
        if self.gate.try_enter():
            # 3.10 waits for the feeder thread, which may stand before a full pipe.
            self._drain()
            self.gate.leave()
        self._take_down("terminate_broken", args, kwargs)

    def _begin_joining(self) -> None:
        # No repair may be going on when the queues are closed.
        acquired = self.guard.births.acquire(timeout=THREAD_BOUND)
        self._joining = True
        if acquired:
            self.guard.births.release()

    def _take_down(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            getattr(type(self._thread), name)(self._thread, *args, **kwargs)
        finally:
            processes = self.processes_by_pid
            self._end()
            # Once more, now that the watchdog is out of it: the one of two
            # threads that loses the race to reap takes the worker for alive,
            # and its pipes would stay open until another process is started.
            for process in (*processes.values(), *(worker.process for worker in self._gone)):
                process.join(0)
            processes.clear()
            self._gone.clear()

    def _replace_gone(self) -> None:
        """Take dead workers out of the executor and start others. Manager thread."""
        gone = [self._gone.popleft() for _ in range(len(self._gone))]
        for worker in gone:
            if self.processes_by_pid.get(worker.pid) is worker.process:
                del self.processes_by_pid[worker.pid]
            worker.process.join(THREAD_BOUND)
        if self._joining or self.guard.broken is not None:
            return
        thread, executor = self._thread, self._executor()
        if thread.is_shutting_down() and not thread.pending_work_items:
            return
        self.guard.breaker.wait_before_birth()
        for worker in gone:
            self._try_to_replace(executor, worker)

    def _try_to_replace(self, executor: Any, gone: Worker) -> None:
        try:
            with self.guard.births:
                # The host may have started some itself meanwhile.
                wanted = self.wanted_workers(executor) if gone.left else self.max_workers(executor)
                if len(self.processes_by_pid) < wanted:
                    self.spawn(executor)
        except Exception as error:
            if not self.processes_by_pid:
                self.guard.break_pool(f"no worker can be started: {error!r}")
                return
            log.warning("poolwarden: a worker of %s could not be started: %r", self.guard.name, error)
            self._gone.append(gone)
            self.guard.call_later(BIRTH_RETRY, self.nudge)

    def wanted_workers(self, executor: Any) -> int:
        """Return how many workers there should be after one has left by itself. Manager thread."""
        return min(self.max_workers(executor), len(self._thread.pending_work_items))

    def max_workers(self, executor: Any) -> int:
        """Return how many workers the executor, which may be gone, is to have."""
        if executor is not None:
            self._max_workers = executor._max_workers
        return self._max_workers

    def spawn(self, executor: Any) -> None:
        """Start one worker; the executor may be gone. Manager thread."""
        raise NotImplementedError

    # PoolAdapter.

    def processes(self) -> list[Any]:
        return list(self.processes_by_pid.values())

    def with_remote_traceback(self, error: BaseException, text: str) -> BaseException:
        error.__cause__ = self.module._RemoteTraceback(f'\n"""\n{text}"""')
        return error

    def unsendable(self, why: str, what: str, text: str, cause: BaseException | None) -> BaseException:
        error = cause if cause is not None else pickle.PicklingError(why)
        return self.with_remote_traceback(error, text or why)

    def deliver(self, ticket: Ticket, kind: int, data: bytes) -> None:
        self._post(pickle.dumps((MAIL, ticket.number, kind, data, ticket.key)))

    def call_in_manager(self, action: Callable[[], None]) -> None:
        """Have the manager thread call `action`, behind what is on its way to it. Any thread."""
        number = next(self._action_numbers)
        self._actions[number] = action
        self._post(pickle.dumps((MAIL, number, 0, b"", None)))

    def _post(self, message: bytes) -> None:
        with self._posting:
            if self._held is not None:
                # The thread may be in the host's own wait, which knows nothing of our messages.
                self._held.append(message)
                return
        self._mailbox.post(message)

    def _post_held(self) -> None:
        with self._posting:
            for message in self._held or ():
                self._mailbox.post(message)
            self._held = None

    def resend(self, tickets: Iterable[Ticket]) -> None:
        tickets = sorted(tickets, key=lambda ticket: ticket.number)
        with self._work_ids.mutex:
            for ticket in tickets:
                ticket.sent = False
            self._work_ids.queue.extendleft(ticket.key for ticket in reversed(tickets))
        self.call_in_manager(lambda: None)

    def put_first(self, work_ids: list[Any]) -> None:
        """Have work items sent before those that wait. Manager thread."""
        with self._work_ids.mutex:
            self._work_ids.queue.extendleft(reversed(work_ids))

    def buried(self, worker: Worker, seen: Snapshot) -> None:
        worker.left = seen.phase == LEFT
        self._gone.append(worker)

    def may_worker_leave(self, code: int | None) -> bool:
        if self._joining or self._thread.is_shutting_down():
            return True
        return code == 0 and getattr(self._thread, "max_tasks_per_child", None) is not None

    def nudge(self) -> None:
        if self._gone and self._thread is not None:
            self.call_in_manager(self._replace_gone)

    def on_broken(self) -> None:
        self._refuse_more()
        self.call_in_manager(lambda: None)

    def _refuse_more(self) -> None:
        executor = self._executor()
        if executor is not None:
            executor.submit = Refuser(self.guard)

    def repair(self, guard: Guard) -> None:
        acquired = guard.births.acquire(timeout=THREAD_BOUND)
        try:
            # While the executor is taken down nothing is pending any more, and
            # its queues may be closed already.
            if not self._joining:
                repair(guard, self)
        finally:
            if acquired:
                guard.births.release()

    # core.repair.HostQueue.

    def reader(self) -> int:
        return int(self.call_queue._reader.fileno())

    def read_lock(self) -> Any:
        return self.call_queue._rlock

    def free_other_locks(self) -> None:
        plumbing.free(getattr(self._result_queue, "_wlock", None))

    def is_quiet(self) -> bool:
        """Return whether every call that was put has been taken by a worker."""
        queue = self.call_queue
        return not self.gate.busy and not queue._buffer and queue._sem._semlock._get_value() == queue._maxsize

    def may_keep(self, worker: Worker) -> bool:
        return self._older.may_be_run_by(worker)

    def is_somebody_sending(self) -> bool:
        """Return whether the lock for sending results is taken, by the living or the dead."""
        lock = getattr(self._result_queue, "_wlock", None)
        return lock is not None and lock._semlock._is_zero()

    def call_behind(self, action: Callable[[], None]) -> None:
        def both() -> None:
            action()
            self._older.after_repair()

        self.call_in_manager(both)

    def empty(self) -> set[int]:
        plumbing.wait_until(lambda: not self.gate.busy, THREAD_BOUND)
        return self._drain()

    def _drain(self) -> set[int]:
        """Empty the call queue, and make room for as many calls as before; return the tickets in it."""
        queue = self.call_queue
        fd, left = queue._reader.fileno(), bytearray()
        if queue._thread is not None and queue._thread.is_alive():
            # The feeder thread may hold a call that it has not written yet.
            # It writes in order, so all is there once this one has come.
            mark = Mark()
            with queue._notempty:
                queue._buffer.append(mark)
                queue._notempty.notify()

            def arrived() -> bool:
                left.extend(plumbing.read_available(fd))
                return mark.text in left

            plumbing.wait_until(arrived, THREAD_BOUND)
        left.extend(plumbing.read_available(fd))
        with contextlib.suppress(ValueError):
            while queue._sem._semlock._get_value() < queue._maxsize:
                queue._sem.release()
        return self._older.note_unread(bytes(left))

    def _end_idle_workers(self) -> None:
        """End workers that were told to leave and do not. Watchdog's thread.

        What told them may have been lost with a dead one, or in a repair. Those
        that still start, or that run exit handlers, are left alone.
        """
        for worker in self.guard.live_workers():
            phase = worker.snapshot().phase
            if phase in (READY, DONE) or worker.is_unknown():
                worker.killed = worker.killed or Kill("repair")
                worker.send(signal.SIGKILL)
        self.guard.call_later(TERM_BOUND, self._end_idle_workers)
