"""The private folders: who may see them, and that they are removed whatever happens."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from poolwarden.core import folder as folder_module
from poolwarden.core.folder import PoolFolder
from poolwarden.errors import ConfigurationError
from tests.contract.waiting import DEADLINE, within
from tests.worker.places import fill
from tests.worker.processes import exit_code_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="tries the places that Linux has")

HOST = "multiprocessing.reduction:ForkingPickler"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A place of the test's own, and the only one."""
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.setattr(folder_module, "places", lambda: [str(place)])
    return place


@pytest.fixture
def make(place):
    """Makes folders, and closes them."""
    folders = []

    def make():
        folders.append(PoolFolder(HOST))
        return folders[-1]

    yield make
    for folder in folders:
        folder.close()


#: Makes a folder in the place it is given, says where, and does what it is told.
OWNER = """
import os, sys, time
from poolwarden.core import folder
folder.places = lambda: sys.argv[1:2]
made = folder.PoolFolder("pickle:Pickler")
print(made.path, flush=True)
sys.stdin.readline()
{end}
"""


def start_owner(place, end):
    """Start another process that owns a folder; return it and the folder's path."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER.format(end=end), str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return owner, owner.stdout.readline().strip()


def end_owner(owner):
    owner.communicate("\n", timeout=DEADLINE)
    return owner.returncode


# -- what is made ---------------------------------------------------------------------------------


@pytest.fixture
def no_umask():
    """No help from the umask: what is private is so by itself."""
    before = os.umask(0)
    yield
    os.umask(before)


def test_only_its_owner_may_see_it(no_umask, make, place):
    make()
    directories = [path for path in place.rglob("*") if path.is_dir()]
    assert len(directories) == 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in directories} == {0o700}
    assert stat.S_IMODE(next(place.rglob("owner")).stat().st_mode) == 0o600


def test_only_its_owner_may_see_each_file(no_umask, make, place):
    make()
    files = [path for path in place.rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_it_says_what_workers_have_to_know_of_the_host(make):
    assert Path(make().path, "host").read_text() == HOST


def test_the_folders_of_one_process_lie_side_by_side(make, place):
    first, second = make(), make()
    assert first.path != second.path
    assert os.path.dirname(first.path) == os.path.dirname(second.path)
    (home,) = os.listdir(place)
    assert home.startswith(f"poolwarden-{os.getuid()}-")


def test_closing_removes_a_folder_and_the_last_one_removes_all(make, place):
    first, second = make(), make()
    Path(first.path, "payload").write_bytes(bytes(1000))
    first.close()
    first.close()
    assert not os.path.exists(first.path)
    assert os.path.exists(second.path)
    second.close()
    assert os.listdir(place) == []
    assert os.path.isdir(make().path)


def test_memory_backed_places_lead(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    assert folder_module.places() == ["/dev/shm", str(tmp_path), "/tmp"]
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
    assert folder_module.places() == ["/dev/shm", "/tmp"]
    monkeypatch.setattr(tempfile, "tempdir", "/dev/shm")
    assert folder_module.places() == ["/dev/shm"]


# -- places that cannot be used -------------------------------------------------------------------


def test_no_usable_place_is_a_clear_error_that_names_each(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    places = [str(tmp_path / "file"), str(tmp_path / "gone")]
    monkeypatch.setattr(folder_module, "places", lambda: places)
    with pytest.raises(ConfigurationError) as caught:
        PoolFolder(HOST)
    text = str(caught.value)
    assert f"{places[0]}: Not a directory" in text
    assert f"{places[1]}: No such file or directory" in text
    assert "TMPDIR" in text


def test_no_place_at_all_is_a_clear_error(monkeypatch):
    monkeypatch.setattr(folder_module, "places", list)
    with pytest.raises(ConfigurationError, match="no temporary directory"):
        PoolFolder(HOST)


@pytest.mark.parametrize("pages", [4, 32, 66])
def test_a_place_with_too_little_room_is_passed_over(small_place, place, monkeypatch, pages):
    small = small_place(pages)
    monkeypatch.setattr(folder_module, "places", lambda: [small, str(place)])
    folder = PoolFolder(HOST)
    try:
        assert folder.path.startswith(str(place))
        assert os.listdir(small) == [] or folder.path not in os.listdir(small)
    finally:
        folder.close()
    assert os.listdir(small) == []
    assert os.listdir(place) == []


@pytest.fixture
def no_home():
    """Removes what a test that fails has left."""
    yield
    folder_module._remove_homes()


@pytest.mark.parametrize("pages", [4, 32, 66])
def test_the_only_place_with_too_little_room_is_a_clear_error(small_place, monkeypatch, no_home, pages):
    small = small_place(pages)
    monkeypatch.setattr(folder_module, "places", lambda: [small])
    with pytest.raises(ConfigurationError, match="No space left on device"):
        PoolFolder(HOST)


def test_nothing_is_left_in_a_place_that_had_too_little_room(small_place, place, monkeypatch, no_home):
    small = small_place(66)
    monkeypatch.setattr(folder_module, "places", lambda: [small])
    with pytest.raises(ConfigurationError):
        PoolFolder(HOST)
    assert os.listdir(small) == []
    monkeypatch.setattr(folder_module, "places", lambda: [str(place)])
    folder = PoolFolder(HOST)
    assert folder.path.startswith(str(place))
    folder.close()


def test_a_place_that_was_filled_since_is_passed_over(small_place, place, monkeypatch):
    small = small_place(256)
    monkeypatch.setattr(folder_module, "places", lambda: [small, str(place)])
    first = PoolFolder(HOST)
    assert first.path.startswith(small)
    fill(small)
    second = PoolFolder(HOST)
    try:
        assert second.path.startswith(str(place))
    finally:
        first.close()
        second.close()
    assert os.listdir(small) == ["filling"]


def test_a_read_only_place_is_passed_over(small_place, place, monkeypatch):
    small = small_place(256)
    subprocess.run(["mount", "-o", "remount,ro", small], check=True, timeout=DEADLINE)
    monkeypatch.setattr(folder_module, "places", lambda: [small, str(place)])
    folder = PoolFolder(HOST)
    assert folder.path.startswith(str(place))
    folder.close()
    monkeypatch.setattr(folder_module, "places", lambda: [small])
    with pytest.raises(ConfigurationError, match="Read-only file system"):
        PoolFolder(HOST)


def test_a_second_place_on_another_file_system_is_the_spare_one(small_place, place, monkeypatch):
    small = small_place(256)
    monkeypatch.setattr(folder_module, "places", lambda: [small, str(place)])
    folder = PoolFolder(HOST)
    spare = os.readlink(f"{folder.path}/spill")
    assert folder.path.startswith(small)
    assert spare.startswith(str(place))
    assert os.path.isdir(spare)
    assert stat.S_IMODE(os.stat(spare).st_mode) == 0o700
    folder.close()
    assert os.listdir(small) == []
    assert os.listdir(place) == []


def test_a_second_place_on_the_same_file_system_is_of_no_use(tmp_path, place, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.setattr(folder_module, "places", lambda: [str(place), str(tmp_path / "other")])
    folder = PoolFolder(HOST)
    assert not os.path.lexists(f"{folder.path}/spill")
    assert os.listdir(tmp_path / "other") == []
    folder.close()


# -- the end of the owner -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "status"), [("", 0), ("sys.exit(3)", 3), ("raise ValueError", 1), ("made.close()", 0)]
)
def test_it_is_removed_at_exit(place, end, status):
    owner, path = start_owner(place, end)
    assert os.path.isdir(path)
    assert end_owner(owner) == status
    assert os.listdir(place) == []


def test_what_a_killed_owner_left_is_swept_by_the_next_and_only_then(place, make):
    owner, path = start_owner(place, "")
    Path(path, "payload").write_bytes(bytes(100_000))
    owner.kill()
    owner.communicate(timeout=DEADLINE)
    assert os.path.isdir(path)
    mine = make()
    assert not os.path.exists(os.path.dirname(path))
    assert os.path.isdir(mine.path)


def test_it_is_not_swept_while_its_owner_lives(place, make):
    owner, path = start_owner(place, "")
    make()
    assert os.path.isdir(path)
    assert end_owner(owner) == 0
    assert not os.path.exists(path)


def test_it_is_not_swept_while_a_stopped_owner_lives(place, make):
    owner, path = start_owner(place, "")
    owner.send_signal(signal.SIGSTOP)
    make()
    assert os.path.isdir(path)
    owner.kill()
    owner.communicate(timeout=DEADLINE)


def test_a_killed_owner_whose_workers_live_on_is_gone_all_the_same(place, make):
    """The lock is the owner's alone: workers do not inherit it."""
    fork = "if not os.fork(): print(os.getpid(), flush=True)\ntime.sleep(60)"
    owner, path = start_owner(place, fork)
    owner.stdin.write("\n")
    owner.stdin.flush()
    worker = int(owner.stdout.readline())
    owner.kill()
    owner.wait(DEADLINE)
    owner.stdin.close()
    owner.stdout.close()
    try:
        make()
        assert not os.path.exists(path)
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_forked_process_has_folders_of_its_own_and_leaves_the_others(make, place):
    mine = make()

    def look():
        mine.close()  # as a pool object that came along
        theirs = PoolFolder(HOST)
        assert os.path.dirname(theirs.path) != os.path.dirname(mine.path)
        assert os.path.isdir(mine.path)

    assert exit_code_of(look) == 0
    assert os.listdir(place) == [os.path.basename(os.path.dirname(mine.path))]
    assert os.path.isdir(mine.path)


