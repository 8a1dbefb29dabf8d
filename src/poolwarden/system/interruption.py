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
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

_Value = TypeVar("_Value")

_OURS: Final = frozenset({"poolwarden", "multiprocess"}) | sys.stdlib_module_names


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

    A handler that raises ends the wait for it, not the step.
    """
    answer: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def take() -> None:
        try:
            answer.put((True, step()))
        except BaseException as error:
            answer.put((False, error))

    def start() -> None:
        try:
            threading.Thread(target=take, name="poolwarden-step", daemon=True).start()
        except BaseException:
            # There is no room for it: then here.
            take()

    try:
        # In one call of C: a handler that raises in ``Thread.start`` spoils it.
        _thread.start_new_thread(start, ())
    except RuntimeError:
        # The interpreter ends, and starts no more threads (3.12).
        return step()
    ok, value = answer.get()
    if ok:
        done: _Value = value
        return done
    try:
        raise value
    finally:
        # Or the frame and the error keep each other until a collection.
        del value


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
