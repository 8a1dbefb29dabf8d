"""Whose an exception is: of what was called, or of a signal handler that came between.

Handlers run in the main thread, between any two bytecodes, and what they raise
belongs to the code that they have interrupted: it has to come out where the
user called us, and is not what became of a task. Nothing of the user's runs in
the main thread under a guard, but for the handlers (`hosts.pool.submission`
has calls pickled there only if that runs no code of theirs), so a foreign frame
tells which it is.
"""

from __future__ import annotations

import sys
import threading
from typing import Any, Final

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
