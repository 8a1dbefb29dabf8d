"""A worker as the parent sees it: its record, whole or not, and its files."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from poolwarden.core.workers import Snapshot, Worker
from poolwarden.worker import ledger
from poolwarden.worker.ledger import Record

UNBORN = Snapshot(ledger.UNBORN, 0, 0, 0, 0)


@pytest.fixture
def worker(tmp_path):
    """A worker of a pool; its process is this one, which it does not touch."""
    worker = Worker(SimpleNamespace(pid=os.getpid(), sentinel=-1), str(tmp_path), older=False)
    yield worker
    worker.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / str(os.getpid())


@pytest.fixture
def record(path):
    record = Record(str(path), create=True)
    yield record
    record.close()


def test_a_missing_record_reads_as_unborn(worker):
    assert worker.snapshot() == UNBORN
    assert worker.outcome() == (0, 0, b"")
    worker.set_cells(RETIRE=1)


@pytest.mark.parametrize("size", [0, 1, ledger.SIZE - 1])
def test_a_short_record_reads_as_unborn_until_it_is_whole(worker, path, size):
    path.write_bytes(b"\xff" * size)
    assert worker.snapshot() == UNBORN
    assert worker.outcome() == (0, 0, b"")
    path.write_bytes(bytes(ledger.SIZE))
    assert worker.snapshot() == UNBORN
    whole = Record(str(path))
    whole.cells[ledger.PHASE] = ledger.READY
    whole.close()
    assert worker.snapshot().phase == ledger.READY


@pytest.mark.parametrize("phase", ["UNBORN", "STARTING", "FAILED", "READY", "RUNNING", "DONE", "LEFT"])
def test_a_snapshot_holds_what_the_record_says(worker, record, phase):
    number = getattr(ledger, phase)
    for cell, value in (("TICKET", 5), ("ITEM", 6), ("STARTED", 7), ("ARMED", 3), ("PHASE", number)):
        record.cells[getattr(ledger, cell)] = value
    assert worker.snapshot() == Snapshot(number, 5, 6, 7, 3)


def test_two_snapshots_are_equal_when_nothing_has_moved(worker, record):
    before = worker.snapshot()
    assert worker.snapshot() == before
    record.cells[ledger.ITEM] += 1
    assert worker.snapshot() != before


def test_the_record_is_read_after_its_file_was_removed(worker, record, path):
    record.cells[ledger.TICKET] = 5
    assert worker.snapshot().ticket == 5
    path.unlink()
    record.cells[ledger.TICKET] = 6
    assert worker.snapshot().ticket == 6


def test_the_parent_stores_into_cells_in_the_order_given(worker, record):
    worker.set_cells(SOFT_ITEM=2, SOFT_TICKET=9, RETIRE=1)
    assert (record.cells[ledger.SOFT_ITEM], record.cells[ledger.SOFT_TICKET]) == (2, 9)
    assert record.cells[ledger.RETIRE] == 1


def test_the_last_outcome_is_read(worker, record):
    record.store_outcome(5, 1, b"outcome")
    assert worker.outcome() == (5, 1, b"outcome")


def test_a_stack_is_read_from_where_the_last_one_ended(worker):
    assert worker.stack() is None
    with open(worker.stack_path, "wb") as file:
        file.write(b"first\xff")
    assert worker.stack() == "first\ufffd"
    assert worker.stack(6) is None
    with open(worker.stack_path, "ab") as file:
        file.write(b"second")
    assert worker.stack(6) == "second"


def test_only_the_last_crash_is_the_stack_of_a_crash(worker):
    assert worker.crash_stack() is None
    dump = "Current thread 0x1 (most recent call first):\n  in a dump\n"
    crash = "Fatal Python error: Segmentation fault\n\nCurrent thread 0x1:\n  in {}\n"
    with open(worker.stack_path, "w") as file:
        file.write(dump)
    assert worker.crash_stack() is None
    with open(worker.stack_path, "a") as file:
        file.write(crash.format("a forked process") + dump + crash.format("the worker"))
    assert worker.crash_stack() == crash.format("the worker")


def test_closing_removes_the_files_wherever_they_are(worker, record, path, tmp_path):
    (tmp_path / "spill").mkdir()
    (tmp_path / "spill" / path.name).write_bytes(b"")
    (tmp_path / f"{path.name}.stack").write_bytes(b"")
    worker.snapshot()
    worker.close()
    worker.close()
    assert os.listdir(tmp_path) == ["spill"]
    assert os.listdir(tmp_path / "spill") == []
    assert worker.snapshot() == UNBORN
