"""What this system lets a guard do, and what is missed where it does not.

Without some things there is no guard (`require`): a pool that is guarded in
part would hang or lose answers where the bare one does not. Without the others
it does less; who needs one of those tries it, and ``poolwarden doctor`` shows
them all, by doing the harmless half of each. Runs in the parent.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import ConfigurationError
from ..worker.orphan import F_SETSIG
from ..worker.signals import SOFT_SIGNAL, STACK_SIGNAL
from . import process_handle
from .cgroup import MemoryCgroups, read
from .monkeypatching import why_patched

#: Bytes of the longest message to a worker, or from it.
MESSAGE_MAX: Final = 4096


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


def require() -> None:
    """Make sure that pools can be guarded on this system; takes some microseconds.

    Raises
    ------
    ConfigurationError
        Names what is missing.
    """
    if (why := why_patched()) is not None:
        raise ConfigurationError(f"no pool can be guarded in this process: {why}.")
    if missing := lacking():
        raise ConfigurationError(f"no pool can be guarded on this system: it lacks {', '.join(missing)}.")


def lacking() -> list[str]:
    """Return what is missed of the things without which nothing is guarded."""
    return [f"{name} ({detail})" for name, (has, detail) in _required() if not has]


def _required() -> list[tuple[str, tuple[bool, str]]]:
    return [(name, check()) for name, check in _REQUIRED.items()]


def _signals() -> tuple[bool, str]:
    lacking = [name for name in ("SIGKILL", "SIGSTOP", "SIGCONT") if not hasattr(signal, name)]
    return not lacking, f"no signal.{lacking[0]}" if lacking else "SIGKILL, SIGSTOP and SIGCONT"


def _waits() -> tuple[bool, str]:
    has = hasattr(select, "poll")
    return has, "select.poll" if has else "no select.poll"


def _messages() -> tuple[bool, str]:
    most = getattr(select, "PIPE_BUF", 0)
    return most >= MESSAGE_MAX, f"PIPE_BUF is {most}; messages have up to {MESSAGE_MAX} bytes"


def _forks() -> tuple[bool, str]:
    has = hasattr(os, "register_at_fork") or not hasattr(os, "fork")
    return has, "os.register_at_fork" if has else "os.fork without os.register_at_fork"


def abilities() -> list[Ability]:
    """Return what was found out; raises nothing."""
    found = [Ability(name, has, detail, "no pool is guarded") for name, (has, detail) in _required()]
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


def _states() -> tuple[bool, str]:
    path = f"{process_handle.PROC}/{os.getpid()}/stat"
    return os.path.exists(path), path


def _calls() -> tuple[bool, str]:
    path = f"{process_handle.PROC}/{os.getpid()}/syscall"
    if not process_handle.CALLS:
        return False, "not known for this kind of machine"
    return os.path.exists(path) and os.access(path, os.R_OK), path


def _exits() -> tuple[bool, str]:
    has = hasattr(os, "waitid")
    return has, "os.waitid" if has else "this Python has no os.waitid"


_REQUIRED: Final[dict[str, Callable[[], tuple[bool, str]]]] = {
    "signals that stop": _signals,
    "waiting on pipes": _waits,
    "whole messages": _messages,
    "news of forks": _forks,
}
_CHECKS: Final[dict[str, tuple[Callable[[], tuple[bool, str]], str]]] = {
    "pidfds": (_pidfds, "a worker's end is seen through a pipe that its own processes can hold open"),
    "process states": (_states, "whether a process has stopped is not seen, and waited for a moment instead"),
    "system calls": (_calls, "idle workers cannot be proved so: a repair replaces them"),
    "exit status": (_exits, "how a worker ended is known only once its host has asked for it"),
    "Python stacks": (_stacks, "a timeout shows no stack"),
    "soft timeouts": (_soft_timeouts, "grace= is passed over: a timeout kills at once"),
    "kill with parent": (_orphans, "a worker that holds the GIL outlives a parent that was killed"),
    "cgroup counter": (_memory, "an out-of-memory kill is told by the machine's counter, as likely"),
    "machine counter": (_machine, "an out-of-memory kill that no cgroup counted is told as SIGKILL"),
}
