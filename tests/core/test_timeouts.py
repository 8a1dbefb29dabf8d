"""Deadlines: soft, then hard, and never the task that moved on just in time.

With a clock that stands still until it is moved, and workers that are records;
at the end, stacks of real processes.
"""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from poolwarden.core import timeouts as deadlines_module
from poolwarden.core.tickets import Ticket
from poolwarden.core.timeouts import CANCEL_STEP, Deadlines, dump_stacks
from poolwarden.core.workers import Kill, Snapshot
from poolwarden.policy import Policy
from poolwarden.testing import hold_gil, spin
from poolwarden.worker import ledger
from poolwarden.worker.ledger import ARMED_SOFT, ARMED_STACK, DONE, LEFT, READY, RUNNING, STARTING, UNBORN
from poolwarden.worker.member import join
from poolwarden.worker.signals import SOFT_SIGNAL, STACK_SIGNAL
from tests.contract.waiting import DEADLINE, eventually, within
from tests.core.recorded import workers
from tests.worker.processes import FORK, wait_for_ever

ARMED = ARMED_SOFT | ARMED_STACK


class FakeTime:
    """Stands still; `sleep` is a real one."""

    def __init__(self):
        self.time = 1000.0
        self.sleep = time.sleep

    def now(self):
        return self.time


class FakeWorker:
    """A record, and the signals that were sent. `on_stop` runs just before it stops."""

    def __init__(self, number, **record):
        self.pid = number
        self.seen = Snapshot(
            **{"phase": RUNNING, "ticket": number, "item": 0, "started": 0, "armed": ARMED} | record
        )
        self.older = False
        self.born = 1000.0
        self.killed = None
        self.soft = None
        self.signals = []
        self.cells = {}
        self.on_stop = None
        self.caught = True

    def moves_on(self, **record):
        self.seen = replace(self.seen, **record)

    def snapshot(self):
        return self.seen

    def catches(self, number):
        return self.caught

    def set_cells(self, **cells):
        self.cells.update(cells)

    def send(self, number):
        if number == signal.SIGSTOP and self.on_stop is not None:
            self.on_stop(self)
        self.signals.append(number)
        return True

    def shows_its_state(self):
        return True

    def is_stopped(self):
        return self.signals[-1:] == [signal.SIGSTOP]

    def has_ended(self):
        return signal.SIGKILL in self.signals


class FakeGuard:
    def __init__(self):
        self.policy = Policy()
        self.workers = []
        self.tickets = SimpleNamespace(open={})

    def live_workers(self):
        return list(self.workers)


@pytest.fixture
def clock(monkeypatch):
    clock = FakeTime()
    monkeypatch.setattr(deadlines_module, "clock", clock)
    return clock


@pytest.fixture
def scheduled(monkeypatch):
    """The times for which the watchdog was asked."""
    times = []
    watchdog = SimpleNamespace(schedule=lambda owner, when: times.append(when), make_way=lambda: None)
    monkeypatch.setattr(deadlines_module, "watchdog", lambda: watchdog)
    return times


@pytest.fixture
def stacks(monkeypatch):
    """The workers whose stacks were asked for; each has one."""
    asked = []

    def dump(workers):
        workers = list(workers)
        asked.extend(worker.pid for worker in workers)
        return {worker: f"stack of {worker.pid}" for worker in workers}

    monkeypatch.setattr(deadlines_module, "dump_stacks", dump)
    return asked


@pytest.fixture
def guard():
    return FakeGuard()


@pytest.fixture
def deadlines(guard, clock, scheduled, stacks):
    return Deadlines(
        guard.tickets, guard.live_workers, lambda: guard.policy.startup_timeout, scheduled.append
    )


@pytest.fixture
def run(guard, clock):
    """Opens a ticket that a worker is running since now."""

    def run(number, timeout=3.0, grace=0.0, **record):
        policy = Policy(timeout=timeout, grace=grace)
        ticket = guard.tickets.open[number] = Ticket(number, "key", "f", policy, None, 0)
        ticket.sent = True
        worker = FakeWorker(number, **{"started": int(clock.time * 1e9)} | record)
        guard.workers.append(worker)
        return worker

    return run


def next_look(scheduled):
    """Return the earliest time asked for since the last call."""
    earliest = min(scheduled, default=None)
    scheduled.clear()
    return earliest


