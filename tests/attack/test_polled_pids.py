"""Code outside of a pool that takes a new worker for the end of the call.

`datasets` does: its ``map``, ``filter``, ``save_to_disk`` and builders compare
the pids of a pool's workers every 50 ms, and raise "One of the subprocesses
has abruptly died" before they fetch the failed result. Siblings: the worker
dies while another task runs, or as the last; an idle one dies; the pool is of
`multiprocessing` or of `multiprocess`; tasks are run again; the pool is
guarded by hand or by `install`. A bare pool, and one that is unguarded, look
as before, and the module is as it was when the last guarded pool has ended.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.pool import Pool
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from poolwarden import WorkerLostError, guard, install, unguard, uninstall
from poolwarden.testing import kill_self, once, only_for
from tests.contract.tasks import square
from tests.contract.waiting import DEADLINE, eventually, within

NAME = "datasets.utils.py_utils"


def pids_of(pool: Any) -> set[int]:
    return {process.pid for process in pool._pool}


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that asks as `datasets` does."""
    module: Any = ModuleType(NAME)
    module._get_pool_pid = pids_of
    monkeypatch.setitem(sys.modules, NAME, module)
    return module


def slowly(n: int) -> int:
    time.sleep(0.3)
    return square(n)


def ask(module: Any, pool: Any, func: Callable[[int], int]) -> list[int]:
    """Return the results of two tasks, as `datasets` waits for them."""
    first = module._get_pool_pid(pool)
    results = [pool.apply_async(func, (n,)) for n in range(2)]
    while not all(result.ready() for result in results):
        results[-1].wait(0.01)
        if module._get_pool_pid(pool) != first:
            raise RuntimeError("One of the subprocesses has abruptly died")
    return [result.get(0) for result in results]


@pytest.fixture(params=["multiprocessing", "multiprocess"])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[[], Any]]:
    package = pytest.importorskip(request.param)
    made: list[Any] = []

    def make() -> Any:
        made.append(package.get_context("fork").Pool(2))
        return made[-1]

    yield make
    while made:
        pool = made.pop()
        pool.terminate()
        pool.join()


@pytest.mark.parametrize("lost", [0, 1])
def test_the_caller_gets_the_tasks_own_error(module: ModuleType, make: Callable[[], Any], lost: int) -> None:
    pool = guard(make())

    with pytest.raises(WorkerLostError):
        within(DEADLINE, ask, module, pool, only_for(lost, kill_self(), slowly))

    assert within(DEADLINE, ask, module, pool, slowly) == [0, 1]


def test_a_task_is_run_again_and_nobody_gives_up(
    module: ModuleType, make: Callable[[], Any], tmp_path: Path
) -> None:
    install(retries=1)
    try:
        pool = make()
    finally:
        uninstall()

    func = only_for(1, once(tmp_path / "died", kill_self(), slowly), slowly)

    assert within(DEADLINE, ask, module, pool, func) == [0, 1]


def test_an_idle_worker_may_die(module: ModuleType, make: Callable[[], Any]) -> None:
    pool = guard(make())
    first, pids = module._get_pool_pid(pool), pids_of(pool)

    os.kill(min(pids), signal.SIGKILL)
    eventually(lambda: pids_of(pool) != pids and len(pids_of(pool)) == 2, "another worker")

    assert module._get_pool_pid(pool) == first


def test_what_is_not_guarded_looks_as_before(module: ModuleType, make: Callable[[], Any]) -> None:
    bare = module._get_pool_pid
    pool, other = guard(make()), make()

    assert module._get_pool_pid is not bare
    assert module._get_pool_pid(other) == pids_of(other)
    assert module._get_pool_pid(pool) != pids_of(pool)
    unguard(pool)
    assert module._get_pool_pid(pool) == pids_of(pool)
    eventually(lambda: module._get_pool_pid is bare, "the module is as it was")


def test_another_version_of_it_is_left_alone(module: ModuleType) -> None:
    del module._get_pool_pid  # type: ignore[attr-defined]

    with guard(Pool(1)) as pool:
        assert pool.map(square, [3]) == [9]

    assert not hasattr(module, "_get_pool_pid")
