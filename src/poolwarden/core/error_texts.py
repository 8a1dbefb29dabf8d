"""Builds the errors that users read.

Covers the words: line 1 says what happened to which task, line 2 how the
worker ended, line 3 how that is known, line 4 what to try; a line that would
say nothing is left out. Does not find anything out and raises nothing. Pure;
the parent process, any thread. What to try is in `advice`.

Arguments and results of tasks never appear, since they may hold secrets.
Texts printed in the worker (a traceback, a stack) become the ``__cause__``,
which Python shows above the error; `PoolWardenError` pickles that cause.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from typing import Literal, TypeVar

from ..errors import (
    PayloadError,
    PoolBrokenError,
    PoolWardenError,
    RemoteTraceback,
    TaskExitError,
    TaskTimeoutError,
    WorkerLostError,
)
from ..plaintext import shortened, visible
from ..records import TaskInfo, WorkerExit
from . import advice
from .exit_codes import describe
from .printed import raised

__all__ = ["chunk_fate", "never_sent", "payload", "pool_broken", "task_exit", "task_timeout", "worker_lost"]

_Error = TypeVar("_Error", bound=PoolWardenError)


def worker_lost(
    task: TaskInfo | None,
    exit: WorkerExit,
    stack: str | None = None,
    *,
    ran: float | None = None,
    chunk: str = "",
) -> WorkerLostError:
    """Return the error for a task whose worker died.

    Parameters
    ----------
    task : TaskInfo or None
        The task; ``attempts == 0`` means that it never started.
    exit : WorkerExit
        How the worker ended.
    stack : str, optional
        Python stack of the worker as faulthandler wrote it.
    ran : float, optional
        Seconds that the task had been running.
    chunk : str
        What became of the other items of its chunk, from `chunk_fate`.
    """
    held = "running" if _may_have_run(task) else "about to run"
    seen = [] if ran is None else [f"the task had been running for {_duration(ran)}"]
    lines = (
        f"The worker {held} {task_name(task)} died.",
        _how(exit),
        _evidence(exit, stack, seen),
        chunk,
        f"Try: {advice.after_loss(exit, stack)} {advice.to_retry(task)}",
    )
    error = WorkerLostError(_text(lines), task=task, exit=exit, stack=stack, may_have_run=_may_have_run(task))
    return _caused_by(error, stack)


def chunk_fate(base: int, count: int, item: int) -> str:
    """Return what became of the other items of a chunk that fails as a whole.

    Parameters
    ----------
    base, count : int
        Index of its first item, and how many there are.
    item : int
        The one that was lost, counted from 0 in the chunk.
    """
    if count < 2:
        return ""
    before = "none of the others had been run"
    if item == 1:
        before = f"item {base} had been run"
    elif item > 1:
        before = f"items {base} to {base + item - 1} had been run"
    return f"Its chunk, items {base} to {base + count - 1}, has no results; {before}."


def task_timeout(
    task: TaskInfo | None,
    exit: WorkerExit | None,
    timeout: float,
    stack: str | None,
    soft: bool,
    *,
    chunk: str = "",
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
    chunk : str
        As for `worker_lost`.
    """
    how = "The error was raised inside the task; its worker lives."
    if not soft:
        how = _how(exit) if exit else "Its worker was killed."
    look = "see .stack for what it was doing, " if stack else ""
    lines = (
        f"{_capital(task_name(task))} ran longer than its timeout of {timeout:g} s and was stopped.",
        how,
        _evidence(exit, stack),
        chunk,
        f"Try: {look}raise timeout, or give this function one of its own with limits(func, timeout=...).",
    )
    error = TaskTimeoutError(_text(lines), task=task, exit=exit, stack=stack, may_have_run=True)
    return _caused_by(error, stack)


def task_exit(task: TaskInfo | None, description: str, traceback_text: str | None) -> TaskExitError:
    """Return the error for a task that raised something not an `Exception`.

    Parameters
    ----------
    task : TaskInfo or None
        The task.
    description : str
        What it raised, as ``"SystemExit"``.
    traceback_text : str or None
        The traceback as printed in the worker.
    """
    description = shortened(description.partition("\n")[0])
    lines = (
        f"{_capital(task_name(task))} raised {description.rstrip('.')}.",
        "Its worker lives: only the task was ended.",
        _traceback_evidence(traceback_text),
        f"Try: {advice.after_exit(description)}",
    )
    return _caused_by(TaskExitError(_text(lines), task=task, may_have_run=True), traceback_text)


