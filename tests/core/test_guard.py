"""One guarded pool: real deaths in every phase, and what a host is told to do about them."""

from __future__ import annotations

import gc
import logging
import os
import pickle
import signal
import sys
import threading
import time
import weakref
from concurrent.futures import CancelledError
from contextlib import ExitStack

import pytest

from poolwarden import errors
from poolwarden.core import losses
from poolwarden.core.guard import Guard
from poolwarden.core.tickets import VERDICT
from poolwarden.core.workers import Kill
from poolwarden.policy import Policy, limits
from poolwarden.system.watchdog import watchdog
from poolwarden.worker import ledger
from poolwarden.worker.envelope import CHUNK, PARTS, TIMEOUT, VALUE
from poolwarden.worker.payload import MEMORY
from tests.contract.waiting import DEADLINE, ENDING, eventually, state_of, within
from tests.core.fakes import FakeHost
from tests.core.recorded import keep, store_outcome, write_stack
from tests.worker.processes import FORK, running, wait_for_ever

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="takes pidfds")


class Pool:
    """A guard with a fake host, real processes as workers, and records written by hand."""

    def __init__(self, stack, **policy):
        self.events = []
        self.host = FakeHost()
        self.guard = Guard(self.host, Policy(on_event=self.events.append, **policy), "Fake-1")
        self._stack = stack
        stack.callback(self.guard.close)

    def start(self, target=wait_for_ever, *, older=False, **cells):
        """Start a worker whose record says this; return what the guard knows of it."""
        process = self._stack.enter_context(running(target))
        place = self.guard.memory.adopt(process)
        for name, value in cells.items():
            place.record.cells[getattr(ledger, name)] = value
        if target is wait_for_ever:
            # Killed by a crash before that, it would print a stack.
            eventually(lambda: state_of(process.pid) == "S", "the worker asleep")
        self.host.known.append(process)
        self.guard.born(process, older=older)
        return self.guard.live_workers()[-1]

    def issue(self, func=abs, *args, items=None, **options):
        """Issue and send a ticket."""
        call = (func, args, {}) if items is None else (func, items)
        if items is not None:
            options = {"flags": CHUNK, "base": 0} | options
        ticket = self.guard.tickets.issue("key", func, call, self.guard.policy, **options)
        self.guard.sending(ticket)
        return ticket

    def run(self, ticket, item=0, target=wait_for_ever):
        """Start a worker that runs this ticket."""
        return self.start(target, PHASE=ledger.RUNNING, TICKET=ticket.number, ITEM=item, STARTED=now())

    def kill(self, *workers, sig=signal.SIGKILL):
        """Kill workers and wait until the guard has dealt with it."""
        nudges = len(self.host.named("nudge"))
        for worker in workers:
            os.kill(worker.pid, sig)
        self.host.wait_for("nudge", nudges + 1)
        eventually(lambda: not set(workers) & set(self.guard.live_workers()), "the deaths handled")

    def fail_start(self, text=b""):
        """Start a worker whose initializer raises, and wait until the guard has dealt with its end."""
        told = FORK.Event()

        def work():
            told.wait(DEADLINE)
            os._exit(1)

        worker = self.start(work, PHASE=ledger.FAILED)
        store_outcome(worker, 0, 0, text)
        told.set()
        eventually(lambda: worker not in self.guard.live_workers(), "the end handled")

    def answer(self, count=1):
        """Return what the callers get of the outcomes that were delivered, as the result thread does."""
        delivered = self.host.wait_for("deliver", count)
        return [self.guard.settle(ticket.number, kind, data) for ticket, kind, data in delivered[-count:]]

    def kinds(self):
        """Return the kinds of all events; ends the pool."""
        self.guard.close()
        return [event.kind for event in self.events]


def now():
    return time.monotonic_ns()


@pytest.fixture
def make_pool(caplog):
    caplog.set_level(logging.CRITICAL + 1, "poolwarden")
    with ExitStack() as stack:
        yield lambda **policy: Pool(stack, **policy)


@pytest.fixture
def pool(make_pool):
    return make_pool()


