"""How much memory this process may still take, so that payloads take only a share of it.

Runs in the parent. Covers the machine and the process's own memory cgroup; what
cannot be read does not count. Never raises.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

from .cgroup import MemoryCgroups, read

#: Limit and use of a memory cgroup, by its version.
_FILES: Final = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    2: ("memory.max", "memory.current"),
}
_AVAILABLE: Final = re.compile(r"^MemAvailable:\s*(\d+) kB$", re.MULTILINE)


def free_memory(root: str = "/") -> int:
    """Return how many bytes of memory this process may still take; a huge number if that is not known.

    Parameters
    ----------
    root : str
        Directory that holds ``proc`` and ``sys``; not ``/`` in tests only.
    """
    found = [sys.maxsize]
    if match := _AVAILABLE.search(read(Path(root) / "proc/meminfo") or ""):
        found.append(int(match[1]) * 1024)
    cgroups = MemoryCgroups(root)
    for counter in cgroups.counters(cgroups.path_of("self") or "/"):
        limit, use = (read(counter.file.with_name(name)) or "" for name in _FILES[cgroups.version])
        # "max" is no limit.
        if limit.strip().isdigit() and use.strip().isdigit():
            found.append(max(int(limit) - int(use), 0))
    return min(found)
