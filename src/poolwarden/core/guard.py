"""One guarded pool: what happens when one of its workers dies.

Ties the other modules of this folder together, and is what adapters call.
Births are reported from whatever thread starts workers, answers from the
host's result thread, deaths and deadlines from the watchdog's. Names no host.
"""

from __future__ import annotations

import logging
import pickle
import signal
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..policy import Policy
from ..records import WorkerExit
from ..worker import envelope, ledger
from . import plumbing, verdicts
from .breaker import Breaker
from .deadlines import Deadlines
from .diagnosis import Evidence, diagnose
from .events import Herald
from .folder import PoolFolder
from .oom import OomWatch
from .recording import record, running
from .tickets import VERDICT, Ticket, Tickets
from .watchdog import watchdog
from .workers import Kill, Snapshot, Worker

if TYPE_CHECKING:
    from ..adapters.base import PoolAdapter

log = logging.getLogger("poolwarden")

#: Seconds that the end of a pool waits for the watchdog to finish with a death.
CLOSE_BOUND = 5.0
#: Seconds that a replacement waits for the watchdog to have seen the death.
BURIAL_BOUND = 0.05
#: Seconds that a birth may hold up the end of a pool that is given up.
BIRTH_BOUND = 0.5
_SIGCHLD = getattr(signal, "SIGCHLD", signal.SIGTERM)
#: Seconds that the exit code of a worker may take to be known. It comes within
#: microseconds from a child, but through the host's own thread if that has just
#: reaped it, or through a fork server.
_EXIT_CODE_BOUND = 0.5
_UNKNOWABLE_BOUND = 0.02
#: Signals for which faulthandler writes a stack.
_CRASHES = ("SIGSEGV", "SIGFPE", "SIGABRT", "SIGBUS", "SIGILL")
#: Phases in which a dead worker may have held a lock of the pool. Not STARTING
#: and FAILED: the host's loop has not begun.
_SUSPECT = (ledger.READY, ledger.DONE)


