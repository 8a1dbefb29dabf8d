"""Builds the errors that users read.

Covers the words: line 1 says what happened to which task, line 2 how the
worker ended, line 3 how that is known, line 4 what to try. Does not find
anything out and raises nothing. Pure; the parent process, any thread.

Arguments and results of tasks never appear, since they may hold secrets.
Texts printed in the worker (a traceback, a stack) become the ``__cause__``,
which Python shows above the error; `PoolWardenError` pickles that cause.
"""

from __future__ import annotations

from typing import Final, Literal, TypeVar

from ..errors import (
    PayloadError,
    PoolBrokenError,
    PoolWardenError,
    RemoteTraceback,
    TaskExitError,
    TaskTimeoutError,
    WorkerLostError,
)
from ..records import TaskInfo, WorkerExit
from .exitstatus import describe

__all__ = ["payload", "pool_broken", "task_exit", "task_timeout", "worker_lost"]

_Error = TypeVar("_Error", bound=PoolWardenError)

_CRASHES: Final = ("SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT")


def worker_lost(task: TaskInfo | None, exit: WorkerExit, stack: str | None = None) -> WorkerLostError:
    """Return the error for a task whose worker died.

    Parameters
    ----------
    task : TaskInfo or None
        The task; ``attempts == 0`` means that it never started.
    exit : WorkerExit
        How the worker ended.
    stack : str, optional
        Python stack of the worker as faulthandler wrote it.
    """
    held = "running" if _may_have_run(task) else "about to run"
    lines = (
        f"The worker {held} {task_name(task)} died.",
        _how(exit),
        _evidence(exit, stack),
        f"Try: {_advice(exit, stack)} {_retry_advice(task)}",
    )
    error = WorkerLostError(
        "\n".join(lines), task=task, exit=exit, stack=stack, may_have_run=_may_have_run(task)
    )
    return _caused_by(error, stack)


def task_timeout(
    task: TaskInfo | None, exit: WorkerExit | None, timeout: float, stack: str | None, soft: bool
) -> TaskTimeoutError:
    """Return the error for a task that outran its timeout.

    Parameters
    ----------
    task : TaskInfo or None
        The task.
    exit : WorkerExit or None
        How the worker ended; None if it lives or is not known to have ended.
    timeout : float
        The limit, in seconds.
    stack : str or None
        Where the task was when its time was over.
    soft : bool
        True if raising inside the task was enough, False if the worker was
        killed.
    """
    how = "The error was raised inside the task; its worker lives."
    if not soft:
        how = _how(exit) if exit else "Its worker was killed."
    look = "see .stack for what it was doing, " if stack else ""
    lines = (
        f"{_capital(task_name(task))} ran longer than its timeout of {timeout:g} s and was stopped.",
        how,
        _evidence(exit, stack),
        f"Try: {look}raise timeout, or give this function one of its own with limits(func, timeout=...).",
    )
    error = TaskTimeoutError("\n".join(lines), task=task, exit=exit, stack=stack, may_have_run=True)
    return _caused_by(error, stack)


def task_exit(task: TaskInfo | None, description: str, traceback_text: str | None) -> TaskExitError:
    """Return the error for a task that raised something not an `Exception`.

    Parameters
    ----------
    task : TaskInfo or None
        The task.
    description : str
        What it raised, as ``"SystemExit"``; shown as it is.
    traceback_text : str or None
        The traceback as printed in the worker.
    """
    lines = (
        f"{_capital(task_name(task))} raised {description}.",
        "Its worker lives: only the task was ended.",
        _traceback_evidence(traceback_text),
        "Try: return, or raise an ordinary exception; sys.exit() in a task does not end the program.",
    )
    return _caused_by(TaskExitError("\n".join(lines), task=task, may_have_run=True), traceback_text)


def payload(
    task: TaskInfo | None,
    direction: Literal["call", "result"],
    original_type: str | None,
    traceback_text: str | None,
) -> PayloadError:
    """Return the error for bytes that could not be unpickled.

    Parameters
    ----------
    task : TaskInfo or None
        The task.
    direction : {"call", "result"}
        ``"call"``: function or arguments, in the worker, so the function was
        not called. ``"result"``: its result or exception, in the parent.
    original_type : str or None
        For a call, the type of what unpickling raised; for a result, the type
        of the task's own result or exception.
    traceback_text : str or None
        The traceback as printed in the worker.
    """
    if direction == "call":
        lines = (
            f"The call of {task_name(task)} could not be unpickled in the worker.",
            f"Unpickling raised {original_type or 'an exception'}; the function was not called.",
            _traceback_evidence(traceback_text),
            "Try: define the function and the classes of its arguments in a module that workers can import.",
        )
    else:
        lines = (
            f"The outcome of {task_name(task)} could not be unpickled in the parent.",
            f"The task ended; its outcome was of type {original_type or 'unknown'}.",
            _traceback_evidence(traceback_text),
            "Try: an exception class with its own __init__ must pass all arguments to super().__init__().",
        )
    error = PayloadError("\n".join(lines), direction=direction, task=task, may_have_run=direction == "result")
    return _caused_by(error, traceback_text)


