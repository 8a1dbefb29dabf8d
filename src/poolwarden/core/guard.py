"""One guarded pool: what happens when one of its workers dies.

Ties the other modules of this folder together, and is what hosts call.
Births are reported from whatever thread starts workers, answers from the
host's result thread, deaths and deadlines from the watchdog's. Names no host.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from typing import Any

from .. import clock
from ..policy import Policy
from ..records import WorkerExit
from ..system.out_of_memory import OomWatch
from ..system.waiting import wait_for
from ..system.watchdog import watchdog
from ..worker import envelope, ledger, payload
from ..worker.memory import identity_of
from . import belonging
from .breakage import Breakage
from .events import Herald
from .lifecycle import Lifecycle
from .losses import Losses
from .pool_memory import PoolMemory
from .ports import Host
from .preload import preload
from .running_tasks import RunsTasks, observe
from .standstill import Standstill
from .start_limits import StartLimiter
from .ticket import Ticket
from .tickets import VERDICT, Tickets
from .timeouts import Deadlines
from .worker_table import WorkerTable
from .workers import Worker

log = logging.getLogger("poolwarden")

#: Seconds that the end of a pool waits for the watchdog to finish with a death.
CLOSE_BOUND = 5.0
#: Seconds that a replacement waits for the watchdog to have seen the death.
BURIAL_BOUND = 0.05


class Guard(RunsTasks):
    """Watches one pool and answers for the workers it loses.

    Makes the other parts, and gives each what it uses; none of them knows it.

    Attributes
    ----------
    policy : Policy
        May be replaced at any time; tasks already sent keep the old one.
    lifecycle : Lifecycle
        The pool's state.
    births : threading.RLock
        That of `lifecycle`.
    deaths : int
        How many workers have ended so far.
    """

    def __init__(self, adapter: Host, policy: Policy, name: str, workers: int = 1) -> None:
        preload()
        watchdog().check()
        self.adapter = adapter
        self.policy = policy
        self.name = name
        self.deaths = 0
        self._handling = False
        self.lifecycle = Lifecycle()
        self.births = self.lifecycle.births
        self.memory = PoolMemory(workers, adapter.pickler_name)
        payload.listeners[self.memory.name] = self._on_note
        self.tickets = Tickets(self.memory, adapter)
        self._workers = WorkerTable()
        self.breaker = StartLimiter(self.live_workers)
        self.deadlines = Deadlines(
            self.tickets, self.live_workers, lambda: self.policy.startup_timeout, self._wake_at
        )
        self.standstill = Standstill(
            self.tickets, self.live_workers, call_later=self.call_later, repair=self.repair, tell=self.tell
        )
        self._oom = OomWatch()
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._burials = threading.Condition()
        # Not shared with any process. Re-entrant: the last reference to a pool
        # may be dropped in the watchdog's own thread.
        self._watching = threading.RLock()
        self._breakage = Breakage(self.lifecycle, adapter, self.live_workers)
        # Last: they look at the guard from other threads.
        self._observers = observe(self, adapter.name)
        self._losses = Losses(
            self.tickets,
            adapter,
            self.breaker,
            self._oom,
            self._observers,
            self.births,
            call_later=self.call_later,
            tell=self.tell,
            break_pool=self.break_pool,
        )
        self.deliver_last_outcome = self._losses.deliver_last_outcome
        self.herald = Herald(name, self._observers)
        belonging.belong(self)

    @property
    def pool_name(self) -> str:
        """Names the pool to its workers, in every message."""
        return self.memory.name

    @property
    def broken(self) -> str | None:
        """Why the pool can run nothing any more, None if it can."""
        return self.lifecycle.broken

    @property
    def closed(self) -> bool:
        """Whether the pool ends; deaths mean nothing then."""
        return self.lifecycle.closed

    @property
    def disowned(self) -> bool:
        """Whether this process was forked since: the guard is the parent's."""
        return self.lifecycle.disowned

    def _wake_at(self, when: float) -> None:
        watchdog().schedule(self, when)

    # Called by hosts.

    def born(self, process: Any, *, older: bool = False) -> None:
        """Watch a worker that has just been started (or is older than the guard)."""
        if self.closed or self._workers.has(process):
            return
        self.memory.note_started(process)
        place = self.memory.adopt(process) if older else self.memory.place_of(process)
        worker = Worker(process, place, older=older)
        self._workers.add(worker)
        for observer in self._observers:
            observer.worker_started(worker.pid)
        self._oom.note(worker.pid)
        watchdog().watch(worker.fd, self, worker)
        if self.policy.startup_timeout is not None:
            self.deadlines.expect(self.policy.startup_timeout)
        if not older and not self.standstill.expected:
            self.standstill.expect()

    def sending(self, ticket: Ticket) -> None:
        """Note that a ticket's message is about to be written."""
        ticket.sent = True
        self.offering(ticket)
        watchdog().look_alive()

    def offering(self, ticket: Ticket) -> None:
        """Note that a ticket's message will be written soon, by who calls this or by another thread."""
        ticket.begun = False
        ticket.sendings += 1
        if ticket.timeout is not None:
            self.deadlines.expect(ticket.timeout)
            if self.closed:
                # By a signal handler, in the middle of a submission: nothing may keep a pool that has ended.
                watchdog().forget(self)
        if not self.standstill.expected:
            self.standstill.expect()

    def settle(self, number: int, kind: int, data: bytes) -> tuple[Ticket, bool, Any] | None:
        """Return a task and what its caller gets, None if it was answered before. Result thread."""
        if kind == envelope.TIMEOUT and (ticket := self.tickets.open.get(number)) is not None:
            following = self._losses.after_soft_timeout(ticket, data)
            if following is None:
                return None
            kind, data = following, b""
        if kind == envelope.UNREACHABLE:
            self._send_inline(number)
            return None
        answer = self.tickets.settle(number, kind, data)
        watchdog().look_alive()
        if answer is not None and kind != VERDICT:
            self.breaker.all_is_well()
        self.look_for_end()
        return answer

    def _send_inline(self, number: int) -> None:
        ticket = self.tickets.send_inline(number)
        if ticket is not None and ticket.verdict is None:
            self.adapter.resend([ticket])

    def _on_note(self, kind: int, *values: Any) -> None:
        """Take in what a worker has told beside its results. Result thread; never raises."""
        try:
            if kind == payload.PIECE:
                self.tickets.add_piece(*values)
            elif kind == payload.KEPT:
                self.tickets.add_kept_piece(*values)
            else:
                self._on_news(*values)
        except Exception:
            log.exception("poolwarden: internal error; what a worker has told is lost")

    def _on_news(self, ident: int, number: int = 0) -> None:
        """Take in what a worker without a record does."""
        for worker in self.live_workers():
            if identity_of(worker.process) == ident:
                worker.tell(ledger.RUNNING if number else ledger.READY, number)
        ticket = self.tickets.open.get(number)
        if ticket is not None:
            ticket.begun = True

    def host_failure(self, number: int, error: BaseException) -> tuple[int, int, bytes]:
        """Return the outcome of a task that the host has failed, for `settle`.

        A handler of the user's that raised behind the task's end, while its outcome was sent, looks
        like that; then the outcome is in the worker's record.
        """
        for worker in self.live_workers():
            outcome = worker.outcome()
            if outcome[0] == number:
                return outcome
        return self.tickets.host_failure(number, error)

    def wait_for_burials(self) -> None:
        """Wait until those that have died are answered for; `BURIAL_BOUND` seconds at most.

        To fork takes milliseconds during which no other thread runs, so a
        replacement that is started at once delays the news of the death.
        """
        if self._workers.has_ended_ones():
            with self._burials:
                wait_for(
                    self._burials, lambda: self.closed or not self._workers.has_ended_ones(), BURIAL_BOUND
                )

    def live_workers(self) -> list[Worker]:
        """Return the workers whose end has not been reported."""
        return self._workers.live()

    def fail(self, ticket: Ticket, error: BaseException) -> None:
        """Answer a task with an error of ours."""
        ticket.verdict = error
        self.adapter.deliver(ticket, VERDICT, b"")

    def cancel(self, ticket: Ticket) -> None:
        """Stop a task that has left for the workers: it does not begin, or its worker is killed."""
        ticket.cancelled = True
        # Who has no way to the pool's memory does not learn of it in time.
        reaches_all = not any(worker.is_unknown() for worker in self.live_workers())
        ticket.called_off = self.tickets.call_off(ticket) and reaches_all
        if ticket.called_off:
            self.adapter.answer_unbegun(ticket)
        self.deadlines.expect(0.0)

    def has_begun(self, ticket: Ticket) -> bool:
        """Return whether a worker may have begun an open task. Result thread, behind a `cancel`.

        What a worker has sent by then has arrived, and its ticket is closed; and
        a worker that begins later finds that the task was called off.
        """
        number = ticket.number
        return ticket.begun or any(worker.snapshot().ticket == number for worker in self.live_workers())

    def broken_error(self, ticket: Ticket | None) -> BaseException:
        """Return a new error that says why the pool cannot go on."""
        return self._breakage.error(ticket)

    def break_pool(self, reason: str, exit: WorkerExit | None = None, text: str | None = None) -> None:
        """Give up: answer every open task, and refuse new ones."""
        if not self._breakage.end(reason, exit, text):
            return
        self.tell("pool_broken", detail=reason, exit=exit)
        for ticket in list(self.tickets.open.values()):
            if ticket.verdict is None:
                self.fail(ticket, self._breakage.error(ticket))
        self.adapter.on_broken()

    def dismiss_strays(self) -> None:
        """Make workers leave that the host has lost sight of, after their task.

        A fork server that dies takes the host's knowledge of its workers with
        it; they live on, and nobody would ever stop them.
        """
        strays = [
            worker for worker in self.adapter.stray_workers(self.live_workers()) if not worker.has_ended()
        ]
        for worker in strays:
            worker.set_cells(RETIRE=1)
        if strays:
            # Those that are idle are ended by a repair.
            self.call_later(0.0, self.repair)

    def call_later(self, seconds: float, action: Callable[[], None]) -> None:
        """Have the watchdog call `action` in some seconds, unless the pool ends before."""
        when = clock.now() + seconds
        self._later.append((when, action))
        watchdog().schedule(self, when)

    def retire(self) -> None:
        """Go on for what is on its way, and have `Host.answered_all` called behind it."""
        self.lifecycle.begin_unguard()
        self.look_for_end()

    @property
    def is_retiring(self) -> bool:
        """Whether the pool was unguarded, and only what is on its way is guarded still."""
        return self.lifecycle.unguarding

    def look_for_end(self) -> None:
        """End the guard of a pool that was unguarded, if nothing is on its way any more."""
        if not self.lifecycle.unguarding:
            return
        with self.lifecycle.leaving:
            if self.lifecycle.unguarding and not self.closed and not self.tickets.open:
                self.adapter.answered_all()

    def stay(self, policy: Policy) -> bool:
        """Take `retire` back; False if it is too late."""
        with self.lifecycle.leaving:
            self.policy = policy
            return self.lifecycle.take_back()

    def tell(self, kind: str, **fields: Any) -> None:
        """Report an event to the logger and to ``on_event``."""
        self.herald.tell(kind, self.policy, **fields)

    def stop_watching(self) -> None:
        """Take deaths for what they are meant to be: the pool is ending."""
        self.lifecycle.end()
        watchdog().forget(self)

    def disown(self) -> None:
        """Take the guard off its pool, in a process that was forked; waits for nothing, removes nothing."""
        if not self.lifecycle.disown():
            return
        self.tickets.disown()
        for worker in self.live_workers():
            belonging.forget_child(worker.process)
        self._workers.clear()
        self.adapter.disown()

    def close(self) -> None:
        """Release everything; the pool has ended. Twice is no error."""
        if not self.lifecycle.release():
            return
        self.stop_watching()
        # The watchdog may be in the middle of a death; what it does is bounded.
        acquired = self._watching.acquire(timeout=CLOSE_BOUND)
        try:
            for worker in self.live_workers():
                self.drop(worker)
            self.standstill.forget()
            self._later.clear()
            # Once more: that death may have asked for something later.
            watchdog().forget(self)
        finally:
            if acquired:
                self._watching.release()
        calls = self.tickets.issued()
        for observer in self._observers:
            # Before the events, which a handler may hold up: the program may write its report meanwhile.
            observer.close(calls)
        self.herald.close()
        payload.listeners.pop(self.memory.name, None)
        self.memory.close()

    # Called by the watchdog.

    def on_exits(self, workers: list[Worker]) -> None:
        """Find out what each death means, answer for it, and mend the pool."""
        interrupted = self._begin_handling()
        with self._watching:
            if self.closed:
                return
            # Not those that were answered for before the interruption.
            left = [worker for worker in workers if self._workers.has(worker.process)]
            suspect = [self._bury(worker) for worker in left]
            with self._burials:
                self._burials.notify_all()
            if interrupted or any(suspect):
                self.repair()
            self.adapter.nudge()
            if self._workers.is_empty():
                self.adapter.workers_are_gone()
            self._handling = False

    def _bury(self, worker: Worker) -> bool:
        self.deaths += 1
        suspect = self._losses.bury(worker)
        self.drop(worker)
        return suspect

    def on_deadline(self) -> None:
        """Stop what is overdue."""
        interrupted = self._begin_handling()
        with self._watching:
            if self.closed:
                return
            if interrupted:
                self.repair()
            now = clock.now()
            for entry in [entry for entry in self._later if entry[0] <= now]:
                # Removed behind: an interrupted one is done again.
                entry[1]()
                self._later.remove(entry)
            if self._later:
                watchdog().schedule(self, min(when for when, _ in self._later))
            self.deadlines.look()
            self._handling = False

    def _begin_handling(self) -> bool:
        """Return whether the handling before this one was interrupted, at any point of it.

        What it has left behind is undone: what it held, whom it has stopped,
        and whom it was about to kill. A repair has to follow.
        """
        interrupted, self._handling = self._handling, True
        if interrupted:
            for lock in (self._watching, self.births):
                while lock._is_owned():  # type: ignore[attr-defined]
                    lock.release()
            for worker in self.live_workers():
                worker.send(signal.SIGCONT if worker.killed is None else signal.SIGKILL)
        return interrupted

    def repair(self) -> None:
        """Put the pool's plumbing right. Watchdog's thread."""
        if self.closed or self.broken is not None or not self.adapter.can_repair:
            return
        started = clock.now()
        # It may have to wait for a worker that is being started, for seconds.
        watchdog().make_way()
        self.adapter.repair(self)
        self.tell("pool_repaired", detail=f"took {(clock.now() - started) * 1000:.1f} ms")

    def on_failure(self, error: BaseException) -> None:
        """Answer everything open: this guard can no longer vouch for the pool."""
        self._later.clear()
        self.break_pool(f"poolwarden failed ({type(error).__name__}); this is a bug in poolwarden")

    def drop(self, worker: Worker) -> None:
        """Forget a worker that has been answered for."""
        for observer in self._observers:
            observer.worker_ended(worker.pid, killed=worker.killed is not None)
        self._oom.forget(worker.pid)
        watchdog().unwatch(worker.fd)
        worker.close()
        # Should something be raised before this, all of that is done once more; and its place in the
        # memory is never given back twice.
        self._workers.remove(worker)
        if worker.place is not None:
            self.memory.release(worker.place)
