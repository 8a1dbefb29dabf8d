"""The watchdog: real ends of processes, points in time, and how little it does otherwise."""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
import time
import weakref

import pytest

from poolwarden.system import watchdog as watchdog_module
from poolwarden.system.watchdog import watchdog
from tests.contract.waiting import DEADLINE, ENDING, eventually, within
from tests.worker.processes import FORK, answer_of, running, wait_for_ever

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="takes pidfds")

#: Seconds in which nothing is to happen. Longer finds no more: what is wrong happens at once.
QUIET = 0.15

#: How often an owner that raises is called.
TRIES = len(watchdog_module.PAUSES)


class Owner:
    """Remembers what it was told, and does what it was given to do then."""

    def __init__(self, act=None):
        self.told = []
        self.act = act
        self.called = threading.Semaphore(0)

    def on_exits(self, tokens):
        self._note("exits", sorted(tokens))

    def on_deadline(self):
        self._note("deadline", None)

    def on_failure(self, error):
        self._note("failure", error)

    def _note(self, what, about):
        self.told.append((what, about))
        self.called.release()
        if self.act is not None:
            self.act(self, what)

    def wait(self, calls=1):
        for _ in range(calls):
            assert self.called.acquire(timeout=DEADLINE), f"told only {self.told}"
        return self.told


@pytest.fixture
def make_owner():
    owners = []

    def make(act=None):
        owners.append(Owner(act))
        return owners[-1]

    yield make
    for owner in owners:
        watchdog().forget(owner)


@pytest.fixture
def owner(make_owner):
    return make_owner()


@pytest.fixture
def watched():
    """Starts processes and gives their pidfds; ends both."""
    stack = []

    def start(target=wait_for_ever):
        context = running(target)
        process = context.__enter__()
        fd = os.pidfd_open(process.pid)
        stack.append((context, fd))
        return process, fd

    yield start
    for context, fd in stack:
        watchdog().unwatch(fd)
        context.__exit__(None, None, None)
        os.close(fd)


def wait_until_quiet():
    """Return when the watchdog's thread sleeps, or has ended, having handled everything so far."""
    owner = Owner()
    watchdog().schedule(owner, time.monotonic())
    owner.wait()
    eventually(is_asleep, "the watchdog asleep")


def thread_status(name):
    with open(f"/proc/self/task/{watchdog()._thread.native_id}/status") as file:
        return next(line.split()[1] for line in file if line.startswith(name))


def is_asleep():
    if watchdog()._thread is None:
        return True
    try:
        return thread_status("State:") == "S" and not watchdog()._wakeup.is_pending
    except (FileNotFoundError, AttributeError):  # it is ending right now
        return False


# -- ends of processes ----------------------------------------------------------------------------


def test_the_end_of_a_process_is_told_once(owner, watched):
    process, fd = watched()
    watchdog().watch(fd, owner, "token")
    process.kill()
    assert owner.wait() == [("exits", ["token"])]
    wait_until_quiet()
    assert len(owner.told) == 1


def test_a_process_that_has_ended_already_is_told_as_well(owner, watched):
    process, fd = watched(int)
    process.join(DEADLINE)
    watchdog().watch(fd, owner, "token")
    assert owner.wait() == [("exits", ["token"])]


def test_it_does_not_reap(owner, watched):
    process, fd = watched(lambda: os._exit(7))
    watchdog().watch(fd, owner, "token")
    owner.wait()
    assert os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT).si_status == 7


def test_everybody_is_told_of_their_own(make_owner, watched):
    first, second = make_owner(), make_owner()
    processes = []
    for number in range(6):
        process, fd = watched()
        processes.append(process)
        watchdog().watch(fd, (first, second)[number % 2], number)
    for process in processes[:4]:
        process.kill()
    eventually(lambda: sum(len(tokens) for _, tokens in first.told + second.told) == 4, "four ends")
    assert sorted(token for _, tokens in first.told for token in tokens) == [0, 2]
    assert sorted(token for _, tokens in second.told for token in tokens) == [1, 3]


def test_ends_that_come_together_are_told_together(make_owner, watched):
    """Two workers that die in one moment make one repair."""
    owner = make_owner()
    entered, release = threading.Event(), threading.Event()

    def block(*_):
        entered.set()
        release.wait(DEADLINE)

    blocker = make_owner(block)
    ends = [watched() for _ in range(3)]
    for number, (_, fd) in enumerate(ends):
        watchdog().watch(fd, owner, number)
    watchdog().schedule(blocker, time.monotonic())
    assert entered.wait(DEADLINE)
    for process, _ in ends:
        process.kill()
        process.join(DEADLINE)
    release.set()
    assert owner.wait() == [("exits", [0, 1, 2])]


