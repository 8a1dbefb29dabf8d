"""Results that a closed pool waits for though nothing was submitted.

A submission that was interrupted, by Ctrl-C say, may have come no further than
to the pool's table of results. Its caller has no result object; but a closed
pool waits for the table to be empty, and the bare one's ``join`` for ever.
Looked at once a pool is closed, in the watchdog's thread; answered in the
result thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...core import error_texts
from ...core.tickets import VERDICT
from .results import Barrier, end_result

if TYPE_CHECKING:
    from .adapter import BasePool


class Unsubmitted:
    """Finds them, and ends them."""

    def __init__(self, adapter: BasePool) -> None:
        self._adapter = adapter
        self._found: set[Any] = set()

    def look(self) -> None:
        """End those that an earlier look has found already; another thread may just be submitting."""
        adapter = self._adapter
        if adapter.gate.recall() or adapter.gate.again or not adapter.line.is_idle:
            # What an interrupted thread has left behind is sent, or turns out not to be there.
            adapter.line.poke()
            self._found = set()
            return
        found = self._unanswerable()
        ended, self._found = found & self._found, found
        if ended:
            adapter.post((Barrier(adapter.quiet_cache, lambda: self._end(ended)).job, 0, None))

    def _unanswerable(self) -> set[Any]:
        adapter = self._adapter
        tickets = list(adapter.guard.tickets.open.values())
        # An answer that is on its way has its ticket open.
        known = {ticket.key[0] for ticket in tickets if ticket.sent or ticket.verdict is not None}
        known.update(adapter.older_tasks.unanswered())
        results = list(adapter.cache.items())
        return {job for job, result in results if job not in known and not isinstance(result, Barrier)}

    def _end(self, jobs: set[Any]) -> None:
        adapter = self._adapter
        tickets = adapter.guard.tickets
        for job in jobs & self._unanswerable():
            for ticket in [ticket for ticket in list(tickets.open.values()) if ticket.key[0] == job]:
                ticket.verdict = error_texts.pool_broken("it was closed before the task was sent")
                tickets.settle(ticket.number, VERDICT, b"")
            error = error_texts.pool_broken("it was closed before the task was sent")
            end_result(adapter.cache[job], error, adapter.quiet_cache)
