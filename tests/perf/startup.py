"""What it costs to begin: CPU of imports and of starting a worker, in ms."""

from __future__ import annotations

import os
import resource
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Mapping
from pathlib import Path

import poolwarden

from . import hosts
from .meeting import BOUND, Meeting, report_and_wait
from .pairs import Case, Row, Samples

WORKERS = 2
SOURCES = Path(poolwarden.__file__).parents[1]

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


def _cpu_of(command: list[str], environment: Mapping[str, str] = os.environ) -> float:
    pid = os.posix_spawn(command[0], command, environment)
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise RuntimeError(f"{command} ended with {status}")
    return (usage.ru_utime + usage.ru_stime) * 1e3


def starts(variant: str, quick: bool) -> Samples:
    """Start interpreters of a virtual environment in which our start-up files are, or are not."""
    count = 5 if quick else 40
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=False, symlinks=True)
        python = os.path.join(folder, "bin", "python")
        if variant == "guarded":
            packages = sysconfig.get_path("purelib", "posix_prefix", {"base": folder})
            for file in SOURCES.glob("poolwarden*"):
                os.symlink(file, os.path.join(packages, file.name))
        unset = {name: text for name, text in os.environ.items() if not name.startswith("POOLWARDEN")}
        command = [python, "-c", "pass"]
        return {
            "unset": [_cpu_of(command, unset) for _ in range(count)],
            "set": [_cpu_of(command, {**unset, "POOLWARDEN": "1"}) for _ in range(count)],
        }


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
    Case(
        "start",
        starts,
        (
            Row("unset", "interpreter start, POOLWARDEN unset, CPU", "ms", "over", "", "≤ 0.2", 0.2),
            Row("set", "interpreter start, POOLWARDEN=1, no pool made", "ms", "over"),
        ),
    ),
    Case("spawn", spawned, (Row("worker", "spawned worker, CPU", "ms", "over", "", "≤ 5", 5),)),
)
