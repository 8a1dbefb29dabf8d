"""What becomes of the tasks that a pool had sent before it was guarded.

Nothing is known of them: not which worker runs which. As long as no worker
dies they end by themselves. After a death, whatever is still in the task pipe
is sent again under the guard, and what no worker can be running any more is
declared lost. That can take as long as the longest of them runs.

Runs in the watchdog's thread and, for the errors, in the pool's result thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ... import clock
from ...core import stop_world
from ...core.guard import Guard
from ...core.workers import Worker
from ...system.complaints import complain
from ...system.watchdog import watchdog
from ...worker import envelope
from ..earlier_work import LOOK_STEP, lost_earlier_task
from .earlier_jobs import EarlierJobs
from .result_pipe import ResultPipe
from .results import fail_result
from .submission import TaskQueue


class EarlierTasks:
    """Saves such tasks after a death, or declares them lost.

    Parameters
    ----------
    jobs : EarlierJobs
        The jobs that they belong to.
    guard : Guard
        The pool's guard.
    results : ResultPipe
        Where those that are lost are answered.
    task_queue : TaskQueue
        Where those that nobody has read are sent again.
    loads : callable
        Unpickles a message.
    """

    def __init__(
        self,
        jobs: EarlierJobs,
        guard: Guard,
        results: ResultPipe,
        task_queue: TaskQueue,
        loads: Callable[[bytes], Any],
    ) -> None:
        self._jobs = jobs
        self._guard = guard
        self._results = results
        self._task_queue = task_queue
        self._loads = loads

    def may_be_run_by(self, worker: Worker) -> bool:
        """Return whether a stopped worker may be running one of them.

        An idle one waits in a read or for a semaphore, so one that is stopped
        anywhere else runs a task. One that runs a task which reads or waits
        itself looks idle, and is lost.
        """
        if not (worker.is_unknown() and self._jobs.unanswered()):
            return False
        return worker.system_call()[0] == ""

    def rescue(self, data: bytes) -> set[int]:
        """Take such tasks out of what was in the task pipe, and send them under the guard.

        Returns the numbers of the guarded tickets that were in it, as long as
        there are earlier tasks.
        """
        found: set[int] = set()
        if not self._jobs:
            return found
        for frame in stop_world.messages(data):
            try:
                task = self._loads(frame)
            except Exception:
                text = "poolwarden: a task that was sent before guard() cannot be read and is lost"
                complain(text, level=logging.WARNING)
                continue
            if task is not None and task[2] is envelope.run:
                found.add(-task[1])
            elif task is not None and task[2] is not envelope.roll_call:
                self._task_queue.adopt(iter((task,)), None)
        return found

    def after_repair(self) -> None:
        """Declare lost what nobody can be running any more. Result thread."""
        unanswered = self._jobs.unanswered()
        if not unanswered:
            return
        live = self._guard.live_workers()
        if self._task_queue.begun and not any(worker.is_unknown() for worker in live):
            for job in unanswered:
                fail_result(self._results.cache[job], lost_earlier_task())
        else:
            watchdog().schedule(self, clock.now() + LOOK_STEP)

    def on_deadline(self) -> None:
        """Look again."""
        if self._guard.closed:
            return
        self._task_queue.call_existing_workers(len(self._guard.live_workers()))
        self._results.call_behind(self.after_repair)

    def on_exits(self, tokens: list[Any]) -> None:
        """Watch nothing."""

    def on_failure(self, error: BaseException) -> None:
        """Give up these tasks only."""
        self._jobs.give_up()
