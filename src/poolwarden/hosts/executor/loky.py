"""loky: ``loky.ProcessPoolExecutor``, the reusable executor, and the copy in joblib.

joblib ships loky under another module name; the classes differ, the code does
not. One adapter serves both, made for a package name.

What loky has beside the executor it was made from: a lock of its process table
that workers take too, workers that leave when they are idle or have grown, a
reusable executor that is resized, and ``shutdown(kill_workers=True)``.
"""

from __future__ import annotations

import contextlib
import importlib
import pickle
from collections.abc import Iterable
from traceback import format_exception
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ...errors import PayloadError, PoolWardenError, TaskTimeoutError, with_host_error
from ...policy import Policy
from ...worker.orphan import lifeline_for
from ...worker.payload import itself
from .adapter import ExecutorAdapter
from .construction import Construction
from .host_errors import ExecutorErrors
from .loky_resize import Resize
from .submissions import Submissions
from .work_item import WorkItem
from .worker_starts import WorkerStarts

if TYPE_CHECKING:
    from ...core.guard import Guard
    from ...core.tickets import Ticket


class LokyErrors(ExecutorErrors):
    """Speaks, and understands, the errors of loky.

    Attributes
    ----------
    is_killing : bool
        True once it was shut down with ``kill_workers``.
    """

    is_killing = False

    def as_host_error(self, error: BaseException) -> BaseException:
        error = super().as_host_error(error)
        if not isinstance(error, PoolWardenError) or isinstance(error, (TaskTimeoutError, PayloadError)):
            return error
        error = with_host_error(error, self.module.TerminatedWorkerError)
        return with_host_error(error, self.module.ShutdownExecutorError) if self.is_killing else error

    def with_remote_traceback(self, error: BaseException, text: str) -> BaseException:
        error.__cause__ = self.module._RemoteTraceback(text)
        return error

    def unpicklable(self, error: BaseException) -> BaseException:
        wrapped = pickle.PicklingError("Could not pickle the task to send it to the workers.")
        text = "".join(format_exception(type(error), error, error.__traceback__))
        return self.with_remote_traceback(wrapped, text)

    def never_sent(self, error: PoolWardenError) -> BaseException:
        # loky takes an exit for any other exception of the pickling.
        return with_host_error(error, pickle.PicklingError)

    def is_death(self, cause: Any, *args: Any) -> bool:
        return isinstance(cause, self.module.TerminatedWorkerError)

    def broken_arguments(self, args: tuple[Any, ...], guard: Guard) -> tuple[Any, ...]:
        # The executor refuses tasks with this from now on.
        return (guard.broken_error(None),)

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


class _Submissions(Submissions):
    """Keeps the manager thread's list of what runs, too."""

    def finish(self, work_id: Any, outcome: tuple[int, int, bytes]) -> None:
        super().finish(work_id, outcome)
        self._not_running(work_id)

    def keep(self, work: WorkItem) -> None:
        super().keep(work)
        # The manager thread takes it out of this list right after.
        self._thread.running_work_items.append(work.work_id)

    def resend(self, tickets: Iterable[Ticket]) -> None:
        tickets = list(tickets)
        for ticket in tickets:
            self._not_running(ticket.key)
        super().resend(tickets)

    def _not_running(self, work_id: Any) -> None:
        with contextlib.suppress(ValueError):
            self._thread.running_work_items.remove(work_id)


class _Workers(WorkerStarts):
    start_methods: ClassVar[tuple[str, ...]] = ("_adjust_process_count", "_ensure_executor_running")
    context_name: ClassVar[str] = "_context"
    _starter: Any = None
    _executor_class: Any = None

    def prepare(self, executor: Any, arguments: tuple[Any, ...]) -> None:
        # Starts workers when the executor is shut down, or gone.
        self._starter = SimpleNamespace(**vars(executor))
        self._executor_class = type(executor)

    def is_complete(self, owner: Any) -> bool:
        return super().is_complete(owner) and getattr(owner, "_executor_manager_thread", True) is not None

    def may_leave(self, code: int | None) -> bool:
        # For idleness, for its memory, or because the executor was resized.
        return code == 0 or super().may_leave(code)

    def start(self, executor: Any) -> None:
        self._starter._max_workers = self.maximum(executor)
        with self._starter._processes_management_lock:
            self._executor_class._adjust_process_count(self._starter)

    def drop(self) -> None:
        super().drop()
        self._starter = None


