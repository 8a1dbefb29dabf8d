"""Whose an exception is: of what was called, or of a signal handler that came between.

Handlers run in the main thread, between any two bytecodes, and what they raise
belongs to the code that they have interrupted: it has to come out where the
user called us, and is not what became of a task. Nothing of the user's runs in
the main thread under a guard, but for the handlers (`hosts.pool.submission`
has calls pickled there only if that runs no code of theirs), so a foreign frame
tells which it is.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

from .monkeypatching import why_patched

_Value = TypeVar("_Value")

_OURS: Final = frozenset({"poolwarden", "multiprocess"}) | sys.stdlib_module_names

#: Seconds for the thread of a step to begin; it takes well under a millisecond.
TAKE_BOUND: Final = 1.0
#: Not those that C code raises in itself.
_CRASHES: Final = ("SIGSEGV", "SIGFPE", "SIGILL", "SIGBUS", "SIGABRT")
_HELD_BACK: Final = signal.valid_signals() - {getattr(signal, name, 0) for name in _CRASHES}
#: The mask of the main thread, while signals are held back there.
_mask: set[Any] | None = None


class Condition(threading.Condition):
    """A condition whose lock is taken in one call of C code, and so always given back.

    ``with`` calls a method of the standard one that is Python: an exception that
    comes at its end leaves the lock taken, and the host's thread that wants to
    say that a task is done waits for it for ever, as in the bare host.
    """

    __enter__ = property(lambda self: self._lock.__enter__)
    __exit__ = property(lambda self: self._lock.__exit__)


def protect(condition: Any) -> None:
    """Make a condition of a host's such a one; any other kind is left alone."""
    if type(condition) is threading.Condition:
        condition.__class__ = Condition


def uninterrupted(step: Callable[[], _Value]) -> _Value:
    """Call `step` in a thread of its own, where no signal handler comes between; return or raise as it does.

    A handler that raises ends the wait for it, not the step. Outside of the main
    thread, where no handlers run, it is called as it is.
    """

    def run(take: Callable[[], None]) -> None:
        threading.Thread(target=take, name="poolwarden-step", daemon=True).start()

    return _beside(step, run)


def start_thread(thread: Any) -> None:
    """Start a thread; a handler that raises in the middle of ``Thread.start`` may have it die at once."""
    _beside(thread.start, lambda take: take())


def _beside(step: Callable[[], _Value], run: Callable[[Callable[[], None]], None]) -> _Value:
    """Have `run`, in another thread than the main one, call what does the step; wait for its answer."""
    if threading.get_ident() != threading.main_thread().ident or why_patched() is not None:
        # Under gevent and the like the other thread would not run while this one waits for it.
        return step()
    answer: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
    claim, mask = threading.Lock(), _mask

    def take() -> None:
        try:
            if claim.acquire(blocking=False):
                answer.put((True, step()))
        except BaseException as error:
            answer.put((False, error))

    def start() -> None:
        if mask is not None:
            # The new thread, and all that it starts, would hold signals back for ever.
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            run(take)
        except BaseException:
            # There is no room for it: then here.
            take()
        finally:
            with contextlib.suppress(AttributeError):
                # A tool that wraps ``Thread.start`` may have asked which thread this is: before Python 3.13
                # it would be counted as one for ever.
                threading._active.pop(threading.get_ident(), None)  # type: ignore[attr-defined]

    try:
        # In one call of C.
        _thread.start_new_thread(start, ())
    except RuntimeError:
        # There is no room, or the interpreter ends, and starts no more threads (3.12).
        return step()
    try:
        done: _Value = _value_of(*answer.get(timeout=TAKE_BOUND))
        return done
    except queue.Empty:
        # That thread has died at once, or is slow to begin: whoever claims the step does it.
        take()
    done = _value_of(*answer.get())
    return done


def _value_of(is_value: bool, value: Any) -> Any:
    if is_value:
        return value
    try:
        raise value
    finally:
        # Or the frame and the error keep each other until a collection.
        del value


def undisturbed(step: Callable[[], _Value]) -> _Value:
    """Call `step` in this thread, with its signals held back: a fork must not be done beside another thread.

    A signal comes through if a thread of the user's takes it.
    """
    global _mask
    if threading.get_ident() != threading.main_thread().ident or not hasattr(signal, "pthread_sigmask"):
        return step()
    before, outer = signal.pthread_sigmask(signal.SIG_BLOCK, ()), _mask
    try:
        # Nested: it is the outer one's.
        _mask = before if outer is None else outer
        signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
        return step()
    finally:
        _mask = outer
        # What came meanwhile is handled in this call.
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_child() -> None:
    global _mask
    mask, _mask = _mask, None
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def make_event() -> threading.Event:
    """Return an event that the user's threads may set and wait for."""
    event = threading.Event()
    protect(getattr(event, "_cond", None))
    return event


def is_interruption(error: BaseException) -> bool:
    """Return whether a signal handler raised this, in the middle of our own code."""
    if threading.current_thread() is not threading.main_thread():
        return False
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    return str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0] not in _OURS
