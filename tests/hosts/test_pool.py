"""`multiprocessing.Pool`: the contract, and what only this host has."""

from __future__ import annotations

import gc
import inspect
import logging
import multiprocessing
import multiprocessing.pool
import os
import pickle
import signal
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from multiprocessing import resource_sharer
from multiprocessing.pool import Pool, ThreadPool
from typing import Any

import pytest

import poolwarden
from poolwarden import (
    ConfigurationError,
    PoolBrokenError,
    TaskTimeoutError,
    WorkerLostError,
    cancel,
    guard,
    install,
    unguard,
    uninstall,
)
from poolwarden.testing import die, fail, hang, hold_gil, kill_self, once, only_for
from tests.contract.base import ContractBase, Notes, Pools, serves
from tests.contract.suite import PoolContract
from tests.contract.tasks import (
    HeldUntil,
    Noted,
    TwoArgumentsError,
    pid_of_worker,
    raise_two_arguments,
    same,
    square,
)
from tests.contract.waiting import DEADLINE, ENDING, all_gone, eventually, within
from tests.hosts.bind_pool import BindPool


class TestPool(PoolContract):
    """The fault table, see `tests.contract`."""

    binding = BindPool


class PoolTests(ContractBase):
    """The contract's fixtures, for this host."""

    binding = BindPool


class TestGuard(PoolTests):
    """`guard` changes the pool it is given, and nothing a user can see of it."""

    @pytest.fixture
    def pool(self, request: pytest.FixtureRequest) -> Any:
        pool = Pool(2)
        yield pool
        within(ENDING, pool.terminate)
        pool.join()
        del request.node.funcargs["pool"]  # or it outlives the check of what is left

    def test_it_returns_the_same_object(self, pool: Pool) -> None:
        assert guard(pool) is pool
        assert isinstance(pool, Pool)

    def test_the_class_looks_the_same(self, pool: Pool) -> None:
        guard(pool)

        assert type(pool).__name__ == "Pool"
        assert type(pool).__module__ == "multiprocessing.pool"
        for name in ("apply", "apply_async", "map", "map_async", "starmap", "imap", "close", "terminate"):
            assert inspect.signature(getattr(Pool, name)) == inspect.signature(getattr(type(pool), name))

    def test_twice_is_once_with_the_later_policy(self, pool: Pool, notes: Notes) -> None:
        guard(pool, timeout=20)
        cls = type(pool)
        assert guard(pool, retries=1) is pool
        assert type(pool) is cls

        with pytest.raises(WorkerLostError):
            pool.apply_async(Noted(notes.path, die(1)), (1,)).get(DEADLINE)
        assert notes.items() == {"1": 2}

    def test_a_used_pool(self, host: BindPool, pool: Pool) -> None:
        assert pool.map(square, range(5)) == [0, 1, 4, 9, 16]
        guard(pool)

        with pytest.raises(WorkerLostError):
            pool.apply_async(kill_self()).get(DEADLINE)
        serves(host, pool)

    def test_a_used_pool_whose_idle_workers_die(self, host: BindPool, pool: Pool) -> None:
        assert pool.map(square, range(5)) == [0, 1, 4, 9, 16]
        guard(pool)

        for pid in host.worker_pids(pool):
            os.kill(pid, signal.SIGKILL)
        serves(host, pool)

    def test_a_busy_pool(self, host: BindPool, pool: Pool, tmp_path: Any) -> None:
        early = [pool.apply_async(HeldUntil(tmp_path / "go"), (n,)) for n in range(4)]
        early_map = pool.map_async(square, range(10), 3)
        guard(pool)
        late = pool.apply_async(square, (3,))
        lost = pool.apply_async(kill_self())

        (tmp_path / "go").touch()

        assert [handle.get(DEADLINE) for handle in early] == [0, 1, 2, 3]
        assert early_map.get(DEADLINE) == [n * n for n in range(10)]
        assert late.get(DEADLINE) == 9
        with pytest.raises(WorkerLostError):
            lost.get(DEADLINE)

    @pytest.mark.parametrize("option", [{"timeout": 0}, {"retries": -1}, {"losses": "drop"}, {"grace": -1}])
    def test_a_bad_option_leaves_the_pool_as_it_was(self, pool: Pool, option: dict[str, Any]) -> None:
        with pytest.raises(ConfigurationError):
            guard(pool, **option)

        assert type(pool) is Pool
        assert pool.apply_async(square, (3,)).get(DEADLINE) == 9

    def test_an_unknown_option_is_a_type_error(self, pool: Pool) -> None:
        with pytest.raises(TypeError):
            guard(pool, timeut=3)  # type: ignore[call-arg]

    @pytest.mark.parametrize(
        "make", [lambda: ThreadPool(1), lambda: ThreadPoolExecutor(1), list, lambda: None, lambda: Pool]
    )
    def test_anything_else_is_refused_naming_what_is_supported(self, make: Any) -> None:
        other = make()
        try:
            with pytest.raises(TypeError, match=r"(?s)multiprocessing.*Pool"):
                guard(other)
        finally:
            if isinstance(other, ThreadPool):
                other.terminate()
                other.join()

    def test_a_closed_pool_still_finishes(self, pool: Pool) -> None:
        handle = pool.map_async(square, range(20), 2)
        pool.close()
        guard(pool)

        within(ENDING, pool.join)
        assert handle.get(1) == [n * n for n in range(20)]

    def test_using_a_closed_pool_is_the_hosts_own_error(self, pool: Pool) -> None:
        guard(pool)
        pool.close()
        with pytest.raises(ValueError, match="Pool not running"):
            pool.apply(square, (3,))

    def test_a_guarded_pool_is_still_refused_by_pickle(self, pool: Pool) -> None:
        guard(pool)
        with pytest.raises(NotImplementedError):
            pickle.dumps(pool)

    def test_a_subclass_with_slots_and_methods_of_its_own(self, host: BindPool) -> None:
        with within(DEADLINE, guard, NamedPool("seven", 2)) as pool:
            assert isinstance(pool, NamedPool)
            assert pool.name == "seven"
            assert pool.squares([1, 2, 3]) == [1, 4, 9]
            with pytest.raises(WorkerLostError):
                pool.apply_async(kill_self()).get(DEADLINE)
            serves(host, pool)

    def test_context_pools_and_pools_made_by_the_module(self, host: BindPool) -> None:
        for make in (multiprocessing.Pool, multiprocessing.get_context("spawn").Pool):
            with guard(make(1)) as pool:
                serves(host, pool)


