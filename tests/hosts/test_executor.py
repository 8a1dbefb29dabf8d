"""`concurrent.futures.ProcessPoolExecutor`: the contract, and what only this host has."""

from __future__ import annotations

import concurrent.futures
import inspect
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import (
    CancelledError,
    Future,
    ProcessPoolExecutor,
    as_completed,
    wait,
)
from pathlib import Path
from typing import Any

import pytest

from poolwarden import ConfigurationError, WorkerLostError, cancel, guard, install, unguard, uninstall
from poolwarden.hosts.executor.adapter import ExecutorAdapter
from poolwarden.hosts.executor.manager_messages import ManagerMessages
from poolwarden.hosts.executor.unguarding import Unguarding
from poolwarden.testing import deaf, die, hang, hold_gil, kill_self
from tests.contract.base import ContractBase, Notes, Pools, serves
from tests.contract.deaths import ItemDies, ManyDie, Retries, RunningTaskDies
from tests.contract.ending import PoolDropped, PoolEnds
from tests.contract.hangs import TaskNeverEnds
from tests.contract.healthy import NothingChanges
from tests.contract.idle_deaths import DeathOnTheWay, IdleWorkerDies
from tests.contract.payloads import TaskExits
from tests.contract.starting import InitializerFails
from tests.contract.suite import PoolContract
from tests.contract.surroundings import (
    Grandchildren,
    InterpreterExit,
    ParentKilled,
    Program,
    ProgramBase,
    Signals,
)
from tests.contract.tasks import HeldUntil, Noted, pid_of_worker, square
from tests.contract.waiting import DEADLINE, ENDING, all_gone, within
from tests.hosts.bind_executor import BindElsewhere, BindExecutor

HAS_FORCE = hasattr(ProcessPoolExecutor, "kill_workers")


class TestExecutor(PoolContract):
    """The fault table under fork, see `tests.contract`.

    What is replaced here cannot be asked of an executor: it refuses to recycle
    forked workers; it, the interpreter's exit included, waits for tasks that
    run; and before 3.14 it has no call that ends it at once.
    """

    binding = BindExecutor

    test_workers_are_recycled_as_asked_and_nothing_is_lost = None

    @pytest.mark.parametrize("fault", [hang(), deaf(hang()), hold_gil()], ids=repr)
    def test_the_pool_ends_while_every_worker_is_stuck(  # type: ignore[override]
        self, host: BindExecutor, make_pool: Pools, notes: Notes, fault: Any
    ) -> None:
        PoolEnds.test_the_pool_ends_while_every_worker_is_stuck(
            self, host, make_pool, notes, "terminate", fault
        )

    if not HAS_FORCE:
        test_what_was_pending_at_terminate_is_broken = None
        test_every_way_of_submitting_comes_back_after_terminate = None

    @pytest.mark.parametrize("past", ["nothing", "lost", "idle_killed"])
    def test_the_interpreter_ends_with_the_pool_open(  # type: ignore[override]
        self, run: Callable[..., Program], notes: Notes, past: str
    ) -> None:
        InterpreterExit.test_the_interpreter_ends_with_the_pool_open(self, run, notes, past)


class TestOtherStartMethods(ProgramBase):
    """The heart of the fault table under the other start methods, with workers started on demand."""

    binding = BindElsewhere

    test_running = RunningTaskDies.test_a_task_that_ends_its_worker_is_told_how
    test_item = ItemDies.test_a_lost_item_under_each_start_method
    test_many = ManyDie.test_each_of_many_lost_tasks_gets_an_error_of_its_own
    test_at_one_instant = ManyDie.test_workers_that_die_at_one_instant_lose_only_their_own_tasks
    test_retries = Retries.test_each_task_has_its_own_count
    test_each_idle_worker = IdleWorkerDies.test_each_idle_worker_in_turn
    test_all_idle_workers = IdleWorkerDies.test_all_idle_workers_at_once
    test_while_pickling = DeathOnTheWay.test_killed_while_it_pickles_a_result
    _killed_in_the_hook = DeathOnTheWay._killed_in_the_hook
    test_exits = TaskExits.test_an_exit_is_an_error_and_the_worker_lives
    test_initializer = InitializerFails.test_every_task_is_told_why_no_worker_starts
    test_one_failed_start = InitializerFails.test_one_failed_start_alone_breaks_nothing
    test_endless = TaskNeverEnds.test_an_endless_task_is_stopped_and_says_where_it_stood
    test_dropped = PoolDropped.test_a_dropped_pool_is_collected
    test_ways = NothingChanges.test_each_way_under_each_start_method
    test_parent_killed = ParentKilled.test_no_worker_outlives_the_parent
    test_grandchildren = Grandchildren.test_a_death_is_seen_though_a_grandchild_holds_the_workers_pipes
    test_fork_server = Signals.test_the_fork_server_is_killed


