"""Workers that stand still outside of user code are woken, or replaced.

The kind: nobody has died and no task runs too long, but nothing goes on. Siblings:

- idle workers are stopped: the one that holds the reader's lock, several, all;
  stopped again after they were woken; held by a tracer, whom SIGCONT does not end;
- stopped while another one runs a long task;
- a worker forked while another thread held a lock: before its initializer, in the
  handling of the initializer's error, in its exit, with a limit of tasks;
- a slow initializer, and a task that waits for a lock, are no standstill;
- with nothing to do, nobody looks.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from poolwarden.core.standstill import Standstill
from poolwarden.hosts.pool.adapter import BasePool
from poolwarden.worker import member
from tests.contract.base import ContractBase, Notes, Pools, serves
from tests.contract.binding import PoolBinding
from tests.contract.tasks import HeldUntil, Noted, never_leave, square, take
from tests.contract.waiting import ENDING, eventually, state_of, within
from tests.hosts.bind_executor import BindExecutor
from tests.hosts.bind_joblib import BindJoblib
from tests.hosts.bind_loky import BindLoky
from tests.hosts.bind_pool import BindPool

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="takes /proc")

#: Seconds for a task to be taken all the same.
SOON = 6.0


def stop(pids: list[int]) -> None:
    def stopped() -> bool:
        # Again: what wakes the others of an earlier turn may still come.
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(0.01)
        return all(state_of(pid) == "T" for pid in pids)

    eventually(stopped, "stopped")


TRACER = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 2 + [ctypes.c_void_p] * 2
ok = libc.ptrace(16, int(sys.argv[1]), None, None) == 0  # PTRACE_ATTACH
print("attached" if ok else "refused", flush=True)
if ok:
    os.waitpid(int(sys.argv[1]), 0)  # its stop; a debugger's prompt is shown now
    os.waitpid(int(sys.argv[1]), 0)  # its end
"""


class StoppedWhileIdle(ContractBase):
    variations = 2

    @pytest.mark.every_start_method
    @pytest.mark.parametrize("options", [{}, {"timeout": 1.5}], ids=["plain", "timeout"])
    def test_all_are_stopped(self, host: PoolBinding, make_pool: Pools, options: Any) -> None:
        told: list[Any] = []
        pool = make_pool(2, on_event=told.append, **options)
        serves(host, pool)
        pids = host.idle_pids(pool)
        stop(pids)

        handles = [host.submit(pool, square, n) for n in range(4)]

        assert [host.result(handle, SOON) for handle in handles] == [0, 1, 4, 9]
        assert host.worker_pids(pool) == pids  # woken, not replaced
        eventually(lambda: "worker_woken" in [event.kind for event in told], "told")

    def test_one_after_the_other_is_stopped_beside_a_running_task(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, tmp_path: Any
    ) -> None:
        pool = make_pool(3)
        serves(host, pool)
        host.idle_pids(pool, 3)
        held = host.submit(pool, Noted(notes.path, HeldUntil(tmp_path / "go")), 7)
        (busy,) = notes.pids()
        for turn in range(2):
            stop([pid for pid in host.worker_pids(pool) if pid != busy])
            assert host.result(host.submit(pool, square, turn), SOON) == turn * turn
        (tmp_path / "go").touch()
        assert host.result(held) == 7

    def test_the_pool_ends_while_they_are_stopped(self, host: PoolBinding, make_pool: Pools) -> None:
        pool = make_pool(2, usable_after=False)
        serves(host, pool)
        stop(host.idle_pids(pool))
        within(ENDING, host.close, pool)

    def test_one_that_cannot_be_woken_is_replaced(self, host: PoolBinding, make_pool: Pools) -> None:
        pool = make_pool(2)
        serves(host, pool)
        tracers = []
        try:
            for pid in host.idle_pids(pool):
                command = [sys.executable, "-S", "-c", TRACER, str(pid)]
                tracers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
                assert tracers[-1].stdout is not None
                if tracers[-1].stdout.readline().strip() != "attached":
                    pytest.skip("this system lets nobody trace")
            assert host.result(host.submit(pool, square, 3), SOON) == 9
        finally:
            for tracer in tracers:
                tracer.kill()
                tracer.communicate()


