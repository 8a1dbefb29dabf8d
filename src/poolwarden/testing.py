"""Faults for tests: what can go wrong with a worker, as picklable callables.

Give one to any pool in place of a function and see how your program takes it::

    from poolwarden.testing import die, hang, only_for

    guard(pool).map(only_for("bad.csv", die(3), read_file), names)

`die`, `kill_self`, `segfault`, `abort`, `fail`, `hang`, `spin`, `block_in_c`,
`hold_gil` and `fill_memory` return a `Fault`: a callable that takes any
arguments, ignores them, and does what its name says **when it is called**.
`once`, `first`, `only_for`, `deaf` and `after` say when a fault strikes;
`on_pickle` and `on_unpickle` make objects that strike while they travel.

Faults are real: `segfault` is one, `kill_self` kills the process that calls it.
Call them in worker processes only. Nothing of the rest of poolwarden is needed
or imported. Made for Linux and macOS, tried out on Linux.

One long module, since it is imported by its name: what users call comes first,
what their workers run below it.
"""

from __future__ import annotations

import os
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike
    from typing import Any, NoReturn, TypeAlias

    Path: TypeAlias = str | PathLike[str]

__all__ = [
    "Fault",
    "abort",
    "after",
    "block_in_c",
    "deaf",
    "die",
    "fail",
    "fill_memory",
    "first",
    "hang",
    "hold_gil",
    "kill_self",
    "on_pickle",
    "on_unpickle",
    "once",
    "only_for",
    "segfault",
    "spin",
]


class Fault:
    """A callable that does something bad, whatever it is called with.

    Pickles by the name of its action and the values of its arguments, so it
    works under every start method. Its name, as shown in errors, is the call
    that made it: ``die(3)``.

    Parameters
    ----------
    action : callable
        A module-level function of this module, called as
        ``action(*settings, args)`` with the arguments of the fault's own call.
    *settings
        Its first arguments; all of them have to pickle.
    """

    def __init__(self, action: Callable[..., Any], *settings: Any) -> None:
        self._action = action
        self._settings = settings
        shown = ", ".join(getattr(value, "__qualname__", None) or repr(value) for value in settings)
        self.__name__ = self.__qualname__ = f"{action.__name__.lstrip('_')}({shown})"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._action(*self._settings, args)

    def __reduce__(self) -> tuple[type[Fault], tuple[Any, ...]]:
        return Fault, (self._action, *self._settings)

    def __repr__(self) -> str:
        return self.__qualname__


# -- ends of a worker ------------------------------------------------------------------------------


def die(code: int = 1) -> Fault:
    """Return a fault that ends the process with `os._exit(code)`; 0 is lost too."""
    return Fault(_die, code)


def kill_self(sig: int | None = None) -> Fault:
    """Return a fault that sends `sig` to its own process; SIGKILL if not given.

    A signal that does not end the process (SIGSTOP and a later SIGCONT, one
    that is ignored) lets the fault return None.
    """
    return Fault(_kill_self, int(signal.SIGKILL if sig is None else sig))


def segfault() -> Fault:
    """Return a fault that reads address 0 in C, as a broken extension would."""
    return Fault(_segfault)


def abort() -> Fault:
    """Return a fault that ends the process with `os.abort` (SIGABRT)."""
    return Fault(_abort)


def fill_memory(limit: int) -> Fault:
    """Return a fault that takes memory until the kernel kills the process.

    Parameters
    ----------
    limit : int
        Bytes after which it gives up and raises `MemoryError`, so that a
        missing limit on the process does not cost the machine its memory.
    """
    return Fault(_fill_memory, limit)


def fail(error: BaseException) -> Fault:
    """Return a fault that raises `error`; any `BaseException` that pickles."""
    return Fault(_fail, error)


# -- tasks that never end --------------------------------------------------------------------------


def hang() -> Fault:
    """Return a fault that sleeps for ever; a signal handler can interrupt it."""
    return Fault(_hang)


def spin() -> Fault:
    """Return a fault that runs an endless loop in Python and burns one core."""
    return Fault(_spin)


def block_in_c() -> Fault:
    """Return a fault that waits for ever in C with the GIL released."""
    return Fault(_block_in_c)


def hold_gil() -> Fault:
    """Return a fault that loops for ever in C with the GIL held.

    No Python code runs in that process any more: no thread, no signal handler.
    Burns one core.
    """
    return Fault(_hold_gil)


# -- when a fault strikes --------------------------------------------------------------------------


def first(times: int, path: Path, fault: Callable[..., Any], then: Callable[..., Any] | None = None) -> Fault:
    """Return a fault that strikes the first `times` times it is called, anywhere.

    Parameters
    ----------
    times : int
        How many calls strike, counted over all processes.
    path : path
        A file that counts the calls, one byte each. Made when missing; its
        size is the number of calls so far.
    fault : callable
        What happens in the first calls.
    then : callable, optional
        Called with the arguments in every later call, its result is returned;
        None: None is returned.
    """
    return Fault(_first, times, os.fspath(path), fault, then)