class ExecutorTests(ContractBase):
    """The contract's fixtures, for this host."""

    binding = BindExecutor

    @pytest.fixture
    def bare(self) -> Any:
        """Return a bare executor of two forked workers, ended after the test however it is then."""
        pool = ProcessPoolExecutor(2, multiprocessing.get_context("fork"))
        yield pool
        within(ENDING, BindExecutor().terminate, pool)


class TestGuard(ExecutorTests):
    """`guard` takes an executor in any state."""

    def test_it_returns_the_same_object(self, bare: ProcessPoolExecutor) -> None:
        assert guard(bare) is bare
        assert type(bare) is ProcessPoolExecutor
        assert inspect.signature(bare.submit) == inspect.signature(ProcessPoolExecutor.submit.__get__(bare))

    def test_twice_is_once_with_the_later_policy(self, bare: ProcessPoolExecutor, notes: Notes) -> None:
        guard(guard(bare, timeout=20), retries=1)

        with pytest.raises(WorkerLostError):
            bare.submit(Noted(notes.path, die(1)), 1).result(DEADLINE)
        assert notes.items() == {"1": 2}

    def test_a_used_executor(self, host: BindExecutor, bare: ProcessPoolExecutor) -> None:
        assert list(bare.map(square, range(5))) == [0, 1, 4, 9, 16]
        guard(bare)

        with pytest.raises(WorkerLostError):
            bare.submit(kill_self()).result(DEADLINE)
        serves(host, bare)

    @pytest.mark.parametrize("count", [1, 2])
    def test_a_used_executor_whose_idle_workers_die(
        self, host: BindExecutor, bare: ProcessPoolExecutor, count: int
    ) -> None:
        assert list(bare.map(square, range(5))) == [0, 1, 4, 9, 16]
        pids = host.idle_pids(bare)
        guard(bare)

        for pid in pids[:count]:
            os.kill(pid, signal.SIGKILL)
        serves(host, bare)

    def test_a_busy_executor(self, bare: ProcessPoolExecutor, tmp_path: Any) -> None:
        early = [bare.submit(HeldUntil(tmp_path / "go"), n) for n in range(8)]
        early_map = bare.map(square, range(10), chunksize=3)
        guard(bare)
        late = bare.submit(square, 3)
        lost = bare.submit(kill_self())

        (tmp_path / "go").touch()

        assert [future.result(DEADLINE) for future in early] == list(range(8))
        assert list(early_map) == [n * n for n in range(10)]
        assert late.result(DEADLINE) == 9
        with pytest.raises(WorkerLostError):
            lost.result(DEADLINE)

    def test_a_busy_executor_one_of_whose_workers_dies(
        self, bare: ProcessPoolExecutor, notes: Notes, tmp_path: Any
    ) -> None:
        early = [bare.submit(Noted(notes.path, HeldUntil(tmp_path / "go")), n) for n in range(8)]
        pids = notes.pids(2)
        guard(bare)
        late = bare.submit(square, 3)

        os.kill(pids[0], signal.SIGKILL)
        all_gone(pids[:1])
        (tmp_path / "go").touch()

        # Nobody can know which of the two it was that ran in the dead one: its
        # own, and perhaps both, are lost; those that waited are not.
        assert late.result(DEADLINE) == 9
        errors = [future.exception(DEADLINE) for future in early]
        assert 1 <= sum(isinstance(error, WorkerLostError) for error in errors) <= 2
        assert [future.result() for future in early if not future.exception()][-6:] == list(range(2, 8))
        assert max(notes.items().values()) == 1

    def test_an_executor_that_starts_workers_on_demand(self, host: BindExecutor) -> None:
        with guard(ProcessPoolExecutor(4, multiprocessing.get_context("forkserver"))) as pool:
            pids = {pool.submit(pid_of_worker).result(DEADLINE) for _ in range(3)}
            assert pids == set(host.worker_pids(pool)), "one is enough for one task after the other"
            os.kill(pids.pop(), signal.SIGKILL)
            assert pool.submit(square, 3).result(DEADLINE) == 9
            with pytest.raises(WorkerLostError):
                pool.submit(kill_self()).result(DEADLINE)
            assert list(pool.map(square, range(100))) == [n * n for n in range(100)]
            assert len(host.worker_pids(pool)) <= 4

    def test_one_that_was_shut_down_is_refused(self, bare: ProcessPoolExecutor) -> None:
        bare.submit(square, 3).result(DEADLINE)
        bare.shutdown()

        with pytest.raises(ConfigurationError, match="shut down"):
            guard(bare)

    def test_a_subclass(self, host: BindExecutor) -> None:
        class Named(ProcessPoolExecutor):
            def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
                return super().submit(fn, *args, **kwargs)

        with guard(Named(2, multiprocessing.get_context("fork"))) as pool:
            assert isinstance(pool, Named)
            with pytest.raises(WorkerLostError):
                pool.submit(kill_self()).result(DEADLINE)
            serves(host, pool)


