"""The Python stack of a process of xdist that crashes: a memory of the controller's that it is written into.

pytest has `faulthandler` write to the stderr that all processes of xdist share,
where nobody can tell whose stack it is. The memory has no name, so nothing is
left of it, however the run ends. Linux; elsewhere pytest's way stays.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
from typing import Final

import pytest

#: What the controller gives to a process, in xdist's `workerinput`.
INPUT: Final = "poolwarden_stack"
#: Bytes that are read at most; faulthandler writes 100 frames of 100 threads at most.
_READ_MAX: Final = 2**18
#: Lines that are shown of the thread that crashed, and of its stack in C (Python 3.14).
_FRAMES_MAX: Final = 30
_C_FRAMES_MAX: Final = 12
#: It calls the test; below it are the frames of pytest, of pluggy, of xdist and of execnet.
_CALLER: Final = "_pytest/python.py"

#: Where the crash of a child is written that was forked by this process: a descriptor, -1 for nowhere.
_for_children: int | None = None


def new_memory() -> tuple[int, tuple[str, int, int]] | None:
    """Return a descriptor, and what another process opens the same by; None where there is no memfd."""
    if not hasattr(os, "memfd_create"):
        return None
    fd = os.memfd_create("poolwarden-stack")
    seen = os.fstat(fd)
    return fd, (f"/proc/{os.getpid()}/fd/{fd}", seen.st_dev, seen.st_ino)


class StackOfCrash:
    """The plugin of one of xdist's processes.

    Parameters
    ----------
    given : tuple of (str, int, int)
        From `new_memory`, in the controller.
    """

    def __init__(self, given: tuple[str, int, int]) -> None:
        self._given = given

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Go after pytest's own, which are set up when it is configured, and before what tests set up."""
        write_into(self._given)


def write_into(given: tuple[str, int, int]) -> None:
    """Have the stack of a crash of this process written into the controller's memory; never raises."""
    from ..worker.memory import keep_high

    global _for_children
    path, *identity = given
    enabled = faulthandler.is_enabled()
    if not enabled and signal.getsignal(signal.SIGSEGV) != signal.SIG_DFL:
        return
    with contextlib.suppress(OSError):
        seen = os.stat(path)
        # In another pid namespace the same path is of another process.
        if [seen.st_dev, seen.st_ino] == identity:
            memory = keep_high(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))
            if _for_children is None:
                _for_children = keep_high(os.dup(2)) if enabled else -1
                os.register_at_fork(after_in_child=_leave)
            faulthandler.enable(memory)


def _leave() -> None:
    """In a child: its crash is not the worker's, and is told where it was before."""
    if faulthandler.is_enabled():
        if _for_children is None or _for_children < 0:
            faulthandler.disable()
        else:
            faulthandler.enable(_for_children)


def read_stack(fd: int) -> str | None:
    """Return what was written at the last crash, cut down to the test; None if nothing was."""
    start = max(os.fstat(fd).st_size - _READ_MAX, 0)
    text = os.pread(fd, _READ_MAX, start).decode("ascii", "backslashreplace")
    _, found, text = text.rpartition("Fatal Python error: ")
    return crashed_frames(found + text) if found else None


def crashed_frames(text: str) -> str:
    """Return the reason, and the frames of the thread that crashed, down to the test."""
    reason, *lines = text.splitlines()
    parts: list[list[str]] = []
    for line in lines:
        if not line.startswith("  "):
            parts.append([line])
        elif parts:
            parts[-1].append(line)
    kept = [reason]
    for head, *frames in parts:
        if head.startswith("Current thread"):
            kept += [head, *_of_test(frames, _C_FRAMES_MAX if "C stack" in head else _FRAMES_MAX)]
    return "\n".join(kept)


def _of_test(frames: list[str], most: int) -> list[str]:
    ends = (place for place, line in enumerate(frames) if place and _CALLER in line)
    return frames[: min(next(ends, most), most)]
