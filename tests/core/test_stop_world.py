"""Stopping the world and mending pipes and locks, on real processes, pipes and semaphores."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time

import pytest

from poolwarden.core import stop_world
from poolwarden.core.stop_world import (
    begun_tickets,
    free,
    freeze,
    is_harmless,
    kill_all_but,
    messages,
    read_available,
    still_waiting,
    thaw,
    wait_until,
    waiting_readers,
)
from poolwarden.core.workers import Kill
from poolwarden.worker import ledger
from tests.contract.waiting import DEADLINE, eventually, within
from tests.core.recorded import store_outcome, workers
from tests.worker.processes import FORK, exit_code_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="takes /proc and pidfds")


@pytest.fixture
def start(tmp_path):
    with workers() as start:
        yield start


@pytest.fixture
def pipe():
    reader, writer = FORK.Pipe(duplex=False)
    yield reader, writer
    reader.close()
    writer.close()


def spin():
    while True:
        pass


# -- stopping -------------------------------------------------------------------------------------


def test_frozen_workers_are_stopped_and_go_on_when_thawed(start):
    ones = [start(), start(spin)]
    assert freeze(ones) == ones
    assert all(worker.is_stopped() for worker in ones)
    thaw(ones)
    eventually(lambda: not any(worker.is_stopped() for worker in ones), "they go on")


def test_a_worker_that_somebody_else_has_stopped_stays_stopped(start):
    theirs, ours = start(), start()
    theirs.send(signal.SIGSTOP)
    eventually(theirs.is_stopped, "it stopped")
    frozen = freeze([theirs, ours])
    assert frozen == [ours]
    thaw(frozen)
    eventually(lambda: not ours.is_stopped(), "it goes on")
    assert theirs.is_stopped()


def test_a_worker_that_has_ended_does_not_hold_up_the_others(start, monkeypatch):
    monkeypatch.setattr(stop_world, "SIGNAL_BOUND", 2 * DEADLINE)
    zombie, reaped, alive = start(int), start(int), start()
    reaped.process.join(DEADLINE)
    assert zombie.has_ended(DEADLINE)
    within(DEADLINE, freeze, [zombie, reaped, alive])
    assert alive.is_stopped()
    thaw([zombie, reaped, alive])


def test_all_but_the_kept_are_killed_and_have_ended(start):
    ones = [start() for _ in range(4)]
    ones[3].killed = earlier = Kill("timeout", 7)
    freeze(ones)
    assert kill_all_but(iter(ones), lambda worker: worker is ones[1]) == [ones[1]]
    assert [worker.has_ended() for worker in ones] == [True, False, True, True]
    assert [worker.killed for worker in ones] == [Kill("repair"), None, Kill("repair"), earlier]
    assert ones[0].exit_code(DEADLINE) == -signal.SIGKILL
    assert ones[1].is_stopped()


# -- who is harmless ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "harmless", "harmless_if_older"),
    [
        ("UNBORN", True, False),
        ("STARTING", True, False),
        ("FAILED", True, False),
        ("READY", False, False),
        ("RUNNING", True, True),
        ("DONE", False, False),
        ("LEFT", False, False),
    ],
)
@pytest.mark.parametrize("older", [False, True])
def test_a_phase_that_proves_a_worker_harmless(start, phase, harmless, harmless_if_older, older):
    worker = start(older=older, PHASE=getattr(ledger, phase))
    freeze([worker])
    assert is_harmless(worker) is (harmless_if_older if older else harmless)


def test_a_worker_without_a_record_is_harmless_unless_it_is_older(start):
    new, old = start(), start(older=True)
    freeze([new, old])
    assert is_harmless(new)
    assert not is_harmless(old)


@pytest.mark.parametrize("phase", ["READY", "DONE"])
def test_who_waits_for_a_semaphore_in_its_only_thread_holds_none(start, phase):
    lock = FORK.Lock()
    lock.acquire()
    worker = start(lock.acquire, PHASE=getattr(ledger, phase))
    eventually(lambda: worker.system_call()[0] == "futex", "the wait")
    freeze([worker])
    assert is_harmless(worker)


def test_with_a_second_thread_who_waits_for_a_semaphore_may_hold_another(start):
    lock = FORK.Lock()
    lock.acquire()

    def wait_beside_a_thread():
        threading.Thread(target=threading.Event().wait, args=(DEADLINE,), daemon=True).start()
        lock.acquire()

    worker = start(wait_beside_a_thread, PHASE=ledger.READY)
    eventually(lambda: worker.system_call()[0] == "futex" and not worker.has_one_thread(), "both threads")
    freeze([worker])
    assert not is_harmless(worker)


@pytest.mark.parametrize("target", ["read", "spin"])
def test_who_reads_or_computes_may_hold_a_lock(start, pipe, target):
    reader, _ = pipe
    worker = start(reader.recv_bytes if target == "read" else spin, PHASE=ledger.DONE)
    eventually(lambda: worker.system_call()[0] == ("read" if target == "read" else ""), "the call")
    freeze([worker])
    assert not is_harmless(worker)


@pytest.mark.parametrize(
    ("phase", "begun"),
    [("STARTING", 4), ("READY", 4), ("RUNNING", 5), ("DONE", 4), ("LEFT", 4)],
)
def test_a_task_has_begun_when_it_runs_or_has_an_outcome(tmp_path, start, phase, begun):
    """A number that was only stored, just before the worker says RUNNING, means nothing yet."""
    worker = start(PHASE=getattr(ledger, phase), TICKET=5)
    store_outcome(worker, 4, 0, b"")
    unborn = start()
    assert begun_tickets([worker, unborn]) - {0} == {begun}


# -- readers --------------------------------------------------------------------------------------


def test_who_sleeps_in_a_read_of_the_empty_pipe_is_found(start, pipe):
    reader, _ = pipe
    other_reader, other_writer = FORK.Pipe(duplex=False)
    waiting, elsewhere, computing = start(reader.recv_bytes), start(other_reader.recv_bytes), start(spin)
    for worker in (waiting, elsewhere):
        eventually(lambda worker=worker: worker.system_call()[0] == "read", "the read")
    assert waiting_readers([waiting, elsewhere, computing], reader.fileno()) == {waiting}
    other_reader.close()
    other_writer.close()


def test_who_waits_for_the_pipe_with_a_timeout_is_found_as_well(start, pipe):
    reader, _ = pipe
    worker = start(lambda: reader.poll(DEADLINE))
    eventually(lambda: worker.system_call() == ("poll", reader.fileno()), "the wait")
    assert waiting_readers([worker], reader.fileno()) == {worker}
    freeze([worker])
    assert still_waiting([worker], reader.fileno()) == {worker}


def test_who_has_given_up_waiting_is_not(start, pipe):
    reader, _ = pipe
    worker = start(spin)
    freeze([worker])
    assert still_waiting([worker], reader.fileno()) == set()


def test_while_something_is_in_the_pipe_nobody_waits_for_it(start, pipe, monkeypatch):
    monkeypatch.setattr(stop_world, "READER_BOUND", 0.02)
    reader, writer = pipe
    worker = start(reader.recv_bytes)
    eventually(lambda: worker.system_call()[0] == "read", "the read")
    freeze([worker])
    writer.send_bytes(b"message")
    assert waiting_readers([worker], reader.fileno()) == set()
    thaw([worker])


def test_a_live_reader_is_given_the_time_to_take_what_is_there(start, pipe, monkeypatch):
    monkeypatch.setattr(stop_world, "READER_BOUND", DEADLINE)
    reader, writer = pipe

    def read_two():
        reader.recv_bytes()
        reader.recv_bytes()

    worker = start(read_two)
    eventually(lambda: worker.system_call()[0] == "read", "the read")
    writer.send_bytes(b"message")
    eventually(lambda: not reader.poll(0) and worker.sleeps(), "the message taken")
    assert waiting_readers([worker], reader.fileno()) == {worker}


def test_readers_that_have_ended_are_none(start, pipe):
    reader, _ = pipe
    worker = start(int)
    worker.process.join(DEADLINE)
    assert waiting_readers([worker], reader.fileno()) == set()


# -- waiting --------------------------------------------------------------------------------------


def test_waiting_ends_with_the_condition_or_with_the_time():
    looks = []
    assert wait_until(lambda: True, 0) is True
    assert wait_until(lambda: looks.append(1), 0.02) is False
    assert len(looks) > 1
    answers = iter([False] * 200 + [True])
    assert wait_until(lambda: next(answers), DEADLINE) is True


# -- locks ----------------------------------------------------------------------------------------

LOCKS = pytest.mark.parametrize("make", [FORK.Lock, FORK.Semaphore] if FORK else [])


def die_with(lock):
    lock.acquire()
    os._exit(0)


def is_free_once(lock):
    """Return whether it can be taken, and by one at a time."""
    if not lock.acquire(True, 0):
        return False
    once = not lock.acquire(True, 0)
    lock.release()
    return once


@LOCKS
def test_a_lock_that_a_dead_process_holds_is_freed(make):
    lock = make()
    assert exit_code_of(die_with, lock) == 0
    assert not lock.acquire(True, 0)
    free(lock)
    assert is_free_once(lock)


@LOCKS
def test_a_lock_that_is_free_stays_so(make):
    lock = make()
    free(lock)
    free(lock)
    assert is_free_once(lock)


def test_a_lock_that_a_thread_of_ours_holds_for_a_moment_is_not_freed_twice():
    lock = FORK.Lock()
    held = threading.Event()

    def hold():
        with lock:
            held.set()
            time.sleep(stop_world.LOCK_BOUND / 5)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(DEADLINE)
    free(lock)
    thread.join(DEADLINE)
    assert is_free_once(lock)


def test_where_a_host_has_no_lock_there_is_nothing_to_do():
    free(None)


# -- pipes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 65_536])
def test_all_that_is_in_a_pipe_is_read_and_no_more_is_waited_for(pipe, size):
    reader, writer = pipe
    os.write(writer.fileno(), b"x" * size)
    assert within(DEADLINE, read_available, reader.fileno()) == b"x" * size


def test_at_the_end_of_a_pipe_what_was_in_it_is_read(pipe):
    reader, writer = pipe
    writer.send_bytes(b"message")
    writer.close()
    assert within(DEADLINE, read_available, reader.fileno()) == b"\0\0\0\7message"
    assert within(DEADLINE, read_available, reader.fileno()) == b""


def framed(*parts):
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


@pytest.mark.parametrize("parts", [(), (b"one",), (b"one", b"x" * 5000), (b"\0" * 9, b"three")])
def test_messages_are_told_apart(parts):
    assert list(messages(framed(*parts))) == list(parts)


@pytest.mark.parametrize("read", [1, 4, 5, 11])
def test_behind_a_message_that_the_dead_have_begun_to_read_the_others_are_found(read):
    data = framed(b"half read by one who died", b"second", b"third")
    assert list(messages(data[read:])) == [b"second", b"third"]


def test_zeros_in_what_is_left_of_a_message_are_no_messages():
    data = framed(b"half read" + bytes(40), b"second")
    assert list(messages(data[13:])) == [b"second"]


def test_of_bytes_that_are_no_messages_there_are_none():
    assert list(messages(b"\xff" * 100)) == []
    assert list(messages(framed(b"one", b"two")[:-1])) == []


def test_reading_lets_a_writer_go_on_who_was_blocked(pipe):
    reader, writer = pipe
    thread = threading.Thread(target=os.write, args=(writer.fileno(), bytes(200_000)), daemon=True)
    thread.start()
    left = bytearray()

    def step():
        left.extend(read_available(reader.fileno()))
        return len(left) == 200_000

    assert wait_until(step, DEADLINE)
    thread.join(DEADLINE)
    assert not thread.is_alive()


def test_semaphores_of_other_start_methods_are_the_same():
    """The private name that says whether one is taken, as `free` needs it."""
    for method in multiprocessing.get_all_start_methods():
        lock = multiprocessing.get_context(method).Lock()
        assert lock._semlock._is_zero() is False
        lock.acquire()
        assert lock._semlock._is_zero() is True
        lock.release()
