"""Workers whose parent is killed: the kernel ends them, whatever they are doing."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import signal
import sys
import time

import pytest

from poolwarden.testing import block_in_c, hang, hold_gil
from poolwarden.worker import orphan
from poolwarden.worker.orphan import die_with_parent, lifeline
from tests.contract.waiting import DEADLINE, all_gone, eventually, lines_of, state_of
from tests.worker.processes import FORK, answer_of, running, wait_for_ever

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")


def tell(path, words):
    """Append a line to a file, whole or not at all; the test reads it."""
    with open(path, "ab", buffering=0) as file:
        file.write(f"{words}\n".encode())


def pids_in(path, count):
    """Return the process ids that were told, when there are so many of them."""

    def all_told():
        lines = lines_of(path)
        return len(lines) == count and [int(line) for line in lines]

    return eventually(all_told, f"{count} processes")


def armed_worker(path, busy):
    die_with_parent()
    tell(path, os.getpid())
    busy()


def parent_of_two(method, path, busy):
    """Have two workers; the second, under fork, holds the writing end of the first one's pipe."""
    context = multiprocessing.get_context(method)
    for _ in range(2):
        context.Process(target=armed_worker, args=(path, busy)).start()
    wait_for_ever()


def lined_worker(path, line, busy):
    die_with_parent(line)
    tell(path, os.getpid())
    busy()


def parent_with_lifeline(path, busy):
    """Hand the same pipe to two workers, as for a start method that gives them none."""
    context = multiprocessing.get_context("spawn")
    for _ in range(2):
        context.Process(target=lined_worker, args=(path, lifeline(), busy)).start()
    wait_for_ever()


def worker_without_sentinel(path):
    multiprocessing.parent_process()._sentinel = None
    armed_worker(path, wait_for_ever)


def parent_without_sentinel(path):
    FORK.Process(target=worker_without_sentinel, args=(path,)).start()
    wait_for_ever()


@pytest.mark.parametrize("busy", [hang(), block_in_c(), hold_gil()], ids=["sleeping", "in C", "GIL held"])
def test_workers_end_with_their_parent(tmp_path, busy):
    path = str(tmp_path / "pids")
    with running(parent_of_two, "fork", path, busy) as parent:
        pids = pids_in(path, 2)
        parent.kill()
        parent.join(DEADLINE)
        all_gone(pids)


def test_spawned_workers_end_with_their_parent(tmp_path):
    path = str(tmp_path / "pids")
    with running(parent_of_two, "spawn", path, hang()) as parent:
        pids = pids_in(path, 2)
        parent.kill()
        parent.join(DEADLINE)
        all_gone(pids)


@pytest.mark.parametrize("busy", [hang(), hold_gil()], ids=["sleeping", "GIL held"])
def test_workers_on_a_lifeline_end_with_their_parent(tmp_path, busy):
    path = str(tmp_path / "pids")
    with running(parent_with_lifeline, path, busy) as parent:
        pids = pids_in(path, 2)
        parent.kill()
        parent.join(DEADLINE)
        all_gone(pids)


def test_there_is_one_lifeline_and_a_forked_process_does_not_hold_its_end():
    def look():
        line = lifeline()
        assert lifeline() is line
        pipe = os.fstat(line.fileno()).st_ino
        return pipe in open_for_writing(), pipe in answer_of(open_for_writing)

    assert answer_of(look) == (True, False)


def open_for_writing():
    """Return the inodes of all that this process may write to."""
    inodes = set()
    for fd in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # the listing's own
            if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY:
                inodes.add(os.fstat(fd).st_ino)
    return inodes


def test_without_any_pipe_a_thread_waits_for_the_parent(tmp_path):
    path = str(tmp_path / "pids")
    with running(parent_without_sentinel, path) as parent:
        pids = pids_in(path, 1)
        parent.kill()
        parent.join(DEADLINE)
        all_gone(pids)


def test_a_worker_that_arms_after_its_parent_has_gone_ends_at_once(tmp_path):
    path = str(tmp_path / "pids")

    def worker():
        tell(path, os.getpid())
        parent = multiprocessing.parent_process()
        parent.join(DEADLINE)
        die_with_parent()
        tell(path, "lives")
        wait_for_ever()

    def parent():
        FORK.Process(target=worker).start()
        wait_for_ever()

    with running(parent) as process:
        pids = pids_in(path, 1)
        process.kill()
        process.join(DEADLINE)
        all_gone(pids)
    assert "lives" not in lines_of(path)


def test_a_worker_is_left_alone_while_its_parent_lives():
    """Whatever its own children do."""

    def worker():
        die_with_parent()
        die_with_parent()
        with running(int) as other:
            other.join(DEADLINE)
        return "lives"

    assert answer_of(worker) == "lives"


def test_a_process_without_a_parent_is_not_armed():
    """As the test's own: it was not started by multiprocessing."""
    assert multiprocessing.parent_process() is None
    die_with_parent()
    assert orphan._armed is False


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_workers_of_a_pool_inside_a_worker_end_with_it(tmp_path, method):
    path = str(tmp_path / "pids")

    def worker():
        die_with_parent()
        pool = multiprocessing.get_context(method).Pool(2)
        pool.map(abs, range(100), 1)  # both have begun
        for pid in {process.pid for process in pool._pool}:
            tell(path, pid)
        pool.map(time.sleep, [DEADLINE] * 2, 1)

    with running(worker) as process:
        pids = pids_in(path, 2)
        eventually(lambda: all(state_of(pid) == "S" for pid in pids), "the nested workers asleep")
        process.kill()
        process.join(DEADLINE)
        all_gone(pids)


def test_a_process_that_a_task_starts_for_itself_is_left_alone(tmp_path):
    path = str(tmp_path / "pids")

    def worker():
        die_with_parent()
        FORK.Process(target=wait_for_ever).start()
        tell(path, multiprocessing.active_children()[0].pid)
        wait_for_ever()

    with running(worker) as process:
        (other,) = pids_in(path, 1)
        process.kill()
        all_gone([process.pid])  # not join(): the other holds the sentinel open
        try:
            # It would end because its parent has: so give that a moment to happen.
            assert not ends_within(0.2, other)
        finally:
            os.kill(other, signal.SIGKILL)
            all_gone([other])


def ends_within(seconds, pid):
    try:
        eventually(lambda: state_of(pid) in (None, "Z"), "the end", seconds)
    except AssertionError:
        return False
    return True


def test_without_the_kernels_help_a_thread_does_it(tmp_path, monkeypatch):
    monkeypatch.setattr(orphan, "fcntl", None)
    path = str(tmp_path / "pids")
    with running(parent_of_two, "fork", path, hang()) as parent:
        pids = pids_in(path, 2)
        parent.kill()
        parent.join(DEADLINE)
        all_gone(pids)
