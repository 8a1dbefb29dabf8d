"""Keeps a pool from starting workers for ever when they cannot live.

Covers counting and waiting; starting is the host's. The bare pool answers a
failing initializer with a fork storm (hundreds of starts a second) and never
tells anybody. Called from the watchdog's thread and, for the wait, from
whatever thread starts workers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..records import WorkerExit
from ..system.interruption import make_event
from ..system.main_module import why_no_import
from ..worker.ledger import READY, STARTING, UNBORN
from .printed import type_raised
from .workers import Worker

#: Starts in a row that may fail by themselves before the pool is given up.
FAILED_STARTS: Final = 5
#: The same for starts that ended with a signal before the initializer began. A
#: start has no fault of its own then, so it is worth more tries: with the waits
#: between them they take ten seconds. Fifty were used up by somebody who killed
#: workers faster than a busy machine started them.
KILLED_STARTS: Final = 200
#: Longest wait before a replacement is started, in seconds.
LONGEST_WAIT: Final = 0.05


class StartLimiter:
    """Counts deaths in a row of one pool's workers.

    Parameters
    ----------
    live_workers : callable
        Returns the pool's workers.
    """

    def __init__(self, live_workers: Callable[[], list[Worker]]) -> None:
        self._live_workers = live_workers
        self._failed = 0
        self._killed = 0
        self._lost = 0
        self._closing = make_event()

    def all_is_well(self) -> None:
        """Forget the deaths: a worker has finished a task."""
        if self._lost or self._failed or self._killed:
            self._lost = self._failed = self._killed = 0

    def task_lost(self) -> None:
        """Count a death in user code: the worker itself had started well."""
        self._lost += 1
        self._failed = self._killed = 0

    def start_failed(self, worker: Worker, phase: int, exit: WorkerExit, text: str | None) -> str | None:
        """Count a worker that ended before it was ready; return why to give the pool up, if it is to be."""
        self._lost += 1
        timed_out = worker.killed is not None and worker.killed.reason == "startup"
        if exit.signal is None or timed_out or phase == STARTING:
            self._failed += 1
        else:
            self._killed += 1
        others = [other for other in self._live_workers() if other is not worker]
        if timed_out and all(other.snapshot().phase < READY for other in others):
            return "its workers outran startup_timeout in their initializer"
        if self._failed >= FAILED_STARTS:
            return f"{_why(worker, phase, exit, text)}, {self._failed} times in a row"
        if self._killed >= KILLED_STARTS:
            return f"{self._killed} workers in a row were killed while they started"
        return None

    def wait_before_birth(self) -> None:
        """Wait a little when workers die one after the other; at most `LONGEST_WAIT`."""
        spare = self._lost - 2 * max(1, len(self._live_workers()) + 1)
        if spare > 0:
            self._closing.wait(min(0.001 * 2 ** min(spare, 10), LONGEST_WAIT))

    def stop_waiting(self) -> None:
        """Do not wait any more: the pool ends."""
        self._closing.set()


def _why(worker: Worker, phase: int, exit: WorkerExit, text: str | None) -> str:
    """Return why workers do not get ready, as the end of a sentence."""
    if text:
        return f"its initializer raised {type_raised(text)}".rstrip()
    if phase == STARTING:
        return "its workers end in their initializer"
    if phase == UNBORN and (exit.exitcode or 0) > 0 and _imports_main(worker):
        return why_no_import()
    return "its workers end before they are ready"


def _imports_main(worker: Worker) -> bool:
    """Return whether it began with an interpreter of its own, and so with the program's main module."""
    popen = getattr(getattr(worker, "process", None), "_popen", None)
    return getattr(popen, "method", "fork") != "fork"