def test_what_is_no_longer_watched_is_not_told_though_its_number_is_used_again(owner, make_owner, watched):
    process, fd = watched()
    watchdog().watch(fd, owner, "old")
    wait_until_quiet()
    watchdog().unwatch(fd)
    reader, writer = os.pipe()
    try:
        os.dup2(reader, fd)
        os.close(writer)  # the number is readable from now on
        process.kill()
        wait_until_quiet()
        assert owner.told == []
        other = make_owner()
        watchdog().watch(fd, other, "new")
        assert other.wait() == [("exits", ["new"])]
        assert owner.told == []
    finally:
        os.close(reader)


def test_a_descriptor_that_is_closed_right_after_unwatching_does_no_harm(owner, watched):
    for _ in range(20):
        reader, writer = os.pipe()
        watchdog().watch(reader, owner, "pipe")
        watchdog().unwatch(reader)
        os.close(reader)
        os.close(writer)
    process, fd = watched()
    watchdog().watch(fd, owner, "process")
    process.kill()
    assert owner.wait() == [("exits", ["process"])]


def test_unwatching_what_is_not_watched_is_no_error():
    watchdog().unwatch(10**6)


def test_watching_from_its_own_thread_counts_at_once(make_owner, watched):
    process, fd = watched()
    owner = make_owner(lambda owner, what: what == "deadline" and watchdog().watch(fd, owner, "token"))
    watchdog().schedule(owner, time.monotonic())
    owner.wait()
    process.kill()
    assert owner.wait() == [("deadline", None), ("exits", ["token"])]


# -- points in time -------------------------------------------------------------------------------


def test_deadlines_come_in_order_of_time(make_owner):
    order = []
    owners = [make_owner(lambda owner, _: order.append(owners.index(owner))) for _ in range(4)]
    now = time.monotonic()
    for number in (2, 0, 3, 1):
        watchdog().schedule(owners[number], now + 0.05 + number * 0.03)
    owners[3].wait()
    assert order == [0, 1, 2, 3]


def test_a_deadline_comes_once_and_never_early(make_owner):
    times = []
    owner = make_owner(lambda *_: times.append(time.monotonic()))
    when = time.monotonic() + 0.05
    watchdog().schedule(owner, when)
    owner.wait()
    wait_until_quiet()
    assert len(times) == 1
    assert times[0] >= when


def test_an_earlier_deadline_wakes_who_sleeps_until_a_later_one(make_owner):
    later, sooner = make_owner(), make_owner()
    watchdog().schedule(later, time.monotonic() + 1000)
    wait_until_quiet()
    watchdog().schedule(sooner, time.monotonic() + 0.01)
    sooner.wait()
    assert later.told == []


def test_of_two_deadlines_of_one_owner_the_earlier_counts(owner):
    now = time.monotonic()
    watchdog().schedule(owner, now + 0.01)
    watchdog().schedule(owner, now + 1000)
    owner.wait()
    wait_until_quiet()
    assert owner not in watchdog()._deadlines
    watchdog().schedule(owner, time.monotonic() + 1000)
    watchdog().schedule(owner, time.monotonic())
    owner.wait()


@pytest.mark.parametrize("seconds", [10**7, 1e300, float("inf")])
def test_a_deadline_beyond_all_bounds_does_no_harm(seconds):
    """As of a timeout that somebody means to be none; poll() takes 24 days at most."""

    def look():
        far, near = Owner(), Owner()
        watchdog().schedule(far, time.monotonic() + seconds)
        near.called.acquire(timeout=QUIET)  # until it sleeps
        watchdog().schedule(near, time.monotonic())
        return near.called.acquire(timeout=1), far.told

    # In a process of its own: it is the thread of all tests that would end.
    assert answer_of(look) == (True, [])


def test_a_deadline_may_set_the_next_one(make_owner):
    def again(owner, _):
        if len(owner.told) < 5:
            watchdog().schedule(owner, time.monotonic())

    owner = make_owner(again)
    watchdog().schedule(owner, time.monotonic())
    owner.wait(5)


def test_who_is_forgotten_is_told_nothing(owner, watched):
    process, fd = watched()
    watchdog().watch(fd, owner, "token")
    watchdog().schedule(owner, time.monotonic() + 0.02)
    watchdog().forget(owner)
    process.kill()
    process.join(DEADLINE)
    threading.Event().wait(0.05)
    wait_until_quiet()
    assert owner.told == []


