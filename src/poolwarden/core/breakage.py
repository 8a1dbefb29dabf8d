"""The end of a pool that cannot go on: why, and what its tasks are answered with.

When a pool is given up is decided elsewhere (`start_limits`, `recovery`, hosts).
Any thread.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

from ..records import WorkerExit
from ..system.watchdog import watchdog
from ..worker import ledger
from . import error_texts, stop_world
from .lifecycle import Lifecycle
from .ports import Host
from .ticket import Ticket
from .workers import Kill, Worker

#: Seconds that a birth may hold up the end of a pool that is given up.
BIRTH_BOUND = 0.5


class Breakage:
    """Gives one pool up.

    Parameters
    ----------
    lifecycle : Lifecycle
        The pool's state.
    host : Host
        Makes the errors.
    live_workers : callable
        Returns its workers.
    """

    def __init__(
        self, lifecycle: Lifecycle, host: Host, live_workers: Callable[[], list[Worker]]
    ) -> None:
        self._lifecycle = lifecycle
        self._host = host
        self._live_workers = live_workers

    def error(self, ticket: Ticket | None) -> BaseException:
        """Return a new error that says why the pool cannot go on."""
        lifecycle = self._lifecycle
        exit, text = lifecycle.broken_by
        if ticket is not None and lifecycle.nobody_began:
            ticket.sent = False
        task = None if ticket is None else ticket.info()
        error = error_texts.pool_broken(lifecycle.broken or "it was closed", exit, text, task=task)
        return self._host.as_host_error(error)

    def end(self, reason: str, exit: WorkerExit | None = None, text: str | None = None) -> bool:
        """Refuse new tasks; return False if the pool has ended already, in any way."""
        lifecycle = self._lifecycle
        if not lifecycle.may_break():
            return False
        watchdog().make_way()
        # No worker may be born between the look and the end. Should a birth
        # take so long, it is why the pool is given up.
        acquired = lifecycle.births.acquire(timeout=BIRTH_BOUND)
        try:
            lifecycle.break_(reason, exit, text, nobody_began=acquired and self._end_starts())
        finally:
            if acquired:
                lifecycle.births.release()
        return True

    def _end_starts(self) -> bool:
        """End workers none of which is ready; return whether it is certain that no open task has begun."""
        workers = self._live_workers()
        if any(worker.older or worker.snapshot().phase >= ledger.READY for worker in workers):
            return False
        for worker in workers:
            worker.killed = worker.killed or Kill("repair")
            worker.send(signal.SIGKILL)
        stop_world.wait_until(lambda: all(worker.has_ended() for worker in workers), stop_world.SIGNAL_BOUND)
        return all(worker.snapshot().phase < ledger.READY for worker in workers)
