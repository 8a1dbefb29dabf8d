"""The workers of a pool while its plumbing is mended: stopped, or looked at.

Runs in the watchdog's thread. A worker in user code is not stopped: a call in C
there would end with EINTR (``recv`` with a timeout, ``semtimedop``,
``epoll_wait``), and it keeps its life in any case. It holds no lock of the pool
as long as its record says so. All others are stopped, and must be proved
harmless, or are killed.

Neither lasts: a task ends, and its worker goes on to a lock; somebody sends
SIGCONT to the process group (``fg`` in a shell). So nothing that is seen of a
lock counts unless every worker was at one and the same place before and after:

- A worker in user code whose record names the same task, item and start twice,
  and the same count of notes, was in user code all the time between: each start
  has its own time, and a note takes the lock for results.
- One that was judged while it was stopped, and is stopped with the same record
  and in the same system call twice, has not run since, or has run and moved
  nothing. One that was not judged counts for nothing, though the kernel says
  that it cannot run: it may have ended its task since the others were stopped,
  taken the lock, and wait in the kernel (state D) for the mutex of the pipe.

At the moment of the look no live worker held the lock then. If it was taken, it
was taken by the dead (or a thread of this process, which got its time before).
The dead give nothing back, so it is taken by them until we release it, however
the living may have moved since: they can only have come to wait for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any, Final

from .. import clock
from ..worker.ledger import READY, RUNNING
from . import stop_world
from .workers import Worker

#: Seconds for all workers outside of user code to stop. One that takes longer is killed.
STOP_BOUND: Final = 0.5
#: Seconds that workers are given to stop before they are looked at.
STEP: Final = 0.05
#: Seconds for all workers to be in one place long enough for a look, which takes well under a millisecond.
STILL_BOUND: Final = 2.0


class RestlessError(Exception):
    """The workers could not be held still: somebody wakes them again and again."""


class World:
    """The live workers of one pool during one repair.

    Parameters
    ----------
    workers : iterable of Worker
        All live workers.
    readers : set of Worker
        Those that were seen to wait for the next task in an empty pipe.
    pipe : int
        Descriptor of the reading end of that pipe.
    may_keep : callable
        Returns whether a stopped worker must live though it was not proved harmless.

    Attributes
    ----------
    kept : list of Worker
        Those that live.
    unknown : list of Worker
        Those of them that were not proved harmless.
    """

    def __init__(
        self, workers: Iterable[Worker], readers: set[Worker], pipe: int, may_keep: Callable[[Worker], bool]
    ) -> None:
        self.kept = list(workers)
        self.unknown: list[Worker] = []
        self._readers = readers
        self._pipe = pipe
        self._may_keep = may_keep
        self._frozen: set[Worker] = set()
        # Where those were that have been judged, and live.
        self._judged: dict[Worker, object] = {}

    def stop(self) -> None:
        """Stop those that are not in user code; kill those of them that are not proved harmless."""
        deadline = clock.now() + STOP_BOUND
        while moving := self._judge():
            # Where the kernel does not tell who has stopped, to wait for it is in vain.
            unseen = [worker for worker in moving if not worker.shows_its_state()]
            self._kill(moving if clock.now() >= deadline else unseen)

    def _judge(self) -> list[Worker]:
        """Stop everybody outside of user code, judge who has stopped, and return the others."""
        self.kept = [worker for worker in self.kept if not worker.has_ended()]
        others = [worker for worker in self.kept if not is_in_user_code(worker)]
        self._frozen.update(stop_world.freeze(others, STEP))
        stopped = [worker for worker in others if worker.cannot_run()]
        self._judged = {worker: _stand_of(worker) for worker in stopped}
        self._readers = stop_world.still_waiting(self._readers.intersection(others), self._pipe)
        harmless = {worker for worker in stopped if worker in self._readers or stop_world.is_harmless(worker)}
        self.unknown = [worker for worker in stopped if worker not in harmless and self._may_keep(worker)]
        self._kill(worker for worker in stopped if worker not in harmless and worker not in self.unknown)
        return [worker for worker in self.kept if not is_in_user_code(worker) and worker not in stopped]

    def _kill(self, workers: Iterable[Worker]) -> None:
        doomed = set(workers)
        self.kept = stop_world.kill_all_but(self.kept, lambda worker: worker not in doomed)

    def thaw(self) -> None:
        """Let those go on that were stopped here."""
        stop_world.thaw(worker for worker in self._frozen if worker in self.kept)

    @property
    def has_reader(self) -> bool:
        """Whether a live worker waits for the next task in an empty pipe, and holds the reader's lock."""
        return not self._readers.isdisjoint(self.kept)

    def free(self, lock: Any) -> None:
        """Free a lock if a dead worker holds it.

        Raises
        ------
        RestlessError
            The workers could not be held still.
        """
        if lock is None:
            return
        # A thread of this process may hold it for a moment.
        if lock.acquire(True, stop_world.LOCK_BOUND) or self._is_taken_by_the_dead(lock):
            with contextlib.suppress(ValueError):
                lock.release()

    def take(self, lock: Any, timeout: float) -> bool:
        """Hold a lock: take it, or take it over from a dead worker; False if it cannot be had.

        Raises
        ------
        RestlessError
            The workers could not be held still.
        """
        if lock is None:
            return True
        deadline = clock.now() + timeout
        while not self._is_taken_by_the_dead(lock):
            if lock.acquire(True, stop_world.LOCK_BOUND):
                return True
            if clock.now() >= deadline:
                return False
        return True

    def _is_taken_by_the_dead(self, lock: Any) -> bool:
        started = clock.now()
        while (elapsed := clock.now() - started) < STILL_BOUND:
            before = list(map(self._place_of, self.kept))
            if None not in before:
                taken = bool(lock._semlock._is_zero())
                if list(map(self._place_of, self.kept)) == before:
                    return taken
            if elapsed < STOP_BOUND:
                self.stop()
            else:
                # Somebody wakes them faster than they can be looked at. Nobody wakes the dead.
                self._kill(worker for worker in self.kept if not is_in_user_code(worker))
        raise RestlessError

    def _place_of(self, worker: Worker) -> object | None:
        """Return where a worker is, something else for each place; None if that may change at any moment."""
        if worker.has_ended():
            return None
        seen = worker.snapshot()
        if is_in_user_code(worker):
            # In the first case this names one run of one item, between two of its notes.
            return (seen, worker.telling()) if seen.phase == RUNNING else READY
        stand = _stand_of(worker) if worker.cannot_run() else None
        return stand if stand == self._judged.get(worker) else None


def is_in_user_code(worker: Worker) -> bool:
    """Return whether a worker certainly runs a task, or has not begun to wait for one."""
    # One of which nothing is known may be anywhere.
    if worker.may_hold_lock() or worker.is_unknown():
        return False
    phase = worker.snapshot().phase
    return phase == RUNNING or (phase < READY and not worker.older)


def _stand_of(worker: Worker) -> object:
    """Return what tells where a stopped worker stands."""
    return worker.snapshot(), worker.system_call()
