"""`guard`, `unguard`, `install` and `uninstall` at once, and soon after each other.

The kind: looking whether something is guarded, and guarding it, while somebody
else does the same, or while the pool moves on. Siblings: several threads on one
pool that is fresh, used, busy, or closing; each with its own pool; guard and
unguard in turns; from a task's callback; from a signal handler that interrupts
`guard`, and one that raises out of it; in a forked child while another thread
was in the middle of it; a `Process`; joblib's backend, first used by several
threads; `install` and `uninstall` while pools are made. Each call ends with
the pool guarded once, or raises nothing of ours; tasks submitted meanwhile are
answered; a worker that has died before is answered for.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, ClassVar

import pytest

from poolwarden import ConfigurationError, WorkerLostError, guard, install, testing, unguard, uninstall
from poolwarden.system import stepping
from poolwarden.system.watchdog import watchdog
from tests.contract.base import ContractBase
from tests.contract.tasks import square
from tests.contract.waiting import DEADLINE, within
from tests.hosts import bind_executor, bind_loky, bind_pool

THREADS = 6


@pytest.fixture(autouse=True)
def quick_switches() -> Iterator[None]:
    """Have threads come between each other's steps as often as that can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def at_once(*calls: Callable[[], object]) -> list[BaseException]:
    """Call all in threads of their own that begin together; return what they raised."""
    barrier, errors = threading.Barrier(len(calls)), []

    def run(call: Callable[[], object]) -> None:
        barrier.wait(DEADLINE)
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert not any(thread.is_alive() for thread in threads), "a call does not end"
    return errors


def guards_of(pool: Any) -> int:
    """Return how many guards watch the workers of a pool."""
    processes = getattr(pool, "_pool", None) or list(pool._processes.values())
    pids = {process.pid for process in processes}
    owners = [owner for owner in watchdog().owners() if hasattr(owner, "live_workers")]
    return sum(any(worker.pid in pids for worker in owner.live_workers()) for owner in owners)


class AtOnce(ContractBase):
    """What each host owes its users here."""

    @pytest.mark.parametrize("state", ["fresh", "used", "busy"])
    def test_one_pool_guarded_by_many_threads(self, host, make_bare, state: str) -> None:
        pool = make_bare()
        handles = [host.submit(pool, square, n) for n in range(0 if state == "fresh" else 30)]
        if state == "used":
            assert [host.result(handle) for handle in handles] == [n * n for n in range(30)]

        assert at_once(*[lambda: guard(pool)] * THREADS) == []

        assert [host.result(handle) for handle in handles] == [n * n for n in range(len(handles))]
        assert host.result(host.submit(pool, square, 5)) == 25
        assert guards_of(pool) == 1
        with pytest.raises(WorkerLostError):
            host.result(host.submit(pool, testing.die(3)))

    def test_guarded_and_left_in_turns_while_tasks_run(self, host, make_bare) -> None:
        pool = make_bare()

        def turns() -> None:
            for _ in range(4):
                guard(pool)
                unguard(pool)

        def submit() -> None:
            handles = [host.submit(pool, square, n) for n in range(60)]
            assert [host.result(handle) for handle in handles] == [n * n for n in range(60)]

        assert at_once(*[turns] * 3, submit, submit) == []
        guard(pool)
        assert host.result(host.submit(pool, square, 6)) == 36
        with pytest.raises(WorkerLostError):
            host.result(host.submit(pool, testing.die(3)))

    def test_a_pool_that_ends_meanwhile(self, host, make_bare) -> None:
        pool = make_bare()
        host.result(host.submit(pool, square, 2))

        errors = at_once(*[lambda: guard(pool)] * THREADS, lambda: host.close(pool))

        # It may have been there first: nothing is left to be guarded then.
        assert all(isinstance(error, ConfigurationError) for error in errors), errors
        within(5, host.terminate, pool)

    def test_from_a_callback(self, host, make_bare) -> None:
        pool, errors, called = make_bare(), [], threading.Event()

        def answered(_: object) -> None:
            try:
                unguard(guard(guard(pool)))
                guard(pool)
            except BaseException as error:
                errors.append(error)
            called.set()

        self.on_answer(pool, answered)
        assert called.wait(DEADLINE)
        assert errors == []
        assert host.result(host.submit(pool, square, 3)) == 9
        with pytest.raises(WorkerLostError):
            host.result(host.submit(pool, testing.die(3)))

    @pytest.mark.parametrize("raises", [False, True], ids=["guards", "raises"])
    def test_from_a_signal_handler_that_interrupts_it(self, host, make_bare, raises: bool) -> None:
        for turn in range(8):
            pool = make_bare()

            def handler(*_: object, pool: Any = pool) -> None:
                if raises:
                    raise InterruptedError
                guard(pool)

            before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            ring = threading.Timer(turn * 2e-4, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1))
            ring.start()
            try:
                signal.signal(signal.SIGUSR1, handler)
                guard(pool)
                while ring.is_alive():
                    unguard(pool)
                    guard(pool)
            except InterruptedError:
                assert raises
            finally:
                signal.signal(signal.SIGUSR1, signal.SIG_IGN)
                ring.join()
                signal.signal(signal.SIGUSR1, before)
            guard(pool)
            assert host.result(host.submit(pool, square, 4)) == 16
            assert guards_of(pool) == 1

    @pytest.fixture
    def make_bare(self, host, start_method: str) -> Iterator[Callable[[], Any]]:
        pools: list[Any] = []

        def make() -> Any:
            pools.append(host.make_bare(2, start_method))
            return pools[-1]

        yield make
        while pools:
            within(5, host.terminate, pools.pop())

    def on_answer(self, pool: Any, callback: Callable[[object], None]) -> None:
        """Have `callback` called, in the host's own thread, with the answer of a task."""
        pool.submit(square, 2).add_done_callback(callback)


