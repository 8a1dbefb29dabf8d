"""The workers during a repair: who is stopped, and when a lock counts as a dead one's.

Real processes, with records that the test writes while a look goes on.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from poolwarden.core import world as world_module
from poolwarden.core.world import RestlessError, World
from poolwarden.worker import results
from poolwarden.worker.ledger import DONE, READY, RUNNING, STARTING, TELLING
from tests.contract.waiting import DEADLINE, eventually, state_of
from tests.core.recorded import workers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="takes /proc and pidfds")


class Lock:
    """A lock that is taken or free; runs something at each look."""

    def __init__(self, taken: bool, at_look: Any = lambda: None) -> None:
        self.taken = taken
        self.released = 0
        self.looks = 0
        self._at_look = at_look
        self._semlock = self

    def acquire(self, block: bool, timeout: float) -> bool:
        if self.taken:
            return False
        self.taken = True
        return True

    def _is_zero(self) -> bool:
        self.looks += 1
        taken = self.taken
        self._at_look()
        return taken

    def release(self) -> None:
        self.released += 1
        self.taken = False


class Released:
    """A real lock that tells of its release by us."""

    def __init__(self, lock: Any, at_release: Any) -> None:
        self._lock = lock
        self._at_release = at_release
        self._semlock = lock._semlock
        self.acquire = lock.acquire

    def release(self) -> None:
        self._at_release()
        self._lock.release()


@pytest.fixture
def start():
    with workers() as start:
        yield start


@pytest.fixture
def world_of():
    made = []

    def make(*ones, may_keep=lambda worker: False):
        made.append(World(ones, set(), 0, may_keep))
        return made[-1]

    yield make
    for each in made:
        each.thaw()


@pytest.mark.parametrize("phase", [RUNNING, STARTING])
def test_who_is_in_user_code_is_not_stopped(start, world_of, phase):
    worker = start(PHASE=phase, TICKET=1)
    world = world_of(worker)
    world.stop()
    assert world.kept == [worker]
    assert state_of(worker.pid) != "T"


def test_who_is_not_and_not_harmless_is_killed(start, world_of):
    worker = start(PHASE=DONE)
    world = world_of(worker)
    world.stop()
    assert world.kept == []
    assert worker.has_ended(DEADLINE)
    assert worker.killed is not None
    assert worker.killed.reason == "repair"


@pytest.mark.parametrize("told", [False, True])
def test_one_without_a_record_may_be_anywhere_whatever_it_has_told(start, world_of, told):
    worker = start()
    worker.place = None
    if told:
        worker.tell(RUNNING, 1)
    world = world_of(worker)
    world.stop()
    assert world.kept == []


def test_who_has_died_by_itself_is_not_said_to_be_killed(start, world_of):
    worker = start(PHASE=DONE)
    worker.send(signal.SIGKILL)
    assert worker.has_ended(DEADLINE)
    world_of(worker).stop()
    assert worker.killed is None


def test_a_lock_that_the_dead_hold_is_freed_beside_a_running_task(start, world_of):
    lock = Lock(taken=True)
    world = world_of(start(PHASE=RUNNING, TICKET=1))
    world.stop()
    world.free(lock)
    assert not lock.taken


def test_a_lock_that_is_free_stays_so(world_of):
    lock = Lock(taken=False)
    world_of().free(lock)
    assert (lock.taken, lock.looks) == (False, 0)


def test_where_there_is_no_lock_there_is_nothing_to_do(world_of):
    world_of().free(None)
    assert world_of().take(None, 0)


def test_a_worker_that_ends_its_task_during_the_look_may_hold_the_lock(start, world_of):
    """Freed under its hand, it would share the pipe with another; it is stopped, and killed, first."""
    worker = start(PHASE=RUNNING, TICKET=1)
    seen: list[bool] = []

    def go_on() -> None:
        seen.append(worker.has_ended())
        if len(seen) == 1:
            worker.set_cells(PHASE=DONE)

    lock = Lock(taken=True, at_look=go_on)
    world = world_of(worker)
    world.stop()
    world.free(lock)
    assert seen == [False, True]
    assert world.kept == []


def _take_and_hang_in_the_kernel(lock, taken, go_on, fifo):
    """Take the lock when told to, and wait in the kernel where no signal reaches (state D)."""
    go_on.wait()
    lock.acquire()
    taken.set()
    # vfork's parent waits for its child to become another program; that one waits at the FIFO.
    at_fifo = (os.POSIX_SPAWN_OPEN, 9, fifo, os.O_RDONLY, 0)
    os.posix_spawn("/bin/true", ["true"], {}, file_actions=[at_fifo])


def test_who_waits_in_the_kernel_with_a_lock_since_the_others_were_stopped_keeps_it(
    start, world_of, tmp_path
):
    """It ended its task, took the lock, and waits for the pipe's mutex: nobody has stopped it.

    State D was taken for "stopped", so the lock was released under its hand.
    """
    context = multiprocessing.get_context("fork")
    lock, taken, go_on = context.Lock(), context.Event(), context.Event()
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    worker = start(partial(_take_and_hang_in_the_kernel, lock, taken, go_on, fifo), PHASE=RUNNING, TICKET=1)
    world = world_of(worker)
    world.stop()
    worker.set_cells(PHASE=DONE)
    go_on.set()
    assert taken.wait(DEADLINE)
    eventually(lambda: state_of(worker.pid) == "D", "the wait in the kernel")
    released_while_held = []
    real = Released(lock, lambda: released_while_held.append(not worker.has_ended()))
    try:
        world.free(real)
        assert released_while_held == [False]
        assert worker.has_ended(DEADLINE)
    finally:
        os.close(os.open(fifo, os.O_RDWR | os.O_NONBLOCK))


def test_one_that_begins_another_task_during_the_look_is_looked_at_again(start, world_of):
    worker = start(PHASE=RUNNING, TICKET=1, STARTED=1)
    looks = iter((2, 3))
    lock = Lock(True, lambda: worker.set_cells(STARTED=next(looks, 3)))
    world = world_of(worker)
    assert world.take(lock, 0)
    assert lock.looks == 3
    assert world.kept == [worker]


def test_one_that_has_sent_a_note_during_the_look_is_looked_at_again(start, world_of, monkeypatch):
    """The lock was seen to be taken: by a living one, which has given it back since."""
    worker = start(PHASE=RUNNING, TICKET=1, STARTED=1)
    host = SimpleNamespace(_args=(None, SimpleNamespace(put=lambda message: None)))
    monkeypatch.setattr(results, "own_process", lambda: host)
    pipe = results.ResultPipe("pool", worker.place.record.cells)

    def note_is_sent() -> None:
        if lock.taken:
            pipe.tell(results.PIECE, 1, b"")
            lock.taken = False

    lock = Lock(True, note_is_sent)
    world_of(worker).free(lock)
    assert (lock.looks, lock.released) == (2, 0)


def test_one_that_is_sending_a_note_may_hold_the_lock(start, world_of, monkeypatch):
    """Also one whose last note was cut short: by what a signal handler raised, say."""
    worker = start(PHASE=RUNNING, TICKET=1, STARTED=1)
    seen = []
    host = SimpleNamespace(_args=(None, SimpleNamespace(put=lambda _: seen.append(worker.may_hold_lock()))))
    monkeypatch.setattr(results, "own_process", lambda: host)
    pipe = results.ResultPipe("pool", worker.place.record.cells)
    for kind in ("cut short", results.PIECE):
        worker.set_cells(TELLING=worker.place.record.cells[TELLING] | (kind == "cut short"))
        pipe.tell(results.PIECE, 1, b"")
        seen.append(worker.may_hold_lock())
    assert seen == [True, False, True, False]


def test_one_that_is_woken_during_the_look_is_stopped_again(start, world_of):
    worker = start(older=True)
    wakings = iter((True, True))

    def wake() -> None:
        if next(wakings, False):
            worker.send(signal.SIGCONT)

    lock = Lock(True, wake)
    world = world_of(worker, may_keep=lambda worker: True)
    world.stop()
    world.free(lock)
    assert lock.looks == 3
    assert state_of(worker.pid) == "T"
    world.thaw()
    assert state_of(worker.pid) != "T"


def test_one_that_is_woken_all_the_time_is_killed(start, world_of):
    worker = start(older=True)
    lock = Lock(True, lambda: worker.send(signal.SIGCONT))
    world = world_of(worker, may_keep=lambda worker: True)
    world.stop()
    world.free(lock)
    assert worker.has_ended(DEADLINE)
    assert not lock.taken


def test_when_nobody_keeps_still_it_gives_up(start, world_of, monkeypatch):
    monkeypatch.setattr(world_module, "STILL_BOUND", 0.1)
    worker = start(PHASE=RUNNING, STARTED=1)
    times = iter(range(2, 1 << 30))
    lock = Lock(True, lambda: worker.set_cells(STARTED=next(times)))
    with pytest.raises(RestlessError):
        world_of(worker).free(lock)
    assert lock.released == 0


@pytest.mark.parametrize("phase", [READY, DONE])
def test_a_real_lock_is_taken_over(start, world_of, phase):
    lock = multiprocessing.get_context("fork").Lock()
    lock.acquire()
    world = world_of(start(PHASE=phase))
    world.stop()
    assert world.take(lock, 0)
    assert not lock.acquire(True, 0)
    lock.release()
