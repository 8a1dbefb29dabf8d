"""What takes the place of an executor's own methods and tables, on one object.

Nothing here keeps the executor alive: one that nobody uses any more must be
collected, as it would be without a guard.
"""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ...system.forking import no_telling
from ...system.interruption import start_thread
from ...system.watchdog import watchdog

if TYPE_CHECKING:
    from ...core.guard import Guard
    from ...core.pool_memory import PoolMemory

#: Seconds for a thread that was started to say so; it takes well under a millisecond.
START_BOUND: Final = 1.0
#: Marks our own messages in the result queue, and calls that do nothing.
MESSAGE: Final = "poolwarden"


class Processes(dict[int, Any]):
    """The executor's table of workers, which tells the guard of each that is started."""

    def __init__(self, guard: Guard, processes: dict[int, Any]) -> None:
        super().__init__(processes)
        self._guard: Guard | None = guard

    def __setitem__(self, pid: int, process: Any) -> None:
        super().__setitem__(pid, process)
        if self._guard is not None:
            self._guard.born(process)

    def let_go(self) -> None:
        """Be a table like any other: the executor, left to itself, keeps it."""
        self._guard = None

    def pop(self, pid: int, *default: Any) -> Any:
        """As a dict's; without a default the caller would wait for a worker's end, which is the guard's."""
        guard = self._guard
        if guard is None:
            return super().pop(pid, *default)
        found = super().pop(pid, *(default or (_Ended(),)))
        return found if default or guard.closed else _Ended()


class Context:
    """Stands in for an executor's context: the processes it makes have places in the pool's memory."""

    def __init__(self, original: Any, memory: PoolMemory) -> None:
        self.original = original
        self._memory = memory

    def Process(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802 - the host's name
        """As the host's."""
        process = self.original.Process(*args, **kwargs)
        self._memory.prepare(process)
        return process

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)


class _Ended:
    def join(self, timeout: float | None = None) -> None:
        """Return at once."""


class Method:
    """Stands in for a method of an object, on the object, without keeping it alive."""

    def __init__(self, owner: Any, name: str) -> None:
        self._owner = weakref.ref(owner)
        self._name = name

    def original(self, *args: Any, **kwargs: Any) -> Any:
        """Call what the class has; nothing while the owner is collected with what calls us."""
        owner: Any = self._owner()
        return None if owner is None else getattr(type(owner), self._name)(owner, *args, **kwargs)


class ThreadStart(Method):
    """``_start_executor_manager_thread``: the thread is hooked up before it runs."""

    # Re-entrant: a signal handler may use another executor for the first time.
    _patching: ClassVar[Any] = threading.RLock()
    _patched: ClassVar[tuple[Any, Any] | None] = None

    def __init__(
        self,
        executor: Any,
        module: Any,
        take_thread: Callable[[Any], None],
        note_wakeup: Callable[[Any, Any], None],
    ) -> None:
        super().__init__(executor, "_start_executor_manager_thread")
        self._module = module
        self._take_thread = take_thread
        self._note_wakeup = note_wakeup
        self._is_done = False

    def __call__(self) -> None:
        # At each submit.
        if self._is_done:
            return
        executor: Any = self._owner()
        if executor is not None:
            if executor._executor_manager_thread is None:
                self._start()
            self._finish_start(executor._executor_manager_thread, executor)
            self._is_done = True

    def _finish_start(self, thread: Any, executor: Any) -> None:
        """See to what is left of a start that was interrupted, by Ctrl-C say, at an earlier submission."""
        # A thread that was begun says so itself, soon.
        if not thread._started.wait(START_BOUND):
            start_thread(thread)
        self._note_wakeup(thread, executor)

    def _start(self) -> None:
        module = self._module
        with self._patching:
            thread_class = module._ExecutorManagerThread

            def make(executor: Any) -> Any:
                thread = thread_class(executor)
                if executor is self._owner():
                    self._take_thread(thread)
                    thread.start = functools.partial(_start_once, weakref.ref(thread))
                return thread

            ThreadStart._patched = module, thread_class
            module._ExecutorManagerThread = make
            try:
                # Some versions start all workers here, one after the other.
                with watchdog().no_thread(), no_telling():
                    self.original()
            finally:
                module._ExecutorManagerThread = thread_class
                ThreadStart._patched = None

    @classmethod
    def forget(cls) -> None:
        """In a forked process: workers are forked inside of the call."""
        cls._patching = threading.RLock()
        if cls._patched is not None:
            module, thread_class = cls._patched
            module._ExecutorManagerThread = thread_class
            cls._patched = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=ThreadStart.forget)


def _start_once(ref: weakref.ref[Any]) -> None:
    thread: Any = ref()
    vars(thread).pop("start", None)
    start_thread(thread)


class Shutdown(Method):
    """``shutdown``, of an executor that may never have started its manager thread."""

    def __init__(self, executor: Any, finish_unused: Callable[[], None]) -> None:
        super().__init__(executor, "shutdown")
        self._finish_unused = finish_unused

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self.original(*args, **kwargs)
        self._finish_unused()
        # Nothing is left of a pool that has ended, no thread either.
        watchdog().let_end()


class Refuser:
    """Stands in for ``submit`` of an executor that is broken."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise self._guard.broken_error(None)


class Mark:
    """A call that only shows that the feeder thread has written all before it."""

    work_id = MESSAGE

    def __init__(self) -> None:
        self.text = os.urandom(16)

    def __reduce__(self) -> Any:
        return bytes, (self.text,)
