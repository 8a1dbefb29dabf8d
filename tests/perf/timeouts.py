"""How much longer than its timeout a task runs: ms."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from . import hosts
from .meeting import BOUND, Meeting, report
from .pairs import Case, Row, Samples
from .throughput import nothing

TIMEOUT = 0.1  # seconds
WORKERS = 2


def sleep(reports: str) -> None:
    """Sleep in Python's own call."""
    report(reports, time.monotonic())
    time.sleep(BOUND)


def block_in_c(reports: str) -> None:
    """Wait in C without the GIL, as for a lock or the network."""
    lock = threading.Lock()
    lock.acquire()
    report(reports, time.monotonic())
    lock.acquire(timeout=BOUND)


def hold_the_gil(reports: str) -> None:
    """Compute in one C call that neither releases the GIL nor looks at signals."""
    report(reports, time.monotonic())
    sum(range(10**12))


def _overshoot(task: Callable[[str], None]) -> Callable[[str, bool], Samples]:
    def measure(variant: str, quick: bool) -> Samples:
        from poolwarden import TaskTimeoutError

        over = []
        with Meeting() as meeting, hosts.make(variant, WORKERS, timeout=TIMEOUT) as pool:
            pool.map(nothing, range(WORKERS), chunksize=1)
            for _ in range(4 if quick else 15):
                handle = pool.apply_async(task, (meeting.reports,))
                began = meeting.next_report()
                try:
                    handle.get(BOUND)
                except TaskTimeoutError:
                    over.append((time.monotonic() - began - TIMEOUT) * 1e3)
        return {"over": over}

    return measure


def _case(name: str, title: str, task: Callable[[str], None]) -> Case:
    row = Row("over", f"Pool: timeout overshoot, {title}", "ms", "value", "", "≤ 10, aim 3", 10)
    return Case(name, _overshoot(task), (row,), variants=("guarded",), rounds=2)


CASES = (
    _case("timeout-sleep", "sleep", sleep),
    _case("timeout-c", "blocked in C", block_in_c),
    _case("timeout-gil", "GIL held in C", hold_the_gil),
)