class TestPool(AtOnce):
    binding = bind_pool.BindPool

    def on_answer(self, pool: Any, callback: Callable[[object], None]) -> None:
        pool.apply_async(square, (2,), callback=callback)


class TestExecutor(AtOnce):
    binding = bind_executor.BindExecutor


class TestExecutorElsewhere(AtOnce):
    binding = bind_executor.BindElsewhere
    variations: ClassVar[int] = 1


class TestLoky(AtOnce):
    binding = bind_loky.BindLoky
    variations: ClassVar[int] = 1

    @pytest.fixture(autouse=True, scope="class")
    @staticmethod
    def _what_stays() -> None:
        pytest.importorskip("loky")
        host = bind_loky.BindLoky()
        pool = host.make_pool(1)
        host.result(host.submit(pool, square, 1))
        host.close(pool)


def test_one_process_guarded_by_many_threads() -> None:
    process = multiprocessing.get_context("fork").Process(target=testing.die(3))
    assert at_once(*[lambda: guard(process, timeout=20)] * THREADS) == []
    process.start()
    with pytest.raises(WorkerLostError):
        process.join(DEADLINE)
    assert at_once(*[lambda: unguard(process)] * THREADS) == []
    assert type(process) is multiprocessing.get_context("fork").Process


def test_install_and_uninstall_while_pools_are_made() -> None:
    bare = multiprocessing.pool.Pool.__init__, ProcessPoolExecutor.__init__

    def turns() -> None:
        for _ in range(10):
            install(timeout=20)
            uninstall()

    def pools() -> None:
        for _ in range(3):
            with multiprocessing.get_context("fork").Pool(1) as pool:
                assert pool.apply_async(square, (3,)).get(DEADLINE) == 9

    try:
        assert at_once(*[turns] * 4, pools) == []
    finally:
        uninstall()
    assert (multiprocessing.pool.Pool.__init__, ProcessPoolExecutor.__init__) == bare


def test_what_another_thread_holds_is_not_held_in_a_forked_child() -> None:
    entered, leave = threading.Event(), threading.Event()

    def step() -> None:
        entered.set()
        leave.wait(DEADLINE)

    thread = threading.Thread(target=stepping.in_one_step, args=(step,))
    thread.start()
    assert entered.wait(DEADLINE)
    pid = os.fork()
    if pid == 0:
        os._exit(stepping.in_one_step(lambda: 7))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    leave.set()
    thread.join(DEADLINE)


def test_a_step_that_cannot_be_done_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepping, "STEP_BOUND", 0.1)
    entered, leave, done = threading.Event(), threading.Event(), []
    thread = threading.Thread(
        target=stepping.in_one_step, args=(lambda: (entered.set(), leave.wait(DEADLINE)),)
    )
    thread.start()
    assert entered.wait(DEADLINE)
    with pytest.raises(ConfigurationError, match="takes too long"):
        stepping.in_one_step(lambda: done.append(1))
    leave.set()
    thread.join(DEADLINE)
    assert done == [], "it was given up, and is not done later"


FIRST_USE = """
import sys, threading
sys.setswitchinterval(1e-5)
import joblib, poolwarden
# joblib itself hands its executor to a second thread before all of it is there (seen bare, 1 in 10).
joblib.Parallel(2, backend="loky")([joblib.delayed(abs)(1)])
barrier, errors = threading.Barrier(5), []
def use():
    barrier.wait()
    try:
        calls = (joblib.delayed(abs)(-n) for n in range(10))
        assert joblib.Parallel(2, backend="poolwarden")(calls) == [*range(10)]
    except BaseException as error:
        errors.append(error)
threads = [threading.Thread(target=use) for _ in range(5)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not errors, errors
"""


def test_the_backend_of_joblib_first_used_by_five_threads() -> None:
    pytest.importorskip("joblib")
    done = subprocess.run([sys.executable, "-c", FIRST_USE], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (0, "")
