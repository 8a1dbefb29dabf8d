"""`ProcessPoolExecutor` and loky: the same as for `Pool`, in their own words."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from typing import Any

from . import hosts
from .deaths import killed_at
from .meeting import BOUND, Meeting, report_and_wait
from .pairs import Case, Row, Samples
from .payloads import SIZE, give, take
from .throughput import WINDOW, nothing

WORKERS = 2
HOSTS = ("executor", *(("loky",) if hosts.is_there("loky") else ()))

Work = Callable[[Any, int], None]


def one_by_one(executor: Any, count: int) -> None:
    for _ in range(count):
        executor.submit(nothing).result()


def in_windows(executor: Any, count: int) -> None:
    for _ in range(count // WINDOW):
        for future in as_completed([executor.submit(nothing) for _ in range(WINDOW)]):
            future.result()


def chunks(executor: Any, count: int) -> None:
    deque(executor.map(nothing, range(count), chunksize=1000), maxlen=0)


def arguments(executor: Any, count: int) -> None:
    for _ in range(count):
        executor.submit(take, give(SIZE)).result()


def results(executor: Any, count: int) -> None:
    for _ in range(count):
        executor.submit(give, SIZE).result()


def _rate(host: str, work: Work, count: int, blocks: int, each: float) -> Callable[[str, bool], Samples]:
    """Return what measures `blocks` times how much `work` does of `count`, in `each` per second."""

    def measure(variant: str, quick: bool) -> Samples:
        tasks = max(1, count // 10) if quick else count
        rates, cpu = [], []
        with hosts.make(variant, WORKERS, host=host) as executor:
            # Whatever is small: the workers start, and imports are over.
            one_by_one(executor, 100)
            work(executor, max(1, tasks // 10))
            for _ in range(blocks):
                began, used = time.perf_counter(), time.process_time()
                work(executor, tasks)
                rates.append(tasks * each / (time.perf_counter() - began))
                cpu.append((time.process_time() - used) / tasks * 1e6)
        return {"rate": rates, "cpu": cpu}

    return measure


def _deaths(host: str) -> Callable[[str, bool], Samples]:
    """Return what kills the worker of the only running task, again and again."""

    def measure(variant: str, quick: bool) -> Samples:
        from poolwarden import WorkerLostError

        lost = []
        with Meeting() as meeting, hosts.make(variant, WORKERS, host=host) as executor:
            for _ in range(5 if quick else 25):
                future = executor.submit(report_and_wait, meeting.reports, meeting.gate)
                killed = killed_at(int(meeting.next_report()))
                if not isinstance(future.exception(BOUND), WorkerLostError):
                    raise RuntimeError("the task was not lost")
                lost.append((time.perf_counter() - killed) * 1e3)
                executor.submit(nothing).result(BOUND)
        return {"lost": lost}

    return measure


def _cases(host: str) -> Iterator[Case]:
    def rate(title: str, unit: str, target: str, limit: float) -> Row:
        return Row("rate", f"{host}: {title}", unit, "ratio", "", target, limit, more=True)

    def case(name: str, work: Work, count: int, blocks: int, *rows: Row, each: float = 1) -> Case:
        return Case(f"{host}-{name}", _rate(host, work, count, blocks, each), rows, rounds=3)

    yield case("submit", one_by_one, 1_000, 7, rate("no-ops one by one: submit", "tasks/s", "≥ 0.95", 0.95))
    yield case(
        "window",
        in_windows,
        2_000,
        7,
        rate(f"no-ops, {WINDOW} outstanding: as_completed", "tasks/s", "≥ 0.95", 0.95),
        Row("cpu", f"{host}: ... CPU of the parent per task", "us", "ratio", "", "≤ 1.5", 1.5),
    )
    yield case("map", chunks, 1_000_000, 2, rate("1M no-ops: map(chunksize=1000)", "tasks/s", "≥ 0.98", 0.98))
    for name, work in (("arguments", arguments), ("results", results)):
        yield case(name, work, 3, 7, rate(f"10 MB {name}", "MB/s", "≥ 1.0, aim 3", 1.0), each=SIZE / 1e6)
    yield Case(
        f"{host}-death",
        _deaths(host),
        (Row("lost", f"{host}: SIGKILL to exception", "ms", "value", "", "≤ 5, p99 ≤ 20", 5, p99=20),),
        variants=("guarded",),
        rounds=2,
    )


CASES = tuple(case for host in HOSTS for case in _cases(host))
