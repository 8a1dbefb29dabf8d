"""Payloads: where each size goes, full places, the pickler that is used again."""

from __future__ import annotations

import copyreg
import errno
import os
import pickle
import select
import stat
import threading
import weakref
from multiprocessing.reduction import ForkingPickler

import pytest

from poolwarden.core.folder import PoolFolder
from poolwarden.worker import envelope
from poolwarden.worker.ledger import INLINE_MAX
from poolwarden.worker.payload import (
    FILE,
    SLOT,
    SLOT_MAX,
    Dumper,
    Store,
    is_full,
)
from tests.contract.waiting import DEADLINE
from tests.worker.places import fill

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


def sized(dumper, size):
    """Return an object whose pickle takes exactly `size` bytes, 1000 or more."""
    # In two parts: pickle frames a larger one in another way, with other overhead.
    part = size // 3
    overhead = len(dumper.dumps([b"x" * part, b"y" * part])) - 2 * part
    obj = [b"x" * part, b"y" * (size - overhead - part)]
    assert len(dumper.dumps(obj)) == size
    return obj


def payload_files(store):
    return {name for place in store.places for name in os.listdir(place)} - {"host", "slots", "spill"}


# -- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "with_slot", "without"),
    [
        (1_000, 0, 0),
        (INLINE_MAX, 0, 0),
        (INLINE_MAX + 1, SLOT, FILE),
        (SLOT_MAX, SLOT, FILE),
        (SLOT_MAX + 1, FILE, FILE),
        (1 << 20, FILE, FILE),
    ],
)
def test_the_size_of_a_payload_decides_where_it_goes(store, dumper, size, with_slot, without):
    obj = sized(dumper, size)
    for offset, expected in ((4 * SLOT_MAX, with_slot), (-1, without)):
        where, data = dumper.dump(obj, store, "c1", offset)
        assert where == expected
        assert len(data) <= INLINE_MAX
        assert payload_files(store) == ({"c1"} if expected == FILE else set())
        assert store.load(where, data, "c1") == obj
        store.discard("c1")
        assert payload_files(store) == set()


def test_what_says_where_a_payload_lies_tells_its_size(store, dumper):
    where, data = dumper.dump(sized(dumper, 1 << 17), store, "c1")
    assert where == FILE
    assert int.from_bytes(data, "little") == 1 << 17


def test_files_are_readable_by_their_owner_alone(store, dumper):
    dumper.dump(bytes(1 << 20), store, "c1")
    dumper.dump(bytes(1 << 14), store, "c2", 0)
    modes = {stat.S_IMODE(os.stat(f"{store.places[0]}/{name}").st_mode) for name in ("c1", "slots")}
    assert modes == {0o600}


def test_the_halves_of_slots_do_not_overlap(store, dumper):
    whole = [bytes([n]) * (SLOT_MAX - 100) for n in range(4)]
    places = [dumper.dump(obj, store, "c1", n * SLOT_MAX) for n, obj in enumerate(whole)]
    assert [store.load(where, data, "c1") for where, data in places] == whole


def test_a_slot_that_is_used_again_shows_nothing_of_what_was_there(store, dumper):
    dumper.dump(b"old" * 20_000, store, "c1", 0)
    where, data = dumper.dump(b"new" * 2_000, store, "c2", 0)
    assert where == SLOT
    assert store.load(where, data, "c2") == b"new" * 2_000


def test_the_other_process_reads_the_slot_through_its_own_descriptor(store, dumper, folder):
    where, data = dumper.dump(b"x" * 10_000, store, "c1", 0)
    reader = Store(folder)
    assert reader.load(where, data, "c1") == b"x" * 10_000
    reader.close()


@pytest.mark.parametrize("pickler", [ForkingPickler, PythonPickler, Protocol5])
@pytest.mark.parametrize("count", [10, 1_000, 50_000])
def test_what_is_written_in_many_pieces_is_put_together(store, pickler, count):
    dumper = Dumper(pickler)
    obj = [b"some text %d" % n for n in range(count)] + [b"x" * 100_000] * (count > 1_000)
    for offset in (0, -1):
        where, data = dumper.dump(obj, store, "c1", offset)
        assert store.load(where, data, "c1") == obj


@pytest.mark.parametrize("size", [100, 10_000, 70_000, 3 << 20])
def test_buffers_that_are_no_bytes_arrive_whole(store, size):
    dumper = Dumper(Protocol5)
    obj = {"array": bytearray(os.urandom(size)), "view": pickle.PickleBuffer(b"v" * size), "after": "end"}
    where, data = dumper.dump(obj, store, "c1", 0)
    found = store.load(where, data, "c1")
    assert found == {**obj, "view": b"v" * size}