# -- a death in each phase ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sig", "name"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGTERM, "SIGTERM"), (signal.SIGABRT, "SIGABRT")]
)
def test_a_task_is_lost_with_its_worker_and_nothing_else_is(pool, sig, name):
    ticket = pool.issue(base=3)
    ticket.site = ("shop.py", 12)
    other = pool.issue()
    worker = pool.run(ticket)
    pool.kill(worker, sig=sig)
    [(answered, ok, error)] = pool.answer()
    assert (answered, ok, type(error)) == (ticket, False, errors.WorkerLostError)
    assert (error.exit.pid, error.exit.exitcode, error.exit.signal) == (worker.pid, -sig, name)
    assert (error.task.function, error.task.index, error.task.site) == ("builtins.abs", 3, "shop.py:12")
    assert (error.task.attempts, error.may_have_run) == (1, True)
    assert list(pool.guard.tickets.open.values()) == [other]
    # It held no lock: the pool is not stopped for it.
    assert pool.host.named("repair") == []
    assert pool.host.named("buried") == [worker.pid]
    assert pool.kinds() == ["task_lost"]


@pytest.mark.parametrize("code", [0, 7])
def test_an_exit_is_a_loss_as_well(pool, code):
    told = FORK.Event()

    def work():
        told.wait(DEADLINE)
        os._exit(code)

    pool.run(pool.issue(), target=work)
    told.set()
    [(_, _, error)] = pool.answer()
    assert (type(error), error.exit.exitcode, error.exit.cause) == (errors.WorkerLostError, code, "exit")


def test_an_outcome_that_was_stored_is_delivered_though_the_record_says_running(pool):
    """It died between storing the outcome and saying so: nothing is lost."""
    ticket = pool.issue()
    worker = pool.run(ticket)
    store_outcome(worker, ticket.number, VALUE, pickle.dumps("the result"))
    pool.kill(worker)
    assert pool.answer() == [(ticket, True, "the result")]


def test_the_outcome_of_the_task_before_is_none_of_this_one(pool):
    before, ticket = pool.issue(), pool.issue()
    worker = pool.run(ticket)
    store_outcome(worker, before.number, VALUE, pickle.dumps("of the one before"))
    pool.kill(worker)
    [(answered, _, error)] = pool.answer()
    assert (answered, type(error)) == (ticket, errors.WorkerLostError)


@pytest.mark.parametrize("phase", ["DONE", "LEFT"])
def test_a_finished_task_survives_its_worker(pool, phase):
    ticket = pool.issue()
    worker = pool.start(PHASE=getattr(ledger, phase), TICKET=ticket.number)
    store_outcome(worker, ticket.number, VALUE, pickle.dumps("the result"))
    pool.kill(worker)
    assert pool.answer() == [(ticket, True, "the result")]


def test_an_outcome_that_has_arrived_is_not_delivered_again(pool):
    ticket = pool.issue()
    worker = pool.start(PHASE=ledger.DONE, TICKET=ticket.number)
    store_outcome(worker, ticket.number, VALUE, pickle.dumps("the result"))
    assert pool.guard.settle(ticket.number, VALUE, pickle.dumps("the result"))
    pool.kill(worker)
    assert pool.host.named("deliver") == []


@pytest.mark.parametrize(
    ("cells", "older", "repairs", "kinds"),
    [
        ({"PHASE": ledger.READY}, False, True, ["worker_lost", "pool_repaired"]),
        ({"PHASE": ledger.DONE}, False, True, ["worker_lost", "pool_repaired"]),
        ({"PHASE": ledger.STARTING}, False, False, ["init_failed"]),
        ({"PHASE": ledger.FAILED}, False, False, ["init_failed"]),
        ({"PHASE": ledger.UNBORN}, False, False, ["init_failed"]),
        ({}, False, False, ["init_failed"]),
        # Older than the guard: it may hold anything.
        ({}, True, True, ["worker_lost", "pool_repaired"]),
        ({"PHASE": ledger.STARTING}, True, False, ["init_failed"]),
        ({"PHASE": ledger.READY}, True, True, ["worker_lost", "pool_repaired"]),
    ],
    ids=lambda value: next(iter(value.values()), "none") if isinstance(value, dict) else None,
)
def test_a_worker_that_held_no_task(pool, cells, older, repairs, kinds):
    worker = pool.start(older=older, **cells)
    pool.kill(worker)
    assert pool.host.named("deliver") == []
    assert len(pool.host.named("repair")) == repairs
    assert pool.kinds() == kinds
    assert {event.pid for event in pool.events if event.kind != "pool_repaired"} == {worker.pid}


