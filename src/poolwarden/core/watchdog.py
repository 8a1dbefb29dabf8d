"""One thread a process that waits for deaths and deadlines of every guard.

Covers waiting only: what a death means is its owner's. Runs in the parent. The
thread sleeps in a single wait on the exit descriptors of all watched processes
and a wake-up pipe, with a time-out only when a deadline is set: an idle
process is never woken. It is a daemon, is made anew after a fork, survives any
exception of an owner, and is there only while there is something to wait for:
since Python 3.12 a program that forks its next pool beside another thread is
warned.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Hashable, Iterator
from multiprocessing.connection import Pipe, wait
from typing import Any, Protocol

log = logging.getLogger("poolwarden")

#: Seconds; poll() takes no more than 2**31 ms.
LONGEST_WAIT = 86400.0
#: Seconds for the thread to end once it has nothing to wait for; it takes well under a millisecond.
END_BOUND = 0.1


class Owner(Protocol):
    """What the watchdog calls, always from its own thread."""

    def on_exits(self, tokens: list[Any]) -> None:
        """The processes behind `tokens` have ended; each is reported once."""

    def on_deadline(self) -> None:
        """The time given to `Watchdog.schedule` has come."""

    def on_failure(self, error: BaseException) -> None:
        """One of the two above raised; go back to the host's bare behaviour."""


