"""What this system lets a guard do, and what is missed where it does not.

Covers looking, by doing the harmless half of each thing. Runs in the parent;
nothing but ``poolwarden doctor`` asks, since those who need an ability try it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..worker.orphan import F_SETSIG
from ..worker.signals import SOFT_SIGNAL, STACK_SIGNAL
from .cgroup import MemoryCgroups, read


@dataclass(frozen=True, slots=True)
class Ability:
    """One thing a system can or cannot do.

    Attributes
    ----------
    name : str
    available : bool or None
        None: it could not be checked.
    detail : str
        What was seen.
    without : str
        What is missed where it is not available.
    """

    name: str
    available: bool | None
    detail: str
    without: str


def abilities() -> list[Ability]:
    """Return what was found out; raises nothing."""
    found = []
    for name, (check, without) in _CHECKS.items():
        try:
            available, detail = check()
            found.append(Ability(name, available, detail, without))
        except Exception as error:
            found.append(Ability(name, None, f"could not be checked: {error!r}", without))
    return found


def _pidfds() -> tuple[bool, str]:
    if not hasattr(os, "pidfd_open"):
        return False, "this Python has no os.pidfd_open"
    try:
        fd = os.pidfd_open(os.getpid())
    except OSError as error:
        return False, str(error)
    with contextlib.closing(os.fdopen(fd, "rb", 0)):
        signal.pidfd_send_signal(fd, 0)
    return True, "opened, and a signal sent through it"


def _stacks() -> tuple[bool, str]:
    if STACK_SIGNAL is None or not hasattr(faulthandler, "register"):
        return False, "no real-time signals"
    return _is_free(STACK_SIGNAL)


def _soft_timeouts() -> tuple[bool, str]:
    return (False, "no real-time signals") if SOFT_SIGNAL is None else _is_free(SOFT_SIGNAL)


def _is_free(number: int) -> tuple[bool, str]:
    free = signal.getsignal(number) == signal.SIG_DFL
    return free, f"real-time signal {number} is {'free' if free else 'taken'}"


def _orphans() -> tuple[bool, str]:
    try:
        import fcntl
    except ImportError:
        return False, "no fcntl"
    if not hasattr(fcntl, "F_SETOWN") or not hasattr(os, "O_ASYNC"):
        return False, "no O_ASYNC"
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(reader, F_SETSIG, signal.SIGKILL)
    except OSError as error:
        return False, str(error)
    finally:
        os.close(reader)
        os.close(writer)
    return True, "F_SETSIG takes SIGKILL"


def _memory() -> tuple[bool, str]:
    cgroups = MemoryCgroups()
    path = cgroups.path_of("self")
    for counter in cgroups.counters(path) if path else []:
        if "\noom_kill " in (read(counter.file) or ""):
            return True, f"cgroup version {cgroups.version}, {counter.file.name}"
    return False, f"cgroup version {cgroups.version}, no counter" if cgroups.version else "no memory cgroup"


def _machine() -> tuple[bool, str]:
    return "\noom_kill " in (read(Path("/proc/vmstat")) or ""), "/proc/vmstat"


_CHECKS: Final[dict[str, tuple[Callable[[], tuple[bool, str]], str]]] = {
    "pidfds": (_pidfds, "a worker's end is seen through a pipe that its own processes can hold open"),
    "Python stacks": (_stacks, "a timeout shows no stack"),
    "soft timeouts": (_soft_timeouts, "grace= is passed over: a timeout kills at once"),
    "kill with parent": (_orphans, "a worker that holds the GIL outlives a parent that was killed"),
    "cgroup counter": (_memory, "an out-of-memory kill is told by the machine's counter, as likely"),
    "machine counter": (_machine, "an out-of-memory kill that no cgroup counted is told as SIGKILL"),
}
