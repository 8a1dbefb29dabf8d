"""From the death of a worker to the exception, and back to work: ms."""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import time
from typing import Any

from . import hosts
from .meeting import BOUND, Meeting, report, report_and_wait, wait_at
from .pairs import Case, Row, Samples
from .throughput import nothing

WORKERS = 4
MANY, QUEUED, QUEUED_SECONDS = 32, 5_000, 0.02
PIDS = 1 << 22  # the kernel's limit


def doze() -> None:
    """Be one of many queued tasks."""
    time.sleep(QUEUED_SECONDS)


def report_both_and_wait(reports: str, gate: str, index: int) -> None:
    """Report this task's index and this worker's pid as one number, and wait."""
    report(reports, index * PIDS + os.getpid())
    wait_at(gate)


def killed_at(pid: int) -> float:
    """Kill a worker whose task is about to wait; return when."""
    # The task has reported a moment before it blocks; a kill belongs to a task that runs, not one that
    # is about to wait, and this makes it so.
    time.sleep(0.002)
    began = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    return began


def _lost_at(handle: Any) -> float:
    from poolwarden import WorkerLostError

    try:
        handle.get(BOUND)
    except WorkerLostError:
        return time.perf_counter()
    raise RuntimeError("the task was not lost")


def _worker_starts(meeting: Meeting, count: int) -> list[float]:
    """Return how long bare processes take from ``start`` to their first statement, in s."""
    context = multiprocessing.get_context("fork")
    times = []
    for _ in range(count):
        process = context.Process(target=report, args=(meeting.reports, 0.0))
        began = time.perf_counter()
        process.start()
        meeting.next_report()
        times.append(time.perf_counter() - began)
        process.join()
    return times


def one_death(variant: str, quick: bool) -> Samples:
    """Kill the worker of the only running task, again and again."""
    lost, following, back = [], [], []
    with Meeting() as meeting, hosts.make(variant, WORKERS) as pool:
        pool.map(nothing, range(WORKERS), chunksize=1)
        for _ in range(5 if quick else 25):
            handle = pool.apply_async(report_and_wait, (meeting.reports, meeting.gate))
            killed = killed_at(int(meeting.next_report()))
            raised = _lost_at(handle)
            pool.apply(nothing)
            followed = time.perf_counter()
            # All workers at the same time in one place: so many there are again.
            handles = [
                pool.apply_async(report_and_wait, (meeting.reports, meeting.gate)) for _ in range(WORKERS)
            ]
            for _ in handles:
                meeting.next_report()
            returned = time.perf_counter()
            meeting.let_go(WORKERS)
            for waiting in handles:
                waiting.get(BOUND)
            lost.append((raised - killed) * 1e3)
            following.append((followed - raised) * 1e3)
            back.append((returned - raised) * 1e3)
        start = statistics.median(_worker_starts(meeting, 10)) * 1e3
    return {
        "lost": lost,
        "following": following,
        "back": back,
        "starts": [time / start for time in back],
    }


def deaths_in_a_crowd(variant: str, quick: bool) -> Samples:
    """Kill workers while many others are busy and a long queue waits."""
    lost = []
    with Meeting() as meeting, hosts.make(variant, MANY) as pool:
        pool.map(nothing, range(MANY), chunksize=1)
        count = 4 if quick else 12
        held = [
            pool.apply_async(report_both_and_wait, (meeting.reports, meeting.gate, index))
            for index in range(count)
        ]
        reports = [divmod(int(meeting.next_report()), PIDS) for _ in held]
        queued = [pool.apply_async(doze) for _ in range(QUEUED // 10 if quick else QUEUED)]
        for index, pid in reports:
            killed = killed_at(pid)
            lost.append((_lost_at(held[index]) - killed) * 1e3)
        if queued[-1].ready():
            raise RuntimeError("the queue was empty before the last kill")
        for handle in queued:
            handle.get(BOUND)
    return {"crowd": lost}


CASES = (
    Case(
        "death",
        one_death,
        (
            Row("lost", "Pool: SIGKILL to exception", "ms", "value", "≤ 5", "≤ 5, p99 ≤ 20", 5, p99=20),
            Row("following", "Pool: exception to next result", "ms", "value", "", "≤ 5", 5),
            Row("back", "Pool: exception to all workers back", "ms", "value"),
            Row("starts", "... in bare worker starts", "x", "value", "", "≤ 1.5", 1.5),
        ),
        variants=("guarded",),
        rounds=4,
    ),
    Case(
        "crowd",
        deaths_in_a_crowd,
        (
            Row(
                "crowd",
                f"Pool: SIGKILL to exception, {MANY} workers, {QUEUED} queued",
                "ms",
                "value",
                "",
                "≤ 5, p99 ≤ 20",
                5,
                p99=20,
            ),
        ),
        variants=("guarded",),
        rounds=3,
    ),
)
