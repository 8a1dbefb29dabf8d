"""The starts of one pool's workers, under its guard.

Runs in the thread that makes the pool, and in the pool's worker handler, which
must never see an exception.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ...core.guard import Guard
from ...system.forking import no_telling
from ...system.watchdog import watchdog
from ...worker.member import birth

#: Failures in a row to start a worker before the pool is given up; about 6 s.
START_TRIES: Final = 10


class WorkerStarts:
    """Starts the workers of one pool under its guard.

    Parameters
    ----------
    guard : Guard
        The pool's guard.
    workers : list
        The pool's own list of processes, which also identifies the pool.

    Attributes
    ----------
    stopped : bool
        True once the pool is taken down: no worker is started any more.
    """

    def __init__(self, guard: Guard, workers: list[Any]) -> None:
        self.workers = workers
        self.stopped = False
        self._guard = guard
        self._failures = 0
        # Workers that were started before the pool's own threads could be watched.
        self._early: list[Any] | None = []

    def begin(self) -> bool:
        """Tell the guard of all workers; return whether they are older than it."""
        guard = self._guard
        with guard.births:
            older = not self._early
            for process in list(self.workers) if older else self._early or []:
                guard.born(process, older=older)
            self._early = None
        return older

    def repopulate(self, start: Callable[..., None], arguments: dict[str, Any]) -> None:
        """Start missing workers under the guard.

        Parameters
        ----------
        start : callable
            The pool's own function.
        arguments : dict
            Its arguments by name.
        """
        guard = self._guard
        watchdog().look_alive()
        guard.wait_for_burials()
        guard.breaker.wait_before_birth()
        with guard.births:
            if guard.broken is not None or self.stopped:
                return
            before = {id(process) for process in self.workers}
            try:
                with no_telling():
                    start(**self._guarded(arguments))
                self._failures = 0
            except Exception as error:
                # In the worker handler's thread: it would end, and nobody
                # would ever replace a worker or end the pool.
                if self._early is not None:
                    raise
                self._try_again(error, start, arguments)
            finally:
                new = [process for process in self.workers if id(process) not in before]
                if self._early is not None:
                    self._early.extend(new)
                else:
                    for process in new:
                        guard.born(process)
        guard.dismiss_strays()

    def _guarded(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the pool's arguments for workers that begin under the guard."""
        initargs = (self._guard.pool_name, arguments["initializer"], arguments["initargs"])
        make = self._make_process(arguments["Process"])
        return {**arguments, "Process": make, "initializer": birth, "initargs": initargs}

    def _make_process(self, make: Callable[..., Any]) -> Callable[..., Any]:
        """Return what makes a worker's process object, and gives it its place in the pool's memory."""
        memory = self._guard.memory

        def make_with_place(*args: Any, **kwargs: Any) -> Any:
            process = make(*args, **kwargs)
            memory.prepare(process)
            return process

        return make_with_place

    def _try_again(self, error: Exception, start: Callable[..., None], arguments: dict[str, Any]) -> None:
        """Start later: no memory or no process was left, or the fork server has died."""
        guard = self._guard
        self._failures += 1
        reason = f"no worker can be started ({type(error).__name__}: {error})"
        if self._failures >= START_TRIES:
            guard.break_pool(reason)
            return
        guard.tell("init_failed", detail=reason)
        pause = min(0.05 * 2**self._failures, 1.0)
        guard.call_later(pause, lambda: self.repopulate(start, arguments))