@pytest.mark.parametrize(("may_leave", "repairs"), [(True, False), (False, True)])
def test_a_worker_that_left_is_a_loss_only_if_it_had_no_reason(pool, may_leave, repairs):
    pool.host.may_leave = may_leave
    pool.kill(pool.start(PHASE=ledger.LEFT))
    assert len(pool.host.named("repair")) == repairs
    assert pool.kinds() == (["worker_lost", "pool_repaired"] if repairs else [])


def test_a_worker_killed_in_a_repair_is_neither_told_nor_repaired_after(pool):
    worker = pool.start(PHASE=ledger.READY)
    worker.killed = Kill("repair")
    pool.kill(worker)
    assert pool.host.named("repair") == []
    assert pool.kinds() == []


def test_deaths_of_one_moment_are_answered_one_by_one_and_mended_once(pool):
    entered, release = threading.Event(), threading.Event()
    blocker = type("Owner", (), {"on_deadline": lambda self: (entered.set(), release.wait(DEADLINE))})()
    tickets = [pool.issue() for _ in range(2)]
    ones = [pool.run(ticket) for ticket in tickets] + [pool.start(PHASE=ledger.READY) for _ in range(2)]
    watchdog().schedule(blocker, time.monotonic())
    assert entered.wait(DEADLINE)
    for worker in ones:
        os.kill(worker.pid, signal.SIGKILL)
        worker.process.join(DEADLINE)
    release.set()
    answers = pool.answer(2)
    assert [answer[0] for answer in answers] == tickets
    assert len({id(answer[2]) for answer in answers}) == 2
    assert [answer[2].exit.pid for answer in answers] == [worker.pid for worker in ones[:2]]
    pool.host.wait_for("nudge")
    assert len(pool.host.named("repair")) == 1


def test_a_host_that_does_not_reap_leaves_that_to_the_guard(pool):
    pool.host.reaps = False
    worker = pool.run(pool.issue())
    pool.kill(worker)
    with pytest.raises(ChildProcessError):
        os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)


def test_a_worker_that_somebody_else_has_reaped_died_of_something_unknown(pool, monkeypatch):
    monkeypatch.setattr(losses, "_EXIT_CODE_BOUND", 0.02)
    ticket = pool.issue()
    entered, release = threading.Event(), threading.Event()
    blocker = type("Owner", (), {"on_deadline": lambda self: (entered.set(), release.wait(DEADLINE))})()
    worker = pool.run(ticket)
    watchdog().schedule(blocker, time.monotonic())
    assert entered.wait(DEADLINE)
    os.kill(worker.pid, signal.SIGKILL)
    os.waitpid(worker.pid, 0)
    release.set()
    [(_, _, error)] = pool.answer()
    assert (error.exit.exitcode, error.exit.cause) == (None, "unknown")
    # The host can go on: its process object has ended too.
    assert worker.process.exitcode == 255


def test_the_place_of_a_dead_worker_is_free_again(pool):
    free = len(pool.guard.memory.main.free)
    worker = pool.start(PHASE=ledger.READY)
    assert len(pool.guard.memory.main.free) == free - 1
    pool.kill(worker)
    eventually(lambda: len(pool.guard.memory.main.free) == free, "the place free")


def test_the_host_is_told_when_no_worker_is_left(pool):
    first, second = pool.start(PHASE=ledger.READY), pool.start(PHASE=ledger.READY)
    pool.kill(first)
    assert pool.host.named("workers_are_gone") == []
    pool.kill(second)
    pool.host.wait_for("workers_are_gone")


