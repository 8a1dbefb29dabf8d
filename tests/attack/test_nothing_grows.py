"""Nothing grows with the number of pools, guards, or cancelled tasks.

The kind: what is left of each. Siblings: pools and executors made and ended;
guard and unguard of one that lives, unused and used; tasks cancelled before
and after they begin. Counted are objects that a collector finds, bytes that
Python has given out, finalizers and descriptors, after the first few rounds.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ProcessPoolExecutor
from multiprocessing import util
from typing import Any

import pytest

from poolwarden import cancel, guard, unguard
from tests.contract.tasks import square
from tests.contract.waiting import DEADLINE, eventually
from tests.hosts import bind_loky

ROUNDS = 60
#: Objects and bytes a round that would be growth; what varies is divided by the rounds.
OBJECTS, BYTES = 0.3, 300
#: How often to look for a stretch of rounds that leaves nothing.
TRIES = 3
#: The main thread, a pool's own three or an executor's two, and poolwarden's.
THREADS = 6

CONTEXT = multiprocessing.get_context("fork")


def figures() -> tuple[int, int, int, int]:
    """Return how many objects, bytes, finalizers and descriptors there are."""
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    return len(gc.get_objects()), taken, len(util._finalizer_registry), len(os.listdir("/proc/self/fd"))


def growth_of(once: Callable[[], object]) -> list[int]:
    """Return by how much the figures have grown after `ROUNDS` times."""
    before = figures()
    for _ in range(ROUNDS):
        once()
    # A thread of the last round may be about to end.
    eventually(lambda: threading.active_count() <= THREADS, "no thread but those that stay")
    return [now - then for now, then in zip(figures(), before, strict=True)]


def is_small(growth: list[int]) -> bool:
    objects, taken, finalizers, descriptors = growth
    return objects <= OBJECTS * ROUNDS and taken <= BYTES * ROUNDS and finalizers <= 1 and descriptors <= 2


def check(once: Callable[[], object]) -> None:
    """Do something again and again; fail if each time leaves something."""
    tracemalloc.start()
    try:
        for _ in range(10):
            once()
        # What is made once and kept comes in the first rounds, what grows in all of them.
        grown: list[list[int]] = []
        while len(grown) < TRIES and not (grown and is_small(grown[-1])):
            grown.append(growth_of(once))
        assert is_small(grown[-1]), (
            f"left in {ROUNDS} rounds: {grown} objects, bytes, finalizers, descriptors"
        )
    finally:
        tracemalloc.stop()


def test_pools_made_and_ended() -> None:
    def once() -> None:
        with guard(CONTEXT.Pool(1)) as pool:
            assert pool.apply(square, (3,)) == 9
        pool.join()

    check(once)


def test_executors_made_and_ended() -> None:
    def once() -> None:
        with guard(ProcessPoolExecutor(1, CONTEXT)) as executor:
            assert executor.submit(square, 3).result(DEADLINE) == 9

    check(once)


@pytest.fixture
def made() -> Iterator[list[Any]]:
    """Hold the test's pool, and drop it before it is looked for what the test has left."""
    pools: list[Any] = []
    yield pools
    while pools:
        pool = pools.pop()
        pool.shutdown() if hasattr(pool, "shutdown") else pool.terminate()


@pytest.fixture(scope="module", autouse=True)
def warm_loky(warm: None) -> None:
    """Start what stays for the whole process."""
    with contextlib.suppress(ImportError):
        host = bind_loky.BindLoky()
        host.close(host.make_pool(1))


@pytest.mark.parametrize("used", [False, True])
def test_guard_and_unguard_of_a_pool(made: list[Any], used: bool) -> None:
    pool = CONTEXT.Pool(1)
    made.append(pool)

    def once() -> None:
        guard(pool)
        assert not used or pool.apply(square, (3,)) == 9
        unguard(pool)

    check(once)


@pytest.mark.parametrize("used", [False, True])
def test_guard_and_unguard_of_an_executor(made: list[Any], used: bool) -> None:
    executor = ProcessPoolExecutor(1, CONTEXT)
    made.append(executor)

    def once() -> None:
        guard(executor)
        assert not used or executor.submit(square, 3).result(DEADLINE) == 9
        unguard(executor)

    check(once)


def test_guard_and_unguard_of_loky(made: list[Any]) -> None:
    loky = pytest.importorskip("loky")
    executor = loky.ProcessPoolExecutor(1)
    made.append(executor)

    def once() -> None:
        guard(executor)
        assert executor.submit(square, 3).result(DEADLINE) == 9
        unguard(executor)

    check(once)


def test_cancelled_tasks_of_a_pool(made: list[Any]) -> None:
    pool = guard(CONTEXT.Pool(1))
    made.append(pool)

    def once() -> None:
        handles = [pool.apply_async(square, (n,)) for n in range(5)]
        cancelled = [cancel(handle) for handle in handles]
        for handle in handles:
            try:
                assert handle.get(DEADLINE) < 25
            except CancelledError:
                assert any(cancelled)
        eventually(lambda: not pool._cache, "every message is back")

    check(once)


def test_cancelled_tasks_of_an_executor(made: list[Any]) -> None:
    executor = guard(ProcessPoolExecutor(1, CONTEXT), cancel_running=True)
    made.append(executor)

    def once() -> None:
        futures = [executor.submit(square, n) for n in range(5)]
        for future in futures:
            cancel(future)
        for future in futures:
            with contextlib.suppress(CancelledError):
                assert future.result(DEADLINE) < 25
        eventually(lambda: not executor._pending_work_items, "every message is back")

    check(once)