class TestUnguard(ExecutorTests):
    """`unguard` gives the executor back, behind what is on its way."""

    def test_the_executor_works_as_the_bare_one(self, host: BindExecutor, bare: ProcessPoolExecutor) -> None:
        before = set(vars(bare))
        guard(bare, timeout=20)
        serves(host, bare)
        unguard(bare)

        assert set(vars(bare)) == before
        assert list(bare.map(square, range(10), chunksize=3)) == [n * n for n in range(10)]
        future = bare.submit(kill_self())
        assert type(future.exception(DEADLINE)).__module__ == "concurrent.futures.process"

    def test_tasks_in_flight_end_under_the_old_rules(self, bare: ProcessPoolExecutor, tmp_path: Any) -> None:
        guard(bare)
        held = [bare.submit(HeldUntil(tmp_path / "go"), n) for n in range(2)]
        queued = bare.map(square, range(10), chunksize=3)
        lost = bare.submit(kill_self())
        unguard(bare)

        (tmp_path / "go").touch()

        assert [future.result(DEADLINE) for future in held] == [0, 1]
        assert list(queued) == [n * n for n in range(10)]
        with pytest.raises(WorkerLostError):
            lost.result(DEADLINE)
        assert bare.submit(square, 3).result(DEADLINE) == 9

    def test_nothing_is_posted_behind_the_last_message(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It reached the manager thread when that was the executor's again, and ended it."""
        reader, writer = multiprocessing.Pipe(duplex=False)
        messages = ManagerMessages(writer, on_outcome=print, on_failure=print)
        messages.let_through()
        posted: list[bytes] = []
        meanwhile = threading.Thread(target=messages.call_soon, args=(int,))

        def post(message: bytes) -> None:
            posted.append(message)
            if len(posted) == 1:
                meanwhile.start()
                # It comes no further than the lock.
                meanwhile.join(0.2)

        monkeypatch.setattr(messages._mailbox, "post", post)
        messages.call_last(int)
        meanwhile.join(DEADLINE)

        assert len(posted) == 1
        assert messages.is_held
        messages.close()
        reader.close()
        writer.close()

    def test_it_is_given_back_only_when_the_dead_are_replaced(
        self, host: BindExecutor, bare: ProcessPoolExecutor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The task of one is answered before: the bare executor took that death for its own end."""
        monkeypatch.setattr("poolwarden.core.guard.BURIAL_BOUND", 0)
        was_about_to = threading.Event()
        leave, buried = Unguarding._leave, ExecutorAdapter.buried

        def leave_and_tell(unguarding: Unguarding) -> None:
            leave(unguarding)
            was_about_to.set()

        def buried_late(adapter: ExecutorAdapter, *args: Any) -> None:
            was_about_to.wait(DEADLINE)
            buried(adapter, *args)

        guard(bare)
        serves(host, bare)
        monkeypatch.setattr(Unguarding, "_leave", leave_and_tell)
        monkeypatch.setattr(ExecutorAdapter, "buried", buried_late)
        lost = bare.submit(kill_self())
        unguard(bare)

        with pytest.raises(WorkerLostError):
            lost.result(DEADLINE)
        assert bare.submit(square, 3).result(DEADLINE) == 9

    def test_it_can_be_guarded_again(self, host: BindExecutor, bare: ProcessPoolExecutor) -> None:
        for _ in range(3):
            guard(bare)
            futures = [bare.submit(square, n) for n in range(20)]
            unguard(bare)
            guard(bare)
            with pytest.raises(WorkerLostError):
                bare.submit(kill_self()).result(DEADLINE)
            serves(host, bare)
            assert [future.result(DEADLINE) for future in futures] == [n * n for n in range(20)]
            unguard(bare)

    def test_one_that_is_not_guarded_is_left_alone(self, bare: ProcessPoolExecutor) -> None:
        unguard(bare)
        assert bare.submit(square, 3).result(DEADLINE) == 9


class TestInstall(ExecutorTests):
    """`install` guards executors made from now on; `uninstall` takes it all back."""

    @pytest.fixture(autouse=True)
    def _installed(self) -> Any:
        self.before = self.attributes()
        install()
        yield
        uninstall()

    @staticmethod
    def attributes() -> dict[str, Any]:
        """Return what the host's module and its two classes consist of."""
        module = concurrent.futures.process
        found = {f"module.{name}": value for name, value in vars(module).items()}
        for cls in (ProcessPoolExecutor, module._ExecutorManagerThread):  # type: ignore[attr-defined]
            found.update({f"{cls.__name__}.{name}": value for name, value in vars(cls).items()})
        return {name: value for name, value in found.items() if not name.endswith("__") or "init" in name}

    def test_executors_made_afterwards_are_guarded(self, host: BindExecutor) -> None:
        with ProcessPoolExecutor(2) as pool:
            with pytest.raises(WorkerLostError):
                pool.submit(kill_self()).result(DEADLINE)
            serves(host, pool)

    def test_uninstall_restores_every_attribute(self) -> None:
        with ProcessPoolExecutor(1) as pool:
            pool.submit(square, 3).result(DEADLINE)
        uninstall()

        after = self.attributes()
        assert after.keys() == self.before.keys()
        assert [name for name in after if after[name] is not self.before[name]] == []


class TestCancel(ExecutorTests):
    """The future's own ``cancel``, and `poolwarden.cancel`, which stops a running task too."""

    def test_the_futures_own(self, make_pool: Pools, notes: Notes, tmp_path: Any) -> None:
        pool = make_pool(1)
        running = pool.submit(Noted(notes.path, HeldUntil(tmp_path / "go")), 1)
        notes.pids()
        queued = [pool.submit(Noted(notes.path, square), n) for n in (2, 3, 4, 5)]

        assert running.cancel() is False
        assert queued[-1].cancel() is True
        (tmp_path / "go").touch()

        assert running.result(DEADLINE) == 1
        assert [future.result(DEADLINE) for future in queued[:-1]] == [4, 9, 16]
        assert queued[-1].cancelled()
        assert "5" not in notes.items()

    @pytest.mark.parametrize("fault", [hang(), hold_gil()], ids=repr)
    def test_a_running_task(self, make_pool: Pools, notes: Notes, fault: Any) -> None:
        pool = make_pool(retries=3)
        running = pool.submit(Noted(notes.path, fault), 1)
        others = [pool.submit(square, n) for n in range(5)]
        (pid,) = notes.pids()

        assert cancel(running) is True

        with pytest.raises(CancelledError):
            running.result(DEADLINE)
        assert running.cancelled()
        all_gone([pid])
        assert [other.result(DEADLINE) for other in others] == [0, 1, 4, 9, 16]
        assert notes.items() == {"1": 1}, "it is no loss, and not run again"

    def test_everybody_who_waits_is_told(self, make_pool: Pools, notes: Notes) -> None:
        pool = make_pool()
        running = pool.submit(Noted(notes.path, hang()), 1)
        called = threading.Event()
        running.add_done_callback(lambda _: called.set())
        notes.pids()

        cancel(running)

        done, rest = wait([running], DEADLINE)
        assert (done, rest) == ({running}, set())
        assert list(as_completed([running], DEADLINE)) == [running]
        assert called.wait(DEADLINE)

    def test_one_that_waits_in_the_queue(self, make_pool: Pools, notes: Notes, tmp_path: Any) -> None:
        pool = make_pool(1)
        running = pool.submit(Noted(notes.path, HeldUntil(tmp_path / "go")), 1)
        notes.pids()
        # Two of them have left for the worker, as far as their futures know.
        waiting = [pool.submit(Noted(notes.path, square), n) for n in (2, 3, 4)]

        assert [cancel(future) for future in waiting] == [True] * 3
        (tmp_path / "go").touch()

        for future in waiting:
            with pytest.raises(CancelledError):
                future.result(DEADLINE)
        assert running.result(DEADLINE) == 1

    def test_one_that_had_ended(self, make_pool: Pools) -> None:
        future = make_pool().submit(square, 3)
        assert future.result(DEADLINE) == 9

        assert cancel(future) is False
        assert future.result(1) == 9

    def test_futures_of_others_are_refused(self, bare: ProcessPoolExecutor, tmp_path: Any) -> None:
        running = bare.submit(HeldUntil(tmp_path / "go"), 3)
        for future in (running, Future[Any]()):
            with pytest.raises(TypeError):
                cancel(future)
            assert not future.cancelled()
        (tmp_path / "go").touch()
        assert running.result(DEADLINE) == 3


def test_a_file_of_the_users_may_be_named_like_one_of_the_hosts(tmp_path: Path) -> None:
    module = tmp_path / "my_process_executor.py"
    module.write_text("def submit(pool, func):\n    return pool.submit(func)\n")
    found: dict[str, Any] = {}
    exec(compile(module.read_text(), str(module), "exec"), found)
    with guard(ProcessPoolExecutor(1)) as pool:
        error = found["submit"](pool, die(3)).exception(DEADLINE)
    assert isinstance(error, WorkerLostError)
    assert error.task.site == f"{module}:2"
