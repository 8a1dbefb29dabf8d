"""A program on a system that lacks something: pools that are healthy, lose workers, and end.

Run as ``without.py WHAT:HOST METHOD LACKING…``. A spawned worker runs the first part as well, and so
lacks the same.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import Any


def _refusing_proc(call: Callable[..., Any]) -> Callable[..., Any]:
    def without_proc(path: Any, *args: Any, **kwargs: Any) -> Any:
        if str(path).startswith("/proc"):
            raise FileNotFoundError(path)
        return call(path, *args, **kwargs)

    return without_proc


def _no_proc() -> None:
    for owner, name in ((builtins, "open"), (os, "open"), (os, "stat"), (os, "listdir"), (os, "access")):
        setattr(owner, name, _refusing_proc(getattr(owner, name)))


def _no_fcntl() -> None:
    sys.modules["fcntl"] = None  # type: ignore[assignment]
    # Processes of this user that have it would take a folder without a lock for one of the dead.
    os.getuid = lambda: 54321


def _no(owner: Any, *names: str) -> Callable[[], None]:
    return lambda: [delattr(owner, name) for name in names if hasattr(owner, name)] and None


#: What a guard does without.
SPARED: dict[str, Callable[[], Any]] = {
    "pidfds": _no(os, "pidfd_open"),
    "waitid": _no(os, "waitid"),
    "proc": _no_proc,
    "async": _no(os, "O_ASYNC"),
    "fcntl": _no_fcntl,
    "realtime": _no(signal, "SIGRTMIN", "SIGRTMAX"),
}
#: What it needs.
NEEDED: dict[str, Callable[[], Any]] = {
    "poll": _no(select, "poll"),
    "PIPE_BUF": lambda: setattr(select, "PIPE_BUF", 512),
    "SIGSTOP": _no(signal, "SIGSTOP", "SIGCONT"),
}
#: What Windows has not, and may be asked for while a module is imported.
ABSENT: dict[str, Callable[[], Any]] = {
    "posix": _no(os, "register_at_fork", "getuid", "geteuid", "uname", "WNOHANG", "O_NONBLOCK", "O_CLOEXEC"),
    "signals": _no(signal, "SIGKILL", "SIGCHLD", "SIGBUS", "pidfd_send_signal", "pthread_sigmask"),
}


def lack(names: list[str]) -> None:
    import importlib

    # The standard library itself is that of Linux.
    for module in (
        "multiprocessing.pool",
        "multiprocessing.popen_spawn_posix",
        "multiprocessing.popen_forkserver",
        "concurrent.futures.process",
        "logging.handlers",
        "shutil",
        "loky",
        "joblib",
        "multiprocess.pool",
        "pytest",
    ):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    for name in names:
        {**SPARED, **NEEDED, **ABSENT}[name]()


if __name__ in ("__main__", "__mp_main__"):
    lack(sys.argv[3:])

import multiprocessing  # noqa: E402
import time  # noqa: E402
from concurrent.futures import ProcessPoolExecutor  # noqa: E402


def square(n: int) -> int:
    return n * n


def make(host: str, method: str) -> Any:
    context = multiprocessing.get_context(method)
    return context.Pool(2) if host == "Pool" else ProcessPoolExecutor(2, context)


def _call(pool: Any, func: Callable[..., Any], *args: Any) -> Any:
    if hasattr(pool, "submit"):
        return pool.submit(func, *args).result(20)
    return pool.apply_async(func, args).get(20)


def _pids(pool: Any) -> list[int]:
    return [process.pid for process in getattr(pool, "_pool", None) or list(pool._processes.values())]


def live(host: str, method: str) -> None:
    from poolwarden import TaskTimeoutError, WorkerLostError, guard
    from poolwarden.testing import hang, kill_self

    pool = guard(make(host, method), timeout=0.5)
    assert list(pool.map(square, range(20))) == [n * n for n in range(20)]
    try:
        _call(pool, kill_self())
    except WorkerLostError as error:
        print("lost", error.exit.signal)
    assert _call(pool, square, 3) == 9
    pids = _pids(pool)
    time.sleep(0.1)
    for pid in pids:
        # The first to die was replaced perhaps.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert list(pool.map(square, range(20))) == [n * n for n in range(20)]
    try:
        _call(pool, hang())
    except TaskTimeoutError:
        print("timed out")
    assert list(pool.map(square, range(20))) == [n * n for n in range(20)]
    started = time.monotonic()
    pool.terminate() if host == "Pool" else pool.shutdown()
    assert time.monotonic() - started < 3
    print("ended")


def wait(host: str, method: str) -> None:
    """Say who the workers are, and keep them busy."""
    from poolwarden import guard
    from poolwarden.testing import hang

    pool = guard(make(host, method))
    for _ in range(2):
        pool.apply_async(hang())
    time.sleep(0.2)
    print(*_pids(pool), flush=True)
    time.sleep(1000)


def refuse(host: str, method: str) -> None:
    """Try all ways in, and see that the pool is the bare one's after each."""
    from poolwarden import ConfigurationError, guard, install

    pool = make(host, method)
    before = set(vars(pool)), type(pool)
    for attempt in (lambda: guard(pool), install, lambda: guard(multiprocessing.Process(target=square))):
        try:
            attempt()
        except ConfigurationError as error:
            print("refused:", error)
    assert (set(vars(pool)), type(pool)) == before
    use(pool)
    use(make(host, method))


def use(pool: Any) -> None:
    """Use a pool as one that is bare."""
    with pool:
        print(type(pool).__name__, list(pool.map(square, range(4))), hasattr(pool, "_poolwarden"))


def start(host: str, method: str) -> None:
    """Use pools in a program that says nothing of a guard."""
    for _ in range(2):
        use(make(host, method))


def load(*_: str) -> None:
    """Import everything there is."""
    import importlib
    import pkgutil

    import poolwarden

    for module in pkgutil.walk_packages(poolwarden.__path__, "poolwarden."):
        if not module.name.endswith(("__main__", "sitecustomize", "pytest_guard")):
            importlib.import_module(module.name)
    print("imported")


def examine(*_: str) -> None:
    """Show what the doctor says."""
    from poolwarden.cli.doctor import run

    print("status", run(sys.stdout))


if __name__ == "__main__":
    what, _, host = sys.argv[1].partition(":")
    programs = (live, wait, refuse, start, load, examine)
    next(program for program in programs if program.__name__ == what)(host, sys.argv[2])
