"""Rows 16 and 17: callbacks that raise; and every way a pool can end."""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from poolwarden import PoolBrokenError, WorkerLostError
from poolwarden.testing import deaf, die, hang, hold_gil, kill_self, on_unpickle
from tests.contract.base import ContractBase, Notes, Pools, serves
from tests.contract.binding import PoolBinding, Way
from tests.contract.leaks import memories
from tests.contract.tasks import Noted, never_leave, raise_two_arguments, same, square
from tests.contract.waiting import ENDING, all_gone, eventually, within

UNCLOSED = pytest.mark.filterwarnings("ignore:unclosed running.*pool:ResourceWarning")


def boom(*_: Any) -> None:
    raise RuntimeError("the user's own mistake")


class OnEventRaises(ContractBase):
    """Row 16: logged once, and nothing else happens."""

    def test_its_error_is_logged_once_and_tasks_go_on(
        self, host: PoolBinding, make_pool: Pools, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, logger="poolwarden")
        pool = make_pool(on_event=boom)

        for _ in range(3):
            with pytest.raises(WorkerLostError):
                host.result(host.submit(pool, kill_self()))
            serves(host, pool)

        told = [record for record in caplog.records if "the user's own mistake" in _text_of(record)]
        assert len(told) == 1
        assert told[0].name.startswith("poolwarden")


def _text_of(record: logging.LogRecord) -> str:
    return logging.Formatter().format(record)


#: What a pool may have gone through before it is ended.
PASTS: dict[str, Callable[[PoolBinding, Any], None]] = {}


def past(func: Callable[[PoolBinding, Any], None]) -> Callable[[PoolBinding, Any], None]:
    PASTS[func.__name__.lstrip("_")] = func
    return func


@past
def _nothing(host: PoolBinding, pool: Any) -> None:
    pass


@past
def _running_worker_killed(host: PoolBinding, pool: Any) -> None:
    with pytest.raises(WorkerLostError):
        host.result(host.submit(pool, kill_self()))


@past
def _running_worker_just_killed(host: PoolBinding, pool: Any) -> None:
    host.submit(pool, die(1))


@past
def _idle_workers_killed(host: PoolBinding, pool: Any) -> None:
    serves(host, pool)
    for pid in host.idle_pids(pool):
        os.kill(pid, signal.SIGKILL)


@past
def _call_not_unpickled(host: PoolBinding, pool: Any) -> None:
    host.submit(pool, same, on_unpickle(boom))


@past
def _outcome_not_unpickled(host: PoolBinding, pool: Any) -> None:
    host.submit(pool, raise_two_arguments)


class PoolEnds(ContractBase):
    """Whatever happened before, each way to end a pool ends within its time."""

    @pytest.mark.every_start_method
    @pytest.mark.parametrize("what", PASTS)
    @pytest.mark.parametrize("ending", ["close", "terminate", "with"])
    def test_the_pool_ends_after(self, host: PoolBinding, make_pool: Pools, what: str, ending: str) -> None:
        pool = make_pool(usable_after=False)
        pids = host.worker_pids(pool)

        PASTS[what](host, pool)

        within(ENDING, host.endings()[ending], pool)
        all_gone(pids)

    @pytest.mark.parametrize("ending", ["terminate", "with"])
    @pytest.mark.parametrize("fault", [hang(), deaf(hang()), hold_gil()], ids=repr)
    def test_the_pool_ends_while_every_worker_is_stuck(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, ending: str, fault: Any
    ) -> None:
        pool = make_pool(usable_after=False)
        for _ in range(4):
            host.submit(pool, Noted(notes.path, fault))
        pids = notes.pids(2)

        within(ENDING, host.endings()[ending], pool)

        all_gone(pids)

    def test_the_pool_ends_while_a_worker_is_stopped(self, host: PoolBinding, make_pool: Pools) -> None:
        pool = make_pool(usable_after=False)
        pids = host.worker_pids(pool)
        os.kill(pids[0], signal.SIGSTOP)

        within(ENDING, host.terminate, pool)

        all_gone(pids)

    @pytest.mark.parametrize("workers", [1, 2])
    def test_the_pool_ends_though_a_worker_cannot_leave(
        self, host: PoolBinding, make_pool: Pools, workers: int
    ) -> None:
        pool = make_pool(workers, usable_after=False)
        pids = host.worker_pids(pool)
        assert host.result(host.submit(pool, never_leave)) in pids

        within(ENDING, host.close, pool)

        all_gone(pids)

    def test_an_orderly_end_waits_for_what_was_submitted(
        self, host: PoolBinding, make_pool: Pools, notes: Notes
    ) -> None:
        pool = make_pool(usable_after=False)
        lost = host.submit(pool, kill_self())
        handles = [host.submit(pool, Noted(notes.path, square), n) for n in range(20)]

        within(ENDING, host.close, pool)

        assert [host.result(handle, 1) for handle in handles] == [n * n for n in range(20)]
        assert notes.items() == {str(n): 1 for n in range(20)}
        with pytest.raises(WorkerLostError):
            host.result(lost, 1)


