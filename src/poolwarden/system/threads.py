"""Starts our own threads without a wait that has no bound.

`Thread.start` waits until the new thread says that it has begun, and a thread that
ends with its first step never says so. What a tool raises in the thread that starts
it can land there: before Python 3.12 the new thread has, for a moment, the ident of
the one that starts it (source: ``new_threadstate`` in ``Python/pystate.c``). Nor is it
started in the main thread, where a signal handler that raises would spoil the start.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any, Final

from .interruption import protect, start_thread

#: Seconds for a thread to begin, twice. It takes well under a millisecond, but for a machine that has no time
#: for this process; and one that was stopped meanwhile finds the first of them over when it goes on.
BEGIN_BOUND: Final = 5.0


class _Begun(threading.Event):
    """Set by a thread that has begun."""

    def __init__(self) -> None:
        super().__init__()
        protect(self._cond)  # type: ignore[attr-defined]

    def wait(self, timeout: float | None = None) -> bool:
        if timeout is not None:
            return super().wait(timeout)
        return super().wait(BEGIN_BOUND) or super().wait(BEGIN_BOUND)


def start(thread: threading.Thread) -> None:
    """Start a thread.

    Raises
    ------
    RuntimeError
        There is no room for it, the interpreter ends and starts no more (Python 3.12),
        or it did not begin within twice `BEGIN_BOUND` seconds.
    """
    unsafe: Any = thread
    unsafe._started = _Begun()
    start_thread(thread)
    if thread.ident is None:
        with contextlib.suppress(AttributeError):
            # If it stayed here, it would be counted as a thread for ever.
            threading._limbo.pop(thread, None)  # type: ignore[attr-defined]
        raise RuntimeError(f"{thread.name} did not begin")