def test_a_worker_is_watched_once(pool):
    worker = pool.start(PHASE=ledger.READY)
    pool.guard.born(worker.process)
    assert pool.guard.live_workers() == [worker]


def test_a_crash_comes_with_its_stack(pool):
    ticket = pool.issue()
    worker = pool.run(ticket)
    write_stack(worker, "an earlier dump\nFatal Python error: Aborted\n\nCurrent thread: in shop.fetch")
    pool.kill(worker, sig=signal.SIGABRT)
    [(_, _, error)] = pool.answer()
    assert error.stack == "Fatal Python error: Aborted\n\nCurrent thread: in shop.fetch"


def test_a_stack_of_something_else_is_not_that_of_a_kill(pool):
    ticket = pool.issue()
    worker = pool.run(ticket)
    write_stack(worker, "Fatal Python error: Aborted\n\nof a process that a task had forked")
    pool.kill(worker)
    assert pool.answer()[0][2].stack is None


# -- retries, timeouts, cancelling ----------------------------------------------------------------


def test_a_lost_task_is_sent_again_as_often_as_allowed(make_pool):
    pool = make_pool(retries=2)
    ticket = pool.issue()
    for turn in range(2):
        pool.kill(pool.run(ticket))
        assert pool.host.wait_for("resend", turn + 1)[-1] == [ticket]
        pool.guard.sending(ticket)
    pool.kill(pool.run(ticket))
    [(_, _, error)] = pool.answer()
    assert error.task.attempts == 3
    assert ticket.sendings == 3
    assert pool.kinds() == ["task_retried", "task_retried", "task_lost"]


def test_a_chunk_is_sent_again_from_the_lost_item_on(make_pool):
    pool = make_pool(losses="return")
    ticket = pool.issue(items=range(3))
    first = pool.run(ticket, item=1)
    keep(first.place, ticket.number, {0: "zero"})
    pool.kill(first)
    assert pool.host.wait_for("resend") == [[ticket]]
    assert ticket.first == 2
    second = pool.run(ticket, item=2)
    [(_, ok, value)] = [
        pool.guard.settle(ticket.number, PARTS, keep(second.place, ticket.number, {2: "two"}))
    ]
    assert (ok, value[0], value[2]) == (True, "zero", "two")
    assert type(value[1]) is errors.WorkerLostError
    assert value[1].task.index == 1


@pytest.mark.parametrize(
    ("reason", "error_type", "kind"),
    [("timeout", errors.TaskTimeoutError, "task_timeout"), ("cancel", CancelledError, "task_cancelled")],
)
def test_a_worker_that_was_killed_for_its_task(make_pool, reason, error_type, kind):
    """Neither is run again, and neither makes the pool count it as a worker that died by itself."""
    pool = make_pool(retries=3)
    ticket = pool.issue()
    worker = pool.run(ticket)
    worker.killed = Kill(reason, ticket.number, "in shop.fetch")
    pool.kill(worker)
    [(_, ok, error)] = pool.answer()
    assert (ok, type(error)) == (False, error_type)
    if reason == "timeout":
        assert (error.stack, error.exit.cause) == ("in shop.fetch", "killed_by_guard")
    assert pool.host.named("resend") == []
    assert pool.kinds() == [kind]


def test_a_task_that_never_ends_is_stopped_and_another_is_not(make_pool):
    pool = make_pool(timeout=0.05)
    quick, endless = pool.issue(limits(abs, timeout=None)), pool.issue()
    patient = pool.run(quick)
    pool.run(endless)
    [(ticket, _, error)] = pool.answer()
    assert (ticket, type(error)) == (endless, errors.TaskTimeoutError)
    eventually(lambda: pool.guard.live_workers() == [patient], "the other one alone")


def test_a_task_is_stopped_that_begins_long_after_it_was_sent(make_pool):
    """No message tells of the beginning; the records are looked at."""
    pool = make_pool(timeout=0.05)
    ticket = pool.issue()
    worker = pool.start(PHASE=ledger.READY)
    threading.Event().wait(0.12)
    assert pool.host.named("deliver") == []
    worker.set_cells(TICKET=ticket.number, STARTED=now(), PHASE=ledger.RUNNING)
    assert type(pool.answer()[0][2]) is errors.TaskTimeoutError


