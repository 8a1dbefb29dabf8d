"""Results that a closed pool waits for though nothing was submitted.

A submission that was interrupted, by Ctrl-C say, may have come no further than
to the pool's table of results. Its caller has no result object; but a closed
pool waits for the table to be empty, and the bare one's ``join`` for ever.
Looked at once a pool is closed, in the watchdog's thread; answered in the
result thread.
"""

from __future__ import annotations

from typing import Any

from ...core import error_texts
from ...core.send_gate import Gate
from ...core.tickets import VERDICT, Tickets
from .earlier_jobs import EarlierJobs
from .result_pipe import ResultPipe
from .results import Barrier, end_result
from .submission import TaskQueue


class Unsubmitted:
    """Finds such results in one pool, and ends them.

    Parameters
    ----------
    tickets : Tickets
        The tasks that were submitted, or nearly so.
    gate : Gate
        Where an interrupted submission may have left its message.
    task_queue : TaskQueue
        Where one may wait for the task thread.
    results : ResultPipe
        Has the results.
    earlier : EarlierJobs
        Those that were submitted before the guard came.
    """

    def __init__(
        self, tickets: Tickets, gate: Gate, task_queue: TaskQueue, results: ResultPipe, earlier: EarlierJobs
    ) -> None:
        self._tickets = tickets
        self._gate = gate
        self._task_queue = task_queue
        self._results = results
        self._earlier = earlier
        self._found: set[Any] = set()

    def look(self) -> None:
        """End those that an earlier look has found already; another thread may just be submitting."""
        if self._gate.recall() or self._gate.again or not self._task_queue.is_idle:
            # What an interrupted thread has left behind is sent, or turns out not to be there.
            self._task_queue.wake()
            self._found = set()
            return
        found = self._unanswerable()
        ended, self._found = found & self._found, found
        if ended:
            self._results.call_behind(lambda: self._end(ended))

    def _unanswerable(self) -> set[Any]:
        tickets = list(self._tickets.open.values())
        # An answer that is on its way has its ticket open.
        known = {ticket.key[0] for ticket in tickets if ticket.sent or ticket.verdict is not None}
        known.update(self._earlier.unanswered())
        results = list(self._results.cache.items())
        return {job for job, result in results if job not in known and not isinstance(result, Barrier)}

    def _end(self, jobs: set[Any]) -> None:
        tickets = self._tickets
        for job in jobs & self._unanswerable():
            for ticket in [ticket for ticket in list(tickets.open.values()) if ticket.key[0] == job]:
                ticket.verdict = error_texts.pool_broken("it was closed before the task was sent")
                tickets.settle(ticket.number, VERDICT, b"")
            error = error_texts.pool_broken("it was closed before the task was sent")
            end_result(self._results.cache[job], error, self._results.quiet_cache)
