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
import queue
from traceback import format_exception
from types import SimpleNamespace
from typing import Any, ClassVar, Final

from ... import clock
from ...errors import PayloadError, PoolWardenError, TaskTimeoutError, with_host_error
from ...policy import Policy
from ...system.patches import Patch
from ...worker.orphan import lifeline_for
from ...worker.payload import itself
from .adapter import ExecutorAdapter
from .stand_ins import Method
from .work_item import Work

#: Seconds for the manager thread to tell workers to leave.
TELL_BOUND: Final = 1.0


class LokyExecutor(ExecutorAdapter):
    """Guards one executor of loky; see `for_loky` and `for_joblib` for the classes that are used."""

    birth_methods: ClassVar[tuple[str, ...]] = ("_adjust_process_count", "_ensure_executor_running")
    context_name: ClassVar[str] = "_context"
    attributes: ClassVar[tuple[str, ...]] = (
        *ExecutorAdapter.attributes,
        "_context",
        "_flags",
        "_processes_management_lock",
        "_running_work_items",
    )
    _default: ClassVar[Policy | None] = None
    _construction: ClassVar[Patch]

    def __init__(self, policy: Policy, executor: Any) -> None:
        super().__init__(policy, executor)
        self._process_class = executor._context.Process
        self._executor_class = type(executor)
        self._killing = False

    def _attach(self, executor: Any) -> None:
        executor._processes_management_lock = _ProcessesLock(self, executor._processes_management_lock)
        super()._attach(executor)

    def hook(self, executor: Any) -> None:
        super().hook(executor)
        if hasattr(executor, "_resize"):
            executor._resize = _Resize(self, executor, "_resize")
        # Starts workers when the executor is shut down, or gone.
        self._starter: Any = SimpleNamespace(**vars(executor))

    def unhook(self, executor: Any) -> None:
        vars(executor).pop("_resize", None)
        super().unhook(executor)

    def birth_arguments(self) -> tuple[Any, ...]:
        return (*super().birth_arguments(), lifeline_for(self._process_class))

    @classmethod
    def guards(cls, obj: object) -> bool:
        """Return whether `obj` is an executor of this copy of loky."""
        return isinstance(obj, cls.module.ProcessPoolExecutor)

    @staticmethod
    def has_ended(executor: Any) -> bool:
        return bool(executor._flags.shutdown)

    def disown(self) -> None:
        executor = self.executor()
        if executor is not None:
            executor._processes_management_lock = _bare(executor._processes_management_lock)
        super().disown()

    def renew_queues(self, executor: Any) -> None:
        calls, results = executor._call_queue, executor._result_queue
        executor._executor_manager_thread_wakeup = self.module._ThreadWakeup()
        executor._setup_queues(
            getattr(calls, "_reducers", None), getattr(results, "_reducers", None), calls._maxsize
        )

    def take_thread(self, thread: Any) -> None:
        super().take_thread(thread)
        if not isinstance(thread.processes_management_lock, _ProcessesLock):
            thread.processes_management_lock = _ProcessesLock(self, thread.processes_management_lock)

    def note_wakeup(self, thread: Any, executor: Any) -> None:
        wakeup = executor._executor_manager_thread_wakeup
        self.module._threads_wakeups.setdefault(thread, (executor._shutdown_lock, wakeup))

    def as_host_error(self, error: BaseException) -> BaseException:
        error = super().as_host_error(error)
        if not isinstance(error, PoolWardenError) or isinstance(error, (TaskTimeoutError, PayloadError)):
            return error
        error = with_host_error(error, self.module.TerminatedWorkerError)
        return with_host_error(error, self.module.ShutdownExecutorError) if self._killing else error

    def with_remote_traceback(self, error: BaseException, text: str) -> BaseException:
        error.__cause__ = self.module._RemoteTraceback(text)
        return error

    def unpicklable(self, error: BaseException) -> BaseException:
        wrapped = pickle.PicklingError("Could not pickle the task to send it to the workers.")
        text = "".join(format_exception(type(error), error, error.__traceback__))
        return self.with_remote_traceback(wrapped, text)

    def is_death(self, cause: Any, *args: Any) -> bool:
        return isinstance(cause, self.module.TerminatedWorkerError)

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
        self.thread.running_work_items.append(work.work_id)

    def resend(self, tickets: Any) -> None:
        tickets = list(tickets)
        for ticket in tickets:
            self._not_running(ticket.key)
        super().resend(tickets)

    def _not_running(self, work_id: Any) -> None:
        with contextlib.suppress(ValueError):
            self.thread.running_work_items.remove(work_id)

    def flag_shutting_down(self) -> None:
        if self.thread.executor_flags.kill_workers and not self._killing:
            self._killing = True
            self.guard.stop_watching()
            # What is pending is answered with this.
            self.guard.broken = self.guard.broken or "it was shut down with kill_workers=True"
        super().flag_shutting_down()

    def broken_arguments(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        # The executor refuses tasks with this from now on.
        return (self.guard.broken_error(None),)

    def may_worker_leave(self, code: int | None) -> bool:
        # For idleness, for its memory, or because the executor was resized.
        return code == 0 or super().may_worker_leave(code)

    def dismiss(self, count: int) -> int:
        """Tell `count` workers to leave, or as many as there is room for now; return how many.

        The manager thread does it, which alone may go through the gate.
        """
        answer: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.mail.call(lambda: answer.put(self._tell_to_leave(count)))
        try:
            return answer.get(timeout=TELL_BOUND)
        except queue.Empty:
            return 0

    def _tell_to_leave(self, count: int) -> int:
        told = 0
        self.queue.gate.enter()
        try:
            with contextlib.suppress(queue.Full):
                while told < count:
                    self.queue.calls.put_nowait(None)
                    told += 1
        finally:
            self.queue.gate.leave()
        return told

    def let_go(self) -> None:
        executor: Any = self.executor()
        # Or each guard that the executor has had would wait for the births of all before it.
        if (lock := getattr(executor, "_processes_management_lock", None)) is not None:
            executor._processes_management_lock = _bare(lock)
        if self.thread is not None:
            self.thread.processes_management_lock = _bare(self.thread.processes_management_lock)
        super().let_go()
        self._starter = None

    def spawn(self, executor: Any) -> None:
        self._starter._max_workers = self.max_workers(executor)
        with self._starter._processes_management_lock:
            self._executor_class._adjust_process_count(self._starter)

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


class _ProcessesLock:
    """The lock of the host's process table, as threads of this process take it: the guard's own.

    Not the host's. By that one only keeps its workers from leaving for idleness
    while it counts them, and the guard replaces those that leave; but a worker
    may die with it in its hand, and a signal handler that raises in the main
    thread leaves it taken, since its ``__enter__`` is Python. Here ``with`` calls
    methods of a lock that is C.
    """

    def __init__(self, adapter: LokyExecutor, lock: Any) -> None:
        self._births = adapter.guard.births
        self.bare = lock

    __enter__ = property(lambda self: self._births.__enter__)
    __exit__ = property(lambda self: self._births.__exit__)

    def __reduce__(self) -> Any:
        # Workers get the host's.
        return itself, (self.bare,)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bare, name)