class Guard:
    """Watches one pool and answers for the workers it loses.

    Attributes
    ----------
    policy : Policy
        May be replaced at any time; tasks already sent keep the old one.
    births : threading.RLock
        Held while the host starts workers and while the pool is repaired, so
        that no worker is half born when the world stops.
    broken : str or None
        Why the pool can run nothing any more.
    closed : bool
        True once the pool ends; deaths mean nothing then.
    deaths : int
        How many workers have ended so far.
    """

    def __init__(self, adapter: PoolAdapter, policy: Policy, name: str) -> None:
        self.adapter = adapter
        self.policy = policy
        self.name = name
        self.broken: str | None = None
        self.closed = False
        self.deaths = 0
        self._retiring = False
        self._leaving = threading.RLock()
        self._releasing = threading.Lock()
        self.births = threading.RLock()
        self._folder = PoolFolder(adapter.pickler_name)
        self.tickets = Tickets(self._folder.path, adapter)
        self.breaker = Breaker(self)
        self.deadlines = Deadlines(self)
        self._workers: dict[int, Worker] = {}  # by id() of the host's process object
        self._oom = OomWatch()
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._burials = threading.Condition()
        # Not shared with any process. Re-entrant: the last reference to a pool
        # may be dropped in the watchdog's own thread.
        self._watching = threading.RLock()
        self._nobody_began = False
        self._broken_by: tuple[WorkerExit | None, str | None] = (None, None)
        # Last: it looks at the guard from another thread.
        self._track = record(self)
        self.herald = Herald(name, self._track)

    @property
    def folder(self) -> str:
        """Path of the pool's private folder."""
        return self._folder.path

    # Called by adapters.

    def born(self, process: Any, *, older: bool = False) -> None:
        """Watch a worker that has just been started (or is older than the guard)."""
        if self.closed or id(process) in self._workers:
            return
        worker = Worker(process, self.folder, older=older)
        self._workers[id(process)] = worker
        if self._track is not None:
            self._track.worker_started(worker.pid)
        self._oom.note(worker.pid)
        watchdog().watch(worker.fd, self, worker)
        if self.policy.startup_timeout is not None:
            self.deadlines.expect(self.policy.startup_timeout)

    def sending(self, ticket: Ticket) -> None:
        """Note that a ticket's message is about to be written."""
        ticket.sent = True
        ticket.sendings += 1
        if ticket.timeout is not None:
            self.deadlines.expect(ticket.timeout)

    def settle(self, number: int, kind: int, data: bytes) -> tuple[Ticket, bool, Any] | None:
        """Return a task and what its caller gets, None if it was answered before. Result thread."""
        if kind == envelope.TIMEOUT and (ticket := self.tickets.open.get(number)) is not None:
            following = self._after_soft_timeout(ticket, kind, data)
            if following is None:
                return None
            kind = following
        answer = self.tickets.settle(number, kind, data)
        if answer is not None and kind != VERDICT:
            self.breaker.all_is_well()
        self.look_for_end()
        return answer

    def _after_soft_timeout(self, ticket: Ticket, kind: int, data: bytes) -> int | None:
        """Return the kind of outcome to settle; None if the chunk goes on behind the item."""
        text, item = pickle.loads(data)
        info = ticket.info(item)
        limit = ticket.timeout_of(item) or 0.0
        error = self.adapter.as_host_error(verdicts.task_timeout(info, None, limit, text, soft=True))
        self.tell("task_timeout", task=info, detail=_first_line(error), stack=_own_traceback(text))
        following = self.tickets.lose(ticket, item, error, retry=False)
        if following is None:
            self.adapter.resend([ticket])
        return following

    def wait_for_burials(self) -> None:
        """Wait until those that have died are answered for; `BURIAL_BOUND` seconds at most.

        To fork takes milliseconds during which no other thread runs, so a
        replacement that is started at once delays the news of the death.
        """
        if any(worker.has_ended() for worker in self.live_workers()):
            with self._burials:
                self._burials.wait_for(
                    lambda: self.closed or not any(worker.has_ended() for worker in self.live_workers()),
                    BURIAL_BOUND,
                )

    def live_workers(self) -> list[Worker]:
        """Return the workers whose end has not been reported."""
        return list(self._workers.values())

    def fail(self, ticket: Ticket, error: BaseException) -> None:
        """Answer a task with an error of ours."""
        ticket.verdict = error
        self.adapter.deliver(ticket, VERDICT, b"")

    def cancel(self, ticket: Ticket) -> None:
        """Stop a task that has left for the workers, whether it has begun or not."""
        ticket.cancelled = True
        self.tickets.call_off(ticket)
        self.deadlines.expect(0.0)

    def broken_error(self, ticket: Ticket | None) -> BaseException:
        """Return a new error that says why the pool cannot go on."""
        exit, text = self._broken_by
        if ticket is not None and self._nobody_began:
            ticket.sent = False
        task = None if ticket is None else ticket.info()
        error = verdicts.pool_broken(self.broken or "it was closed", exit, text, task=task)
        return self.adapter.as_host_error(error)

    def break_pool(self, reason: str, exit: WorkerExit | None = None, text: str | None = None) -> None:
        """Give up: answer every open task, and refuse new ones."""
        if self.broken is not None or self.closed:
            return
        # No worker may be born between the look and the end. Should a birth
        # take so long, it is why the pool is given up.
        acquired = self.births.acquire(timeout=BIRTH_BOUND)
        try:
            self._nobody_began = acquired and self._end_starts()
            self._broken_by = (exit, text)
            # Last: from now on other threads answer with what is above.
            self.broken = reason
        finally:
            if acquired:
                self.births.release()
        self.tell("pool_broken", detail=reason, exit=exit)
        for ticket in list(self.tickets.open.values()):
            if ticket.verdict is None:
                self.fail(ticket, self.broken_error(ticket))
        self.adapter.on_broken()

    def _end_starts(self) -> bool:
        """End workers none of which is ready; return whether it is certain that no open task has begun."""
        workers = self.live_workers()
        if any(worker.older or worker.snapshot().phase >= ledger.READY for worker in workers):
            return False
        for worker in workers:
            worker.killed = worker.killed or Kill("repair")
            worker.send(signal.SIGKILL)
        plumbing.wait_until(lambda: all(worker.has_ended() for worker in workers), plumbing.SIGNAL_BOUND)
        return all(worker.snapshot().phase < ledger.READY for worker in workers)

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
            self.call_later(0.0, self._repair)

    def call_later(self, seconds: float, action: Callable[[], None]) -> None:
        """Have the watchdog call `action` in some seconds, unless the pool ends before."""
        when = time.monotonic() + seconds
        self._later.append((when, action))
        watchdog().schedule(self, when)

    def retire(self) -> None:
        """Go on for what is on its way, and have `PoolAdapter.answered_all` called behind it."""
        self._retiring = True
        self.look_for_end()

    @property
    def is_retiring(self) -> bool:
        """Whether the pool was unguarded, and only what is on its way is guarded still."""
        return self._retiring

    def look_for_end(self) -> None:
        """End the guard of a pool that was unguarded, if nothing is on its way any more."""
        if not self._retiring:
            return
        with self._leaving:
            if self._retiring and not self.closed and not self.tickets.open:
                self.adapter.answered_all()

    def stay(self, policy: Policy) -> bool:
        """Take `retire` back; False if it is too late."""
        with self._leaving:
            self._retiring = self._retiring and self.closed
            self.policy = policy
            return not self.closed

    def tell(self, kind: str, **fields: Any) -> None:
        """Report an event to the logger and to ``on_event``."""
        self.herald.tell(kind, self.policy, **fields)

    def stop_watching(self) -> None:
        """Take deaths for what they are meant to be: the pool is ending."""
        self.closed = True
        watchdog().forget(self)

    def close(self) -> None:
        """Release everything; the pool has ended. Twice is no error."""
        if not self._releasing.acquire(blocking=False):
            return
        self.stop_watching()
        # The watchdog may be in the middle of a death; what it does is bounded.
        acquired = self._watching.acquire(timeout=CLOSE_BOUND)
        try:
            for worker in self.live_workers():
                self._drop(worker)
            self._later.clear()
            # Once more: that death may have asked for something later.
            watchdog().forget(self)
        finally:
            if acquired:
                self._watching.release()
        self.herald.close()
        if self._track is not None:
            self._track.close(self.tickets.issued())
        self.tickets.store.close()
        self._folder.close()

    # Called by the watchdog.

    def on_exits(self, workers: list[Worker]) -> None:
        """Find out what each death means, answer for it, and mend the pool."""
        with self._watching:
            if self.closed:
                return
            suspect = [self._bury(worker) for worker in workers]
            with self._burials:
                self._burials.notify_all()
            if any(suspect):
                self._repair()
            self.adapter.nudge()
            if not self._workers:
                self.adapter.workers_are_gone()

    def on_deadline(self) -> None:
        """Stop what is overdue."""
        with self._watching:
            if self.closed:
                return
            now = time.monotonic()
            for entry in [entry for entry in self._later if entry[0] <= now]:
                self._later.remove(entry)
                entry[1]()
            if self._later:
                watchdog().schedule(self, min(when for when, _ in self._later))
            self.deadlines.look()

    def _repair(self) -> None:
        if self.closed or self.broken is not None:
            return
        started = time.monotonic()
        self.adapter.repair(self)
        self.tell("pool_repaired", detail=f"took {(time.monotonic() - started) * 1000:.1f} ms")

    def on_failure(self, error: BaseException) -> None:
        """Answer everything open: this guard can no longer vouch for the pool."""
        self.break_pool(f"poolwarden failed ({type(error).__name__}); this is a bug in poolwarden")

    def _bury(self, worker: Worker) -> bool:
        """Answer for one dead worker; return whether the plumbing is suspect."""
        self.deaths += 1
        seen = worker.snapshot()
        bound = _UNKNOWABLE_BOUND if _is_reaped_by_kernel(worker) else _EXIT_CODE_BOUND
        code = worker.exit_code(bound, reap=not self.adapter.reaps)
        worker.settle_exit_code(code)
        # Somebody who reaps our processes may be about to reap this one.
        self.call_later(0.2, lambda: worker.settle_exit_code(code))
        suspect = False
        if seen.phase == ledger.RUNNING and worker.outcome()[0] == seen.ticket:
            # It died between storing the outcome and saying so.
            self.deliver_last_outcome(worker)
        elif seen.phase == ledger.RUNNING:
            self._lose_task(worker, seen, code)
        elif seen.phase in (ledger.DONE, ledger.LEFT):
            self.deliver_last_outcome(worker)
        of_repair = worker.killed is not None and worker.killed.reason == "repair"
        if not of_repair and not self._has_left(worker, seen, code):
            older = worker.older and seen.phase == ledger.UNBORN
            unasked = seen.phase == ledger.LEFT and not self.adapter.may_worker_leave(code)
            suspect = seen.phase in _SUSPECT or older or unasked
            if older:
                detail = f"worker {worker.pid}, older than the guard, died; what it did is not known"
                self.tell("worker_lost", pid=worker.pid, exit=self._diagnose(worker, code), detail=detail)
            elif suspect or seen.phase in (ledger.UNBORN, ledger.STARTING, ledger.FAILED):
                self._note_idle_death(worker, seen, code)
        self.adapter.buried(worker, seen)
        self._drop(worker)
        return suspect

    def _has_left(self, worker: Worker, seen: Snapshot, code: int | None) -> bool:
        """Return whether a worker that never joined was told to leave: there was nothing for it to do."""
        told = worker.older and seen.phase == ledger.UNBORN and code == 0
        return told and self.adapter.may_worker_leave(code) and not self.adapter.has_older_tasks()

    def deliver_last_outcome(self, worker: Worker) -> None:
        """Deliver the outcome in a dead worker's record.

        It may have been sent already; then it arrives first, and this one is
        dropped because the ticket is closed.
        """
        number, kind, data = worker.outcome()
        ticket = self.tickets.open.get(number)
        if ticket is not None:
            self.adapter.deliver(ticket, kind, data)

    def _lose_task(self, worker: Worker, seen: Snapshot, code: int | None) -> None:
        ticket = self.tickets.open.get(seen.ticket)
        if ticket is None or ticket.verdict is not None:
            return
        exit = self._diagnose(worker, code)
        killed = worker.killed
        info = ticket.info(seen.item)
        if self._track is not None:
            self._track.saw(running(worker, seen, ticket))
        stack = None
        error: BaseException
        if killed is not None and killed.reason == "cancel":
            from concurrent.futures import CancelledError

            error, event = CancelledError(), "task_cancelled"
        elif killed is not None and killed.reason == "timeout":
            stack, limit = killed.stack, ticket.timeout_of(seen.item) or 0.0
            error = self.adapter.as_host_error(verdicts.task_timeout(info, exit, limit, stack, soft=False))
            event = "task_timeout"
        else:
            stack = worker.crash_stack() if exit.signal in _CRASHES else None
            error, event = self.adapter.as_host_error(verdicts.worker_lost(info, exit, stack)), "task_lost"
            self.breaker.task_lost()
        kind = self.tickets.lose(ticket, seen.item, error, retry=event == "task_lost")
        if kind is None:
            self.adapter.resend([ticket])
        else:
            self.adapter.deliver(ticket, kind, b"")
        if kind is None and seen.item not in ticket.holes:
            event = "task_retried"
        self.tell(event, pid=worker.pid, task=info, exit=exit, detail=_first_line(error), stack=stack)

    def _note_idle_death(self, worker: Worker, seen: Snapshot, code: int | None) -> None:
        exit = self._diagnose(worker, code)
        if seen.phase in (*_SUSPECT, ledger.LEFT):
            self.tell("worker_lost", pid=worker.pid, exit=exit, detail=f"worker {worker.pid} died while idle")
            return
        text = worker.outcome()[2].decode("utf-8", "replace") if seen.phase == ledger.FAILED else None
        self.breaker.start_failed(worker, seen.phase, exit, text)

    def _diagnose(self, worker: Worker, code: int | None) -> WorkerExit:
        killed = None
        if worker.killed is not None:
            killed = {
                "timeout": "poolwarden killed it: its task outran its timeout",
                "cancel": "poolwarden killed it: its task was cancelled",
                "startup": "poolwarden killed it: it outran startup_timeout",
            }.get(worker.killed.reason, "poolwarden killed it to repair the pool")
        oom = self._oom.moved(worker.pid) if code in (-9, None) else None
        return diagnose(Evidence(worker.pid, code, killed, oom))

    def _drop(self, worker: Worker) -> None:
        self._workers.pop(id(worker.process), None)
        if self._track is not None:
            self._track.worker_ended(worker.pid, killed=worker.killed is not None)
        self._oom.forget(worker.pid)
        watchdog().unwatch(worker.fd)
        worker.close()


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def _own_traceback(text: str) -> str:
    """Return the part of a printed traceback that is of the last exception.

    Those it came upon are the task's: their messages may hold its data.
    """
    before, start, last = text.rpartition("Traceback (most recent call last):")
    return start + last if before else text


def _is_reaped_by_kernel(worker: Worker) -> bool:
    """Return whether nobody will ever learn the exit code."""
    popen = getattr(worker.process, "_popen", None)
    return getattr(popen, "method", "") != "forkserver" and signal.getsignal(_SIGCHLD) == signal.SIG_IGN
