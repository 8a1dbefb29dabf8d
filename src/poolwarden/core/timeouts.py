"""Timeouts: which task is overdue, and stopping it.

Runs in the watchdog's thread; `expect` in any. Nothing is armed, and nobody is
woken, while no task with a limit is open. While one is, the records are looked
at when the first limit can be reached: no message tells of a task's start.

A task is killed only after its worker was stopped and the record read once
more: otherwise a task that ends just in time would leave its innocent
successor to be killed.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from .. import clock
from ..system.watchdog import watchdog
from ..worker.ledger import ARMED_SOFT, ARMED_STACK, READY, RUNNING, UNBORN
from ..worker.signals import SOFT_SIGNAL, STACK_SIGNAL
from .stop_world import freeze, thaw, wait_until
from .ticket import Ticket
from .tickets import Tickets
from .workers import Kill, Snapshot, Worker

#: Seconds for faulthandler to write the stacks; it takes well under 1 ms where there is a core for it.
STACK_BOUND: Final = 0.2
#: Seconds between looks for a task that is to be cancelled and has not begun.
CANCEL_STEP: Final = 0.005


class Deadlines:
    """The time limits of one pool's tasks and worker starts.

    Parameters
    ----------
    tickets : Tickets
        The pool's tasks.
    live_workers : callable
        Returns its workers.
    startup_timeout : callable
        Returns how many seconds a worker may take to start, None for any number.
    wake_at : callable
        Has `look` called at a time (`clock.now`) at the latest.
    """

    def __init__(
        self,
        tickets: Tickets,
        live_workers: Callable[[], list[Worker]],
        startup_timeout: Callable[[], float | None],
        wake_at: Callable[[float], object],
    ) -> None:
        self._tickets = tickets
        self._live_workers = live_workers
        self._startup_timeout = startup_timeout
        self._wake_at = wake_at
        self._waiting: tuple[int, float] | None = None

    def expect(self, seconds: float) -> None:
        """Look at the records in `seconds` at the latest."""
        # Nothing is kept here of what is scheduled: whoever was interrupted between the one and the
        # other left a pool whose timeouts never came.
        self._wake_at(clock.now() + seconds)

    def look(self) -> None:
        """Stop what is overdue and arrange for the next look."""
        now = clock.now()
        overdue = []
        for worker, ticket, seen in self._running():
            due = self._due(worker, ticket, seen)
            if due <= now:
                overdue.append((worker, ticket, seen))
            elif due < float("inf"):
                self.expect(due - now)
        limits = [
            ticket.timeout
            for ticket in list(self._tickets.open.values())
            if ticket.timeout is not None and not ticket.called_off
        ]
        if limits:
            self.expect(max(min(limits), CANCEL_STEP))
        self._look_at_starts(now)
        if overdue:
            self._stop(overdue)

    def _running(self) -> Iterator[tuple[Worker, Ticket, Snapshot]]:
        for worker in self._live_workers():
            seen = worker.snapshot()
            ticket = self._tickets.open.get(seen.ticket)
            # One that was killed already may take a while to end.
            if (
                worker.killed is None
                and seen.phase == RUNNING
                and ticket is not None
                and ticket.timeout is not None
            ):
                yield worker, ticket, seen

    @staticmethod
    def _due(worker: Worker, ticket: Ticket, seen: Snapshot) -> float:
        timeout = ticket.timeout_of(seen.item)
        if timeout is None:
            return float("inf")
        due = seen.started / 1e9 + timeout
        return due + ticket.policy_of(seen.item).grace if worker.soft == seen else due

    def _stop(self, overdue: list[tuple[Worker, Ticket, Snapshot]]) -> None:
        hard = []
        for worker, ticket, seen in overdue:
            if (
                ticket.policy_of(seen.item).grace
                and seen.armed & ARMED_SOFT
                and worker.soft != seen
                and not ticket.cancelled
                and worker.catches(SOFT_SIGNAL or 0)
            ):
                worker.soft = seen
                worker.set_cells(SOFT_ITEM=seen.item, SOFT_TICKET=seen.ticket + 1)
                worker.send(SOFT_SIGNAL or 0)
                self.expect(ticket.policy_of(seen.item).grace)
            else:
                hard.append((worker, ticket, seen))
        if not hard:
            return
        # For the stacks, and until they are stopped.
        watchdog().make_way()
        stacks = dump_stacks([worker for worker, _, seen in hard if seen.armed & ARMED_STACK])
        frozen = freeze(worker for worker, _, _ in hard)
        for worker, ticket, seen in hard:
            if worker.snapshot() == seen:
                reason = "cancel" if ticket.cancelled else "timeout"
                worker.killed = Kill(reason, ticket.number, stacks.get(worker))
                worker.send(signal.SIGKILL)
        thaw(worker for worker in frozen if worker.killed is None)

    def _look_at_starts(self, now: float) -> None:
        limit = self._startup_timeout()
        if limit is None:
            return
        stuck = []
        for worker in self._live_workers():
            phase = worker.snapshot().phase
            if phase >= READY or worker.killed is not None:
                continue
            if worker.older and phase == UNBORN:
                # Older than the guard: idle and stuck look the same, unless
                # the oldest task in the pipe finds no taker.
                if self._finds_no_taker(now, limit):
                    stuck.append(worker)
                else:
                    self.expect(limit)
            elif now >= worker.born + limit:
                stuck.append(worker)
            else:
                self.expect(worker.born + limit - now)
        for worker in stuck:
            worker.killed = Kill("startup")
            worker.send(signal.SIGKILL)

    def _finds_no_taker(self, now: float, limit: float) -> bool:
        busy = {worker.snapshot().ticket for worker in self._live_workers()}
        waiting = min(
            (
                number
                for number, ticket in list(self._tickets.open.items())
                if ticket.sent and number not in busy
            ),
            default=None,
        )
        if waiting is None:
            self._waiting = None
        elif self._waiting is None or self._waiting[0] != waiting:
            self._waiting = (waiting, now)
        # A little less than the limit: the look may come a hair early.
        return self._waiting is not None and now - self._waiting[1] >= limit * 0.99


def dump_stacks(workers: Iterable[Worker]) -> dict[Worker, str | None]:
    """Have workers write their Python stacks, and return them.

    They do so even while a task holds the GIL. Waits until all have written,
    for `STACK_BOUND` seconds at most: a process in an uninterruptible wait
    writes nothing, and has no stack then.
    """
    # The signal would end one that has no handler for it any more; it has no stack then.
    before = {
        worker: worker.stack_size()
        for worker in workers
        if worker.catches(STACK_SIGNAL or 0) and worker.can_write_stack()
    }
    for worker in before:
        # A stopped process takes no signal but this.
        worker.send(signal.SIGCONT)
        worker.send(STACK_SIGNAL or 0)

    def finished() -> bool:
        # That a file grew no more for a moment is not enough: on a busy machine
        # the stack ended in the middle of a line.
        return all(
            worker.stack_size() > start and not worker.handles_signal(STACK_SIGNAL or 0)
            for worker, start in before.items()
        )

    wait_until(finished, STACK_BOUND)
    return {worker: worker.stack(start) for worker, start in before.items()}