KILL = [signal.SIGSTOP, signal.SIGKILL]


# -- hard -----------------------------------------------------------------------------------------


def test_nothing_is_asked_for_without_a_limit(deadlines, run, scheduled):
    worker = run(1, timeout=None)
    deadlines.look()
    assert scheduled == []
    assert worker.signals == []


def test_a_task_in_time_is_looked_at_when_its_time_is_over(deadlines, run, clock, scheduled):
    worker = run(1, timeout=3.0)
    clock.time += 1
    deadlines.look()
    assert next_look(scheduled) == 1003.0
    assert worker.signals == []
    assert worker.killed is None


def test_a_task_out_of_time_is_killed_with_its_stack(deadlines, run, clock, stacks):
    worker = run(7, timeout=3.0)
    clock.time += 3
    deadlines.look()
    assert worker.signals == KILL
    assert worker.killed == Kill("timeout", 7, "stack of 7")
    assert stacks == [7]


def test_a_worker_that_cannot_write_its_stack_is_not_asked_to(deadlines, run, clock, stacks):
    worker = run(7, armed=ARMED_SOFT)
    clock.time += 3
    deadlines.look()
    assert worker.killed == Kill("timeout", 7, None)
    assert stacks == []


def test_a_worker_that_is_slow_to_end_is_killed_once(deadlines, run, clock, stacks):
    worker = run(7)
    clock.time += 3
    deadlines.look()
    clock.time += 1
    deadlines.look()
    assert worker.signals == KILL
    assert worker.killed.stack == "stack of 7"


@pytest.mark.parametrize("phase", [UNBORN, STARTING, READY, DONE, LEFT])
def test_only_a_running_task_has_a_time(deadlines, run, clock, phase):
    worker = run(1, phase=phase)
    clock.time += 100
    deadlines.look()
    assert worker.signals == []


def test_a_task_that_was_answered_has_none(deadlines, guard, run, clock, scheduled):
    worker = run(1)
    clock.time += 100
    del guard.tickets.open[1]
    deadlines.look()
    assert worker.signals == []
    assert scheduled == []


def test_an_item_has_the_time_of_a_task(deadlines, run, clock, scheduled):
    worker = run(1, timeout=3.0)
    clock.time += 2
    worker.moves_on(item=1, started=int(clock.time * 1e9))
    clock.time += 2
    deadlines.look()
    assert worker.signals == []
    assert next_look(scheduled) == 1005.0
    clock.time += 1
    deadlines.look()
    assert worker.signals == KILL


def test_each_task_has_its_own_limit(deadlines, run, clock, scheduled):
    short, long, none = run(1, timeout=1.0), run(2, timeout=50.0), run(3, timeout=None)
    clock.time += 10
    deadlines.look()
    assert short.signals == KILL
    assert long.signals == none.signals == []
    assert next_look(scheduled) is not None


# -- the one that moves on just in time -----------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [{"item": 1}, {"ticket": 2}, {"phase": DONE}, {"started": 5}],
    ids=["next item", "next task", "done", "again"],
)
def test_a_task_that_ends_just_in_time_is_not_killed_and_nor_is_the_next(deadlines, run, clock, record):
    """The record is read once more when the worker cannot move any further."""
    worker = run(1)
    worker.on_stop = lambda worker: worker.moves_on(**record)
    clock.time += 3
    deadlines.look()
    assert worker.killed is None
    assert worker.signals == [signal.SIGSTOP, signal.SIGCONT]


def test_one_that_moves_on_does_not_save_another(deadlines, run, clock):
    moving, hanging = run(1), run(2)
    moving.on_stop = lambda worker: worker.moves_on(item=1)
    clock.time += 3
    deadlines.look()
    assert moving.signals == [signal.SIGSTOP, signal.SIGCONT]
    assert hanging.signals == KILL


def test_a_worker_that_somebody_has_stopped_is_killed_all_the_same(deadlines, run, clock):
    worker = run(1)
    worker.signals.append(signal.SIGSTOP)
    clock.time += 3
    deadlines.look()
    assert worker.signals == KILL


# -- soft, then hard ------------------------------------------------------------------------------


