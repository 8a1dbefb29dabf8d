"""Whether the kernel ran out of memory and killed a worker for it.

Covers the counters of out-of-memory kills that Linux keeps: a memory cgroup's
(``oom_kill`` in ``memory.oom_control`` of version 1, in ``memory.events.local``
of version 2) and the machine's (in ``/proc/vmstat``), and the kernel's log
where it can be read (`kernel_log`). Does not know of killers in user space
(systemd-oomd, earlyoom). Elsewhere than on Linux it knows nothing. The parent
process, any thread.

The kernel raises the counters before it sends SIGKILL (``__oom_kill_process``
in mm/oom_kill.c), so whoever has seen the death sees the count. It counts each
victim in the victim's own cgroup, whoever's limit was reached
(``memcg_memory_event`` in memcontrol.h). So a counter of the worker's own that
stood still means that it was not killed for memory, whatever the machine's
counter says: that one counts other programs too. Only a worker that has gone
to another cgroup since its birth may have been counted elsewhere. Version 2
tells where a process was until it is waited for; version 1 does not, and there
only the kernel's log can say so.

A counter does not say which process died. Each death that is explained uses up
one kill, so two workers killed in one moment are both explained, and a kill
that no worker used up is forgotten after `LEFTOVER` seconds. Where the log
names the victims, it has the last word.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from .. import clock
from .cgroup import MemoryCgroups, read
from .kernel_log import KernelLog

__all__ = ["OomWatch"]

LEFTOVER: Final = 5.0
"""Seconds in which a kill that was counted still explains a death."""

RECENT: Final = 60.0
"""Seconds since the last look at a counter in which a kill that it shows is
taken for the worker's; if the last look is longer ago, it is only likely."""

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

    def __init__(self, root: str = "/", *, clock: Callable[[], float] = clock.now) -> None:
        self._cgroups = MemoryCgroups(root)
        self._log = KernelLog(root)
        self._clock = clock
        self._lock = threading.RLock()
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
            when the counter is not the worker's own, was not looked at for
            long, or is only the machine's. None: the worker's own counter, or
            if it has none the machine's, stood still; or the kernel's log
            names other victims.
        """
        with self._lock:
            # Version 2 alone knows where a dead process was. If it was waited for, its pid may be
            # another's by now, so it counts only while it has exited and nobody has waited for it.
            asked = self._cgroups.version == 2 and self._cgroups.exited(pid)
            path = (self._cgroups.path_of(pid) if asked else None) or self._births.get(pid) or self._ours
            counts = self._look(path, known=False)
            machine = self._look_at(self._vmstat, "", known=True)
            named = None
            if machine is not None and machine.moved:
                named = self._log.names(pid, machine.fresh)
            text = None if named is False else _text(path, counts, machine, named is True)
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
    """One counter: how far it has been seen, and how much of that is used up.

    Attributes
    ----------
    gap : float
        Seconds between the last two looks.
    known : bool
        Whether its value at the beginning was looked at, or is taken for 0.
    """

    def __init__(self, cgroup: str, start: int, now: float, known: bool) -> None:
        self.cgroup = cgroup
        self.used = self.seen = self._let_go = start
        self.seen_at = self.looked_at = now
        self.gap = 0.0
        self.known = known

    def look(self, value: int, now: float) -> None:
        """Take in the value of now, and let go of kills nobody used up."""
        if now - self.seen_at > LEFTOVER:
            self.used = self._let_go = self.seen
            self.known = True
        if value < self.seen:  # the cgroup was removed and made again
            self.used = self.seen = self._let_go = 0
        if value > self.seen:
            self.seen, self.seen_at = value, now
            self.gap = now - self.looked_at
        self.looked_at = now

    @property
    def moved(self) -> bool:
        return self.seen > self.used

    @property
    def fresh(self) -> int:
        """How many kills were not let go of yet, used up or not."""
        return self.seen - self._let_go

    def __str__(self) -> str:
        return f"oom_kill {self.used} → {self.seen}"


def _text(path: str | None, counts: list[_Count], machine: _Count | None, named: bool) -> str | None:
    """Return the evidence for an out-of-memory kill, None if there is none."""
    if counts and counts[0].moved:
        return _cgroup_text(path, counts[0], machine, named)
    if machine is None or not machine.moved:
        return None
    if named:
        return f"likely: this machine's {machine}, and the kernel's log names the worker"
    # Where there are counters, the worker's own, or that of the nearest cgroup above it, would have moved.
    return None if counts else f"likely: this machine's {machine}, no memory cgroup to read"


def _cgroup_text(path: str | None, nearest: _Count, machine: _Count | None, named: bool) -> str | None:
    """Return what the nearest counter says; those above it count others too."""
    text = f"memory cgroup {nearest.cgroup}: {nearest}"
    if nearest.cgroup != path:
        return f"likely: {text} (the worker was in {path}, which cannot be read)"
    if not nearest.known:
        if machine is not None and not machine.moved:
            return None  # they are older than the worker: nobody was killed since
        return f"likely: {text} (not looked at before, so counted from 0)"
    if nearest.gap > RECENT and not named:
        return f"likely: {text} (last looked at {nearest.gap:.0f} s before)"
    return text
