"""Tasks that do nothing, in every way to submit them: tasks/s."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from . import hosts
from .pairs import Case, Row, Samples

WORKERS = 2
WINDOW = 100


def nothing(_: object = None) -> None:
    """Do nothing."""


def one_by_one(pool: Any, count: int) -> None:
    for _ in range(count):
        pool.apply(nothing)


def in_a_window(pool: Any, count: int) -> None:
    handles: deque[Any] = deque()
    for _ in range(count):
        if len(handles) == WINDOW:
            handles.popleft().get()
        handles.append(pool.apply_async(nothing))
    while handles:
        handles.popleft().get()


def unordered(pool: Any, count: int) -> None:
    for _ in pool.imap_unordered(nothing, range(count), chunksize=1):
        pass


def chunks(pool: Any, count: int) -> None:
    pool.map(nothing, range(count), chunksize=1000)


def _rate(work: Callable[[Any, int], None], count: int, blocks: int) -> Callable[[str, bool], Samples]:
    def measure(variant: str, quick: bool) -> Samples:
        tasks = count // 10 if quick else count
        rates = []
        with hosts.make(variant, WORKERS) as pool:
            work(pool, max(100, tasks // 10))
            for _ in range(blocks):
                began = time.perf_counter()
                work(pool, tasks)
                rates.append(tasks / (time.perf_counter() - began))
        return {"rate": rates}

    return measure


def _row(title: str, stage: str, target: str, limit: float) -> tuple[Row, ...]:
    return (Row("rate", title, "tasks/s", "ratio", stage, target, limit, more=True),)


CASES = (
    Case(
        "apply", _rate(one_by_one, 2_000, 9), _row("Pool: no-ops one by one: apply", "≥ 0.95", "≥ 0.95", 0.95)
    ),
    Case(
        "window",
        _rate(in_a_window, 4_000, 9),
        _row(f"Pool: no-ops, {WINDOW} outstanding: apply_async", "≥ 0.95", "≥ 0.95", 0.95),
    ),
    Case(
        "imap",
        _rate(unordered, 4_000, 9),
        _row("Pool: no-ops: imap_unordered, chunk 1", "", "≥ 0.95", 0.95),
    ),
    Case(
        "map",
        _rate(chunks, 1_000_000, 3),
        _row("Pool: 1M no-ops: map(chunksize=1000)", "≥ 0.95", "≥ 0.98", 0.95),
    ),
)
