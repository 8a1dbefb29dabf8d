"""The flight recorder: its layout, and what a reader sees of records that are not whole."""

from __future__ import annotations

import errno
import os
import stat
import struct

import pytest

from poolwarden.worker import ledger
from poolwarden.worker.ledger import INLINE_MAX, OUTCOME, SIZE, Record
from tests.worker.places import PAGE, fill
from tests.worker.processes import answer_of, running

CELLS = (
    "PHASE", "TICKET", "ITEM", "STARTED", "OUT_TICKET", "OUT_KIND", "OUT_SIZE", "ARMED", "RETIRE",
    "SOFT_TICKET", "SOFT_ITEM",
)  # fmt: skip
PHASES = ("UNBORN", "STARTING", "FAILED", "READY", "RUNNING", "DONE", "LEFT")
ALL_ONES = 2**64 - 1


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "record")


@pytest.fixture
def record(path):
    record = Record(path, create=True)
    yield record
    record.close()


@pytest.fixture
def other(record, path):
    """The same record, mapped by its reader."""
    other = Record(path)
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
def test_a_cell_is_read_as_it_was_stored_and_lies_where_the_layout_says(record, other, path, name):
    number = getattr(ledger, name)
    record.cells[number] = ALL_ONES
    assert list(other.cells) == [ALL_ONES if cell == number else 0 for cell in range(16)]
    with open(path, "rb") as file:
        file.seek(8 * number)
        assert struct.unpack("=Q", file.read(8)) == (ALL_ONES,)


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


def test_an_outcome_is_complete_before_its_ticket_says_so(record):
    """Its worker may be killed between any two stores."""
    real = record.cells
    seen = []

    class Watched:
        def __setitem__(self, cell, value):
            real[cell] = value
            seen.append(record._map[: OUTCOME + 8])

    record.cells = Watched()
    record.store_outcome(11, 4, b"complete")
    record.cells = real
    for before in seen:
        cells = struct.unpack_from("=16Q", before)
        if cells[ledger.OUT_TICKET] == 11:
            assert cells[ledger.OUT_KIND] == 4
            assert cells[ledger.OUT_SIZE] == len(b"complete")
            assert before[OUTCOME:] == b"complete"
    assert struct.unpack_from("=16Q", seen[-1])[ledger.OUT_TICKET] == 11
    assert len(seen) > 1


def test_a_size_that_cannot_be_is_cut(record, other):
    record.store_outcome(7, 3, b"data")
    record.cells[ledger.OUT_SIZE] = ALL_ONES
    assert len(other.outcome()[2]) == INLINE_MAX


@pytest.mark.parametrize("size", [0, 1, SIZE - 1])
def test_a_record_that_is_too_short_is_refused(path, size):
    with open(path, "wb") as file:
        file.write(bytes(size))
    with pytest.raises(ValueError, match=r"."):
        Record(path)


def test_a_record_that_does_not_exist_is_refused(path):
    with pytest.raises(FileNotFoundError):
        Record(path)
    assert not os.path.exists(path)


def test_a_record_is_made_once(record, path):
    with pytest.raises(FileExistsError):
        Record(path, create=True)


def test_a_record_is_readable_by_its_owner_alone(record, path):
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


@pytest.mark.parametrize("create", [True, False])
def test_a_link_in_the_place_of_a_record_is_not_followed(tmp_path, path, create):
    target = tmp_path / "target"
    if not create:
        target.write_bytes(bytes(SIZE))
    os.symlink(target, path)
    with pytest.raises(OSError, match=r"."):
        Record(path, create=create)
    assert target.exists() is not create


def test_a_full_place_is_an_error_and_no_sigbus(small_place):
    """In a process of its own: a store into a page that is not there would end it."""
    place = small_place(2)
    fill(place, leave=1)

    def make_two():
        first = Record(f"{place}/1", create=True)
        first.cells[ledger.PHASE] = ledger.READY
        first.store_outcome(1, 0, b"x" * INLINE_MAX)
        try:
            Record(f"{place}/2", create=True).cells[ledger.PHASE] = ledger.READY
        except OSError as error:
            return error.errno
        return None

    assert PAGE >= SIZE
    assert answer_of(make_two) == errno.ENOSPC


def test_closing_leaves_the_file_and_ends_the_mapping(path):
    record = Record(path, create=True)
    record.close()
    assert os.path.getsize(path) == SIZE
    with pytest.raises(ValueError, match="released"):
        record.cells[ledger.PHASE] = 1
