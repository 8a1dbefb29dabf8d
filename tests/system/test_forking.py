"""Forks wait for whoever is telling an event, and never for long."""

from __future__ import annotations

import contextlib
import os
import select
import threading

import pytest

from poolwarden.system import forking
from poolwarden.system.forking import no_fork, no_telling
from tests.contract.waiting import DEADLINE, eventually, state_of, within
from tests.worker.processes import answer_of, exit_code_of

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")


class Telling(threading.Thread):
    """Somebody who tells an event until it is told to stop."""

    def __init__(self):
        super().__init__(daemon=True)
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self.start()
        assert self.begun.wait(DEADLINE)

    def run(self):
        with no_fork():
            self.begun.set()
            self.may_end.wait(DEADLINE)

    def end(self):
        self.may_end.set()
        self.join(DEADLINE)
        assert not self.is_alive()


class Forking(threading.Thread):
    """Somebody who forks."""

    def __init__(self, around=None):
        super().__init__(daemon=True)
        self.around = around or contextlib.nullcontext()
        self.code = None
        self.start()

    def run(self):
        with self.around:
            self.code = exit_code_of(int)

    def is_waiting(self):
        eventually(lambda: state_of(self.native_id) == "S", "the thread asleep")
        return len(forking._forking) == 1

    def end(self):
        self.join(DEADLINE)
        assert self.code == 0


def test_a_fork_waits_until_nobody_is_telling(monkeypatch):
    monkeypatch.setattr(forking, "FORK_BOUND", DEADLINE)
    first, second = Telling(), Telling()
    fork = Forking()
    eventually(fork.is_waiting, "the fork waiting")
    first.end()
    assert fork.is_waiting()
    second.end()
    fork.end()


def test_who_waits_before_the_hosts_flush_forks_when_nobody_writes(monkeypatch):
    """A worker that is forked while another thread writes cannot flush at its exit."""
    monkeypatch.setattr(forking, "FORK_BOUND", DEADLINE)
    text = b"x" * (1 << 20)
    reader, writer = os.pipe()
    with open(reader, "rb") as end, open(writer, "w") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        telling = Telling()
        fork = Forking(no_telling())
        eventually(fork.is_waiting, "the fork waiting")
        writing = threading.Thread(target=stream.buffer.write, args=(text,), daemon=True)
        writing.start()
        eventually(lambda: not select.select([], [writer], [], 0)[1], "a full pipe")
        telling.end()
        assert within(DEADLINE, end.read, len(text)) == text
        fork.end()
        monkeypatch.undo()


def test_a_callback_that_blocks_does_not_hold_up_forks_for_ever():
    telling = Telling()
    assert within(DEADLINE, exit_code_of, int) == 0
    telling.end()


def test_who_begins_to_tell_waits_for_a_fork_but_not_for_ever(monkeypatch):
    monkeypatch.setattr(forking, "FORK_BOUND", DEADLINE)
    telling = Telling()
    fork = Forking()
    eventually(fork.is_waiting, "the fork waiting")
    monkeypatch.setattr(forking, "FORK_BOUND", 0.01)
    Telling().end()
    telling.end()
    fork.end()


def test_a_callback_may_fork(monkeypatch):
    monkeypatch.setattr(forking, "FORK_BOUND", DEADLINE)
    with no_fork():
        assert exit_code_of(int) == 0
        with no_fork():
            assert exit_code_of(int) == 0
    assert exit_code_of(int) == 0


def test_a_forked_process_waits_for_nobody(monkeypatch):
    """Neither for a thread of the parent's that tells, nor for the fork it came from."""

    def look():
        monkeypatch.setattr(forking, "FORK_BOUND", DEADLINE)
        with no_fork():
            pass
        return exit_code_of(int)

    telling = Telling()
    assert answer_of(look) == 0
    telling.end()


def test_an_exception_of_who_tells_ends_the_telling(monkeypatch):
    monkeypatch.setattr(forking, "FORK_BOUND", DEADLINE)
    with pytest.raises(ZeroDivisionError), no_fork():
        raise ZeroDivisionError
    assert within(DEADLINE / 2, exit_code_of, int) == 0
