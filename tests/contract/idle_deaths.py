"""Rows 4, 5 and 20: a worker dies idle, reading, sending, or at any moment."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from poolwarden import WorkerLostError
from poolwarden.testing import on_pickle, on_unpickle
from tests.contract.base import ContractBase, Notes, Pools, serves
from tests.contract.binding import Answers, PoolBinding
from tests.contract.tasks import HeldUntil, Noted, Returning, payload, same, size_of, square
from tests.contract.waiting import ENDING, all_asleep, all_gone, within

LARGE = 64 << 20


def kill(*pids: int) -> None:
    """SIGKILL each process as nearly at once as one loop can."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


class IdleWorkerDies(ContractBase):
    """Row 4: nothing was lost, so nothing is raised, and the pool goes on."""

    @pytest.mark.every_start_method
    @pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
    def test_each_idle_worker_in_turn(self, host: PoolBinding, make_pool: Pools, used: bool) -> None:
        pool = make_pool(3)
        if used:
            serves(host, pool)
        for turn, pid in enumerate(host.idle_pids(pool, 3)):
            kill_if_there(pid)  # a repair may have replaced it already
            assert host.result(host.submit(pool, square, turn)) == turn * turn
            serves(host, pool)
            host.idle_pids(pool, 3)

    @pytest.mark.every_start_method
    @pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
    def test_all_idle_workers_at_once(self, host: PoolBinding, make_pool: Pools, used: bool) -> None:
        pool = make_pool(3)
        if used:
            serves(host, pool)

        kill(*host.idle_pids(pool, 3))

        handles = [host.submit(pool, square, n) for n in range(10)]
        assert [host.result(handle) for handle in handles] == [n * n for n in range(10)]

    @pytest.mark.parametrize("ending", ["close", "terminate", "with"])
    @pytest.mark.parametrize("all_of_them", [False, True], ids=["one", "all"])
    def test_the_pool_ends_although_nothing_was_submitted_after(
        self, host: PoolBinding, make_pool: Pools, ending: str, all_of_them: bool
    ) -> None:
        for number in range(1 if all_of_them else 2):
            pool = make_pool(usable_after=False)
            serves(host, pool)
            pids = host.idle_pids(pool)
            kill(*(pids if all_of_them else [pids[number]]))
            within(ENDING, host.endings()[ending], pool)

    def test_an_orderly_signal_is_as_good_as_a_kill(self, host: PoolBinding, make_pool: Pools) -> None:
        pool = make_pool()
        serves(host, pool)
        pids = host.idle_pids(pool)

        for pid in pids:
            os.kill(pid, signal.SIGTERM)

        all_gone(pids)
        serves(host, pool)

    def test_idle_deaths_beside_a_running_task_leave_it_alone(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, tmp_path: Any
    ) -> None:
        pool = make_pool(3)
        running = host.submit(pool, Noted(notes.path, HeldUntil(tmp_path / "go")), 5)
        (busy,) = notes.pids()
        for _ in range(3):
            # All of them there and idle: one that has died a moment ago may still be listed.
            idle = all_asleep(lambda: [pid for pid in host.worker_pids(pool) if pid != busy], 2)
            kill(*idle)
            all_gone(idle)
            serves(host, pool)

        (tmp_path / "go").touch()

        assert host.result(running) == 5
        assert notes.items() == {"5": 1}


