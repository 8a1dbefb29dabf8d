"""Handles on real processes: their end, their exit code, what they are doing."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from types import SimpleNamespace

import pytest

from poolwarden.system.process_handle import Handle
from tests.contract.waiting import DEADLINE, eventually, is_gone
from tests.worker.processes import FORK, running, wait_for_ever

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="takes /proc")


@pytest.fixture
def started():
    """Starts a process and gives it with its handle; ends both."""
    stack = []

    def start(target=wait_for_ever, *args):
        context = running(target, *args)
        process = context.__enter__()
        handle = Handle(process)
        stack.append((context, handle))
        return process, handle

    yield start
    for context, handle in stack:
        handle.close()
        context.__exit__(None, None, None)


@pytest.fixture(params=["pidfd", "no pidfd"])
def either(request, started, monkeypatch):
    """`started`, also as on a system without pidfds."""
    if request.param == "no pidfd":
        monkeypatch.delattr(os, "pidfd_open")
    return started


def is_readable(fd, timeout=0.0):
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


# -- the end --------------------------------------------------------------------------------------


def test_the_descriptor_becomes_readable_with_the_end(either):
    process, handle = either()
    assert not is_readable(handle.fd)
    process.kill()
    assert is_readable(handle.fd, DEADLINE)


def test_whether_it_has_ended(either):
    process, handle = either()
    assert handle.has_ended() is False
    assert handle.has_ended(0.01) is False
    process.kill()
    assert handle.has_ended(DEADLINE) is True
    assert handle.has_ended() is True


def test_the_end_is_seen_though_a_grandchild_holds_the_sentinel_open(started):
    reader, writer = FORK.Pipe(duplex=False)

    def fork_and_leave():
        pid = os.fork()
        if pid == 0:
            wait_for_ever()
        writer.send(pid)
        os._exit(3)

    process, handle = started(fork_and_leave)
    assert reader.poll(DEADLINE)
    grandchild = reader.recv()
    try:
        assert handle.has_ended(DEADLINE)
        assert not is_readable(process.sentinel)
        assert handle.exit_code(DEADLINE) == 3
    finally:
        os.kill(grandchild, signal.SIGKILL)
        eventually(lambda: is_gone(grandchild), "the grandchild gone")
        reader.close()
        writer.close()


def test_a_process_that_is_gone_already_is_known_by_its_sentinel():
    with running(int) as process:
        process.join(DEADLINE)
        handle = Handle(process)
        assert handle.pidfd == -1
        assert handle.fd == process.sentinel
        assert handle.has_ended()
        assert handle.exit_code(0) == 0
        handle.close()


# -- signals --------------------------------------------------------------------------------------


def test_a_signal_arrives(either):
    process, handle = either()
    assert handle.send(signal.SIGKILL) is True
    process.join(DEADLINE)
    assert process.exitcode == -signal.SIGKILL


def test_nothing_is_sent_to_a_process_that_was_reaped(either, monkeypatch):
    process, handle = either(int)
    process.join(DEADLINE)
    monkeypatch.setattr(os, "kill", lambda *args: pytest.fail(f"os.kill{args}"))
    handle.send(signal.SIGKILL)


def test_who_sends_is_told_that_the_process_is_gone(either):
    process, handle = either(int)
    process.join(DEADLINE)
    assert handle.send(signal.SIGKILL) is False


def test_no_signal_is_sent_to_whoever_has_the_number_now(started):
    """The handle is for the process, not for its number."""
    process, handle = started(int)
    process.join(DEADLINE)
    _, other = started()
    handle.pid = other.pid
    assert handle.send(signal.SIGKILL) is False
    assert not other.has_ended(0.02)


# -- exit codes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (lambda: None, 0),
        (lambda: os._exit(7), 7),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), -9),
        (lambda: os.kill(os.getpid(), signal.SIGRTMIN + 3), -(signal.SIGRTMIN + 3)),
        (os.abort, -6),
    ],
    ids=["0", "7", "SIGKILL", "a real-time signal", "abort"],
)
def test_the_exit_code_is_read_and_left_for_the_host(started, end, code):
    process, handle = started(end)
    assert handle.exit_code(DEADLINE) == code
    assert os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # still to be reaped
    process.join(DEADLINE)
    assert process.exitcode == code
    assert handle.exit_code(0) == code


def test_there_is_no_exit_code_while_it_runs(either):
    _, handle = either()
    assert handle.exit_code(0.01) is None


def test_who_reaps_by_hand_gets_the_exit_code_as_well(either):
    process, handle = either(os._exit, 7)
    assert handle.exit_code(DEADLINE, reap=True) == 7
    with pytest.raises(ChildProcessError):
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


@pytest.mark.parametrize(("code", "told"), [(-9, -9), (3, 3), (None, 255)])
def test_a_host_that_cannot_find_out_is_told(started, code, told):
    process, handle = started(int)
    os.waitpid(process.pid, 0)  # somebody else has reaped it
    assert handle.exit_code(0.01) is None
    assert process.exitcode is None
    handle.settle_exit_code(code)
    assert process.exitcode == told
    handle.settle_exit_code(77)
    assert process.exitcode == told


def test_a_host_that_can_find_out_is_left_to_it(started):
    process, handle = started(os._exit, 7)
    assert handle.has_ended(DEADLINE)
    handle.settle_exit_code(77)
    assert process.exitcode == 7


def test_a_process_that_runs_is_not_declared_ended(started):
    process, handle = started()
    handle.settle_exit_code(77)
    assert process.exitcode is None


def test_a_process_object_of_another_kind_is_left_alone():
    handle = Handle(SimpleNamespace(pid=os.getpid(), exitcode=None))
    handle.settle_exit_code(77)
    assert handle.exit_code(0) is None
    handle.close()


# -- what it is doing -----------------------------------------------------------------------------


def test_whether_it_is_stopped(started):
    process, handle = started()
    assert handle.is_stopped() is False
    handle.send(signal.SIGSTOP)
    eventually(handle.is_stopped, "it stopped")
    assert not handle.sleeps()
    handle.send(signal.SIGCONT)
    eventually(lambda: not handle.is_stopped(), "it goes on")
    eventually(handle.sleeps, "it sleeps")
    process.kill()
    process.join(DEADLINE)
    assert not handle.is_stopped()
    assert not handle.sleeps()


def test_a_name_with_a_parenthesis_does_not_hide_the_state(started):
    def work():
        with open("/proc/self/comm", "w") as file:
            file.write(") T 1 (")
        wait_for_ever()

    _, handle = started(work)
    eventually(lambda: b") T 1 (" in open_stat(handle.pid), "the name")
    eventually(handle.sleeps, "it sleeps")
    assert not handle.is_stopped()


def open_stat(pid):
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read()


def test_whether_it_has_one_thread(started):
    def work():
        threading.Thread(target=wait_in_thread, daemon=True).start()
        wait_for_ever()

    _, one = started()
    _, two = started(work)
    assert one.has_one_thread()
    eventually(lambda: not two.has_one_thread(), "the second thread")
    ended, gone = started(int)
    ended.join(DEADLINE)
    assert not gone.has_one_thread()


def wait_in_thread():
    threading.Event().wait(DEADLINE)


def test_a_signal_that_is_blocked_is_seen_as_while_it_is_handled(started):
    def work():
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        wait_for_ever()

    _, handle = started(work)
    # A fork blocks all of them for a moment.
    eventually(lambda: not handle.handles_signal(signal.SIGUSR2), "one that is not blocked")
    eventually(lambda: handle.handles_signal(signal.SIGUSR1), "one that is blocked, as in a handler")
    ended, gone = started(int)
    ended.join(DEADLINE)
    assert not gone.handles_signal(signal.SIGUSR1)


def test_a_read_is_told_with_its_descriptor(started):
    reader, writer = FORK.Pipe(duplex=False)
    _, handle = started(reader.recv_bytes)
    eventually(lambda: handle.system_call() == ("read", reader.fileno()), "the read")
    handle.send(signal.SIGSTOP)
    eventually(handle.is_stopped, "it stopped")
    assert handle.system_call() == ("read", reader.fileno())
    reader.close()
    writer.close()


@pytest.mark.parametrize("stopped", [False, True], ids=["", "stopped and woken"])
def test_waiting_for_input_with_a_timeout_is_told_with_its_descriptor(started, stopped):
    """As a worker of an executor does that leaves when nothing comes."""
    reader, writer = FORK.Pipe(duplex=False)
    _, handle = started(lambda: poll_for(reader.fileno(), select.POLLIN))
    eventually(lambda: handle.system_call() == ("poll", reader.fileno()), "the wait")
    if stopped:
        # The kernel then goes on with another call, which has not the same name.
        handle.send(signal.SIGSTOP)
        eventually(handle.is_stopped, "it stopped")
        assert handle.system_call() == ("poll", reader.fileno())
        handle.send(signal.SIGCONT)
        eventually(lambda: not handle.is_stopped() and handle.sleeps(), "it waits again")
    assert handle.system_call() == ("poll", reader.fileno())
    reader.close()
    writer.close()


def poll_for(fd, events, *others):
    poll = select.poll()
    for each in (fd, *others):
        poll.register(each, events)
    poll.poll(DEADLINE * 1000)


def test_waiting_for_two_things_or_for_room_is_not_that(started):
    reader, writer = FORK.Pipe(duplex=False)
    _, two = started(lambda: poll_for(reader.fileno(), select.POLLIN, writer.fileno()))
    _, room = started(lambda: poll_for(reader.fileno(), select.POLLOUT))
    for handle in (two, room):
        eventually(handle.sleeps, "it sleeps")
        assert handle.system_call() == ("", 0)
    reader.close()
    writer.close()


@pytest.mark.parametrize("stopped", [False, True], ids=["", "stopped and woken"])
def test_waiting_for_a_semaphore_with_a_timeout_is_told(started, stopped):
    lock = FORK.Lock()
    lock.acquire()
    _, handle = started(lambda: lock.acquire(True, DEADLINE))
    eventually(lambda: handle.system_call()[0] == "futex", "the wait")
    if stopped:
        handle.send(signal.SIGSTOP)
        eventually(handle.is_stopped, "it stopped")
        handle.send(signal.SIGCONT)
        eventually(lambda: not handle.is_stopped() and handle.sleeps(), "it waits again")
    assert handle.system_call()[0] == "futex"


def test_waiting_for_a_semaphore_is_told(started):
    lock = FORK.Lock()
    lock.acquire()
    _, handle = started(lock.acquire)
    eventually(lambda: handle.system_call()[0] == "futex", "the wait")
    handle.send(signal.SIGSTOP)
    eventually(handle.is_stopped, "it stopped")
    assert handle.system_call()[0] == "futex"


def test_who_computes_or_sleeps_is_in_no_call_that_matters(started):
    def spin():
        while True:
            pass

    _, spinning = started(spin)
    _, sleeping = started()
    eventually(sleeping.sleeps, "it sleeps")
    assert sleeping.system_call() == ("", sleeping.system_call()[1])
    assert spinning.system_call()[0] == ""
    ended, gone = started(int)
    ended.join(DEADLINE)
    assert gone.system_call() == ("", 0)


def test_closing_releases_the_descriptor_once():
    with running(wait_for_ever) as process:
        handle = Handle(process)
        fd = handle.pidfd
        handle.close()
        with open(os.devnull, "rb") as somebody_elses:
            os.dup2(somebody_elses.fileno(), fd)
        handle.close()
        os.fstat(fd)
        os.close(fd)
