"""A pool's shared memory: places and room are given out, and come back when nobody needs them."""

from __future__ import annotations

import os
import pickle
import sys
from types import SimpleNamespace

import pytest

from poolwarden.core import pool_memory as memory_module
from poolwarden.core.pool_memory import PoolMemory
from poolwarden.errors import ConfigurationError
from poolwarden.worker.ledger import RING_LIMIT, RING_SENT, RING_TAKEN
from poolwarden.worker.memory import SEAT, is_same
from poolwarden.worker.payload import PLACE, load
from poolwarden.worker.results import Ring
from tests.worker.members import Started, new_place

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="takes memory files")


class NotStarted(Started):
    pid = None  # type: ignore[assignment]


def test_a_process_has_its_place_before_it_starts(memory):
    process = Started()
    memory.prepare(process)
    place = memory.place_of(process)
    assert place.record.cells[RING_LIMIT] >= 1 << 20
    assert getattr(process, SEAT).place == place.number
    memory.note_started(process)
    assert not hasattr(process, SEAT)


def test_the_place_of_a_start_that_failed_is_free_again(memory):
    free = len(memory.main.free)
    failed, started = NotStarted(), Started()
    memory.prepare(failed)
    memory.prepare(started)
    assert len(memory.main.free) == free - 1
    assert memory.place_of(failed) is None


def test_a_pool_may_grow_beyond_its_first_part(memory):
    places = [new_place(memory) for _ in range(memory.main.memory.places + 3)]
    assert len({id(place.memory) for place in places}) == 2
    for number, place in enumerate(places):
        place.record.cells[1] = number
    assert [place.record.cells[1] for place in places] == list(range(len(places)))


def test_a_place_is_given_to_others_only_when_all_is_read(memory):
    free = len(memory.main.free)
    place = new_place(memory)
    ring = Ring(place.memory, place.number, place.record.cells)
    where = ring.put(1, [b"x" * 5_000], 5_000)
    memory.release(place)
    assert len(memory.main.free) == free - 1
    assert load(memory.memory_of(where), where, 1, bytes) == b"x" * 5_000
    memory.note_read(where)
    assert len(memory.main.free) == free
    with pytest.raises(LookupError):
        memory.memory_of(where)
    memory.note_read(where)
    memory.note_read(b"no place")


def test_a_new_worker_finds_its_place_empty(memory):
    place = new_place(memory)
    number = place.number
    place.record.cells[RING_SENT] = place.record.cells[RING_TAKEN] = 5
    place.record.store_outcome(3, 0, b"old")
    memory.release(place)
    again = new_place(memory)
    assert again.number == number
    assert again.record.outcome() == (0, 0, b"")
    assert again.stack(0) == ""


def test_a_worker_that_is_there_already_has_one_place(memory):
    process = Started()
    assert memory.adopt(process) is memory.adopt(process)
    for _ in range(len(memory.main.free)):
        assert memory.adopt(Started()) is not None
    assert memory.adopt(Started()) is None


@pytest.mark.parametrize("failures", [1, 2])
def test_where_there_are_few_addresses_it_takes_less(monkeypatch, failures):
    made = []

    def make(size, real=memory_module._make):
        made.append(size)
        if len(made) <= failures:
            raise OSError(12, "Cannot allocate memory")
        return real(size)

    monkeypatch.setattr(memory_module, "_make", make)
    memory = PoolMemory(2, "pickle:Pickler")
    assert made == sorted(made, reverse=True)
    assert new_place(memory).record.outcome() == (0, 0, b"")
    memory.close()


def test_without_memory_there_is_a_clear_error(monkeypatch):
    def fail(size):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(memory_module, "_make", fail)
    with pytest.raises(ConfigurationError, match="ulimit -v"):
        PoolMemory(2, "pickle:Pickler")


def test_its_descriptor_is_high_and_closed_with_it(memory):
    part = memory.main
    fd, proof = part.fd, part.proof
    assert fd > 200
    assert is_same(fd, proof)
    memory.close()
    assert not is_same(fd, proof)
    memory.close()


def test_a_file_of_the_users_under_its_number_is_not_closed(memory, tmp_path):
    fd = memory.main.fd
    with open(tmp_path / "mine", "wb") as mine:
        os.dup2(mine.fileno(), fd)
        proof = os.fstat(fd).st_dev, os.fstat(fd).st_ino
        memory.close()
        assert is_same(fd, proof)
        os.close(fd)


def test_it_can_be_closed_while_somebody_looks_at_it(memory):
    view = memory.main.memory.view(0, 10)
    memory.close()
    assert len(view) == 10


# -- room for calls -------------------------------------------------------------------------------


def test_calls_have_blocks_of_their_own_which_are_used_again(memory):
    places = [memory.calls.put(number, [b"x" * 5_000], 5_000) for number in range(5)]
    assert len(set(places)) == 5
    memory.calls.free(places[2])
    assert memory.calls.put(9, [b"y" * 6_000], 6_000)[:8] == places[2][:8]
    for number in (0, 1, 3, 4):
        assert load(memory.main.memory, places[number], number, bytes) == b"x" * 5_000


def test_without_room_a_call_takes_another_way(memory):
    size = memory.main.memory.size
    assert memory.calls.put(1, [], size) is None
    memory.calls._extending.acquire()
    # As if a signal's handler had come between.
    assert memory.calls.put(1, [b"x" * 5_000], 5_000) is None
    memory.calls._extending.release()
    assert PLACE.unpack(memory.calls.put(1, [b"x" * 5_000], 5_000))[1] == 5_000


def test_a_process_that_is_forked_gives_out_no_places(memory, monkeypatch):
    monkeypatch.setattr(memory, "_pid", 1)
    process = SimpleNamespace(_identity=(77,))
    memory.prepare(process)
    assert memory.place_of(process) is None


def test_a_seat_that_nobody_spawns_carries_no_memory(memory):
    process = Started()
    memory.prepare(process)
    seat = pickle.loads(pickle.dumps(getattr(process, SEAT)))
    assert (seat.memory, seat.calls, seat.pickler_name) == (None, None, memory.pickler_name)


def test_a_process_that_somebody_has_closed_is_no_failed_start(memory):
    class Closed(Started):
        @property
        def pid(self):
            raise ValueError("process object is closed")

    closed = Closed()
    memory.prepare(closed)
    memory.prepare(Started())
    assert memory.place_of(closed) is not None
