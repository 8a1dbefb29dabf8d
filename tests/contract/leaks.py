"""Finds what a test left behind: processes, threads, descriptors, shared memory.

Runs in the test process, on Linux. The test process adopts orphans
(PR_SET_CHILD_SUBREAPER), so that a worker whose parent has died is still found
among its descendants, whatever it was started by.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import signal
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.contract.waiting import ENDING, eventually, is_gone, state_of

PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent has ended."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@dataclass(frozen=True)
class Snapshot:
    """What there is at one moment; `left_since` compares two of them."""

    processes: frozenset[int]
    threads: frozenset[threading.Thread]
    descriptors: Counter[str]
    memories: frozenset[str]

    @classmethod
    def take(cls) -> Snapshot:
        """Return what there is now."""
        return cls(
            frozenset(living_descendants()),
            frozenset(threading.enumerate()),
            descriptors(),
            frozenset(memories()),
        )

    def left_since(self, before: Snapshot) -> list[str]:
        """Return one sentence for each thing that is here and was not there before."""
        left = [f"process {describe(pid)}" for pid in self.processes - before.processes]
        new = self.threads - before.threads
        left += [f"thread {thread.name}" for thread in new if not is_watchdog(thread)]
        watchdogs = sorted(thread.name for thread in self.threads if is_watchdog(thread))
        if len(watchdogs) > max(1, sum(map(is_watchdog, before.threads))):
            left.append(f"threads of poolwarden: {', '.join(watchdogs)}")
        left += [
            f"{count} descriptors of kind {kind}"
            for kind, count in (self.descriptors - before.descriptors).items()
        ]
        left += [f"shared memory {inode}" for inode in self.memories - before.memories]
        return left


def what_is_left(before: Snapshot) -> list[str]:
    """Return what a test left behind, after giving it the time a pool may take to end.

    Pools nobody closed are collected first. What is left of the processes is
    killed, so that one test does not spoil the next.
    """
    left: list[str] = []

    def clean() -> bool:
        nonlocal left
        if left:
            # Not at the first look, which mostly finds nothing: it takes longer than many a test.
            gc.collect()
        reap_adopted()
        left = Snapshot.take().left_since(before)
        return not left

    try:
        eventually(clean, "", ENDING)
    except AssertionError:
        kill_descendants(keep=before.processes)
    return left


def living_descendants() -> set[int]:
    """Return the pids of all descendants but for multiprocessing's own helpers."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(int(fields[1]), []).append(int(entry))
    found: set[int] = set()
    queue = [os.getpid()]
    while queue:
        new = children.get(queue.pop(), [])
        found.update(new)
        queue.extend(new)
    return {pid for pid in found - helpers() if not is_gone(pid)}


#: The packages that own processes; the second is a copy of the first.
PACKAGES = ("multiprocessing", "multiprocess")

#: Modules with a resource tracker of their own.
TRACKERS = (
    "multiprocessing.resource_tracker",
    "multiprocess.resource_tracker",
    "loky.backend.resource_tracker",
    "joblib.externals.loky.backend.resource_tracker",
)


def helpers() -> set[int]:
    """Return the pids of the resource trackers and the fork servers, which stay for good."""
    trackers = [sys.modules[name]._resource_tracker for name in TRACKERS if name in sys.modules]
    found = {getattr(tracker, "_pid", None) for tracker in trackers}
    servers = [sys.modules[f"{name}.forkserver"] for name in PACKAGES if f"{name}.forkserver" in sys.modules]
    found.update(getattr(server._forkserver, "_forkserver_pid", None) for server in servers)
    return {pid for pid in found if pid is not None}


def kill_descendants(keep: frozenset[int] = frozenset()) -> list[str]:
    """SIGKILL what this process has started and return a description of it."""
    killed = []
    for pid in living_descendants() - keep:
        killed.append(describe(pid))
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return killed


def reap_adopted() -> None:
    """Reap orphans that have ended; children that a `Process` object stands for are its own to reap."""
    processes = [sys.modules[f"{name}.process"] for name in PACKAGES if f"{name}.process" in sys.modules]
    owned = {process.pid for module in processes for process in module._children}
    for entry in Path(f"/proc/{os.getpid()}/task").iterdir():
        try:
            pids = (entry / "children").read_text().split()
        except FileNotFoundError:
            continue
        for pid in map(int, pids):
            if pid not in owned and state_of(pid) == "Z":
                os.waitpid(pid, os.WNOHANG)


def descriptors() -> Counter[str]:
    """Return how many descriptors of each kind are open: pipes, sockets, or a path."""
    kinds: Counter[str] = Counter()
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue
        kinds[re.sub(r":\[\d+\]", "", target)] += 1
    return kinds


def memories() -> set[str]:
    """Return the shared memories of pools that this process has mapped, by their inodes."""
    found: set[str] = set()
    with open("/proc/self/maps") as maps:
        for line in maps:
            _, _, _, _, inode, *path = line.split()
            if path and path[0] == "/memfd:poolwarden":
                found.add(inode)
    return found


def is_watchdog(thread: threading.Thread) -> bool:
    """Return whether a thread is poolwarden's; it may have one for good."""
    return thread.name.startswith("poolwarden")


def describe(pid: int) -> str:
    """Return pid, state, and command line of a process."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        command = "(gone)"
    return f"{pid} [{state_of(pid)}] {command[:120]}"
