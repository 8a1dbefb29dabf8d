"""`concurrent.futures.ProcessPoolExecutor`.

What differs between Python versions is asked of the module itself: whether its
worker's main function takes a number of tasks (3.11), and whether the executor
can be ended by force (3.14).
"""

from __future__ import annotations

import concurrent.futures.process
import inspect
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, ClassVar

from ...worker.member import birth
from .adapter import ExecutorAdapter
from .construction import Construction
from .stand_ins import Method
from .worker_starts import WorkerStarts

if TYPE_CHECKING:
    from ...core.guard import Guard

_host: Any = concurrent.futures.process


class _Workers(WorkerStarts):
    context_name: ClassVar[str] = "_mp_context"
    _context: Any = None
    _arguments: tuple[Any, ...] = ()

    def prepare(self, executor: Any, arguments: tuple[Any, ...]) -> None:
        if self._arguments:
            # It was guarded before; a shutdown may have taken its queues away since.
            return
        self._context = executor._mp_context
        self._arguments = (executor._call_queue, executor._result_queue, birth, arguments)
        if "max_tasks" in inspect.signature(_host._process_worker).parameters:
            self._arguments += (executor._max_tasks_per_child,)

    def may_host_start(self) -> bool:
        # The manager thread would replace a worker that leaves after its last
        # task: older patch levels do not, trusting a stale token (gh-115634),
        # or fail after shutdown(wait=False) (gh-132969). The guard does it.
        return super().may_host_start() and threading.current_thread() is not self._manager.thread

    def wanted(self, executor: Any) -> int:
        if self._manager.thread.is_shutting_down():
            return super().wanted(executor)
        return self.maximum(executor)

    def start(self, executor: Any) -> None:
        # The executor's own method does not do here: shutdown(wait=False) clears what it
        # needs, and from 3.13 on it asserts that nobody forks that late.
        process = self._context.Process(target=_host._process_worker, args=self._arguments)
        process.start()
        self.table[process.pid] = process

    def drop(self) -> None:
        super().drop()
        self._arguments = ()


class FuturesExecutor(ExecutorAdapter):
    """Guards one `concurrent.futures.ProcessPoolExecutor`."""

    name: ClassVar[str] = "ProcessPoolExecutor"
    module: ClassVar[Any] = _host
    workers_class: ClassVar[type[WorkerStarts]] = _Workers
    attributes: ClassVar[tuple[str, ...]] = (
        *ExecutorAdapter.attributes,
        "_mp_context",
        "_shutdown_lock",
        "_shutdown_thread",
    )

    def overrides(self, executor: Any) -> dict[str, Any]:
        if not hasattr(executor, "_force_shutdown"):
            return super().overrides(executor)
        return {"_force_shutdown": _ForceShutdown(executor, self.guard), **super().overrides(executor)}

    @staticmethod
    def renew_queues(executor: Any) -> None:
        context = executor._mp_context
        wakeup = executor._executor_manager_thread_wakeup = _host._ThreadWakeup()
        names = inspect.signature(_host._SafeQueue).parameters
        lock = {"shutdown_lock": executor._shutdown_lock} if "shutdown_lock" in names else {}
        calls = executor._call_queue = _host._SafeQueue(
            executor._call_queue._maxsize,
            ctx=context,
            pending_work_items=executor._pending_work_items,
            thread_wakeup=wakeup,
            **lock,
        )
        calls._ignore_epipe = True
        executor._result_queue = context.SimpleQueue()


FuturesExecutor.construction = Construction(_host.ProcessPoolExecutor, FuturesExecutor.guard_new)


class _ForceShutdown(Method):
    """``terminate_workers`` and ``kill_workers``: what is running is lost on purpose."""

    def __init__(self, executor: Any, guard: Guard) -> None:
        super().__init__(executor, "_force_shutdown")
        self._guard = guard

    def __call__(self, operation: Any) -> Any:
        guard = self._guard
        if operation not in getattr(_host, "_SHUTDOWN_CALLBACK_OPERATION", (operation,)):
            return self.original(operation)
        # What is pending is broken and not cancelled. The manager thread ends the workers of a broken
        # executor; it waits for births, so that the host finds them alive and signals them itself.
        with guard.births:
            guard.break_pool(f"its workers were ended by {operation}_workers()")
            return self.original(operation)


def _forget_threads() -> None:
    """In a forked process: no manager thread is there that its exit would have to wake.

    From 3.13.x on that takes a lock, which another of our threads may have held
    while this one forked. Bare executors fork before they have such a thread.
    """
    _host._threads_wakeups = weakref.WeakKeyDictionary()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
