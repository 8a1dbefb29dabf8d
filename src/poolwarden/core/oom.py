"""Whether the kernel ran out of memory and killed a worker for it.

Covers the counters of out-of-memory kills that Linux keeps: a memory cgroup's
(``oom_kill`` in ``memory.oom_control`` of version 1, in ``memory.events`` of
version 2) and the machine's (in ``/proc/vmstat``). Does not read the kernel's
log, and does not know of killers in user space (systemd-oomd, earlyoom).
Elsewhere than on Linux it knows nothing. The parent process, any thread.

The kernel raises the counters before it sends SIGKILL (``__oom_kill_process``
in mm/oom_kill.c), so whoever has seen the death sees the count. Version 1
counts in the cgroup of the process alone, version 2 in its ancestors too
(``memcg_memory_event`` in memcontrol.h).

A counter does not say which process died. Each death that is explained uses up
one kill, so two workers killed in one moment are both explained, and a kill
that no worker used up is forgotten after `LEFTOVER` seconds.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from .cgroup import MemoryCgroups, read

__all__ = ["OomWatch"]

LEFTOVER: Final = 5.0
"""Seconds in which a kill that was counted still explains a death."""

RECENT: Final = 60.0
"""Seconds since the last look at the machine's counter in which a kill on it
is not taken for a coincidence, though the worker's cgroup counted none."""

_OOM_KILL: Final = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


class OomWatch:
    """Remembers counters of out-of-memory kills and tells when they moved.

    Parameters
    ----------
    root : str
        Directory that holds ``proc`` and ``sys``; not ``/`` in tests only.
    clock : callable
        Seconds, never going back.

    Notes
    -----
    No method raises. Any thread may call them; after a fork, the child needs a
    watch of its own.
    """

    def __init__(self, root: str = "/", *, clock: Callable[[], float] = time.monotonic) -> None:
        self._cgroups = MemoryCgroups(root)
        self._clock = clock
        self._lock = threading.Lock()
        self._births: dict[int, str] = {}
        self._counts: dict[Path, _Count] = {}
        self._vmstat = Path(root) / "proc/vmstat"
        self._look_at_ours()

    def note(self, pid: int) -> None:
        """Remember the cgroup of a worker that was born, and its counter.

        Reads five or six small files: 0.1 to 0.2 ms on a busy 2-core machine.
        Call it again if the worker was moved to another cgroup.
        """
        with self._lock:
            ended = self._cgroups.version == 1 and self._cgroups.exited(pid)
            path = None if ended else self._cgroups.path_of(pid)
            self._look_at_ours()
            self._births[pid] = path or self._ours or ""
            if path != self._ours:
                self._look(path, known=True)

    def forget(self, pid: int) -> None:
        """Drop what `note` remembered of this worker; unknown ones are fine."""
        with self._lock:
            self._births.pop(pid, None)

    def moved(self, pid: int) -> str | None:
        """Return the evidence that `pid`, dead by SIGKILL, ran out of memory.

        Parameters
        ----------
        pid : int
            The worker; waited for or not.

        Returns
        -------
        str or None
            ``"memory cgroup /x: oom_kill 3 → 4"``. It starts with "likely"
            when the counter is not the worker's own, when it was never looked
            at before, or when it is only the machine's. None: no counter moved.
        """
        with self._lock:
            # Version 2 alone knows where a dead process was. If it was waited for, its pid may be
            # another's by now, so it counts only while it has exited and nobody has waited for it.
            asked = self._cgroups.version == 2 and self._cgroups.exited(pid)
            path = self._cgroups.path_of(pid) if asked else None
            at_birth = self._births.get(pid) or self._ours
            counts = self._look(path or at_birth, known=False)
            machine = self._look_at(self._vmstat, "", known=True)
            text = _cgroup_text(path or at_birth, counts)
            if text is None and machine is not None and not (counts and path):
                text = _machine_text(machine, at_birth if counts else None)
            if text is not None:
                for count in (*counts, *([machine] if machine else [])):
                    count.used = min(count.used + 1, count.seen)
            return text

    def _look_at_ours(self) -> None:
        """Look at what nearly every worker shares: our cgroup and the machine."""
        self._ours = self._cgroups.path_of("self")
        self._look(self._ours, known=True)
        self._look_at(self._vmstat, "", known=True)

    def _look(self, path: str | None, *, known: bool) -> list[_Count]:
        """Return the readable counters for this cgroup, nearest first."""
        found = self._cgroups.counters(path) if path else []
        counts = (self._look_at(counter.file, counter.cgroup, known=known) for counter in found)
        return [count for count in counts if count is not None]

    def _look_at(self, file: Path, cgroup: str, *, known: bool) -> _Count | None:
        """Return the counter in `file` after a look; None if there is none.

        On the first look it starts at what it shows if `known`, else at 0.
        """
        match = _OOM_KILL.search(read(file) or "")
        if match is None:
            return None
        value, now = int(match[1]), self._clock()
        count = self._counts.get(file)
        if count is None:
            count = self._counts[file] = _Count(cgroup, value if known else 0, now, known)
        count.look(value, now)
        return count


class _Count:
    """One counter: how far it has been seen, and how much of that is used up."""

    def __init__(self, cgroup: str, start: int, now: float, known: bool) -> None:
        self.cgroup = cgroup
        self.used = self.seen = start
        self.seen_at = self.looked_at = now
        self.gap = 0.0
        self.known = known

    def look(self, value: int, now: float) -> None:
        """Take in the value of now, and let go of kills nobody used up."""
        if now - self.seen_at > LEFTOVER:
            self.used = self.seen
            self.known = True
        if value < self.seen:  # the cgroup was removed and made again
            self.used = self.seen = 0
        if value > self.seen:
            self.seen, self.seen_at = value, now
        self.gap, self.looked_at = now - self.looked_at, now

    @property
    def moved(self) -> bool:
        return self.seen > self.used

    def __str__(self) -> str:
        return f"oom_kill {self.used} → {self.seen}"


def _cgroup_text(path: str | None, counts: list[_Count]) -> str | None:
    """Return what the nearest counter says; those above it count others too."""
    if not counts or not counts[0].moved:
        return None
    nearest = counts[0]
    text = f"memory cgroup {nearest.cgroup}: {nearest}"
    if nearest.cgroup != path:
        return f"likely: {text} (the worker was in {path}, which cannot be read)"
    if not nearest.known:
        return f"likely: {text} (not looked at before, so counted from 0)"
    return text


def _machine_text(machine: _Count, at_birth: str | None) -> str | None:
    """Return what the machine's counter says, if that is more than chance.

    `at_birth` is the cgroup that counted nothing; the worker may have left it.
    """
    if not machine.moved:
        return None
    if at_birth is None:
        return f"likely: this machine's {machine}, no memory cgroup to read"
    if machine.gap > RECENT:
        machine.used = machine.seen
        return None
    return f"likely: this machine's {machine}, though the worker's memory cgroup {at_birth} had none"
