"""The end of workers: in order, by SIGTERM, and for certain."""

from __future__ import annotations

import os
import signal
import time

import pytest

from poolwarden.core.farewell import Farewell
from poolwarden.core.stop_world import freeze
from tests.contract.waiting import DEADLINE
from tests.core.recorded import workers
from tests.worker.processes import FORK, wait_for_ever


@pytest.fixture
def start(tmp_path):
    with workers() as start:
        yield start


def test_workers_are_ended_politely_and_then_for_certain(start):
    def deaf():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ready.set()
        wait_for_ever()

    ready = FORK.Event()
    polite, stopped, stubborn = start(), start(), start(deaf)
    assert ready.wait(DEADLINE)
    freeze([stopped])
    Farewell(iter([polite, stopped, stubborn])).finish(0.2)
    codes = [worker.exit_code(DEADLINE) for worker in (polite, stopped, stubborn)]
    assert codes == [-signal.SIGTERM, -signal.SIGTERM, -signal.SIGKILL]


def test_each_is_told_once(start):
    def count():
        told = []
        signal.signal(signal.SIGTERM, lambda *_: told.append(1))
        ready.set()
        while not told:
            time.sleep(0.01)
        time.sleep(0.1)
        os._exit(len(told))

    ready = FORK.Event()
    worker = start(count)
    assert ready.wait(DEADLINE)
    farewell = Farewell([worker])
    farewell.tell(worker)
    farewell.finish(DEADLINE)
    assert worker.exit_code(DEADLINE) == 1


@pytest.mark.parametrize("cells", [{"PHASE": 4}, {"PHASE": 6, "GONE": 1}])
def test_one_that_does_not_leave_any_more_is_not_waited_for(start, cells):
    worker = start(**cells)
    before = time.monotonic()
    Farewell([worker]).see_out([worker])
    assert time.monotonic() - before < 0.2
    assert worker.exit_code(DEADLINE) == -signal.SIGTERM


def test_who_is_idle_is_read_from_the_record(start, tmp_path):
    reader, writer = os.pipe()
    ones = [start(PHASE=phase) for phase in range(7)]
    assert Farewell(ones).idle(reader) == [ones[3], ones[5], ones[6]]
    ones[4].set_cells(PHASE=3)
    assert ones[4] in Farewell(ones).idle(reader)
    ones[0].send(signal.SIGKILL)
    assert ones[0].has_ended(DEADLINE)
    assert Farewell(ones).idle(reader) == []
    os.close(reader)
    os.close(writer)
