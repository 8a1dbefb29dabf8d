"""A process that was forked from the parent uses the pool that it has inherited.

Pipes, locks and folders are shared with the parent then, and job and ticket
numbers go on from the same ones on both sides. The guard must be the parent's
alone: in any other process the pool is the host's own, and does there what a
bare one does (which is mostly nothing: its threads are not there); the parent's
tasks are answered as if that process were not there.

The kind, by who forks and what he does. Who: ``os.fork`` in the program (beside
other threads), `multiprocessing.Process`, a worker, by its task, one that was
replaced or recycled (such a one is forked while tasks are on their way), a
process forked by a forked one, a callback in the host's own thread. What:
submits, waits, cancels, guards again, unguards, closes, terminates, leaves a
``with``, drops the pool, stays longer than a timeout; and ends by ``os._exit``,
``sys.exit`` (exit handlers, finalizers), a return from the target. An executor
that had no task yet starts workers of its own in such a process.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import poolwarden
from poolwarden import ConfigurationError, cancel, guard, unguard
from tests.attack.forking import status_of
from tests.contract.base import ContractBase
from tests.contract.binding import PoolBinding
from tests.contract.tasks import HeldUntil, square
from tests.contract.waiting import ENDING, eventually, within
from tests.hosts.bind_executor import BindExecutor
from tests.hosts.bind_joblib import BindJoblib
from tests.hosts.bind_loky import BindLoky
from tests.hosts.bind_pool import BindPool

pytestmark = [
    pytest.mark.bound(20.0),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]

#: What tasks under fork find: the pool of the process above.
inherited: list[Any] = []
#: Seconds that a forked process waits for an answer that the bare pool never gives.
IN_VAIN = 0.2


@pytest.fixture(scope="module", autouse=True)
def warm_hosts(warm: None) -> None:
    """Start what loky and its copy in joblib keep for the whole process."""
    for host in (BindLoky(), BindJoblib()):
        with contextlib.suppress(ImportError):
            host.close(host.make_pool())


def by_fork(act: Callable[[], Any], leave: Callable[[], Any] = lambda: os._exit(0)) -> Any:
    """Return what `act` returns in a process that is forked, or the name of what it raises."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, pickle.dumps(outcome_of(act)))
            leave()
        finally:
            os._exit(9)
    os.close(writer)
    with open(reader, "rb") as file:
        status = status_of(pid)
        return pickle.loads(file.read()), status


def by_process(act: Callable[[], Any]) -> Any:
    """As `by_fork`, in a `multiprocessing.Process`."""
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=lambda: writer.send(outcome_of(act)))
    process.start()
    process.join(5)
    found = reader.recv() if reader.poll(0) else "it never ended"
    process.kill()
    process.join()
    for part in (process, reader, writer):
        part.close()
    return found, 0


def outcome_of(act: Callable[[], Any]) -> Any:
    try:
        return act()
    except BaseException as error:
        return type(error).__name__


def leave_orderly() -> None:
    """End as a script does: exit handlers, then finalizers."""
    import atexit

    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    os._exit(0)


ways_to_fork = pytest.mark.parametrize(
    "in_child",
    [
        by_fork,
        by_process,
        lambda act: by_fork(act, leave_orderly),
        lambda act: by_fork(lambda: by_fork(act)[0]),
    ],
    ids=["os.fork", "Process", "exit handlers", "nested"],
)


def what_it_does(host: PoolBinding, pool: Any) -> list[Any]:
    """Return what a pool does in a process that has inherited it, after each other."""
    found: list[Any] = [outcome_of(lambda: host.result(host.submit(pool, square, 3), IN_VAIN))]
    if isinstance(host, BindPool):
        found += [
            outcome_of(lambda: pool.map_async(square, [1, 2]).get(IN_VAIN)),
            outcome_of(lambda: pool.imap(square, [1, 2]).next(IN_VAIN)),
            outcome_of(pool.terminate),
            outcome_of(pool.close),
            outcome_of(lambda: host.submit(pool, square, 3)),
            outcome_of(pool.join),
        ]
    else:
        found += [
            outcome_of(lambda: pool.submit(square, 3).cancel()),
            outcome_of(lambda: pool.shutdown(wait=False)),
            outcome_of(lambda: pool.submit(square, 3)),
        ]
    return found