class TestUnguard(PoolTests):
    """`unguard` gives the host its pool back."""

    def test_the_type_is_restored_and_the_pool_works(self, host: BindPool) -> None:
        pool = guard(Pool(2), timeout=20)
        try:
            serves(host, pool)
            unguard(pool)

            assert type(pool) is Pool
            assert pool.map(square, range(10), 3) == [n * n for n in range(10)]
        finally:
            within(ENDING, pool.terminate)
            pool.join()

    def test_tasks_in_flight_end_under_the_old_rules(self, tmp_path: Any) -> None:
        pool = guard(Pool(2))
        try:
            held = [pool.apply_async(HeldUntil(tmp_path / "go"), (n,)) for n in range(2)]
            queued = pool.map_async(square, range(10), 3)
            lost = pool.apply_async(kill_self())
            unguard(pool)

            (tmp_path / "go").touch()

            assert [handle.get(DEADLINE) for handle in held] == [0, 1]
            assert queued.get(DEADLINE) == [n * n for n in range(10)]
            with pytest.raises(WorkerLostError):
                lost.get(DEADLINE)
        finally:
            within(ENDING, pool.terminate)
            pool.join()

    def test_it_can_be_guarded_again(self, host: BindPool) -> None:
        pool = guard(Pool(2))
        try:
            unguard(pool)
            guard(pool)
            with pytest.raises(WorkerLostError):
                pool.apply_async(kill_self()).get(DEADLINE)
            serves(host, pool)
        finally:
            within(ENDING, pool.terminate)
            pool.join()

    def test_one_that_is_not_guarded_is_left_alone(self) -> None:
        with Pool(1) as pool:
            unguard(pool)
            assert type(pool) is Pool
            assert pool.apply_async(square, (3,)).get(DEADLINE) == 9