def test_with_grace_a_task_is_asked_first_and_killed_then(deadlines, run, clock, scheduled):
    worker = run(7, timeout=3.0, grace=2.0, item=4)
    clock.time = 1003.0
    deadlines.look()
    assert worker.signals == [SOFT_SIGNAL]
    assert worker.cells == {"SOFT_ITEM": 4, "SOFT_TICKET": 8}
    assert list(worker.cells) == ["SOFT_ITEM", "SOFT_TICKET"]  # in this order
    assert worker.killed is None
    assert next_look(scheduled) <= 1005.0
    clock.time = 1004.9
    deadlines.look()
    assert worker.signals == [SOFT_SIGNAL]
    assert next_look(scheduled) == pytest.approx(1005.0)
    clock.time = 1005.0
    deadlines.look()
    assert worker.signals == [SOFT_SIGNAL, *KILL]
    assert worker.killed == Kill("timeout", 7, "stack of 7")


def test_a_task_that_listens_is_not_killed_and_the_next_item_is_asked_anew(deadlines, run, clock):
    worker = run(7, timeout=3.0, grace=2.0)
    clock.time = 1003.0
    deadlines.look()
    worker.moves_on(item=1, started=int(1003.5 * 1e9))
    clock.time = 1005.5
    deadlines.look()
    assert worker.signals == [SOFT_SIGNAL]
    clock.time = 1006.5
    deadlines.look()
    assert worker.signals == [SOFT_SIGNAL] * 2
    assert worker.cells["SOFT_ITEM"] == 1
    clock.time = 1008.5
    deadlines.look()
    assert worker.signals == [SOFT_SIGNAL, SOFT_SIGNAL, *KILL]


def test_a_worker_that_cannot_be_asked_is_killed_at_once(deadlines, run, clock):
    """An unexpected real-time signal would end it, and be called a loss."""
    worker = run(7, grace=2.0, armed=ARMED_STACK)
    clock.time += 3
    deadlines.look()
    assert worker.signals == KILL


# -- cancelling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [None, 50.0])
def test_a_task_that_is_cancelled_is_killed_without_being_asked(deadlines, guard, run, timeout):
    worker = run(7, timeout=timeout, grace=2.0)
    guard.tickets.open[7].cancelled = True
    deadlines.look()
    assert worker.signals == KILL
    assert worker.killed == Kill("cancel", 7, "stack of 7")


def test_one_that_has_not_begun_is_waited_for(deadlines, guard, run, clock, scheduled):
    worker = run(7, timeout=None, phase=READY)
    guard.tickets.open[7].cancelled = True
    deadlines.look()
    assert worker.signals == []
    assert next_look(scheduled) == pytest.approx(clock.time + CANCEL_STEP)
    worker.moves_on(phase=RUNNING)
    deadlines.look()
    assert worker.signals == KILL


# -- when it looks --------------------------------------------------------------------------------


def test_while_a_task_with_a_limit_is_open_it_looks_at_the_limit(deadlines, guard, run, clock, scheduled):
    """It may begin at any moment; no message tells."""
    run(1, timeout=3.0, phase=READY)
    run(2, timeout=50.0, phase=READY)
    deadlines.look()
    assert next_look(scheduled) == clock.time + 3.0
    del guard.tickets.open[1]
    deadlines.look()
    assert next_look(scheduled) == clock.time + 50.0
    guard.tickets.open.clear()
    deadlines.look()
    assert scheduled == []


def test_the_watchdog_is_asked_for_each_look(deadlines, clock, scheduled):
    # Whoever kept a note of it beside could be interrupted between the two.
    deadlines.expect(5)
    deadlines.expect(7)
    assert scheduled == [1005.0, 1007.0]


# -- starts ---------------------------------------------------------------------------------------


@pytest.fixture
def starting(guard):
    """Makes a worker that was born now."""

    def starting(**record):
        worker = FakeWorker(len(guard.workers) + 1, **{"ticket": 0} | record)
        guard.workers.append(worker)
        return worker

    return starting


@pytest.mark.parametrize("phase", [UNBORN, STARTING])
def test_a_start_that_takes_too_long_is_ended(deadlines, guard, starting, clock, scheduled, phase):
    guard.policy = Policy(startup_timeout=2.0)
    worker = starting(phase=phase)
    clock.time = 1001.0
    deadlines.look()
    assert worker.signals == []
    assert next_look(scheduled) == 1002.0
    clock.time = 1002.0
    deadlines.look()
    assert worker.signals == [signal.SIGKILL]
    assert worker.killed == Kill("startup")
    clock.time = 1003.0
    deadlines.look()
    assert worker.signals == [signal.SIGKILL]


