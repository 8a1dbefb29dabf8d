"""`multiprocessing.Process`: a guarded `join` says how the process ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from typing import Any

import pytest

from poolwarden import TaskTimeoutError, WorkerLostError, guard
from poolwarden.system.watchdog import Watchdog
from poolwarden.testing import Fault, abort, deaf, die, fail, hang, hold_gil, kill_self, segfault
from tests.contract.base import Notes
from tests.contract.tasks import Both, HeldUntil, Noted, no_dump, square
from tests.contract.waiting import DEADLINE, all_gone, eventually, is_gone, within

METHODS = [m for m in ("fork", "spawn", "forkserver") if m in multiprocessing.get_all_start_methods()]


@pytest.fixture(params=METHODS)
def start(request: pytest.FixtureRequest) -> Any:
    """Return ``start(target, *args, **policy)``: a started, guarded process."""
    started = []

    def start(target: Any, *args: Any, **policy: Any) -> Any:
        process = multiprocessing.get_context(request.param).Process(target=target, args=args)
        assert guard(process, **policy) is process
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        multiprocessing.process.BaseProcess.join(process, DEADLINE)
        process.close()


@pytest.fixture
def notes(tmp_path: Any) -> Notes:
    return Notes(tmp_path / "notes")


def test_plain_success_returns(start: Any, notes: Notes) -> None:
    process = start(Noted(notes.path, square), 3)

    assert within(DEADLINE, process.join) is None
    assert process.exitcode == 0
    assert notes.items() == {"3": 1}


@pytest.mark.parametrize(
    ("fault", "exitcode", "signal_name", "cause"),
    [
        (die(3), 3, None, "exit"),
        (fail(SystemExit(4)), 4, None, "exit"),
        (fail(ValueError("x")), 1, None, "exit"),
        (kill_self(), -signal.SIGKILL, "SIGKILL", "signal"),
        (kill_self(signal.SIGTERM), -signal.SIGTERM, "SIGTERM", "signal"),
        (segfault(), -signal.SIGSEGV, "SIGSEGV", "signal"),
        (abort(), -signal.SIGABRT, "SIGABRT", "signal"),
    ],
    ids=repr,
)
def test_join_raises_how_it_ended(
    start: Any, fault: Fault, exitcode: int, signal_name: str | None, cause: str
) -> None:
    process = start(Both(no_dump, fault))

    with pytest.raises(WorkerLostError) as caught:
        within(DEADLINE, process.join)

    ended = caught.value.exit
    assert (ended.exitcode, ended.signal, ended.cause) == (exitcode, signal_name, cause)
    assert ended.pid == process.pid
    assert process.exitcode == exitcode


def test_every_join_raises(start: Any) -> None:
    process = start(die(3))

    for _ in range(2):
        with pytest.raises(WorkerLostError):
            within(DEADLINE, process.join)


def test_a_join_that_ends_too_early_returns_as_it_does_unguarded(
    start: Any, notes: Notes, tmp_path: Any
) -> None:
    process = start(Noted(notes.path, HeldUntil(tmp_path / "go")), 1)
    notes.pids()

    assert process.join(0.05) is None
    assert process.is_alive()

    (tmp_path / "go").touch()
    within(DEADLINE, process.join)


@pytest.mark.parametrize("fault", [hang(), hold_gil(), deaf(hang())], ids=repr)
def test_one_that_outruns_its_timeout_is_killed(start: Any, notes: Notes, fault: Fault) -> None:
    process = start(Noted(notes.path, fault), timeout=1.0)

    with pytest.raises(TaskTimeoutError) as caught:
        within(DEADLINE, process.join)

    assert caught.value.exit.cause == "killed_by_guard"
    assert caught.value.exit.pid == process.pid
    assert is_gone(process.pid)


def test_it_is_killed_although_nobody_joins(start: Any, notes: Notes) -> None:
    process = start(Noted(notes.path, hang()), timeout=1.0)

    all_gone(notes.pids(), DEADLINE)
    with pytest.raises(TaskTimeoutError):
        within(DEADLINE, process.join)


def test_one_that_is_done_in_time_is_left_alone(start: Any) -> None:
    process = start(time.sleep, 0.2, timeout=30)

    assert within(DEADLINE, process.join) is None


@pytest.mark.parametrize("late", [False, True])
def test_no_thread_waits_for_the_time_of_one_that_has_ended(
    start: Any, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """Each fork waited a tenth of a second for that thread to end, until the time was over."""
    schedule = Watchdog.schedule

    def slowly(watchdog: Watchdog, owner: Any, when: float) -> None:
        eventually(lambda: owner._handle.has_ended(), "the end of the process")
        eventually(lambda: watchdog._thread is None, "nothing that is watched any more")
        schedule(watchdog, owner, when)

    if late:
        monkeypatch.setattr(Watchdog, "schedule", slowly)
    process = start(square, 3, timeout=1000)

    def names() -> set[str]:
        return {thread.name for thread in threading.enumerate()}

    eventually(lambda: "poolwarden-watchdog" not in names(), "no thread")
    within(DEADLINE, process.join)


def test_one_that_is_running_already_can_be_guarded(tmp_path: Any, notes: Notes) -> None:
    process = multiprocessing.get_context(METHODS[0]).Process(
        target=Noted(notes.path, HeldUntil(tmp_path / "never"))
    )
    process.start()
    (pid,) = notes.pids()
    guard(process)

    os.kill(pid, signal.SIGKILL)

    with pytest.raises(WorkerLostError) as caught:
        within(DEADLINE, process.join)
    assert caught.value.exit.signal == "SIGKILL"


def test_terminate_by_the_user_is_told_as_what_it_is(start: Any, notes: Notes, tmp_path: Any) -> None:
    process = start(Noted(notes.path, HeldUntil(tmp_path / "never")))
    notes.pids()
    process.terminate()

    with pytest.raises(WorkerLostError) as caught:
        within(DEADLINE, process.join)

    assert caught.value.exit.signal == "SIGTERM"
