"""No worker outlives its parent: the kernel sees to it.

Runs in the worker. On Linux the pipe that closes with the parent
(``multiprocessing.parent_process().sentinel``) is made to raise SIGKILL here
when it closes: no thread, no poll, and it works while a task holds the GIL.
``PR_SET_PDEATHSIG`` is no option: it fires when the *thread* that forked the
worker ends, and pools fork replacements from helper threads. Elsewhere a
thread waits for the pipe.

The workers of a pool that a task makes inside a worker are armed as well, as
far as they are forked; processes that a task starts for other purposes are
left alone.
"""

from __future__ import annotations

import multiprocessing.process
import os
import select
import signal
import threading
from multiprocessing import util

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

# Linux <fcntl.h>; Python has the name only from 3.? on, or not at all.
_F_SETSIG: Final = 10

_POOL_MODULES: Final = ("multiprocessing.pool", "multiprocess.pool", "concurrent.futures.process")
_POOL_SUFFIX: Final = "loky.process_executor"

_armed = False


class _Anchor:
    """Keeps the after-fork hook registered (it is held by a weak reference)."""


_anchor = _Anchor()


def die_with_parent() -> None:
    """Arrange for this process to be killed when its parent is gone; once."""
    global _armed
    if _armed:
        return
    parent = multiprocessing.process.parent_process()
    sentinel = getattr(parent, "sentinel", None)
    if sentinel is None:
        return
    _armed = True
    if fcntl is not None and hasattr(os, "O_ASYNC") and os.uname().sysname == "Linux":
        _arm_kernel(sentinel)
    else:
        threading.Thread(
            target=_wait_and_leave, args=(sentinel,), name="poolwarden-orphan", daemon=True
        ).start()
    util.register_after_fork(_anchor, _arm_nested)


def _arm_kernel(sentinel: int) -> None:
    fcntl.fcntl(sentinel, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(sentinel, fcntl.F_GETFL)
    fcntl.fcntl(sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)
    poll = select.poll()
    poll.register(sentinel, select.POLLIN)
    if poll.poll(0):
        # The parent went before the signal was armed.
        os.kill(os.getpid(), signal.SIGKILL)


def _wait_and_leave(sentinel: int) -> None:
    from multiprocessing.connection import wait

    wait([sentinel])
    os._exit(1)


def _arm_nested(anchor: object) -> None:
    """In what multiprocessing forks from here: arm it if it is a pool's worker."""
    global _armed
    _armed = False
    target = getattr(multiprocessing.process.current_process(), "_target", None)
    module = getattr(target, "__module__", "") or ""
    if module in _POOL_MODULES or module.endswith(_POOL_SUFFIX):
        die_with_parent()
