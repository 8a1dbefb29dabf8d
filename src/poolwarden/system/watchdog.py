"""One thread a process that waits for deaths and deadlines of every guard.

Covers waiting only: what a death means is its owner's. Runs in the parent. The
thread sleeps in a single wait on the exit descriptors of all watched processes
and a wake-up pipe, with a time-out only when a deadline is set: an idle
process is never woken. It is a daemon, is made anew after a fork, and is there
only while there is something to wait for: since Python 3.12 a program that
forks its next pool beside another thread is warned.

What an owner does with a death may take long: a repair waits for a worker that is
being started. Before such a wait the owner calls `Watchdog.make_way`: another
thread watches from then on, and the one that waits ends when it is done with that
owner. Each owner is handled by one thread at a time (`_handled_by`), and in order.

It survives any exception at any point, its own and those that others raise in
it: what was found and not handled to the end stays in a table, and is handled
again. If it ends nevertheless, or could not be started, every call from
outside starts it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Hashable, Iterator
from typing import Any, Final, Protocol

from .. import clock
from ..errors import ConfigurationError
from . import threads
from .complaints import complain
from .monkeypatching import why_patched
from .waiting import readable
from .wakeup import Wakeup

#: Seconds; poll() takes no more than 2**31 ms.
LONGEST_WAIT = 86400.0
#: Seconds for the thread to end once it has nothing to wait for; it takes well under a millisecond.
END_BOUND = 0.1
#: Seconds before an owner that has raised is called again, and then is told of its failure. An exception that
#: came from outside, or for want of memory, does not come each time.
PAUSES: Final = (0.0, 0.001, 0.01, 0.05)
#: Seconds until the thread goes on after an exception outside of its owners. Short: what somebody raises in
#: the meantime comes with the next step.
PAUSE: Final = 0.003
#: Seconds between two looks for an owner that another thread is busy with.
BUSY_STEP: Final = 0.05


class Owner(Protocol):
    """What the watchdog calls, from a thread of its own, and never from two at once.

    Whatever of this raises is called again, from the beginning.
    """

    def on_exits(self, tokens: list[Any]) -> None:
        """The processes behind `tokens` have ended; each is reported once."""

    def on_deadline(self) -> None:
        """The time given to `Watchdog.schedule` has come."""

    def on_failure(self, error: BaseException) -> None:
        """One of the two above raised each time; go back to the host's bare behaviour."""


