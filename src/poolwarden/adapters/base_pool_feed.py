"""From a pool's submission methods into its task pipe, through the guard.

Covers ``pool._taskqueue``, the iterators of tasks in it, and the messages to
the workers. A single task is pickled and sent at once, in the thread that
submits it, when nothing else waits and the pipe has room: that saves waking
the pool's task thread, which costs more than all the guard does. Everything
else goes through that thread, as in the bare pool.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import select
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from types import FunctionType
from typing import TYPE_CHECKING, Any

from ..core.naming import caller_site
from ..core.tickets import Ticket
from ..worker import envelope
from .base_batch import Batch
from .base_pool_older import job_of
from .base_pool_results import take_over

if TYPE_CHECKING:
    from .base_pool import BasePool

#: Ends of the names of files whose frames are not the user's.
_OWN_FILES = (
    "poolwarden/adapters/base_pool_chunks.py",
    "poolwarden/adapters/base_pool_feed.py",
    "multiprocessing/pool.py",
    "multiprocess/pool.py",
)


class TaskQueue:
    """Stands in for ``pool._taskqueue`` and guards what is put into it.

    Attributes
    ----------
    begun : bool
        True once the task thread is past what was put before the guard came.
    """

    def __init__(self, adapter: BasePool, bare: Any) -> None:
        self.adapter = adapter
        self.begun = False
        self._bare = bare
        self._counting = threading.Lock()
        self._put = self._done = 0  # entries
        module = adapter.module
        self._chunks = {module.mapstar: 0, module.starmapstar: envelope.STAR}
        self._reraise = module._helper_reraises_exception
        self._writer = adapter.task_writer
        self._room = select.poll() if hasattr(select, "poll") else None
        if self._room is not None:
            self._room.register(self._writer.fileno(), select.POLLOUT)

    def put(self, entry: tuple[Any, Any] | None) -> None:
        """Send a submission, ``(tasks, set_length)``, or put it into the queue."""
        if entry is None:
            self._bare.put(None)
            return
        tasks, set_length = entry
        self.adapter.older_tasks.forget(tasks)
        site = caller_site(_OWN_FILES, sys._getframe(1))
        nothing_waits = self.is_idle and self.begun and self._room is not None
        if nothing_waits and isinstance(tasks, list) and not self._is_too_heavy():
            self._send_directly(tasks[0], site)
        else:
            feed = Feed(self, tasks, set_length, site)
            if feed.is_single and (result := self.adapter.cache.get(tasks[0][0])) is not None:
                # For `cancel`, which may come before the task thread.
                result._poolwarden_feed = feed
            self._enqueue(feed)

    def _enqueue(self, feed: Feed) -> None:
        with self._counting:
            self._put += 1
        self._bare.put((feed, None))

    @property
    def is_idle(self) -> bool:
        """Whether no entry waits for the task thread."""
        return self._put == self._done

    def done(self) -> None:
        """Note that an entry is used up. Task thread."""
        self._done += 1
        self.adapter.guard.look_for_end()

    def poke(self) -> None:
        """Wake the task thread, so that it sees the tickets that are to be sent again."""
        self.adapter.guard.tickets.relief.set()
        self._enqueue(Feed(self, (), None, None))

    def _send_directly(self, task: Any, site: tuple[Any, ...] | None) -> None:
        gate = self.adapter.gate
        try:
            ticket = self._issue(task, site, None)
        except BaseException:
            # Ctrl-C while it is pickled: without this, the pool would wait for
            # the task at its end.
            with contextlib.suppress(KeyError):
                del self.adapter.quiet_cache[task[0]]
            raise
        if ticket.verdict is not None:
            return
        if gate.try_enter():
            try:
                if self._room is not None and self._room.poll(0):
                    self._send(ticket)
                    return
            finally:
                gate.leave()
        gate.send_again((ticket,))
        self.poke()

    def _send(self, ticket: Ticket) -> None:
        """Write a ticket's message; inside the gate."""
        guard = self.adapter.guard
        # The pool may have broken while the gate was shut.
        if ticket.verdict is not None or ticket.number not in guard.tickets.open or guard.disowned:
            return
        guard.sending(ticket)
        message: Any = (ticket.key[0], -ticket.number, envelope.run, ticket.call(guard.pool_name), {})
        try:
            write_message(self._writer, pickle.dumps(message))
        except OSError as error:
            guard.fail(ticket, error)

    def send_all(self, feed: Feed) -> None:
        """Send what is to be sent again, and a feed's tasks. Task thread."""
        self.begun = True
        gate, handler, tickets = self.adapter.gate, self.adapter.task_handler, self.adapter.guard.tickets
        own: Ticket | None = None
        while handler._state == self.adapter.module.RUN:
            tickets.relief.clear()
            ticket = gate.next_again()
            if ticket is None:
                if own is None:
                    try:
                        own = self._issue(feed.next_task(), feed.site, feed)
                    except StopIteration:
                        if gate.again:
                            continue
                        return
                if self._is_too_heavy():
                    # A look now and then, for the end of the pool.
                    tickets.relief.wait(0.2)
                    continue
                ticket, own = own, None
            gate.enter()
            try:
                self._send(ticket)
            finally:
                gate.leave()

    def _is_too_heavy(self) -> bool:
        heavy = self.adapter.guard.tickets.heavy
        return heavy > 0 and heavy > len(self.adapter.processes()) + 1

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
            if entry is not None and not isinstance(entry[0], Feed):
                tasks, set_length = entry
                jobs.add(job_of(tasks))
                self.adopt(tasks, set_length)
            else:
                # The end, or what an earlier guard of this pool has left there.
                self._bare.put(entry)
        return jobs

    def adopt(self, tasks: Any, set_length: Callable[[int], None] | None) -> None:
        """Guard tasks that were submitted before the guard came."""
        self._enqueue(Feed(self, tasks, set_length, None))

    def call_roll(self, count: int) -> None:
        """Let workers that are older than the guard join it before their first task."""
        task: Any = (("poolwarden", "roll"), 0, envelope.roll_call, (self.adapter.guard.pool_name,), {})
        self._bare.put(([task] * count, None))
        self.poke()

    def _issue(self, task: Any, site: tuple[Any, ...] | None, feed: Feed | None) -> Ticket:
        """Issue a task's ticket; answer it at once if it cannot be sent."""
        guard = self.adapter.guard
        job, index, func, args, kwds = task
        result = self.adapter.cache.get(job)
        if result is not None:
            take_over(result, guard, self.adapter.quiet_cache)
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
        ticket = guard.tickets.issue((job, index), func, call, policy, flags=flags, base=base)
        ticket.site = site
        verdict = ticket.verdict
        if func is self._reraise:
            # The user's iterable raised; the bare pool sends the exception to
            # a worker and back.
            verdict = args[0]
        elif guard.broken is not None:
            verdict = guard.broken_error(ticket)
            if feed is not None:
                feed.end()
        elif getattr(result, "_poolwarden_cancelled", False):
            verdict = CancelledError()
            if feed is not None:
                feed.end()
        if verdict is not None:
            guard.fail(ticket, verdict)
        return ticket