def _bare(lock: Any) -> Any:
    return lock.bare if isinstance(lock, _ProcessesLock) else lock


class _Resize(Method):
    """``_resize`` of the reusable executor, which may lose workers, and the words for them, meanwhile.

    The host's waits for ever then: for a worker that has died to be alive, or
    for one to leave that was never told.
    """

    def __call__(self, max_workers: int) -> None:
        executor: Any = self._owner()
        thread = executor._executor_manager_thread
        if max_workers in (None, executor._max_workers) or thread is None:
            self.bare(max_workers)
            return
        executor._wait_job_completion()
        with executor._processes_management_lock:
            executor._max_workers = max_workers
        self._shrink(executor._processes, max_workers, thread)
        executor._adjust_process_count()

    def _shrink(self, processes: Any, size: int, thread: Any) -> None:
        adapter: Any = self.adapter
        emptied, left_to_tell = -1, 0
        while len(processes) > size and thread.is_alive():
            if emptied != adapter.queue.emptied:
                emptied, left_to_tell = adapter.queue.emptied, len(processes) - size
            left_to_tell -= adapter.dismiss(left_to_tell)
            clock.sleep(0.001)


_made: Final[dict[str, type[LokyExecutor]]] = {}


def for_loky() -> type[LokyExecutor]:
    """Return the adapter class of loky itself."""
    return _made.get("loky") or _make("loky", "loky")


def for_joblib() -> type[LokyExecutor]:
    """Return the adapter class of the copy that joblib brings."""
    return _made.get("joblib.externals.loky") or _make("joblib.externals.loky", "joblib's loky")


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
    # Of two threads that get here at once one makes it for both: each class has patches of its own.
    return _made.setdefault(package, adapter)