class Watchdog:
    """Waits for ends of processes and for points in time; any thread may call it."""

    def __init__(self) -> None:
        # Re-entrant: a collection comes at any moment, and ends pools in the thread that it meets.
        self._lock = threading.RLock()
        self._watched: dict[int, tuple[Owner, Hashable]] = {}
        self._deadlines: dict[Owner, float] = {}
        # Found, and not handled to the end: what outlives an exception in between.
        self._ended: dict[Owner, dict[Hashable, None]] = {}
        # Each time is an object of its own: one that comes while an earlier one is handled is handled next.
        self._due: dict[Owner, object] = {}
        # Who handles an owner now, or was interrupted in it and goes on. What a dead thread has left is free.
        self._handled_by: dict[Owner, threading.Thread] = {}
        self._wakeup = Wakeup()
        self._sleeps_until = float("inf")
        self._thread: threading.Thread | None = None
        # Weak: a test suite may count the threads that are still referred to (CPython's own does).
        self._last: weakref.ref[threading.Thread] | None = None
        self._forking: list[int] = []

    def check(self) -> None:
        """Make sure that the thread can run.

        Raises
        ------
        ConfigurationError
            No thread can be started.
        """
        if not self._is_running() and not _can_start():
            raise ConfigurationError(
                "this pool cannot be watched: no thread can be started for that. It is as it was."
            )

    def look_alive(self) -> bool:
        """Start the thread if it is needed and not there; return whether all is well.

        It may have ended, or who was to start it may have been interrupted.
        """
        if self._is_running() or not self._has_work():
            return True
        with self._lock:
            return self._is_running() or threading.get_ident() in self._forking or self._start()

    def _is_running(self) -> bool:
        thread = self._thread
        return thread is not None and thread.is_alive()

    def _has_work(self) -> bool:
        return bool(self._watched or self._deadlines or self._ended or self._due)

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
        """Call ``owner.on_deadline`` at `when` (``clock.now()``) or soon after.

        An earlier time that is already set stays. False if there is no thread to
        call it, for now or, at the end of the interpreter, for good.
        """
        if self._deadlines.get(owner, float("inf")) > when:
            with self._lock:
                if when < self._deadlines.get(owner, float("inf")):
                    # The thread is woken before the deadline is noted, for the same reason as in `watch`.
                    if when < self._sleeps_until:
                        self._wake()
                    self._deadlines[owner] = when
        self.look_alive()
        return self._is_running()

    def forget(self, owner: Owner) -> None:
        """Drop all that was asked for by `owner`."""
        with self._lock:
            for table in (self._deadlines, self._ended, self._due):
                table.pop(owner, None)
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
                self.look_alive()

    def let_end(self) -> None:
        """See out a thread that is busy with the end of the last pool, `END_BOUND` at most."""
        # No lock: a thread that forks may hold it.
        thread, watched = None if self._last is None else self._last(), list(self._watched)
        if thread is None or thread is threading.current_thread():
            return
        with contextlib.suppress(OSError):
            if len(readable(watched, 0)) == len(watched):
                thread.join(END_BOUND)

    def make_way(self) -> None:
        """Have another thread watch from now on: an owner that the calling thread handles is about to wait.

        Nothing happens in any other thread, and where no thread can be started
        the others have to wait as well.
        """
        me = threading.current_thread()
        if me is not self._thread or threading.get_ident() in self._forking:
            return
        with self._lock:
            if not self._start():
                self._thread = me

    def is_current_thread(self) -> bool:
        """Return whether the caller runs in the thread that watches."""
        return threading.current_thread() is self._thread

    def _wake(self) -> None:
        if self._is_running():
            if not self.is_current_thread():
                self._wakeup.wake()
        elif threading.get_ident() not in self._forking:
            self._start()

    def _start(self) -> bool:
        if why_patched() is not None:
            # It would be a greenlet, and hold up all others.
            return False
        for attempt in (1, 2):
            thread = threading.Thread(target=self._run, name="poolwarden-watchdog", daemon=True)
            self._thread = thread
            try:
                threads.start(thread)
                # This comes after its start: others join the thread, without the lock.
                self._last = weakref.ref(thread)
                break
            except RuntimeError:
                # There is no room for a thread, it has died at once, or the interpreter ends.
                self._thread = None
                return False
            except BaseException:
                # Something raised in the thread that asks; the new one may have begun or not.
                if attempt == 2 or threading.current_thread() is threading.main_thread():
                    # Ctrl-C in the main thread, which does not start it itself: it begins all the same.
                    raise
        return True

    def _end_if_idle(self) -> None:
        if not self._has_work() and self._is_running() and not self.is_current_thread():
            self._wakeup.wake()

    def _run(self) -> None:
        try:
            self._survive()
        finally:
            # With an exception that came while another one was handled.
            self._let_go()
            with self._lock:
                if self.is_current_thread():
                    self._thread = None
                self.look_alive()
                for owner in self._interrupted() or ():
                    self._handled_by.pop(owner, None)
                # Something may have come for an owner that this thread has handled.
                self._wake_for_others()

    def _survive(self) -> None:
        """Do round after round until there is nothing to wait for."""
        while True:
            try:
                try:
                    while self._round():
                        pass
                    return
                except BaseException:
                    # Nothing is lost with it. It comes again, perhaps: there is no memory.
                    self._let_go()
                    clock.sleep(PAUSE)
            except BaseException:
                # And it has come again, while it was dealt with.
                continue

    def _let_go(self) -> None:
        """Release what an exception at the very end of a block has left taken."""
        while self._lock._is_owned():  # type: ignore[attr-defined]
            self._lock.release()

    def _round(self) -> bool:
        with self._lock:
            left = self._interrupted()
            if not self._is_mine():
                if not left:
                    return False
            elif not self._has_work():
                self._thread = None
                self._sleeps_until = float("inf")
                return False
            watches = self.is_current_thread()
            if watches:
                self._wakeup.mend()
                waited = [self._wakeup.reader, *self._watched]
                timeout = self._time_to_wait()
        if watches:
            left = None
            # The sleep and what follows have frames of their own: while this one sleeps, none of its names
            # may keep a guard, and with it a pool's pipes, alive.
            self._note(self._wait(waited, timeout))
        self._handle(left)
        return True

    def _interrupted(self) -> list[Owner] | None:
        """Return the owners in whose handling this thread was interrupted, None if there is none."""
        me = threading.current_thread()
        left = [owner for owner, thread in self._handled_by.items() if thread is me]
        for owner in left:
            if owner not in self._ended and owner not in self._due:
                # It was done, but for that.
                self._handled_by.pop(owner, None)
        return [owner for owner in left if owner in self._handled_by] or None

    def _time_to_wait(self) -> float | None:
        """Return for how many seconds nothing has to be done, None if there is no bound."""
        self._sleeps_until = min(self._deadlines.values(), default=float("inf"))
        pending = {*self._ended, *self._due}
        if any(not self._is_busy(owner) for owner in pending):
            return 0.0
        timeout = self._sleeps_until - clock.now()
        if pending:
            # The thread that handles it wakes this one, if it comes to that.
            timeout = min(timeout, BUSY_STEP)
        return None if timeout == float("inf") else min(max(0.0, timeout), LONGEST_WAIT)

    def _is_busy(self, owner: Owner) -> bool:
        """Return whether another thread handles an owner."""
        thread = self._handled_by.get(owner)
        return thread is not None and thread is not threading.current_thread() and thread.is_alive()

    def _is_mine(self) -> bool:
        """Return whether the calling thread is the one that watches; it may be one too many."""
        me = threading.current_thread()
        if self._thread is not me and not self._is_running():
            self._thread = me
        return self._thread is me

    def _note(self, ready: list[Any]) -> None:
        """Put into the tables what has happened."""
        with self._lock:
            self._sleeps_until = float("-inf")
            if self._wakeup.reader in ready:
                self._wakeup.clear()
            for fd in ready:
                # Looked up, and only then taken out: an exception in between finds it in both.
                if isinstance(fd, int) and (entry := self._watched.get(fd)) is not None:
                    self._ended.setdefault(entry[0], {})[entry[1]] = None
                    self._watched.pop(fd, None)
            now = clock.now()
            for owner in [owner for owner, when in list(self._deadlines.items()) if when <= now]:
                self._due[owner] = object()
                self._deadlines.pop(owner, None)

    def _handle(self, owners: list[Owner] | None) -> None:
        """Handle what has happened to some owners, or to all that no other thread handles."""
        for owner in [*self._ended, *self._due] if owners is None else owners:
            if owners is None and not self.is_current_thread():
                # It has made way for another thread, which does the rest.
                return
            with self._lock:
                if self._is_busy(owner):
                    continue
                self._handled_by[owner] = threading.current_thread()
            self._handle_one(owner)
            with self._lock:
                self._handled_by.pop(owner, None)
                self._wake_for_others()

    def _handle_one(self, owner: Owner) -> None:
        tokens = list(self._ended.get(owner, ()))
        if tokens:
            self._protected(owner, owner.on_exits, tokens)
            with self._lock:
                ended = self._ended.get(owner, {})
                for token in tokens:
                    ended.pop(token, None)
                if not ended:
                    self._ended.pop(owner, None)
        due = self._due.get(owner)
        if due is not None:
            self._protected(owner, owner.on_deadline)
            with self._lock:
                # Another time may have come since.
                if self._due.get(owner) is due:
                    self._due.pop(owner, None)

    def _wake_for_others(self) -> None:
        """Wake the thread that watches, if that is another one by now: it may have waited for this one."""
        if self._is_running() and not self.is_current_thread():
            self._wakeup.wake()

    def _wait(self, waited: list[Any], timeout: float | None) -> list[Any]:
        try:
            return readable(waited, timeout)
        except OSError:
            # A descriptor was closed between the list and the wait. Find out
            # which: it would make every later wait fail as well.
            with self._lock:
                for fd in [fd for fd in list(self._watched) if not _is_open(fd)]:
                    self._watched.pop(fd, None)
            return []

    def _protected(self, owner: Owner, method: Any, *args: Any) -> None:
        failed: BaseException | None = None
        for pause in PAUSES:
            try:
                method(*args)
                return
            except BaseException as error:
                failed = error
                clock.sleep(pause)
        assert failed is not None
        complain("poolwarden: internal error; the pool goes back to its own behaviour", failed)
        try:
            owner.on_failure(failed)
        except BaseException as error:
            complain("poolwarden: could not hand the pool back", error)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _can_start() -> bool:
    probe = threading.Thread(target=int, name="poolwarden-probe", daemon=True)
    try:
        threads.start(probe)
    except RuntimeError:
        return False
    # Gone before the host forks.
    probe.join()
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
        _instance._wakeup.close()
        # If a callback in its thread has forked, this is that thread: it ends.
        for table in (
            _instance._watched,
            _instance._deadlines,
            _instance._ended,
            _instance._due,
            _instance._handled_by,
        ):
            table.clear()
        _instance._lock = threading.RLock()
    _instance = None
    _instance_lock = threading.RLock()


def _before_fork() -> None:
    # Beside a third thread the fork is warned of in any case.
    if _instance is not None and threading.active_count() == 2:
        _instance.let_end()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_reset)
