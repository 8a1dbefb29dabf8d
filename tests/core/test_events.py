"""Events: told in order, in a thread of their own, whatever their hearers do."""

from __future__ import annotations

import logging
import threading

import pytest

from poolwarden.core import events
from poolwarden.core.events import Herald
from poolwarden.policy import Policy
from poolwarden.records import EVENT_KINDS, Event
from tests.contract.waiting import DEADLINE, eventually


@pytest.fixture
def herald():
    herald = Herald("Pool-7")
    yield herald
    herald.close()


@pytest.fixture(autouse=True)
def logged(caplog):
    caplog.set_level(logging.INFO, "poolwarden")
    return caplog


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "poolwarden-events"]


def test_events_are_told_in_order_with_all_that_is_known(herald):
    told = []
    policy = Policy(on_event=told.append)
    herald.tell("worker_lost", policy, pid=12, detail="worker 12 died while idle")
    herald.tell("pool_repaired", policy, detail="took 1 ms")
    herald.close()
    assert [event.kind for event in told] == ["worker_lost", "pool_repaired"]
    assert told[0] == Event("worker_lost", told[0].time, "Pool-7", pid=12, detail="worker 12 died while idle")
    assert told[0].time <= told[1].time


@pytest.mark.parametrize("kind", EVENT_KINDS)
def test_losses_are_warnings_and_what_is_mended_or_meant_is_not(herald, logged, kind):
    herald.tell(kind, Policy(), detail="what happened")
    herald.close()
    (record,) = logged.records
    repairs = ("pool_repaired", "task_retried", "task_cancelled", "worker_killed")
    assert record.levelno == (logging.INFO if kind in repairs else logging.WARNING)
    assert record.name == "poolwarden"
    assert record.getMessage() == f"Pool-7: {kind}: what happened"
    assert record.poolwarden.kind == kind


def test_each_event_goes_to_the_policy_of_its_time(herald):
    first, second = [], []
    herald.tell("worker_lost", Policy(on_event=first.append))
    herald.tell("task_lost", Policy(on_event=second.append))
    herald.close()
    assert [event.kind for event in first + second] == ["worker_lost", "task_lost"]
    assert len(first) == 1


def test_listeners_are_told_whatever_the_policy_and_whatever_they_raise(herald, logged, monkeypatch):
    told, own = [], []
    monkeypatch.setattr(events, "listeners", [lambda event: 1 / 0, told.append])
    herald.tell("worker_lost", Policy())
    herald.tell("task_lost", Policy(on_event=own.append))
    herald.close()
    assert [event.kind for event in told] == ["worker_lost", "task_lost"]
    assert own == told[1:]


@pytest.mark.parametrize("error", [ValueError("odd"), SystemExit(), KeyboardInterrupt()], ids=repr)
def test_a_callback_that_raises_is_logged_once_and_called_again(herald, logged, error):
    called = []

    def on_event(event):
        called.append(event)
        raise error

    for _ in range(3):
        herald.tell("worker_lost", Policy(on_event=on_event))
    herald.close()
    assert len(called) == 3
    complaints = [record for record in logged.records if record.levelno == logging.ERROR]
    assert len(complaints) == 1
    assert complaints[0].exc_info[1] is error


def test_a_log_filter_that_raises_does_not_stop_the_events(herald):
    def broken(record):
        raise RuntimeError("broken filter")

    told = []
    events.log.addFilter(broken)
    try:
        for _ in range(3):
            herald.tell("worker_lost", Policy(on_event=told.append))
        herald.close()
    finally:
        events.log.removeFilter(broken)
    assert len(told) == 3


def test_a_callback_that_blocks_holds_up_neither_who_tells_nor_the_end(herald, monkeypatch):
    monkeypatch.setattr(events, "_FLUSH_BOUND", 0.05)
    entered, release = threading.Event(), threading.Event()

    def on_event(event):
        entered.set()
        release.wait(DEADLINE)

    for _ in range(5):
        herald.tell("worker_lost", Policy(on_event=on_event))
    assert entered.wait(DEADLINE)
    herald.close()
    assert threads()
    release.set()
    eventually(lambda: not threads(), "the thread ended")


def test_there_is_a_thread_from_the_first_event_to_the_end(herald):
    assert threads() == []
    herald.tell("worker_lost", Policy())
    herald.tell("worker_lost", Policy())
    assert len(threads()) == 1
    assert threads()[0].daemon
    herald.close()
    herald.close()
    assert threads() == []


def test_an_event_after_the_end_starts_no_thread(herald):
    herald.close()
    herald.tell("pool_repaired", Policy())
    assert threads() == []


def test_a_callback_may_end_the_pool(herald):
    told = []

    def on_event(event):
        herald.close()
        told.append(event)

    herald.tell("pool_broken", Policy(on_event=on_event))
    eventually(lambda: told and not threads(), "the callback and the end of its thread")


def test_a_callback_may_cause_another_event(herald):
    told = []

    def on_event(event):
        told.append(event.kind)
        if event.kind == "worker_lost":
            herald.tell("pool_broken", Policy(on_event=on_event))

    herald.tell("worker_lost", Policy(on_event=on_event))
    eventually(lambda: told == ["worker_lost", "pool_broken"], "both events")
