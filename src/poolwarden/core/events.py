"""Tells the user what happened: the report, the logger, and ``on_event``.

Runs in a thread of its own, made with the first event: neither a slow logging
handler nor a callback that blocks may hold up the watchdog. Nothing is printed
unasked. Losses are logged as WARNING, repairs as INFO.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ..policy import Policy
from ..records import Event
from .forking import no_fork

if TYPE_CHECKING:
    from ..report.track import Track

log = logging.getLogger("poolwarden")

_INFO: Final = ("pool_repaired", "task_retried", "task_cancelled", "worker_killed")
#: Seconds that the end of a pool waits for events that are still to be told.
_FLUSH_BOUND: Final = 1.0

#: Told of every event of every pool of this process, whatever its policy.
listeners: Final[list[Callable[[Event], object]]] = []


class Herald:
    """Tells one pool's events in order; `tell` may be called from any thread."""

    def __init__(self, pool: str, track: Track | None = None) -> None:
        self._pool = pool
        self._track = track
        self._queue: queue.SimpleQueue[tuple[Event, Policy] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._complained = False
        self._closed = False

    def tell(self, kind: str, policy: Policy, **fields: Any) -> None:
        """Report an event now; log it and give it to ``policy.on_event`` soon."""
        event = Event(kind, time.time(), self._pool, **fields)
        if self._track is not None:
            self._track.event(event)
        with self._lock:
            if self._closed:
                return
            has_thread = self._thread is not None or self._start()
            self._queue.put((event, policy))
        if not has_thread:
            self._tell_next()

    def _start(self) -> bool:
        thread = threading.Thread(target=self._run, name="poolwarden-events", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # From 3.12 on no thread can be started once the interpreter ends.
            return False
        self._thread = thread
        return True

    def close(self) -> None:
        """Tell what is left and end the thread; waits a second at most."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            if thread is not threading.current_thread():
                thread.join(_FLUSH_BOUND)

    def _run(self) -> None:
        # Not in this frame: while it waits, nothing here may keep a policy,
        # and with it what on_event refers to, alive.
        while self._tell_next():
            pass

    def _tell_next(self) -> bool:
        entry = self._queue.get()
        if entry is None:
            return False
        event, policy = entry
        with no_fork():
            # A filter of the user's may raise as well as the callback.
            self._call(_log, logging.INFO if event.kind in _INFO else logging.WARNING, event)
            for listener in listeners:
                self._call(listener, event)
            if policy.on_event is not None:
                self._call(policy.on_event, event)
        return True

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


def _log(level: int, event: Event) -> None:
    log.log(level, "%s: %s: %s", event.pool, event.kind, event.detail, extra={"poolwarden": event})