def test_a_process_forked_before_any_folder_removes_its_own(place):
    assert exit_code_of(PoolFolder, HOST) == 0
    assert os.listdir(place) == []


# -- what is not ours -----------------------------------------------------------------------------


def prefix(uid=None):
    return f"poolwarden-{os.getuid() if uid is None else uid}-"


def plant(path, owner_file=True):
    """Make what looks like the folder of a process that is gone."""
    path.mkdir()
    if owner_file:
        (path / "owner").write_bytes(b"")
    return path


def test_what_looks_abandoned_is_swept(place, make):
    """The check of the checks below: of their folders, this is the one that goes."""
    left = plant(place / f"{prefix()}abandoned")
    make()
    assert not left.exists()


def test_a_folder_without_the_file_of_an_owner_is_left_alone(place, make):
    left = plant(place / f"{prefix()}strange", owner_file=False)
    make()
    assert left.exists()


def test_folders_of_another_name_are_left_alone(place, make):
    kept = [plant(place / name) for name in ("poolwarden", "poolwarden-x", prefix(12345) + "a", "other")]
    make()
    assert all(path.exists() for path in kept)


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to make a folder that is somebody else's")
def test_the_folder_of_another_user_is_left_alone_whatever_its_name(place, make):
    theirs = plant(place / f"{prefix()}theirs")
    os.chown(theirs, 12345, 12345)
    make()
    assert (theirs / "owner").exists()


