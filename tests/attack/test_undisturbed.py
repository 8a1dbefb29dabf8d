"""A repair disturbs nobody in user code, and is not misled by somebody who wakes the workers.

The kind: a repair stops processes that others watch or wake. Siblings:

- a task waits in C, by each call that SIGSTOP and SIGCONT interrupt for good:
  ``recv`` with SO_RCVTIMEO, ``semtimedop``, ``epoll_wait``, ``poll``, ``nanosleep``;
- the same in an initializer that takes long;
- idle workers die, one after the other and all others at once, beside it;
- SIGCONT reaches all workers again and again while repairs go on: ``fg``, a supervisor.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.contract.base import ContractBase, Notes, Pools
from tests.contract.binding import PoolBinding
from tests.contract.idle_deaths import kill_if_there
from tests.contract.tasks import Noted, append_line, square
from tests.contract.waiting import eventually, is_gone, lines_of
from tests.hosts.bind_executor import BindExecutor
from tests.hosts.bind_joblib import BindJoblib
from tests.hosts.bind_loky import BindLoky
from tests.hosts.bind_pool import BindPool

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the calls are Linux's")

#: Milliseconds of each wait in C.
WAIT = 900


def _recv(libc: Any) -> int:
    here, there = socket.socketpair()
    here.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, WAIT * 1000))
    with here, there:
        return int(libc.recv(here.fileno(), ctypes.create_string_buffer(1), 1, 0))


def _semtimedop(libc: Any) -> int:
    semaphore = libc.semget(0, 1, 0o1600)
    taking = ctypes.create_string_buffer(struct.pack("Hhh", 0, -1, 0))
    time = ctypes.create_string_buffer(struct.pack("ll", 0, WAIT * 1_000_000))
    try:
        return int(libc.semtimedop(semaphore, taking, 1, time))
    finally:
        number = ctypes.get_errno()
        libc.semctl(semaphore, 0, 0)
        ctypes.set_errno(number)


def _epoll_wait(libc: Any) -> int:
    epoll = libc.epoll_create1(0)
    try:
        return int(libc.epoll_wait(epoll, ctypes.create_string_buffer(64), 1, WAIT))
    finally:
        os.close(epoll)


CALLS = {"recv": _recv, "semtimedop": _semtimedop, "epoll_wait": _epoll_wait}


def wait_in_c(name: str, *_: Any) -> str:
    """Wait in C until the time is over; return the error that ended the wait before, if any."""
    libc = ctypes.CDLL(None, use_errno=True)
    ctypes.set_errno(0)
    CALLS[name](libc)
    number = ctypes.get_errno()
    return "" if number in (0, errno.EAGAIN) else errno.errorcode[number]


def wait_in_c_and_note(path: str, once: str) -> None:
    """An initializer: the first worker that runs it is quick, the others wait."""
    try:
        os.close(os.open(once, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        append_line(path, f"{os.getpid()} begun")
        append_line(path, f"{os.getpid()} {wait_in_c('epoll_wait')}")


class Undisturbed(ContractBase):
    variations = 3

    @pytest.mark.every_start_method
    @pytest.mark.parametrize("call", CALLS)
    def test_a_task_that_waits_in_c_is_not_interrupted_when_idle_workers_die(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, call: str
    ) -> None:
        pool = make_pool(3)
        task = host.submit(pool, Noted(notes.path, WaitsInC(call)), 1)
        (busy,) = notes.pids()

        for _ in range(2):
            for pid in host.worker_pids(pool):
                if pid != busy:
                    kill_if_there(pid)
                    eventually(lambda pid=pid: is_gone(pid), "killed")
            assert host.result(host.submit(pool, square, 3)) == 9

        assert host.result(task) == ""

    def test_nothing_is_lost_while_somebody_wakes_the_workers_all_the_time(
        self, host: PoolBinding, make_pool: Pools, notes: Notes
    ) -> None:
        pool = make_pool(3)
        with wakes(host, pool):
            for round in range(8):
                numbers = range(10 * round, 10 * round + 10)
                handles = [host.submit(pool, Noted(notes.path, square), n) for n in numbers]
                assert [host.result(handle) for handle in handles] == [n * n for n in numbers]
                # All are idle, or about to be; one of them holds the lock.
                for pid in host.worker_pids(pool)[:1]:
                    kill_if_there(pid)

        assert notes.items() == {str(n): 1 for n in range(80)}


class WaitsInC:
    def __init__(self, call: str) -> None:
        self.call = call

    def __call__(self, *_: Any) -> str:
        return wait_in_c(self.call)


@contextmanager
def wakes(host: PoolBinding, pool: Any) -> Iterator[None]:
    """Send SIGCONT to every worker, again and again, while the block runs."""
    over = threading.Event()

    def wake() -> None:
        while not over.wait(0.0002):
            for pid in host.worker_pids(pool):
                try:
                    os.kill(pid, signal.SIGCONT)
                except ProcessLookupError:
                    continue

    thread = threading.Thread(target=wake)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class TestPool(Undisturbed):
    binding = BindPool


class TestExecutor(Undisturbed):
    binding = BindExecutor

    def test_an_initializer_that_waits_in_c_is_not_interrupted(
        self, host: BindExecutor, make_pool: Pools, notes: Notes
    ) -> None:
        once = f"{notes.path}.once"
        pool = make_pool(2, initializer=wait_in_c_and_note, initargs=(str(notes.path), once))
        assert host.result(host.submit(pool, square, 3)) == 9
        eventually(lambda: len(lines_of(notes.path)) >= 1, "one waits")
        waiting = int(lines_of(notes.path)[0].split()[0])

        (quick,) = set(host.worker_pids(pool)) - {waiting}
        os.kill(quick, signal.SIGKILL)

        def ends() -> list[list[str]]:
            lines = [line.split(" ") for line in lines_of(notes.path)]
            return [rest for pid, *rest in lines if pid == str(waiting) and rest != ["begun"]]

        assert eventually(ends, "it has waited") == [[""]]


@pytest.mark.usefixtures("warm_loky")
class TestLoky(Undisturbed):
    binding = BindLoky


@pytest.mark.usefixtures("warm_loky")
class TestJoblib(Undisturbed):
    binding = BindJoblib