def test_a_cancelled_task_is_stopped_while_it_runs(pool):
    ticket = pool.issue()
    pool.run(ticket)
    pool.guard.cancel(ticket)
    assert type(pool.answer()[0][2]) is CancelledError


def test_a_cancelled_task_is_stopped_as_soon_as_it_begins(pool):
    ticket = pool.issue()
    worker = pool.start(PHASE=ledger.READY)
    pool.guard.cancel(ticket)
    worker.set_cells(TICKET=ticket.number, STARTED=now(), PHASE=ledger.RUNNING)
    assert type(pool.answer()[0][2]) is CancelledError


def test_a_start_that_takes_too_long_breaks_the_pool(make_pool):
    pool = make_pool(startup_timeout=0.05)
    ticket = pool.issue()
    pool.start(PHASE=ledger.STARTING)
    [(answered, _, error)] = pool.answer()
    assert (answered, type(error)) == (ticket, errors.PoolBrokenError)
    assert "startup_timeout" in str(error)
    assert error.may_have_run is False
    pool.host.wait_for("on_broken")


def test_a_soft_timeout_is_an_answer(make_pool):
    pool = make_pool(timeout=9, retries=3)
    ticket = pool.issue()
    answered, ok, error = pool.guard.settle(ticket.number, TIMEOUT, pickle.dumps(("in shop.fetch", 0, b"")))
    assert (answered, ok, type(error)) == (ticket, False, errors.TaskTimeoutError)
    assert error.exit is None
    assert pool.guard.settle(ticket.number, TIMEOUT, pickle.dumps(("in shop.fetch", 0, b""))) is None
    assert pool.kinds() == ["task_timeout"]


def test_behind_a_soft_timeout_a_chunk_goes_on_when_losses_are_returned(make_pool):
    pool = make_pool(timeout=9, losses="return")
    ticket = pool.issue(items=range(2))
    assert pool.guard.settle(ticket.number, TIMEOUT, pickle.dumps(("in shop.fetch", 0, b""))) is None
    assert pool.host.named("resend") == [[ticket]]
    assert (ticket.first, type(ticket.holes[0])) == (1, errors.TaskTimeoutError)
    answered, ok, value = pool.guard.settle(ticket.number, TIMEOUT, pickle.dumps(("in shop.fetch", 1, b"")))
    assert (answered, ok, [type(error) for error in value]) == (ticket, True, [errors.TaskTimeoutError] * 2)
    assert [error.task.index for error in value] == [0, 1]


# -- broken pools ---------------------------------------------------------------------------------


def test_a_broken_pool_answers_every_open_task_with_an_error_of_its_own(pool):
    tickets = [pool.issue() for _ in range(3)]
    pool.start(PHASE=ledger.READY)
    pool.guard.break_pool("there is a reason")
    pool.guard.break_pool("another one")
    answers = pool.answer(3)
    assert [answer[0] for answer in answers] == tickets
    assert len({id(answer[2]) for answer in answers}) == 3
    assert all("there is a reason" in str(answer[2]) for answer in answers)
    assert pool.host.named("on_broken") == [None]
    # After the answers, so that the host refuses new tasks with nothing pending.
    assert [name for name, _ in pool.host.calls] == ["deliver"] * 3 + ["on_broken"]
    assert pool.kinds() == ["pool_broken"]


def test_a_task_may_have_run_though_its_writer_has_not_come_to_say_so(pool):
    """The worker was quicker: the thread that wrote the message waits for the interpreter."""
    ticket = pool.issue()
    ticket.sent = False
    ticket.written = []
    pool.kill(pool.run(ticket))
    [(_, _, error)] = pool.answer()
    assert (error.task.attempts, error.may_have_run) == (1, True)


@pytest.mark.parametrize(("phase", "may_have_run"), [(ledger.STARTING, False), (ledger.READY, True)])
def test_whether_a_task_of_a_broken_pool_may_have_run(pool, phase, may_have_run):
    pool.issue()
    pool.start(PHASE=phase)
    pool.guard.break_pool("there is a reason")
    assert pool.answer()[0][2].may_have_run is may_have_run


