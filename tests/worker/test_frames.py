"""The results of a chunk's items in their file: what comes back, cut frames, full places."""

from __future__ import annotations

import os

import pytest

from poolwarden.worker.frames import Frames, read_frames
from poolwarden.worker.payload import Store
from tests.worker.places import fill


def write_frames(store, frames):
    file = Frames(store, "p1")
    try:
        for item, data in frames:
            file.append(item, data)
    finally:
        file.close()


def test_frames_come_back_by_item(store):
    frames = {0: b"zero", 2: b"", 1_000_000: b"x" * 200_000}
    write_frames(store, frames.items())
    assert read_frames(store, "p1") == frames


def test_no_file_is_no_frames(store):
    assert read_frames(store, "p1") == {}
    assert set(os.listdir(store.places[0])) == {"host", "slots"}


def test_the_frames_of_the_next_worker_follow_those_of_the_first(store):
    write_frames(store, [(0, b"zero")])
    write_frames(store, [(1, b"one")])
    assert read_frames(store, "p1") == {0: b"zero", 1: b"one"}


def test_a_frame_cut_anywhere_is_left_out_and_the_next_one_can_follow(store, folder):
    write_frames(store, [(0, b"whole"), (1, b"also whole")])
    start = os.path.getsize(f"{folder}/p1")
    write_frames(store, [(2, b"cut by a death")])
    with open(f"{folder}/p1", "rb") as file:
        content = file.read()
    for length in range(start, len(content), 3):
        with open(f"{folder}/p1", "wb") as file:
            file.write(content[:length])
        assert read_frames(store, "p1") == {0: b"whole", 1: b"also whole"}
        write_frames(store, [(2, b"written anew")])
        assert read_frames(store, "p1") == {0: b"whole", 1: b"also whole", 2: b"written anew"}


@pytest.fixture
def small_store(small_place, tmp_path):
    """A store with room for a few frames of a page in the first place, and a second place."""
    place = small_place(16)
    (tmp_path / "spare").mkdir()
    os.symlink(tmp_path / "spare", f"{place}/spill")
    store = Store(place)
    fill(place, leave=4)
    yield store
    store.close()


FRAMES = {item: bytes([item]) * 3_000 for item in range(12)}


def test_frames_go_on_in_the_second_place_when_the_first_is_full(small_store):
    write_frames(small_store, FRAMES.items())
    assert read_frames(small_store, "p1") == FRAMES
    assert "p1" not in os.listdir(small_store.places[0])
    small_store.discard("p1")
    assert os.listdir(small_store.places[1]) == []


def test_the_next_worker_goes_on_where_the_frames_are(small_store):
    write_frames(small_store, list(FRAMES.items())[:8])
    os.unlink(f"{small_store.places[0]}/filling")
    write_frames(small_store, list(FRAMES.items())[8:])
    assert read_frames(small_store, "p1") == FRAMES


def test_frames_are_moved_whole_after_a_death_in_the_middle_of_a_move(small_store):
    """The first worker died while it copied: the file in the first place is the one that counts."""
    write_frames(small_store, list(FRAMES.items())[:2])
    with (
        open(f"{small_store.places[0]}/p1", "rb") as whole,
        open(f"{small_store.places[1]}/p1", "wb") as part,
    ):
        part.write(whole.read()[:4_000])
    assert read_frames(small_store, "p1") == {0: FRAMES[0], 1: FRAMES[1]}
    write_frames(small_store, list(FRAMES.items())[2:])
    assert read_frames(small_store, "p1") == FRAMES


def test_a_frame_for_which_there_is_no_room_leaves_those_before_it(full_store):
    fill_again = b"x" * 10_000
    os.truncate(f"{full_store.places[0]}/filling", 4096)
    write_frames(full_store, [(0, b"zero")])
    fill(full_store.places[0])
    with pytest.raises(OSError, match="No space left"):
        write_frames(full_store, [(1, fill_again)])
    assert read_frames(full_store, "p1") == {0: b"zero"}