def torment(host: PoolBinding, pool: Any, handle: Any) -> str:
    """Do all that a guard offers to an inherited pool; one that cannot be had here is refused."""
    handles = [host.submit(pool, str, f"child {n}") for n in range(10)]
    for each in (handle, handles[0]):
        # Here the pool is not guarded, and a handle need not say that it was of one that is.
        with contextlib.suppress(TypeError):
            assert not cancel(each)
    unguard(pool)
    try:
        guard(pool, timeout=0.1)
    except ConfigurationError:
        time.sleep(IN_VAIN)
    else:
        return "it was guarded"
    if isinstance(host, BindPool):
        pool.terminate()
    else:
        pool.shutdown(wait=False)
    del pool, handles
    inherited.clear()
    gc.collect()
    return "done"


class ForkedParents(ContractBase):
    @pytest.fixture
    def here(self, make_pool: Any) -> Iterator[Any]:
        def make(**options: Any) -> Any:
            pool = make_pool(**options)
            inherited[:] = [pool]
            return pool

        yield make
        inherited.clear()

    @ways_to_fork
    def test_the_parent_s_tasks_are_the_parent_s(
        self, host: PoolBinding, here: Any, tmp_path: Path, in_child: Any
    ) -> None:
        pool = here(timeout=30.0, retries=1)
        workers = set(host.idle_pids(pool))
        held = [host.submit(pool, HeldUntil(tmp_path / "go"), n) for n in range(2)]
        waiting = [host.submit(pool, square, n) for n in range(10)]
        found, _ = in_child(lambda: torment(host, inherited[0], held[0]))
        assert found == "done"
        (tmp_path / "go").touch()
        assert [host.result(handle) for handle in held] == [0, 1]
        assert [host.result(handle) for handle in waiting] == [n * n for n in range(10)]
        assert set(host.worker_pids(pool)) == workers

    @ways_to_fork
    def test_it_does_what_the_bare_pool_does(
        self, host: PoolBinding, start_method: str, here: Any, in_child: Any
    ) -> None:
        # A bare pool's workers are ended by the exit handlers of such a process.
        bare_fork = by_process if in_child is by_process else by_fork
        pool = host.make_bare(2, start_method)
        try:
            assert host.result(host.submit(pool, square, 2)) == 4
            expected, _ = bare_fork(lambda: what_it_does(host, pool))
        finally:
            within(ENDING, host.close, pool)
        guarded = here()
        assert host.result(host.submit(guarded, square, 2)) == 4
        found, _ = in_child(lambda: what_it_does(host, guarded))
        assert found == expected

    def test_both_submit_at_once(self, host: PoolBinding, here: Any) -> None:
        pool = here()
        for _ in range(5):
            pid = os.fork()
            if pid == 0:
                with contextlib.suppress(BaseException):
                    for _ in range(50):
                        host.submit(pool, str, "child")
                os._exit(0)
            handles = [host.submit(pool, square, n) for n in range(50)]
            assert [host.result(handle) for handle in handles] == [n * n for n in range(50)]
            assert status_of(pid) == 0

    def test_a_callback_that_forks_and_returns(self, host: PoolBinding, here: Any, tmp_path: Path) -> None:
        pool = here()
        for n, how in enumerate((lambda: None, lambda: sys.exit(3))):
            held = HeldUntil(tmp_path / f"go {n}")
            children: list[int] = []

            def callback(_: Any, how: Any = how, children: list[int] = children) -> None:
                pid = os.fork()
                if pid == 0:
                    how()
                else:
                    children.append(pid)

            if isinstance(host, BindPool):
                pool.apply_async(held, (2,), callback=callback)
            else:
                # Not done before the callback is there, or that would be called in this thread.
                host.submit(pool, held, 2).add_done_callback(callback)
            (tmp_path / f"go {n}").touch()
            (pid,) = eventually(lambda children=children: children, "it has forked")
            assert status_of(pid) == 0
            handles = [host.submit(pool, square, n) for n in range(20)]
            assert [host.result(handle) for handle in handles] == [n * n for n in range(20)]


