"""What only `ProcessPoolExecutor` has: its shutdowns, ``map``, worker recycling, asyncio."""

from __future__ import annotations

import asyncio
import gc
import inspect
import multiprocessing
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from poolwarden import PoolBrokenError, TaskTimeoutError, WorkerLostError, guard, limits, unguard
from poolwarden.hosts.executor.adapter import ExecutorAdapter
from poolwarden.testing import deaf, hang, kill_self, only_for
from tests.contract.base import ContractBase, Notes, Pools, serves
from tests.contract.tasks import HeldUntil, Noted, pid_of_worker, same, square
from tests.contract.waiting import DEADLINE, ENDING, all_gone, eventually, is_gone, within
from tests.hosts.bind_executor import BindExecutor

RECYCLES = "max_tasks_per_child" in inspect.signature(ProcessPoolExecutor).parameters
BUFFERS = "buffersize" in inspect.signature(ProcessPoolExecutor.map).parameters
FORCES = [name for name in ("kill_workers", "terminate_workers") if hasattr(ProcessPoolExecutor, name)]


def _note_and_call(notes: list[str], name: str, method: Callable[[], None]) -> None:
    notes.append(name)
    method()


class ExecutorTests(ContractBase):
    """The contract's fixtures, for this host."""

    binding = BindExecutor

    @pytest.fixture
    def pool(self) -> Any:
        """Return a guarded executor of two forked workers, for tests that end it themselves."""
        pool = BindExecutor().make_pool()
        yield pool
        within(ENDING, BindExecutor().terminate, pool)