def test_links_are_left_alone_and_so_is_what_they_point_to(place, tmp_path, make):
    target = plant(tmp_path / "target")
    (place / f"{prefix()}link").symlink_to(target)
    linked = plant(place / f"{prefix()}owner-is-a-link", owner_file=False)
    (linked / "owner").symlink_to(target / "owner")
    make()
    assert (target / "owner").exists()
    assert (place / f"{prefix()}link").is_symlink()
    assert (linked / "owner").is_symlink()


@pytest.mark.parametrize(("age", "stays"), [(0, True), (50, True), (70, False)])
def test_an_unfinished_folder_is_left_alone_until_it_is_certainly_abandoned(place, make, age, stays):
    unfinished = plant(place / f"{prefix()}abc.new")
    past = time.time() - age
    os.utime(unfinished, (past, past))
    make()
    assert unfinished.exists() is stays


def test_a_file_with_such_a_name_is_left_alone(place, make):
    (place / f"{prefix()}file").write_text("")
    make()
    assert (place / f"{prefix()}file").exists()


def test_one_that_cannot_be_swept_does_not_keep_the_others(place, make):
    kept = plant(place / f"{prefix()}aaa", owner_file=False)
    gone = [plant(place / f"{prefix()}{name}") for name in ("bbb", "ccc")]
    make()
    assert kept.exists()
    assert not any(path.exists() for path in gone)


def test_a_pool_may_be_collected_while_another_one_begins(make, monkeypatch):
    """A collection comes at any moment, and ends pools in the thread that it meets."""
    real, collected = folder_module.reserve, make()

    def collect(fd):
        collected.close()
        real(fd)

    monkeypatch.setattr(folder_module, "reserve", collect)
    made = within(DEADLINE, make)
    assert not os.path.exists(collected.path)
    assert os.path.isdir(made.path)
