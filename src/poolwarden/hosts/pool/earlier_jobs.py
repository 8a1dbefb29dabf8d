"""Which of a pool's submissions had been begun when the guard came."""

from __future__ import annotations

import inspect
from typing import Any

from ...core.tickets import Tickets
from .results import Barrier


def job_of(tasks: Any) -> Any:
    """Return the job of a submission's tasks, of which none has been taken."""
    # A generator that has not begun still holds its parameters.
    return tasks[0][0] if isinstance(tasks, list) else inspect.getgeneratorlocals(tasks).get("result_job")


class EarlierJobs:
    """The jobs that were in a pool's table of results, and begun, when the guard came.

    Parameters
    ----------
    cache : dict
        The pool's table of results that somebody waits for, by job.
    tickets : Tickets
        The tasks that the guard knows.
    """

    def __init__(self, cache: dict[Any, Any], tickets: Tickets) -> None:
        self._cache = cache
        self._tickets = tickets
        self._jobs: set[Any] = set()

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def note(self) -> None:
        """Note what is in the cache now. What waits to be begun, or is put later, has to be forgotten."""
        # In one step of C: other threads add to the cache.
        for job, result in list(self._cache.items()):
            if not hasattr(result, "_poolwarden") and not isinstance(result, Barrier):
                self._jobs.add(job)

    def forget(self, tasks: Any) -> None:
        """Leave out the job of these tasks, which were put under the guard."""
        if self._jobs:
            self._jobs.discard(job_of(tasks))

    def forget_waiting(self, jobs: set[Any]) -> None:
        """Leave out jobs that had not been begun."""
        self._jobs -= jobs

    def give_up(self) -> None:
        """Leave all of them to the pool itself."""
        self._jobs.clear()

    def unanswered(self) -> list[Any]:
        """Return the keys of those that nobody has answered yet."""
        busy = {ticket.key[0] for ticket in list(self._tickets.open.values())}
        return [job for job in list(self._jobs) if job in self._cache and job not in busy]