class TestShutdown(ExecutorTests):
    """Every way to shut an executor down, with a loss just before."""

    @pytest.mark.parametrize("wait", [True, False])
    def test_what_was_submitted_is_still_done(self, pool: Any, notes: Notes, wait: bool) -> None:
        lost = pool.submit(kill_self())
        futures = [pool.submit(square, n) for n in range(50)]
        pids = [pid for pid in pool._processes]

        within(ENDING, pool.shutdown, wait=wait)

        assert [future.result(DEADLINE) for future in futures] == [n * n for n in range(50)]
        with pytest.raises(WorkerLostError):
            lost.result(DEADLINE)
        with pytest.raises(RuntimeError, match="shutdown"):
            pool.submit(square, 1)
        all_gone(pids)

    def test_what_waits_can_be_cancelled(self, pool: Any, notes: Notes, tmp_path: Any) -> None:
        running = [pool.submit(Noted(notes.path, HeldUntil(tmp_path / "go")), n) for n in range(2)]
        notes.pids(2)
        queued = [pool.submit(Noted(notes.path, square), n) for n in range(2, 12)]

        pool.shutdown(wait=False, cancel_futures=True)
        (tmp_path / "go").touch()

        assert [future.result(DEADLINE) for future in running] == [0, 1]
        outcomes = [future.exception(DEADLINE) if not future.cancelled() else None for future in queued]
        assert outcomes == [None] * 10
        # As in the bare executor, those that had left for the workers are done.
        done = [n for n, future in zip(range(2, 12), queued, strict=True) if not future.cancelled()]
        assert done == list(range(2, 2 + len(done)))
        assert len(done) <= 3

    def test_a_worker_dies_while_it_is_shut_down(self, pool: Any, notes: Notes, tmp_path: Any) -> None:
        held = [pool.submit(Noted(notes.path, HeldUntil(tmp_path / "go")), n) for n in range(2)]
        queued = [pool.submit(square, n) for n in range(10)]
        pids = notes.pids(2)
        pool.shutdown(wait=False)

        os.kill(pids[0], signal.SIGKILL)
        all_gone(pids[:1])
        (tmp_path / "go").touch()

        assert [future.result(DEADLINE) for future in queued] == [n * n for n in range(10)]
        errors = [future.exception(DEADLINE) for future in held]
        assert sorted(type(error).__name__ for error in errors) == ["NoneType", "WorkerLostError"]
        all_gone(pids)

    @pytest.mark.skipif(not FORCES, reason="came with 3.14")
    @pytest.mark.parametrize("name", FORCES)
    def test_ending_it_by_force_breaks_what_is_pending(self, pool: Any, notes: Notes, name: str) -> None:
        running = [pool.submit(Noted(notes.path, deaf(hang())), n) for n in range(2)]
        queued = [pool.submit(square, n) for n in range(10)]
        pids = notes.pids(2)
        signalled: list[str] = []
        for process in list(pool._processes.values()):
            for method in ("kill", "terminate"):
                setattr(process, method, partial(_note_and_call, signalled, method, getattr(process, method)))

        within(ENDING, getattr(pool, name))

        assert signalled[:2] == [name.partition("_")[0]] * 2, "by the executor itself, and first"

        for future in running + queued:
            error = future.exception(DEADLINE) if not future.cancelled() else CancelledError()
            assert isinstance(error, (BrokenProcessPool, CancelledError)), error
        assert isinstance(running[0].exception(), PoolBrokenError)
        all_gone(pids)

    @pytest.mark.skipif(not FORCES, reason="came with 3.14")
    def test_ending_it_by_force_after_it_was_guarded_again(self, pool: Any, notes: Notes) -> None:
        """It was unguarded for a moment, while a task was running."""
        running = pool.submit(Noted(notes.path, deaf(hang())), 1)
        notes.pids(1)
        unguard(pool)
        guard(pool)

        within(ENDING, pool.kill_workers)

        with pytest.raises(PoolBrokenError, match=r"ended by kill_workers\(\)"):
            running.result(DEADLINE)

    @pytest.mark.skipif(not FORCES, reason="came with 3.14")
    def test_a_worker_that_leaves_meanwhile_is_not_replaced(self, notes: Notes, tmp_path: Path) -> None:
        context = multiprocessing.get_context("spawn")
        pool = guard(ProcessPoolExecutor(1, context, max_tasks_per_child=1))
        first = pool.submit(Noted(notes.path, HeldUntil(tmp_path / "go")), 1)
        second = pool.submit(Noted(notes.path, square), 2)
        notes.pids(1)
        with pool._shutdown_lock:
            pool._force_shutting_down = True

        (tmp_path / "go").touch()

        assert first.result(DEADLINE) == 1
        with pytest.raises(PoolBrokenError, match="forcefully shut down"):
            second.result(DEADLINE)
        assert list(notes.items()) == ["1"]
        within(ENDING, pool.shutdown)

    @pytest.mark.skipif(not FORCES, reason="came with 3.14")
    def test_a_force_that_is_not_known_breaks_nothing(self, pool: Any) -> None:
        with pytest.raises(ValueError, match="Unsupported operation"):
            pool._force_shutdown("stop")

        assert pool.submit(square, 3).result(DEADLINE) == 9


class TestUnpicklable(ExecutorTests):
    """A call that cannot be sent."""

    def test_its_error_says_where_and_leaves_nothing_to_the_collector(
        self, host: BindExecutor, make_pool: Pools
    ) -> None:
        pool = make_pool(usable_after=False)
        thread = weakref.ref(pool._executor_manager_thread)
        gc.collect()
        gc.disable()
        try:
            error = pool.submit(same, threading.Lock()).exception(DEADLINE)
            host.close(pool)

            assert type(error) is TypeError
            assert "cannot pickle" in str(error.__cause__)
            del error
            eventually(lambda: thread() is None, "the manager thread freed")
        finally:
            gc.enable()