# -- what it costs --------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("armed", [False, True], ids=["nothing armed", "a far deadline"])
def test_an_idle_watchdog_is_never_woken(owner, watched, armed):
    _, fd = watched()
    watchdog().watch(fd, owner, "token")
    if armed:
        watchdog().schedule(owner, time.monotonic() + 1000)
    wait_until_quiet()
    before = thread_status("voluntary_ctxt_switches:")
    threading.Event().wait(QUIET)
    assert thread_status("voluntary_ctxt_switches:") == before


def test_nobody_waits_for_it_however_much_is_asked_for_while_it_is_busy(make_owner):
    """Each wake-up is a message in a pipe that holds 16 000 of them."""
    entered, release = threading.Event(), threading.Event()

    def block(*_):
        entered.set()
        release.wait(DEADLINE)

    blocker, owner = make_owner(block), make_owner()
    watchdog().schedule(blocker, time.monotonic())
    assert entered.wait(DEADLINE)
    reader, writer = os.pipe()

    def ask():
        for number in range(20_000):
            watchdog().watch(reader, owner, number)
            watchdog().schedule(owner, 10**6 - number)

    try:
        within(DEADLINE, ask)
    finally:
        release.set()
        watchdog().unwatch(reader)
        os.close(reader)
        os.close(writer)


def test_there_is_one_daemon_thread_and_it_knows_itself(make_owner):
    seen = []
    owner = make_owner(
        lambda *_: seen.append((watchdog().is_current_thread(), threading.current_thread().daemon))
    )
    watchdog().schedule(owner, time.monotonic())
    owner.wait()
    eventually(lambda: seen, "the answer")
    assert seen == [(True, True)]
    assert not watchdog().is_current_thread()
    assert watchdog() is watchdog()


def test_the_thread_is_there_only_while_there_is_something_to_wait_for(owner, watched):
    """A program that forks beside another thread is warned, since 3.12."""

    def threads():
        return [thread for thread in threading.enumerate() if thread.name == "poolwarden-watchdog"]

    for _ in range(2):
        _, fd = watched()
        watchdog().watch(fd, owner, "token")
        assert len(threads()) == 1
        watchdog().unwatch(fd)
        eventually(lambda: not threads(), "no thread")


def test_who_forks_holds_up_nobody_else():
    """A birth may take seconds, and the thread may not be there yet."""

    def look():
        owner = Owner()
        with watchdog().no_thread():
            within(DEADLINE, watchdog().schedule, owner, time.monotonic())
            return owner.called.acquire(timeout=ENDING)

    assert answer_of(look)


def test_a_pool_may_be_collected_while_its_lock_is_held():
    """A collection comes at any moment, and ends pools in the thread that it meets."""

    class Collecting(Owner):
        def __hash__(self):
            # Asked for under the lock.
            watchdog().forget(collected)
            return id(self)

    collected = Owner()

    def look():
        watchdog().schedule(collected, time.monotonic() + 1000)
        owner = Collecting()
        within(ENDING, watchdog().schedule, owner, time.monotonic())
        return owner.wait(), collected.told

    assert answer_of(look) == ([("deadline", None)], [])


def test_two_messages_in_its_pipe_do_not_keep_it_busy():
    """So many are there if it was woken in the middle of being woken."""

    def look():
        owner = Owner()
        watchdog().schedule(owner, time.monotonic() + 1000)
        wait_until_quiet()
        watchdog()._wakeup._writer.send_bytes(b"")
        watchdog()._wakeup._writer.send_bytes(b"")
        wait_until_quiet()
        before = thread_status("voluntary_ctxt_switches:")
        threading.Event().wait(QUIET)
        return thread_status("voluntary_ctxt_switches:") == before

    assert answer_of(look)


# -- owners that misbehave ------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("odd"), SystemExit(), KeyboardInterrupt()], ids=repr)
def test_an_owner_that_raises_each_time_is_told_so_and_the_others_go_on(make_owner, watched, caplog, error):
    def fail(owner, what):
        if what != "failure":
            raise error

    bad, good = make_owner(fail), make_owner()
    process, fd = watched()
    watchdog().watch(fd, bad, "token")
    process.kill()
    assert bad.wait(TRIES + 1) == [("exits", ["token"])] * TRIES + [("failure", error)]
    watchdog().schedule(bad, time.monotonic())
    assert bad.wait(TRIES + 1)[TRIES + 1 :] == [("deadline", None)] * TRIES + [("failure", error)]
    watchdog().schedule(good, time.monotonic())
    assert good.wait() == [("deadline", None)]
    assert "internal error" in caplog.text


