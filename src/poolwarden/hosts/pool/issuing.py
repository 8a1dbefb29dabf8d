"""Tickets for the tasks that a pool's submission methods make.

Covers what a task tuple of `multiprocessing` is: one call, a chunk of a
``map``, a batch of a library above, or the error of an iterable. Runs in the
thread that submits and in the pool's task thread.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from types import FunctionType
from typing import Any

from ...core import error_texts
from ...core.guard import Guard
from ...core.task_names import Site, name_of
from ...core.tickets import Ticket
from ...worker import envelope
from ..batch import Batch
from .feed import Feed
from .result_pipe import ResultPipe
from .results import take_over


class Issuer:
    """Issues the tickets of one pool.

    Parameters
    ----------
    guard : Guard
        The pool's guard.
    results : ResultPipe
        Has the result objects that wait for the tasks.
    module : module
        Where the host has its ``Pool``.

    Attributes
    ----------
    reraise : callable
        The host's function that raises its argument, in a worker.
    """

    def __init__(self, guard: Guard, results: ResultPipe, module: Any) -> None:
        self.reraise: Callable[..., Any] = module._helper_reraises_exception
        self._guard = guard
        self._cache, self._quiet_cache = results.cache, results.quiet_cache
        self._chunks = {module.mapstar: 0, module.starmapstar: envelope.STAR}

    def issue_safely(self, task: Any, site: Site | None, feed: Feed | None) -> Ticket | None:
        """Issue a task's ticket, whatever its pickling and its attributes do. Not in the main thread."""
        try:
            return self.issue(task, site, feed)
        except BaseException as error:
            # An exit in the user's __reduce__ must not end the task thread.
            job, index, func, args, _ = task
            is_chunk = type(func) is FunctionType and func in self._chunks
            self._fail(job, index, error, site, name=name_of(args[0][0] if is_chunk else func))
            return None

    def issue(self, task: Any, site: Site | None, feed: Feed | None, is_plain: bool = False) -> Ticket | None:
        """Issue a task's ticket, None if nobody waits for it; answer it at once if it cannot be sent."""
        guard = self._guard
        job, index, func, args, kwds = task
        result = self._cache.get(job)
        if result is None:
            if feed is not None:
                feed.stop()
            return None
        take_over(result, guard, self._quiet_cache)
        if func is self.reraise:
            # The user's iterable raised; the bare pool sends the exception to
            # a worker and back.
            missing = max(_chunks_of(result) - (index + 1), 0)
            self._fail(job, index, args[0], site, missing=missing)
            if feed is not None:
                # Answered for, or they would be counted a second time at the end of the iterable.
                feed.count += missing
            return None
        policy = guard.policy
        call: Any
        base: int | None
        star = self._chunks.get(func) if type(func) is FunctionType else None
        if type(func) is Batch:
            call, flags, base, policy, site = func.call, func.flags, func.base, func.policy, func.site
            func = func.function
        elif star is None or feed is None:
            call = (func, args, kwds)
            flags, base = 0, None if feed is None or feed.is_single else index
        else:
            call = args[0]
            func, flags = call[0], envelope.CHUNK | star
            base = feed.count_items(len(call[1]))
        ticket = guard.tickets.issue(
            (job, index), func, call, policy, flags=flags, base=base, is_plain=is_plain
        )
        ticket.site = site
        is_cancelled = getattr(result, "_poolwarden_cancelled", False)
        if is_cancelled or guard.broken is not None or ticket.verdict is not None:
            self._refuse(ticket, feed, is_cancelled)
        return ticket

    def _refuse(self, ticket: Ticket, feed: Feed | None, is_cancelled: bool) -> None:
        """Answer a ticket of a broken pool, or of a cancelled result, or one that cannot be pickled."""
        guard = self._guard
        verdict = ticket.verdict
        if guard.broken is not None:
            verdict = guard.broken_error(ticket)
        elif is_cancelled:
            verdict = CancelledError()
        if feed is not None and verdict is not ticket.verdict:
            feed.end()
        if verdict is not None:
            guard.tickets.enter(ticket)
            guard.fail(ticket, verdict)

    def fail_short(self, feed: Feed) -> None:
        """Fail a ``map`` whose iterable had fewer items than its ``len()``; the bare pool waits for ever."""
        result = self._cache.get(feed.job)
        missing = _chunks_of(result) - feed.count
        if missing > 0:
            take_over(result, self._guard, self._quiet_cache)
            error = ValueError("the iterable gave fewer items than its len()")
            self._fail(feed.job, feed.count, error, feed.site, missing=missing - 1)
            # Answered for: the end may be met again, behind tasks that are sent again.
            feed.count += missing

    def _fail(
        self,
        job: Any,
        index: int,
        error: BaseException,
        site: Site | None,
        *,
        name: str = "an iterable of tasks",
        missing: int = 0,
    ) -> None:
        """Answer a task that cannot be sent. Task thread."""
        guard = self._guard
        ticket = guard.tickets.issue((job, index), name, (None, (), {}), guard.policy)
        ticket.site = site
        ticket.missing = missing
        if not isinstance(error, Exception):
            error = error_texts.never_sent(ticket.info(), error)
        guard.fail(ticket, error)


def _chunks_of(result: Any) -> int:
    """Return how many chunks the result of a ``map`` waits for in all; 0 for any other."""
    chunks = getattr(result, "_poolwarden_chunks", None) or getattr(result, "_number_left", 0)
    return int(chunks or 0)