class TestMap(ExecutorTests):
    """``map``: chunks count by item, in time and in losses."""

    def test_a_timeout_counts_for_each_item_of_a_chunk(self, make_pool: Pools) -> None:
        pool = make_pool(timeout=0.6)
        # Four items of one chunk take longer together than one may.
        assert list(pool.map(take_quarter, range(4), chunksize=4)) == [0, 1, 4, 9]

        with pytest.raises(TaskTimeoutError) as caught:
            list(pool.map(only_for(5, hang(), square), range(8), chunksize=4))
        assert caught.value.task.index == 5

    def test_losses_can_take_their_place(self, host: BindExecutor, make_pool: Pools, notes: Notes) -> None:
        pool = make_pool(losses="return")

        results = list(pool.map(Noted(notes.path, only_for(5, kill_self(), square)), range(12), chunksize=4))

        assert isinstance(results[5], WorkerLostError)
        assert results[5].task.index == 5
        del results[5]
        assert results == [n * n for n in range(12) if n != 5]
        assert max(notes.items().values()) == 1, "none ran twice"
        serves(host, pool)

    def test_several_iterables_and_its_own_timeout(self, make_pool: Pools, tmp_path: Any) -> None:
        pool = make_pool()
        assert list(pool.map(pow, range(6), [2] * 6, chunksize=4)) == [0, 1, 4, 9, 16, 25]

        results = pool.map(HeldUntil(tmp_path / "go"), range(2), timeout=0.1)
        with pytest.raises(TimeoutError if hasattr(asyncio, "timeout") else Exception):
            list(results)
        (tmp_path / "go").touch()

    @pytest.mark.skipif(not BUFFERS, reason="came with 3.14")
    def test_an_endless_iterable_with_a_buffer(self, host: BindExecutor, make_pool: Pools) -> None:
        pool = make_pool(losses="return")
        results = pool.map(only_for(3, kill_self(), square), iter(int, 1), buffersize=4)
        assert [next(results) for _ in range(10)] == [0] * 10

        numbers = pool.map(only_for(3, kill_self(), square), range(10), buffersize=2)
        assert [type(result).__name__ for result in numbers].count("WorkerLostError") == 1
        del results
        serves(host, pool)


