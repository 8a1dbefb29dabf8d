"""Tells the user what happened: who looks on (`observing`), the logger, and ``on_event``.

Runs in a thread of its own, made with the first event, and again if it has
ended: neither a slow logging handler nor a callback that blocks may hold up the
watchdog.

Losses are logged as WARNING, repairs as INFO. Who has configured logging gets
each. Else warnings go to stderr by way of `logging.lastResort`, and a program
that loses 500 tasks would have its terminal filled: there, the first of a pool
have a line each, and the others are counted when it ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from .. import clock
from ..plaintext import visible
from ..policy import Policy
from ..records import Event, WorkerExit
from ..system import threads
from ..system.forking import no_fork
from . import tally
from .observing import PoolObserver

log = logging.getLogger("poolwarden")

_INFO: Final = ("pool_repaired", "task_retried", "task_cancelled", "worker_killed")
#: Lines on stderr about one pool, and about all of this process, if logging is not configured.
SHOWN_MAX: Final = 5
SHOWN_OF_ALL: Final = 20
#: Seconds that the end of a pool waits for events that are still to be told.
_FLUSH_BOUND: Final = 1.0
#: Seconds until the thread goes on after an exception that somebody has raised in it.
_PAUSE: Final = 0.01

#: Told of every event of every pool of this process, whatever its policy.
listeners: Final[list[Callable[[Event], object]]] = []

#: Lines that went to stderr, and losses that had none.
_lines: Final[Counter[str]] = Counter()
#: Of `multiprocessing.util`: behind the ends of pools.
_LAST: Final = -999


class Herald:
    """Tells one pool's events in order; `tell` may be called from any thread."""

    def __init__(self, pool: str, observers: Sequence[PoolObserver] = ()) -> None:
        self._pool = pool
        self._observers = observers
        # Each stays until it was told: what somebody raises in the thread comes between any two steps.
        self._entries: deque[tuple[Event, Policy]] = deque()
        self._wakeups: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        # Re-entrant: a signal handler may come to tell while it is held.
        self._lock = threading.RLock()
        self._complained = False
        self._closed = False
        self._shown = self._hidden = 0

    def tell(self, kind: str, policy: Policy, **fields: Any) -> None:
        """Report an event now; log it and give it to ``policy.on_event`` soon."""
        event = Event(kind, clock.wall(), self._pool, **fields)
        tally.counts[kind] += 1
        for observer in self._observers:
            observer.event(event)
        with self._lock:
            if self._closed:
                return
            self._entries.append((event, policy))
            self._wakeups.put(None)
            has_thread = self._is_running() or self._start()
        if not has_thread and not threading.main_thread().is_alive():
            # From Python 3.12 on no thread can be started once the interpreter ends.
            # Before that there may be room for one with the next event.
            self._tell_all()

    def _is_running(self) -> bool:
        thread = self._thread
        return thread is not None and thread.is_alive()

    def _start(self) -> bool:
        thread = threading.Thread(target=self._run, name="poolwarden-events", daemon=True)
        # Before its start, which may be interrupted when it has begun.
        self._thread = thread
        try:
            threads.start(thread)
        except RuntimeError:
            self._thread = None
            return False
        return True

    def close(self) -> None:
        """Tell what is left and end the thread; waits a second at most."""
        with self._lock:
            self._closed = True
            self._wakeups.put(None)
            if self._entries and not self._is_running():
                self._start()
            thread = self._thread
        if thread is None:
            self._tell_all()
        elif thread is not threading.current_thread():
            thread.join(_FLUSH_BOUND)
        hidden, self._hidden = self._hidden, 0
        if hidden and _take_line():
            self._call(log.warning, "%s: ... and %d more", self._pool, hidden)
        elif hidden:
            _tell_at_exit(hidden)

    def _run(self) -> None:
        # Not in this frame: while it waits, nothing here may keep a policy,
        # and with it what on_event refers to, alive.
        while True:
            try:
                while self._tell_next():
                    pass
                return
            except BaseException:
                # Somebody has raised it in this thread, or there is no memory.
                clock.sleep(_PAUSE)

    def _tell_all(self) -> None:
        while self._entries:
            self._tell_next()

    def _tell_next(self) -> bool:
        while not self._entries:
            if self._closed:
                # For one thread more, of a start that was interrupted.
                self._wakeups.put(None)
                return False
            self._wakeups.get()
        event, policy = self._entries[0]
        with no_fork():
            # A filter of the user's may raise as well as the callback.
            self._call(self._log, logging.INFO if event.kind in _INFO else logging.WARNING, event)
            for listener in listeners:
                self._call(listener, event)
            if policy.on_event is not None:
                self._call(policy.on_event, event)
        self._entries.popleft()
        return True

    def _log(self, level: int, event: Event) -> None:
        if not log.isEnabledFor(level):
            return
        if not log.hasHandlers() and level >= logging.WARNING:
            if logging.lastResort is None:
                return  # it would complain that there is nobody to tell
            if self._shown >= SHOWN_MAX or not _take_line():
                self._hidden += 1
                return
            self._shown += 1
        text = visible(f"{event.pool}: {event.kind}: {event.detail}{_how(event.exit)}")
        log.log(level, "%s", text, extra=_fields(event))

    def _call(self, func: Any, *args: Any) -> None:
        try:
            func(*args)
        except BaseException:
            if not self._complained:
                self._complained = True
                with contextlib.suppress(BaseException):
                    log.exception(
                        "poolwarden: on_event or a log handler raised; not told again for this pool"
                    )


def _take_line() -> bool:
    """Return whether one more line may go to stderr; counts it."""
    _lines["shown"] += 1
    return _lines["shown"] <= SHOWN_OF_ALL


def _tell_at_exit(hidden: int) -> None:
    """Have the losses of pools for which there was no line left counted when the process ends."""
    if not _lines["hidden"]:
        from multiprocessing import util

        util.Finalize(None, _tell_hidden, args=(os.getpid(),), exitpriority=_LAST)
    _lines["hidden"] += hidden


def _tell_hidden(pid: int) -> None:
    if pid == os.getpid():
        with contextlib.suppress(Exception):
            log.warning("poolwarden: ... and %d more in other pools", _lines["hidden"])


def _how(exit: WorkerExit | None) -> str:
    """Return how the worker ended, in parentheses; empty where the event itself says it."""
    if exit is None or exit.cause == "killed_by_guard":
        return ""
    known = exit.exitcode is not None
    how = exit.signal or (f"exit code {exit.exitcode}" if known else "exit code not known")
    return f" ({', '.join((how, *exit.evidence))})"


def _fields(event: Event) -> dict[str, Any]:
    """Return what the log record has more: the event, and its parts for who filters by them."""
    task, exit = event.task, event.exit
    return {
        "poolwarden": event,
        "poolwarden_kind": event.kind,
        "poolwarden_pool": event.pool,
        "poolwarden_pid": event.pid,
        "poolwarden_function": task and task.function,
        "poolwarden_index": task and task.index,
        "poolwarden_cause": exit and exit.cause,
    }