class DeathOnTheWay(ContractBase):
    """Row 5: killed while it reads or unpickles a task, pickles or writes a result."""

    @pytest.mark.every_start_method
    def test_killed_while_it_unpickles_an_argument(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, tmp_path: Any
    ) -> None:
        argument = on_unpickle(Noted(notes.path, HeldUntil(tmp_path / "go")), "x")
        self._killed_in_the_hook(host, make_pool(), notes, tmp_path, same, argument)

    @pytest.mark.every_start_method
    def test_killed_while_it_pickles_a_result(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, tmp_path: Any
    ) -> None:
        hook = Noted(notes.path, HeldUntil(tmp_path / "go"))
        self._killed_in_the_hook(host, make_pool(), notes, tmp_path, Returning(on_pickle, hook))

    def _killed_in_the_hook(
        self, host: PoolBinding, pool: Any, notes: Notes, tmp_path: Any, func: Any, *args: Any
    ) -> None:
        handle = host.submit(pool, func, *args)
        (pid,) = notes.pids()
        queued = [host.submit(pool, square, n) for n in range(5)]

        kill(pid)

        (tmp_path / "go").touch()  # should it be sent again, it does not wait a second time
        answers = Answers()
        answers.collect(lambda: host.result(handle))
        assert all(isinstance(e, WorkerLostError) and e.exit.pid == pid for e in answers.errors)
        assert [host.result(other) for other in queued] == [0, 1, 4, 9, 16]

    @pytest.mark.every_start_method
    @pytest.mark.parametrize("seed", range(4))
    def test_killed_at_some_moment_of_reading_a_large_argument(
        self, host: PoolBinding, make_pool: Pools, seed: int
    ) -> None:
        self._killed_at_some_moment(host, make_pool(), seed, size_of, payload(LARGE), LARGE)

    @pytest.mark.every_start_method
    @pytest.mark.parametrize("seed", range(4))
    def test_killed_at_some_moment_of_writing_a_large_result(
        self, host: PoolBinding, make_pool: Pools, seed: int
    ) -> None:
        self._killed_at_some_moment(host, make_pool(), seed, payload, LARGE, payload(LARGE))

    def _killed_at_some_moment(
        self, host: PoolBinding, pool: Any, seed: int, func: Callable[..., Any], argument: Any, right: Any
    ) -> None:
        serves(host, pool)
        handles = [(host.submit(pool, func, argument), right)]
        handles += [(host.submit(pool, square, n), n * n) for n in range(5)]
        time.sleep(random.Random(seed).uniform(0, 0.15))  # the moment itself; nothing is waited for

        for pid in host.worker_pids(pool):
            kill_if_there(pid)

        for handle, result in handles:
            try:
                assert host.result(handle) == result
            except WorkerLostError:
                continue


class RandomDeaths(ContractBase):
    """Row 20: each task has its right result or an error, once, whatever is killed."""

    @pytest.mark.every_start_method
    @pytest.mark.parametrize("seed", [1, 2])
    def test_a_stream_of_short_tasks_under_random_kills(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, seed: int
    ) -> None:
        choose = random.Random(seed)
        pool = make_pool(3)
        stop = threading.Event()

        def kill_now_and_then() -> None:
            # Not for ever: on a busy machine workers are killed faster than they start.
            for _ in range(150):
                if stop.wait(choose.uniform(0.01, 0.1)):
                    return
                pids = host.worker_pids(pool)
                if pids:
                    kill_if_there(choose.choice(pids))

        killer = threading.Thread(target=kill_now_and_then, daemon=True)
        killer.start()
        try:
            handles = []
            for n in range(1500):
                blob = payload(choose.choice([1, 1, 1, 5_000, 100_000]))
                handles.append((n, blob, host.submit(pool, Noted(notes.path, together), n, blob)))
            lost = self._count_lost(host, handles)
        finally:
            stop.set()
            killer.join()

        ran = notes.items()
        assert [item for item, times in ran.items() if times > 1] == [], "nothing runs twice unasked"
        assert len(ran) >= 1500 - lost

    def _count_lost(self, host: PoolBinding, handles: list[Any]) -> int:
        lost = 0
        for n, blob, handle in handles:
            try:
                assert host.result(handle) == (n, blob)
            except WorkerLostError:
                lost += 1
        return lost


def together(n: int, blob: bytes) -> tuple[int, bytes]:
    return n, blob


def kill_if_there(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
