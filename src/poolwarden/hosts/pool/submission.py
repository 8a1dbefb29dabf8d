"""From a pool's submission methods into its task pipe, through the guard.

Covers ``pool._taskqueue``, and what the pool's task thread does with the
submissions in it. A single task is pickled and sent at once, in the thread that
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

import pickle
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

from ...core.guard import Guard
from ...core.task_names import Site, caller_site
from ...core.tickets import Ticket
from ...system.interruption import is_interruption
from ...system.waiting import poll
from ...worker import envelope
from ..registry import own_files
from .earlier_jobs import EarlierJobs, job_of
from .feed import Feed
from .issuing import Issuer
from .result_pipe import ResultPipe
from .task_pipe import SHORT, TaskPipe, framed, is_plain
from .threads import PoolThreads

#: Ends of the names of files whose frames are not the user's.
_OWN_FILES: Final = (
    "poolwarden/hosts/pool/chunk_size.py",
    "poolwarden/hosts/pool/submission.py",
    *own_files("multiprocessing.pool", "multiprocess.pool"),
)
#: Seconds from the first call of existing workers to the second; each pause is twice the one before.
CALL_PAUSE: Final = 0.25


class TaskQueue:
    """Stands in for ``pool._taskqueue`` and guards what is put into it.

    Parameters
    ----------
    guard : Guard
        The pool's guard.
    issuer : Issuer
        Issues the tickets.
    pipe : TaskPipe
        Where they go.
    threads : PoolThreads
        The task thread, and the queue that it reads.
    results : ResultPipe
        Has the result objects that wait for the tasks.
    earlier : EarlierJobs
        Learns of each submission that it is none of them.
    workers : list
        The pool's own list of processes.
    dumper : Dumper
        Pickles the tasks.

    Attributes
    ----------
    begun : bool
        True once the task thread is past what was put before the guard came.
    reraise : callable
        The host's function that raises its argument, in a worker.
    """

    def __init__(
        self,
        guard: Guard,
        issuer: Issuer,
        pipe: TaskPipe,
        threads: PoolThreads,
        results: ResultPipe,
        earlier: EarlierJobs,
        workers: list[Any],
        dumper: Any,
    ) -> None:
        self.begun = False
        self.reraise = issuer.reraise
        self._guard = guard
        self._issuer = issuer
        self._pipe, self._gate = pipe, pipe.gate
        self._threads, self._original = threads, threads.original_queue
        self._cache = results.cache
        self._earlier = earlier
        self._workers = workers
        # Of the entry that was put last: empty once it is done.
        self._last: list[bool] = []
        pickler = getattr(dumper, "_class", None)
        # dill's, and others that are written in Python, run handlers while they pickle.
        self._is_c = isinstance(pickler, type) and issubclass(pickler, pickle.Pickler)

    def put(self, entry: tuple[Any, Any] | None) -> None:
        """Send a submission, ``(tasks, set_length)``, or put it into the queue."""
        if entry is None:
            self._original.put(None)
            return
        tasks, set_length = entry
        self._earlier.forget(tasks)
        site = caller_site(_OWN_FILES, sys._getframe(1))
        if self._gate.has_left_behind():
            self.wake()
        may_interrupt = threading.get_ident() == threading.main_thread().ident
        if isinstance(tasks, list) and self._may_send_directly(tasks[0], may_interrupt):
            self._send_directly(tasks[0], site, may_interrupt)
        else:
            feed = Feed(self, tasks, set_length, site)
            if feed.is_single and (result := self._cache.get(tasks[0][0])) is not None:
                # For `cancel`, which may come before the task thread.
                result._poolwarden_feed = feed
            self._enqueue(feed)

    def _may_send_directly(self, task: Any, may_interrupt: bool) -> bool:
        if not (self.begun and self.is_idle and poll is not None) or self._is_too_heavy():
            return False
        return not may_interrupt or (self._is_c and is_plain(*task[2:]))

    def _enqueue(self, feed: Feed) -> None:
        # If an exception comes between the two, the next entry makes it good.
        self._last = feed.waiting
        self._original.put((feed, None))

    @property
    def is_idle(self) -> bool:
        """Whether no entry waits for the task thread."""
        return not self._last and self._original.empty()

    def done(self, feed: Feed) -> None:
        """Note that an entry is used up. Task thread."""
        feed.waiting.clear()
        self._guard.look_for_end()

    def wake(self) -> None:
        """Wake the task thread, so that it sees the tickets that are to be sent again."""
        self._guard.tickets.relief.set()
        # In a pool that has ended the entry would stay for ever, and keep all that it refers to.
        if self._threads.task_handler.is_alive():
            self._enqueue(Feed(self, (), None, None))

    def let_go(self) -> None:
        """Drop what is left in the queue of a pool that has ended: it refers to this, in a circle."""
        if not self._threads.task_handler.is_alive():
            self._take_waiting()

    def _take_waiting(self) -> list[Any]:
        waiting: list[Any] = []
        try:
            while True:
                waiting.append(self._original.get_nowait())
        except queue.Empty:
            return waiting

    def _send_directly(self, task: Any, site: Site | None, may_interrupt: bool) -> None:
        if may_interrupt:
            ticket = self._issuer.issue(task, site, None, is_plain=True)
        else:
            ticket = self._issuer.issue_safely(task, site, None)
        if ticket is None or ticket.verdict is not None:
            return
        message = self._message(ticket)
        has_room = len(message) < SHORT and self._pipe.has_room()
        guard = self._guard
        guard.tickets.enter(ticket)
        guard.offering(ticket)
        try:
            is_sent = self._gate.write(
                ticket, self._pipe.connection.fileno(), framed(message), has_room=has_room
            )
        except OSError as error:
            if is_interruption(error):
                raise
            guard.fail(ticket, error)
            return
        if not is_sent:
            self.wake()

    def _message(self, ticket: Ticket) -> bytes:
        call = ticket.call(self._guard.pool_name)
        return pickle.dumps((ticket.key[0], -ticket.number, envelope.run, call, {}))

    def _send(self, ticket: Ticket) -> None:
        """Write a ticket's message; inside the gate. Task thread."""
        guard = self._guard
        # The pool may have broken while the gate was shut.
        if ticket.verdict is not None or ticket.number not in guard.tickets.open or ticket.sent:
            return
        if guard.disowned:
            return
        guard.sending(ticket)
        message = self._message(ticket)
        try:
            self._pipe.write(message)
        except OSError as error:
            guard.fail(ticket, error)

    def send_all(self, feed: Feed) -> None:
        """Send what is to be sent again, and a feed's tasks. Task thread."""
        self.begun = True
        gate, handler, tickets = self._gate, self._threads.task_handler, self._guard.tickets
        own: Ticket | None = None
        while handler._state == self._threads.running:
            tickets.relief.clear()
            ticket = gate.next_again()
            if ticket is None:
                if own is None:
                    try:
                        task = feed.next_task()
                    except StopIteration:
                        self._issuer.fail_short(feed)
                        if gate.again:
                            continue
                        return
                    own = self._issuer.issue_safely(task, feed.site, feed)
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

    def _is_too_heavy(self) -> bool:
        heavy = self._guard.tickets.heavy
        return heavy > 0 and heavy > len(self._workers) + 1

    def adopt_waiting(self) -> set[Any]:
        """Guard what was put before the guard came and has not been begun; return its jobs."""
        jobs = set()
        for entry in self._take_waiting():
            if entry is not None and not isinstance(entry[0], Feed):
                tasks, set_length = entry
                jobs.add(job_of(tasks))
                self.adopt(tasks, set_length)
            else:
                # The end, or what an earlier guard of this pool has left there.
                self._original.put(entry)
        return jobs

    def adopt(self, tasks: Any, set_length: Callable[[int], None] | None) -> None:
        """Guard tasks that were submitted before the guard came."""
        self._enqueue(Feed(self, tasks, set_length, None))

    def register_existing_workers(self, pause: float = CALL_PAUSE) -> None:
        """Let workers that are older than the guard join it; again, while some still start or are busy."""
        missing = [worker for worker in self._guard.live_workers() if worker.is_unknown()]
        if missing and not self._guard.closed:
            self.call_existing_workers(len(missing))
            self._guard.call_later(pause, lambda: self.register_existing_workers(2 * pause))

    def call_existing_workers(self, count: int) -> None:
        """Send as many calls with which a worker that is older than the guard joins it, before any task."""
        task: Any = (("poolwarden", "roll"), 0, envelope.roll_call, (self._guard.pool_name,), {})
        self._original.put(([task] * count, None))
        self.wake()
