"""The words of the errors, and what they must not say."""

from __future__ import annotations

import pickle

import pytest

from poolwarden import errors
from poolwarden.core import error_texts
from poolwarden.records import TaskInfo, WorkerExit

TASK = TaskInfo("shop.prices.fetch", 7, "shop/main.py:12", 1)
PLAIN = TaskInfo("shop.prices.fetch", None, None, 1)
UNSTARTED = TaskInfo("shop.prices.fetch", 7, "shop/main.py:12", 0)
OOM = "memory cgroup /x: oom_kill 3 → 4"
STACK = 'File "prices.py", line 3 in fetch'
TRACEBACK = "Traceback (most recent call last):\n  …\nAttributeError: nothing"


def ended(exitcode, signal=None, cause="signal", *evidence):
    return WorkerExit(1234, exitcode, signal, cause, evidence)


def test_worker_lost_out_of_memory_reads_well():
    exit = ended(-9, "SIGKILL", "oom", OOM)
    error = error_texts.worker_lost(TASK, exit, STACK)
    assert type(error) is errors.WorkerLostError
    assert str(error).splitlines() == [
        "The worker running shop.prices.fetch (item 7, submitted at shop/main.py:12) died.",
        "Worker 1234 was killed by SIGKILL (exitcode -9), out of memory.",
        f"Evidence: {OOM}; the Python stack of the worker is in .stack.",
        "Try: fewer workers, less data in one task, or a higher memory limit."
        " If it may safely run twice, retries=1 runs a lost task again.",
    ]
    assert (error.task, error.exit, error.stack, error.may_have_run) == (TASK, exit, STACK, True)
    assert str(error.__cause__) == STACK


def test_worker_lost_says_likely_for_weak_evidence():
    likely = "likely: this machine's oom_kill 0 → 1"
    error = error_texts.worker_lost(TASK, ended(-9, "SIGKILL", "oom", likely))
    assert "(exitcode -9), likely out of memory." in str(error)
    assert error.__cause__ is None


@pytest.mark.parametrize(
    ("exit", "how", "advice"),
    [
        (ended(0, cause="exit"), "Worker 1234 exited with status 0.", "os._exit()"),
        (ended(-9, "SIGKILL"), "Worker 1234 was killed by SIGKILL (exitcode -9).", "likely a person"),
        (ended(-11, "SIGSEGV"), "Worker 1234 was killed by SIGSEGV (exitcode -11).", "crash in C code"),
        (ended(-15, "SIGTERM"), "Worker 1234 was killed by SIGTERM (exitcode -15).", "who sent SIGTERM"),
        (ended(None, None, "unknown"), "Worker 1234 ended, exit code not known.", "SIGCHLD"),
        (
            ended(-9, "SIGKILL", "killed_by_guard", "repair"),
            "Worker 1234 was killed by SIGKILL (exitcode -9), stopped by poolwarden.",
            "see the evidence",
        ),
        (WorkerExit(None, 1, None, "exit", ()), "The worker exited with status 1.", "os._exit()"),
    ],
)
def test_worker_lost_by_cause(exit, how, advice):
    lines = str(error_texts.worker_lost(TASK, exit)).splitlines()
    assert len(lines) == 3 + bool(exit.evidence)
    assert lines[1] == how
    assert [line.partition(":")[0] for line in lines[2:]] == ["Evidence", "Try"][not exit.evidence :]
    assert advice in lines[-1]


def test_a_task_that_never_started_may_not_have_run():
    error = error_texts.worker_lost(UNSTARTED, ended(-9, "SIGKILL"))
    assert error.may_have_run is False
    assert str(error).startswith("The worker about to run shop.prices.fetch")
    assert error_texts.pool_broken("it was terminated", task=UNSTARTED).may_have_run is False


def test_a_task_lost_again_is_suspected_itself():
    error = error_texts.worker_lost(TaskInfo("f", None, None, 3), ended(-9, "SIGKILL"))
    assert "f (attempt 3) died" in str(error)
    assert "started 3 times: likely the task itself" in str(error)
    assert "retries=1" not in str(error)


def test_hard_timeout():
    exit = ended(-9, "SIGKILL", "killed_by_guard", "timeout")
    error = error_texts.task_timeout(TASK, exit, 30.0, STACK, soft=False)
    assert type(error) is errors.TaskTimeoutError
    lines = str(error).splitlines()
    assert lines[0] == (
        "shop.prices.fetch (item 7, submitted at shop/main.py:12)"
        " ran longer than its timeout of 30 s and was stopped."
    )
    assert lines[1] == "Worker 1234 was killed by SIGKILL (exitcode -9), stopped by poolwarden."
    assert lines[3].startswith("Try: see .stack for what it was doing,")
    assert (error.task, error.exit, error.stack, error.may_have_run) == (TASK, exit, STACK, True)
    assert str(error.__cause__) == STACK


def test_soft_timeout_without_a_stack():
    error = error_texts.task_timeout(None, None, 0.25, None, soft=True)
    lines = str(error).splitlines()
    assert lines[0] == "A task ran longer than its timeout of 0.25 s and was stopped."
    assert lines[1] == "The error was raised inside the task; its worker lives."
    assert [line for line in lines if line.startswith("Evidence")] == []
    assert ".stack" not in lines[2]
    assert error.may_have_run is True


def test_hard_timeout_of_a_worker_whose_end_is_not_known():
    error = error_texts.task_timeout(PLAIN, None, 1, None, soft=False)
    assert str(error).splitlines()[:2] == [
        "shop.prices.fetch ran longer than its timeout of 1 s and was stopped.",
        "Its worker was killed.",
    ]


