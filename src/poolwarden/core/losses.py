"""What the end of a worker, or of a task's time, means, and for whom.

Covers one death at a time: its exit code, the task that the worker held, and
whether what it leaves behind is suspect. When to look, and what to mend, is
the guard's. Runs in the watchdog's thread, but where it says otherwise.
"""

from __future__ import annotations

import pickle
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from .. import clock
from ..records import WorkerExit
from ..system.watchdog import watchdog
from ..worker import envelope, ledger
from . import error_texts
from .deaths import ADOPTED, FAILED_START, IDLE, Death, examine
from .diagnosis import Evidence, diagnose
from .observing import PoolObserver
from .ports import Host
from .printed import own_traceback
from .running_tasks import running
from .start_limits import StartLimiter
from .stop_world import LOCK_BOUND, wait_until
from .ticket import Ticket
from .tickets import VERDICT, Tickets
from .workers import Snapshot, Worker

if TYPE_CHECKING:
    from ..system.out_of_memory import OomWatch

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


class Losses:
    """Answers for the tasks that one pool loses.

    Parameters
    ----------
    tickets : Tickets
        The pool's tasks.
    host : Host
        Takes the answers.
    starts : StartLimiter
        Counts deaths in a row.
    oom : OomWatch
        Knows the workers.
    observers : sequence of PoolObserver
        Who is told what dead workers ran.
    births : lock
        Held while the host starts workers.
    call_later, tell, break_pool : callable
        Have something done in the watchdog's thread; tell of an event; give the pool up.
    """

    def __init__(
        self,
        tickets: Tickets,
        host: Host,
        starts: StartLimiter,
        oom: OomWatch,
        observers: Sequence[PoolObserver],
        births: Any,
        *,
        call_later: Callable[[float, Callable[[], None]], None],
        tell: Callable[..., None],
        break_pool: Callable[[str, WorkerExit, str | None], None],
    ) -> None:
        self._tickets = tickets
        self._host = host
        self._starts = starts
        self._oom = oom
        self._observers = observers
        self._births = births
        self._call_later = call_later
        self._tell = tell
        self._break_pool = break_pool

    def bury(self, worker: Worker) -> bool:
        """Answer for one dead worker; return whether the plumbing is suspect."""
        if worker.is_told or worker.is_unknown():
            # What it has told, if it has no record, is on its way through the host's pipe.
            watchdog().make_way()
            self._host.catch_up(_NOTES_BOUND)
        seen = worker.snapshot()
        code = self._exit_code(worker)
        death = self._examine(worker, seen, code)
        if death.loses:
            self._lose_task(worker, seen, code)
        elif death.delivers:
            self.deliver_last_outcome(worker)
        if death.told == ADOPTED:
            detail = f"worker {worker.pid}, older than the guard, died; what it did is not known"
            self._tell("worker_lost", pid=worker.pid, exit=self._diagnose(worker, code), detail=detail)
        elif death.told == IDLE:
            detail = f"worker {worker.pid} died while idle"
            self._tell("worker_lost", pid=worker.pid, exit=self._diagnose(worker, code), detail=detail)
        elif death.told == FAILED_START:
            self._note_failed_start(worker, seen, code)
        self._host.buried(worker, seen)
        return death.suspect

    def _exit_code(self, worker: Worker) -> int | None:
        code = worker.exit_code(_SOON, reap=not self._host.reaps)
        if code is None:
            watchdog().make_way()
            bound = _UNKNOWABLE_BOUND if _is_reaped_by_kernel(worker) else _EXIT_CODE_BOUND
            code = worker.exit_code(bound, reap=not self._host.reaps)
        worker.settle_exit_code(code)
        # Somebody who reaps our processes may be about to reap this one.
        self._call_later(0.2, lambda: worker.settle_exit_code(code))
        return code

    def _examine(self, worker: Worker, seen: Snapshot, code: int | None) -> Death:
        held_lock = self._may_have_left_a_lock(worker)
        for_repair = worker.killed is not None and worker.killed.reason == "repair"
        return examine(
            seen.phase,
            older=worker.older,
            # It died between storing the outcome and saying so.
            stored=worker.outcome()[0] == seen.ticket,
            for_repair=for_repair,
            told_to_leave=not for_repair and self._has_left(worker, seen, code),
            may_leave=seen.phase == ledger.LEFT and self._host.may_worker_leave(code),
            held_lock=held_lock,
        )

    def deliver_last_outcome(self, worker: Worker) -> None:
        """Deliver the outcome in a dead worker's record.

        It may have been sent already; then it arrives first, and this one is
        dropped because the ticket is closed.
        """
        number, kind, data = worker.outcome()
        ticket = self._tickets.open.get(number)
        if ticket is not None:
            self._host.deliver(ticket, kind, data)

    def _may_have_left_a_lock(self, worker: Worker) -> bool:
        """Return whether a worker may have died in the middle of a note or an outcome, with that lock."""
        if worker.place is None or worker.is_told:
            # All that it has told was read above: if it had that lock, it has it still.
            return not wait_until(lambda: not self._host.is_somebody_sending(), LOCK_BOUND)
        return worker.may_hold_lock()

    def _has_left(self, worker: Worker, seen: Snapshot, code: int | None) -> bool:
        """Return whether a worker that never joined was told to leave: there was nothing for it to do."""
        if not (worker.older and seen.phase == ledger.UNBORN and code == 0):
            return False
        # The guard is told of such workers before the host is hooked up. A repair is bounded as well.
        watchdog().make_way()
        if not self._births.acquire(timeout=_HOOKS_BOUND):
            return False
        try:
            return self._host.may_worker_leave(code) and not self._host.has_older_tasks()
        finally:
            self._births.release()

    def _lose_task(self, worker: Worker, seen: Snapshot, code: int | None) -> None:
        ticket = self._tickets.open.get(seen.ticket)
        # The second time it was interrupted in here: the task is answered, and not sent once more.
        again, worker.losing = worker.losing, True
        if ticket is None or (ticket.verdict is not None and not again):
            return
        if not ticket.sent:
            # It has begun, so its message was written; who wrote it may not have come to note that yet.
            ticket.sent = True
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
            error = self._host.as_host_error(error)
            event = "task_timeout"
        else:
            stack = worker.crash_stack() if exit.signal in _CRASHES else None
            ran = _seconds_since(seen.started)
            error = error_texts.worker_lost(info, exit, stack, ran=ran, chunk=fate)
            error, event = self._host.as_host_error(error), "task_lost"
            self._starts.task_lost()
        if ticket.flags & envelope.KEEP:
            ticket.kept = {**ticket.kept, **worker.kept(ticket.number)}
        if again:
            ticket.verdict = ticket.verdict or error
            kind: int | None = VERDICT
        else:
            kind = self._tickets.lose(ticket, seen.item, error, retry=event == "task_lost")
        if kind is None:
            self._host.resend([ticket])
        else:
            self._host.deliver(ticket, kind, b"")
        if kind is None and seen.item not in ticket.holes:
            event = "task_retried"
        self._tell(event, pid=worker.pid, task=info, exit=exit, detail=_first_line(error), stack=stack)

    def _note_failed_start(self, worker: Worker, seen: Snapshot, code: int | None) -> None:
        exit = self._diagnose(worker, code)
        text = worker.outcome()[2].decode("utf-8", "replace") if seen.phase == ledger.FAILED else None
        reason = self._starts.start_failed(worker, seen.phase, exit, text)
        self._tell("init_failed", pid=worker.pid, exit=exit, detail=f"worker {worker.pid} did not get ready")
        if reason is not None:
            self._break_pool(reason, exit, text)

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
        text, item, kept = pickle.loads(data)
        self._tickets.add_kept(ticket, kept)
        info = ticket.info(item)
        limit = ticket.timeout_of(item) or 0.0
        error = self._host.as_host_error(
            error_texts.task_timeout(info, None, limit, text, soft=True, chunk=ticket.chunk_fate(item))
        )
        self._tell("task_timeout", task=info, detail=_first_line(error), stack=own_traceback(text))
        following = self._tickets.lose(ticket, item, error, retry=False)
        if following is None:
            self._host.resend([ticket])
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
