"""No worker outlives its parent: the kernel sees to it.

Runs in the worker. On Linux the pipe that closes with the parent
(``multiprocessing.parent_process().sentinel``) is made to raise SIGKILL here
when it closes: no thread, no poll, and it works while a task holds the GIL.
``PR_SET_PDEATHSIG`` is no option: it fires when the *thread* that forked the
worker ends, and pools fork replacements from helper threads. Elsewhere a
thread waits for the pipe.

The workers of a pool that a task makes inside a worker are armed as well,
whatever their start method; processes that a task starts for other purposes
are left alone.
"""

from __future__ import annotations

import multiprocessing.process
import os
import select
import signal
import threading

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

# From Linux's <fcntl.h>; the fcntl module has no name for it.
_F_SETSIG: Final = 10

_POOL_MODULES: Final = ("multiprocessing.pool", "multiprocess.pool", "concurrent.futures.process")
_POOL_SUFFIX: Final = "loky.process_executor"

_armed = False
_bare_start: Callable[[Any], None] | None = None


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
    _follow_nested()


def _follow_nested() -> None:
    """Have the workers of pools that are made in this process armed as well."""
    global _bare_start
    if _bare_start is None:
        _bare_start = multiprocessing.process.BaseProcess.start
        multiprocessing.process.BaseProcess.start = _start  # type: ignore[method-assign,assignment]


def _start(process: Any) -> None:
    module = getattr(getattr(process, "_target", None), "__module__", None) or ""
    if module in _POOL_MODULES or module.endswith(_POOL_SUFFIX):
        process._target = _ArmedTarget(process._target)
    assert _bare_start is not None
    _bare_start(process)


class _ArmedTarget:
    """A worker's main function that arms the worker first, under every start method."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        global _armed
        _armed = False  # what a fork has copied is the parent's
        die_with_parent()
        return self._target(*args, **kwargs)


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
