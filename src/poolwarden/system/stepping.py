"""Guarding, unguarding and installing: one at a time, and each in one piece.

To look whether a pool is guarded and to guard it has to be one step, or two
threads put two guards on one pool. So all of it happens under one lock of this
process. Nothing of the user's runs under it, and whoever waits for something
of the host's under it sets a bound.

The main thread has the step done by a thread of its own: Python runs signal
handlers in the main thread, between any two bytecodes, and one that raises, or
that guards a pool itself, would leave or meet half a guard. Parent; any thread.
"""

from __future__ import annotations

import _thread
import os
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

from .. import clock
from ..errors import ConfigurationError
from .monkeypatching import why_patched

_Value = TypeVar("_Value")

#: Seconds for a lock of the host's, inside of a step: a signal handler may have interrupted its holder.
HOST_BOUND: Final = 5.0
#: Seconds for a whole step, which takes milliseconds.
STEP_BOUND: Final = 15.0
#: Seconds for its threads to be gone behind it; they take some ten microseconds.
LEAVE_BOUND: Final = 0.02

_lock = threading.RLock()
_holder: int | None = None


def in_one_step(step: Callable[[], _Value]) -> _Value:
    """Call `step` while no other is going on, and return what it returns or raise what it raises.

    Raises
    ------
    ConfigurationError
        Others take too long: a signal handler may have interrupted what this one would need.
    """
    me = threading.get_ident()
    if me != threading.main_thread().ident or _holder == me or why_patched() is not None:
        # Under gevent and the like the thread would not run while this one waits for it.
        return _locked(step, None)
    turn = _Turn(step)
    before = _count_threads()
    try:
        turn.begin()
    except RuntimeError:
        # The interpreter ends, and starts no more threads (3.12).
        return _locked(step, None)
    if not turn.done.acquire(timeout=STEP_BOUND):
        turn.given_up = True
        raise _busy()
    _see_out(before)
    value: _Value = turn.result()
    return value


class _Turn:
    """One step, done in a thread of its own.

    Attributes
    ----------
    done : threading.Lock
        Released behind it.
    given_up : bool
        True once nobody waits for it: it is not to begin any more.
    """

    def __init__(self, step: Callable[[], Any]) -> None:
        self._step: Callable[[], Any] | None = step
        self._value: Any = None
        self._error: BaseException | None = None
        self.done = threading.Lock()
        self.done.acquire()
        self.given_up = False

    def begin(self) -> None:
        """Start the thread, in one call of C: a handler that raises in ``Thread.start`` spoils it."""
        _thread.start_new_thread(self._start, ())

    def _start(self) -> None:
        try:
            threading.Thread(target=self._take, name="poolwarden-guard", daemon=True).start()
        except BaseException as error:
            self._error = error
            self.done.release()

    def _take(self) -> None:
        step, self._step = self._step, None
        assert step is not None, "taken once"
        try:
            self._value = _locked(step, self)
        except BaseException as error:
            self._error = error
        finally:
            del step
            self.done.release()

    def result(self) -> Any:
        """Return what the step returned, or raise what it raised."""
        error, self._error = self._error, None
        if error is None:
            return self._value
        try:
            raise error
        finally:
            # Otherwise the frame and the error keep each other, and the pool, until a collection.
            del error


def _count_threads() -> int:
    """Return how many threads this process has, 0 where the system does not tell."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 0


def _see_out(before: int) -> None:
    """Wait until the step's threads are gone, `LEAVE_BOUND` at most: a fork beside one is warned of (3.12)"""
    deadline = clock.now() + LEAVE_BOUND
    while _count_threads() > before and clock.now() < deadline:
        clock.sleep(0.0001)


def _locked(step: Callable[[], _Value], turn: _Turn | None) -> _Value:
    global _holder
    lock = _lock
    if not lock.acquire(timeout=STEP_BOUND):
        raise _busy()
    before = _holder
    try:
        if turn is not None and turn.given_up:
            raise _busy()
        _holder = threading.get_ident()
        return step()
    finally:
        _holder = before
        lock.release()


def acquire(lock: Any, what: str) -> None:
    """Acquire a lock of the host's; see `HOST_BOUND`.

    Raises
    ------
    ConfigurationError
        It is not to be had.
    """
    if not lock.acquire(timeout=HOST_BOUND):
        raise ConfigurationError(
            f"{what} is in use and cannot be guarded now: a signal handler that guards it may have "
            "interrupted it. It is as it was."
        )


def _busy() -> ConfigurationError:
    return ConfigurationError("another pool is being guarded, and takes too long. This one is as it was.")


def _in_forked_process() -> None:
    global _lock, _holder
    # A thread that does not exist here may have held it.
    _lock = threading.RLock()
    _holder = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_process)
