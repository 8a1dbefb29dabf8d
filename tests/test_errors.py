"""The error classes: what they are instances of, and that they travel whole."""

from __future__ import annotations

import concurrent.futures
import copy
import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from poolwarden import errors
from poolwarden.errors import (
    ConfigurationError,
    PayloadError,
    PoolBrokenError,
    PoolWardenError,
    RemoteTraceback,
    TaskExitError,
    TaskTimeoutError,
    WorkerLostError,
    with_host_error,
)
from poolwarden.records import TaskInfo, WorkerExit

ALL = [
    PoolWardenError,
    WorkerLostError,
    TaskTimeoutError,
    TaskExitError,
    PayloadError,
    PoolBrokenError,
    ConfigurationError,
]
TASK = TaskInfo("module.function", 7, "file.py:12", 2)
EXIT = WorkerExit(42, -9, "SIGKILL", "oom", ("oom_kill 3 → 4",))


class HostBroken(BrokenProcessPool):
    """Stands for loky's TerminatedWorkerError."""

    def __init__(self, needs, two):
        super().__init__(needs, two)


class OtherHostError(Exception):
    pass


class Outer:
    class NestedHostError(Exception):
        pass


class UsersOwnError(WorkerLostError):
    def __init__(self, code, *, colour):
        super().__init__(f"code {code}", task=TASK)
        self.code = code
        self.colour = colour


def full(cls):
    return cls("line 1\nline 2", task=TASK, exit=EXIT, stack="File x", may_have_run=True)


def copies(error):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield pickle.loads(pickle.dumps(error, protocol))
    yield copy.deepcopy(error)
    yield copy.copy(error)


@pytest.mark.parametrize(
    ("cls", "hosts_class"),
    [
        (WorkerLostError, BrokenProcessPool),
        (PoolBrokenError, BrokenProcessPool),
        (TaskTimeoutError, TimeoutError),
        (TaskTimeoutError, multiprocessing.TimeoutError),
        (TaskTimeoutError, concurrent.futures.TimeoutError),
        (ConfigurationError, ValueError),
        *[(cls, PoolWardenError) for cls in ALL],
    ],
)
def test_old_except_clauses_catch_it(cls, hosts_class):
    with pytest.raises(hosts_class) as caught:
        raise cls("text")
    assert str(caught.value) == "text"


@pytest.mark.parametrize("cls", ALL)
def test_attributes_default_to_unknown(cls):
    error = cls("text")
    assert (error.task, error.exit, error.stack, error.may_have_run) == (None, None, None, False)


@pytest.mark.parametrize("cls", ALL)
def test_copies_have_every_attribute(cls):
    original = full(cls)
    original.added_later = [1]
    for error in copies(original):
        assert type(error) is cls
        assert error is not original
        assert error.args == original.args
        assert str(error) == "line 1\nline 2"
        assert error.task == TASK
        assert error.exit == EXIT
        assert error.stack == "File x"
        assert error.may_have_run is True
        assert error.added_later == [1]


def test_copies_of_a_payload_error_keep_its_direction():
    for error in copies(PayloadError("text", direction="result", task=TASK)):
        assert error.direction == "result"
        assert error.task == TASK


def test_copies_keep_the_remote_traceback():
    original = full(PayloadError)
    original.__cause__ = RemoteTraceback("Traceback …")
    for error in copies(original):
        assert isinstance(error.__cause__, RemoteTraceback)
        assert str(error.__cause__) == "Traceback …"


def test_a_cause_that_may_not_pickle_stays_behind():
    original = full(WorkerLostError)
    original.__cause__ = ValueError(lambda: None)
    assert pickle.loads(pickle.dumps(original)).__cause__ is None


def test_a_users_subclass_with_another_signature_pickles():
    for error in copies(UsersOwnError(3, colour="red")):
        assert type(error) is UsersOwnError
        assert (error.code, error.colour, error.task) == (3, "red", TASK)


