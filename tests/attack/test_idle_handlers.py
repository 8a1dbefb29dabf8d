"""A signal handler of the user's that raises or exits in an idle worker ends that worker, nothing else.

Siblings: SIGTERM's handler exits, as servers write it, or raises; a late alarm;
what it raises is what the host's loop catches for reasons of its own (OSError,
EOFError, `queue.Empty`); all idle workers at once; beside a running task; right
behind a task's end, while its outcome is being sent.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from poolwarden.core.guard import Guard
from poolwarden.policy import Policy
from tests.contract.base import ContractBase, Notes, Pools, serves
from tests.contract.binding import PoolBinding
from tests.contract.tasks import HeldUntil, Noted
from tests.contract.waiting import all_gone
from tests.core.fakes import FakeHost
from tests.hosts import bind_loky
from tests.hosts.bind_executor import BindElsewhere, BindExecutor
from tests.hosts.bind_pool import BindPool

RAISED = {
    "exit": SystemExit,
    "exit-0": SystemExit(0),
    "error": RuntimeError("late"),
    "os-error": TimeoutError("late"),
    "end-of-file": EOFError,
    "empty": queue.Empty,
    "interrupt": KeyboardInterrupt,
}


# loky's own words for a worker that leaves while tasks wait; it takes `queue.Empty` for idleness.
LEAVING = pytest.mark.filterwarnings("ignore:A worker (was restarted|stopped) .*:UserWarning")


class Handles:
    """An initializer: SIGTERM and SIGALRM raise."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __call__(self) -> None:
        for number in (signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, self._raise)

    def _raise(self, *_: Any) -> None:
        # What the host prints of it is no concern here.
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
        raise RAISED[self.what]


class IdleHandlers(ContractBase):
    variations = 4

    @pytest.mark.every_start_method
    @pytest.mark.parametrize("what", RAISED)
    def test_in_idle_workers_beside_a_running_task(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, tmp_path: Any, what: str
    ) -> None:
        pool = make_pool(3, initializer=Handles(what))
        serves(host, pool)
        running = host.submit(pool, Noted(notes.path, HeldUntil(tmp_path / "go")), 5)
        (busy,) = notes.pids()
        idle = [pid for pid in host.idle_pids(pool, 3) if pid != busy]

        for pid, number in zip(idle, (signal.SIGTERM, signal.SIGALRM), strict=True):
            os.kill(pid, number)
        if what != "empty":  # loky's loop goes on then
            all_gone(idle)

        serves(host, pool)
        (tmp_path / "go").touch()
        assert host.result(running) == 5


class TestPool(IdleHandlers):
    binding = BindPool


class TestExecutor(IdleHandlers):
    binding = BindExecutor


class TestExecutorElsewhere(IdleHandlers):
    binding = BindElsewhere
    variations = 2


@LEAVING
@pytest.mark.usefixtures("warm_loky")
class TestLoky(IdleHandlers):
    binding = bind_loky.BindLoky


@LEAVING
@pytest.mark.usefixtures("warm_loky")
class TestReusable(IdleHandlers):
    binding = bind_loky.BindReusable


@LEAVING
@pytest.mark.usefixtures("warm_loky")
class TestJoblibsCopy(IdleHandlers):
    binding = bind_loky.BindJoblib
    variations = 2


def test_what_the_host_fails_behind_a_tasks_end_has_its_outcome() -> None:
    guard = Guard(FakeHost(), Policy(), "Fake-1")
    try:
        workers: Any = [SimpleNamespace(outcome=lambda: (4, 0, b"four"))]
        guard.live_workers = lambda: workers  # type: ignore[method-assign]
        assert guard.host_failure(4, SystemExit()) == (4, 0, b"four")
        assert guard.host_failure(5, SystemExit())[0] == 5
    finally:
        del guard.live_workers
        guard.close()
