"""The errors a user of a guarded pool may catch.

Covers the classes, their attributes, and that they survive pickling. Does not
write their messages: `poolwarden.core.error_texts` does. May be imported and
raised in any process and thread; imports the standard library only, but
`concurrent.futures.process` with it, so a worker should import it late.

Each class that replaces an error of a host is also an instance of that host's
class, so ``except`` clauses written before poolwarden go on working.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import sys
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from .plaintext import shortened, visible

if TYPE_CHECKING:
    from .records import TaskInfo, WorkerExit

__all__ = [
    "ConfigurationError",
    "PayloadError",
    "PoolBrokenError",
    "PoolWardenError",
    "RemoteTraceback",
    "TaskExitError",
    "TaskTimeoutError",
    "WorkerLostError",
    "with_host_error",
]


class RemoteTraceback(Exception):  # noqa: N818 - it is a text, nobody catches it
    """A traceback that was printed in a worker; ``str()`` gives its text.

    Used as the ``__cause__`` of an error, so that the parent's traceback shows
    where in the worker it began. Traceback objects themselves do not pickle.
    """

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class PoolWardenError(Exception):
    """Base of everything poolwarden raises.

    Parameters
    ----------
    message : str
        The whole text: what and which task, how it died, how that is known,
        what to try.
    task : TaskInfo, optional
        The task that failed.
    exit : WorkerExit, optional
        How the worker that held it ended.
    stack : str, optional
        Python stack of the worker at its end (a crash or a timeout).
    may_have_run : bool
        Whether any code of the task may have run. False is a promise: it is
        safe to submit the task again.

    Attributes
    ----------
    task : TaskInfo or None
        Which task: ``task.function`` (its qualified name), ``task.index`` (of
        the item in a `map` or the like), ``task.site`` (the line that submitted
        it) and ``task.attempts``. None if no task was concerned, or none known.
    exit : WorkerExit or None
        How the worker ended: ``exit.pid``, ``exit.exitcode``, ``exit.signal``,
        ``exit.cause`` (``"oom"``, ``"signal"``, ...) and ``exit.evidence``.
        None if no worker ended.
    stack : str or None
        Where the task stood when its worker crashed or its time was over.
    may_have_run : bool
        Whether any code of the task may have run. False is a promise.

    Notes
    -----
    ``str(error)`` has a line each for what happened, how, how that is known,
    and what to try; ``repr(error)`` is one short line, for lists of results.

    Pickling and `copy.deepcopy` keep the message, every attribute (those added
    later and those of subclasses included) and a `RemoteTraceback` cause.
    """

    def __init__(
        self,
        message: str,
        *,
        task: TaskInfo | None = None,
        exit: WorkerExit | None = None,
        stack: str | None = None,
        may_have_run: bool = False,
    ) -> None:
        super().__init__(message)
        self.task = task
        self.exit = exit
        self.stack = stack
        self.may_have_run = may_have_run

    def __repr__(self) -> str:
        task, exit = self.task, self.exit
        if task is None:
            what = str(self.args[0] if self.args else "").partition("\n")[0]
        else:
            what = task.function if task.index is None else f"item {task.index} of {task.function}"
        # A worker that the guard killed has ended for the reason that the error's class says.
        if exit is not None and exit.cause != "killed_by_guard":
            what += f": {exit.signal or f'exit code {exit.exitcode}'}"
            what += ", out of memory" if exit.cause == "oom" else ""
        return f"{type(self).__name__}({visible(shortened(what))})"

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would call the class with `args` alone: subclasses that ask for more could not be
        # rebuilt, and a class made by `with_host_error` cannot be found by its name.
        plain, hosts = _taken_apart(type(self))
        names = tuple((host.__module__, host.__qualname__) for host in hosts)
        cause = self.__cause__ if isinstance(self.__cause__, RemoteTraceback) else None
        return _unpickle, (plain, names, self.args, self.__dict__, cause)


class WorkerLostError(PoolWardenError, BrokenProcessPool):
    """The worker died while it held this task. Other tasks are not affected."""


if sys.version_info >= (3, 11):

    class _HostTimeoutError(TimeoutError, multiprocessing.TimeoutError):
        """What the hosts raise when time runs out."""

else:

    class _HostTimeoutError(TimeoutError, multiprocessing.TimeoutError, concurrent.futures.TimeoutError):
        """What the hosts raise when time runs out; one class more than later."""


class TaskTimeoutError(PoolWardenError, _HostTimeoutError):
    """The task ran longer than its timeout and was stopped."""


class TaskExitError(PoolWardenError):
    """The task raised `SystemExit` or another non-`Exception`; no worker died."""


class PayloadError(PoolWardenError):
    """A call, result or exception could not be unpickled on the other side.

    Parameters
    ----------
    message, **attributes
        As for `PoolWardenError`.
    direction : {"call", "result"}
        ``"call"``: function or arguments, in the worker. ``"result"``: result
        or exception of the task, in the parent.
    """

    def __init__(
        self, message: str, *, direction: Literal["call", "result"] = "call", **attributes: Any
    ) -> None:
        super().__init__(message, **attributes)
        self.direction = direction


class PoolBrokenError(PoolWardenError, BrokenProcessPool):
    """The pool cannot go on; every unfinished task gets one of these."""


class ConfigurationError(PoolWardenError, ValueError):
    """An option has a value that poolwarden cannot use."""


def with_host_error(error: PoolWardenError, host_error: type[BaseException]) -> PoolWardenError:
    """Return `error` as an instance of `host_error` too, for old ``except``s.

    Parameters
    ----------
    error : PoolWardenError
        Not changed.
    host_error : type
        What the host raises in such a case, from the copy of the host that the
        user imported (loky exists alone and inside joblib).

    Returns
    -------
    PoolWardenError
        `error` itself if it is such an instance already, or if the two classes
        cannot be combined; else an equal error of a class that looks like
        ``type(error)`` and inherits both. In a process where `host_error`
        cannot be imported it unpickles as the plain error.
    """
    if isinstance(error, host_error):
        return error
    plain, hosts = _taken_apart(type(error))
    combined = _combined(plain, (*hosts, host_error))
    if combined is plain:
        return error
    copy = _rebuild(combined, error.args, error.__dict__)
    copy.__cause__ = error.__cause__
    copy.__context__ = error.__context__
    copy.__suppress_context__ = error.__suppress_context__
    return copy.with_traceback(error.__traceback__)


_classes: dict[tuple[type, ...], type[PoolWardenError]] = {}
_parts: dict[type, tuple[type[PoolWardenError], tuple[type[BaseException], ...]]] = {}


def _taken_apart(
    cls: type[PoolWardenError],
) -> tuple[type[PoolWardenError], tuple[type[BaseException], ...]]:
    """Return the class and the hosts' classes that `_combined` made `cls` of."""
    return _parts.get(cls, (cls, ()))


