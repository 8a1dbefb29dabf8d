"""The breaker: when a pool is given up, and how long births wait."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from poolwarden.core.start_limits import FAILED_STARTS, KILLED_STARTS, LONGEST_WAIT, StartLimiter
from poolwarden.core.workers import Kill
from poolwarden.records import WorkerExit
from poolwarden.worker.ledger import FAILED, READY, RUNNING, STARTING, UNBORN
from tests.contract.waiting import within

EXITED = WorkerExit(1234, 1, None, "exit", ())
KILLED = WorkerExit(1234, -9, "SIGKILL", "signal", ())


class FakePool:
    """A pool of workers in given phases, that is broken where a limit says so."""

    def __init__(self):
        self.phases = []
        self.broken = []

    def live_workers(self):
        return [
            SimpleNamespace(snapshot=lambda phase=phase: SimpleNamespace(phase=phase))
            for phase in self.phases
        ]


class Waits:
    """Stands in for the event that births wait for, and remembers how long."""

    def __init__(self):
        self.seconds = []

    def wait(self, seconds):
        self.seconds.append(seconds)


@pytest.fixture
def pool():
    return FakePool()


@pytest.fixture
def breaker(pool):
    return StartLimiter(pool.live_workers)


@pytest.fixture
def fail(breaker, pool):
    """Lets starts fail, and breaks the pool as the guard does."""

    def fail(times, phase=FAILED, exit=EXITED, text=None, killed=None):
        for _ in range(times):
            reason = breaker.start_failed(worker(killed), phase, exit, text)
            if reason is not None:
                pool.broken.append((reason, exit, text))

    return fail


@pytest.fixture
def waits(breaker):
    breaker._closing = waits = Waits()
    return waits


def worker(killed=None):
    return SimpleNamespace(pid=1234, killed=killed)


@pytest.mark.parametrize(
    ("phase", "exit", "text", "reason"),
    [
        (FAILED, EXITED, "the traceback", f"its initializer raised, {FAILED_STARTS} times in a row"),
        (UNBORN, EXITED, None, f"its workers end before they are ready, {FAILED_STARTS} times in a row"),
        (STARTING, EXITED, None, f"its workers end in their initializer, {FAILED_STARTS} times in a row"),
        (STARTING, KILLED, None, f"its workers end in their initializer, {FAILED_STARTS} times in a row"),
    ],
)
def test_a_handful_of_starts_that_fail_by_themselves_break_the_pool(fail, pool, phase, exit, text, reason):
    fail(FAILED_STARTS - 1, phase, exit, text)
    assert pool.broken == []
    fail(1, phase, exit, text)
    assert pool.broken == [(reason, exit, text)]


def test_starts_that_somebody_kills_are_tried_more_often(fail, pool):
    fail(KILLED_STARTS - 1, UNBORN, KILLED)
    assert pool.broken == []
    fail(1, UNBORN, KILLED)
    assert pool.broken == [
        (f"{KILLED_STARTS} workers in a row were killed while they started", KILLED, None)
    ]


@pytest.mark.parametrize("well", ["all_is_well", "task_lost"])
def test_a_worker_that_started_well_makes_starts_count_anew(fail, breaker, pool, well):
    for _ in range(3):
        fail(FAILED_STARTS - 1)
        fail(10, UNBORN, KILLED)
        getattr(breaker, well)()
    assert pool.broken == []


@pytest.mark.parametrize("phases", [[], [UNBORN], [STARTING, FAILED]])
def test_a_start_that_takes_too_long_breaks_a_pool_of_which_nobody_is_ready(fail, pool, phases):
    pool.phases = phases
    fail(1, STARTING, KILLED, killed=Kill("startup"))
    assert pool.broken == [("its workers outran startup_timeout in their initializer", KILLED, None)]


@pytest.mark.parametrize("phase", [READY, RUNNING])
def test_while_somebody_is_ready_it_counts_as_one_that_failed(fail, pool, phase):
    pool.phases = [STARTING, phase]
    fail(FAILED_STARTS - 1, STARTING, KILLED, killed=Kill("startup"))
    assert pool.broken == []
    fail(1, STARTING, KILLED, killed=Kill("startup"))
    assert len(pool.broken) == 1


def test_births_do_not_wait_for_a_few_deaths(breaker, pool, waits):
    pool.phases = [READY] * 3
    breaker.wait_before_birth()
    for _ in range(2 * 4):
        breaker.task_lost()
        breaker.wait_before_birth()
    assert waits.seconds == []


def test_births_wait_longer_and_longer_up_to_a_bound_when_nothing_succeeds(breaker, waits):
    for _ in range(30):
        breaker.task_lost()
        breaker.wait_before_birth()
    assert waits.seconds == sorted(waits.seconds)
    assert waits.seconds[0] < LONGEST_WAIT == waits.seconds[-1]
    breaker.all_is_well()
    waits.seconds.clear()
    breaker.wait_before_birth()
    assert waits.seconds == []


def test_failed_starts_make_births_wait_as_well(fail, breaker, waits):
    fail(30, UNBORN, KILLED)
    breaker.wait_before_birth()
    assert waits.seconds == [LONGEST_WAIT]


def test_at_the_end_of_the_pool_nobody_waits_any_more(breaker):
    for _ in range(1000):
        breaker.task_lost()
    breaker.stop_waiting()
    assert breaker._closing.is_set()
    assert isinstance(breaker._closing, threading.Event)
    within(1, lambda: [breaker.wait_before_birth() for _ in range(1000)])
