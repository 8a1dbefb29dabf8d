"""What a pool costs that has nothing to do: wake-ups and CPU of its process."""

from __future__ import annotations

import os
import time
from pathlib import Path

from . import hosts
from .pairs import Case, Row, Samples
from .throughput import nothing

WORKERS = 4


def switches() -> int:
    """Return how often the other threads of this process have slept or were put aside."""
    count = 0
    for thread in Path("/proc/self/task").iterdir():
        if int(thread.name) != os.getpid():
            for line in (thread / "status").read_text().splitlines():
                if "ctxt_switches" in line:
                    count += int(line.split()[1])
    return count


def idle(variant: str, quick: bool) -> Samples:
    """Count wake-ups and CPU (ms) of all threads but the measuring one."""
    seconds = 1 if quick else 5
    with hosts.make(variant, WORKERS) as pool:
        pool.map(nothing, range(1000), chunksize=1)
        time.sleep(0.5)  # let it come to rest: that is the state to be measured
        before, cpu = switches(), time.process_time() - time.thread_time()
        time.sleep(seconds)
        after, cpu_after = switches(), time.process_time() - time.thread_time()
    return {"wakeups": [(after - before) / seconds], "cpu": [(cpu_after - cpu) * 1e3 * 5 / seconds]}


CASES = (
    Case(
        "idle",
        idle,
        (
            Row("wakeups", "Pool: idle: wake-ups per second", "/s", "value", "0", "0", 0),
            Row("wakeups", "Pool: idle, timeouts set", "/s", "value", "", "aim 0", 0, subject="armed"),
            Row("cpu", "Pool: idle: CPU in 5 s", "ms", "over", "", "0.06", 0.06),
        ),
        variants=("bare", "guarded", "armed"),
        rounds=2,
    ),
)
