"""The workers of an executor: who may start them, and who takes the places of those that have ended.

The executor would take any end of a worker for its own end, or replace none at
all. A host says in a subclass how one worker is started. Runs in the manager
thread, as the executor's own starts of workers do; `note` is called in the
watchdog's, and `WorkerStart` in whatever thread starts workers.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ...system.complaints import complain
from ...system.forking import no_telling
from ...system.interruption import undisturbed, uninterrupted
from ...system.watchdog import watchdog
from .stand_ins import Method, Processes

if TYPE_CHECKING:
    from ...core.guard import Guard
    from ...core.workers import Worker
    from .manager_messages import ManagerMessages
    from .manager_thread import ManagerThread

#: Seconds until the next try when a worker could not be started, and others live.
START_RETRY: Final = 1.0
#: Seconds for a process that has ended to be reaped.
REAP_BOUND: Final = 2.0


class WorkerStarts:
    """The workers of one executor.

    Parameters
    ----------
    guard : Guard
        Told of each worker.
    manager : ManagerThread
        Whose thread starts workers.
    messages : ManagerMessages
        The way to it.
    find_executor : callable
        Returns the executor, or None when it is gone.
    max_workers : int
        How many workers it has at most, while nobody says otherwise.

    Attributes
    ----------
    table : Processes
        The executor's table of its workers.
    """

    #: The executor's methods that start workers.
    start_methods: ClassVar[tuple[str, ...]] = (
        "_spawn_process",
        "_adjust_process_count",
        "_replace_dead_worker",
    )
    #: Attribute of an executor that makes process objects.
    context_name: ClassVar[str]

    def __init__(
        self,
        guard: Guard,
        manager: ManagerThread,
        messages: ManagerMessages,
        find_executor: Callable[[], Any],
        max_workers: int,
    ) -> None:
        self._guard = guard
        self._manager = manager
        self._messages = messages
        self._find_executor = find_executor
        self._max_workers = max_workers
        self._gone: deque[Worker] = deque()
        self.table = Processes(guard, {})

    # The executor's own starts.

    def take(self, executor: Any) -> None:
        """Take the place of the executor's table."""
        self.table = executor._processes = Processes(self._guard, executor._processes)

    def lock(self, owner: Any) -> None:
        """Have `owner`, the executor or its manager thread, start no worker while the world is stopped."""
        for name in self.start_methods:
            if hasattr(owner, name):
                setattr(owner, name, WorkerStart(self, self._guard, owner, name))

    def unlock(self, owner: Any) -> None:
        """Give `owner` its own methods back."""
        for name in self.start_methods:
            vars(owner).pop(name, None)

    def prepare(self, executor: Any, arguments: tuple[Any, ...]) -> None:
        """Keep what starts need of an executor that has just been hooked up: it may be gone by then.

        Parameters
        ----------
        executor : object
            The host's.
        arguments : tuple
            Those of `worker.member.birth`.
        """

    def may_host_start(self) -> bool:
        """Return whether the host may start workers now, in this thread."""
        return self._guard.broken is None

    def is_complete(self, owner: Any) -> bool:
        """Return whether the executor, or another owner of its methods, has nothing to start."""
        return len(getattr(owner, "_processes", None) or ()) >= getattr(owner, "_max_workers", 0)

    def start_method(self, owner: Any) -> str:
        """Return how the executor starts its workers."""
        return str(getattr(owner, self.context_name).get_start_method())

    # Ends.

    def note(self, worker: Worker) -> None:
        """Note that a worker has ended."""
        self._gone.append(worker)

    def may_leave(self, code: int | None) -> bool:
        """Return whether a worker may have left on purpose, with this exit code."""
        thread = self._manager.thread
        if self._manager.is_joining or thread.is_shutting_down():
            return True
        return code == 0 and getattr(thread, "max_tasks_per_child", None) is not None

    def reap(self) -> None:
        """Reap what has ended and will not be replaced."""
        for worker in self._gone:
            worker.process.join(0)
        self._gone.clear()

    def drop(self) -> None:
        """Leave its table to the executor; drop what would keep pipes open as long as somebody keeps that."""
        self.table.let_go()
        self.table = Processes(self._guard, {})

    # Replacements.

    def look(self) -> None:
        """Have places taken soon that workers have left. Any thread."""
        if self._gone and self._manager.thread is not None:
            self._messages.call_soon(self.make)

    def make(self) -> None:
        """Take dead workers out of the executor and start others."""
        guard, thread, table = self._guard, self._manager.thread, self.table
        gone = [self._gone.popleft() for _ in range(len(self._gone))]
        for worker in gone:
            if table.get(worker.pid) is worker.process:
                del table[worker.pid]
            worker.process.join(REAP_BOUND)
        if self._manager.is_joining or guard.broken is not None:
            return
        executor = self._find_executor()
        if getattr(executor, "_force_shutting_down", False):
            # kill_workers() or terminate_workers(), of 3.14, are at it: a new one would escape them.
            guard.break_pool("it was forcefully shut down")
            return
        if thread.is_shutting_down() and not thread.pending_work_items:
            return
        guard.breaker.wait_before_birth()
        for worker in gone:
            self._replace(executor, worker)

    def _replace(self, executor: Any, gone: Worker) -> None:
        guard = self._guard
        try:
            with guard.births, no_telling():
                # The host may have started some itself meanwhile.
                wanted = self.wanted(executor) if gone.left else self.maximum(executor)
                if len(self.table) < wanted:
                    self.start(executor)
        except Exception as error:
            if not self.table:
                guard.break_pool(f"no worker can be started: {error!r}")
                return
            text = f"poolwarden: a worker of {guard.name} could not be started: {error!r}"
            complain(text, level=logging.WARNING)
            self._gone.append(gone)
            guard.call_later(START_RETRY, self.look)

    def maximum(self, executor: Any) -> int:
        """Return how many workers the executor, which may be gone, is to have."""
        if executor is not None:
            self._max_workers = executor._max_workers
        return self._max_workers

    def wanted(self, executor: Any) -> int:
        """Return how many workers there should be after one has left by itself."""
        return min(self.maximum(executor), len(self._manager.thread.pending_work_items))

    def start(self, executor: Any) -> None:
        """Start one worker; the executor may be gone."""
        raise NotImplementedError


class WorkerStart(Method):
    """Stands in for a method that may start workers."""

    def __init__(self, starts: WorkerStarts, guard: Guard, owner: Any, name: str) -> None:
        super().__init__(owner, name)
        self._starts = starts
        self._lock = guard.births

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        owner: Any = self._owner()
        if self._starts.is_complete(owner) or self._lock._is_owned():  # type: ignore[attr-defined]
            # Complete, or called in the middle of such a call of this thread: another one would wait for the
            # lock of births, and this thread for it, for ever, if a worker has died since.
            return self._start(*args, **kwargs)
        if self._starts.start_method(owner) != "fork":
            # Half a start, of a worker that is no fork, fails in the worker, and spoils the host's own
            # helpers: a resource tracker that is starting is waited for for ever.
            return uninterrupted(lambda: self._start(*args, **kwargs))
        # Half a fork is a worker that nobody knows. Not in another thread, of which Python would warn.
        return undisturbed(lambda: self._start(*args, **kwargs))

    def _start(self, *args: Any, **kwargs: Any) -> Any:
        with self._lock, watchdog().no_thread():
            return self.original(*args, **kwargs) if self._starts.may_host_start() else None
