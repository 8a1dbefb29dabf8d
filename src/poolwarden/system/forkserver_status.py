"""The exit status that a fork server sends is read by one thread at a time.

Of two threads that ask at once, one reads the status and the other the end of
the pipe, which `multiprocessing` takes for the end of the fork server: it puts
255 over the status, and a worker that was killed seems to have left by itself
(83 of 200 deaths with three threads asking in a loop, 3.13). The host's threads
and ours do meet: whoever starts a process polls all others. Parent; any thread.
"""

from __future__ import annotations

import functools
import os
import threading
from multiprocessing.connection import wait
from typing import Any, Final

#: Missing on Windows, where nothing here is called.
_NOW: Final[int] = getattr(os, "WNOHANG", 1)
#: Re-entrant: a signal handler may ask, and the end of a pool that is collected, wherever a thread stands.
_lock = threading.RLock()


class _OneAtATime:
    """Goes before a ``Popen`` of the start method forkserver."""

    sentinel: int
    returncode: int | None

    def poll(self, flag: int = _NOW) -> Any:
        """Return the exit code, None if there is none yet; with 0 wait for it."""
        if flag != _NOW:
            # Others may ask meanwhile.
            wait([self.sentinel])
        with _lock:
            code = super().poll(_NOW)  # type: ignore[misc]
            if code is not None:
                # If this thread has asked in the middle of asking, it has the status from there.
                code = self.returncode = self.__dict__.setdefault("_poolwarden_code", code)
            return code


@functools.cache
def _class_for(cls: type) -> type:
    return type(cls.__name__, (_OneAtATime, cls), {"__module__": cls.__module__})


def poll_alone(process: Any) -> None:
    """Have a process object of `multiprocessing` or a copy read its exit status without a race."""
    popen: Any = getattr(process, "_popen", None)
    if getattr(popen, "method", "") == "forkserver" and not isinstance(popen, _OneAtATime):
        popen.__class__ = _class_for(popen.__class__)


def _in_forked_process() -> None:
    global _lock
    # A thread that does not exist here may have held it.
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_process)