class AnswersAfterTheEnd(ContractBase):
    """Row 17: nobody waits for a pool that is gone."""

    @pytest.mark.every_start_method
    def test_what_was_pending_at_terminate_is_broken(
        self, host: PoolBinding, make_pool: Pools, notes: Notes
    ) -> None:
        pool = make_pool(usable_after=False)
        handles = [host.submit(pool, Noted(notes.path, hang()), n) for n in range(6)]
        notes.pids(2)

        within(ENDING, host.terminate, pool)

        for handle in handles:
            with pytest.raises(PoolBrokenError) as caught:
                host.result(handle)
            assert isinstance(caught.value, host.host_error)

    def test_every_way_of_submitting_comes_back_after_terminate(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, way: Way
    ) -> None:
        pool = make_pool(usable_after=False)
        outcome: list[Any] = []
        waiting = threading.Thread(
            target=lambda: outcome.append(way.call(pool, Noted(notes.path, hang()), [1, 2, 3, 4]))
        )
        waiting.start()
        notes.pids(1)

        within(ENDING, host.terminate, pool)
        waiting.join(ENDING)

        assert outcome, "the call did not come back"
        (answers,) = outcome
        assert answers.values == []
        assert answers.errors
        assert isinstance(answers.errors[0], PoolBrokenError)

    def test_what_had_its_result_keeps_it(self, host: PoolBinding, make_pool: Pools) -> None:
        pool = make_pool(usable_after=False)
        handle = host.submit(pool, square, 3)
        host.result(handle)

        within(ENDING, host.terminate, pool)

        assert host.result(handle) == 9


class PoolDropped(ContractBase):
    """Row 17: a pool nobody closed is collected, and its processes with it."""

    @UNCLOSED
    @pytest.mark.every_start_method
    @pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
    def test_a_dropped_pool_is_collected(self, host: PoolBinding, start_method: str, used: bool) -> None:
        threads = set(threading.enumerate())
        pool = host.make_pool(2, start_method, timeout=20)
        pids = host.worker_pids(pool)
        if used:
            serves(host, pool)
            with pytest.raises(WorkerLostError):
                host.result(host.submit(pool, die(1)))
            serves(host, pool)
            pids += host.worker_pids(pool)
        gone = weakref.ref(pool)

        del pool

        eventually(lambda: gc.collect() is not None and gone() is None, "the pool collected", ENDING)
        all_gone(pids)
        eventually(lambda: not set(threading.enumerate()) - threads, "its threads gone", ENDING)

    @UNCLOSED
    def test_a_dropped_pools_memory_goes_with_it(self, host: PoolBinding, start_method: str) -> None:
        before = memories()
        pool = host.make_pool(2, start_method)
        serves(host, pool)
        host.result(host.submit(pool, same, b"x" * 100_000))

        del pool

        eventually(lambda: gc.collect() is not None and not memories() - before, "its memory gone", ENDING)
