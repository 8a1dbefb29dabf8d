"""Workers that stand still outside of user code, while something waits for them.

Covers what no death and no deadline tells of:

- An idle worker was stopped (SIGSTOP, a debugger). It may hold the reader's
  lock, and then nobody takes a task. It is woken, or replaced if that is of no
  use.
- A worker was forked while another thread held a lock, of imports, of a
  stream, of an allocator, and needs it before its first task or after its
  last. It waits in its only thread for a lock in its own memory, which nobody
  else can release, so it is replaced.
- A task that was sent is not begun, though all who could take it wait for one:
  its message was lost, or a lock. The plumbing is repaired.

Runs in the watchdog's thread, but for `expect`. It looks only while a task was
sent that nobody has begun, or a worker is about to get ready; each must be seen
more than once, since the process group may just be stopped and go on.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any, Final

from .. import clock
from ..worker.ledger import READY, RUNNING, STARTING
from . import stop_world
from .tickets import Tickets
from .workers import Kill, Worker

#: Seconds between two looks.
STEP: Final = 0.5
#: Looks in a row at which a worker must be found stopped before it is woken, and before it is killed.
WAKE_AT: Final = 2
KILL_AT: Final = 4
#: The same for one that waits for a lock of its own.
STUCK_AT: Final = 4
#: Looks in a row at which the oldest task must be found waiting before the plumbing is repaired.
REPAIR_AT: Final = 10
#: Seconds from its birth in which a worker is looked after that does not get ready.
BIRTH_BOUND: Final = 60.0


class Standstill:
    """Looks after the workers of one pool.

    Parameters
    ----------
    tickets : Tickets
        The pool's tasks.
    live_workers : callable
        Returns its workers.
    call_later : callable
        Has an action called in some seconds, in the watchdog's thread.
    repair : callable
        Repairs the plumbing.
    tell : callable
        Tells of an event.

    Attributes
    ----------
    expected : bool
        Whether a look is arranged for.
    """

    def __init__(
        self,
        tickets: Tickets,
        live_workers: Callable[[], list[Worker]],
        *,
        call_later: Callable[[float, Callable[[], None]], None],
        repair: Callable[[], None],
        tell: Callable[..., Any],
    ) -> None:
        self._tickets = tickets
        self._live_workers = live_workers
        self._call_later = call_later
        self._repair = repair
        self._tell = tell
        self.expected = False
        self._stopped: dict[Worker, int] = {}
        self._stuck: dict[Worker, int] = {}
        self._waits: tuple[tuple[int, int], int] = (0, 0), 0

    def expect(self) -> None:
        """Look soon. Any thread."""
        # In this order: interrupted between the two, a second look is arranged for, never none.
        self._call_later(STEP, self._look)
        self.expected = True

    def forget(self) -> None:
        """Forget the workers, whose process objects hold descriptors: nobody is looked after any more."""
        self._stopped, self._stuck = {}, {}

    def _look(self) -> None:
        self.expected = False
        workers = [worker for worker in self._live_workers() if not worker.has_ended()]
        waiting = self._oldest_waiting(workers)
        if waiting is None and not any(map(_is_being_born, workers)):
            self.forget()
            return
        self.expect()
        others = [worker for worker in workers if worker.snapshot().phase not in (STARTING, RUNNING)]
        stuck = [worker for worker in others if not worker.is_unknown() and _waits_for_itself(worker)]
        self._stuck = _counted(self._stuck, stuck)
        for worker in [worker for worker, times in self._stuck.items() if times >= STUCK_AT]:
            self._replace(worker, "stuck", "waited for a lock that was taken when it was forked")
        if waiting is None:
            self._stopped = {}
            return
        self._stopped = _counted(self._stopped, [worker for worker in others if worker.is_stopped()])
        for worker, times in self._stopped.items():
            self._treat_stopped(worker, times)
        self._repair_if_nothing_moves(waiting, others)

    def _oldest_waiting(self, workers: list[Worker]) -> tuple[int, int] | None:
        """Return the number of the oldest task that was sent and not begun, and how often it was sent."""
        begun = stop_world.begun_tickets(workers)
        for ticket in list(self._tickets.open.values()):
            if ticket.sent and ticket.verdict is None and ticket.number not in begun:
                return ticket.number, ticket.sendings
        return None

    def _treat_stopped(self, worker: Worker, times: int) -> None:
        if times == WAKE_AT:
            worker.send(signal.SIGCONT)
            detail = f"worker {worker.pid} was stopped while idle, and tasks waited; it was sent SIGCONT"
            self._tell("worker_woken", pid=worker.pid, detail=detail)
        elif times >= KILL_AT:
            self._replace(worker, "stopped", "was stopped while idle, and SIGCONT did not wake it")

    def _replace(self, worker: Worker, reason: str, why: str) -> None:
        if worker.killed is None:
            worker.killed = Kill(reason)
            detail = f"worker {worker.pid} {why}; it is replaced"
            self._tell("worker_killed", pid=worker.pid, detail=detail)
        worker.send(signal.SIGKILL)

    def _repair_if_nothing_moves(self, waiting: tuple[int, int], others: list[Worker]) -> None:
        before, times = self._waits
        idle = bool(others) and all(worker.system_call()[0] in ("futex", "poll", "read") for worker in others)
        times = times + 1 if waiting == before else 1
        self._waits = waiting, times
        # Once for one sending: it may have been answered, and its answer wait for a callback to end.
        if idle and times == REPAIR_AT:
            self._repair()


def _is_being_born(worker: Worker) -> bool:
    """Return whether a worker is not ready yet, for a reason that may be a lock."""
    is_young = clock.now() - worker.born < BIRTH_BOUND
    return is_young and not worker.older and worker.snapshot().phase < READY


def _waits_for_itself(worker: Worker) -> bool:
    """Return whether it waits for a lock that nobody but itself can release."""
    return worker.system_call()[0] == "own-lock" and worker.has_one_thread()


def _counted(before: dict[Worker, int], found: list[Worker]) -> dict[Worker, int]:
    """Return how often in a row each worker was found."""
    return {worker: before.get(worker, 0) + 1 for worker in found}
