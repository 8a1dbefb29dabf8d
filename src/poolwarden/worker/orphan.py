"""No worker outlives its parent: the kernel sees to it.

Runs in the worker. On Linux the pipe that closes with the parent
(``multiprocessing.parent_process().sentinel``) is made to raise SIGKILL here
when it closes: no thread, no poll, and it works while a task holds the GIL.
``PR_SET_PDEATHSIG`` is no option: it fires when the *thread* that forked the
worker ends, and pools fork replacements from helper threads. Elsewhere a
thread waits for the pipe. A host that starts its workers without such a pipe
(loky's own start method) hands them the `lifeline` of the parent.

The workers of a pool that a task makes inside a worker are armed as well,
whatever their start method; processes that a task starts for other purposes
are left alone.
"""

from __future__ import annotations

import importlib
import os
import select
import signal
import sys
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
F_SETSIG: Final = 10

_POOL_MODULES: Final = ("multiprocessing.pool", "multiprocess.pool", "concurrent.futures.process")
_POOL_SUFFIX: Final = "loky.process_executor"

#: Packages whose processes know their parent; the second is a copy of the first.
PACKAGES: Final = ("multiprocessing", "multiprocess")

_armed = False
_bare_starts: dict[Any, Callable[[Any], None]] = {}
# Both ends of the pipe that closes with this process.
_lifeline: tuple[Any, Any] | None = None
_parents_lifeline: Any = None
_making = threading.Lock()


def lifeline() -> Any:
    """Return the reading end of a pipe that closes with this process; any thread.

    To be handed to workers of a start method that leaves them without one. The
    same pipe for all, made at the first call; processes forked from this one
    do not keep it open.
    """
    global _lifeline
    with _making:
        if _lifeline is None:
            from multiprocessing.connection import Pipe

            _lifeline = Pipe(duplex=False)
        return _lifeline[0]


def lifeline_for(process_class: Any) -> Any:
    """Return the `lifeline` if workers of this class need it, else None."""
    return lifeline() if str(getattr(process_class, "_start_method", "")).startswith("loky") else None


def die_with_parent(line: Any = None) -> None:
    """Arrange for this process to be killed when its parent is gone; once.

    Parameters
    ----------
    line : multiprocessing.connection.Connection, optional
        The parent's `lifeline`. Without it, and without a sentinel of the
        parent, a thread waits for the parent's end: as long as a task holds the
        GIL it cannot act.
    """
    global _armed
    parent = importlib.import_module(f"{process_package()}.process").parent_process()
    if _armed or parent is None:
        return
    by_kernel = fcntl is not None and hasattr(os, "O_ASYNC") and sys.platform == "linux"
    sentinel = getattr(parent, "sentinel", None) if line is None else line.fileno()
    if sentinel is not None and line is not None and by_kernel:
        own = _own_end(sentinel)
        sentinel, by_kernel = (sentinel, False) if own is None else (own, True)
    if sentinel is None:
        sentinel, by_kernel = _handle_of_parent(), False
    if sentinel is None:
        return
    _armed = True
    if by_kernel:
        _arm_kernel(sentinel, sentinel if line is None else line.fileno())
    else:
        threading.Thread(
            target=_wait_and_leave, args=(sentinel,), name="poolwarden-orphan", daemon=True
        ).start()
    _follow_nested()


def process_package() -> str:
    """Return the package that has started this process: `multiprocessing`, or its copy."""
    parents = {
        package: parent
        for package in PACKAGES
        if (module := sys.modules.get(f"{package}.process")) and (parent := module.parent_process())
    }
    if len(parents) > 1:
        # One of them is what a fork has copied.
        parents = {name: parent for name, parent in parents.items() if parent.pid == os.getppid()}
    return next(iter(parents), PACKAGES[0])


def _own_end(fd: int) -> int | None:
    """Return a descriptor of the same pipe that is shared with no other process.

    All workers inherit one description of the lifeline, and whom a signal is
    sent to is a property of that.
    """
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, AttributeError):
        return None


def _handle_of_parent() -> int | None:
    """Return a descriptor that becomes readable when the parent has ended; None where there is none."""
    try:
        return os.pidfd_open(os.getppid())
    except (OSError, AttributeError):
        return None


def _follow_nested() -> None:
    """Have the workers of pools that are made in this process armed as well."""
    for package in PACKAGES:
        module: Any = sys.modules.get(f"{package}.process")
        if module is not None and module.BaseProcess not in _bare_starts:
            _bare_starts[module.BaseProcess] = module.BaseProcess.start
            module.BaseProcess.start = _start


def _start(process: Any) -> None:
    module = getattr(getattr(process, "_target", None), "__module__", None) or ""
    if module in _POOL_MODULES or module.endswith(_POOL_SUFFIX):
        process._target = _ArmedTarget(process._target, lifeline_for(type(process)))
    next(start for base, start in _bare_starts.items() if isinstance(process, base))(process)


class _ArmedTarget:
    """A worker's main function that arms the worker first, under every start method."""

    def __init__(self, target: Any, line: Any) -> None:
        self._target = target
        self._line = line

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        global _armed
        _armed = False  # what a fork has copied is the parent's
        die_with_parent(self._line)
        return self._target(*args, **kwargs)


def _arm_kernel(sentinel: int, inherited: int) -> None:
    fcntl.fcntl(sentinel, F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(sentinel, fcntl.F_GETFL)
    fcntl.fcntl(sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)
    # A descriptor that was opened after the last writer had gone tells nothing.
    if _has_closed(inherited):
        # The parent went before the signal was armed.
        os.kill(os.getpid(), signal.SIGKILL)


def _has_closed(fd: int) -> bool:
    if not hasattr(select, "poll"):
        # The user's code has taken it away here (eventlet does).
        return bool(select.select([fd], [], [], 0)[0])
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _wait_and_leave(sentinel: int) -> None:
    from multiprocessing.connection import wait

    wait([sentinel])
    os._exit(1)


def _cut() -> None:
    # In a forked process: its writing end would keep the parent's workers
    # alive. The other stays: older versions of loky fork with Python's own
    # fork before they execute a worker, which is to inherit it.
    global _lifeline, _parents_lifeline, _making
    _making = threading.Lock()
    if _lifeline is not None:
        _parents_lifeline, writer = _lifeline
        writer.close()
        _lifeline = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_cut)
