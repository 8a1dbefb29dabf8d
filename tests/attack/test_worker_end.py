"""The end of a worker that is told to end: by its pool, or by a signal that its program handles.

Siblings of one fault. *Told by the pool*: `terminate()`, the end of ``with``; workers idle, busy, starting,
with a backlog in the pipe, stopped, dead with the pipe's lock, standing still in an exit handler.
*Told by a signal*: a handler that exits, as a function, a method, ``*args``, a partial, a decorated one, an
object; in a task, an item of a chunk, while a call is unpickled or a result pickled; from outside or from
itself. *Not told*: the task's own `sys.exit()`, which is a `TaskExitError`.
"""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from poolwarden import PoolBrokenError, TaskExitError, WorkerLostError, guard
from poolwarden.testing import hang, on_unpickle
from poolwarden.worker.signals import raised_by_handler
from tests.contract.base import ContractBase, Notes, Pools, serves
from tests.contract.binding import PoolBinding
from tests.contract.tasks import Noted, append_line, same, square
from tests.contract.waiting import ENDING, all_gone, eventually, lines_of, within
from tests.hosts.bind_executor import BindExecutor
from tests.hosts.bind_loky import BindLoky
from tests.hosts.bind_multiprocess import BindMultiprocess
from tests.hosts.bind_pool import BindPool

CODE = 3


def exit_in_order(signum: int, frame: Any) -> None:
    sys.exit(CODE)


class WithCleanUp:
    """An initializer: notes the worker's orderly exit in a file; its SIGTERM handler exits, if it is to."""

    def __init__(self, path: Path, package: str = "multiprocessing", *, handles: bool = False) -> None:
        self.path, self.handles = str(path), handles
        self.package = package if package == "multiprocess" else "multiprocessing"

    def __call__(self) -> None:
        if self.handles:
            signal.signal(signal.SIGTERM, exit_in_order)
        util = importlib.import_module(f"{self.package}.util")
        util.Finalize(None, append_line, (self.path, "left"), exitpriority=10)


def exits_late(seconds: float) -> None:
    util = importlib.import_module("multiprocessing.util")
    util.Finalize(None, time.sleep, (seconds,), exitpriority=10)


@pytest.fixture(scope="module")
def warm(warm: None) -> None:
    """Start what the copies keep for good as well."""
    for binding in (BindMultiprocess, BindLoky):
        if find_spec(binding.package) is not None:
            for method in binding.start_methods:
                pool = binding().make_pool(1, method)
                binding().result(binding().submit(pool, int))
                binding().terminate(pool)


@pytest.fixture
def exits(tmp_path: Path) -> Path:
    return tmp_path / "exits"


class OrderlyEnd(ContractBase):
    """At least as many leave in order as from the bare pool."""

    @pytest.mark.every_start_method
    @pytest.mark.parametrize("ending", ["terminate", "with"])
    def test_idle_workers_run_their_exit_handlers(
        self, host: PoolBinding, make_pool: Pools, exits: Path, ending: str
    ) -> None:
        for _ in range(3):
            pool = make_pool(usable_after=False, initializer=WithCleanUp(exits, host.package))
            serves(host, pool)
            host.idle_pids(pool)

            within(ENDING, host.endings()[ending], pool)

        assert len(lines_of(exits)) == 6

    def test_idle_workers_leave_in_order_beside_busy_ones(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, exits: Path
    ) -> None:
        pool = make_pool(3, usable_after=False, initializer=WithCleanUp(exits, host.package))
        host.idle_pids(pool, 3)
        busy = host.submit(pool, Noted(notes.path, hang()))
        notes.pids()

        within(1.0, host.terminate, pool)

        assert len(lines_of(exits)) == 2
        with pytest.raises(PoolBrokenError):
            host.result(busy)

    def test_a_backlog_is_not_begun(self, host: PoolBinding, make_pool: Pools, notes: Notes) -> None:
        pool = make_pool(usable_after=False)
        for _ in range(50):
            host.submit(pool, Noted(notes.path, hang()))
        notes.pids(2)

        within(1.0, host.terminate, pool)

        assert len(lines_of(notes.path)) == 2

    @pytest.mark.parametrize("what", ["stopped", "killed", "late", "never"])
    def test_it_ends_in_time_whatever_holds_a_worker_up(
        self, host: PoolBinding, make_pool: Pools, what: str
    ) -> None:
        seconds = {"late": 0.5, "never": 1000.0}.get(what, 0.0)
        pool = make_pool(usable_after=False, initializer=exits_late, initargs=(seconds,))
        pids = host.idle_pids(pool)
        for pid in pids:
            # Whichever holds the lock of the pipe.
            if what in ("stopped", "killed"):
                os.kill(pid, signal.SIGSTOP if what == "stopped" else signal.SIGKILL)

        within(ENDING, host.terminate, pool)

        all_gone(pids)