def never_sent(task: TaskInfo | None, error: BaseException) -> TaskExitError:
    """Return the error for a task that was not sent: its iterable, or its pickling, raised no `Exception`."""
    lines = (
        f"{_capital(task_name(task))} was not sent: {type(error).__qualname__} was raised while it was made.",
        "Evidence: the traceback, in __cause__.",
        "Try: raise an ordinary exception in iterables and in __reduce__; sys.exit() there ends nothing.",
    )
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return _caused_by(TaskExitError(_text(lines), task=task, may_have_run=False), text)


def payload(
    task: TaskInfo | None,
    direction: Literal["call", "result"],
    original_type: str | None,
    traceback_text: str | None,
    *,
    unpickling: str | None = None,
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
        of the exception that the task raised, None if it returned.
    traceback_text : str or None
        The traceback as printed: of what the task raised, else of unpickling.
    unpickling : str, optional
        What unpickling a result raised, in one line.
    """
    said = f" Unpickling raised an exception of type {unpickling.rstrip('.')}." if unpickling else ""
    if direction == "call":
        what = raised(traceback_text) or original_type or "an exception"
        lines = (
            f"The call of {task_name(task)} could not be unpickled in the worker.",
            f"Unpickling raised {what.rstrip('.')}; the function was not called.",
            _traceback_evidence(traceback_text),
            "Try: define the function and the classes of its arguments in a module that workers can import.",
        )
    elif original_type is not None:
        message = raised(traceback_text)
        lines = (
            f"The exception that {task_name(task)} raised could not be unpickled in the parent.",
            f"It was of type {original_type}{f' ({message})' if message else ''}.{said}",
            _traceback_evidence(traceback_text),
            "Try: an exception class with its own __init__ must pass all arguments to super().__init__().",
        )
    else:
        lines = (
            f"The result of {task_name(task)} could not be unpickled in the parent.",
            f"The task ended.{said}",
            "Evidence: the traceback of that, in __cause__." if traceback_text else "",
            "Try: let the task return plain values, or objects of classes that this process can unpickle.",
        )
    error = PayloadError(_text(lines), direction=direction, task=task, may_have_run=direction == "result")
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
    if traceback_text:
        # How the worker ended then is noise.
        lines += [raised(traceback_text), _traceback_evidence(traceback_text)]
    elif exit is not None:
        lines += [_how(exit), _evidence(exit, None)]
    lines.append(f"Try: {advice.after_break(reason)}")
    error = PoolBrokenError(_text(lines), task=task, exit=exit, may_have_run=_may_have_run(task))
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
        parts.append(f"submitted at {task.site}" + (f", through {task.through}" if task.through else ""))
    if task.attempts > 1:
        parts.append(f"attempt {task.attempts}")
    return parts[0] if len(parts) == 1 else f"{parts[0]} ({', '.join(parts[1:])})"


def _capital(text: str) -> str:
    return "A task" if text == "a task" else text


def _how(exit: WorkerExit) -> str:
    _, text = describe(exit.exitcode)
    who = "The worker" if exit.pid is None else f"Worker {exit.pid}"
    reasons = {"oom": ", out of memory", "killed_by_guard": ", stopped by poolwarden"}
    if exit.cause == "oom" and any(said.startswith("likely") for said in exit.evidence):
        reasons["oom"] = ", likely out of memory"
    return f"{who} {'was ' if exit.signal else ''}{text}{reasons.get(exit.cause, '')}."


def _evidence(exit: WorkerExit | None, stack: str | None, seen: Iterable[str] = ()) -> str:
    said = [*(exit.evidence if exit else ()), *seen]
    if stack:
        said.append("the Python stack of the worker is in .stack")
    return f"Evidence: {'; '.join(said)}." if said else ""


def _traceback_evidence(text: str | None) -> str:
    return "Evidence: the traceback from the worker, in __cause__." if text else ""


def _text(lines: Iterable[str]) -> str:
    return "\n".join(visible(line) for line in lines if line)


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _caused_by(error: _Error, text: str | None) -> _Error:
    """Return `error` with this text as its cause."""
    if text:
        error.__cause__ = RemoteTraceback(text)
    return error