def pool_broken(
    reason: str,
    exit: WorkerExit | None = None,
    traceback_text: str | None = None,
    *,
    task: TaskInfo | None = None,
) -> PoolBrokenError:
    """Return the error for a pool that cannot go on; one for each task.

    Parameters
    ----------
    reason : str
        Why, as the end of a sentence: "its initializer raised ValueError".
    exit : WorkerExit, optional
        How the last worker ended.
    traceback_text : str, optional
        The traceback as printed in the worker.
    task : TaskInfo, optional
        The unfinished task; without it `may_have_run` is True, as nothing is
        known.
    """
    lines = [f"The pool cannot go on: {reason.rstrip('.')}."]
    if task is not None:
        lines[0] += f" Not finished: {task_name(task)}."
    if exit is not None:
        lines += [_how(exit), _evidence(exit, None)]
    if traceback_text:
        lines.append(_traceback_evidence(traceback_text))
    lines.append("Try: remove the reason, then make a new pool.")
    error = PoolBrokenError("\n".join(lines), task=task, exit=exit, may_have_run=_may_have_run(task))
    return _caused_by(error, traceback_text)


def _may_have_run(task: TaskInfo | None) -> bool:
    """Return False only if it is certain that the task never started."""
    return task is None or task.attempts > 0


def task_name(task: TaskInfo | None) -> str:
    """Return the task in words, without its arguments."""
    if task is None:
        return "a task"
    parts = [task.function]
    if task.index is not None:
        parts.append(f"item {task.index}")
    if task.site:
        parts.append(f"submitted at {task.site}")
    if task.attempts > 1:
        parts.append(f"attempt {task.attempts}")
    return parts[0] if len(parts) == 1 else f"{parts[0]} ({', '.join(parts[1:])})"


def _capital(text: str) -> str:
    """Return "A task" for "a task"; a function's name stays as it is."""
    return "A task" if text == "a task" else text


def _how(exit: WorkerExit) -> str:
    _, text = describe(exit.exitcode)
    who = "The worker" if exit.pid is None else f"Worker {exit.pid}"
    reasons = {"oom": ", out of memory", "killed_by_guard": ", stopped by poolwarden"}
    if exit.cause == "oom" and any(said.startswith("likely") for said in exit.evidence):
        reasons["oom"] = ", likely out of memory"
    return f"{who} {'was ' if exit.signal else ''}{text}{reasons.get(exit.cause, '')}."


def _evidence(exit: WorkerExit | None, stack: str | None) -> str:
    said = list(exit.evidence) if exit else []
    if stack:
        said.append("the Python stack of the worker is in .stack")
    return f"Evidence: {'; '.join(said) or 'nothing beyond that'}."


def _traceback_evidence(text: str | None) -> str:
    return f"Evidence: {'the traceback from the worker, in __cause__' if text else 'nothing beyond that'}."


def _advice(exit: WorkerExit, stack: str | None) -> str:
    """Return what to do about such an end; a guess says "likely"."""
    if exit.cause == "killed_by_guard":
        return "see the evidence for why poolwarden had to."
    if exit.cause == "oom":
        return "fewer workers, less data in one task, or a higher memory limit."
    if exit.cause == "unknown":
        return "see whether SIGCHLD is ignored or another thread waits for child processes."
    if exit.signal == "SIGKILL":
        return "the system log; likely a person, a service manager or a lack of memory."
    if exit.signal in _CRASHES:
        where = "the C extension that .stack was in" if stack else "the C extensions that the task uses"
        return f"likely a crash in C code: update or report {where}."
    if exit.signal:
        return f"find out who sent {exit.signal}: likely another process or the task itself."
    return "look for os._exit() or a C library that ends the process."


def _retry_advice(task: TaskInfo | None) -> str:
    if task is not None and task.attempts > 1:
        return f"It was started {task.attempts} times: likely the task itself is what ends its workers."
    return "If it may safely run twice, retries=1 runs a lost task again."


def _caused_by(error: _Error, text: str | None) -> _Error:
    """Return `error` with this text as its cause."""
    if text:
        error.__cause__ = RemoteTraceback(text)
    return error