def once(path: Path, fault: Callable[..., Any], then: Callable[..., Any] | None = None) -> Fault:
    """Return a fault that strikes in the first call only; see `first`."""
    return first(1, path, fault, then)


def only_for(value: Any, fault: Callable[..., Any], then: Callable[..., Any] | None = None) -> Fault:
    """Return a fault that strikes when its first argument equals `value`.

    Every other call is one of `then`, or returns None.
    """
    return Fault(_only_for, value, fault, then)


def after(seconds: float, fault: Callable[..., Any]) -> Fault:
    """Return a fault that strikes `seconds` after the start of its call."""
    return Fault(_after, seconds, fault)


def deaf(fault: Callable[..., Any]) -> Fault:
    """Return a fault that first ignores SIGTERM and SIGINT and blocks all signals.

    Only SIGKILL and SIGSTOP still reach the process then.
    """
    return Fault(_deaf, fault)


class _Hook:
    """An object that runs something when it is pickled and when it is unpickled."""

    def __init__(self, going: Callable[[], Any] | None, coming: Callable[[], Any] | None, value: Any) -> None:
        self._hooks = going, coming
        self.value = value

    def __reduce__(self) -> tuple[Callable[..., _Hook], tuple[Any, ...]]:
        going, coming = self._hooks
        if going is not None:
            going()
        return _arrive, (coming, self.value)


def on_pickle(fault: Callable[[], Any], value: Any = None) -> Any:
    """Return an object that runs `fault` when it is pickled.

    As a result of a task: in the worker, after the task's code. `fault` itself
    does not travel. The copy that arrives is harmless; its ``.value`` is `value`.
    """
    return _Hook(fault, None, value)


def on_unpickle(fault: Callable[[], Any], value: Any = None) -> Any:
    """Return an object that runs `fault` when it is unpickled.

    As an argument: in the worker, before the task's code. As a result: **in
    the parent**, so only a fault that raises makes sense there.
    """
    return _Hook(None, fault, value)


# -- what the worker does --------------------------------------------------------------------------
# Module-level functions, so that they pickle by name; their names, without the underscore, are what a
# stack dump or an error shows.


def _die(code: int, args: tuple[Any, ...]) -> NoReturn:
    os._exit(code)


def _kill_self(sig: int, args: tuple[Any, ...]) -> None:
    os.kill(os.getpid(), sig)


def _segfault(args: tuple[Any, ...]) -> NoReturn:
    import ctypes

    ctypes.string_at(0)
    raise RuntimeError("reading address 0 did not end the process")


def _abort(args: tuple[Any, ...]) -> NoReturn:
    os.abort()


def _fill_memory(limit: int, args: tuple[Any, ...]) -> NoReturn:
    step = 1 << 20
    taken = [bytearray(b"x") * step for _ in range(limit // step)]  # not zeros: pages have to be real
    raise MemoryError(f"{len(taken)} MiB taken and still running")


def _fail(error: BaseException, args: tuple[Any, ...]) -> NoReturn:
    raise error


def _hang(args: tuple[Any, ...]) -> NoReturn:
    while True:
        time.sleep(3600)


def _spin(args: tuple[Any, ...]) -> NoReturn:
    while True:
        pass


def _block_in_c(args: tuple[Any, ...]) -> bytes:
    reader, _writer = os.pipe()
    return os.read(reader, 1)


def _hold_gil(args: tuple[Any, ...]) -> None:
    from collections import deque
    from itertools import repeat

    # One C loop over a C iterator: it never looks at the evaluation loop's requests. Neither `sum` nor `max`
    # would do, they compare or add Python objects.
    deque(repeat(None), maxlen=0)


def _first(
    times: int,
    path: str,
    fault: Callable[..., Any],
    then: Callable[..., Any] | None,
    args: tuple[Any, ...],
) -> Any:
    # With O_APPEND the position after the write is the end of this very write: its number, without a lock.
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(fd, b".")
        number = os.lseek(fd, 0, os.SEEK_CUR)
    finally:
        os.close(fd)
    return _either(number <= times, fault, then, args)


def _only_for(
    value: Any, fault: Callable[..., Any], then: Callable[..., Any] | None, args: tuple[Any, ...]
) -> Any:
    return _either(bool(args) and bool(args[0] == value), fault, then, args)


def _after(seconds: float, fault: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    time.sleep(seconds)
    return fault(*args)


def _deaf(fault: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    return fault(*args)


def _either(
    strikes: bool, fault: Callable[..., Any], then: Callable[..., Any] | None, args: tuple[Any, ...]
) -> Any:
    if strikes:
        return fault(*args)
    return None if then is None else then(*args)


def _arrive(coming: Callable[[], Any] | None, value: Any) -> _Hook:
    if coming is not None:
        coming()
    return _Hook(None, None, value)
