"""From a pool's submission methods to its task thread, through the guard.

Covers ``pool._taskqueue`` and the iterators of tasks in it. Entries are put by
whatever thread submits; they are iterated, which pickles the calls and issues
the tickets, in the pool's task thread, as in the bare pool.
"""

from __future__ import annotations

import inspect
import queue
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from ..core.tickets import Ticket, caller_site
from ..worker import envelope
from .pool_results import take_over

if TYPE_CHECKING:
    from .pool import MultiprocessingPool

#: Ends of the names of files whose frames are not the user's.
_OWN_FILES = ("poolwarden/adapters/pool_feed.py", "multiprocessing/pool.py", "multiprocess/pool.py")


class TaskQueue:
    """Stands in for ``pool._taskqueue`` and guards what is put into it.

    Attributes
    ----------
    begun : bool
        True once the task thread is past what was put before the guard came.
    cancelled : set
        Jobs whose tasks are not to be sent any more.
    """

    def __init__(self, adapter: MultiprocessingPool, bare: Any) -> None:
        self.adapter = adapter
        self.begun = False
        self.cancelled: set[Any] = set()
        self._bare = bare
        module = adapter.module
        self._chunks = {module.mapstar: 0, module.starmapstar: envelope.STAR}
        self._reraise = module._helper_reraises_exception

    def put(self, entry: tuple[Any, Any] | None) -> None:
        """Put ``(tasks, set_length)`` of a submission, guarded."""
        if entry is not None:
            entry = (Feed(self, entry[0], entry[1], caller_site(_OWN_FILES, sys._getframe(1))), None)
        self._bare.put(entry)

    def poke(self) -> None:
        """Wake the task thread, so that it sees the tickets that are to be sent again."""
        self._bare.put((Feed(self, (), None, None), None))

    def adopt_waiting(self) -> set[Any]:
        """Guard what was put before the guard came and has not been begun; return its jobs."""
        waiting: list[Any] = []
        try:
            while True:
                waiting.append(self._bare.get_nowait())
        except queue.Empty:
            pass
        jobs = set()
        for entry in waiting:
            if entry is not None:
                tasks, set_length = entry
                # A generator that has not begun still holds its parameters.
                jobs.add(
                    tasks[0][0]
                    if isinstance(tasks, list)
                    else inspect.getgeneratorlocals(tasks)["result_job"]
                )
                entry = (Feed(self, tasks, set_length, None), None)
            self._bare.put(entry)
        return jobs

    def call_roll(self, count: int) -> None:
        """Let workers that are older than the guard join it before their first task."""
        task = (("poolwarden", "roll"), 0, envelope.roll_call, (self.adapter.guard.folder,), {})
        self._bare.put(([task] * count, None))
        self.poke()

    def next_ticket(self, feed: Feed) -> Ticket:
        """Return the next ticket to be sent: one that is sent again, else one of `feed`.

        Raises
        ------
        StopIteration
            There is none.
        """
        self.begun = True
        gate, guard = self.adapter.gate, self.adapter.guard
        while True:
            ticket = gate.next_again() or self._issue(feed)
            if ticket.verdict is not None or ticket.number not in guard.tickets.open:
                continue
            gate.enter()
            # The pool may have broken while the gate was shut.
            if ticket.verdict is None:
                guard.sending(ticket)
                return ticket
            gate.leave()

    def _issue(self, feed: Feed) -> Ticket:
        """Issue the ticket of a feed's next task; answer it at once if it cannot be sent."""
        guard = self.adapter.guard
        task: Any = feed.next_task()
        job, index, func, args, kwds = task
        result = self.adapter.cache.get(job)
        if result is not None:
            take_over(result, guard)
        star = self._chunks.get(func)
        if star is None:
            call: Any = (func, args, kwds)
            flags, base = 0, None if feed.is_single else index
        else:
            call = args[0]
            func, flags = call[0], envelope.CHUNK | star
            base = feed.count_items(len(call[1]))
        ticket = guard.tickets.issue((job, index), func, call, guard.policy, flags=flags, base=base)
        ticket.site = feed.site
        verdict = ticket.verdict
        if func is self._reraise:
            # The user's iterable raised; the bare pool sends the exception to
            # a worker and back.
            verdict = task[3][0]
        elif guard.broken is not None:
            verdict = guard.broken_error(ticket)
            feed.end()
        elif job in self.cancelled:
            verdict = CancelledError()
        if verdict is not None:
            guard.fail(ticket, verdict)
        return ticket


class Feed:
    """One submission's tasks, as messages for the task thread.

    The task thread is never given ``set_length``: it would call it with the
    index of the last message, and that may be another submission's ticket that
    is sent again.
    """

    __slots__ = ("_items", "_last", "_queue", "_set_length", "_tasks", "is_single", "site")

    def __init__(
        self, line: TaskQueue, tasks: Any, set_length: Callable[[int], None] | None, site: str | None
    ) -> None:
        self._queue = line
        self.is_single = isinstance(tasks, list)
        self._tasks = iter(tasks)
        self._set_length = set_length
        self._last = -1
        self._items = 0
        self.site = site

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return self

    def __next__(self) -> tuple[Any, ...]:
        adapter = self._queue.adapter
        adapter.gate.leave()
        ticket = self._queue.next_ticket(self)
        return ticket.key[0], -ticket.number, envelope.run, ticket.call(adapter.guard.folder), {}

    def next_task(self) -> Any:
        """Return the pool's next task tuple.

        Raises
        ------
        StopIteration
            There is none; the length was told.
        """
        try:
            task = next(self._tasks)
        except StopIteration:
            if self._set_length is not None:
                set_length, self._set_length = self._set_length, None
                set_length(self._last + 1)
            raise
        self._last = task[1]
        return task

    def count_items(self, count: int) -> int:
        """Add a chunk's items; return the index of its first."""
        first = self._items
        self._items += count
        return first

    def end(self) -> None:
        """End an ``imap`` with the task at hand: its iterable may be endless."""
        if self._set_length is not None:
            self._tasks = iter(())
