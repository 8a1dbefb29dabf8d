"""Who may be killed, and killing it, for `tests.chaos`.

Covers finding the processes of a pool and sending a signal to exactly those:
a pid is only a number, and may belong to a stranger by the time the signal
leaves. Linux only. Runs in the process that owns the pool, in any thread.
"""

from __future__ import annotations

import contextlib
import multiprocessing.forkserver
import os
import random
import select
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

from tests.chaos_verdict import Kill
from tests.contract.leaks import helpers

SIGNALS = {signal.SIGKILL: 80, signal.SIGTERM: 10, signal.SIGSEGV: 10}  # and how often each

# Bounds, in seconds, on what normally takes milliseconds: a worker dies of a signal (a repair may have
# stopped it), there is a live worker (all of them may be starting).
DEATH, FIND = 5.0, 10.0


class Killer:
    """Kills random live workers, never another process.

    Parameters
    ----------
    workers : callable
        Returns the pool's `Process` objects.
    rng : random.Random
        Decides who is killed, and by which signal.
    patience : float
        Seconds to wait for a live worker to kill.
    """

    def __init__(self, workers: Callable[[], list[Any]], rng: random.Random, patience: float = FIND) -> None:
        self._workers = workers
        self._rng = rng
        self._patience = patience
        self.kills: list[Kill] = []

    def strike(self, count: int, idle: bool = False) -> int:
        """Kill `count` workers at the same instant, or as many as there are; return how many."""
        aims = self._aims(count)
        try:
            for _, pidfd, number in aims:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, number)
            for pid, pidfd, number in aims:
                self.kills.append(Kill(pid, number, idle, hit=_ended(pidfd, DEATH)))
        finally:
            for _, pidfd, _ in aims:
                os.close(pidfd)
        return len(aims)

    def _aims(self, count: int) -> list[tuple[int, int, int]]:
        """Return pid, pidfd and signal for up to `count` workers, waiting for one."""
        aims: list[tuple[int, int, int]] = []
        deadline = time.monotonic() + self._patience
        while not aims and time.monotonic() < deadline:
            workers = self._workers()
            self._rng.shuffle(workers)
            for worker in workers:
                pidfd = _pidfd(worker.pid) if worker.pid and len(aims) < count else None
                if pidfd is not None:
                    aims.append((worker.pid, pidfd, self._rng.choices([*SIGNALS], [*SIGNALS.values()])[0]))
            if not aims:
                time.sleep(0.001)  # nothing tells an outsider when the pool has new workers
        return aims


def offspring() -> set[int]:
    """Return the live processes of all pools of this process."""
    found = {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    return {pid for pid in found - _servants() if _is_ours(pid)}


def describe(pid: int) -> str:
    """Return in which state a process is, and in which system call, as the kernel says."""
    folder = Path(f"/proc/{pid}")
    try:
        state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        return f"process {pid}: {state}, {(folder / 'wchan').read_text()}, {(folder / 'syscall').read_text()}"
    except OSError as error:
        return f"process {pid}: {error}"


def slay_all() -> None:
    """Kill all processes of the pools here. No pool can start one afterwards."""
    BaseProcess.start = _refuse  # type: ignore[method-assign]
    deadline = time.monotonic() + DEATH
    while (found := offspring()) and time.monotonic() < deadline:
        for pid in found:
            pidfd = _pidfd(pid)
            if pidfd is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                os.close(pidfd)
        # Also for a start that was under way.
        time.sleep(0.05)


def _refuse(process: BaseProcess) -> NoReturn:
    # A bare pool replaces what is killed, at once and for ever. This ends the thread that does so.
    raise SystemExit


def _servants() -> set[int]:
    """Return the helpers that multiprocessing itself starts and keeps, and loky."""
    return {0, _fork_server(), *helpers()}


def _fork_server() -> int:
    return getattr(multiprocessing.forkserver._forkserver, "_forkserver_pid", None) or 0


def _is_ours(pid: int) -> bool:
    """Return whether a process lives and was started by us or by our fork server."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return False
    return state not in "XZ" and int(parent) in {os.getpid(), _fork_server()} - {0}


def _pidfd(pid: int) -> int | None:
    """Return a pidfd of this worker, None if it is gone or was never ours.

    The pid may have passed to a stranger before the pidfd was opened, so whose
    it is must be asked after that; and the process must still live then, else
    the question may have been answered about its successor.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    if _is_ours(pid) and not _ended(pidfd, 0):
        return pidfd
    os.close(pidfd)
    return None


def _ended(pidfd: int, timeout: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))
