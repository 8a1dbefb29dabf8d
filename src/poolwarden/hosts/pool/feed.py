"""From a pool's submission methods into its task pipe, through the guard.

Covers ``pool._taskqueue``, the iterators of tasks in it, and the messages to
the workers. A single task is pickled and sent at once, in the thread that
submits it, when nothing else waits and the pipe has room: that saves waking
the pool's task thread, which costs more than all the guard does. Everything
else goes through that thread, as in the bare pool.

The submitting thread may be the main one, in which signal handlers run, and
may raise or call the pool, between any two bytecodes. So `TaskQueue.put` takes
no lock and catches nothing; what it leaves half done is found by the next that
comes (`Gate.has_left_behind`, `Unsubmitted`); and in that thread it pickles
only what runs no code of the user's: what a handler raises there is no task's.
"""

from __future__ import annotations

import inspect
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
from typing import TYPE_CHECKING, Any, Final

from ...core import error_texts
from ...core.task_names import caller_site
from ...core.tickets import Ticket
from ...system.interruption import is_interruption
from ...system.waiting import poll
from ...worker import envelope
from ..batch import Batch
from ..registry import own_files
from .earlier_tasks import job_of
from .results import take_over

if TYPE_CHECKING:
    from .adapter import BasePool

#: Ends of the names of files whose frames are not the user's.
_OWN_FILES: Final = (
    "poolwarden/hosts/pool/chunk_size.py",
    "poolwarden/hosts/pool/feed.py",
    *own_files("multiprocessing.pool", "multiprocess.pool"),
)
#: Types of arguments whose pickling runs no code of the user's.
_PLAIN: Final = frozenset((type(None), bool, int, float, complex, str, bytes))
_SIZED: Final = frozenset((str, bytes))
#: Characters and bytes of all such arguments.
_TEXT_MAX: Final = 800
#: Bytes of a message that is surely written as a whole; PIPE_BUF of Linux is 4096.
_SHORT: Final = 4000


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
        # Of the entry that was put last: empty once it is done.
        self._last: list[bool] = []
        module = adapter.module
        self._chunks = {module.mapstar: 0, module.starmapstar: envelope.STAR}
        self._reraise = module._helper_reraises_exception
        self._writer = adapter.task_writer
        # One for each thread: two may ask at once.
        self._rooms = threading.local()
        pickler = getattr(adapter.dumper, "_class", None)
        # dill's, and others that are written in Python, run handlers while they pickle.
        self._is_c = isinstance(pickler, type) and issubclass(pickler, pickle.Pickler)

    def put(self, entry: tuple[Any, Any] | None) -> None:
        """Send a submission, ``(tasks, set_length)``, or put it into the queue."""
        if entry is None:
            self._bare.put(None)
            return
        tasks, set_length = entry
        self.adapter.older_tasks.forget(tasks)
        site = caller_site(_OWN_FILES, sys._getframe(1))
        if self.adapter.gate.has_left_behind():
            self.poke()
        may_interrupt = threading.get_ident() == threading.main_thread().ident
        if isinstance(tasks, list) and self._may_send_directly(tasks[0], may_interrupt):
            self._send_directly(tasks[0], site, may_interrupt)
        else:
            feed = Feed(self, tasks, set_length, site)
            if feed.is_single and (result := self.adapter.cache.get(tasks[0][0])) is not None:
                # For `cancel`, which may come before the task thread.
                result._poolwarden_feed = feed
            self._enqueue(feed)

    def _may_send_directly(self, task: Any, may_interrupt: bool) -> bool:
        if not (self.begun and self.is_idle and poll is not None) or self._is_too_heavy():
            return False
        return not may_interrupt or (self._is_c and _is_plain(*task[2:]))

    def _enqueue(self, feed: Feed) -> None:
        # If an exception comes between the two, the next entry makes it good.
        self._last = feed.waiting
        self._bare.put((feed, None))

    @property
    def is_idle(self) -> bool:
        """Whether no entry waits for the task thread."""
        return not self._last and self._bare.empty()

    def done(self, feed: Feed) -> None:
        """Note that an entry is used up. Task thread."""
        feed.waiting.clear()
        self.adapter.guard.look_for_end()

    def poke(self) -> None:
        """Wake the task thread, so that it sees the tickets that are to be sent again."""
        self.adapter.guard.tickets.relief.set()
        # In a pool that has ended the entry would stay for ever, and keep all that it refers to.
        if self.adapter.task_handler.is_alive():
            self._enqueue(Feed(self, (), None, None))

    def let_go(self) -> None:
        """Drop what is left in the queue of a pool that has ended: it refers to this, in a circle."""
        try:
            while True:
                self._bare.get_nowait()
        except queue.Empty:
            pass

    def _send_directly(self, task: Any, site: tuple[Any, ...] | None, is_plain: bool) -> None:
        ticket = self._issue(task, site, None, is_plain)
        if ticket is None or ticket.verdict is not None:
            return
        message = self._message(ticket)
        has_room = len(message) < _SHORT and self._has_room()
        guard = self.adapter.guard
        guard.tickets.enter(ticket)
        guard.offering(ticket)
        try:
            is_sent = self.adapter.gate.write(
                ticket, self._writer.fileno(), _framed(message), has_room=has_room
            )
        except OSError as error:
            if is_interruption(error):
                raise
            guard.fail(ticket, error)
            return
        if not is_sent:
            self.poke()

    def _has_room(self) -> bool:
        """Return whether the task pipe takes a short message now. Any thread."""
        room = getattr(self._rooms, "poll", None)
        if room is None:
            room = poll()
            room.register(self._writer.fileno(), select.POLLOUT)
            self._rooms.poll = room
        return bool(room.poll(0))

    def _message(self, ticket: Ticket) -> bytes:
        call = ticket.call(self.adapter.guard.pool_name)
        return pickle.dumps((ticket.key[0], -ticket.number, envelope.run, call, {}))

    def _send(self, ticket: Ticket) -> None:
        """Write a ticket's message; inside the gate. Task thread."""
        guard, gate = self.adapter.guard, self.adapter.gate
        # The pool may have broken while the gate was shut.
        if ticket.verdict is not None or ticket.number not in guard.tickets.open or ticket.sent:
            return
        if guard.disowned:
            return
        guard.sending(ticket)
        message = self._message(ticket)
        is_long = len(message) >= _SHORT
        try:
            if is_long:
                gate.begin_long()
            write_message(self._writer, message)
        except OSError as error:
            guard.fail(ticket, error)
        finally:
            if is_long:
                gate.end_long()

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
                        task = feed.next_task()
                    except StopIteration:
                        self._end_short(feed)
                        if gate.again:
                            continue
                        return
                    own = self._issue_safely(task, feed)
                if self._is_too_heavy():
                    # A look now and then, for the end of the pool.
                    tickets.relief.wait(0.2)
                    continue
                ticket, own = own, None
                if ticket is None:
                    continue
            gate.enter()
            try:
                self._send(ticket)
            finally:
                gate.leave()

    def _issue_safely(self, task: Any, feed: Feed) -> Ticket | None:
        """Issue a task's ticket, whatever its pickling and its attributes do. Task thread."""
        try:
            return self._issue(task, feed.site, feed)
        except BaseException as error:
            # An exit in the user's __reduce__ must not end the task thread.
            self._fail(task[0], task[1], error, feed.site)
            return None

    def _fail(
        self, job: Any, index: int, error: BaseException, site: tuple[Any, ...] | None, missing: int = 0
    ) -> None:
        """Answer a task that cannot be sent. Task thread."""
        guard = self.adapter.guard
        ticket = guard.tickets.issue((job, index), self._reraise, (None, (), {}), guard.policy)
        ticket.site = site
        ticket.missing = max(missing, 0)
        if not isinstance(error, Exception):
            error = error_texts.never_sent(ticket.info(), error)
        guard.fail(ticket, error)

    def _end_short(self, feed: Feed) -> None:
        """Fail a ``map`` whose iterable had fewer items than its ``len()``; the bare pool waits for ever."""
        result = self.adapter.cache.get(feed.job)
        missing = _chunks_of(result) - feed.count
        if missing > 0:
            take_over(result, self.adapter.guard, self.adapter.quiet_cache)
            error = ValueError("the iterable gave fewer items than its len()")
            self._fail(feed.job, feed.count, error, feed.site, missing=missing - 1)
            feed.count += 1

    def failing(self, job: Any, index: int, error: BaseException) -> Any:
        """Return a task that fails with this error, as the pool makes one of an iterable that raised."""
        return job, index, self._reraise, (error,), {}

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

    def _issue(
        self, task: Any, site: tuple[Any, ...] | None, feed: Feed | None, is_plain: bool = False
    ) -> Ticket | None:
        """Issue a task's ticket, None if nobody waits for it; answer it at once if it cannot be sent."""
        guard = self.adapter.guard
        job, index, func, args, kwds = task
        result = self.adapter.cache.get(job)
        if result is None:
            return None
        take_over(result, guard, self.adapter.quiet_cache)
        if func is self._reraise:
            # The user's iterable raised; the bare pool sends the exception to
            # a worker and back.
            self._fail(job, index, args[0], site, missing=_chunks_of(result) - (index + 1))
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
        verdict = ticket.verdict
        if guard.broken is not None:
            verdict = guard.broken_error(ticket)
            if feed is not None:
                feed.end()
        elif getattr(result, "_poolwarden_cancelled", False):
            verdict = CancelledError()
            if feed is not None:
                feed.end()
        if verdict is not None:
            guard.tickets.enter(ticket)
            guard.fail(ticket, verdict)
        return ticket


