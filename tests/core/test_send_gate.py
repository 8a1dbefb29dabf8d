"""The gate: one writer at a time, none while it is shut."""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace

import pytest

from poolwarden.core.send_gate import Gate
from tests.contract.waiting import DEADLINE, eventually, state_of


def ticket(number):
    return SimpleNamespace(number=number, sent=True, written=None)


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


def test_a_thread_of_the_users_writes_without_the_lock(gate, pipe):
    one = ticket(1)
    assert gate.write(one, pipe.writer, b"message", has_room=True)
    assert pipe.read() == b"message"
    assert not gate.busy
    assert not gate.has_left_behind()


@pytest.mark.parametrize("why", ["shut", "older", "full"])
def test_what_cannot_be_written_now_is_to_be_sent_again(gate, pipe, why):
    if why == "shut":
        gate.shut()
    if why == "older":
        gate.send_again([ticket(1)])
    assert not gate.write(ticket(2), pipe.writer, b"message", has_room=why != "full")
    assert pipe.read() == b""
    if why == "older":
        assert gate.next_again().number == 1
    assert gate.next_again().number == 2
    assert gate.next_again() is None
    assert not gate.busy


def test_what_an_interrupted_thread_has_offered_is_found_by_the_next(gate, pipe):
    # Between the offer and the write; nothing else may lie between.
    gate._offers[7] = (threading.get_ident(), ticket(7), b"message")
    assert gate.has_left_behind()
    assert not gate.has_left_behind()
    assert gate.next_again().number == 7


def test_an_offer_that_was_taken_back_meanwhile_is_not_written(gate, pipe):
    one = ticket(1)
    gate._offers = Recalled(gate)
    assert not gate.write(one, pipe.writer, b"message", has_room=True)
    assert pipe.read() == b""
    assert gate.next_again() is one
    assert gate.next_again() is None


def test_a_long_message_is_written_alone(gate, pipe):
    gate.enter()
    gate.begin_long()
    assert not gate.write(ticket(1), pipe.writer, b"message", has_room=True)
    gate.end_long()
    gate.leave()
    assert gate.next_again().number == 1
    assert gate.write(ticket(2), pipe.writer, b"message", has_room=True)


class Recalled(dict):
    """Offers that a repair, in another thread, takes back in the moment before they are written."""

    def __init__(self, gate):
        super().__init__()
        self._gate = gate

    def pop(self, number, default):
        if default is not None:
            self._gate.recall()
        return super().pop(number, default)


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    os.set_blocking(reader, False)

    def read():
        try:
            return os.read(reader, 100)
        except BlockingIOError:
            return b""

    yield SimpleNamespace(writer=writer, read=read)
    os.close(reader)
    os.close(writer)
