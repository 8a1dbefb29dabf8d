"""A short run of `tests.chaos`, and proof that its checks can fail.

The runs are processes of their own, with real kills. The checks are tried on a
pool without processes that makes one mistake at a time.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from poolwarden import WorkerLostError
from poolwarden.records import TaskInfo, WorkerExit
from tests import chaos, chaos_kills, chaos_tasks, chaos_verdict

ROOT = Path(__file__).parent.parent
DEADLINE = 50.0

METHODS = ("apply_async", "apply", *chaos.PoolHost.maps)
Fault = Callable[[Callable[[], Any]], list[Any]]
"""Gets a function that runs the task; returns everything that is answered to it."""


def run_chaos(*arguments: str) -> tuple[int, dict[str, int], str]:
    """Return exit status, figures and all output of one run."""
    command = [sys.executable, "-m", "tests.chaos", *arguments]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT / "src"), *sys.path]))}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=DEADLINE)
    figures = {name: int(number) for name, number in re.findall(r"\b([a-z]+) (\d+)\b", done.stdout)}
    return done.returncode, figures, done.stdout + done.stderr


@pytest.mark.parametrize("losses", ["return", "raise"])
@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_every_task_is_answered_rightly_and_once_under_kills(start: str, losses: str) -> None:
    status, figures, output = run_chaos(
        "--start", start, "--losses", losses, "--tasks", "600", "--kills", "24", "--patience", "20"
    )

    assert status == 0, output
    assert figures["tasks"] == 600, output
    assert figures["hit"] >= 20, output
    assert figures["wrong"] == figures["doubled"] == figures["unanswered"] == figures["left"] == 0, output


def test_a_bare_pool_does_not_pass() -> None:
    status, figures, output = run_chaos("--bare", "--tasks", "600", "--kills", "40", "--patience", "2")

    assert status == 1, output
    assert figures["unanswered"] > 0, output
    assert "NO PROGRESS" in output


class FaultyPool:
    """Does what `Pool` does, in the caller's thread, and one thing wrong.

    Parameters
    ----------
    method : str
        The fault happens in the first call of this method, to one item.
    fault : callable
        See `Fault`.
    """

    def __init__(self, method: str, fault: Fault) -> None:
        self._pool: list[Any] = []
        self._method = method
        self._fault: Fault | None = fault
        self.released = threading.Event()

    def _answers(self, method: str, function: Any, calls: list[Any]) -> list[Any]:
        answers: list[Any] = []
        for call in calls:
            fault = self._fault if method == self._method else None
            if fault:
                self._fault = None
                answers += fault(lambda call=call: function(*call))
            else:
                answers.append(function(*call))
        return answers

    def _value(self, method: str, function: Any, calls: list[Any]) -> list[Any]:
        answers = self._answers(method, function, calls)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers

    def apply_async(self, function: Any, call: Any, *, callback: Any, error_callback: Any) -> None:
        for answer in self._answers("apply_async", function, [call]):
            (error_callback if isinstance(answer, BaseException) else callback)(answer)

    def apply(self, function: Any, call: Any) -> Any:
        for answer in self._value("apply", function, [call]):
            return answer
        self.released.wait(DEADLINE)

    def map(self, function: Any, calls: Any, chunksize: int) -> list[Any]:
        return self._value("map", function, [(call,) for call in calls])

    def starmap(self, function: Any, calls: Any, chunksize: int) -> list[Any]:
        return self._value("starmap", function, calls)

    def map_async(self, function: Any, calls: Any, chunksize: int, done: Any, failed: Any) -> None:
        self._later("map_async", function, [(call,) for call in calls], done, failed)

    def starmap_async(self, function: Any, calls: Any, chunksize: int, done: Any, failed: Any) -> None:
        self._later("starmap_async", function, calls, done, failed)

    def _later(self, method: str, function: Any, calls: list[Any], done: Any, failed: Any) -> None:
        try:
            values = self._value(method, function, calls)
        except RuntimeError as error:
            failed(error)
        else:
            done(values)

    def imap(self, function: Any, calls: Any, chunksize: int) -> Iterator[Any]:
        return Answers(self._answers("imap", function, [(call,) for call in calls]))

    def imap_unordered(self, function: Any, calls: Any, chunksize: int) -> Iterator[Any]:
        return Answers(reversed(self._answers("imap_unordered", function, [(call,) for call in calls])))

    def close(self) -> None:
        pass

    def join(self) -> None:
        pass

    def terminate(self) -> None:
        pass


class Answers:
    """As `IMapIterator`: goes on after an exception, which a generator cannot."""

    def __init__(self, answers: Any) -> None:
        self._answers = iter(answers)

    def __iter__(self) -> Answers:
        return self

    def __next__(self) -> Any:
        answer = next(self._answers)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def judged(tmp_path: Path, method: str, fault: Fault) -> chaos_verdict.Verdict:
    """Return the verdict over a pool with this fault."""
    options = chaos.parse(["--bare", "--tasks", "200", "--kills", "0", "--patience", "0.5"])
    pool = FaultyPool(method, fault)

    class Host(chaos.PoolHost):
        maps = (method,) if "map" in method else chaos.PoolHost.maps

        def open(self) -> Any:
            return pool

    run = chaos.Run(Host(options), options, str(tmp_path))
    try:
        run.go()
        return run.verdict()
    finally:
        pool.released.set()


def tampered(answer: tuple[int, int, bytes]) -> tuple[int, int, bytes]:
    number, checksum, payload = answer
    return number, checksum ^ 1, payload


@pytest.mark.parametrize("method", METHODS)
def test_right_answers_pass(tmp_path: Path, method: str) -> None:
    found = judged(tmp_path, method, lambda run: [run()])

    assert found.ok
    assert found.fates == {"result": 200}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("fault", "count"),
    [
        pytest.param(lambda run: [tampered(run())], "wrong", id="another value"),
        pytest.param(lambda run: [None], "wrong", id="nonsense"),
        pytest.param(lambda run: [run() and RuntimeError("a foreign error")], "wrong", id="foreign error"),
        pytest.param(lambda run: [run() and run()], "doubled", id="ran twice"),
        pytest.param(lambda run: [][: len(run())], "unanswered", id="silent"),
    ],
)
def test_a_mistake_is_seen(tmp_path: Path, method: str, fault: Fault, count: str) -> None:
    found = judged(tmp_path, method, fault)

    assert getattr(found, count) > 0
    assert not found.ok


# `apply`, `map` and `starmap` return, so that they cannot answer twice.
@pytest.mark.parametrize("method", ["apply_async", "map_async", "starmap_async", "imap", "imap_unordered"])
def test_a_second_answer_is_seen(tmp_path: Path, method: str) -> None:
    found = judged(tmp_path, method, lambda run: [run()] * 2)

    assert found.doubled + found.wrong > 0
    assert not found.ok


KILLED = 4711
KILL = chaos_verdict.Kill(KILLED, 9, idle=False, hit=True)
SHAPE = chaos_tasks.Shape(0, 8, 8, 0.0)


def judge(tmp_path: Path, value: Any, kill: chaos_verdict.Kill = KILL, *pids: int) -> chaos_verdict.Verdict:
    """Return the verdict over one task that ran in `pids` and got `value`."""
    log = tmp_path / "ran"
    log.write_bytes(b"".join(chaos_tasks.RECORD.pack(SHAPE.number, pid, chaos_tasks.STARTED) for pid in pids))
    board = chaos_tasks.Tally(WorkerLostError)
    group = chaos_tasks.Group("apply", [SHAPE])
    board.submit(group)
    chaos_tasks.Reply(board, group).one(value)
    return chaos_verdict.judge(board, 1, str(log), [kill])


def lost(pid: int = KILLED, exitcode: int = -9, may_have_run: bool = True) -> WorkerLostError:
    worker = WorkerExit(pid, exitcode, "SIGKILL", "signal", ())
    task = TaskInfo("tests.chaos_tasks.work", None, None, 1)
    return WorkerLostError("lost", task=task, exit=worker, may_have_run=may_have_run)


def test_a_result_of_code_that_never_ran_is_seen(tmp_path: Path) -> None:
    found = judge(tmp_path, SHAPE.answer())

    assert found.wrong == 1


def test_a_true_loss_passes(tmp_path: Path) -> None:
    found = judge(tmp_path, lost(), KILL, KILLED)

    assert found.ok
    assert found.fates == {"loss": 1}
    assert found.hits == {"running": 1}


@pytest.mark.parametrize(
    ("error", "kill", "pids"),
    [
        pytest.param(lost(pid=99), KILL, [99], id="worker that nobody killed"),
        pytest.param(
            lost(), chaos_verdict.Kill(KILLED, 9, idle=True, hit=True), [], id="worker killed while idle"
        ),
        pytest.param(lost(exitcode=-15), KILL, [KILLED], id="another signal"),
        pytest.param(lost(), KILL, [99], id="another worker"),
        pytest.param(lost(may_have_run=False), KILL, [KILLED], id="denies that it ran"),
    ],
)
def test_a_false_claim_of_an_error_is_seen(
    tmp_path: Path, error: WorkerLostError, kill: chaos_verdict.Kill, pids: list[int]
) -> None:
    found = judge(tmp_path, error, kill, *pids)

    assert found.wrong == 1


def test_a_pid_may_come_again(tmp_path: Path) -> None:
    """The kernel gives the ids of processes and threads again, after some 1 200 kills."""
    log = tmp_path / "ran"
    log.write_bytes(
        b"".join(chaos_tasks.RECORD.pack(number, KILLED, chaos_tasks.STARTED) for number in range(2))
    )
    board = chaos_tasks.Tally(WorkerLostError)
    for number, exitcode in enumerate((-15, -9)):
        group = chaos_tasks.Group("apply", [chaos_tasks.Shape(number, 8, 8, 0.0)])
        board.submit(group)
        chaos_tasks.Reply(board, group).failed(lost(exitcode=exitcode))
    struck = (15, False), (9, True), (9, False)
    kills = [chaos_verdict.Kill(KILLED, signal, idle, hit=True) for signal, idle in struck]

    found = chaos_verdict.judge(board, 2, str(log), kills)

    assert found.ok, found.problems
    assert found.hits == {"running": 2, "idle": 1}


def test_a_task_takes_little_memory(tmp_path: Path) -> None:
    board, count = chaos_tasks.Tally(WorkerLostError), 50_000
    tracemalloc.start()
    try:
        for number in range(count):
            group = chaos_tasks.Group("apply", [chaos_tasks.Shape(number, 8, 8, 0.0)])
            board.submit(group)
            chaos_tasks.Reply(board, group).one(group.shapes[0].answer())
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert board.fates() == {"result": count}
    assert taken < 10 * count


def test_a_lost_task_that_ran_twice_is_seen(tmp_path: Path) -> None:
    found = judge(tmp_path, lost(), KILL, 99, KILLED)

    assert found.doubled == 1


def test_an_item_with_the_error_of_another_is_seen() -> None:
    board = chaos_tasks.Tally(WorkerLostError)
    group = chaos_tasks.Group("map", [chaos_tasks.Shape(n, 0, 0, 0.0) for n in range(2)])
    board.submit(group)
    error = lost()
    error.task = TaskInfo("tests.chaos_tasks.work", 1, None, 1)

    chaos_tasks.Reply(board, group).every([error, group.shapes[1].answer()])

    assert [board.fate(0), board.fate(1)] == ["wrong", "result"]


def test_only_own_processes_are_killed() -> None:
    class Foreign:
        pid = os.getppid()

    killer = chaos_kills.Killer(lambda: [Foreign()], random.Random(1), patience=0.1)

    killer.strike(1)

    assert killer.kills == []


def test_the_plan_depends_on_the_seed_alone() -> None:
    def planned(seed: str) -> list[chaos_tasks.Group]:
        options: argparse.Namespace = chaos.parse(["--seed", seed, "--tasks", "500"])
        return list(chaos.plan(options, chaos.PoolHost.maps))

    assert planned("1") == planned("1") != planned("2")
    assert [s.number for group in planned("1") for s in group.shapes] == list(range(500))