class HandlerExits(ContractBase):
    """A SystemExit that a signal handler raises is the worker's, wherever the signal finds it."""

    @pytest.mark.parametrize("ending", ["terminate", "with"])
    def test_busy_workers_clean_up_at_once(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, exits: Path, ending: str
    ) -> None:
        pool = make_pool(usable_after=False, initializer=WithCleanUp(exits, host.package, handles=True))
        for _ in range(2):
            host.submit(pool, Noted(notes.path, hang()))
        notes.pids(2)

        within(0.9, host.endings()[ending], pool)

        assert len(lines_of(exits)) == 2

    def test_a_task_that_turns_the_word_into_an_exit_of_its_own_ends_its_worker(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, exits: Path
    ) -> None:
        pool = make_pool(usable_after=False, initializer=WithCleanUp(exits, host.package))
        host.submit(pool, Noted(notes.path, exit_when_told))
        notes.pids()

        within(0.9, host.terminate, pool)

        assert lines_of(exits)

    def test_the_word_from_outside_ends_the_worker_and_only_its_task(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, exits: Path
    ) -> None:
        pool = make_pool(initializer=WithCleanUp(exits, host.package, handles=True))
        handle = host.submit(pool, Noted(notes.path, hang()))
        (pid,) = notes.pids()

        os.kill(pid, signal.SIGTERM)

        with pytest.raises((WorkerLostError, TaskExitError)) as caught:
            host.result(handle)
        if isinstance(caught.value, WorkerLostError):
            assert caught.value.exit.exitcode == CODE
        all_gone([pid])
        assert len(lines_of(exits)) == 1

    @pytest.mark.parametrize("where", ["call", "result"])
    def test_a_signal_beside_the_task_itself(
        self, host: PoolBinding, make_pool: Pools, exits: Path, where: str
    ) -> None:
        pool = make_pool(initializer=WithCleanUp(exits, host.package, handles=True))
        task = (same, on_unpickle(TermSelf())) if where == "call" else (make_unpicklable,)

        with pytest.raises((WorkerLostError, TaskExitError)):
            host.result(host.submit(pool, *task))

        eventually(lambda: lines_of(exits), "the worker has left in order")

    def test_the_tasks_own_exit_is_only_the_tasks(
        self, host: PoolBinding, make_pool: Pools, exits: Path
    ) -> None:
        pool = make_pool(initializer=WithCleanUp(exits, host.package, handles=True))
        pids = host.idle_pids(pool)
        for _ in range(4):
            with pytest.raises(TaskExitError):
                host.result(host.submit(pool, sys.exit, CODE))
        assert sorted(host.worker_pids(pool)) == sorted(pids)
        assert not exits.exists()


def exit_when_told(*_: Any) -> None:
    """As a loop of asyncio does it: the handler only takes a note."""
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda signum, frame: told.append(signum))
    while not told:
        time.sleep(0.001)
    sys.exit(CODE)


class TermSelf:
    def __call__(self, *_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)


class _TermsOnPickle:
    def __reduce__(self) -> Any:
        TermSelf()()


def make_unpicklable() -> Any:
    return _TermsOnPickle()


class TestPool(OrderlyEnd, HandlerExits):
    binding = BindPool


@pytest.mark.skipif(find_spec("multiprocess") is None, reason="multiprocess is not installed")
class TestMultiprocess(OrderlyEnd, HandlerExits):
    binding = BindMultiprocess


