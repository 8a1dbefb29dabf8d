"""The end of a pool's workers: in order for those that are idle, at once for the rest.

Names no host: what tells idle workers to leave is the host's. Runs in the
thread that ends a pool. Every wait is bounded.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterable
from typing import Final

from .. import clock
from ..system.waiting import readable
from ..worker import ledger
from . import stop_world
from .workers import Worker

#: Seconds for an idle worker to begin to leave after it was told; it takes well under a millisecond.
BEGIN_BOUND: Final = 0.25
#: Seconds for the exit handlers of one that leaves. The bare pool gives none.
EXIT_BOUND: Final = 1.0
#: Seconds between two looks at those that leave or end; with pidfds their ends are seen at once.
LOOK: Final = 0.001


class Farewell:
    """Ends workers, each with one SIGTERM at most: a handler of the user's runs once.

    Parameters
    ----------
    workers : iterable of Worker
        All live workers of a pool that ends.
    """

    def __init__(self, workers: Iterable[Worker]) -> None:
        self._workers = list(workers)
        self._told: set[Worker] = set()

    def idle(self, pipe: int) -> list[Worker]:
        """Return the workers that the word to leave will reach, and wake those that are stopped.

        None if one has died: it may have held the lock behind which they wait.

        Parameters
        ----------
        pipe : int
            The reading end of the tasks' pipe in this process.
        """
        if any(worker.has_ended() for worker in self._workers):
            return []
        found = [worker for worker in self._workers if _is_idle(worker, pipe)]
        for worker in found:
            worker.send(signal.SIGCONT)
        return found

    def tell(self, worker: Worker) -> None:
        """Tell a worker to end now; once."""
        if worker not in self._told:
            self._told.add(worker)
            worker.set_cells(RETIRE=ledger.END)
            worker.send(signal.SIGTERM)
            worker.send(signal.SIGCONT)

    def tell_all_but(self, leaving: Iterable[Worker]) -> None:
        """Tell those to end now that do not leave by themselves."""
        for worker in set(self._workers).difference(leaving):
            self.tell(worker)

    def see_out(self, leaving: Iterable[Worker]) -> None:
        """Give workers that leave the time for their exit handlers.

        One that has taken a task instead is told to end, as is one that takes
        too long, and one that has run its exit handlers: to take down an
        interpreter takes longer than everything before.
        """
        started = clock.now()
        waiting = _alive(leaving)
        while waiting:
            _await_one(waiting, LOOK)
            passed = clock.now() - started
            waiting = _alive(waiting)
            for worker in [worker for worker in waiting if _is_late(worker, passed)]:
                waiting.remove(worker)
                self.tell(worker)

    def await_told(self, bound: float) -> bool:
        """Wait up to `bound` seconds for those that were told to end; return whether they held no lock.

        One that was on its way to the pipe, or from it, may have taken a lock
        with it, and nobody could leave: the bare pool leaves nobody then.
        """
        _await_all(self._told, bound)
        return all(worker.snapshot().phase not in (ledger.READY, ledger.DONE) for worker in self._told)

    def finish(self, bound: float) -> None:
        """Tell the rest to end, and end those for certain that have not after `bound` seconds."""
        left = _alive(self._workers)
        for worker in left:
            self.tell(worker)
        left = _await_all(left, bound)
        for worker in left:
            worker.send(signal.SIGKILL)
        _await_all(left, stop_world.SIGNAL_BOUND)
        for worker in self._workers:
            worker.settle_exit_code(None)


def _alive(workers: Iterable[Worker]) -> list[Worker]:
    return [worker for worker in workers if not worker.has_ended()]


def _await_all(workers: Iterable[Worker], bound: float) -> list[Worker]:
    """Wait for ends, and return the workers that have not ended in `bound` seconds."""
    deadline = clock.now() + bound
    while (left := _alive(workers)) and clock.now() < deadline:
        _await_one(left, LOOK)
        workers = left
    return left


def _is_idle(worker: Worker, pipe: int) -> bool:
    if worker.is_unknown():
        # Idle, or in a task from before the guard.
        return worker.system_call()[0] == "futex" or bool(stop_world.still_waiting((worker,), pipe))
    return worker.snapshot().phase in (ledger.READY, ledger.DONE, ledger.LEFT)


def _is_late(worker: Worker, passed: float) -> bool:
    phase = worker.snapshot().phase
    if phase == ledger.LEFT:
        return passed > EXIT_BOUND or worker.has_run_exit_handlers()
    return phase == ledger.RUNNING or passed > BEGIN_BOUND


def _await_one(workers: Iterable[Worker], timeout: float) -> None:
    """Wait until one has ended, perhaps; what stands for it may be held open by its own children."""
    with contextlib.suppress(OSError, ValueError):
        readable([worker.fd for worker in workers], timeout)
        return
    clock.sleep(timeout)
