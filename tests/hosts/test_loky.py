"""loky and the copy of it in joblib: the contract, and what only this host has."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

from poolwarden import PoolBrokenError, WorkerLostError, guard, install, unguard, uninstall
from poolwarden.testing import deaf, die, hang, hold_gil, kill_self, once
from tests.contract.base import ContractBase, Notes, Pools, serves
from tests.contract.binding import Way
from tests.contract.deaths import ItemDies, RunningTaskDies
from tests.contract.ending import PoolEnds
from tests.contract.healthy import NothingChanges
from tests.contract.idle_deaths import DeathOnTheWay, IdleWorkerDies, kill_if_there
from tests.contract.payloads import TaskExits
from tests.contract.starting import InitializerFails
from tests.contract.suite import PoolContract
from tests.contract.surroundings import InterpreterExit, ParentKilled, Program, ProgramBase
from tests.contract.tasks import HeldUntil, Noted, Returning, pid_of_worker, same, square
from tests.contract.waiting import DEADLINE, ENDING, all_gone, eventually, within
from tests.hosts.bind_loky import BindElsewhere, BindJoblib, BindLate, BindLoky, BindReusable

loky = pytest.importorskip("loky")

VERSION = tuple(int(part) for part in loky.__version__.split(".")[:2])

# loky's own words for a worker that leaves while tasks wait, as some do here.
LEAVING = pytest.mark.filterwarnings("ignore:A worker (was restarted|stopped) .*:UserWarning")


@pytest.fixture(scope="module", autouse=True)
def warm_loky(warm: None) -> None:
    """Start what stays for the whole process: loky's trackers, and the workers' lifeline."""
    for binding in (BindLoky, BindJoblib):
        try:
            host = binding()
            host.close(host.make_pool(1))
        except ImportError:
            continue


class TestLoky(PoolContract):
    """The fault table, see `tests.contract`.

    What is replaced here cannot be asked of loky: it has no limit of tasks for
    a worker; it, the interpreter's exit included, waits for tasks that run; it
    pickles lambdas. Its workers take too long to start for kills every few
    milliseconds, see `test_random_kills`, and for a start within half a second.
    """

    binding = BindLoky
    variations: ClassVar[int] = 1

    test_workers_are_recycled_as_asked_and_nothing_is_lost = None
    test_a_stream_of_short_tasks_under_random_kills = None

    @pytest.mark.parametrize("fault", [hang(), deaf(hang()), hold_gil()], ids=repr)
    def test_the_pool_ends_while_every_worker_is_stuck(  # type: ignore[override]
        self, host: BindLoky, make_pool: Pools, notes: Notes, fault: Any
    ) -> None:
        PoolEnds.test_the_pool_ends_while_every_worker_is_stuck(
            self, host, make_pool, notes, "terminate", fault
        )

    @pytest.mark.parametrize("past", ["nothing", "lost", "idle_killed"])
    def test_the_interpreter_ends_with_the_pool_open(  # type: ignore[override]
        self, run: Callable[..., Program], notes: Notes, past: str
    ) -> None:
        InterpreterExit.test_the_interpreter_ends_with_the_pool_open(self, run, notes, past)

    def test_an_initializer_that_outlasts_its_time_is_stopped(  # type: ignore[override]
        self, host: BindLoky, make_pool: Pools, notes: Notes
    ) -> None:
        """With time enough to get to the initializer, which here is most of a start."""
        pool = make_pool(usable_after=False, initializer=Noted(notes.path, hang()), startup_timeout=2)

        with pytest.raises(PoolBrokenError):
            host.result(host.submit(pool, square, 1))

        within(ENDING, host.terminate, pool)
        all_gone(notes.pids(1))

    @pytest.mark.parametrize("where", ["function", "argument", "result"])
    def test_the_error_is_the_one_of_the_bare_host(  # type: ignore[override]
        self, host: BindLoky, make_pool: Pools, where: str
    ) -> None:
        lock = threading.Lock()
        func, *args = {
            "function": (partial(same, lock),),
            "argument": (same, lock),
            "result": (Returning(threading.Lock),),
        }[where]
        bare = host.make_bare(1)
        without = host.submit(bare, func, *args).exception(DEADLINE)
        host.terminate(bare)

        guarded = host.submit(make_pool(1), func, *args).exception(DEADLINE)

        assert type(guarded) is type(without)
        assert str(guarded) == str(without)
        assert type(guarded.__cause__) is type(without.__cause__)
        assert "cannot pickle" in str(guarded.__cause__)

    @pytest.mark.parametrize("guarded", [True, False], ids=["guarded-inside", "bare-inside"])
    def test_a_nested_pool_works(  # type: ignore[override]
        self, host: BindLoky, make_pool: Pools, tmp_path: Path, guarded: bool
    ) -> None:
        if not guarded and VERSION < (3, 5) and sys.version_info >= (3, 14):
            pytest.skip("two bare executors of loky 3.4, one in the other, hang on Python 3.14: EBADF")
        PoolContract.test_a_nested_pool_works(self, host, make_pool, tmp_path, guarded)

    def test_an_argument_that_cannot_be_pickled_in_every_way(
        self, host: BindLoky, make_pool: Pools, way: Way
    ) -> None:
        answers = way.call(make_pool(), same, [1, threading.Lock()])

        assert "Could not pickle" in str(answers.error)


class TestElsewhere(ContractBase):
    """The heart of the fault table under other start methods."""

    binding = BindElsewhere
    variations: ClassVar[int] = 2

    test_running = RunningTaskDies.test_a_task_that_ends_its_worker_is_told_how
    test_item = ItemDies.test_a_lost_item_under_each_start_method
    test_all_idle = IdleWorkerDies.test_all_idle_workers_at_once
    test_ways = NothingChanges.test_each_way_under_each_start_method


class TestJoblibsCopy(ContractBase):
    """The heart of the fault table for the classes in joblib."""

    binding = BindJoblib
    variations: ClassVar[int] = 1

    @pytest.fixture(autouse=True)
    def joblib(self) -> None:
        pytest.importorskip("joblib.externals.loky")

    test_running = RunningTaskDies.test_a_task_that_ends_its_worker_is_told_how
    test_all_idle = IdleWorkerDies.test_all_idle_workers_at_once
    test_ways = NothingChanges.test_each_way_under_each_start_method
    test_ends = PoolEnds.test_the_pool_ends_after

    def test_errors_are_those_of_this_copy_alone(self, host: BindJoblib, make_pool: Pools) -> None:
        other = guard(BindLoky().make_bare(1))
        lost = host.submit(make_pool(1), kill_self()).exception(DEADLINE)
        others = BindLoky().submit(other, kill_self()).exception(DEADLINE)
        other.shutdown()

        assert isinstance(lost, host.host_error)
        assert isinstance(others, BindLoky().host_error)
        assert not isinstance(lost, BindLoky().host_error)
        assert not isinstance(others, host.host_error)


class TestUsedBefore(ProgramBase):
    """The workers are older than the guard."""

    binding = BindLate
    variations: ClassVar[int] = 1

    test_running = RunningTaskDies.test_a_task_that_ends_its_worker_is_told_how
    test_in_turn = IdleWorkerDies.test_each_idle_worker_in_turn

    @pytest.mark.parametrize("workers", [["hang", "spin"]], ids="+".join)
    def test_no_worker_outlives_the_parent(
        self, run: Callable[..., Program], notes: Notes, workers: list[str]
    ) -> None:
        """A worker that has no pipe to its parent waits for its end with a thread."""
        ParentKilled.test_no_worker_outlives_the_parent(self, run, notes, workers)


@LEAVING
class TestReusable(ContractBase):
    """The executor that a thread uses again and again; each thread has its own."""

    binding = BindReusable
    variations: ClassVar[int] = 1

    test_in_turn = IdleWorkerDies.test_each_idle_worker_in_turn
    test_reading = DeathOnTheWay.test_killed_at_some_moment_of_reading_a_large_argument
    test_writing = DeathOnTheWay.test_killed_at_some_moment_of_writing_a_large_result
    _killed_at_some_moment = DeathOnTheWay._killed_at_some_moment
    test_exits = TaskExits.test_an_exit_is_an_error_and_the_worker_lives
    test_initializer = InitializerFails.test_every_task_is_told_why_no_worker_starts
    test_ends = PoolEnds.test_the_pool_ends_after

    def test_it_stays_the_same_object_after_a_loss(self, host: BindReusable, make_pool: Pools) -> None:
        pool = make_pool(2)
        with pytest.raises(WorkerLostError):
            host.result(host.submit(pool, die(3)))

        again = host.make_bare(2, reuse="auto")

        assert again is pool
        assert len(host.idle_pids(again, 2)) == 2

    def test_it_is_another_one_after_it_was_given_up(self, host: BindReusable, make_pool: Pools) -> None:
        pool = make_pool(2, usable_after=False, initializer=die(1))
        with pytest.raises(PoolBrokenError):
            host.result(host.submit(pool, square, 1))

        again = host.make_bare(2, reuse="auto")

        assert again is not pool
        assert host.result(host.submit(again, square, 3)) == 9
        within(ENDING, host.terminate, again)

    def test_it_is_resized_and_no_worker_is_lost(self, host: BindReusable, make_pool: Pools) -> None:
        events: list[Any] = []
        pool = make_pool(1, on_event=events.append)
        serves(host, pool)
        for size in (3, 1, 2, 1):
            assert host.make_bare(size, reuse=True) is pool
            assert len(host.idle_pids(pool, size)) == size
            serves(host, pool)
        assert events == []

    # loky strikes a task off its list of running ones after it has set the result.
    @pytest.mark.filterwarnings("ignore:Trying to resize an executor with running jobs:UserWarning")
    def test_it_is_resized_though_workers_die_meanwhile(self, host: BindReusable, make_pool: Pools) -> None:
        pool = make_pool(4)
        serves(host, pool)
        stop = threading.Event()

        def kill_now_and_then() -> None:
            while not stop.wait(0.03):
                for pid in host.worker_pids(pool)[:1]:
                    kill_if_there(pid)

        for size in (1, 4, 2, 3):
            stop.clear()
            killer = threading.Thread(target=kill_now_and_then)
            killer.start()
            try:
                assert host.make_bare(size, reuse=True) is pool
            finally:
                stop.set()
                killer.join()
            # One that was told to leave in the place of one that was killed is replaced for the next task.
            eventually(lambda size=size: self._workers_after_use(host, pool) == size, f"{size} workers")

    def test_guarded_again_while_a_task_runs_it_is_as_before(self, make_pool: Pools, tmp_path: Path) -> None:
        pool = make_pool(2)
        replaced = set(vars(pool))
        held = pool.submit(HeldUntil(tmp_path / "go"), 3)
        unguard(pool)
        left = set(vars(pool))
        guard(pool)

        (tmp_path / "go").touch()

        assert replaced - left >= {"_resize", "shutdown", "_poolwarden"}
        assert set(vars(pool)) == replaced
        assert held.result(DEADLINE) == 3

    def _workers_after_use(self, host: BindReusable, pool: Any) -> int:
        serves(host, pool)
        return len(host.worker_pids(pool))

    def test_who_waits_for_the_next_task_lives_when_another_dies(
        self, host: BindReusable, make_pool: Pools
    ) -> None:
        """All but one wait for the queue's lock, and that one in ``poll``: each can be told harmless."""
        pool = make_pool(3)
        serves(host, pool)
        for turn in range(3):
            pids = host.idle_pids(pool, 3)
            os.kill(pids[turn], signal.SIGKILL)
            others = {*pids} - {pids[turn]}
            eventually(lambda gone=pids[turn]: gone not in host.worker_pids(pool), "a replacement")
            assert others < {*host.idle_pids(pool, 3)}


