"""A pool's way from its tasks to its workers, as a repair and the pool's end see it.

Covers ``pool._inqueue`` and ``pool._outqueue``: two pipes, the locks that
workers hold while they read from one and write to the other, and the gate that
every writer of tasks passes. It is the `HostQueue` of `core.recovery`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ...core import stop_world
from ...core.send_gate import Gate
from ...core.workers import Worker
from .earlier_tasks import EarlierTasks
from .result_pipe import ResultPipe

#: Seconds for the task thread to come out of a write.
THREAD_BOUND: Final = 2.0
#: Seconds for the result thread to come to what is to be done behind the answers on their way.
BEHIND_BOUND: Final = 0.1


class PoolQueue:
    """The queues of one pool.

    Parameters
    ----------
    pool : object
        The pool; its queues are kept, it is not.
    gate : Gate
        What every writer of tasks passes.
    results : ResultPipe
        Where answers arrive.
    earlier_tasks : EarlierTasks
        Has a say in what is found in the task pipe.
    """

    def __init__(self, pool: Any, gate: Gate, results: ResultPipe, earlier_tasks: EarlierTasks) -> None:
        self.gate = gate
        self._inqueue, self._outqueue = pool._inqueue, pool._outqueue
        self._results = results
        self._earlier_tasks = earlier_tasks

    def reader(self) -> int:
        """Return the descriptor of the end of the task pipe that workers read, in this process."""
        return int(self._inqueue._reader.fileno())

    def read_lock(self) -> Any:
        """Return the lock that a worker holds while it waits for a task; None if there is none."""
        return getattr(self._inqueue, "_rlock", None)

    def free_other_locks(self, free: Callable[[Any], None] = stop_world.free) -> None:
        """Free the lock with which workers send results, with `free`."""
        free(getattr(self._outqueue, "_wlock", None))

    def is_somebody_sending(self) -> bool:
        """Return whether that lock is taken, by the living or the dead."""
        lock = getattr(self._outqueue, "_wlock", None)
        return lock is not None and lock._semlock._is_zero()

    def is_quiet(self) -> bool:
        """Return whether no task is being written."""
        return not self.gate.busy

    def may_keep(self, worker: Worker) -> bool:
        """Return whether a stopped worker must live though it was not proved harmless."""
        return self._earlier_tasks.may_be_run_by(worker)

    def empty(self) -> set[int]:
        """Empty the task pipe; return the numbers of the tickets in it, as far as it can be read."""
        return self.drain(self.is_quiet)

    def drain(self, finished: Callable[[], bool]) -> set[int]:
        """Empty the task pipe until `finished` says that nobody writes; return the tickets in it."""
        left = bytearray()

        def step() -> bool:
            done = finished()
            left.extend(stop_world.read_available(self.reader()))
            return done

        stop_world.wait_until(step, THREAD_BOUND)
        return self._earlier_tasks.rescue(bytes(left))

    def call_behind(self, action: Callable[[], None]) -> None:
        """Have the result thread call `action` behind all answers that were sent before."""

        def both() -> None:
            action()
            self._earlier_tasks.after_repair()

        # The gate is shut: new tasks would fill the pipe before those that are sent again, and with
        # one death after another the oldest waited for ever.
        self._results.wait_behind(both, BEHIND_BOUND)
