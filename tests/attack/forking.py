"""What the tests of forked tasks run in workers: imports little, since every spawned worker imports it."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from tests.contract.tasks import append_line

#: Exit statuses of the forked process, by the way in which it leaves the task.
STATUS = {"exits": 3, "returns": 0, "raises": 1, "daemonises": 0, "executes": 0, "leaves": 5}
#: Seconds after which a forked process counts as one that never ends.
CHILD_BOUND = 10.0


def leave(how: str) -> Any:
    """Leave a task, in the process that it has forked."""
    if how == "exits":
        sys.exit(3)
    elif how == "raises":
        raise ValueError("in the forked process")
    elif how == "executes":
        os.execv("/bin/true", ["true"])
    elif how == "leaves":
        os._exit(5)
    elif how == "daemonises":
        os.setsid()
        if os.fork():
            sys.exit(0)
    return "the forked process was here"


def status_of(pid: int) -> int | str:
    """Return the exit status of a child; kill one that does not end."""
    limit = time.monotonic() + CHILD_BOUND
    while time.monotonic() < limit:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "it never ended"


def fork(path: Any, how: str, x: Any = "") -> Any:
    """Fork; return the child's exit status to the parent, and what `leave` returns to the child."""
    append_line(f"{path}.ran", f"{os.getpid()} {x}")
    pid = os.fork()
    if pid == 0:
        append_line(f"{path}.children", str(os.getpid()))
        result = leave(how)
        append_line(f"{path}.children", str(os.getpid()))
        return result
    status = status_of(pid)
    append_line(f"{path}.status", f"{status}")
    return status


class Forks:
    """A task that forks and returns the square of its argument."""

    def __init__(self, path: Any, how: str, size: int = 0) -> None:
        self.path, self.how, self.size = str(path), how, size

    def __call__(self, x: int) -> Any:
        found = fork(self.path, self.how, x)
        if isinstance(found, str):
            return found
        return (x * x, b"x" * self.size) if self.size else x * x


class PickledFork:
    """Forks when it is pickled in a process other than the one that made the first of it."""

    def __init__(self, path: Any, how: str, size: int) -> None:
        self.path, self.how, self.size = str(path), how, size
        self.head = b"h" * size

    def __reduce__(self) -> Any:
        fork(self.path, self.how)
        return joined, (self.head, os.getpid())


def joined(head: bytes, pid: int) -> tuple[int, int]:
    return len(head), pid


class Carrier:
    """Returns an object that forks when it is pickled, between large parts of the result."""

    def __init__(self, path: Any, how: str, size: int) -> None:
        self.path, self.how, self.size = str(path), how, size

    def __call__(self, _: Any = None) -> Any:
        part = b"p" * self.size
        return os.getpid(), part, PickledFork(self.path, self.how, self.size), part + b"q"


class UnpickledFork:
    """Forks when it is unpickled."""

    def __init__(self, path: Any, how: str) -> None:
        self.path, self.how = str(path), how

    def __reduce__(self) -> Any:
        return fork, (self.path, self.how)


def measure(before: bytes, status: Any, after: bytes) -> Any:
    return len(before), status, len(after)


class ForksWhenFreed:
    """Forks when it is freed anywhere but at home."""

    def __init__(self, path: Any, how: str) -> None:
        self.path, self.how, self.home = str(path), how, os.getpid()

    def __del__(self) -> None:
        if os.getpid() != self.home and not self.path.endswith(".freed"):
            path, self.path = self.path, ".freed"
            fork(path, self.how)


def nothing(*_: Any) -> int:
    return 7


class InitializerForks:
    """An initializer that forks."""

    def __init__(self, path: Any, how: str) -> None:
        self.path, self.how = str(path), how

    def __call__(self) -> None:
        fork(self.path, self.how)


class ForksOnSignal:
    """An initializer after which SIGUSR1 makes the worker fork a process that goes on as it does."""

    def __init__(self, path: Any) -> None:
        self.path = str(path)

    def __call__(self) -> None:
        signal.signal(signal.SIGUSR1, self.handle)

    def handle(self, *_: Any) -> None:
        if os.fork() == 0:
            append_line(f"{self.path}.children", str(os.getpid()))


def start_process(path: str, status: int) -> Any:
    """Start a process of `multiprocessing` in a task, and return its exit code."""
    import multiprocessing

    process = multiprocessing.get_context("fork").Process(target=end_with, args=(path, status))
    process.start()
    process.join(CHILD_BOUND)
    return process.exitcode


def end_with(path: str, status: int) -> None:
    append_line(f"{path}.children", str(os.getpid()))
    sys.exit(status)


def fork_terminal(path: str) -> Any:
    """Fork with a terminal between, as `pty.spawn` does, and let the child return."""
    import pty

    pid, fd = pty.fork()
    if pid == 0:
        append_line(f"{path}.children", str(os.getpid()))
        return "child"
    status = status_of(pid)
    os.close(fd)
    return status


def fork_with_handlers(path: str) -> Any:
    """Fork a process that has exit handlers and unwritten output when it exits."""
    import atexit
    from multiprocessing import util

    atexit.register(append_line, path, "atexit")
    util.Finalize(None, append_line, (path, "finalizer"), exitpriority=1)
    pid = os.fork()
    if pid == 0:
        atexit.register(append_line, path, "atexit of the child")
        util.Finalize(None, append_line, (path, "finalizer of the child"), exitpriority=1)
        sys.stdout = open(f"{path}.out", "w")  # noqa: SIM115 - the exit is to flush it
        sys.stdout.write("unwritten")
        sys.exit(3)
    status = status_of(pid)
    atexit.unregister(append_line)
    return status