@pytest.mark.parametrize("host", [HostBroken, OtherHostError, Outer.NestedHostError])
def test_host_error_is_added_and_looks_like_ours(host):
    original = full(WorkerLostError)
    original.__cause__ = RemoteTraceback("Traceback …")
    error = with_host_error(original, host)

    assert isinstance(error, host)
    assert isinstance(error, WorkerLostError)
    assert isinstance(error, BrokenProcessPool)
    assert not isinstance(original, host)
    assert type(error).__name__ == type(error).__qualname__ == "WorkerLostError"
    assert type(error).__module__ == WorkerLostError.__module__
    assert type(error) is type(with_host_error(full(WorkerLostError), host))
    assert error.__dict__ == original.__dict__
    assert str(error) == str(original)
    for again in copies(error):
        assert type(again) is type(error)
        assert again.__dict__ == original.__dict__
        assert str(again.__cause__) == "Traceback …"


@pytest.mark.parametrize("cls", ALL)
def test_every_class_takes_a_host_error(cls):
    error = with_host_error(full(cls), OtherHostError)
    assert isinstance(error, OtherHostError)
    assert all(type(again) is type(error) and again.task == TASK for again in copies(error))


def test_two_host_errors_add_up():
    error = with_host_error(with_host_error(full(WorkerLostError), HostBroken), OtherHostError)
    for again in (error, pickle.loads(pickle.dumps(error))):
        assert isinstance(again, HostBroken)
        assert isinstance(again, OtherHostError)


def test_host_error_already_there_changes_nothing():
    error = full(WorkerLostError)
    assert with_host_error(error, BrokenProcessPool) is error
    combined = with_host_error(error, HostBroken)
    assert with_host_error(combined, HostBroken) is combined


@pytest.mark.parametrize("host", [SyntaxError, UnicodeDecodeError])
def test_classes_that_conflict_leave_the_plain_error(host):
    error = full(TaskTimeoutError)  # an OSError, whose layout cannot be joined with these
    assert with_host_error(error, host) is error


def test_without_the_host_it_unpickles_as_the_plain_error(monkeypatch):
    data = pickle.dumps(with_host_error(full(WorkerLostError), OtherHostError))
    monkeypatch.delattr(sys.modules[__name__], "OtherHostError")
    error = pickle.loads(data)
    assert type(error) is WorkerLostError
    assert error.task == TASK


def test_importing_errors_does_not_import_records():
    src = str(Path(errors.__file__).parents[1])
    code = f"import sys; sys.path.insert(0, {src!r}); import poolwarden.errors\n"
    code += "sys.exit('poolwarden.records' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_all_names_exist():
    assert all(hasattr(errors, name) for name in errors.__all__)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            errors.WorkerLostError(
                "long\ntext",
                task=TaskInfo("__main__.thumbnail", 17, "job.py:3", 1),
                exit=WorkerExit(7, -11, "SIGSEGV", "signal", ()),
            ),
            "WorkerLostError(item 17 of __main__.thumbnail: SIGSEGV)",
        ),
        (
            errors.WorkerLostError(
                "long\ntext",
                task=TaskInfo("f", None, None, 1),
                exit=WorkerExit(7, -9, "SIGKILL", "oom", ("x",)),
            ),
            "WorkerLostError(f: SIGKILL, out of memory)",
        ),
        (
            errors.TaskTimeoutError(
                "long\ntext",
                task=TaskInfo("f", 0, None, 1),
                exit=WorkerExit(7, -9, "SIGKILL", "killed_by_guard", ("x",)),
            ),
            "TaskTimeoutError(item 0 of f)",
        ),
        (
            errors.WorkerLostError("x", exit=WorkerExit(7, 3, None, "exit", ())),
            "WorkerLostError(x: exit code 3)",
        ),
        (errors.PoolBrokenError("It is over.\nTry: more."), "PoolBrokenError(It is over.)"),
        (errors.PayloadError("a\x1b[2J\nb"), r"PayloadError(a\x1b[2J)"),
        (errors.ConfigurationError("y" * 1000), f"ConfigurationError({'y' * 200}... (1000 characters))"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_repr_is_one_short_line(error, text):
    assert repr(error) == text
    assert repr([error, pickle.loads(pickle.dumps(error))]) == f"[{text}, {text}]"