class Feed:
    """One submission's tasks, in the shape that the task thread iterates over.

    The task thread is given neither tasks nor ``set_length``. It would pickle
    each message with a new ForkingPickler, which takes longer than all else.
    """

    __slots__ = ("_items", "_last", "_queue", "_set_length", "_tasks", "is_single", "site")

    def __init__(
        self,
        line: TaskQueue,
        tasks: Any,
        set_length: Callable[[int], None] | None,
        site: tuple[Any, ...] | None,
    ) -> None:
        self._queue = line
        self.is_single = isinstance(tasks, list)
        self._tasks: Iterator[Any] = iter(tasks)
        self._set_length = set_length
        self._last = -1
        self._items = 0
        self.site = site

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """Send everything and have nothing left for the task thread."""
        try:
            self._queue.send_all(self)
        finally:
            self._queue.done()
        raise StopIteration

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

    def take_back(self) -> bool:
        """Take a single task out again; False if the task thread has it already. Any thread."""
        # One step in C, so that one of the two gets it.
        return next(self._tasks, None) is not None

    def end(self) -> None:
        """End an ``imap`` with the task at hand: its iterable may be endless."""
        if self._set_length is not None:
            self._tasks = iter(())


def write_message(connection: Any, message: bytes) -> None:
    """Write one message as `multiprocessing` frames it; atomic below PIPE_BUF.

    ``Connection.send_bytes`` does the same with checks that cost more than the
    write, and on Windows more than that.
    """
    if os.name == "posix" and len(message) < 4000:
        os.write(connection.fileno(), struct.pack("!i", len(message)) + message)
    else:
        connection.send_bytes(message)