def _combined(plain: type[PoolWardenError], hosts: tuple[type[BaseException], ...]) -> type[PoolWardenError]:
    """Return the one subclass of `plain` and `hosts`, or `plain` if none can be."""
    if not hosts:
        return plain
    key = (plain, *hosts)
    if key not in _classes:
        names = {name: getattr(plain, name) for name in ("__module__", "__qualname__", "__doc__")}
        try:
            made = type(plain.__name__, (plain, *hosts), names)
        except TypeError:  # conflicting layouts or method resolution orders
            made = plain
        else:
            _parts[made] = plain, hosts
        _classes.setdefault(key, made)
    return _classes[key]


def _rebuild(cls: type[PoolWardenError], args: tuple[Any, ...], state: dict[str, Any]) -> PoolWardenError:
    """Return an error with this state, without calling anybody's ``__init__``."""
    error = cls.__new__(cls, *args)
    error.args = args  # `OSError.__new__`, below TaskTimeoutError, leaves them empty
    error.__dict__.update(state)
    return error


def _unpickle(
    plain: type[PoolWardenError],
    hosts: tuple[tuple[str, str], ...],
    args: tuple[Any, ...],
    state: dict[str, Any],
    cause: RemoteTraceback | None,
) -> PoolWardenError:
    """Return the error that `PoolWardenError.__reduce__` took apart."""
    found = tuple(host for host in map(_find, hosts) if host is not None)
    error = _rebuild(_combined(plain, found), args, state)
    if cause is not None:
        error.__cause__ = cause
    return error


def _find(name: tuple[str, str]) -> type[BaseException] | None:
    """Return the exception class of this module and qualified name, or None."""
    module, qualname = name
    try:
        found: Any = import_module(module)
        for part in qualname.split("."):
            found = getattr(found, part)
    except Exception:  # the host is not installed here, or a broken module
        return None
    return found if isinstance(found, type) and issubclass(found, BaseException) else None