class TestInstall(PoolTests):
    """`install` guards every pool made from now on; `uninstall` takes it all back."""

    @pytest.fixture(autouse=True)
    def _installed(self) -> Any:
        self.before = self.attributes()
        install(retries=0)
        yield
        uninstall()

    @staticmethod
    def attributes() -> dict[str, Any]:
        """Return what the host's module and classes consist of."""
        found = {f"module.{name}": value for name, value in vars(multiprocessing.pool).items()}
        for cls in (Pool, ThreadPool):
            found.update({f"{cls.__name__}.{name}": value for name, value in vars(cls).items()})
        return {name: value for name, value in found.items() if "__" not in name or name.endswith("init__")}

    @pytest.mark.parametrize("method", BindPool.start_methods)
    def test_pools_made_afterwards_are_guarded(self, host: BindPool, method: str) -> None:
        with multiprocessing.get_context(method).Pool(2) as pool:
            with pytest.raises(WorkerLostError):
                pool.apply_async(kill_self()).get(DEADLINE)
            serves(host, pool)

    def test_subclasses_are_guarded_too(self, host: BindPool) -> None:
        with NamedPool("seven", 2) as pool:
            with pytest.raises(WorkerLostError):
                pool.apply_async(kill_self()).get(DEADLINE)
            assert pool.name == "seven"
            serves(host, pool)

    def test_thread_pools_are_not_touched(self) -> None:
        with ThreadPool(2) as pool:
            assert type(pool) is ThreadPool
            assert pool.map(square, range(5)) == [0, 1, 4, 9, 16]

    def test_uninstall_restores_every_attribute(self) -> None:
        with Pool(1):
            pass
        uninstall()

        after = self.attributes()
        assert after.keys() == self.before.keys()
        assert [name for name in after if after[name] is not self.before[name]] == []
        with Pool(1) as pool:
            assert type(pool) is Pool

    def test_twice_is_once_with_the_later_policy(self, notes: Notes) -> None:
        install(retries=1)
        with Pool(1) as pool, pytest.raises(WorkerLostError):
            pool.apply_async(Noted(notes.path, die(1)), (1,)).get(DEADLINE)
        assert notes.items() == {"1": 2}
        uninstall()
        with Pool(1) as pool:
            assert type(pool) is Pool

    def test_pools_made_under_it_stay_guarded_after_uninstall(self, host: BindPool) -> None:
        with Pool(2) as pool:
            uninstall()
            with pytest.raises(WorkerLostError):
                pool.apply_async(kill_self()).get(DEADLINE)
            serves(host, pool)

    def test_a_bad_option_installs_nothing(self) -> None:
        uninstall()
        with pytest.raises(ConfigurationError):
            install(timeout=-1)
        assert type(self)._is_bare()

    @staticmethod
    def _is_bare() -> bool:
        with Pool(1) as pool:
            return type(pool) is Pool


class TestCancel(PoolTests):
    """`cancel` stops a running task; that task alone ends with `CancelledError`."""

    @pytest.mark.every_start_method
    @pytest.mark.parametrize("fault", [hang(), hold_gil()], ids=repr)
    def test_a_running_task(self, make_pool: Pools, notes: Notes, fault: Any) -> None:
        pool = make_pool()
        running = pool.apply_async(Noted(notes.path, fault), (1,))
        others = [pool.apply_async(square, (n,)) for n in range(5)]
        (pid,) = notes.pids()

        assert cancel(running) is True

        with pytest.raises(CancelledError):
            running.get(DEADLINE)
        all_gone([pid])
        assert [other.get(DEADLINE) for other in others] == [0, 1, 4, 9, 16]
        assert notes.items() == {"1": 1}

    def test_one_that_had_ended(self, make_pool: Pools) -> None:
        handle = make_pool().apply_async(square, (3,))
        handle.get(DEADLINE)

        assert cancel(handle) is False
        assert handle.get(1) == 9

    def test_one_that_waits_in_the_queue(self, make_pool: Pools, tmp_path: Any) -> None:
        pool = make_pool(1)
        running = pool.apply_async(HeldUntil(tmp_path / "go"), (1,))
        # In the pipe already, so a worker may begin it, and even end it before it is stopped.
        waiting = pool.apply_async(square, (2,))

        assert cancel(waiting) is True
        (tmp_path / "go").touch()

        with pytest.raises(CancelledError):
            waiting.get(DEADLINE)
        assert running.get(DEADLINE) == 1

    def test_a_whole_map(self, make_pool: Pools, notes: Notes) -> None:
        pool = make_pool()
        running = pool.map_async(Noted(notes.path, hang()), range(6), 1)
        notes.pids(2)

        assert cancel(running) is True

        with pytest.raises(CancelledError):
            running.get(DEADLINE)

    def test_it_is_no_loss_and_is_not_retried(self, make_pool: Pools, notes: Notes) -> None:
        pool = make_pool(retries=3)
        running = pool.apply_async(Noted(notes.path, hang()), (1,))
        notes.pids()

        assert cancel(running) is True

        with pytest.raises(CancelledError):
            running.get(DEADLINE)
        assert notes.items() == {"1": 1}

    def test_handles_of_other_pools_are_refused(self) -> None:
        with Pool(1) as pool:
            handle = pool.apply_async(square, (3,))
            with pytest.raises(TypeError):
                cancel(handle)
            assert handle.get(DEADLINE) == 9


