"""What a task costs that waits: memory, and CPU to submit it."""

from __future__ import annotations

import gc
import os
import time

from . import hosts
from .meeting import Meeting, report_and_wait
from .pairs import Case, Row, Samples
from .throughput import nothing

TASKS = 100_000


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def queue(variant: str, quick: bool) -> Samples:
    """Submit many tasks to a pool whose only worker is held up."""
    count = TASKS // 10 if quick else TASKS
    with Meeting() as meeting:
        pool = hosts.make(variant, 1)
        held = pool.apply_async(report_and_wait, (meeting.reports, meeting.gate))
        meeting.next_report()
        gc.collect()
        memory, cpu = resident(), time.process_time()
        handles = [pool.apply_async(nothing, (number,)) for number in range(count)]
        cpu = time.process_time() - cpu
        gc.collect()
        memory = resident() - memory
        pool.terminate()
        del handles, held
    return {"memory": [memory / count], "cpu": [cpu / count * 1e6]}


CASES = (
    Case(
        "queue",
        queue,
        (
            Row(
                "memory",
                f"Pool: memory per queued task ({TASKS})",
                "bytes",
                "over",
                "",
                "≤ +300, aim +100",
                300,
            ),
            Row("cpu", "Pool: CPU per submit", "us", "ratio", "", "≤ 1.5", 1.5),
        ),
        rounds=3,
    ),
)
