"""The room for a worker's outcomes, and the way of what finds none there."""

from __future__ import annotations

import pickle

import pytest

from poolwarden.worker import ledger
from poolwarden.worker.ledger import RING_LIMIT, RING_PUT, RING_SENT, RING_TAKEN
from poolwarden.worker.payload import HEAD, RING_PLACE, load
from poolwarden.worker.results import Ring, kept_results, send_plainly
from tests.worker.members import new_place

LIMIT = 10_000


@pytest.fixture
def place(memory):
    place = new_place(memory)
    place.record.cells[RING_LIMIT] = LIMIT
    return place


@pytest.fixture
def ring(place):
    return Ring(place.memory, place.number, place.record.cells)


def content(place, where, number):
    return load(place.memory, where, number, bytes)


def read(place, where):
    """Do what the parent does when it has read an outcome."""
    place.record.cells[RING_TAKEN] = RING_PLACE.unpack(where)[3]


def test_outcomes_lie_one_behind_the_other(place, ring):
    first, second = ring.put(1, [b"a" * 100], 100), ring.put(2, [b"b" * 50, b"c" * 50], 100)
    assert content(place, first, 1) == b"a" * 100
    assert content(place, second, 2) == b"b" * 50 + b"c" * 50
    assert place.record.cells[RING_PUT] == place.record.cells[RING_SENT] == 2 * (100 + HEAD.size)
    assert RING_PLACE.unpack(second)[2] == place.ident


def test_what_waits_is_bounded(place, ring):
    size = LIMIT // 3
    waiting = [ring.put(n, [b"x" * size], size) for n in range(3)]
    assert waiting[2] is None
    read(place, waiting[0])
    assert ring.put(3, [b"x" * size], size) is not None
    assert ring.put(4, [b"x" * LIMIT], LIMIT) is None


def test_what_was_read_is_used_again_from_the_beginning(place, ring):
    starts = []
    for number in range(5):
        where = ring.put(number, [b"x" * 6_000], 6_000)
        starts.append(RING_PLACE.unpack(where)[0])
        read(place, where)
    assert len(set(starts)) == 1


def test_what_does_not_fit_at_the_end_goes_to_the_beginning(place, ring):
    first = ring.put(1, [b"a" * 3_000], 3_000)
    second = ring.put(2, [b"b" * 3_000], 3_000)
    read(place, first)
    third = ring.put(3, [b"c" * 2_000], 2_000)  # still at the end
    assert content(place, third, 3) == b"c" * 2_000
    fourth = ring.put(4, [b"d" * 2_500], 2_500)
    assert RING_PLACE.unpack(fourth)[0] == place.memory.ring_start(place.number)
    for where, number, letter in ((second, 2, b"b"), (third, 3, b"c"), (fourth, 4, b"d")):
        assert set(content(place, where, number)) == set(letter)


def test_nothing_is_written_over_what_waits(place, ring):
    """Sizes of all kinds, read in order, some of them late."""
    waiting = []
    for number in range(1, 400):
        size = (number * 977) % 4_000 + 1
        data = bytes([number % 256]) * size
        where = ring.put(number, [data], size)
        if where is not None:
            waiting.append((where, number, data))
        while waiting and (where is None or len(waiting) > number % 4):
            oldest, ticket, expected = waiting.pop(0)
            assert content(place, oldest, ticket) == expected
            read(place, oldest)
            where = where or b""


def test_what_was_put_can_be_given_up(place, ring):
    mark = ring.mark()
    ring.put(1, [b"x" * 100], 100)
    ring.roll_back(mark)
    assert place.record.cells[RING_PUT] == place.record.cells[RING_SENT] == 0


def test_kept_results_are_found_by_the_parent_after_each_item(place, ring):
    ring.begin_keeping(7)
    cells = place.record.cells
    for item in range(3):
        assert ring.keep(item, pickle.dumps(item * 10))
        start, end = cells[ledger.KEEP_START], cells[ledger.KEEP_END]
        found = kept_results(place.memory, start, end - start)
        assert {item: pickle.loads(data) for item, data in found.items()} == {
            each: each * 10 for each in range(item + 1)
        }
    start, size, ident, mark = RING_PLACE.unpack(ring.kept(7))
    assert (ident, mark) == (place.ident, cells[RING_PUT])
    assert sorted(kept_results(place.memory, start, size)) == [0, 1, 2]
    assert ring.kept(8) == b""


def test_kept_results_are_bounded_as_well(place, ring):
    ring.begin_keeping(7)
    assert ring.keep(0, b"x" * 6_000)
    assert not ring.keep(1, b"y" * 6_000)
    assert ring.keep(2, b"z" * 1_000)
    start, size = RING_PLACE.unpack(ring.kept(7))[:2]
    assert sorted(kept_results(place.memory, start, size)) == [0, 2]


def test_a_chunk_that_fails_gives_its_room_back(place, ring):
    before = ring.put(1, [b"x" * 500], 500)
    put = place.record.cells[RING_PUT]
    ring.begin_keeping(7)
    ring.keep(0, b"y" * 500)
    ring.forget_kept(8)
    assert place.record.cells[RING_PUT] > put
    ring.forget_kept(7)
    assert place.record.cells[RING_PUT] == put
    assert ring.kept(7) == b""
    assert content(place, before, 1) == b"x" * 500


class Lock:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


class Results:
    """As a host's queue, with a list for a pipe."""

    def __init__(self):
        self.sent, self.put_before, self._wlock, self._writer = [], [], Lock(), self

    def send_bytes(self, message):
        self.sent.append(pickle.loads(message))

    def put(self, item):
        self.put_before.append(item)


class Item:
    def __init__(self, result):
        self.result = result


@pytest.mark.parametrize(
    ("result", "plainly"),
    [((1, 0, b""), True), ((1, 0), False), ((1, 0, "text"), False), ([1, 0, b""], False), (None, False)],
)
def test_only_outcomes_of_ours_spare_the_hosts_pickler(result, plainly):
    results = Results()
    send_plainly(results)
    results.put(Item(result))
    assert [item.result for item in results.sent] == ([result] if plainly else [])
    assert [item.result for item in results.put_before] == ([] if plainly else [result])