class TestExecutor(HandlerExits):
    binding = BindExecutor
    test_busy_workers_clean_up_at_once = None  # its host has no such end before 3.14
    test_a_task_that_turns_the_word_into_an_exit_of_its_own_ends_its_worker = None


@pytest.mark.skipif(find_spec("loky") is None, reason="loky is not installed")
class TestLoky(HandlerExits):
    binding = BindLoky
    # Its host's end is SIGKILL.
    test_busy_workers_clean_up_at_once = None
    test_a_task_that_turns_the_word_into_an_exit_of_its_own_ends_its_worker = None


class TestTerminateOfAPool:
    """What only a pool can meet."""

    def test_a_chunk_ends_at_its_item(self, exits: Path, tmp_path: Path) -> None:
        with multiprocessing.get_context("fork").Pool(1, WithCleanUp(exits, handles=True)) as pool:
            guard(pool)
            results = pool.imap(functools.partial(term_at, 2, str(tmp_path / "ran")), range(4), chunksize=4)
            with pytest.raises(WorkerLostError) as caught:
                within(ENDING, list, results)
            assert caught.value.task.index == 2
            assert pool.apply(square, (3,)) == 9
        assert lines_of(tmp_path / "ran") == ["0", "1", "2"]

    def test_it_is_tried_again_as_a_task_lost_with_its_worker(self, exits: Path, tmp_path: Path) -> None:
        with multiprocessing.get_context("fork").Pool(1, WithCleanUp(exits, handles=True)) as pool:
            guard(pool, retries=1)
            ran = tmp_path / "ran"
            assert pool.apply_async(term_once, (str(ran),)).get(ENDING) == "done"

    def test_a_worker_that_starts_does_not_keep_the_others_from_leaving(self, exits: Path) -> None:
        for _ in range(5):
            started = time.monotonic()
            with multiprocessing.get_context("fork").Pool(4, WithCleanUp(exits)) as pool:
                guard(pool)
                pool.map(square, range(2))
            assert time.monotonic() - started < 1.0


def term_at(number: int, path: str, item: int) -> int:
    append_line(path, str(item))
    if item == number:
        TermSelf()()
    return item


def term_once(path: str) -> str:
    if not os.path.exists(path):
        append_line(path, "1")
        TermSelf()()
    return "done"


def _decorated(func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    return wrapper


class _Object:
    def __call__(self, signum: int, frame: Any) -> None:
        sys.exit(CODE)

    def method(self, signum: int, frame: Any) -> None:
        self.end()

    def end(self) -> None:
        raise SystemExit(CODE)


def _with_more(word: str, signum: int, frame: Any) -> None:
    sys.exit(word)


HANDLERS: dict[str, Callable[..., Any]] = {
    "function": exit_in_order,
    "arguments": lambda *_: sys.exit(CODE),
    "one named": lambda signum, *rest: sys.exit(CODE),
    "method": _Object().method,
    "object": _Object(),
    "partial": functools.partial(_with_more, "word"),
    "decorated": _decorated(exit_in_order),
}


def _interrupted(call: Callable[[], Any]) -> BaseException:
    try:
        call()
    except SystemExit as error:
        return error
    raise AssertionError("no exit")


class TestWhoseExit:
    @pytest.mark.parametrize("handler", HANDLERS.values(), ids=HANDLERS)
    def test_a_handlers(self, handler: Callable[..., Any]) -> None:
        before = signal.signal(signal.SIGUSR1, handler)
        try:
            assert raised_by_handler(_interrupted(lambda: signal.raise_signal(signal.SIGUSR1)))
        finally:
            signal.signal(signal.SIGUSR1, before)

    @pytest.mark.parametrize(
        "call",
        [
            sys.exit,
            lambda: sys.exit(CODE),
            lambda: exit_in_order(signal.SIGTERM, None),
            lambda: exit_in_order(signal.SIGTERM, sys._getframe(3)),
            lambda: _with_more("word", 1, 2),
        ],
    )
    def test_the_tasks_own(self, call: Callable[[], Any]) -> None:
        assert not raised_by_handler(_interrupted(call))