class TestRecycling(ExecutorTests):
    """``max_tasks_per_child``: a worker that leaves after its last task is no loss."""

    pytestmark = pytest.mark.skipif(not RECYCLES, reason="max_tasks_per_child came with 3.11")

    @pytest.fixture(params=["spawn", "forkserver"])
    def recycling(self, request: pytest.FixtureRequest) -> Any:
        """Return what makes an executor of that start method whose workers do `n` tasks each."""
        pools: list[Any] = []

        def make(workers: int, n: int, **options: Any) -> Any:
            context = multiprocessing.get_context(request.param)
            pools.append(guard(ProcessPoolExecutor(workers, context, max_tasks_per_child=n), **options))
            return pools[-1]

        yield make
        for pool in pools:
            within(ENDING, pool.shutdown)

    def test_workers_leave_and_nothing_is_lost(self, recycling: Callable[..., Any]) -> None:
        seen: list[Any] = []
        pool = recycling(2, 2, on_event=seen.append)

        pids = [future.result(DEADLINE) for future in [pool.submit(pid_of_worker) for _ in range(12)]]

        assert max(pids.count(pid) for pid in pids) <= 2
        assert len(set(pids)) >= 6
        assert seen == []

    def test_a_worker_leaves_in_the_middle_of_guard(
        self, recycling: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It has ended when the guard is told of it, with the manager thread hooked up."""
        may_go = tmp_path / "may go"
        pool = recycling(1, 1)
        unguard(pool)
        task = pool.submit(HeldUntil(may_go), 3)
        take = ExecutorAdapter.take_thread

        def take_late(adapter: Any, thread: Any) -> None:
            (pid,) = list(adapter.workers.table)
            may_go.touch()
            eventually(lambda: is_gone(pid), "the worker's end")
            take(adapter, thread)

        monkeypatch.setattr(ExecutorAdapter, "take_thread", take_late)
        within(DEADLINE, guard, pool)

        assert task.result(DEADLINE) == 3
        assert pool.submit(square, 4).result(DEADLINE) == 16

    def test_a_loss_beside_workers_that_leave(self, recycling: Callable[..., Any]) -> None:
        pool = recycling(2, 1)
        futures = [pool.submit(only_for(3, kill_self(), square), n) for n in range(8)]

        errors = [future.exception(DEADLINE) for future in futures]

        assert [type(error).__name__ for error in errors] == [
            "WorkerLostError" if n == 3 else "NoneType" for n in range(8)
        ]

    def test_idle_for_a_while_and_used_again(self, recycling: Callable[..., Any]) -> None:
        """Older patch levels stall here, trusting a stale token (gh-115634)."""
        pool = recycling(2, 1)
        for n in range(4):
            assert pool.submit(square, n).result(DEADLINE) == n * n

    def test_what_was_submitted_before_a_shutdown_is_done(self, recycling: Callable[..., Any]) -> None:
        """Older patch levels fail here, without the queue to start workers with (gh-132969)."""
        pool = recycling(1, 1)
        futures = [pool.submit(square, n) for n in range(4)]

        pool.shutdown(wait=False)

        assert [future.result(DEADLINE) for future in futures] == [0, 1, 4, 9]


class TestIds(ExecutorTests):
    """The queue of ids, which the manager thread looks up among what is pending."""

    def test_one_that_stands_for_nothing_stops_nobody(self, host: BindExecutor, make_pool: Pools) -> None:
        """loky leaves such ids behind, and the thread that answers everything died of one."""
        pool = make_pool()
        queue = pool._work_ids
        type(queue).put(queue, 10**9)
        serves(host, pool)


class TestAsyncio(ExecutorTests):
    """``loop.run_in_executor`` hands the errors on."""

    def test_a_loss_is_that_awaitables_alone(self, host: BindExecutor, make_pool: Pools) -> None:
        pool = make_pool()

        async def main() -> list[Any]:
            loop = asyncio.get_running_loop()
            calls = [
                loop.run_in_executor(pool, only_for(3, kill_self(), square), number) for number in range(8)
            ]
            return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), DEADLINE)

        results = asyncio.run(main())

        assert isinstance(results.pop(3), WorkerLostError)
        assert results == [n * n for n in range(8) if n != 3]
        serves(host, pool)

    def test_an_endless_task_ends(self, make_pool: Pools) -> None:
        pool = make_pool()

        async def main() -> None:
            call = asyncio.get_running_loop().run_in_executor(pool, limits(hang(), timeout=0.3))
            await asyncio.wait_for(call, DEADLINE)

        with pytest.raises(TaskTimeoutError):
            asyncio.run(main())


class TestSiblings(ExecutorTests):
    """What else the workers do when one of them dies."""

    def test_one_that_ignores_sigterm_goes_on(
        self, host: BindExecutor, make_pool: Pools, notes: Notes, tmp_path: Any
    ) -> None:
        pool = make_pool()
        sibling = pool.submit(Noted(notes.path, deaf(HeldUntil(tmp_path / "go"))), 7)
        (pid,) = notes.pids()

        with pytest.raises(WorkerLostError):
            pool.submit(kill_self()).result(DEADLINE)
        (tmp_path / "go").touch()

        assert sibling.result(DEADLINE) == 7
        assert pid in host.worker_pids(pool)
        serves(host, pool)

    def test_workers_come_back(self, host: BindExecutor, make_pool: Pools) -> None:
        pool = make_pool(3)
        for pid in host.idle_pids(pool, 3):
            os.kill(pid, signal.SIGKILL)

        assert list(pool.map(square, range(20))) == [n * n for n in range(20)]
        eventually(lambda: len(host.worker_pids(pool)) == 3, "three workers")


def take_quarter(n: int) -> int:
    """Return the square of `n`, in a quarter of a second."""

    time.sleep(0.25)
    return n * n
