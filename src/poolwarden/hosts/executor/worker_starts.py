"""Replacing the workers that an executor has lost, or that have left.

The executor would take any end of a worker for its own end, or replace none at
all. Runs in the manager thread, as the executor's own starts of workers do;
`note` is called in the watchdog's.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from ...core.workers import Worker
from ...system.complaints import complain
from ...system.forking import no_telling

if TYPE_CHECKING:
    from .adapter import ExecutorAdapter

#: Seconds until the next try when a worker could not be started, and others live.
BIRTH_RETRY: Final = 1.0
#: Seconds for a process that has ended to be reaped.
REAP_BOUND: Final = 2.0


class Replacements:
    """The workers of one executor that have ended, until their places are taken."""

    def __init__(self, adapter: ExecutorAdapter) -> None:
        self._adapter = adapter
        self._gone: deque[Worker] = deque()

    def note(self, worker: Worker) -> None:
        """Note that a worker has ended."""
        self._gone.append(worker)

    @property
    def are_due(self) -> bool:
        """Whether there is a place to be taken."""
        return bool(self._gone)

    def reap(self) -> None:
        """Reap what has ended and will not be replaced."""
        for worker in self._gone:
            worker.process.join(0)
        self._gone.clear()

    def make(self) -> None:
        """Take dead workers out of the executor and start others."""
        adapter, guard = self._adapter, self._adapter.guard
        gone = [self._gone.popleft() for _ in range(len(self._gone))]
        for worker in gone:
            if adapter.processes_by_pid.get(worker.pid) is worker.process:
                del adapter.processes_by_pid[worker.pid]
            worker.process.join(REAP_BOUND)
        if adapter.end.joining or guard.broken is not None:
            return
        thread, executor = adapter.thread, adapter.executor()
        if getattr(executor, "_force_shutting_down", False):
            # kill_workers() or terminate_workers(), of 3.14, are at it: a new one would escape them.
            guard.break_pool("it was forcefully shut down")
            return
        if thread.is_shutting_down() and not thread.pending_work_items:
            return
        guard.breaker.wait_before_birth()
        for worker in gone:
            self._replace(executor, worker)

    def _replace(self, executor: Any, gone: Worker) -> None:
        adapter, guard = self._adapter, self._adapter.guard
        try:
            with guard.births, no_telling():
                # The host may have started some itself meanwhile.
                wanted = adapter.wanted_workers(executor) if gone.left else adapter.max_workers(executor)
                if len(adapter.processes_by_pid) < wanted:
                    adapter.spawn(executor)
        except Exception as error:
            if not adapter.processes_by_pid:
                guard.break_pool(f"no worker can be started: {error!r}")
                return
            text = f"poolwarden: a worker of {guard.name} could not be started: {error!r}"
            complain(text, level=logging.WARNING)
            self._gone.append(gone)
            guard.call_later(BIRTH_RETRY, adapter.nudge)
