"""A task that was to be stopped is never run again, whatever its worker then dies of.

The kind: its time is over or it was cancelled, and its worker ends in a way that
looks like a loss. Siblings:

- no handler for the soft signal any more: reset, ignored, or another program (``exec``);
- asked to stop, its clean-up ends the worker: exit codes 0 and others, a crash, a kill;
- asked to stop, somebody else kills the worker in its grace time;
- the signals that ask for a stack end a process without a handler as well;
- cancelled, and the worker dies before the guard's own kill;
- an item of a chunk whose others are kept.
"""

from __future__ import annotations

import os
import signal
import time
from types import SimpleNamespace
from typing import Any

import pytest

from poolwarden import TaskTimeoutError
from poolwarden.core.losses import _why_stopped
from poolwarden.core.workers import Kill, Snapshot
from poolwarden.testing import die, hang, kill_self, segfault
from poolwarden.worker.ledger import RUNNING
from tests.contract.base import ContractBase, Notes, Pools
from tests.contract.binding import PoolBinding
from tests.contract.tasks import Noted, no_dump, square
from tests.hosts.bind_executor import BindExecutor
from tests.hosts.bind_joblib import BindJoblib
from tests.hosts.bind_loky import BindLoky
from tests.hosts.bind_pool import BindPool

#: Seconds of a task's time, and to clean up in.
SHORT, GRACE = 0.3, 0.5


class SetsSignals:
    """Sets every signal that can be set to one disposition, as daemons and test tools do, and hangs."""

    def __init__(self, disposition: Any) -> None:
        self.disposition = disposition

    def __call__(self, *_: Any) -> None:
        for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
            signal.signal(number, self.disposition)
        hang()()


def become_sleep(*_: Any) -> None:
    os.execvp("sleep", ["sleep", "30"])


class EndsIn:
    """Hangs, and answers the soft timeout with a fault."""

    def __init__(self, fault: Any) -> None:
        self.fault = fault

    def __call__(self, *_: Any) -> Any:
        try:
            hang()()
        except TaskTimeoutError:
            no_dump()
            self.fault()


class SlowToStop:
    """Takes long to clean up; somebody loses patience meanwhile."""

    def __call__(self, *_: Any) -> None:
        worker = os.getpid()
        if os.fork() == 0:
            time.sleep(SHORT + GRACE / 2)
            if os.getppid() == worker:
                os.kill(worker, signal.SIGKILL)
            os._exit(0)
        try:
            hang()()
        except TaskTimeoutError:
            hang()()


STOPS = {
    "handlers-reset": SetsSignals(signal.SIG_DFL),
    "signals-ignored": SetsSignals(signal.SIG_IGN),
    "exec": become_sleep,
    "exit-0": EndsIn(die(0)),
    "exit-3": EndsIn(die(3)),
    "crash": EndsIn(segfault()),
    "kills-itself": EndsIn(kill_self()),
    "killed-by-another": SlowToStop(),
}


class StoppedTasks(ContractBase):
    variations = 4

    @pytest.mark.every_start_method
    @pytest.mark.parametrize("stop", STOPS)
    def test_it_ends_in_its_timeout_and_ran_once(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, stop: str
    ) -> None:
        pool = make_pool(timeout=SHORT, grace=GRACE, retries=1)
        late = host.submit(pool, Noted(notes.path, STOPS[stop]), 7)

        with pytest.raises(TaskTimeoutError):
            host.result(late)

        # On a busy machine its time may be over before the first line of it has run.
        assert notes.items() in ({}, {"7": 1})
        assert host.result(host.submit(pool, square, 3)) == 9

    def test_without_grace_what_asks_for_its_stack_ends_nothing_else(
        self, host: PoolBinding, make_pool: Pools, notes: Notes
    ) -> None:
        pool = make_pool(timeout=SHORT, retries=1)
        late = host.submit(pool, Noted(notes.path, SetsSignals(signal.SIG_DFL)), 7)

        with pytest.raises(TaskTimeoutError) as caught:
            host.result(late)

        assert caught.value.exit.signal == "SIGKILL"
        # On a busy machine its time may be over before the first line of it has run.
        assert notes.items() in ({}, {"7": 1})


class TestPool(StoppedTasks):
    binding = BindPool

    def test_the_other_items_of_its_chunk_go_on(self, host: BindPool, make_pool: Pools, notes: Notes) -> None:
        pool = make_pool(timeout=SHORT, grace=GRACE, retries=1, losses="return")

        values = pool.map_async(Noted(notes.path, OnlyFor(1, EndsIn(die(0)))), range(4), 4).get(20)

        assert isinstance(values.pop(1), TaskTimeoutError)
        assert values == [0, 4, 9]
        assert notes.items() == {str(item): 1 for item in range(4)}


class OnlyFor:
    def __init__(self, item: int, fault: Any) -> None:
        self.item = item
        self.fault = fault

    def __call__(self, item: int) -> int:
        if item == self.item:
            self.fault()
        return item * item


class TestExecutor(StoppedTasks):
    binding = BindExecutor


@pytest.mark.usefixtures("warm_loky")
class TestLoky(StoppedTasks):
    binding = BindLoky


@pytest.mark.usefixtures("warm_loky")
class TestJoblib(StoppedTasks):
    binding = BindJoblib


SEEN = Snapshot(RUNNING, 5, 0, 1000)


@pytest.mark.parametrize(
    ("cancelled", "soft", "killed", "why"),
    [
        (False, None, None, None),
        (True, None, None, "cancel"),
        (True, SEEN, None, "cancel"),
        (False, SEEN, None, "timeout"),
        (False, Snapshot(RUNNING, 5, 0, 999), None, None),  # the same item, an earlier attempt
        (False, None, Kill("timeout", 5), "timeout"),
        (False, None, Kill("timeout", 4), None),
        (False, None, Kill("repair"), None),
    ],
)
def test_why_a_task_was_stopped(cancelled: bool, soft: Any, killed: Any, why: str | None) -> None:
    worker: Any = SimpleNamespace(soft=soft, killed=killed)
    assert _why_stopped(worker, SimpleNamespace(cancelled=cancelled), SEEN) == why  # type: ignore[arg-type]
