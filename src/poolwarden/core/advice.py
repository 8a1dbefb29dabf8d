"""What to try, after each way in which a task or a pool can end.

Covers the words of the last line of an error. A guess says "likely". Pure; the
parent process, any thread.
"""

from __future__ import annotations

from typing import Final

from ..records import TaskInfo, WorkerExit

_CRASHES: Final = ("SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT")


def after_loss(exit: WorkerExit, stack: str | None) -> str:
    """Return what to do about a worker that ended like this."""
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


def to_retry(task: TaskInfo | None) -> str:
    """Return whether running the task again may help."""
    if task is not None and task.attempts > 1:
        return f"It was started {task.attempts} times: likely the task itself is what ends its workers."
    return "If it may safely run twice, retries=1 runs a lost task again."


def after_exit(description: str) -> str:
    """Return what to do about a task that raised no `Exception`."""
    description = description.removeprefix("builtins.")
    if description.startswith("KeyboardInterrupt"):
        return (
            "nothing, if somebody pressed Ctrl-C or sent SIGINT to the worker: likely that is why. "
            "Else find out what raises KeyboardInterrupt in the task."
        )
    if description.startswith("SystemExit"):
        return "return, or raise an ordinary exception; sys.exit() in a task does not end the program."
    return "have the task raise a subclass of Exception, which its caller gets as it is."


def after_break(reason: str) -> str:
    """Return what to do about a pool that cannot go on, for a reason that says enough by itself."""
    if "cannot import the main module:" in reason:
        return (
            'put what starts the program below if __name__ == "__main__": in that file, as every worker '
            "imports it, and would start the program again; what the workers said is on stderr."
        )
    if "cannot import" in reason:
        return (
            "see what the workers said on stderr. Each imports the main module, and then "
            "what the initializer and its arguments need."
        )
    if "terminated" in reason or "shut down" in reason or "closed" in reason or "ended by" in reason:
        return "take the results before the pool is ended, or make a new pool."
    if "startup_timeout" in reason:
        return "a longer startup_timeout, or find out what the initializer waits for; then make a new pool."
    if "initializer" in reason:
        return "mend the initializer or what it is given, then make a new pool."
    if "while they started" in reason:
        return "find out who kills them: likely a person, a service manager or a lack of memory."
    return "remove the reason, then make a new pool."
