"""Counts guarded pools where a guarded run can be asked whether it was one.

Installed as ``compat_witness`` into the recipes' environments, where a start-up
file imports it in every interpreter. At its exit each process appends one line
for each host whose pools were guarded in it. What ends without an exit (a worker
of a pool, a process that is killed) counts nothing, so the sum is a lower bound.
"""

import atexit
import os
import re
import sys


def _tell(path: str, pid: int) -> None:
    adapters = sys.modules.get("poolwarden.hosts.base")
    if os.getpid() != pid or adapters is None:
        return
    with open(path, "a", encoding="utf-8") as file:
        for host, numbers in adapters._numbers.items():
            following = int(re.findall(r"\d+", repr(numbers))[0])
            file.write(f"{following - 1} {host}\n")


if os.environ.get("COMPAT_WITNESS"):
    atexit.register(_tell, os.environ["COMPAT_WITNESS"], os.getpid())