@LEAVING
class TestWorkersThatLeave(ContractBase):
    """A worker that leaves on purpose is no loss, unless it dies of it."""

    binding = BindLoky

    def test_an_idle_worker_leaves_in_peace(self, host: BindLoky) -> None:
        events: list[Any] = []
        pool = guard(host.make_bare(2, timeout=0.2), on_event=events.append)
        for _ in range(2):
            serves(host, pool)
            pids = host.worker_pids(pool)
            all_gone(pids, DEADLINE)
            eventually(lambda: not host.worker_pids(pool), "the executor to know")
        assert events == []
        within(ENDING, host.close, pool)

    @pytest.mark.parametrize("ending", ["use", "close", "terminate"])
    def test_a_worker_that_dies_with_the_lock_of_the_process_table_stops_nothing(
        self, host: BindLoky, tmp_path: Path, ending: str
    ) -> None:
        pool = guard(host.make_bare(2, timeout=0.2, initializer=DiesLeaving(tmp_path / "once")))
        serves(host, pool)
        eventually((tmp_path / "once").exists, "a worker that dies while it leaves")
        if ending == "use":
            for _ in range(3):
                within(DEADLINE, serves, host, pool)
        within(ENDING, host.endings()["close" if ending == "use" else ending], pool)

    def test_a_worker_that_has_grown_is_recycled(self, host: BindLoky) -> None:
        events: list[Any] = []
        pool = guard(host.make_bare(2, initializer=GrowsWithEveryTask()), on_event=events.append)

        pids = {host.result(host.submit(pool, pid_of_worker)) for _ in range(8)}

        assert len(pids) >= 3
        serves(host, pool)
        assert events == []
        within(ENDING, host.close, pool)


