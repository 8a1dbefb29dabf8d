"""The gate: one writer at a time, none while it is shut."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from poolwarden.core.gate import Gate
from tests.contract.waiting import DEADLINE, eventually, state_of


def ticket(number):
    return SimpleNamespace(number=number, sent=True)


class Writer(threading.Thread):
    """Enters, says so, and leaves when it is told to."""

    def __init__(self, gate):
        super().__init__(daemon=True)
        self.gate = gate
        self.entered = threading.Event()
        self.may_leave = threading.Event()
        self.start()

    def run(self):
        self.gate.enter()
        self.entered.set()
        self.may_leave.wait(DEADLINE)
        self.gate.leave()

    def is_inside(self):
        return self.entered.wait(DEADLINE)

    def is_waiting(self):
        """Wait until the thread sleeps in the gate."""
        eventually(lambda: state_of(self.native_id) == "S", "the writer asleep")
        return not self.entered.is_set()

    def finish(self):
        self.may_leave.set()
        self.join(DEADLINE)
        assert not self.is_alive()


@pytest.fixture
def gate():
    return Gate()


def test_one_writer_at_a_time(gate):
    first, second = Writer(gate), None
    assert first.is_inside()
    second = Writer(gate)
    assert second.is_waiting()
    assert not gate.try_enter()
    first.finish()
    assert second.is_inside()
    second.finish()
    assert gate.try_enter()
    gate.leave()


def test_busy_says_whether_somebody_is_inside(gate):
    assert not gate.busy
    writer = Writer(gate)
    assert writer.is_inside()
    gate.shut()
    assert gate.busy
    writer.finish()
    assert not gate.busy


def test_nobody_enters_while_it_is_shut(gate):
    gate.shut()
    writer = Writer(gate)
    assert writer.is_waiting()
    assert not gate.try_enter()
    assert not gate.busy
    gate.open()
    assert writer.is_inside()
    writer.finish()


def test_who_waits_behind_a_writer_does_not_slip_through_when_it_is_shut_meanwhile(gate):
    inside = Writer(gate)
    assert inside.is_inside()
    behind = Writer(gate)
    assert behind.is_waiting()
    gate.shut()
    inside.finish()
    eventually(lambda: not gate.busy, "nobody inside")
    assert behind.is_waiting()
    assert not gate.busy
    gate.open()
    assert behind.is_inside()
    behind.finish()


def test_it_can_be_shut_again_and_again(gate):
    for _ in range(3):
        gate.shut()
        gate.shut()
        assert not gate.try_enter()
        gate.open()
        assert gate.try_enter()
        gate.leave()


def test_what_waits_to_be_sent_again_goes_first(gate):
    gate.send_again([ticket(3)])
    assert not gate.try_enter()
    gate.next_again()
    assert gate.try_enter()
    gate.leave()


def test_tickets_are_sent_again_oldest_first_and_count_as_unsent(gate):
    tickets = [ticket(number) for number in (5, 3, 4)]
    gate.send_again(iter(tickets))
    gate.send_again([ticket(1)])
    assert [gate.next_again().number for _ in range(4)] == [1, 3, 4, 5]
    assert gate.next_again() is None
    assert not any(ticket.sent for ticket in tickets)