class Feed:
    """One submission's tasks, in the shape that the task thread iterates over.

    The task thread is given neither tasks nor ``set_length``. It would pickle
    each message with a new ForkingPickler, which takes longer than all else.
    """

    __slots__ = ("_items", "_queue", "_set_length", "_tasks", "count", "is_single", "job", "site", "waiting")

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
        self.job: Any = None
        self.count = 0
        self._items = 0
        self.waiting = [True]
        self.site = site

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """Send everything and have nothing left for the task thread."""
        try:
            self._queue.send_all(self)
        finally:
            self._queue.done(self)
        raise StopIteration

    def next_task(self) -> Any:
        """Return the pool's next task tuple.

        Raises
        ------
        StopIteration
            There is none; the length was told.
        """
        if self.job is None and inspect.isgenerator(self._tasks):
            # Before it ends, by an exit in the user's iterable for example.
            self.job = (inspect.getgeneratorlocals(self._tasks) or {}).get("result_job")
        try:
            task = next(self._tasks)
        except StopIteration:
            if self._set_length is not None:
                set_length, self._set_length = self._set_length, None
                set_length(self.count)
            raise
        except BaseException as error:
            # The pool's generator catches those that are an `Exception`.
            self._tasks = iter(())
            task = self._queue.failing(self.job, self.count, error)
        self.count = task[1] + 1
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
    if os.name == "posix" and len(message) < _SHORT:
        os.write(connection.fileno(), _framed(message))
    else:
        connection.send_bytes(message)


def _framed(message: bytes) -> bytes:
    return struct.pack("!i", len(message)) + message


def _is_plain(func: Any, args: Any, kwds: Any) -> bool:
    """Return whether pickling a call runs no code of the user's, and gives no more than a short message."""
    if type(func) is not FunctionType or type(args) is not tuple or type(kwds) is not dict:
        return False
    values = (*args, *kwds.values()) if kwds else args
    kinds = set(map(type, values))
    if not kinds <= _PLAIN:
        return False
    return kinds.isdisjoint(_SIZED) or sum(len(each) for each in values if type(each) in _SIZED) < _TEXT_MAX


def _chunks_of(result: Any) -> int:
    """Return how many chunks the result of a ``map`` waits for in all; 0 for any other."""
    chunks = getattr(result, "_poolwarden_chunks", None) or getattr(result, "_number_left", 0)
    return int(chunks or 0)