@pytest.mark.parametrize("error", [ValueError("odd"), SystemExit(), MemoryError()], ids=repr)
def test_an_owner_that_is_interrupted_once_is_called_again(make_owner, watched, error):
    def fail(owner, what):
        if len(owner.told) == 1:
            raise error

    owner = make_owner(fail)
    process, fd = watched()
    watchdog().watch(fd, owner, "token")
    process.kill()
    assert owner.wait(2) == [("exits", ["token"])] * 2


def test_an_owner_that_cannot_even_be_told_so_does_no_harm(make_owner, caplog):
    def fail(owner, what):
        raise ValueError(what)

    bad, good = make_owner(fail), make_owner()
    watchdog().schedule(bad, time.monotonic())
    bad.wait(TRIES + 1)
    watchdog().schedule(good, time.monotonic())
    good.wait()
    eventually(lambda: "could not hand the pool back" in caplog.text, "the complaint, by a thread of its own")


def test_an_owner_that_raises_spoils_nothing_for_others_that_are_due_at_once(make_owner, caplog):
    caplog.set_level(logging.CRITICAL + 1)
    entered, release = threading.Event(), threading.Event()

    def block(*_):
        entered.set()
        release.wait(DEADLINE)

    def fail(owner, what):
        raise ValueError(what)

    blocker, bad, good = make_owner(block), make_owner(fail), make_owner()
    watchdog().schedule(blocker, time.monotonic())
    assert entered.wait(DEADLINE)
    for owner in (bad, good):
        watchdog().schedule(owner, time.monotonic())
    release.set()
    assert good.wait() == [("deadline", None)]


# -- references, forks ----------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["exits", "deadline", "unwatched", "forgotten"])
def test_it_keeps_no_owner_alive_while_it_sleeps(watched, way):
    gc.disable()
    try:
        owner = Owner()
        gone = weakref.ref(owner)
        process, fd = watched()
        if way == "deadline":
            watchdog().schedule(owner, time.monotonic())
            owner.wait()
        else:
            watchdog().watch(fd, owner, "token")
            watchdog().schedule(owner, time.monotonic() + 1000)
            wait_until_quiet()
            if way == "exits":
                process.kill()
                owner.wait()
            elif way == "unwatched":
                watchdog().unwatch(fd)
            watchdog().forget(owner)
        del owner
        eventually(lambda: gone() is None, "the owner collected")
    finally:
        gc.enable()


def test_a_forked_process_has_a_watchdog_of_its_own(make_owner, watched):
    mine = watchdog()
    theirs = make_owner()
    process, fd = watched()
    mine.watch(fd, theirs, "token")
    mine.schedule(theirs, time.monotonic() + 1000)

    def look():
        assert watchdog_module._instance is None
        owner = Owner()
        child = FORK.Process(target=wait_for_ever)
        child.start()
        pidfd = os.pidfd_open(child.pid)
        watchdog().watch(pidfd, owner, "child")
        watchdog().schedule(owner, time.monotonic())
        owner.wait()
        child.kill()
        told = owner.wait()
        child.join(DEADLINE)
        return told, theirs.told

    told, inherited = answer_of(look)
    assert told == [("deadline", None), ("exits", ["child"])]
    assert inherited == []
    assert watchdog() is mine
    process.kill()
    assert theirs.wait() == [("exits", ["token"])]


def test_a_fork_at_a_bad_moment_does_no_harm():
    """Somebody holds both locks: nobody will ever release them in the child."""
    dog = watchdog()

    def look():
        owner = Owner()
        watchdog().schedule(owner, time.monotonic())
        return owner.wait()

    with dog._lock, watchdog_module._instance_lock:
        assert answer_of(look) == [("deadline", None)]


def test_seeing_it_out_while_it_starts_raises_nothing(owner, monkeypatch):
    """A thread that has not begun cannot be joined; another one may ask in that moment."""
    thread_class, errors = threading.Thread, []
    eventually(lambda: watchdog()._thread is None, "no thread of an earlier test")

    def ask():
        try:
            watchdog().let_end()
        except RuntimeError as error:
            errors.append(error)

    class SlowToStart(thread_class):
        def start(self):
            other = thread_class(target=ask)
            thread_class.start(other)
            other.join(DEADLINE)
            super().start()

    with monkeypatch.context() as patch:
        patch.setattr(threading, "Thread", SlowToStart)
        watchdog().schedule(owner, time.monotonic())
    assert owner.wait() == [("deadline", None)]
    assert errors == []
