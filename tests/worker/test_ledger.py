"""The flight recorder: its layout, and what a reader sees of records that are not whole."""

from __future__ import annotations

import mmap
import struct

import pytest

from poolwarden.worker import ledger
from poolwarden.worker.ledger import INLINE_MAX, OUTCOME, SIZE, Record
from tests.worker.processes import running

CELLS = (
    "PHASE", "TICKET", "ITEM", "STARTED", "OUT_TICKET", "OUT_KIND", "OUT_SIZE", "ARMED", "RETIRE",
    "SOFT_TICKET", "SOFT_ITEM", "GONE", "IDENT", "RING_LIMIT", "RING_PUT", "RING_TAKEN", "RING_SENT",
    "KEEP_TICKET", "KEEP_START", "KEEP_END",
)  # fmt: skip
PHASES = ("UNBORN", "STARTING", "FAILED", "READY", "RUNNING", "DONE", "LEFT")
ALL_ONES = 2**64 - 1


@pytest.fixture
def page():
    """Memory of one record, shared with forked processes."""
    return mmap.mmap(-1, SIZE)


@pytest.fixture
def record(page):
    record = Record(memoryview(page))
    yield record
    record.close()


@pytest.fixture
def other(record, page):
    """The same record, as its reader has it."""
    other = Record(memoryview(page))
    yield other
    other.close()


def test_every_cell_has_a_place_of_its_own():
    numbers = [getattr(ledger, name) for name in CELLS]
    assert sorted(numbers) == list(range(len(CELLS)))
    assert 8 * len(CELLS) <= OUTCOME


def test_the_phases_are_in_the_order_that_comparisons_rely_on():
    """Below READY no task was ever taken; from RUNNING on one was. All zeros is UNBORN."""
    assert [getattr(ledger, name) for name in PHASES] == list(range(len(PHASES)))


def test_the_largest_outcome_fits_behind_the_cells():
    assert OUTCOME + INLINE_MAX <= SIZE


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_is_read_as_it_was_stored_and_lies_where_the_layout_says(record, other, page, name):
    number = getattr(ledger, name)
    record.cells[number] = ALL_ONES
    assert list(other.cells) == [ALL_ONES if cell == number else 0 for cell in range(OUTCOME // 8)]
    assert struct.unpack_from("=Q", page, 8 * number) == (ALL_ONES,)


def test_the_reader_can_store_as_well(record, other):
    other.cells[ledger.RETIRE] = 1
    assert record.cells[ledger.RETIRE] == 1


def test_a_reader_never_sees_half_a_store(record, other):
    def flicker():
        while True:
            record.cells[ledger.STARTED] = ALL_ONES
            record.cells[ledger.STARTED] = 0

    cells = other.cells
    with running(flicker):
        seen = {cells[ledger.STARTED] for _ in range(50_000)}
    assert seen <= {0, ALL_ONES}


def test_a_new_record_says_unborn_and_has_no_outcome(record, other):
    assert other.cells[ledger.PHASE] == ledger.UNBORN
    assert other.outcome() == (0, 0, b"")


@pytest.mark.parametrize("size", [0, 1, INLINE_MAX])
def test_an_outcome_comes_back_as_it_was_stored(record, other, size):
    record.store_outcome(7, 3, b"\xff" * size)
    assert other.outcome() == (7, 3, b"\xff" * size)


def test_a_shorter_outcome_shows_nothing_of_the_one_before(record, other):
    record.store_outcome(7, 3, b"long" * 100)
    record.store_outcome(8, 0, b"short")
    assert other.outcome() == (8, 0, b"short")


def test_an_outcome_leaves_the_running_task_as_it_was(record, other):
    for name in ("PHASE", "TICKET", "ITEM", "STARTED"):
        record.cells[getattr(ledger, name)] = 5
    record.store_outcome(9, 1, b"x" * INLINE_MAX)
    assert list(other.cells[:4]) == [5, 5, 5, 5]


def test_an_outcome_is_complete_before_its_ticket_says_so(record, page):
    """Its worker may be killed between any two stores."""
    real = record.cells
    seen = []

    class Watched:
        def __setitem__(self, cell, value):
            real[cell] = value
            seen.append(page[: OUTCOME + 8])

    record.cells = Watched()
    record.store_outcome(11, 4, b"complete")
    record.cells = real
    for before in seen:
        cells = struct.unpack_from(f"={OUTCOME // 8}Q", before)
        if cells[ledger.OUT_TICKET] == 11:
            assert cells[ledger.OUT_KIND] == 4
            assert cells[ledger.OUT_SIZE] == len(b"complete")
            assert before[OUTCOME:] == b"complete"
    assert struct.unpack_from(f"={OUTCOME // 8}Q", seen[-1])[ledger.OUT_TICKET] == 11
    assert len(seen) > 1


def test_a_size_that_cannot_be_is_cut(record, other):
    record.store_outcome(7, 3, b"data")
    record.cells[ledger.OUT_SIZE] = ALL_ONES
    assert len(other.outcome()[2]) == INLINE_MAX


def test_a_closed_record_can_be_closed_again_and_takes_no_stores(page):
    record = Record(memoryview(page))
    record.close()
    record.close()
    with pytest.raises(ValueError, match="released"):
        record.cells[ledger.PHASE] = 1
    page.close()
