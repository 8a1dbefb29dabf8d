"""Tasks that a pool had sent before it was guarded.

Nothing is known of them: not which worker runs which. As long as no worker
dies they end by themselves. After a death, whatever is still in the task pipe
is sent again under the guard, and what no worker can be running any more is
declared lost. That can take as long as the longest of them runs.

Runs in the watchdog's thread and, for the verdicts, in the pool's result
thread.
"""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any, Final

from ... import clock
from ...core import error_texts, stop_world
from ...core.diagnosis import Evidence, diagnose
from ...core.workers import Worker
from ...records import TaskInfo
from ...system.complaints import complain
from ...system.watchdog import watchdog
from ...worker import envelope
from .results import Barrier, fail_result

if TYPE_CHECKING:
    from .adapter import BasePool

#: Seconds between two looks, once a worker was lost, at whether others still run such tasks.
_STEP: Final = 0.2


def job_of(tasks: Any) -> Any:
    """Return the job of a submission's tasks, of which none has been taken."""
    # A generator that has not begun still holds its parameters.
    return tasks[0][0] if isinstance(tasks, list) else inspect.getgeneratorlocals(tasks).get("result_job")


class OlderTasks:
    """The jobs that were in a pool's cache, and begun, when the guard came."""

    def __init__(self, adapter: BasePool) -> None:
        self._adapter = adapter
        self._jobs: set[Any] = set()
        self._last_exit: Any = None

    def note(self) -> None:
        """Note what is in the cache now. What waits to be begun, or is put later, has to be forgotten."""
        # In one step of C: other threads add to the cache.
        for job, result in list(self._adapter.cache.items()):
            if not hasattr(result, "_poolwarden") and not isinstance(result, Barrier):
                self._jobs.add(job)

    def forget(self, tasks: Any) -> None:
        """Leave out the job of these tasks, which were put under the guard."""
        if self._jobs:
            self._jobs.discard(job_of(tasks))

    def forget_waiting(self, jobs: set[Any]) -> None:
        """Leave out jobs that had not been begun."""
        self._jobs -= jobs

    def unanswered(self) -> list[Any]:
        """Return the keys of those that nobody has answered yet."""
        busy = {ticket.key[0] for ticket in list(self._adapter.guard.tickets.open.values())}
        return [job for job in list(self._jobs) if job in self._adapter.cache and job not in busy]

    def may_be_run_by(self, worker: Worker) -> bool:
        """Return whether a stopped worker may be running one of them.

        An idle one waits in a read or for a semaphore, so one that is stopped
        anywhere else runs a task. One that runs a task which reads or waits
        itself looks idle, and is lost.
        """
        if not (worker.is_unknown() and self.unanswered()):
            return False
        return worker.system_call()[0] == ""

    def rescue(self, data: bytes) -> set[int]:
        """Take such tasks out of what was in the task pipe, and send them under the guard.

        Returns the numbers of the guarded tickets that were in it, as long as
        there are older tasks.
        """
        found: set[int] = set()
        if not self._jobs:
            return found
        for frame in stop_world.messages(data):
            try:
                task = self._adapter.loads(frame)
            except Exception:
                text = "poolwarden: a task that was sent before guard() cannot be read and is lost"
                complain(text, level=logging.WARNING)
                continue
            if task is not None and task[2] is envelope.run:
                found.add(-task[1])
            elif task is not None and task[2] is not envelope.roll_call:
                self._adapter.line.adopt(iter((task,)), None)
        return found

    def after_repair(self) -> None:
        """Declare lost what nobody can be running any more. Result thread."""
        unanswered = self.unanswered()
        if not unanswered:
            return
        live = self._adapter.guard.live_workers()
        if self._adapter.line.begun and not any(worker.is_unknown() for worker in live):
            for job in unanswered:
                fail_result(self._adapter.cache[job], self._lost())
        else:
            watchdog().schedule(self, clock.now() + _STEP)

    def on_deadline(self) -> None:
        """Look again."""
        adapter = self._adapter
        if adapter.guard.closed:
            return
        adapter.line.call_roll(len(adapter.guard.live_workers()))
        adapter.post((Barrier(adapter.quiet_cache, self.after_repair).job, 0, None))

    def on_exits(self, tokens: list[Any]) -> None:
        """Watch nothing."""

    def on_failure(self, error: BaseException) -> None:
        """Give up these tasks only."""
        self._jobs.clear()

    def _lost(self) -> BaseException:
        exit = diagnose(
            Evidence(None, None, notes=("it was sent before guard(), so its worker is not known",))
        )
        return error_texts.worker_lost(TaskInfo("a task submitted before guard()", None, None, 1), exit)
