"""What the end of a worker, or of a task's time, means, and for whom.

Covers one death at a time: its exit code, the task that the worker held, and
whether what it leaves behind is suspect. When to look, and what to mend, is
the guard's. Runs in the watchdog's thread, but where it says otherwise.
"""

from __future__ import annotations

import pickle
import signal
from collections.abc import Sequence
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

from .. import clock
from ..records import WorkerExit
from ..system.watchdog import watchdog
from ..worker import envelope, ledger
from . import error_texts
from .diagnosis import Evidence, diagnose
from .observing import PoolObserver
from .printed import own_traceback
from .running_tasks import running
from .stop_world import LOCK_BOUND, wait_until
from .tickets import VERDICT, Ticket
from .workers import Snapshot, Worker

if TYPE_CHECKING:
    from ..system.out_of_memory import OomWatch
    from .guard import Guard

_SIGCHLD = getattr(signal, "SIGCHLD", signal.SIGTERM)
#: Seconds that the exit code of a worker may take to be known. It comes within
#: microseconds from a child, but through the host's own thread if that has just
#: reaped it, or through a fork server.
_EXIT_CODE_BOUND = 0.5
_UNKNOWABLE_BOUND = 0.02
#: Seconds to wait for it while no other pool is watched.
_SOON = 0.002
#: Seconds for the result thread to read what a dead worker has told; it may be in a callback.
_NOTES_BOUND = 0.5
#: Seconds for a host to be hooked up.
_HOOKS_BOUND = 2.0
#: Signals for which faulthandler writes a stack.
_CRASHES = ("SIGSEGV", "SIGFPE", "SIGABRT", "SIGBUS", "SIGILL")
#: Phases in which a dead worker may have held a lock of the pool. Not STARTING
#: and FAILED: the host's loop has not begun.
_SUSPECT = (ledger.READY, ledger.DONE)