def test_task_exit():
    error = error_texts.task_exit(PLAIN, "SystemExit", TRACEBACK)
    assert type(error) is errors.TaskExitError
    assert str(error).startswith("shop.prices.fetch raised SystemExit.\nIts worker lives")
    assert str(error.__cause__) == TRACEBACK
    assert (error.task, error.exit, error.may_have_run) == (PLAIN, None, True)


@pytest.mark.parametrize(
    ("direction", "may_have_run", "words"),
    [
        ("call", False, "Unpickling raised AttributeError: nothing; the function was not called."),
        ("result", True, "It was of type AttributeError (AttributeError: nothing)."),
    ],
)
def test_payload(direction, may_have_run, words):
    error = error_texts.payload(TASK, direction, "AttributeError", TRACEBACK)
    assert type(error) is errors.PayloadError
    assert (error.direction, error.may_have_run, error.task) == (direction, may_have_run, TASK)
    lines = str(error).splitlines()
    assert len(lines) == 4
    assert lines[1] == words
    assert "in __cause__" in lines[2]
    assert str(pickle.loads(pickle.dumps(error)).__cause__) == TRACEBACK


def test_payload_of_unknown_type():
    assert "an exception" in str(error_texts.payload(None, "call", None, None))
    said = str(error_texts.payload(None, "result", None, None, unpickling="OSError: [Errno 5] io"))
    assert (
        said.splitlines()[1]
        == "The task ended. Unpickling raised an exception of type OSError: [Errno 5] io."
    )
    assert "__init__" not in said


def test_pool_broken():
    exit = ended(1, None, "exit")
    error = error_texts.pool_broken("its initializer raised ValueError.", exit, TRACEBACK, task=TASK)
    assert type(error) is errors.PoolBrokenError
    lines = str(error).splitlines()
    assert lines[0].startswith(
        "The pool cannot go on: its initializer raised ValueError. Not finished: shop."
    )
    assert lines[1] == "AttributeError: nothing"
    assert "status 1" not in str(error)
    assert lines[-1].startswith("Try: mend the initializer")
    assert (error.task, error.exit, error.may_have_run) == (TASK, exit, True)
    assert str(error.__cause__) == TRACEBACK


def test_pool_broken_without_more_than_a_reason():
    error = error_texts.pool_broken("it was terminated")
    assert str(error) == (
        "The pool cannot go on: it was terminated.\n"
        "Try: take the results before the pool is ended, or make a new pool."
    )
    assert error.may_have_run is True
    assert error.__cause__ is None


def test_each_error_is_an_instance_of_its_own():
    exit = ended(-9, "SIGKILL")
    assert error_texts.worker_lost(TASK, exit) is not error_texts.worker_lost(TASK, exit)


@pytest.mark.parametrize(
    ("item", "before"),
    [
        (0, "none of the others had been run"),
        (1, "item 4 had been run"),
        (3, "items 4 to 6 had been run"),
    ],
)
def test_the_other_items_of_a_chunk(item, before):
    fate = error_texts.chunk_fate(4, 4, item)
    assert fate == f"Its chunk, items 4 to 7, has no results; {before}."
    for error in (
        error_texts.worker_lost(TASK, ended(-9, "SIGKILL"), chunk=fate),
        error_texts.task_timeout(TASK, None, 1, None, soft=True, chunk=fate),
    ):
        assert str(error).splitlines()[2] == fate
    assert error_texts.chunk_fate(4, 1, 0) == ""


def test_how_long_it_had_been_running():
    error = error_texts.worker_lost(TASK, ended(-9, "SIGKILL", "oom", OOM), ran=12.34)
    assert f"Evidence: {OOM}; the task had been running for 12.3 s." in str(error)


@pytest.mark.parametrize(
    ("description", "advice"),
    [
        ("SystemExit: 3", "sys.exit()"),
        ("KeyboardInterrupt", "Ctrl-C"),
        ("GeneratorExit", "subclass of Exception"),
    ],
)
def test_advice_for_each_exit(description, advice):
    error = error_texts.task_exit(PLAIN, description, None)
    assert advice in str(error).splitlines()[-1]
    assert ("sys.exit()" in str(error)) == (description == "SystemExit: 3")


def test_a_library_between_is_named():
    task = TaskInfo("f", 3, "job.py:22", 1, "sklearn/model_selection/_search.py:1083")
    assert "submitted at job.py:22, through sklearn/model_selection/_search.py:1083" in str(
        error_texts.worker_lost(task, ended(-9, "SIGKILL"))
    )


@pytest.mark.parametrize("made", ["worker_lost", "task_timeout", "task_exit", "payload", "pool_broken"])
def test_control_characters_of_names_are_shown_not_obeyed(made):
    bad = "\x1b[2J\r\x9b\u202e\ud800\n"
    task = TaskInfo(f"shop.{bad}", 7, f"{bad}.py:12", 1, f"{bad}.py:3")
    exit = ended(-9, "SIGKILL", "oom", f"memory cgroup /{bad}: oom_kill 3 → 4")
    error = {
        "worker_lost": lambda: error_texts.worker_lost(task, exit),
        "task_timeout": lambda: error_texts.task_timeout(task, exit, 1, None, soft=False),
        "task_exit": lambda: error_texts.task_exit(task, f"SystemExit: {bad}", None),
        "payload": lambda: error_texts.payload(
            task, "result", f"shop.{bad}", f"Traceback…\n  a\n{bad}: {bad}"
        ),
        "pool_broken": lambda: error_texts.pool_broken(f"no {bad}", exit, task=task),
    }[made]()
    assert all(line.isprintable() for line in str(error).split("\n"))
    assert len(str(error).split("\n")) <= 5