class DiesLeaving:
    """An initializer: the first worker that gives the lock of the process table back dies instead."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self) -> None:
        frame: Any = sys._getframe()
        while "processes_management_lock" not in frame.f_locals:
            frame = frame.f_back
        lock = frame.f_locals["processes_management_lock"]
        lock.release = once(self.path, kill_self(), lock.release)


class GrowsWithEveryTask:
    """An initializer: the worker believes to grow by a gigabyte with every task."""

    def __call__(self) -> None:
        from itertools import count

        from loky import process_executor

        sizes = count(0, 1 << 30)
        process_executor._USE_PSUTIL = True
        process_executor._MEMORY_LEAK_CHECK_DELAY = -1
        process_executor._get_memory_usage = lambda pid, force_gc=False: next(sizes)


class TestQuirks(ContractBase):
    """What users do with loky that no other host has."""

    binding = BindLoky

    def test_lambdas_and_closures_are_tasks(self, host: BindLoky, make_pool: Pools) -> None:
        pool = make_pool()
        offset = 3

        assert list(pool.map(lambda x: x + offset, range(5), chunksize=2)) == [3, 4, 5, 6, 7]
        with pytest.raises(WorkerLostError) as caught:
            host.result(pool.submit(lambda: os.kill(os.getpid(), signal.SIGKILL)))
        assert "<lambda>" in caught.value.task.function

    def test_functions_of_a_script_are_tasks(self, tmp_path: Path) -> None:
        script = tmp_path / "script.py"
        script.write_text(SCRIPT)

        done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=DEADLINE)

        assert (done.returncode, done.stdout) == (0, "[0, 1, 4] lost __main__.dies\n"), done.stderr

    @pytest.mark.parametrize("late", [False, True], ids=["fresh", "used-before"])
    def test_reducers_are_honoured_both_ways(self, host: BindLoky, late: bool) -> None:
        pool = host.make_bare(
            1, job_reducers={Traveller: reduce_there}, result_reducers={Traveller: reduce_back}
        )
        if late:
            host.result(pool.submit(square, 1))
        guard(pool)

        here = host.result(pool.submit(same, Traveller(())))

        assert here.stations == ("there", "back")
        within(ENDING, host.close, pool)

    def test_what_kill_workers_ends_is_told_so(
        self, host: BindLoky, make_pool: Pools, notes: Notes, caplog: pytest.LogCaptureFixture
    ) -> None:
        pool = make_pool(usable_after=False)
        handles = [host.submit(pool, Noted(notes.path, hang()), n) for n in range(20)]
        pids = notes.pids(2)

        within(ENDING, pool.shutdown, kill_workers=True)

        all_gone(pids)
        for handle in handles:
            error = handle.exception(0)
            assert isinstance(error, (PoolBrokenError, host.host_error))
            assert isinstance(error, host.module("process_executor").ShutdownExecutorError)
            assert "kill_workers" in str(error)
        assert not caplog.records
        with pytest.raises(host.module("process_executor").ShutdownExecutorError):
            pool.submit(square, 1)

    def test_callbacks_may_submit_while_others_do(self, host: BindLoky, make_pool: Pools) -> None:
        """As joblib does, from the thread that handles results."""
        pool = make_pool()
        ended: list[Any] = []

        def again(future: Any, left: int) -> None:
            ended.append(future)
            if left:
                pool.submit(square, left).add_done_callback(partial(again, left=left - 1))

        for number in range(40):
            func = kill_self() if number % 20 == 5 else square
            pool.submit(func, number).add_done_callback(partial(again, left=5))

        eventually(lambda: len(ended) == 40 * 6, "every future")
        assert sum(isinstance(future.exception(), WorkerLostError) for future in ended) == 2

    @pytest.mark.parametrize("dropped", [False, True], ids=["kept", "dropped"])
    def test_workers_are_replaced_after_a_shutdown_that_does_not_wait(
        self, host: BindLoky, make_pool: Pools, notes: Notes, tmp_path: Path, dropped: bool
    ) -> None:
        pool = make_pool(usable_after=False)
        held = [host.submit(pool, Noted(notes.path, HeldUntil(tmp_path / "go"))) for _ in range(2)]
        others = [host.submit(pool, square, n) for n in range(6)]
        pids = notes.pids(2)
        if dropped:
            del pool
            gc.collect()
        else:
            pool.shutdown(wait=False)

        for pid in pids:
            os.kill(pid, signal.SIGKILL)

        for handle in held:
            with pytest.raises(WorkerLostError):
                host.result(handle)
        assert [host.result(other) for other in others] == [n * n for n in range(6)]

    def test_random_kills(self) -> None:
        command = [sys.executable, "-m", "tests.chaos", "--host", "loky-reusable", "--start", "loky"]
        command += ["--tasks", "500", "--kills", "12"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=2 * DEADLINE)
        assert done.returncode == 0, done.stdout + done.stderr


class Traveller:
    """Knows on which ways it was pickled."""

    def __init__(self, stations: tuple[str, ...]) -> None:
        self.stations = stations


def reduce_there(traveller: Traveller) -> Any:
    return Traveller, ((*traveller.stations, "there"),)


def reduce_back(traveller: Traveller) -> Any:
    return Traveller, ((*traveller.stations, "back"),)


SCRIPT = """
import os
from loky import get_reusable_executor
from poolwarden import WorkerLostError, guard

def square(x):
    return x * x

def dies():
    os._exit(3)

if __name__ == "__main__":
    pool = guard(get_reusable_executor(2))
    lost = pool.submit(dies)
    squares = list(pool.map(square, range(3)))
    try:
        lost.result(20)
    except WorkerLostError as error:
        print(squares, "lost", error.task.function)
    pool.shutdown()
"""


class TestInstall:
    """Every executor of both copies, made from now on."""

    @pytest.fixture(autouse=True)
    def installed(self) -> Iterator[None]:
        install()
        yield
        uninstall()

    @pytest.mark.parametrize("binding", [BindLoky, BindReusable, BindJoblib])
    def test_executors_are_guarded_until_it_is_taken_back(self, binding: type[BindLoky]) -> None:
        host = binding()
        pytest.importorskip(host.package)
        pool = host.make_bare(1)
        with pytest.raises(WorkerLostError):
            host.result(host.submit(pool, kill_self()))
        serves(host, pool)
        within(ENDING, host.terminate, pool)

        uninstall()

        bare = host.make_bare(1)
        assert not hasattr(bare, "_poolwarden")
        assert "wrapt" not in type(host.module("process_executor").ProcessPoolExecutor.__init__).__module__
        bare.shutdown()