class TestCallbacks(PoolTests):
    """Row 16 and healthy behaviour of `callback` and `error_callback`."""

    def test_each_is_called_once_with_the_outcome(self, make_pool: Pools) -> None:
        pool = make_pool()
        seen: list[Any] = []
        done = threading.Semaphore(0)

        def note(value: Any) -> None:
            seen.append(value)
            done.release()

        pool.apply_async(square, (3,), callback=note, error_callback=note)
        pool.map_async(square, range(3), 1, callback=note, error_callback=note)
        pool.starmap_async(pow, [(2, 3), (3, 2)], callback=note, error_callback=note)
        pool.apply_async(fail(ValueError("x")), callback=note, error_callback=note)
        pool.apply_async(kill_self(), callback=note, error_callback=note)
        pool.map_async(only_for(1, die(1), square), range(3), 1, callback=note, error_callback=note)
        for _ in range(6):
            assert done.acquire(timeout=DEADLINE)
        serves(BindPool(), pool)

        kinds = sorted(type(value).__name__ for value in seen)
        assert kinds == ["ValueError", "WorkerLostError", "WorkerLostError", "int", "list", "list"]
        assert 9 in seen
        assert [0, 1, 4] in seen
        assert [8, 9] in seen

    @pytest.mark.parametrize("kind", [RuntimeError, SystemExit, KeyboardInterrupt])
    def test_one_that_raises_costs_no_result(
        self, make_pool: Pools, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
    ) -> None:
        pool = make_pool()
        # Not by caplog: it would keep the records, and by their tracebacks the pool.
        told: list[Any] = []
        handler = logging.Handler()
        monkeypatch.setattr(
            handler, "emit", lambda record: told.append(record.exc_info and record.exc_info[0])
        )
        logger = logging.getLogger("poolwarden")
        monkeypatch.setattr(logger, "handlers", [handler])
        monkeypatch.setattr(logger, "propagate", False)

        def boom(_: Any) -> None:
            raise kind("the user's own mistake")

        handles = [
            pool.apply_async(square, (3,), callback=boom),
            pool.map_async(square, range(3), callback=boom),
            pool.apply_async(kill_self(), error_callback=boom),
            pool.apply_async(fail(ValueError("x")), error_callback=boom),
        ]

        assert handles[0].get(DEADLINE) == 9
        assert handles[1].get(DEADLINE) == [0, 1, 4]
        with pytest.raises(WorkerLostError):
            handles[2].get(DEADLINE)
        with pytest.raises(ValueError, match="x"):
            handles[3].get(DEADLINE)
        eventually(lambda: told.count(kind) == len(handles), "a line in the log for each error")

    def test_a_callback_may_use_the_pool(self, make_pool: Pools) -> None:
        pool = make_pool()
        more: list[Any] = []
        done = threading.Event()

        def submit(_: Any) -> None:
            more.append(pool.apply_async(square, (4,)))
            done.set()

        pool.apply_async(kill_self(), error_callback=submit)

        assert done.wait(DEADLINE)
        assert more[0].get(DEADLINE) == 16

    def test_who_keeps_close_keeps_the_pool(self, host: BindPool) -> None:
        close = host.make_pool().close
        gc.collect()

        close()
        assert close.__self__._state == "CLOSE"
        within(ENDING, close.__self__.join)

    def test_on_event_may_use_the_pool(self, make_pool: Pools) -> None:
        more: list[Any] = []
        done = threading.Event()

        def submit(_: Any) -> None:
            if not more:
                more.append(pool.apply_async(square, (4,)))
                done.set()

        pool = make_pool(on_event=submit)
        with pytest.raises(WorkerLostError):
            pool.apply_async(kill_self()).get(DEADLINE)

        assert done.wait(DEADLINE)
        assert more[0].get(DEADLINE) == 16


