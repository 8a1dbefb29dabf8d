"""What it costs to begin: CPU of imports and of starting a worker, in ms."""

from __future__ import annotations

import os
import resource
import sys

from . import hosts
from .meeting import BOUND, Meeting, report_and_wait
from .pairs import Case, Row, Samples

WORKERS = 2

CODE = {
    "import": {"bare": "pass", "guarded": "import poolwarden"},
    "guard": {"bare": "import multiprocessing.pool", "guarded": "from poolwarden import guard"},
}


def imports(variant: str, quick: bool) -> Samples:
    """Start interpreters that import something and leave."""
    return {
        key: [_cpu_of([sys.executable, "-c", code[variant]]) for _ in range(3 if quick else 10)]
        for key, code in CODE.items()
    }


def _cpu_of(command: list[str]) -> float:
    pid = os.posix_spawn(command[0], command, os.environ)
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise RuntimeError(f"{command} ended with {status}")
    return (usage.ru_utime + usage.ru_stime) * 1e3


def spawned(variant: str, quick: bool) -> Samples:
    """Start workers by spawn, let each do one task, and end them."""
    cpu = []
    for _ in range(1 if quick else 3):
        before = _cpu_of_ended()
        with Meeting() as meeting:
            pool = hosts.make(variant, WORKERS, "spawn")
            handles = [
                pool.apply_async(report_and_wait, (meeting.reports, meeting.gate)) for _ in range(WORKERS)
            ]
            for _ in handles:
                meeting.next_report()
            meeting.let_go(WORKERS)
            for handle in handles:
                handle.get(BOUND)
            pool.close()
            pool.join()
        cpu.append((_cpu_of_ended() - before) * 1e3 / WORKERS)
    return {"worker": cpu}


def _cpu_of_ended() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


CASES = (
    Case(
        "import",
        imports,
        (
            Row("import", "import poolwarden, CPU", "ms", "over", "≤ 5", "≤ 5", 5),
            Row("guard", "from poolwarden import guard, over multiprocessing.pool", "ms", "over"),
        ),
    ),
    Case("spawn", spawned, (Row("worker", "spawned worker, CPU", "ms", "over", "", "≤ 5", 5),)),
)