@pytest.mark.parametrize("size", [10, 10_000, 200_000])
def test_memory_that_the_pickler_uses_again_is_copied_in_time(store, size):
    dumper = Dumper(Reusing)
    where, data = dumper.dump(bytes(range(250)) * (size // 10), store, "c1", 0)
    assert store.load(where, data, "c1") == bytes(range(250)) * (size // 10)


def test_a_file_of_the_same_name_is_replaced(store, dumper):
    dumper.dump(bytes(1 << 20), store, "r1")
    where, data = dumper.dump(b"y" * (1 << 17), store, "r1")
    assert store.load(where, data, "r1") == b"y" * (1 << 17)


def test_a_payload_that_is_gone_or_cut_cannot_be_loaded(store, dumper):
    where, data = dumper.dump(bytes(1 << 20), store, "c1")
    os.truncate(f"{store.places[0]}/c1", 1000)
    with pytest.raises((EOFError, pickle.UnpicklingError)):
        store.load(where, data, "c1")
    store.discard("c1")
    with pytest.raises(FileNotFoundError):
        store.load(where, data, "c1")


def test_discarding_what_is_not_there_is_no_error(store):
    store.discard("c1")


def test_the_largest_messages_are_written_whole_or_not_at_all(dumper):
    """With the folder, the numbers and the names that a host adds to them."""
    folder = PoolFolder("multiprocessing.reduction:ForkingPickler")
    try:
        call = (folder.path, BIG, BIG, bytes(INLINE_MAX), BIG)
        task = (BIG, -BIG, envelope.run, call, {})
        answer = (BIG, -BIG, (True, (BIG, BIG, bytes(INLINE_MAX))))
        for message in (task, answer):
            assert 4 + len(dumper.dumps(message)) <= select.PIPE_BUF
    finally:
        folder.close()


# -- full places ----------------------------------------------------------------------------------


@pytest.fixture
def spilling_store(full, tmp_path):
    (tmp_path / "spare").mkdir()
    os.symlink(tmp_path / "spare", f"{full}/spill")
    store = Store(full)
    yield store
    store.close()


@pytest.mark.parametrize("size", [INLINE_MAX + 1, SLOT_MAX, 1 << 20])
@pytest.mark.parametrize("offset", [0, -1])
def test_with_the_first_place_full_payloads_go_to_the_second(spilling_store, dumper, size, offset):
    obj = sized(dumper, size)
    where, data = dumper.dump(obj, spilling_store, "c1", offset)
    assert where == FILE
    assert os.listdir(spilling_store.places[1]) == ["c1"]
    assert "c1" not in os.listdir(spilling_store.places[0])
    assert spilling_store.load(where, data, "c1") == obj
    spilling_store.discard("c1")
    assert os.listdir(spilling_store.places[1]) == []


@pytest.mark.parametrize("size", [INLINE_MAX + 1, SLOT_MAX, 1 << 20])
def test_with_all_places_full_the_error_says_so_and_nothing_is_left(full_store, dumper, size):
    before = payload_files(full_store)
    for _ in range(2):
        with pytest.raises(OSError, match="No space left") as caught:
            dumper.dump(sized(dumper, size), full_store, "c1", 0)
        assert caught.value.errno == errno.ENOSPC
        assert is_full(caught.value)
        assert payload_files(full_store) == before
    assert dumper.dump("small", full_store, "c1") == (0, dumper.dumps("small"))


def test_a_slot_for_which_there_is_half_the_room_is_not_used(small_place, dumper):
    place = small_place(8)
    store = Store(place)
    fill(place, leave=2)
    assert store.write_slot(0, bytes(4 * 4096)) is False
    store.close()


def test_the_second_place_is_not_used_while_the_first_has_room(tmp_path, folder, dumper):
    (tmp_path / "spare").mkdir()
    os.symlink(tmp_path / "spare", f"{folder}/spill")
    store = Store(folder)
    where, data = dumper.dump(bytes(1 << 20), store, "c1")
    assert os.listdir(tmp_path / "spare") == []
    assert store.load(where, data, "c1") == bytes(1 << 20)
    store.close()


def test_an_error_of_a_slot_that_is_not_about_room_is_raised(folder):
    store = Store(folder)
    store.close()
    with pytest.raises(OSError, match="descriptor") as caught:
        store.write_slot(0, b"x")
    assert not is_full(caught.value)


def test_a_folder_that_is_gone_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        Store(str(tmp_path / "gone"))


# -- the pickler ----------------------------------------------------------------------------------


def test_what_was_dumped_before_is_not_referred_to(store, dumper):
    shared = ["shared"]
    first = dumper.dump((shared, shared), store, "c1")
    second = dumper.dump((shared, shared), store, "c2")
    assert first == second
    assert store.load(*second, "c2") == (["shared"], ["shared"])


@pytest.mark.parametrize("size", [10, 10_000, 1 << 20])
def test_nothing_of_the_user_is_kept_after_a_dump(store, dumper, size):
    thing = Thing(bytes(size))
    gone = weakref.ref(thing)
    dumper.dump([thing, thing], store, "c1", 0)
    del thing
    assert gone() is None


def test_nothing_of_the_user_is_kept_after_a_dump_that_failed(store, dumper):
    thing = Thing(Unwilling())
    gone = weakref.ref(thing)
    with pytest.raises(UnwillingError):
        dumper.dump(thing, store, "c1")
    del thing
    assert gone() is None


@pytest.mark.parametrize("size", [10, 10_000, 1 << 20])
def test_a_dump_that_fails_leaves_nothing_to_the_next(store, dumper, size):
    with pytest.raises(UnwillingError):
        dumper.dump([bytes(size), Unwilling()], store, "c1", 0)
    assert payload_files(store) == set()
    assert dumper.dump("next", store, "c1") == (0, dumper.dumps("next"))


def test_an_interrupted_dump_leaves_nothing_to_the_next(store, dumper):
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dumper.dump([bytes(1 << 20), Calling(interrupt)], store, "c1", 0)
    assert payload_files(store) == set()
    assert dumper.dump("next", store, "c1") == (0, dumper.dumps("next"))


@pytest.mark.parametrize(
    "register",
    [
        pytest.param(ForkingPickler.register, id="ForkingPickler"),
        pytest.param(copyreg.pickle, id="copyreg"),
    ],
)
def test_a_reducer_registered_late_counts_and_so_does_its_removal(store, dumper, register):

    def what_arrives():
        return type(store.load(*dumper.dump(Special(), store, "c1"), "c1"))

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


def test_a_reducer_registered_in_the_middle_of_a_dump_counts_from_then_on(store, dumper):
    def register():
        ForkingPickler.register(Special, lambda _: (str, ("reduced",)))
        dumper.dump("of another thread, say", store, "c2")

    dumper.dump("first", store, "c1")
    try:
        dumper.dump(Calling(register), store, "c1")
        assert store.load(*dumper.dump(Special(), store, "c1"), "c1") == "reduced"
    finally:
        ForkingPickler._extra_reducers.pop(Special, None)


@pytest.mark.parametrize("size", [10, 10_000, 1 << 20])
def test_an_object_may_dump_with_the_same_dumper_while_it_is_dumped(store, dumper, size):
    inside = []
    outer = [bytes(size), Calling(lambda: inside.append(dumper.dump(b"i" * size, store, "c2"))), bytes(size)]
    for _ in range(2):
        where, data = dumper.dump(outer, store, "c1")
        assert store.load(where, data, "c1") == [bytes(size), "called", bytes(size)]
        assert store.load(*inside.pop(), "c2") == b"i" * size


def test_an_object_may_fail_to_dump_with_the_same_dumper_while_it_is_dumped(store, dumper):
    def fail():
        with pytest.raises(UnwillingError):
            dumper.dump([bytes(1 << 20), Unwilling()], store, "c2")

    where, data = dumper.dump(["before", Calling(fail), "after"], store, "c1")
    assert store.load(where, data, "c1") == ["before", "called", "after"]


def test_threads_may_share_a_dumper(store, dumper):
    wrong = []

    def dump_many(number):
        for turn in range(60):
            obj = [(number, turn)] * (1 if turn % 2 else 3_000)
            name = f"c{number}"
            where, data = dumper.dump(obj, store, name, number * SLOT_MAX if turn % 3 else -1)
            if store.load(where, data, name) != obj:
                wrong.append((number, turn))

    threads = [threading.Thread(target=dump_many, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()
    assert wrong == []


def test_any_size_can_be_dumped_into_bytes(dumper):
    assert pickle.loads(dumper.dumps(bytes(1 << 20))) == bytes(1 << 20)


@pytest.mark.parametrize(
    ("number", "full"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EACCES, False), (None, False)]
)
def test_only_a_lack_of_room_is_one(number, full):
    assert is_full(OSError(number, "text")) is full