class TestPool(StoppedWhileIdle):
    binding = BindPool

    def test_it_is_stopped_again_and_again(self, host: BindPool, make_pool: Pools) -> None:
        pool = make_pool(1)
        serves(host, pool)
        (pid,) = host.idle_pids(pool, 1)
        over = threading.Event()

        def stop_it() -> None:
            while not over.wait(0.001):
                os.kill(pid, signal.SIGSTOP)

        thread = threading.Thread(target=stop_it)
        thread.start()
        try:
            time.sleep(0.05)
            handle = host.submit(pool, square, 3)
            try:
                eventually(lambda: handle.ready() or pid not in host.worker_pids(pool), "replaced", SOON)
            finally:
                over.set()
                thread.join()
        except ProcessLookupError:
            pass
        assert host.result(handle, SOON) == 9

    def test_who_stands_still_in_its_exit_is_replaced(self, host: BindPool, make_pool: Pools) -> None:
        pool = make_pool(1, maxtasksperchild=1)
        host.result(host.submit(pool, never_leave))
        assert host.result(host.submit(pool, square, 3), SOON) == 9

    def test_who_stands_still_before_its_first_task_is_replaced(
        self, host: BindPool, make_pool: Pools, monkeypatch: Any, tmp_path: Any
    ) -> None:
        pool = make_pool(1)
        serves(host, pool)
        monkeypatch.setattr(member, "die_with_parent", NeedsALock(tmp_path / "once"))
        (pid,) = host.idle_pids(pool, 1)
        os.kill(pid, signal.SIGKILL)
        eventually((tmp_path / "once").exists, "one stands still")
        assert host.result(host.submit(pool, square, 3), SOON) == 9

    def test_the_pool_ends_although_the_replacement_stands_still(
        self, host: BindPool, make_pool: Pools, monkeypatch: Any, tmp_path: Any
    ) -> None:
        pool = make_pool(1)
        serves(host, pool)
        monkeypatch.setattr(member, "die_with_parent", NeedsALock(tmp_path / "once"))
        os.kill(host.idle_pids(pool, 1)[0], signal.SIGKILL)
        eventually((tmp_path / "once").exists, "one stands still")

    def test_a_task_that_waits_for_a_lock_is_left_alone(self, host: BindPool, make_pool: Pools) -> None:
        pool = make_pool(1)
        waiting = host.submit(pool, wait_for_a_timer)
        behind = host.submit(pool, square, 3)
        assert host.result(waiting) == "waited"
        assert host.result(behind) == 9

    def test_a_slow_initializer_is_left_alone(self, host: BindPool, make_pool: Pools) -> None:
        pool = make_pool(1, initializer=wait_for_a_timer)
        assert host.result(host.submit(pool, square, 3)) == 9

    def test_nobody_looks_when_there_is_nothing_to_do(
        self, host: BindPool, make_pool: Pools, monkeypatch: Any
    ) -> None:
        looks: list[float] = []
        look = Standstill._look

        def counted(self: Standstill) -> None:
            looks.append(time.monotonic())
            look(self)

        monkeypatch.setattr(Standstill, "_look", counted)
        pool = make_pool(2)
        serves(host, pool)
        adapter: BasePool = pool._poolwarden
        eventually(lambda: looks and not adapter.guard.standstill.expected, "the last look")
        before = len(looks)
        time.sleep(1.2)
        assert len(looks) == before
        assert host.result(host.submit(pool, take, 0.0)) == 0.0
        assert adapter.guard.standstill.expected


class NeedsALock:
    """Stands still in a lock that another thread held when this process was forked, the first time."""

    def __init__(self, path: Any) -> None:
        self.path = path

    def __call__(self, *_: Any) -> None:
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()


def wait_for_a_timer(*_: Any) -> str:
    """Wait, untimed, for a lock that is released by a signal's handler: no other thread is there."""
    done = threading.Event()
    lock = threading.Lock()
    lock.acquire()
    signal.signal(signal.SIGALRM, lambda *_: done.set() or lock.release())  # type: ignore[func-returns-value]
    signal.setitimer(signal.ITIMER_REAL, 3)
    while not done.is_set():
        lock.acquire()
    return "waited"


class TestExecutor(StoppedWhileIdle):
    binding = BindExecutor


@pytest.mark.usefixtures("warm_loky")
class TestLoky(StoppedWhileIdle):
    binding = BindLoky


@pytest.mark.usefixtures("warm_loky")
class TestJoblib(StoppedWhileIdle):
    binding = BindJoblib
