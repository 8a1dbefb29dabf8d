"""The words on how a process of xdist died. Runs in the controller, after a death only."""

from __future__ import annotations

import signal
from typing import Any, Final

from .. import clock
from ..core.diagnosis import Evidence, diagnose
from ..core.exit_codes import describe
from ..records import WorkerExit
from .pytest_exit import Ending
from .pytest_stacks import read_stack

#: Seconds that the kernel's log may be late.
_LOG_LATE: Final = 0.05
_CRASHES: Final = ("SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT")


def post_mortem(
    ending: Ending,
    pid: int,
    own_pid: int | None,
    *,
    lived: float,
    inherited: int,
    oom: Any,
    stack_fd: int,
) -> tuple[str, tuple[str, ...]]:
    """Return how a process died in a few words, and the lines below them.

    Parameters
    ----------
    ending : Ending
        Of the process that execnet has started.
    pid : int
        Its pid.
    own_pid : int or None
        The worker's; another one where a program stands between (``python=…``).
    lived : float
        Seconds since it was started.
    inherited : int
        Bytes: peak memory of the process that has started it.
    oom : OomWatch or None
        Knows the process.
    stack_fd : int
        What its crash was written into, -1 if there is no such thing.
    """
    exitcode, between = ending.exitcode, own_pid is not None and own_pid != pid
    if between and exitcode is not None and exitcode > 128:
        # Shells tell in this way that their child was killed.
        exitcode = 128 - exitcode
    killed = exitcode == -int(getattr(signal, "SIGKILL", 9))
    evidence = _out_of_memory(oom, pid) if killed and oom is not None else None
    exit = diagnose(Evidence(own_pid or pid, exitcode, oom=evidence))
    how = describe(exitcode)[1]
    if between:
        how = f"likely {how}: the program that started it {describe(ending.exitcode)[1]}"
    if exit.cause == "oom":
        how += ", out of memory"
    stack = read_stack(stack_fd) if stack_fd >= 0 and exit.signal in _CRASHES else None
    lines = [f"pid {own_pid or pid}, started {lived:.1f} s before. {_use(ending, inherited)}".rstrip()]
    if exit.signal == "SIGKILL" and exit.cause != "oom":
        lines.append(f"Free memory now: {size(_free())}.")
    lines += [f"Evidence: {text}" for text in exit.evidence]
    lines.append(f"Try: {_advice(exit, stack)}")
    return how, (*lines, *([stack] if stack else []))


def size(count: int) -> str:
    """Return a number of bytes for people, in powers of 1000."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count / 1000:.0f} kB"


def _out_of_memory(oom: Any, pid: int) -> str | None:
    """Ask twice: the kernel sends SIGKILL first, and writes into its log then whom it has killed."""
    evidence: str | None = oom.moved(pid)
    if evidence is None:
        clock.sleep(_LOG_LATE)
        evidence = oom.moved(pid)
    return evidence


def _free() -> int:
    from ..system.free_memory import free_memory

    return free_memory()


def _use(ending: Ending, inherited: int) -> str:
    if ending.peak is None or ending.cpu is None:
        return ""
    # A process begins with the peak of the one that has started it.
    most = "at most " if ending.peak <= inherited else ""
    return (
        f"Peak memory {most}{size(ending.peak)}, CPU time {ending.cpu:.2f} s, "
        f"its children that had ended included."
    )


def _advice(exit: WorkerExit, stack: str | None) -> str:
    if exit.cause == "oom":
        return "fewer processes (-n), less data in one test, or a higher memory limit."
    if exit.signal == "SIGKILL":
        return "the system log; likely a person, a service manager or a lack of memory."
    if exit.signal in _CRASHES:
        where = "what the stack below was in" if stack else "the C extensions that the test uses"
        return f"likely a crash in C code: update or report {where}."
    if exit.signal:
        return f"find out who sent {exit.signal}: likely another process or the test itself."
    if exit.exitcode is None:
        return "see whether SIGCHLD is ignored or another thread waits for child processes."
    if exit.exitcode == 1:
        return "stderr: pytest-timeout by a thread and faulthandler_exit_on_timeout end a process like this."
    return "look for os._exit() or a C library that ends the process."
