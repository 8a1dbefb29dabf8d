"""Payloads: where each size goes, what is not where it should be, the pickler that is used again."""

from __future__ import annotations

import copyreg
import os
import pickle
import select
import threading
import weakref
from multiprocessing.reduction import ForkingPickler

import pytest

from poolwarden.worker import envelope, payload
from poolwarden.worker.ledger import INLINE_MAX
from poolwarden.worker.payload import (
    HEAD,
    KEPT,
    MEMORY,
    NOTE,
    PLACE,
    Dumper,
    MismatchError,
    Note,
    Reader,
    listeners,
    load,
)
from poolwarden.worker.results import Ring
from tests.contract.waiting import DEADLINE
from tests.worker.members import new_place

BIG = 2**64 - 1


class PythonPickler(pickle._Pickler):
    """As dill's: no C, and its frames are views of memory."""


class Protocol5(pickle.Pickler):
    """Hands large `bytearray`s to the file as they are."""

    def __init__(self, file):
        super().__init__(file, 5)


class Reusing:
    """Hands over views of one piece of memory."""

    def __init__(self, file):
        self.file = file
        self.memory = bytearray(100)

    def dump(self, obj):
        data = memoryview(pickle.dumps(obj))
        for start in range(0, len(data), 100):
            part = data[start : start + 100]
            self.memory[: len(part)] = part
            self.file.write(memoryview(self.memory)[: len(part)])


class Thing:
    def __init__(self, value=None):
        self.value = value


class Special:
    """Reduced in a special way only once a reducer was registered for it."""


class UnwillingError(Exception):
    pass


class Calling:
    """Calls a function when it is pickled."""

    def __init__(self, call):
        self.call = call

    def __reduce__(self):
        self.call()
        return (str, ("called",))


class Unwilling:
    def __reduce__(self):
        raise UnwillingError


@pytest.fixture
def dumper():
    return Dumper(ForkingPickler)


@pytest.fixture(params=["calls", "ring"])
def room(request, memory):
    """What takes large calls, or a worker's large outcomes."""
    if request.param == "calls":
        return memory.calls
    place = new_place(memory)
    return Ring(place.memory, place.number, place.record.cells)


@pytest.fixture
def reader(memory):
    return Reader(memory.main.memory)


def sized(dumper, size):
    """Return an object whose pickle takes exactly `size` bytes, 1000 or more."""
    # In two parts: pickle frames a larger one in another way, with other overhead.
    part = size // 3
    overhead = len(dumper.dumps([b"x" * part, b"y" * part])) - 2 * part
    obj = [b"x" * part, b"y" * (size - overhead - part)]
    assert len(dumper.dumps(obj)) == size
    return obj


class NoRoom:
    def put(self, number, parts, size):
        return None


# -- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "expected"), [(1_000, 0), (INLINE_MAX, 0), (INLINE_MAX + 1, MEMORY), (1 << 20, MEMORY)]
)
def test_the_size_of_a_payload_decides_where_it_goes(room, reader, dumper, size, expected):
    obj = sized(dumper, size)
    where, data = dumper.dump(obj, room, 1)
    assert where == expected
    assert len(data) <= INLINE_MAX
    assert reader.load(where, data, 1) == obj
    assert reader.read(where, data, 1) == dumper.dumps(obj)


@pytest.mark.parametrize("room", [None, NoRoom()], ids=["no memory", "no room"])
@pytest.mark.parametrize("size", [1_000, INLINE_MAX + 1, 1 << 20])
def test_what_finds_no_room_is_given_back_whole(reader, dumper, room, size):
    obj = sized(dumper, size)
    assert dumper.dump(obj, room, 1) == (0, dumper.dumps(obj))
    assert reader.load(0, dumper.dumps(obj), 1) == obj


def test_what_says_where_a_payload_lies_tells_its_size(memory, dumper):
    _, data = dumper.dump(sized(dumper, 1 << 17), memory.calls, 1)
    start, size = PLACE.unpack(data)
    assert size == 1 << 17
    with memory.main.memory.view(start, HEAD.size) as head:
        assert HEAD.unpack(head) == (1, size)


def test_payloads_do_not_overlap(room, reader, dumper):
    whole = [bytes([n]) * 60_000 for n in range(4)]
    places = [dumper.dump(obj, room, n) for n, obj in enumerate(whole)]
    assert [reader.load(where, data, n) for n, (where, data) in enumerate(places)] == whole


def test_room_that_is_used_again_shows_nothing_of_what_was_there(memory, reader, dumper):
    _, old = dumper.dump(b"old" * 20_000, memory.calls, 1)
    memory.calls.free(old)
    where, new = dumper.dump(b"new" * 15_000, memory.calls, 2)
    assert PLACE.unpack(new)[0] == PLACE.unpack(old)[0]
    assert reader.load(where, new, 2) == b"new" * 15_000


