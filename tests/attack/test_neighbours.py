"""One pool's trouble is its own: another pool's timeout and loss come in time.

The kind: something in one pool has to wait, and other pools wait with it. Siblings:

- a pool is repaired while a new worker of it takes seconds to be started;
- two pools are in trouble at once, and a third is not;
- no thread can be started for it: the others have to wait, and are served then.

How late a neighbour is told is compared with how late the same pool was told in the
same run, before there was trouble. Each is the least of several: what else the machine
does only adds, while trouble that holds up others (for seconds) would hold up each.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import Any

import pytest

from poolwarden import TaskTimeoutError, WorkerLostError
from poolwarden.system.watchdog import Watchdog, watchdog
from poolwarden.testing import hang, kill_self
from tests.contract.base import ContractBase, Pools, serves
from tests.contract.binding import PoolBinding
from tests.contract.waiting import DEADLINE, eventually
from tests.hosts.bind_executor import BindExecutor
from tests.hosts.bind_loky import BindLoky
from tests.hosts.bind_pool import BindPool

#: Seconds that the trouble of one pool may delay what another one is told.
DELAY = 0.02
TIMEOUT = 0.3
#: How often it is measured before; and for how many seconds at most beside the trouble, which a pool bears
#: for `recovery.BIRTH_BOUND` seconds only.
TRIES = 3
PATIENCE = 6.0


class Trouble:
    """A pool that is repaired while a worker of it is being started, until the block ends."""

    def __init__(self, host: PoolBinding, pool: Any) -> None:
        self._guard = pool._poolwarden.guard
        self._pids = host.idle_pids(pool)
        self._begun, self._over = threading.Event(), threading.Event()
        self._starter = threading.Thread(target=self._start_worker)

    def _start_worker(self) -> None:
        with self._guard.births:
            self._begun.set()
            self._over.wait(DEADLINE)

    def __enter__(self) -> None:
        self._starter.start()
        assert self._begun.wait(DEADLINE)
        os.kill(self._pids[0], 9)
        eventually(lambda: self._guard in watchdog()._handled_by, "the repair")

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._starter.join(DEADLINE)


def lateness(host: PoolBinding, pool: Any) -> tuple[float, float]:
    """Return after how many seconds a timeout and a loss are told; without the timeout itself."""
    # The start of a worker is no part of it.
    host.idle_pids(pool)
    begun = time.monotonic()
    with pytest.raises(TaskTimeoutError):
        host.result(host.submit(pool, hang()))
    timeout = time.monotonic() - begun - TIMEOUT
    host.idle_pids(pool)
    begun = time.monotonic()
    with pytest.raises(WorkerLostError):
        host.result(host.submit(pool, kill_self()))
    return timeout, time.monotonic() - begun


def least(found: list[tuple[float, float]]) -> tuple[float, ...]:
    return tuple(map(min, zip(*found, strict=True)))


def is_as_soon(beside: tuple[float, ...], bare: tuple[float, ...]) -> bool:
    return all(found - expected <= DELAY for found, expected in zip(beside, bare, strict=True))


def check(host: PoolBinding, other: Any, *troubled: Any) -> None:
    """Have pools in trouble, and check that another one is told as soon as before."""
    bare = least([lateness(host, other) for _ in range(TRIES)])
    with contextlib.ExitStack() as stack:
        for pool in troubled:
            stack.enter_context(Trouble(host, pool))
        found = [lateness(host, other)]
        end = time.monotonic() + PATIENCE
        while not is_as_soon(least(found), bare) and time.monotonic() < end:
            found.append(lateness(host, other))
    if not is_as_soon(least(found), bare):
        # The machine may have become slower: then it is as slow without the trouble.
        bare = least([lateness(host, other) for _ in range(TRIES)])
        assert is_as_soon(least(found), bare), f"{bare} alone, {least(found)} beside it"
    for pool in troubled:
        serves(host, pool)


class Neighbours(ContractBase):
    variations = 1

    def test_a_repair_that_waits_for_a_start_delays_nobody(self, host: PoolBinding, make_pool: Pools) -> None:
        troubled, other = make_pool(2), make_pool(2, timeout=TIMEOUT)
        check(host, other, troubled)

    def test_two_that_wait_delay_no_third(self, host: PoolBinding, make_pool: Pools) -> None:
        first, second, other = make_pool(2), make_pool(2), make_pool(2, timeout=TIMEOUT)
        check(host, other, first, second)

    def test_without_a_thread_it_waits_where_it_is(
        self, host: PoolBinding, make_pool: Pools, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        troubled, other = make_pool(2), make_pool(2)
        watching = watchdog()._thread
        monkeypatch.setattr(Watchdog, "_start", lambda self: False)
        with Trouble(host, troubled):
            lost = host.submit(other, kill_self())
            assert watchdog()._thread is watching
        with pytest.raises(WorkerLostError):
            host.result(lost)
        serves(host, troubled)

    def test_no_thread_is_left(self, host: PoolBinding, make_pool: Pools) -> None:
        troubled = make_pool(2)
        for _ in range(3):
            with Trouble(host, troubled):
                pass
            serves(host, troubled)
        eventually(lambda: len(watching_threads()) <= 1, "the end of those that have waited")


def watching_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "poolwarden-watchdog"]


class TestPool(Neighbours):
    binding = BindPool


class TestExecutor(Neighbours):
    binding = BindExecutor


@pytest.mark.usefixtures("warm_loky")
class TestLoky(Neighbours):
    binding = BindLoky