class TestMethods(PoolTests):
    """What the eight methods promise beyond results."""

    def test_keyword_arguments(self, make_pool: Pools) -> None:
        pool = make_pool()
        assert pool.apply_async(int, ("ff",), {"base": 16}).get(DEADLINE) == 255
        assert within(DEADLINE, pool.apply, int, ("77",), {"base": 8}) == 63

    def test_imap_takes_from_an_endless_iterator(self, make_pool: Pools) -> None:
        def numbers() -> Any:
            yield from range(10)
            go_on.wait(DEADLINE)

        go_on = threading.Event()
        results = make_pool().imap(square, numbers())

        assert [results.next(DEADLINE) for _ in range(10)] == [n * n for n in range(10)]
        with pytest.raises(multiprocessing.TimeoutError):
            results.next(0.01)
        go_on.set()
        with pytest.raises(StopIteration):
            results.next(DEADLINE)

    @pytest.mark.parametrize("method", ["imap", "imap_unordered", "map_async"])
    def test_an_iterable_that_raises(self, make_pool: Pools, method: str) -> None:
        def numbers() -> Any:
            yield 1
            yield 2
            raise LookupError("out of numbers")

        pool = make_pool()

        def use() -> None:
            results = getattr(pool, method)(square, numbers())
            for _ in range(3):
                results.next(DEADLINE)

        with pytest.raises(LookupError, match="out of numbers"):
            use()

    def test_imap_goes_on_after_a_lost_item(self, make_pool: Pools) -> None:
        results = make_pool().imap(only_for(1, kill_self(), square), range(4))

        assert results.next(DEADLINE) == 0
        with pytest.raises(WorkerLostError) as caught:
            results.next(DEADLINE)
        assert caught.value.task.index == 1
        assert [results.next(DEADLINE), results.next(DEADLINE)] == [4, 9]
        with pytest.raises(StopIteration):
            results.next(DEADLINE)

    def test_map_raises_the_error_of_the_task_only_after_the_rest(
        self, make_pool: Pools, notes: Notes
    ) -> None:
        handle = make_pool().map_async(Noted(notes.path, only_for(0, die(1), square)), range(30), 1)

        with pytest.raises(WorkerLostError):
            handle.get(DEADLINE)
        assert notes.items() == {str(n): 1 for n in range(30)}
        assert handle.ready()
        assert handle.successful() is False

    def test_a_map_while_no_worker_is_there_waits_for_one(self, host: BindPool) -> None:
        with guard(host.make_bare(1)) as pool:
            with pool._poolwarden.guard.births:  # type: ignore[attr-defined]
                lost = pool.apply_async(die(3))
                eventually(lambda: not pool._pool, "the pool takes the dead worker off its list")  # type: ignore[attr-defined]
                later = pool.map_async(square, iter(range(9)))
            with pytest.raises(WorkerLostError):
                lost.get(DEADLINE)
            assert later.get(DEADLINE) == [n * n for n in range(9)]

    def test_get_with_a_timeout_raises_the_hosts_own(self, make_pool: Pools, tmp_path: Any) -> None:
        handle = make_pool().apply_async(HeldUntil(tmp_path / "go"), (5,))

        with pytest.raises(multiprocessing.TimeoutError) as caught:
            handle.get(0.05)
        assert not isinstance(caught.value, TaskTimeoutError)
        (tmp_path / "go").touch()
        assert handle.get(DEADLINE) == 5

    def test_the_error_shows_the_line_that_submitted(self, make_pool: Pools) -> None:
        pool = make_pool()
        line = inspect.currentframe().f_lineno + 1
        handle = pool.apply_async(kill_self())

        with pytest.raises(WorkerLostError) as caught:
            handle.get(DEADLINE)
        assert caught.value.task.site.endswith(f"test_pool.py:{line}")

    def test_two_threads_may_submit_at_once(self, make_pool: Pools) -> None:
        pool = make_pool(3)
        outcomes: dict[int, Any] = {}

        def use(seed: int) -> None:
            handles = [pool.apply_async(square, (n,)) for n in range(seed, seed + 200)]
            lost = pool.apply_async(kill_self())
            outcomes[seed] = [handle.get(DEADLINE) for handle in handles]
            with pytest.raises(WorkerLostError):
                lost.get(DEADLINE)

        threads = [threading.Thread(target=use, args=(seed,)) for seed in (0, 1000, 2000)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)

        assert outcomes == {seed: [n * n for n in range(seed, seed + 200)] for seed in (0, 1000, 2000)}

    def test_several_pools_do_not_mind_each_other(self, host: BindPool, make_pool: Pools) -> None:
        one, other = make_pool(), make_pool()
        with pytest.raises(WorkerLostError):
            one.apply_async(kill_self()).get(DEADLINE)
        for pid in host.worker_pids(other):
            os.kill(pid, signal.SIGKILL)
        serves(host, one)
        serves(host, other)

    def test_ending_twice_and_in_either_order(self, make_pool: Pools) -> None:
        for ends in (["close", "join", "terminate", "join"], ["terminate", "terminate", "join", "close"]):
            pool = make_pool(usable_after=False)
            serves(BindPool(), pool)
            for end in ends:
                within(ENDING, getattr(pool, end))

    def test_a_loss_leaves_maxtasksperchild_working(self, host: BindPool, make_pool: Pools) -> None:
        pool = make_pool(2, maxtasksperchild=2)
        for _ in range(3):
            with pytest.raises(WorkerLostError):
                pool.apply_async(kill_self()).get(DEADLINE)
            pids = [pool.apply_async(pid_of_worker).get(DEADLINE) for _ in range(6)]
            assert max(map(pids.count, pids)) <= 2

    def test_a_worker_that_retires_after_its_last_task_loses_nothing(self, make_pool: Pools) -> None:
        pool = make_pool(3, maxtasksperchild=1)
        assert pool.map_async(square, range(60), 1).get(DEADLINE) == [n * n for n in range(60)]

    def test_a_child_forked_by_the_user_can_make_pools_of_its_own(
        self, host: BindPool, make_pool: Pools
    ) -> None:
        serves(host, make_pool())
        child = multiprocessing.get_context("fork").Process(target=_use_a_pool)
        child.start()
        child.join(DEADLINE)

        assert child.exitcode == 0