def test_starts_that_a_broken_pool_does_not_wait_for_are_ended(pool):
    worker = pool.start(PHASE=ledger.STARTING)
    pool.guard.break_pool("there is a reason")
    assert worker.has_ended(DEADLINE)


def test_a_broken_pool_of_which_somebody_is_ready_is_the_hosts_to_end(pool):
    ones = [pool.start(PHASE=ledger.STARTING), pool.start(PHASE=ledger.READY)]
    pool.guard.break_pool("there is a reason")
    assert not any(worker.has_ended() for worker in ones)


def test_nobody_may_be_sure_that_an_older_worker_has_not_begun(pool):
    pool.issue()
    worker = pool.start(older=True)
    pool.guard.break_pool("there is a reason")
    assert not worker.has_ended()
    assert pool.answer()[0][2].may_have_run is True


def test_each_failed_start_is_told(pool):
    workers = [pool.fail_start(b"Traceback: in initializer") for _ in range(2)]
    assert pool.kinds() == ["init_failed"] * 2
    assert [event.pid for event in pool.events] == [event.exit.pid for event in pool.events]
    assert len({event.pid for event in pool.events}) == len(workers)


def test_an_initializer_that_raises_breaks_the_pool_with_its_traceback(pool):
    ticket = pool.issue()
    for _ in range(5):
        pool.fail_start(b"Traceback: in initializer")
    [(answered, _, error)] = pool.answer()
    assert (answered, type(error)) == (ticket, errors.PoolBrokenError)
    assert str(error.__cause__) == "Traceback: in initializer"
    assert pool.kinds() == ["init_failed"] * 5 + ["pool_broken"]


def test_what_a_task_finished_makes_failed_starts_count_anew(pool):
    for _ in range(3):
        for _ in range(4):
            pool.fail_start()
        ticket = pool.issue()
        pool.guard.settle(ticket.number, VALUE, pickle.dumps(1))
    assert pool.guard.broken is None


def test_a_verdict_is_no_sign_that_workers_can_live(pool):
    for _ in range(4):
        pool.fail_start()
    ticket = pool.issue()
    pool.guard.fail(ticket, ValueError())
    assert pool.guard.settle(ticket.number, VERDICT, b"")
    pool.fail_start()
    assert pool.guard.broken is not None


def test_a_broken_pool_is_not_repaired(pool):
    pool.guard.break_pool("there is a reason")
    pool.kill(pool.start(PHASE=ledger.READY))
    assert pool.host.named("repair") == []


def test_a_failure_of_the_guard_itself_answers_every_task(pool):
    ticket = pool.issue()

    def fail(guard):
        raise ZeroDivisionError

    pool.host.on_repair = fail
    os.kill(pool.start(PHASE=ledger.READY).pid, signal.SIGKILL)
    [(answered, _, error)] = pool.answer()
    assert (answered, type(error)) == (ticket, errors.PoolBrokenError)
    assert "ZeroDivisionError" in str(error)
    assert "bug in poolwarden" in str(error)


# -- strays, later actions, births ----------------------------------------------------------------


def test_workers_that_the_host_has_lost_sight_of_leave_after_their_task(pool):
    known, stray = pool.start(PHASE=ledger.READY), pool.start(PHASE=ledger.RUNNING)
    pool.host.known = [known.process]
    pool.guard.dismiss_strays()
    pool.host.wait_for("repair")
    assert cell(stray, "RETIRE") == 1
    assert cell(known, "RETIRE") == 0


def cell(worker, name):
    return worker.place.record.cells[getattr(ledger, name)]


def test_without_strays_nothing_is_repaired(pool):
    pool.start(PHASE=ledger.READY)
    pool.guard.dismiss_strays()
    done = threading.Event()
    pool.guard.call_later(0.0, done.set)
    assert done.wait(DEADLINE)
    assert pool.host.named("repair") == []


def test_later_actions_come_in_their_time(pool):
    order = []
    done = threading.Event()
    pool.guard.call_later(0.08, lambda: (order.append("later"), done.set()))
    pool.guard.call_later(0.02, lambda: order.append("sooner"))
    assert done.wait(DEADLINE)
    assert order == ["sooner", "later"]


