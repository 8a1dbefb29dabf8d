"""The end of a pool that cannot go on: why, and what its tasks are answered with.

When a pool is given up is decided elsewhere (`start_limits`, `recovery`, hosts).
Any thread.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from ..records import WorkerExit
from ..system.watchdog import watchdog
from ..worker import ledger
from . import error_texts, stop_world
from .tickets import Ticket
from .workers import Kill

if TYPE_CHECKING:
    from .guard import Guard

#: Seconds that a birth may hold up the end of a pool that is given up.
BIRTH_BOUND = 0.5


class Breakage:
    """Gives one pool up."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._nobody_began = False
        self._by: tuple[WorkerExit | None, str | None] = (None, None)

    def error(self, ticket: Ticket | None) -> BaseException:
        """Return a new error that says why the pool cannot go on."""
        guard = self._guard
        exit, text = self._by
        if ticket is not None and self._nobody_began:
            ticket.sent = False
        task = None if ticket is None else ticket.info()
        error = error_texts.pool_broken(guard.broken or "it was closed", exit, text, task=task)
        return guard.adapter.as_host_error(error)

    def end(self, reason: str, exit: WorkerExit | None = None, text: str | None = None) -> None:
        """Give up: answer every open task, and refuse new ones."""
        guard = self._guard
        if guard.broken is not None or guard.closed:
            return
        watchdog().make_way()
        # No worker may be born between the look and the end. Should a birth
        # take so long, it is why the pool is given up.
        acquired = guard.births.acquire(timeout=BIRTH_BOUND)
        try:
            self._nobody_began = acquired and self._end_starts()
            self._by = (exit, text)
            # Last: from now on other threads answer with what is above.
            guard.broken = reason
        finally:
            if acquired:
                guard.births.release()
        guard.tell("pool_broken", detail=reason, exit=exit)
        for ticket in list(guard.tickets.open.values()):
            if ticket.verdict is None:
                guard.fail(ticket, self.error(ticket))
        guard.adapter.on_broken()

    def _end_starts(self) -> bool:
        """End workers none of which is ready; return whether it is certain that no open task has begun."""
        guard = self._guard
        workers = guard.live_workers()
        if any(worker.older or worker.snapshot().phase >= ledger.READY for worker in workers):
            return False
        for worker in workers:
            worker.killed = worker.killed or Kill("repair")
            worker.send(signal.SIGKILL)
        stop_world.wait_until(lambda: all(worker.has_ended() for worker in workers), stop_world.SIGNAL_BOUND)
        return all(worker.snapshot().phase < ledger.READY for worker in workers)
