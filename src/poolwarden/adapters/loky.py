"""loky: ``loky.ProcessPoolExecutor``, the reusable executor, and the copy in joblib.

joblib ships loky under another module name; the classes differ, the code does
not. One adapter serves both, made for a package name.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from typing import Any, ClassVar

from ..core import plumbing
from ..core.seams import Patch
from ..errors import PoolWardenError, with_host_error
from ..policy import Policy
from ..worker.orphan import lifeline_for
from .executor_work import Work
from .executors import ExecutorAdapter, Method


class LokyExecutor(ExecutorAdapter):
    """Guards one executor of loky; see `for_loky` and `for_joblib` for the classes that are used."""

    birth_methods: ClassVar[tuple[str, ...]] = ("_adjust_process_count", "_ensure_executor_running")
    attributes: ClassVar[tuple[str, ...]] = (
        *ExecutorAdapter.attributes,
        "_flags",
        "_processes_management_lock",
        "_running_work_items",
    )
    _default: ClassVar[Policy | None] = None
    _construction: ClassVar[Patch]

    def __init__(self, policy: Policy, executor: Any) -> None:
        super().__init__(policy, executor)
        self._process_class = executor._context.Process
        # Held by a worker for a moment when it leaves for idleness.
        self._management_lock = executor._processes_management_lock

    def birth_arguments(self) -> tuple[Any, ...]:
        return (*super().birth_arguments(), lifeline_for(self._process_class))

    @classmethod
    def guards(cls, obj: object) -> bool:
        """Return whether `obj` is an executor of this copy of loky."""
        return isinstance(obj, cls.module.ProcessPoolExecutor)

    def take_thread(self, thread: Any) -> None:
        super().take_thread(thread)
        # It takes the lock of the process table, as births do: in one order.
        thread.process_result_item = _UnderBirths(self, thread, "process_result_item")

    def as_host_error(self, error: BaseException) -> BaseException:
        if isinstance(error, PoolWardenError):
            return with_host_error(error, self.module.TerminatedWorkerError)
        return error

    def undecodable(self, error: BaseException) -> Any:
        broken = self.module.BrokenProcessPool("A result has failed to un-serialize.")
        broken.__cause__ = error
        return broken

    def is_bad(self, result: Any) -> bool:
        return isinstance(result, self.module._RemoteTraceback)

    def bad_cause(self, result: Any) -> Any:
        broken = self.module.BrokenProcessPool("A task has failed to un-serialize.")
        broken.__cause__ = result
        return broken

    def finish(self, work_id: Any, outcome: tuple[int, int, bytes]) -> None:
        super().finish(work_id, outcome)
        self._not_running(work_id)

    def keep(self, work: Work) -> None:
        super().keep(work)
        # The manager thread takes it out of this list right after.
        self._thread.running_work_items.append(work.work_id)

    def resend(self, tickets: Any) -> None:
        tickets = list(tickets)
        for ticket in tickets:
            self._not_running(ticket.key)
        super().resend(tickets)

    def _not_running(self, work_id: Any) -> None:
        with contextlib.suppress(ValueError):
            self._thread.running_work_items.remove(work_id)

    def _flag_shutting_down(self) -> None:
        if self._thread.executor_flags.kill_workers:
            self.guard.stop_watching()
        super()._flag_shutting_down()

    def may_worker_leave(self, code: int | None) -> bool:
        # For idleness, for its memory, or because the executor was resized.
        return code == 0 or super().may_worker_leave(code)

    def free_other_locks(self) -> None:
        super().free_other_locks()
        plumbing.free(self._management_lock)

    def spawn(self, executor: Any) -> None:
        # With the executor gone nobody can start workers any more; what is
        # left of them goes on.
        if executor is not None:
            with self._management_lock:
                executor._adjust_process_count()
        elif not self.processes_by_pid:
            self.guard.break_pool("its last worker died, and the executor was collected before")

    @classmethod
    def install(cls, policy: Policy) -> None:
        """Guard every executor of this copy of loky that is made from now on."""
        if cls._default is None:
            cls._construction.take()
        cls._default = policy

    @classmethod
    def uninstall(cls) -> None:
        """Take `install` back."""
        cls._default = None
        cls._construction.drop()


class _UnderBirths(Method):
    def __call__(self, *args: Any) -> Any:
        with self.adapter.guard.births:
            return self.bare(*args)


@functools.cache
def for_loky() -> type[LokyExecutor]:
    """Return the adapter class of loky itself."""
    return _make("loky", "loky")


@functools.cache
def for_joblib() -> type[LokyExecutor]:
    """Return the adapter class of the copy that joblib brings."""
    return _make("joblib.externals.loky", "joblib's loky")


def _make(package: str, name: str) -> type[LokyExecutor]:
    executor_module = importlib.import_module(f"{package}.process_executor")
    adapter: Any = type(
        "LokyExecutor",
        (LokyExecutor,),
        {
            "name": name,
            "module": executor_module,
            "pickler_name": f"{package}.backend.reduction:dump",
            "__module__": __name__,
            "__doc__": LokyExecutor.__doc__,
        },
    )

    def on_construction(wrapped: Any, executor: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        wrapped(*args, **kwargs)
        if adapter._default is not None:
            adapter.guard_new(executor, adapter._default)

    adapter._construction = Patch(executor_module.ProcessPoolExecutor, "__init__", on_construction)
    return adapter  # type: ignore[no-any-return]
