"""A worker as the parent sees it: its record, what it tells without one, and what is left of it."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from poolwarden.core.workers import Snapshot, Worker
from poolwarden.worker import ledger
from tests.core.recorded import keep, store_outcome, write_stack
from tests.worker.members import new_place

UNBORN = Snapshot(ledger.UNBORN, 0, 0, 0, 0)


def worker_at(place, *, older=False):
    """Return a worker; its process is none, and not touched."""
    return Worker(SimpleNamespace(pid=2**22 + 1, sentinel=-1, _popen=None), place, older=older)


@pytest.fixture
def worker(memory):
    worker = worker_at(new_place(memory))
    yield worker
    worker.close()


@pytest.fixture
def placeless():
    worker = worker_at(None)
    yield worker
    worker.close()


def test_without_a_record_nothing_is_known(placeless):
    assert placeless.snapshot() == UNBORN
    assert placeless.outcome() == (0, 0, b"")
    assert placeless.stack() is None
    assert placeless.kept(5) == {}
    placeless.set_cells(RETIRE=1)
    assert placeless.is_unknown()


@pytest.mark.parametrize("phase", ["UNBORN", "STARTING", "FAILED", "READY", "RUNNING", "DONE", "LEFT"])
def test_a_snapshot_holds_what_the_record_says(worker, phase):
    number = getattr(ledger, phase)
    worker.set_cells(TICKET=5, ITEM=6, STARTED=7, ARMED=3, PHASE=number)
    assert worker.snapshot() == Snapshot(number, 5, 6, 7, 3)


@pytest.mark.parametrize(("older", "unknown"), [(True, True), (False, False)])
def test_only_who_is_older_than_the_guard_may_be_at_work_unseen(memory, older, unknown):
    worker = worker_at(new_place(memory), older=older)
    assert worker.is_unknown() is unknown
    worker.set_cells(PHASE=ledger.READY)
    assert worker.is_unknown() is False
    worker.close()


def test_what_a_worker_without_a_record_tells_stands_for_it(placeless):
    placeless.tell(ledger.READY)
    assert placeless.is_told
    assert not placeless.is_unknown()
    placeless.tell(ledger.RUNNING, 9)
    seen = placeless.snapshot()
    assert (seen.phase, seen.ticket) == (ledger.RUNNING, 9)
    assert seen.started > 0


def test_the_outcome_is_that_in_the_record(worker):
    assert worker.outcome() == (0, 0, b"")
    store_outcome(worker, 4, 1, b"done")
    assert worker.outcome() == (4, 1, b"done")


def test_what_a_worker_has_kept_is_found_by_its_task(worker):
    keep(worker.place, 7, {0: "zero", 3: "three"})
    assert sorted(worker.kept(7)) == [0, 3]
    assert worker.kept(8) == {}


def test_a_crash_is_told_from_other_stacks(worker):
    assert worker.stack() is None
    assert worker.crash_stack() is None
    write_stack(worker, "Current thread\n")
    assert worker.stack_size() == len("Current thread\n")
    assert worker.crash_stack() is None
    write_stack(worker, "Current thread\nFatal Python error: Aborted\n")
    assert worker.stack(len("Current thread\n")) == "Fatal Python error: Aborted\n"
    assert worker.crash_stack() == "Fatal Python error: Aborted\n"


def test_a_stack_longer_than_a_page_is_read_whole(worker):
    text = "line\n" * 3000
    write_stack(worker, text)
    assert worker.stack_size() == len(text)


def test_a_closed_worker_says_what_it_said_last(memory):
    worker = worker_at(new_place(memory))
    worker.set_cells(TICKET=5, PHASE=ledger.DONE)
    worker.close()
    memory.release(worker.place)
    assert (worker.snapshot().phase, worker.snapshot().ticket) == (ledger.DONE, 5)
    assert worker.outcome() == (0, 0, b"")
    worker.set_cells(RETIRE=1)
    assert worker.stack() is None
    worker.close()


def test_a_place_may_be_freed_while_another_thread_looks(memory):
    place = new_place(memory)
    worker = worker_at(place)
    stop, errors = threading.Event(), []

    def look():
        try:
            while not stop.is_set():
                worker.snapshot()
                worker.outcome()
                worker.set_cells(RETIRE=1)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    place.free()
    stop.set()
    thread.join(20)
    assert errors == []
    worker.close()
