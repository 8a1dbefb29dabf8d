"""One process, held so that nobody else can be meant.

Runs in the parent. A process is held by a pidfd where the system has them: a
pid that was given to another process is never signalled. A pool's worker is
never reaped from here; the host does that, and would otherwise wait for ever.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import select
import signal
import struct
from typing import Any, Final

from .. import clock
from ..worker.memory import keep_high
from .forkserver_status import poll_alone
from .waiting import readable

#: Where the kernel tells of processes: on Linux.
PROC: Final = "/proc"
#: The system calls in which a pool's worker waits, by number on this machine.
#: ``restart`` is what a call with a timeout becomes when it was stopped and
#: goes on. ``poll`` is also ``ppoll``, which Python uses from 3.15 on. Source: the
#: kernel's unistd tables.
CALLS = {
    "x86_64": {0: "read", 7: "poll", 202: "futex", 219: "restart", 271: "poll"},
    "aarch64": {63: "read", 73: "poll", 98: "futex", 128: "restart"},
    "riscv64": {63: "read", 73: "poll", 98: "futex", 128: "restart"},
    "ppc64le": {3: "read", 167: "poll", 221: "futex", 0: "restart", 281: "poll"},
    "s390x": {3: "read", 168: "poll", 238: "futex", 7: "restart", 302: "poll"},
}.get(platform.machine(), {})
# Source: linux/futex.h (FUTEX_WAIT, FUTEX_WAIT_BITSET, FUTEX_CMD_MASK).
_FUTEX_COMMAND = 0x7F
_FUTEX_WAITS = (0, 9)
_FUTEX_TIMED_WAIT = 9
_FUTEX_PRIVATE = 0x80
_SIGNAL_MASKS = re.compile(r"^(?:SigPnd|ShdPnd|SigBlk):\s*(\w+)$", re.MULTILINE)
_CAUGHT_SIGNALS = re.compile(r"^SigCgt:\s*(\w+)$", re.MULTILINE)
# Source: poll(2), struct pollfd.
_POLLED = struct.Struct("=ihh")


class Handle:
    """A process that the host has started.

    Attributes
    ----------
    process : multiprocessing.process.BaseProcess
        The host's object; it does the reaping.
    fd : int
        Becomes readable when the process has ended: a pidfd, or the host's
        sentinel where there are no pidfds.
    """

    __slots__ = ("fd", "pid", "pidfd", "process")

    def __init__(self, process: Any) -> None:
        poll_alone(process)
        self.process = process
        self.pid: int = process.pid
        self.pidfd = -1
        if hasattr(os, "pidfd_open"):
            # ESRCH: it is gone already, reaped by somebody else, and the
            # sentinel is all that is left of it.
            with contextlib.suppress(OSError):
                self.pidfd = keep_high(os.pidfd_open(self.pid))
        self.fd: int = self.pidfd if self.pidfd >= 0 else process.sentinel

    def send(self, number: int) -> bool:
        """Send a signal; False when the process is gone."""
        try:
            if self.pidfd >= 0:
                signal.pidfd_send_signal(self.pidfd, number)
            elif self.process.exitcode is None:
                os.kill(self.pid, number)
            else:
                return False
        except OSError:
            return False
        return True

    def has_ended(self, timeout: float = 0.0) -> bool:
        """Return whether the process has ended, waiting up to `timeout` seconds."""
        if self.pidfd < 0:
            # The process's own `join` counts with a clock that may be frozen.
            end = clock.now() + timeout
            while self.process.exitcode is None:
                left = end - clock.now()
                if left <= 0:
                    return False
                if readable([self.process.sentinel], left):
                    # Its status comes a moment later.
                    clock.sleep(0.0005)
            return True
        return bool(readable([self.pidfd], timeout))

    def shows_its_state(self) -> bool:
        """Return whether the kernel tells what it does."""
        return _state(self.pid) != ""

    def is_stopped(self) -> bool:
        """Return whether the kernel says that every thread of it is stopped."""
        return _state(self.pid) in ("T", "t")

    def cannot_run(self) -> bool:
        """Return whether it is stopped, or will be before it comes out of the kernel; or nobody can say."""
        return _state(self.pid) in ("T", "t", "D", "")

    def sleeps(self) -> bool:
        """Return whether the kernel says that it sleeps, waiting for something."""
        return _state(self.pid) == "S"

    def has_one_thread(self) -> bool:
        """Return whether it certainly has no second thread."""
        try:
            return len(os.listdir(f"{PROC}/{self.pid}/task")) == 1
        except OSError:
            return False

    def catches(self, number: int) -> bool:
        """Return whether the process certainly has a handler for a signal, now.

        A task may have reset the handlers, or have become another program by
        ``exec``, which has none: the signal's default action would end it.
        """
        try:
            with open(f"{PROC}/{self.pid}/status", encoding="ascii", errors="replace") as file:
                found = _CAUGHT_SIGNALS.search(file.read())
        except OSError:
            return False
        # If it has ended, what was read may be of another process that has its pid.
        return found is not None and bool(int(found[1], 16) >> (number - 1) & 1) and not self.has_ended()

    def handles_signal(self, number: int) -> bool:
        """Return whether a signal waits for this process, or is being handled by one of its threads.

        While a handler of `faulthandler` runs, its signal is blocked.
        """
        masks: list[str] = []
        # Threads may end meanwhile, and the process.
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"{PROC}/{self.pid}/task"):
                with contextlib.suppress(OSError):
                    path = f"{PROC}/{self.pid}/task/{thread}/status"
                    with open(path, encoding="ascii", errors="replace") as file:
                        masks += _SIGNAL_MASKS.findall(file.read())
        return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)

    def system_call(self) -> tuple[str, int]:
        """Return the name and first argument of the system call the main thread is in.

        The name is empty if it is in none, in one that does not matter here,
        or if this system does not tell. For a stopped process it is the call
        that was interrupted, or has just returned. For ``poll`` the argument
        is the one descriptor that is waited for.
        """
        try:
            with open(f"{PROC}/{self.pid}/syscall", encoding="ascii") as file:
                number, *rest = file.read().split()[:5]
            name = CALLS.get(int(number), "")
            first, second, _, fourth = (int(argument, 16) for argument in rest)
            if name == "restart":
                # It keeps its arguments, but not its name.
                timed = second & _FUTEX_COMMAND == _FUTEX_TIMED_WAIT
                name = "futex" if timed else "poll"
            if name == "poll":
                return (name, self._polled(first)) if second == 1 else ("", 0)
            # The same call wakes others: who releases a semaphore is in it too.
            if name == "futex" and second & _FUTEX_COMMAND not in _FUTEX_WAITS:
                name = ""
            if name == "futex" and second & _FUTEX_PRIVATE:
                # The fourth is the address of its timeout; a restarted call has one.
                name = "" if fourth or CALLS.get(int(number)) != "futex" else "own-lock"
            return name, first
        except (OSError, ValueError):
            return "", 0

    def _polled(self, address: int) -> int:
        """Return the descriptor in a ``struct pollfd`` of the process, if it waits for input there."""
        with open(f"{PROC}/{self.pid}/mem", "rb", buffering=0) as memory:
            memory.seek(address)
            data = memory.read(_POLLED.size)
        if len(data) < _POLLED.size:
            raise ValueError("no such memory")
        fd, events, _ = _POLLED.unpack(data)
        if not events & select.POLLIN:
            raise ValueError("not for input")
        return int(fd)

    def exit_code(self, timeout: float, *, reap: bool = False) -> int | None:
        """Return the exit code as in `multiprocessing`, None if it cannot be had.

        Waits up to `timeout` seconds: the end of a process is seen a moment
        before its status can be read. The status is looked at with WNOWAIT and
        left for the host, which would otherwise never learn of the end; with
        `reap` the host does not look for it, and the process object is asked.
        """
        deadline = clock.now() + timeout
        while True:
            popen = getattr(self.process, "_popen", None)
            code = self.process.exitcode if reap else getattr(popen, "returncode", None)
            if code is not None:
                # 255 with a signal-less end is what `multiprocessing` makes of
                # a fork server that died; it says nothing of this worker.
                if reap:
                    # A `join` of the host's own that this came before fails,
                    # and leaves the process among those that are to be joined.
                    self.process.join(0)
                return int(code)
            try:
                found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except (ChildProcessError, AttributeError):
                found = None
            if found is not None:
                return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
            if clock.now() >= deadline:
                return None
            clock.sleep(0.0005)

    def settle_exit_code(self, code: int | None) -> None:
        """Tell the host's process object that it has ended, if it cannot find out.

        With SIGCHLD ignored, or when somebody else reaped the worker,
        ``waitpid`` fails for ever: the host would keep the dead worker, never
        replace it, and spin on its sentinel.
        """
        popen = getattr(self.process, "_popen", None)
        if popen is not None and getattr(popen, "returncode", 0) is None and not _is_our_child(self.pid):
            popen.returncode = 255 if code is None else code

    def close(self) -> None:
        """Release the descriptor."""
        # First: a number that was closed may be another file's when this is called again.
        fd, self.pidfd, self.fd = self.pidfd, -1, -1
        if fd >= 0:
            os.close(fd)


def _state(pid: int) -> str:
    try:
        with open(f"{PROC}/{pid}/stat", "rb") as file:
            return chr(file.read().rpartition(b")")[2].split()[0][0])
    except (OSError, IndexError):
        return ""


def _is_our_child(pid: int) -> bool:
    """Return whether `pid` can still be waited for (reaps nothing); True where nobody can tell."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    except AttributeError:
        # Who ignores SIGCHLD has no children to wait for.
        return signal.getsignal(signal.SIGCHLD) != signal.SIG_IGN
    return True
