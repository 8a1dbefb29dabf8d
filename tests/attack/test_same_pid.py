"""A replacement with the dead worker's pid, born before that death was looked at, takes nothing from it.

Pids come round, fast in a container with few of them. What is known of the dead
(its task, its stack, that it held a lock) is its own, whoever has its pid now.
Siblings: it died in a task; idle, with the reader's lock.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from poolwarden import WorkerLostError
from poolwarden.core.guard import Guard
from poolwarden.core.losses import Losses
from tests.contract.base import ContractBase, Notes, Pools, serves
from tests.contract.tasks import HeldUntil, Noted, square
from tests.contract.waiting import DEADLINE, eventually
from tests.hosts.bind_pool import BindPool

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")


class Recycler:
    """Gives the next process that this one forks a certain pid, and holds up burials until then."""

    def __init__(self, monkeypatch: Any) -> None:
        self.pid = 0
        self.born = threading.Event()
        self._fork = os.fork
        bury = Losses.bury

        def late(losses: Losses, worker: Any) -> bool:
            if self.pid:
                self.born.wait(DEADLINE / 4)
            return bury(losses, worker)

        monkeypatch.setattr(os, "fork", self._fork_it)
        monkeypatch.setattr(Losses, "bury", late)
        monkeypatch.setattr(Guard, "wait_for_burials", lambda guard: None)

    def _fork_it(self) -> int:
        if not self.pid or self.born.is_set():
            return self._fork()
        LAST_PID.write_text(str(self.pid - 1))
        pid = self._fork()
        if pid:
            threading.Timer(0.2, self.born.set).start()
        return pid

    def kill(self, pid: int) -> None:
        """Kill a process; the next one has its pid, and begins, before anybody looks at the death."""
        self.pid = pid
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def recycler(monkeypatch: Any) -> Recycler:
    if not os.access(LAST_PID, os.W_OK):
        pytest.skip("this system lets nobody choose a pid")
    return Recycler(monkeypatch)


class TestPool(ContractBase):
    binding = BindPool

    def _check(self, host: BindPool, pool: Any, pid: int) -> None:
        if host.worker_pids(pool) != [pid]:
            pytest.skip("somebody else has got the pid")

    def test_it_died_in_a_task(
        self, host: BindPool, make_pool: Pools, notes: Notes, recycler: Recycler, tmp_path: Any
    ) -> None:
        pool = make_pool(1)
        lost = host.submit(pool, Noted(notes.path, HeldUntil(tmp_path / "never")), 7)
        (pid,) = notes.pids()

        recycler.kill(pid)

        with pytest.raises(WorkerLostError) as caught:
            host.result(lost)
        assert caught.value.exit.pid == pid
        assert caught.value.exit.signal == "SIGKILL"
        assert host.result(host.submit(pool, square, 3)) == 9
        self._check(host, pool, pid)
        assert notes.items() == {"7": 1}

    def test_it_died_idle(self, host: BindPool, make_pool: Pools, recycler: Recycler) -> None:
        pool = make_pool(1)
        serves(host, pool)
        (pid,) = host.idle_pids(pool, 1)

        recycler.kill(pid)

        eventually(recycler.born.is_set, "another one")
        assert host.result(host.submit(pool, square, 3)) == 9
        self._check(host, pool, pid)