class TestBroken(PoolTests):
    """A pool that cannot go on says so to everybody, in the host's own terms."""

    def test_an_imap_in_progress_ends(self, make_pool: Pools, notes: Notes) -> None:
        pool = make_pool(usable_after=False)
        results = pool.imap(Noted(notes.path, only_for(0, square, hang())), range(6))
        assert results.next(DEADLINE) == 0
        notes.pids(3)

        within(ENDING, pool.terminate)

        with pytest.raises(PoolBrokenError):
            results.next(DEADLINE)

    def test_exceptions_that_do_not_unpickle_leave_the_result_thread_alive(self, make_pool: Pools) -> None:
        pool = make_pool()
        for _ in range(3):
            with pytest.raises(poolwarden.PayloadError):
                pool.apply_async(raise_two_arguments).get(DEADLINE)
        with pytest.raises(TypeError):  # or the test above proves nothing
            pickle.loads(pickle.dumps(TwoArgumentsError("answer", 42)))

    def test_large_payloads_of_a_terminated_pool_are_removed(self, make_pool: Pools, tmp_path: Any) -> None:
        pool = make_pool(usable_after=False)
        for _ in range(3):
            pool.apply_async(HeldUntil(tmp_path / "never"), (b"x" * 100_000,))
        handle = pool.apply_async(same, (b"x" * 100_000,))
        del handle

        within(ENDING, pool.terminate)
        gc.collect()
        # that no file is left is checked after each test


class TestDescriptors(ContractBase):
    """A descriptor in a call is fetched by the worker that unpickles it, and by one only."""

    binding = BindPool

    def test_a_call_with_a_connection_is_not_run_again(self, make_pool: Pools, tmp_path: Any) -> None:
        pool = make_pool(retries=3)
        reader, writer = multiprocessing.Pipe(duplex=False)
        try:
            with pytest.raises(WorkerLostError):
                pool.apply_async(once(tmp_path / "lost", kill_self(), type), (writer,)).get(DEADLINE)
            assert pool.apply_async(once(tmp_path / "again", kill_self(), same), (3,)).get(DEADLINE) == 3
        finally:
            resource_sharer.stop(DEADLINE)
            reader.close()
            writer.close()


class NamedPool(Pool):
    """A user's subclass: slots, a constructor and methods of its own."""

    __slots__ = ("name",)

    def __init__(self, name: str, *args: Any, **kwargs: Any) -> None:
        self.name = name
        super().__init__(*args, **kwargs)

    def squares(self, numbers: list[int]) -> list[int]:
        return self.map(square, numbers)


def _use_a_pool() -> None:
    with guard(Pool(2)) as pool:
        serves(BindPool(), pool)
        with pytest.raises(WorkerLostError):
            pool.apply_async(kill_self()).get(DEADLINE)
        serves(BindPool(), pool)