class Watchdog:
    """Waits for ends of processes and for points in time; any thread may call it."""

    def __init__(self) -> None:
        # Re-entrant: a collection comes at any moment, and ends pools in the thread that it meets.
        self._lock = threading.RLock()
        self._watched: dict[int, tuple[Owner, Hashable]] = {}
        self._deadlines: dict[Owner, float] = {}
        self._reader, self._writer = Pipe(duplex=False)
        self._kicked = False
        self._sleeps_until = float("inf")
        self._thread: threading.Thread | None = None
        # Weak: a test suite may count the threads that are still referred to (CPython's own does).
        self._last: weakref.ref[threading.Thread] | None = None
        self._forking: list[int] = []

    def watch(self, fd: int, owner: Owner, token: Hashable) -> None:
        """Report to `owner` when `fd` (a pidfd or sentinel) becomes readable."""
        with self._lock:
            # Before the entry, which the thread cannot see until the lock is free: who is interrupted
            # between the two must not leave an entry that nobody looks at.
            self._wake()
            self._watched[fd] = (owner, token)

    def owners(self) -> set[Owner]:
        """Return to whom processes are reported. Takes no lock: signal handlers may call it."""
        return {owner for owner, _ in list(self._watched.values())}

    def unwatch(self, fd: int) -> None:
        """Stop watching `fd`; the caller may close it afterwards."""
        with self._lock:
            # A poll in progress still holds the number, and by the time it
            # returns the number may stand for another file: reports are
            # looked up in the table, so an unwatched one is dropped.
            self._watched.pop(fd, None)
            self._end_if_idle()

    def schedule(self, owner: Owner, when: float) -> bool:
        """Call ``owner.on_deadline`` at `when` (``time.monotonic()``) or soon after.

        An earlier time that is already set stays. False if there is no thread to
        call it, for now or, at the end of the interpreter, for good.
        """
        if self._deadlines.get(owner, float("inf")) <= when:
            return self._thread is not None
        with self._lock:
            if when < self._deadlines.get(owner, float("inf")):
                # As in `watch`.
                if when < self._sleeps_until:
                    self._wake()
                self._deadlines[owner] = when
        return self._thread is not None

    def forget(self, owner: Owner) -> None:
        """Drop all that was asked for by `owner`."""
        with self._lock:
            self._deadlines.pop(owner, None)
            for fd in [fd for fd, (other, _) in list(self._watched.items()) if other is owner]:
                self._watched.pop(fd, None)
            self._end_if_idle()

    @contextlib.contextmanager
    def no_thread(self) -> Iterator[None]:
        """Start no thread for the calling one while it forks workers in a block.

        Since Python 3.12 there is a warning at each fork after the first otherwise.
        For another one it is started: beside that a fork is warned of in any case,
        and it cannot wait for a birth that takes seconds.
        """
        me = threading.get_ident()
        with self._lock:
            self._forking.append(me)
        try:
            yield
        finally:
            with self._lock:
                self._forking.remove(me)
                if self._thread is None and (self._watched or self._deadlines):
                    self._wake()

    def let_end(self) -> None:
        """See out a thread that is busy with the end of the last pool, `END_BOUND` at most."""
        # No lock: a thread that forks may hold it.
        thread, watched = None if self._last is None else self._last(), list(self._watched)
        if thread is None or thread is threading.current_thread():
            return
        with contextlib.suppress(OSError):
            if len(wait(watched, 0)) == len(watched):
                thread.join(END_BOUND)

    def look_alive(self) -> None:
        """Start the thread if it is missing: who was to do that may have been interrupted."""
        if self._thread is None and (self._watched or self._deadlines):
            with self._lock:
                self._wake()

    def is_current_thread(self) -> bool:
        """Return whether the caller runs in the watchdog's own thread."""
        return threading.current_thread() is self._thread

    def _wake(self) -> None:
        if self._thread is not None:
            self._kick()
            return
        if threading.get_ident() in self._forking:
            return
        thread = threading.Thread(target=self._run, name="poolwarden-watchdog", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The interpreter ends, and starts no more threads (3.12); nor can it start more workers.
            return
        # Behind its start: others join it, without the lock. It may have been interrupted here, so
        # that the thread says itself that it is there.
        self._thread = thread
        self._last = weakref.ref(thread)

    def _end_if_idle(self) -> None:
        if self._thread is not None and not self._watched and not self._deadlines:
            self._kick()

    def _kick(self) -> None:
        if not self._kicked and not self.is_current_thread():
            # In this order: if an exception came between, nobody would ever write again.
            self._writer.send_bytes(b"")
            self._kicked = True

    def _run(self) -> None:
        while True:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.current_thread()
                elif not self.is_current_thread():
                    # Another was started, by who did not learn of this one.
                    return
                if not self._watched and not self._deadlines:
                    self._thread = None
                    self._sleeps_until = float("inf")
                    return
                waited = [self._reader, *self._watched]
                self._sleeps_until = min(self._deadlines.values(), default=float("inf"))
                timeout = None
                if self._sleeps_until != float("inf"):
                    timeout = min(max(0.0, self._sleeps_until - time.monotonic()), LONGEST_WAIT)
            # Not in this frame: while it sleeps, nothing here may keep a guard,
            # and with it a pool's pipes, alive.
            self._handle(self._wait(waited, timeout))

    def _handle(self, ready: list[Any]) -> None:
        exits: dict[Owner, list[Hashable]] = {}
        with self._lock:
            self._sleeps_until = float("-inf")
            if self._reader in ready:
                self._reader.recv_bytes()
                self._kicked = False
            for fd in ready:
                if isinstance(fd, int) and (entry := self._watched.pop(fd, None)) is not None:
                    exits.setdefault(entry[0], []).append(entry[1])
            now = time.monotonic()
            due = [owner for owner, when in list(self._deadlines.items()) if when <= now]
            for owner in due:
                self._deadlines.pop(owner, None)
        for owner, tokens in exits.items():
            self._protected(owner, owner.on_exits, tokens)
        for owner in due:
            self._protected(owner, owner.on_deadline)

    def _wait(self, waited: list[Any], timeout: float | None) -> list[Any]:
        try:
            return wait(waited, timeout)
        except OSError:
            # A descriptor was closed between the list and the wait. Find out
            # which: it would make every later wait fail as well.
            with self._lock:
                for fd in [fd for fd in list(self._watched) if not _is_open(fd)]:
                    self._watched.pop(fd, None)
            return []

    def _protected(self, owner: Owner, method: Any, *args: Any) -> None:
        try:
            method(*args)
        except BaseException as error:
            log.exception("poolwarden: internal error; the pool goes back to its own behaviour")
            try:
                owner.on_failure(error)
            except BaseException:
                log.exception("poolwarden: could not hand the pool back")


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


_instance: Watchdog | None = None
_instance_lock = threading.RLock()


def watchdog() -> Watchdog:
    """Return this process's watchdog, started at the first call."""
    global _instance
    if _instance is None:
        with _instance_lock:
            if _instance is None:
                _instance = Watchdog()
    return _instance


def _reset() -> None:
    """In a forked process: the thread is gone, and the locks may be held by it."""
    global _instance, _instance_lock
    if _instance is not None:
        _instance._reader.close()
        _instance._writer.close()
        # If a callback in its thread has forked, this is that thread: it ends.
        _instance._watched.clear()
        _instance._deadlines.clear()
        _instance._lock = threading.RLock()
    _instance = None
    _instance_lock = threading.RLock()


def _before_fork() -> None:
    # Beside a third thread the fork is warned of in any case.
    if _instance is not None and threading.active_count() == 2:
        _instance.let_end()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_reset)
