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
from typing import Any, ClassVar

from ...policy import Policy
from ...system.patches import Patch
from ...worker.member import birth
from .adapter import ExecutorAdapter
from .stand_ins import Context, Method


class FuturesExecutor(ExecutorAdapter):
    """Guards one `concurrent.futures.ProcessPoolExecutor`."""

    name: ClassVar[str] = "ProcessPoolExecutor"
    module: ClassVar[Any] = concurrent.futures.process
    context_name: ClassVar[str] = "_mp_context"
    attributes: ClassVar[tuple[str, ...]] = (
        *ExecutorAdapter.attributes,
        "_mp_context",
        "_shutdown_lock",
        "_shutdown_thread",
    )
    _default: ClassVar[Policy | None] = None
    _construction: ClassVar[Patch]

    def __init__(self, policy: Policy, executor: Any) -> None:
        super().__init__(policy, executor)
        self._context = Context(executor._mp_context, self.guard.memory)
        arguments = [
            self.queue.calls,
            self._result_queue,
            birth,
            self.birth_arguments(),
        ]
        if "max_tasks" in inspect.signature(self.module._process_worker).parameters:
            arguments.append(executor._max_tasks_per_child)
        self._arguments = tuple(arguments)

    @classmethod
    def guards(cls, obj: object) -> bool:
        """Return whether `obj` is an executor of this host."""
        return isinstance(obj, cls.module.ProcessPoolExecutor)

    def hook(self, executor: Any) -> None:
        super().hook(executor)
        if hasattr(executor, "_force_shutdown"):
            executor._force_shutdown = _ForceShutdown(self, executor, "_force_shutdown")

    def unhook(self, executor: Any) -> None:
        vars(executor).pop("_force_shutdown", None)
        super().unhook(executor)

    def renew_queues(self, executor: Any) -> None:
        context, module = executor._mp_context, self.module
        wakeup = executor._executor_manager_thread_wakeup = module._ThreadWakeup()
        names = inspect.signature(module._SafeQueue).parameters
        lock = {"shutdown_lock": executor._shutdown_lock} if "shutdown_lock" in names else {}
        calls = executor._call_queue = module._SafeQueue(
            executor._call_queue._maxsize,
            ctx=context,
            pending_work_items=executor._pending_work_items,
            thread_wakeup=wakeup,
            **lock,
        )
        calls._ignore_epipe = True
        executor._result_queue = context.SimpleQueue()

    def may_host_start(self, owner: Any) -> bool:
        # The manager thread would replace a worker that leaves after its last
        # task: older patch levels do not, trusting a stale token (gh-115634),
        # or fail after shutdown(wait=False) (gh-132969). The guard does it.
        return super().may_host_start(owner) and threading.current_thread() is not self.thread

    def wanted_workers(self, executor: Any) -> int:
        if self.thread.is_shutting_down():
            return super().wanted_workers(executor)
        return self.max_workers(executor)

    def let_go(self) -> None:
        super().let_go()
        self._arguments = ()

    def spawn(self, executor: Any) -> None:
        # Not the executor's own method: shutdown(wait=False) clears what that
        # needs, and from 3.13 on it asserts that nobody forks that late.
        process = self._context.Process(target=self.module._process_worker, args=self._arguments)
        process.start()
        self.processes_by_pid[process.pid] = process

    @classmethod
    def install(cls, policy: Policy) -> None:
        """Guard every executor of this host that is made from now on."""
        if cls._default is None:
            cls._construction.take()
        cls._default = policy

    @classmethod
    def uninstall(cls) -> None:
        """Take `install` back."""
        cls._default = None
        cls._construction.drop()


class _ForceShutdown(Method):
    """``terminate_workers`` and ``kill_workers``: what is running is lost on purpose."""

    def __call__(self, operation: Any) -> Any:
        guard = self.adapter.guard
        if operation not in getattr(self.adapter.module, "_SHUTDOWN_CALLBACK_OPERATION", (operation,)):
            return self.bare(operation)
        # What is pending is broken and not cancelled. The manager thread ends the workers of a broken
        # executor; it waits for births, so that the host finds them alive and signals them itself.
        with guard.births:
            guard.break_pool(f"its workers were ended by {operation}_workers()")
            return self.bare(operation)


def _on_construction(wrapped: Any, executor: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    wrapped(*args, **kwargs)
    policy = FuturesExecutor._default
    if policy is not None:
        FuturesExecutor.guard_new(executor, policy)


FuturesExecutor._construction = Patch(
    concurrent.futures.process.ProcessPoolExecutor, "__init__", _on_construction
)


def _forget_threads() -> None:
    """In a forked process: no manager thread is there that its exit would have to wake.

    From 3.13.x on that takes a lock, which another of our threads may have held
    while this one forked. Bare executors fork before they have such a thread.
    """
    concurrent.futures.process._threads_wakeups = weakref.WeakKeyDictionary()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
