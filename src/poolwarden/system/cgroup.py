"""Where the out-of-memory counter of a process's memory cgroup is.

Covers finding the files, on cgroup versions 1 and 2, in containers too. Does
not read the counters. Linux; elsewhere it finds nothing. Never raises. The
parent process, any thread.

Sources: ``man 5 proc`` (mountinfo), ``man 7 cgroups``, and the kernel's
``proc_cgroup_show``: of an exited process version 1 shows ``/``, version 2
still shows the path, with `` (deleted)`` after it if the cgroup is gone.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

__all__ = ["Counter", "MemoryCgroups", "read"]


class Counter(NamedTuple):
    """The counter of one cgroup: its path as ``/proc`` shows it, and the file."""

    cgroup: str
    file: Path


class MemoryCgroups:
    """The memory cgroups that this process can see.

    Parameters
    ----------
    root : str
        Directory that holds ``proc`` and ``sys``; not ``/`` in tests only.

    Attributes
    ----------
    version : int
        1 or 2; 0 if there is no memory controller in sight.
    """

    def __init__(self, root: str = "/") -> None:
        self._root = Path(root)
        mounts = [_mount(line) for line in (read(self._root / "proc/self/mountinfo") or "").splitlines()]
        # On hybrid systems version 2 is mounted without the memory controller, so 1 goes first.
        self.version = min((mount.version for mount in mounts if mount), default=0)
        usable = [mount for mount in mounts if mount and mount.version == self.version]
        ours = PurePosixPath(self.path_of("self") or "/")
        usable.sort(key=lambda mount: not ours.is_relative_to(mount.top))  # a container may see several
        self._top = usable[0].top if usable else PurePosixPath("/")
        self._mounted = self._root / (usable[0].at if usable else "")

    def path_of(self, pid: int | str) -> str | None:
        """Return the memory cgroup of `pid` (or ``"self"``), None if not known.

        Of an exited process the answer is wrong on version 1: always ``/``.
        """
        for line in (read(self._root / f"proc/{pid}/cgroup") or "").splitlines():
            number, controllers, path = (*line.split(":", 2), "", "")[:3]
            if (self.version == 1 and "memory" in controllers.split(",")) or (
                self.version == 2 and number == "0"
            ):
                return path.removesuffix(" (deleted)")
        return None

    def counters(self, path: str) -> list[Counter]:
        """Return the counters that count deaths in cgroup `path`, nearest first.

        One on version 1; on version 2 those of its ancestors too, as far up as
        they are mounted, which count what is below them. The cgroup's own
        counts its own processes alone, where the kernel has such a file (5.2
        and later). They need not exist.
        """
        cgroup = PurePosixPath(path)
        if not self.version or ".." in cgroup.parts:  # outside of our cgroup namespace
            return []
        name = "memory.oom_control" if self.version == 1 else "memory.events"
        # A mount may hold only a part of the tree (a container's bind mount). For a cgroup that is not in
        # it, the top of what is mounted is the nearest counter there is.
        below = cgroup.relative_to(self._top) if cgroup.is_relative_to(self._top) else PurePosixPath()
        levels = [below, *below.parents] if self.version == 2 else [below]
        found = [Counter(str(self._top / level), self._mounted / level / name) for level in levels]
        own = found[0].file.with_name("memory.events.local")
        # The local counter is the worker's own only if it was in this very cgroup. One that was elsewhere was
        # counted below.
        if self.version == 2 and found[0].cgroup == path and os.path.exists(own):
            found[0] = found[0]._replace(file=own)
        return found

    def exited(self, pid: int) -> bool:
        """Return whether `pid` has exited and was not yet waited for."""
        state = (read(self._root / f"proc/{pid}/stat") or "").rpartition(")")[2].split()
        return bool(state) and state[0] in "ZX"


def read(file: Path) -> str | None:
    """Return the text of a file, None if it cannot be read for any reason."""
    try:
        return os.fsdecode(file.read_bytes())
    except (OSError, ValueError):
        return None


class _Mount(NamedTuple):
    """A mounted tree of memory cgroups: the cgroup at its top, and where it is."""

    version: int
    top: PurePosixPath
    at: str


def _mount(line: str) -> _Mount | None:
    """Return what a line of mountinfo says, None if it is about something else."""
    before, _, after = line.partition(" - ")
    left, right = before.split(" "), after.split(" ")
    if len(left) < 5 or len(right) < 3:
        return None
    if right[0] == "cgroup" and "memory" in right[2].split(","):
        version = 1
    elif right[0] == "cgroup2":
        version = 2
    else:
        return None
    return _Mount(version, PurePosixPath(_unescaped(left[3])), _unescaped(left[4]).lstrip("/"))


def _unescaped(text: str) -> str:
    r"""Return a field of mountinfo with ``\040`` and the like undone."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