def use_inherited(binding: type[PoolBinding], n: int) -> int:
    """Use the pool of the process above, in a task."""
    host = binding()
    # The first workers are older than the list.
    for pool in inherited:
        handles = [host.submit(pool, str, "child") for _ in range(3)]
        with contextlib.suppress(multiprocessing.TimeoutError):
            host.result(handles[0], 0.02)
    return n * n


class TasksUseTheirPool(ContractBase):
    """Under fork alone: other workers inherit nothing."""

    @pytest.mark.parametrize("recycled", [None, 1, 3])
    def test_a_task_uses_the_pool(self, host: PoolBinding, start_method: str, recycled: int | None) -> None:
        poolwarden.install(timeout=30.0)
        try:
            pool = host.make_bare(2, start_method, maxtasksperchild=recycled)
        finally:
            poolwarden.uninstall()
        inherited[:] = [pool]
        try:
            for worker in [] if recycled else host.worker_pids(pool):
                os.kill(worker, signal.SIGKILL)
            handles = [host.submit(pool, use_inherited, type(self).binding, n) for n in range(12)]
            assert [host.result(handle) for handle in handles] == [n * n for n in range(12)]
        finally:
            inherited.clear()
            within(ENDING, host.close, pool)


class UnusedExecutors(ContractBase):
    @pytest.mark.parametrize("leave", [lambda: os._exit(0), leave_orderly], ids=["at once", "orderly"])
    def test_both_start_workers(
        self, host: PoolBinding, start_method: str, tmp_path: Path, leave: Callable[[], Any]
    ) -> None:
        pool = guard(host.make_bare(2, start_method))
        pid = os.fork()
        if pid == 0:
            try:
                handles = [host.submit(pool, str, f"child {n}") for n in range(40)]
                (tmp_path / "found").write_text("\n".join(host.result(handle) for handle in handles))
                host.close(pool)
                leave()
            finally:
                os._exit(9)
        for _ in range(10):
            handles = [host.submit(pool, square, n) for n in range(20)]
            assert [host.result(handle) for handle in handles] == [n * n for n in range(20)]
        assert status_of(pid) == 0
        assert (tmp_path / "found").read_text().splitlines() == [f"child {n}" for n in range(40)]
        within(ENDING, host.close, pool)

    def test_guarded_again_where_it_is_used(self, host: PoolBinding, start_method: str) -> None:
        pool = guard(host.make_bare(2, start_method))

        def use() -> Any:
            guard(pool)
            lost = host.submit(pool, os._exit, 1)
            handles = [host.submit(pool, square, n) for n in range(4)]
            found = [outcome_of(lambda: host.result(lost))]
            found += [host.result(handle) for handle in handles]
            host.close(pool)
            return found

        assert by_fork(use) == (["WorkerLostError", 0, 1, 4, 9], 0)
        assert host.result(host.submit(pool, square, 5)) == 25
        within(ENDING, host.close, pool)


class TestPool(ForkedParents, TasksUseTheirPool):
    binding = BindPool


class TestExecutor(ForkedParents, UnusedExecutors):
    binding = BindExecutor


class TestLoky(ForkedParents, UnusedExecutors):
    binding = BindLoky
    variations = 1

    @pytest.fixture(autouse=True)
    def loky(self) -> None:
        pytest.importorskip("loky")