@pytest.mark.parametrize("pickler", [ForkingPickler, PythonPickler, Protocol5])
@pytest.mark.parametrize("count", [10, 1_000, 50_000])
def test_what_is_written_in_many_pieces_is_put_together(memory, reader, pickler, count):
    dumper = Dumper(pickler)
    obj = [b"some text %d" % n for n in range(count)] + [b"x" * 100_000] * (count > 1_000)
    for room in (memory.calls, None):
        where, data = dumper.dump(obj, room, 1)
        assert reader.load(where, data, 1) == obj


@pytest.mark.parametrize("size", [100, 10_000, 70_000, 3 << 20])
def test_buffers_that_are_no_bytes_arrive_whole(room, reader, size):
    dumper = Dumper(Protocol5)
    obj = {"array": bytearray(os.urandom(size)), "view": pickle.PickleBuffer(b"v" * size), "after": "end"}
    where, data = dumper.dump(obj, room, 1)
    assert reader.load(where, data, 1) == {**obj, "view": b"v" * size}


@pytest.mark.parametrize("size", [10, 10_000, 200_000])
def test_memory_that_the_pickler_uses_again_is_copied_in_time(room, reader, size):
    dumper = Dumper(Reusing)
    where, data = dumper.dump(bytes(range(250)) * (size // 10), room, 1)
    assert reader.load(where, data, 1) == bytes(range(250)) * (size // 10)


def test_a_host_whose_unpickler_takes_bytes_alone_is_given_bytes(memory, dumper):
    where, data = dumper.dump(b"x" * 10_000, memory.calls, 1)
    seen = []
    reader = Reader(memory.main.memory, lambda given: seen.append(type(given)) or pickle.loads(given))
    assert reader.load(where, data, 1) == b"x" * 10_000
    assert seen == [bytes]


# -- what is not where it should be ---------------------------------------------------------------


def test_what_belongs_to_another_task_is_not_loaded(room, reader, dumper):
    where, data = dumper.dump(bytes(10_000), room, 1)
    for read in (reader.load, reader.read):
        with pytest.raises(MismatchError, match="task 2"):
            read(where, data, 2)


def test_what_was_given_up_and_written_over_is_not_loaded(memory, reader, dumper):
    where, old = dumper.dump(bytes(10_000), memory.calls, 1)
    memory.calls.free(old)
    dumper.dump(bytes(9_000), memory.calls, 2)
    with pytest.raises(MismatchError):
        reader.load(where, old, 1)


@pytest.mark.parametrize("beyond", [0, 8, HEAD.size, 1000])
def test_a_place_that_reaches_beyond_the_memory_is_none(memory, beyond):
    size = 5_000
    place = PLACE.pack(memory.main.memory.size - beyond, size)
    with pytest.raises(MismatchError):
        load(memory.main.memory, place, 1, bytes)


def test_who_has_not_mapped_the_memory_reads_what_is_in_the_message_alone(memory, dumper):
    where, data = dumper.dump(bytes(10_000), memory.calls, 1)
    reader = Reader(None)
    for read in (reader.load, reader.read):
        with pytest.raises(OSError, match="could not be mapped"):
            read(where, data, 1)
    assert reader.load(0, dumper.dumps("small"), 1) == "small"
    assert reader.read(0, b"as it is", 1) == b"as it is"


# -- messages -------------------------------------------------------------------------------------


def test_the_largest_messages_are_written_whole_or_not_at_all(memory, dumper):
    """With the pool's name, the numbers and the names that a host adds to them."""
    piece = bytes(INLINE_MAX)
    call = (memory.name, BIG, BIG, piece, BIG)
    task = (BIG, -BIG, envelope.run, call, {})
    answer = (BIG, -BIG, (True, (BIG, BIG, piece)))
    note = (NOTE, 0, Note(memory.name, KEPT, BIG, BIG, piece))
    for message in (task, answer, note):
        assert 4 + len(dumper.dumps(message)) <= select.PIPE_BUF


def test_a_note_is_told_by_being_unpickled_where_somebody_listens(monkeypatch):
    told = []
    monkeypatch.setitem(listeners, "a pool", lambda *values: told.append(values))
    notes = [Note("a pool", payload.PIECE, 5, b"data"), Note("another pool", payload.HERE, 7)]
    assert pickle.loads(pickle.dumps(notes)) == [None, None]
    assert told == [(payload.PIECE, 5, b"data")]


# -- the pickler ----------------------------------------------------------------------------------


def test_what_was_dumped_before_is_not_referred_to(memory, reader, dumper):
    shared = ["shared"]
    first = dumper.dump((shared, shared), memory.calls, 1)
    second = dumper.dump((shared, shared), memory.calls, 1)
    assert first == second
    assert reader.load(*second, 1) == (["shared"], ["shared"])


@pytest.mark.parametrize("size", [10, 10_000, 1 << 20])
def test_nothing_of_the_user_is_kept_after_a_dump(memory, reader, dumper, size):
    thing = Thing(bytes(size))
    gone = weakref.ref(thing)
    dumper.dump([thing, thing], memory.calls, 1)
    del thing
    assert gone() is None


def test_nothing_of_the_user_is_kept_after_a_dump_that_failed(memory, reader, dumper):
    thing = Thing(Unwilling())
    gone = weakref.ref(thing)
    with pytest.raises(UnwillingError):
        dumper.dump(thing, memory.calls, 1)
    del thing
    assert gone() is None


@pytest.mark.parametrize("size", [10, 10_000, 1 << 20])
def test_a_dump_that_fails_leaves_nothing_to_the_next(memory, reader, dumper, size):
    with pytest.raises(UnwillingError):
        dumper.dump([bytes(size), Unwilling()], memory.calls, 1)
    assert dumper.dump("next", memory.calls, 1) == (0, dumper.dumps("next"))


def test_an_interrupted_dump_leaves_nothing_to_the_next(memory, reader, dumper):
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dumper.dump([bytes(1 << 20), Calling(interrupt)], memory.calls, 1)
    assert dumper.dump("next", memory.calls, 1) == (0, dumper.dumps("next"))


@pytest.mark.parametrize(
    "register",
    [
        pytest.param(ForkingPickler.register, id="ForkingPickler"),
        pytest.param(copyreg.pickle, id="copyreg"),
    ],
)
def test_a_reducer_registered_late_counts_and_so_does_its_removal(memory, reader, dumper, register):

    def what_arrives():
        return type(reader.load(*dumper.dump(Special(), memory.calls, 1), 1))

    try:
        assert what_arrives() is Special
        register(Special, lambda _: (str, ("reduced",)))
        assert what_arrives() is str
        register(Special, lambda _: (bytes, (b"otherwise",)))
        assert what_arrives() is bytes
    finally:
        copyreg.dispatch_table.pop(Special, None)
        ForkingPickler._extra_reducers.pop(Special, None)
    assert what_arrives() is Special


def test_a_reducer_registered_in_the_middle_of_a_dump_counts_from_then_on(memory, reader, dumper):
    def register():
        ForkingPickler.register(Special, lambda _: (str, ("reduced",)))
        dumper.dump("of another thread, say", memory.calls, 2)

    dumper.dump("first", memory.calls, 1)
    try:
        dumper.dump(Calling(register), memory.calls, 1)
        assert reader.load(*dumper.dump(Special(), memory.calls, 1), 1) == "reduced"
    finally:
        ForkingPickler._extra_reducers.pop(Special, None)


@pytest.mark.parametrize("size", [10, 10_000, 1 << 20])
def test_an_object_may_dump_with_the_same_dumper_while_it_is_dumped(memory, reader, dumper, size):
    inside = []
    within = Calling(lambda: inside.append(dumper.dump(b"i" * size, memory.calls, 2)))
    outer = [bytes(size), within, bytes(size)]
    for _ in range(2):
        where, data = dumper.dump(outer, memory.calls, 1)
        assert reader.load(where, data, 1) == [bytes(size), "called", bytes(size)]
        assert reader.load(*inside.pop(), 2) == b"i" * size


def test_an_object_may_fail_to_dump_with_the_same_dumper_while_it_is_dumped(memory, reader, dumper):
    def fail():
        with pytest.raises(UnwillingError):
            dumper.dump([bytes(1 << 20), Unwilling()], memory.calls, 2)

    where, data = dumper.dump(["before", Calling(fail), "after"], memory.calls, 1)
    assert reader.load(where, data, 1) == ["before", "called", "after"]


def test_threads_may_share_a_dumper(memory, reader, dumper):
    wrong = []

    def dump_many(number):
        for turn in range(60):
            obj = [(number, turn)] * (1 if turn % 2 else 3_000)
            where, data = dumper.dump(obj, memory.calls if turn % 3 else None, number)
            if reader.load(where, data, number) != obj:
                wrong.append((number, turn))
            if where:
                memory.calls.free(data)

    threads = [threading.Thread(target=dump_many, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()
    assert wrong == []


def test_any_size_can_be_dumped_into_bytes(dumper):
    assert pickle.loads(dumper.dumps(bytes(1 << 20))) == bytes(1 << 20)