def test_a_later_action_may_ask_for_another(pool):
    done = threading.Event()
    pool.guard.call_later(0.0, lambda: pool.guard.call_later(0.0, done.set))
    assert done.wait(DEADLINE)


def test_after_the_end_no_later_action_comes(pool):
    called = []
    pool.guard.call_later(0.02, lambda: called.append(1))
    pool.guard.close()
    threading.Event().wait(0.06)
    assert called == []


def test_births_wait_for_deaths_to_be_answered_but_not_for_ever(pool):
    worker = pool.start(PHASE=ledger.READY)
    within(DEADLINE, pool.guard.wait_for_burials)
    assert pool.guard.live_workers() == [worker]
    watchdog().unwatch(worker.fd)
    os.kill(worker.pid, signal.SIGKILL)
    assert worker.has_ended(DEADLINE)
    within(ENDING, pool.guard.wait_for_burials)


# -- the end --------------------------------------------------------------------------------------


def test_a_pool_that_ends_loses_nothing(pool):
    ticket = pool.issue()
    ones = [pool.run(ticket), pool.start(PHASE=ledger.READY)]
    pool.guard.stop_watching()
    for worker in ones:
        os.kill(worker.pid, signal.SIGKILL)
        worker.process.join(DEADLINE)
    done = threading.Event()
    watchdog().schedule(type("Owner", (), {"on_deadline": lambda self: done.set()})(), time.monotonic())
    assert done.wait(DEADLINE)
    assert pool.host.calls == []
    assert pool.kinds() == []


def test_closing_gives_the_memory_back_and_forgets_the_workers(pool):
    pool.start(PHASE=ledger.READY)
    where, _ = pool.host.dumper.dump(bytes(1 << 20), pool.guard.memory.calls, 1)
    assert where == MEMORY
    fd = pool.guard.memory.main.fd
    pool.guard.close()
    assert not os.path.exists(f"/proc/self/fd/{fd}")
    with pytest.raises(ValueError, match="released"):
        pool.guard.memory.main.memory.view(0, 1)
    assert pool.guard.live_workers() == []
    pool.guard.close()


def test_after_the_end_nobody_is_born(pool):
    pool.guard.close()
    with running(wait_for_ever) as process:
        pool.guard.born(process)
        assert pool.guard.live_workers() == []


def test_closing_from_the_watchdogs_own_thread(pool):
    """The last reference to a pool may go there."""
    closed = threading.Event()
    pool.start(PHASE=ledger.READY)
    pool.guard.call_later(0.0, lambda: (pool.guard.close(), closed.set()))
    assert closed.wait(ENDING)


def test_an_unguarded_pool_ends_behind_its_last_answer(pool):
    first, second = pool.issue(), pool.issue()
    pool.guard.retire()
    pool.guard.settle(first.number, VALUE, pickle.dumps(1))
    assert pool.host.named("answered_all") == []
    pool.guard.settle(second.number, VALUE, pickle.dumps(1))
    assert pool.host.named("answered_all") == [None]


def test_an_unguarded_pool_with_nothing_under_way_ends_at_once(pool):
    pool.guard.retire()
    assert pool.host.named("answered_all") == [None]


def test_an_unguarded_pool_that_is_guarded_again_goes_on(pool):
    ticket = pool.issue()
    pool.guard.retire()
    assert pool.guard.is_retiring
    assert pool.guard.stay(Policy(timeout=7))
    assert not pool.guard.is_retiring
    assert pool.guard.policy.timeout == 7
    pool.guard.settle(ticket.number, VALUE, pickle.dumps(1))
    assert pool.host.named("answered_all") == []


def test_a_guard_that_nobody_uses_is_collected(caplog):
    with ExitStack() as stack:
        pool = Pool(stack)
        gone = weakref.ref(pool.guard)
        pool.kill(pool.start(PHASE=ledger.READY))
    del pool

    def collected():
        gc.collect()
        return gone() is None

    eventually(collected, "the guard collected")
