"""What the contract's tests run in workers.

Imports only the standard library, and little of it, since every spawned worker
imports this. Anything bad comes from `poolwarden.testing`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any


def square(x: int) -> int:
    return x * x


def add(x: int, y: int) -> int:
    return x + y


def pid_of_worker(*_: Any) -> int:
    return os.getpid()


def same(x: Any) -> Any:
    return x


def size_of(data: bytes) -> int:
    return len(data)


def payload(size: int) -> bytes:
    return b"p" * size


def take(seconds: float) -> float:
    """Take that long and return it: work, not a wait for something."""
    time.sleep(seconds)
    return seconds


class NeverFlushes:
    """A stream as a fork leaves it that comes while another thread writes: its lock is taken for ever."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()


def never_leave() -> int:
    """Have this worker stand still in its exit, where it flushes its streams."""
    sys.stdout = NeverFlushes()
    return os.getpid()


def append_line(path: str, line: str) -> None:
    """Append one line in one write, so that several processes can share the file."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(fd, f"{line}\n".encode())
    finally:
        os.close(fd)


class Noted:
    """Calls a function after noting ``pid argument`` in a file.

    The notes tell a test that a task runs, in which worker, and, afterwards,
    how often each item ran.
    """

    def __init__(self, path: Any, func: Callable[..., Any]) -> None:
        self.path = str(path)
        self.func = func

    def __call__(self, *args: Any) -> Any:
        append_line(self.path, f"{os.getpid()} {args[0] if args else ''}")
        return self.func(*args)


class Both:
    """Calls one function, then another; the second's result counts."""

    def __init__(self, one: Callable[..., Any], other: Callable[..., Any]) -> None:
        self.one = one
        self.other = other

    def __call__(self, *args: Any) -> Any:
        self.one(*args)
        return self.other(*args)


def no_dump(*_: Any) -> None:
    """Keep a crash to come from writing to the terminal: a forked process has pytest's fault handler."""
    import faulthandler

    faulthandler.disable()


class Returning:
    """Returns an object made in the worker by a call."""

    def __init__(self, make: Callable[..., Any], *args: Any) -> None:
        self.make = make
        self.args = args

    def __call__(self, *_: Any) -> Any:
        return self.make(*self.args)


class HeldUntil:
    """Returns its argument once a file exists; gives up after a minute."""

    def __init__(self, path: Any) -> None:
        self.path = str(path)

    def __call__(self, x: Any = None) -> Any:
        for _ in range(6000):
            if os.path.exists(self.path):
                return x
            time.sleep(0.01)
        raise TimeoutError(self.path)


def catch_timeout(path: str, fault: Callable[[], Any]) -> None:
    """Run something endless, note the soft timeout, and let it go on its way."""
    from poolwarden import TaskTimeoutError

    try:
        fault()
    except TaskTimeoutError:
        append_line(path, "cleaned up")
        raise


def shrug_off(fault: Callable[[], Any]) -> None:
    """Run something endless, again each time it is interrupted."""
    while True:
        try:
            fault()
        except Exception:
            continue


def start_and_die(path: str, start: Callable[[], int]) -> None:
    """Start a process, note its pid, and die by SIGKILL."""
    append_line(path, str(start()))
    os.kill(os.getpid(), signal.SIGKILL)


def forked_sleeper() -> int:
    """Fork a process that holds every inherited descriptor for a minute."""
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    return pid


def executed_sleeper() -> int:
    """Start a program that holds every inherited descriptor for a minute."""
    import subprocess

    # Inheritable on purpose: some programs do not close what they do not know.
    for fd in os.listdir("/proc/self/fd"):
        try:
            os.set_inheritable(int(fd), True)
        except OSError:
            continue
    return subprocess.Popen(["sleep", "60"], close_fds=False).pid


def start_inner_pool(binding: Callable[[], Any], path: str, guarded: bool, what: str) -> Any:
    """Make a pool inside a worker, note the worker's pid and its workers', and do as told.

    `what`: leave the inner pool "idle" or "busy" with Python loops or "stuck" in
    C with the GIL held, and wait; or use it and return ("ends").
    """
    from poolwarden.testing import hang, hold_gil
    from tests.contract.waiting import lines_of

    host = binding()
    pool = host.make_pool(2) if guarded else host.make_bare(2)
    nine = host.result(host.submit(pool, square, 3))
    fault = {"busy": hang(), "stuck": hold_gil()}.get(what)
    if fault is not None:
        for _ in range(2):
            host.submit(pool, Noted(f"{path}.busy", fault))
        while len(lines_of(f"{path}.busy")) < 2:
            time.sleep(0.01)
    if what == "ends":
        host.close(pool)
        return nine
    for pid in [os.getpid(), *host.worker_pids(pool)]:
        append_line(path, str(pid))
    return HeldUntil(f"{path}.never")()


class FailsOnceThere:
    """An initializer that raises from the moment a file exists."""

    def __init__(self, path: Any) -> None:
        self.path = str(path)

    def __call__(self) -> None:
        if os.path.exists(self.path):
            raise RuntimeError("no longer")


class EndsItsWorkerWhenFreed:
    """Does no harm in the process that made it."""

    def __init__(self) -> None:
        self.home = os.getpid()

    def __del__(self) -> None:
        if os.getpid() != self.home:
            os._exit(3)


class Unusual(BaseException):
    """Not an `Exception`: what a host's worker does not catch."""


class TwoArgumentsError(Exception):
    """An exception as many people write it: its ``args`` do not fit its ``__init__``."""

    def __init__(self, name: str, value: int) -> None:
        super().__init__(f"{name} is {value}")


def raise_two_arguments(*_: Any) -> None:
    raise TwoArgumentsError("answer", 42)


def raise_value_error(*_: Any) -> None:
    raise ValueError("as any function may")


class Unrepresentable:
    """Cannot be pickled, and cannot be shown either."""

    def __reduce__(self) -> Any:
        raise TypeError("not this one")

    def __repr__(self) -> str:
        raise RuntimeError("nor shown")


def lambda_result(*_: Any) -> Any:
    return lambda: None


def raise_unpicklable(*_: Any) -> None:
    raise ValueError(lambda: None)