@pytest.mark.parametrize("phase", [READY, RUNNING, DONE, LEFT])
def test_who_has_started_may_take_any_time(deadlines, guard, starting, clock, phase):
    guard.policy = Policy(startup_timeout=2.0)
    worker = starting(phase=phase)
    clock.time += 100
    deadlines.look()
    assert worker.signals == []


def test_without_a_limit_a_start_may_take_any_time(deadlines, starting, clock):
    worker = starting(phase=STARTING)
    clock.time += 10**6
    deadlines.look()
    assert worker.signals == []


def waiting_ticket(guard, number):
    ticket = guard.tickets.open[number] = Ticket(number, "key", "f", Policy(), None, 0)
    ticket.sent = True


def test_an_older_worker_that_is_silent_may_just_be_idle(deadlines, guard, starting, clock):
    guard.policy = Policy(startup_timeout=2.0)
    worker = starting(phase=UNBORN)
    worker.older = True
    for _ in range(5):
        clock.time += 2
        deadlines.look()
    assert worker.signals == []


def test_an_older_worker_is_stuck_when_the_oldest_task_finds_no_taker(deadlines, guard, starting, clock):
    guard.policy = Policy(startup_timeout=2.0)
    worker = starting(phase=UNBORN)
    worker.older = True
    waiting_ticket(guard, 5)
    clock.time += 10
    deadlines.look()
    clock.time += 1
    deadlines.look()
    assert worker.signals == []
    clock.time += 1
    deadlines.look()
    assert worker.signals == [signal.SIGKILL]


def test_as_long_as_tasks_are_taken_no_older_worker_is_stuck(deadlines, guard, starting, clock):
    guard.policy = Policy(startup_timeout=2.0)
    worker = starting(phase=UNBORN)
    worker.older = True
    busy = starting(phase=RUNNING)
    for number in range(1, 6):
        waiting_ticket(guard, number)
    for number in range(1, 6):
        busy.moves_on(ticket=number)
        deadlines.look()
        clock.time += 2
        del guard.tickets.open[number]
    assert worker.signals == []


# -- stacks of real processes ---------------------------------------------------------------------


@pytest.fixture
def start():
    """Starts a worker that joins and then runs a function."""
    with workers() as start:

        def start_and_join(function):
            has_place = FORK.Event()

            def work():
                has_place.wait(DEADLINE)
                cells = join(start.memory.name).record.cells
                cells[ledger.PHASE] = RUNNING
                function()

            worker = start(work)
            has_place.set()
            eventually(lambda: worker.snapshot().phase == RUNNING, "the task")
            return worker

        yield start_and_join


real = pytest.mark.skipif(sys.platform != "linux", reason="takes real-time signals")


@real
def test_stacks_are_those_of_now_even_of_who_holds_the_gil_or_is_stopped(start, monkeypatch):
    monkeypatch.setattr(deadlines_module, "STACK_BOUND", DEADLINE)
    ones = [start(wait_for_ever), start(spin()), start(hold_gil()), start(wait_for_ever)]
    ones[3].send(signal.SIGSTOP)
    eventually(ones[3].is_stopped, "it stopped")
    assert within(DEADLINE, dump_stacks, [ones[0]])[ones[0]]
    found = within(DEADLINE, dump_stacks, iter(ones))
    assert list(found) == ones
    for worker, name in zip(ones, ("wait_for_ever", "_spin", "_hold_gil", "wait_for_ever"), strict=True):
        assert f"in {name}\n" in found[worker]
        # Nothing of the dump before.
        assert found[worker].count("most recent call first") == 1
    assert not any(worker.has_ended() for worker in ones)


@real
def test_who_writes_nothing_has_no_stack_and_holds_up_nobody_for_long(start):
    def deaf():
        signal.pthread_sigmask(signal.SIG_BLOCK, [STACK_SIGNAL])
        wait_for_ever()

    worker = start(deaf)
    assert within(DEADLINE, dump_stacks, [worker]) == {worker: None}


def test_of_nobody_there_are_no_stacks():
    assert dump_stacks([]) == {}