class LokyExecutor(ExecutorAdapter):
    """Guards one executor of loky; see `for_loky` and `for_joblib` for the classes that are used."""

    errors: LokyErrors
    errors_class: ClassVar[type[ExecutorErrors]] = LokyErrors
    submissions_class: ClassVar[type[Submissions]] = _Submissions
    workers_class: ClassVar[type[WorkerStarts]] = _Workers
    attributes: ClassVar[tuple[str, ...]] = (
        *ExecutorAdapter.attributes,
        "_context",
        "_flags",
        "_processes_management_lock",
        "_running_work_items",
    )

    def __init__(self, policy: Policy, executor: Any) -> None:
        self._process_class = executor._context.Process
        super().__init__(policy, executor)

    def _attach(self, executor: Any) -> None:
        lock = executor._processes_management_lock
        executor._processes_management_lock = _ProcessesLock(self.guard.births, lock)
        super()._attach(executor)

    def overrides(self, executor: Any) -> dict[str, Any]:
        if not hasattr(executor, "_resize"):
            return super().overrides(executor)
        return {"_resize": Resize(executor, self.queue, self.messages), **super().overrides(executor)}

    def birth_arguments(self) -> tuple[Any, ...]:
        return (*super().birth_arguments(), lifeline_for(self._process_class))

    @staticmethod
    def has_ended(executor: Any) -> bool:
        return bool(executor._flags.shutdown)

    def disown(self) -> None:
        executor = self.executor()
        if executor is not None:
            executor._processes_management_lock = _original(executor._processes_management_lock)
        super().disown()

    @staticmethod
    def renew_queues(executor: Any) -> None:
        calls, results = executor._call_queue, executor._result_queue
        executor._executor_manager_thread_wakeup = type(executor._executor_manager_thread_wakeup)()
        executor._setup_queues(
            getattr(calls, "_reducers", None), getattr(results, "_reducers", None), calls._maxsize
        )

    def take_thread(self, thread: Any) -> None:
        super().take_thread(thread)
        lock = thread.processes_management_lock
        if not isinstance(lock, _ProcessesLock):
            thread.processes_management_lock = _ProcessesLock(self.guard.births, lock)

    def note_wakeup(self, thread: Any, executor: Any) -> None:
        wakeup = executor._executor_manager_thread_wakeup
        self.module._threads_wakeups.setdefault(thread, (executor._shutdown_lock, wakeup))

    def flag_shutting_down(self) -> None:
        if self.manager.thread.executor_flags.kill_workers and not self.errors.is_killing:
            self.errors.is_killing = True
            self.guard.stop_watching()
            # What is pending is answered with this.
            self.guard.lifecycle.broken = self.guard.broken or "it was shut down with kill_workers=True"
        super().flag_shutting_down()

    def _let_go(self) -> None:
        executor: Any = self.executor()
        # Without this each guard that the executor has had would wait for the starts of all before it.
        if (lock := getattr(executor, "_processes_management_lock", None)) is not None:
            executor._processes_management_lock = _original(lock)
        thread = self.manager.thread
        if thread is not None:
            thread.processes_management_lock = _original(thread.processes_management_lock)
        super()._let_go()


class _ProcessesLock:
    """The lock of the host's process table, as threads of this process take it: the guard's own.

    Not the host's. By that one only keeps its workers from leaving for idleness
    while it counts them, and the guard replaces those that leave; but a worker
    may die with it in its hand, and a signal handler that raises in the main
    thread leaves it taken, since its ``__enter__`` is Python. Here ``with`` calls
    methods of a lock that is C.
    """

    def __init__(self, starts: Any, original: Any) -> None:
        self._starts = starts
        self.original = original

    __enter__ = property(lambda self: self._starts.__enter__)
    __exit__ = property(lambda self: self._starts.__exit__)

    def __reduce__(self) -> Any:
        # Workers get the host's.
        return itself, (self.original,)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)


def _original(lock: Any) -> Any:
    return lock.original if isinstance(lock, _ProcessesLock) else lock


_made: Final[dict[str, type[LokyExecutor]]] = {}


def for_loky() -> type[LokyExecutor]:
    """Return the adapter class of loky itself."""
    return _made.get("loky") or _make("loky", "loky")


def for_joblib() -> type[LokyExecutor]:
    """Return the adapter class of the copy that joblib brings."""
    return _made.get("joblib.externals.loky") or _make("joblib.externals.loky", "joblib's loky")


def _make(package: str, name: str) -> type[LokyExecutor]:
    module = importlib.import_module(f"{package}.process_executor")
    adapter: Any = type(
        "LokyExecutor",
        (LokyExecutor,),
        {
            "name": name,
            "module": module,
            "pickler_name": f"{package}.backend.reduction:dump",
            "__module__": __name__,
            "__doc__": LokyExecutor.__doc__,
        },
    )
    adapter.construction = Construction(module.ProcessPoolExecutor, adapter.guard_new)
    # Of two threads that get here at once one makes it for both: each class has patches of its own.
    return _made.setdefault(package, adapter)