class Losses:
    """Answers for the tasks that one pool loses.

    Parameters
    ----------
    guard : Guard
        The pool's.
    oom : OomWatch
        Knows the workers.
    observers : sequence of PoolObserver
        Who is told what dead workers ran.
    """

    def __init__(self, guard: Guard, oom: OomWatch, observers: Sequence[PoolObserver]) -> None:
        self._guard = guard
        self._oom = oom
        self._observers = observers

    def bury(self, worker: Worker) -> bool:
        """Answer for one dead worker; return whether the plumbing is suspect."""
        guard = self._guard
        guard.deaths += 1
        if worker.is_told or worker.is_unknown():
            # What it has told, if it has no record, is on its way through the host's pipe.
            watchdog().make_way()
            guard.adapter.catch_up(_NOTES_BOUND)
        seen = worker.snapshot()
        bound = _UNKNOWABLE_BOUND if _is_reaped_by_kernel(worker) else _EXIT_CODE_BOUND
        code = worker.exit_code(_SOON, reap=not guard.adapter.reaps)
        if code is None:
            watchdog().make_way()
            code = worker.exit_code(bound, reap=not guard.adapter.reaps)
        worker.settle_exit_code(code)
        # Somebody who reaps our processes may be about to reap this one.
        guard.call_later(0.2, lambda: worker.settle_exit_code(code))
        suspect = self._may_have_left_a_lock(worker)
        if seen.phase == ledger.RUNNING and worker.outcome()[0] == seen.ticket:
            # It died between storing the outcome and saying so.
            guard.deliver_last_outcome(worker)
        elif seen.phase == ledger.RUNNING:
            self._lose_task(worker, seen, code)
        elif seen.phase in (ledger.DONE, ledger.LEFT):
            guard.deliver_last_outcome(worker)
        of_repair = worker.killed is not None and worker.killed.reason == "repair"
        if of_repair or self._has_left(worker, seen, code):
            suspect = False
        else:
            older = worker.older and seen.phase == ledger.UNBORN
            unasked = seen.phase == ledger.LEFT and not guard.adapter.may_worker_leave(code)
            idle = seen.phase in _SUSPECT or unasked
            suspect = suspect or idle or older
            if older:
                detail = f"worker {worker.pid}, older than the guard, died; what it did is not known"
                guard.tell("worker_lost", pid=worker.pid, exit=self._diagnose(worker, code), detail=detail)
            elif idle or seen.phase in (ledger.UNBORN, ledger.STARTING, ledger.FAILED):
                self._note_idle_death(worker, seen, code)
        guard.adapter.buried(worker, seen)
        guard.drop(worker)
        return suspect

    def _may_have_left_a_lock(self, worker: Worker) -> bool:
        """Return whether a worker may have died in the middle of a note or an outcome, with that lock."""
        if worker.place is None or worker.is_told:
            # All that it has told was read above: if it had that lock, it has it still.
            return not wait_until(lambda: not self._guard.adapter.is_somebody_sending(), LOCK_BOUND)
        return worker.may_hold_lock()

    def _has_left(self, worker: Worker, seen: Snapshot, code: int | None) -> bool:
        """Return whether a worker that never joined was told to leave: there was nothing for it to do."""
        guard = self._guard
        if not (worker.older and seen.phase == ledger.UNBORN and code == 0):
            return False
        # The guard is told of such workers before the host is hooked up. A repair is bounded as well.
        watchdog().make_way()
        if not guard.births.acquire(timeout=_HOOKS_BOUND):
            return False
        try:
            return guard.adapter.may_worker_leave(code) and not guard.adapter.has_older_tasks()
        finally:
            guard.births.release()

    def _lose_task(self, worker: Worker, seen: Snapshot, code: int | None) -> None:
        guard = self._guard
        ticket = guard.tickets.open.get(seen.ticket)
        # The second time it was interrupted in here: the task is answered, and not sent once more.
        again, worker.losing = worker.losing, True
        if ticket is None or (ticket.verdict is not None and not again):
            return
        exit = self._diagnose(worker, code)
        reason = _why_stopped(worker, ticket, seen)
        info, fate = ticket.info(seen.item), ticket.chunk_fate(seen.item)
        for observer in self._observers:
            observer.saw(running(worker, seen, ticket))
        stack = None
        error: BaseException
        if reason == "cancel":
            error, event = CancelledError(), "task_cancelled"
        elif reason == "timeout":
            stack = None if worker.killed is None else worker.killed.stack
            limit = ticket.timeout_of(seen.item) or 0.0
            error = error_texts.task_timeout(info, exit, limit, stack, soft=False, chunk=fate)
            error = guard.adapter.as_host_error(error)
            event = "task_timeout"
        else:
            stack = worker.crash_stack() if exit.signal in _CRASHES else None
            ran = _seconds_since(seen.started)
            error = error_texts.worker_lost(info, exit, stack, ran=ran, chunk=fate)
            error, event = guard.adapter.as_host_error(error), "task_lost"
            guard.breaker.task_lost()
        if ticket.flags & envelope.KEEP:
            ticket.kept = {**ticket.kept, **worker.kept(ticket.number)}
        if again:
            ticket.verdict = ticket.verdict or error
            kind: int | None = VERDICT
        else:
            kind = guard.tickets.lose(ticket, seen.item, error, retry=event == "task_lost")
        if kind is None:
            guard.adapter.resend([ticket])
        else:
            guard.adapter.deliver(ticket, kind, b"")
        if kind is None and seen.item not in ticket.holes:
            event = "task_retried"
        guard.tell(event, pid=worker.pid, task=info, exit=exit, detail=_first_line(error), stack=stack)

    def _note_idle_death(self, worker: Worker, seen: Snapshot, code: int | None) -> None:
        guard = self._guard
        exit = self._diagnose(worker, code)
        if seen.phase in (*_SUSPECT, ledger.LEFT):
            guard.tell(
                "worker_lost", pid=worker.pid, exit=exit, detail=f"worker {worker.pid} died while idle"
            )
            return
        text = worker.outcome()[2].decode("utf-8", "replace") if seen.phase == ledger.FAILED else None
        guard.breaker.start_failed(worker, seen.phase, exit, text)

    def _diagnose(self, worker: Worker, code: int | None) -> WorkerExit:
        killed = None
        if worker.killed is not None:
            killed = {
                "timeout": "poolwarden killed it: its task outran its timeout",
                "cancel": "poolwarden killed it: its task was cancelled",
                "startup": "poolwarden killed it: it outran startup_timeout",
                "stopped": "poolwarden killed it: it was stopped while idle, and tasks waited",
                "stuck": "poolwarden killed it: it waited for a lock that was taken when it was forked",
            }.get(worker.killed.reason, "poolwarden killed it to repair the pool")
        oom = self._oom.moved(worker.pid) if code in (-9, None) else None
        return diagnose(Evidence(worker.pid, code, killed, oom))

    def after_soft_timeout(self, ticket: Ticket, data: bytes) -> int | None:
        """Return the kind of outcome to settle; None if the chunk goes on behind the item. Result thread."""
        guard = self._guard
        text, item, kept = pickle.loads(data)
        guard.tickets.add_kept(ticket, kept)
        info = ticket.info(item)
        limit = ticket.timeout_of(item) or 0.0
        error = guard.adapter.as_host_error(
            error_texts.task_timeout(info, None, limit, text, soft=True, chunk=ticket.chunk_fate(item))
        )
        guard.tell("task_timeout", task=info, detail=_first_line(error), stack=own_traceback(text))
        following = guard.tickets.lose(ticket, item, error, retry=False)
        if following is None:
            guard.adapter.resend([ticket])
        return following


def _why_stopped(worker: Worker, ticket: Ticket, seen: Snapshot) -> str | None:
    """Return ``"cancel"`` or ``"timeout"`` if the task was to be stopped, None if it was lost.

    Whatever its worker died of in the end. A task that was asked to stop may
    end its worker by that: it has reset the handlers, or its clean-up crashes,
    or somebody kills it in the grace time. Read as a loss, it was run again.
    """
    if ticket.cancelled:
        return "cancel"
    if worker.soft == seen:
        return "timeout"
    killed = worker.killed
    return None if killed is None or killed.ticket != seen.ticket else killed.reason


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def _seconds_since(started: int) -> float | None:
    """Return how long ago a moment in nanoseconds was; None if the worker's clock is not ours."""
    seconds = clock.now() - started / 1e9
    return seconds if started and seconds >= 0 else None


def _is_reaped_by_kernel(worker: Worker) -> bool:
    """Return whether nobody will ever learn the exit code."""
    popen = getattr(worker.process, "_popen", None)
    return getattr(popen, "method", "") != "forkserver" and signal.getsignal(_SIGCHLD) == signal.SIG_IGN
