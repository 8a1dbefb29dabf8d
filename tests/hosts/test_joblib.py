"""joblib: what only this host has, over each of its two process backends.

Tasks go in batches; the row of the fault table that is joblib's own is here,
and what users of joblib see of the others. `test_joblib_contract` has the rest.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from poolwarden import (
    ConfigurationError,
    PoolBrokenError,
    TaskExitError,
    TaskTimeoutError,
    WorkerLostError,
    install,
    limits,
    uninstall,
)
from poolwarden.testing import fail, hang, kill_self, once, only_for
from tests.contract.base import Notes
from tests.contract.tasks import Noted, append_line, pid_of_worker, square, take
from tests.contract.waiting import DEADLINE, eventually, lines_of, within

joblib = pytest.importorskip("joblib")

from joblib import Parallel, delayed, parallel_config  # noqa: E402

VERSION = tuple(int(part) for part in joblib.__version__.split(".")[:2])
INNER = ("loky", "multiprocessing")


@pytest.fixture(scope="module", autouse=True)
def warm_joblib(warm: None) -> None:
    """Start what joblib keeps for the whole process."""
    with parallel_config("poolwarden", n_jobs=2):
        Parallel()(delayed(abs)(n) for n in range(2))
    end_reusable()


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """End joblib's reusable executor behind each test."""
    yield
    end_reusable()


def reusable() -> Any:
    """Return joblib's one executor, None if there is none now."""
    return joblib.externals.loky.reusable_executor._executor


def end_reusable() -> None:
    executor = reusable()
    if executor is not None:
        executor.shutdown(kill_workers=True)


@pytest.fixture(params=INNER)
def inner(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path / "notes")


def call(parallel: Any, func: Callable[..., Any], count: int) -> Any:
    """Return what ``parallel`` makes of the numbers below `count`; fail when it hangs.

    In a thread of its own, which is what bounds it. joblib takes it for the
    main one, as its calls are not nested.
    """
    return within(DEADLINE, parallel, [delayed(func)(n) for n in range(count)])


def lost(parallel: Any, func: Callable[..., Any], count: int) -> Any:
    """Return the error of a call that fails."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which one is what is asked
        call(parallel, func, count)
    return caught.value


def squares(count: int) -> list[int]:
    return [n * n for n in range(count)]


class TestOneTaskIsLost:
    """Row 2: of a batch, one item is lost."""

    def test_the_error_names_the_task_in_the_call(self, inner: str) -> None:
        with parallel_config("poolwarden", n_jobs=2, inner=inner):
            error = lost(Parallel(batch_size=7), only_for(40, kill_self(), square), 100)

        assert isinstance(error, WorkerLostError)
        assert error.task is not None
        assert error.task.index == 40
        assert error.task.function.endswith("only_for(40, kill_self(9), square)")
        assert error.task.site is not None
        assert error.task.site.rpartition(":")[0].endswith("waiting.py")
        assert error.exit is not None
        assert error.exit.signal == "SIGKILL"

    def test_it_is_what_users_of_joblib_catch(self) -> None:
        error = lost(Parallel(2, backend="poolwarden"), kill_self(), 4)

        assert isinstance(error, joblib.externals.loky.process_executor.TerminatedWorkerError)

    def test_ten_thousand_tiny_tasks_in_batches_of_their_own_size(self, inner: str) -> None:
        with parallel_config("poolwarden", n_jobs=2, inner=inner):
            error = lost(Parallel(), only_for(7777, kill_self(), square), 10_000)
            right = call(Parallel(), square, 10_000)

        assert error.task.index == 7777
        assert right == squares(10_000)

    def test_a_task_that_exits_costs_no_worker(self, inner: str) -> None:
        with parallel_config("poolwarden", n_jobs=2, inner=inner):
            error = lost(Parallel(), only_for(5, fail(SystemExit(3)), square), 10)

        assert isinstance(error, TaskExitError)
        assert error.exit is None

    def test_an_ordinary_exception_is_the_tasks_own(self, inner: str) -> None:
        with parallel_config("poolwarden", n_jobs=2, inner=inner):
            error = lost(Parallel(batch_size=4), only_for(5, fail(ValueError("mine")), square), 10)

        assert type(error) is ValueError
        # Where it began in the worker, without poolwarden's own frames above it.
        assert "mine" in str(error.__cause__)
        assert "envelope.py" not in str(error.__cause__)


class TestUsedAgain:
    """Row 19: a `Parallel` object after a loss."""

    @pytest.mark.parametrize("managed", [False, True])
    def test_its_next_results_are_right_and_in_order(self, inner: str, managed: bool) -> None:
        parallel = Parallel(2, batch_size=1, pre_dispatch=3)
        with parallel_config("poolwarden", n_jobs=2, inner=inner):
            parallel = Parallel(batch_size=3, pre_dispatch=5)
            if managed:
                parallel.__enter__()
            for _ in range(3):
                assert isinstance(lost(parallel, only_for(9, kill_self(), square), 40), WorkerLostError)
                assert call(parallel, square, 30) == squares(30)
            if managed:
                parallel.__exit__(None, None, None)

    def test_batches_left_by_an_aborted_call_are_forgotten(self) -> None:
        # joblib slices a batch for each worker at a time, and keeps those that
        # it has not submitted when the call is aborted: the next call on the
        # object gave their results in front of its own.
        with Parallel(2, backend="poolwarden", batch_size=1) as parallel:
            call(parallel, square, 4)
            parallel._ready_batches.put(joblib.parallel.BatchedCalls([(abs, (-7,), {})], None))

            assert call(parallel, square, 4) == squares(4)

    def test_the_executor_and_the_other_worker_stay(self) -> None:
        with parallel_config("poolwarden", n_jobs=2):
            call(Parallel(batch_size=1), square, 2)
            executor = reusable()
            pids = set(executor._processes)
            error = lost(Parallel(batch_size=1), only_for(3, kill_self(), square), 4)
            later = set(call(Parallel(batch_size=1), take_and_tell, 10))

        assert reusable() is executor
        assert error.exit.pid in pids
        assert later >= pids - {error.exit.pid}
        assert error.exit.pid not in later

    def test_what_an_aborted_call_was_running_is_stopped(self, notes: Notes) -> None:
        with parallel_config("poolwarden", n_jobs=2):
            error = lost(Parallel(batch_size=1, pre_dispatch="all"), RaisesBesideOthers(notes.path), 6)
            assert call(Parallel(), square, 10) == squares(10)

        assert type(error) is ValueError
        # The one beside it had begun; those behind were not begun any more.
        assert set(notes.items()) <= {"0", "1", "2"}

    def test_two_calls_at_once_do_not_disturb_each_other(self) -> None:
        going = Parallel(2, backend="poolwarden", return_as="generator", batch_size=2)
        results = going(delayed(slow_square)(n) for n in range(20))
        first = next(results)
        error = lost(Parallel(2, backend="poolwarden", batch_size=1), kill_self(), 2)

        assert isinstance(error, WorkerLostError)
        assert [first, *within(DEADLINE, list, results)] == squares(20)


class TestRetries:
    """Only what was not finished runs again."""

    def test_finished_tasks_of_the_batch_do_not_run_again(
        self, inner: str, notes: Notes, tmp_path: Path
    ) -> None:
        task = Noted(notes.path, only_for(14, once(tmp_path / "once", kill_self()), square))
        with parallel_config("poolwarden", n_jobs=2, inner=inner, retries=1):
            results = call(Parallel(batch_size=10), task, 40)

        assert results[:14] + results[15:] == squares(40)[:14] + squares(40)[15:]
        assert notes.items() == {str(n): 2 if n == 14 else 1 for n in range(40)}

    def test_they_are_counted_for_each_task(self, notes: Notes) -> None:
        task = Noted(notes.path, only_for(5, kill_self(), square))
        with parallel_config("poolwarden", n_jobs=2, retries=2):
            error = lost(Parallel(batch_size=10), task, 10)

        assert error.task.attempts == 3
        ran = notes.items()
        # Those behind it may have been in another batch.
        assert ran.pop("5") == 3
        assert set(ran.values()) == {1}


class TestLossesReturn:
    def test_three_of_a_thousand(self, inner: str, notes: Notes) -> None:
        deadly = {100, 101, 777}
        with parallel_config("poolwarden", n_jobs=2, inner=inner, losses="return"):
            results = call(Parallel(), Deadly(notes.path, deadly), 1000)

        assert len(results) == 1000
        for n, result in enumerate(results):
            if n in deadly:
                assert isinstance(result, WorkerLostError)
                assert result.task is not None
                assert result.task.index == n
            else:
                assert result == n * n
        assert notes.items() == {str(n): 1 for n in range(1000)}

    @pytest.mark.skipif(VERSION < (1, 5), reason="Parallel takes no options of backends")
    def test_as_an_option_of_one_call(self) -> None:
        parallel = Parallel(2, backend="poolwarden", losses="return", retries=1, batch_size=5)

        results = call(parallel, only_for(3, kill_self(), square), 10)

        assert isinstance(results[3], WorkerLostError)
        assert results[3].task is not None
        assert results[3].task.attempts == 2
        assert results[4:] == squares(10)[4:]

    def test_a_task_out_of_time(self, inner: str) -> None:
        with parallel_config("poolwarden", n_jobs=2, inner=inner, losses="return", timeout=0.3):
            results = call(Parallel(batch_size=5), only_for(7, hang(), square), 10)

        assert isinstance(results.pop(7), TaskTimeoutError)
        assert results == [n * n for n in range(10) if n != 7]


class TestTimeouts:
    def test_they_count_for_each_task_of_a_batch(self, inner: str) -> None:
        with parallel_config("poolwarden", n_jobs=2, inner=inner, timeout=0.7):
            # One batch for each worker, that takes longer than a task may.
            assert call(Parallel(batch_size=6), nap, 12) == list(range(12))
            error = lost(Parallel(batch_size=6), only_for(4, hang(), square), 12)

        assert isinstance(error, TaskTimeoutError)
        assert error.task is not None
        assert error.task.index == 4

    def test_it_may_end_by_an_exception_first(self) -> None:
        with parallel_config("poolwarden", n_jobs=2, timeout=0.2, grace=20):
            before = set(call(Parallel(batch_size=1), take_and_tell, 10))
            error = lost(Parallel(batch_size=3), only_for(1, hang(), square), 3)
            after = set(call(Parallel(batch_size=1), take_and_tell, 10))

        assert isinstance(error, TaskTimeoutError)
        assert after == before

    def test_that_of_parallel_means_what_it_did(self) -> None:
        # The whole call, and nobody is named.
        error = lost(Parallel(2, backend="poolwarden", timeout=0.3), only_for(1, hang(), square), 4)

        assert type(error) is multiprocessing.TimeoutError
        assert call(Parallel(2, backend="poolwarden"), square, 4) == squares(4)

    def test_functions_of_one_batch_may_have_their_own(self, notes: Notes) -> None:
        impatient = limits(only_for(3, hang(), square), timeout=0.3)
        tasks = [delayed(impatient if n % 2 else nap)(n) for n in range(8)]
        with parallel_config("poolwarden", n_jobs=2, losses="return"):
            results = within(DEADLINE, Parallel(batch_size=4), tasks)

        error = results.pop(3)
        assert isinstance(error, TaskTimeoutError)
        assert error.task is not None
        assert "only_for" in error.task.function
        assert results == [0, 1, 2, 4, 25, 6, 49]


class TestGenerators:
    @pytest.mark.parametrize("how", ["generator", "generator_unordered"])
    def test_the_rest_goes_on(self, how: str) -> None:
        if how == "generator_unordered" and VERSION < (1, 4):
            pytest.skip("came with 1.4")
        with parallel_config("poolwarden", n_jobs=2, losses="return"):
            results = Parallel(return_as=how, batch_size=3)(
                delayed(only_for(5, kill_self(), square))(n) for n in range(20)
            )
            results = within(DEADLINE, list, results)

        errors = [result for result in results if isinstance(result, Exception)]
        right = [result for result in results if not isinstance(result, Exception)]
        assert [type(error).__name__ for error in errors] == ["WorkerLostError"]
        assert (right if how == "generator" else sorted(right)) == [n * n for n in range(20) if n != 5]

    def test_an_error_ends_it(self) -> None:
        parallel = Parallel(2, backend="poolwarden", return_as="generator", batch_size=3)
        results = parallel(delayed(only_for(5, kill_self(), square))(n) for n in range(20))

        with pytest.raises(WorkerLostError):
            within(DEADLINE, list, results)
        assert within(DEADLINE, list, parallel(delayed(square)(n) for n in range(5))) == squares(5)

    @pytest.mark.filterwarnings("ignore:.*tasks.*:UserWarning")
    def test_one_that_is_dropped_stops_its_tasks(self, notes: Notes) -> None:
        results = Parallel(2, backend="poolwarden", return_as="generator", batch_size=1)(
            delayed(Noted(notes.path, hang()))(n) for n in range(6)
        )
        pids = notes.pids(2)
        del results

        assert call(Parallel(2, backend="poolwarden"), square, 10) == squares(10)
        assert len(lines_of(notes.path)) == len(pids)


class TestNested:
    def test_calls_in_tasks(self) -> None:
        with parallel_config("poolwarden", n_jobs=2):
            results = call(Parallel(), sum_inside, 6)

        assert results == [sum(squares(n)) for n in range(6)]

    def test_the_backend_inside_is_joblibs_choice(self) -> None:
        found = {}
        for backend in ("loky", "poolwarden"):
            with parallel_config(backend, n_jobs=2):
                found[backend] = call(Parallel(batch_size=2), backend_inside, 4)
            end_reusable()

        assert found["poolwarden"] == found["loky"]

    def test_a_call_in_a_task_that_loses_its_worker(self) -> None:
        with parallel_config("poolwarden", n_jobs=2, losses="return"):
            results = call(Parallel(batch_size=2), sum_or_die_inside, 6)

        assert isinstance(results.pop(3), WorkerLostError)
        assert results == [sum(squares(n)) for n in range(6) if n != 3]


class TestArrays:
    """Large arrays reach the workers as maps of one file."""

    @pytest.fixture
    def numpy(self) -> Any:
        return pytest.importorskip("numpy")

    def test_are_mapped_in_guarded_tasks(self, numpy: Any, inner: str, tmp_path: Path) -> None:
        array = numpy.arange(400_000, dtype="float64")
        with parallel_config("poolwarden", n_jobs=2, inner=inner, temp_folder=str(tmp_path)):
            results = within(DEADLINE, Parallel(batch_size=2), [delayed(kind_and_sum)(array)] * 6)

        assert results == [("memmap", float(array.sum()))] * 6

    def test_their_files_do_not_outlive_the_call_with_a_loss(
        self, numpy: Any, inner: str, tmp_path: Path
    ) -> None:
        array = numpy.ones(400_000)
        with parallel_config("poolwarden", n_jobs=2, inner=inner, temp_folder=str(tmp_path), losses="return"):
            results = within(
                DEADLINE, Parallel(batch_size=2), [delayed(sum_or_die)(array, n) for n in range(8)]
            )
            assert isinstance(results.pop(5), WorkerLostError)
            assert results == [400_000.0] * 7
            left = [path for path in tmp_path.rglob("*") if path.is_file()]

        assert left == []

    def test_results_come_back(self, numpy: Any, inner: str) -> None:
        with parallel_config("poolwarden", n_jobs=2, inner=inner, retries=1):
            results = call(Parallel(batch_size=2), large_array, 4)

        assert [float(result.sum()) for result in results] == [300_000.0 * n for n in range(4)]


def test_workers_import_nothing_of_the_parents_half() -> None:
    loaded = 'sorted(__import__("sys").modules)'
    with parallel_config("poolwarden", n_jobs=2, retries=1, timeout=60):
        found = within(DEADLINE, Parallel(), [delayed(eval)(loaded)] * 2)[0]

    ours = {name.split(".")[1] for name in found if name.startswith("poolwarden.")}
    assert ours == {"clock", "on_import", "worker"}


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"retires": 1}, "retires; valid are timeout, grace, retries, losses"),
            ({"timeout": -1}, "timeout must be"),
            ({"losses": "keep"}, "'raise' or 'return'"),
            ({"inner": "threading"}, "'loky' or 'multiprocessing'"),
        ],
        ids=str,
    )
    def test_bad_ones_are_told_with_the_valid_ones(self, options: dict[str, Any], named: str) -> None:
        with pytest.raises(ConfigurationError, match=named):
            parallel_config("poolwarden", **options)

    @pytest.mark.skipif(VERSION < (1, 5), reason="Parallel takes no options of backends")
    def test_bad_ones_of_a_call(self) -> None:
        with pytest.raises(ConfigurationError, match="retires; valid are"):
            Parallel(2, backend="poolwarden", retires=1)([delayed(abs)(1)])

    def test_threads_in_workers(self) -> None:
        with parallel_config("poolwarden", n_jobs=2, inner_max_num_threads=3):
            assert call(Parallel(), threads_allowed, 2) == ["3", "3"]

    @pytest.mark.skipif(VERSION < (1, 5), reason="backends take no initializer")
    def test_an_initializer_that_fails(self) -> None:
        with parallel_config("poolwarden", n_jobs=2, initializer=fail(ValueError("no start"))):
            error = lost(Parallel(), square, 4)

        assert isinstance(error, PoolBrokenError)
        assert call(Parallel(2, backend="poolwarden"), square, 4) == squares(4)

    def test_events(self) -> None:
        events: list[Any] = []
        with parallel_config("poolwarden", n_jobs=2, retries=1, on_event=events.append):
            lost(Parallel(batch_size=2), only_for(3, kill_self(), square), 4)

        eventually(lambda: len(events) >= 2, "both ends of the task")
        assert [event.kind for event in events if event.task is not None] == ["task_retried", "task_lost"]

    def test_one_process_is_this_one(self) -> None:
        # As in joblib: nothing is guarded then.
        assert call(Parallel(1, backend="poolwarden"), pid_of_worker, 2) == [os.getpid()] * 2


class TestInstall:
    @pytest.fixture(autouse=True)
    def installed(self) -> Iterator[None]:
        before = dict(joblib.parallel.BACKENDS)
        install(timeout=10)
        yield
        uninstall()
        assert before == joblib.parallel.BACKENDS

    @pytest.mark.parametrize("backend", [None, "loky", "multiprocessing"])
    def test_joblibs_own_backends_are_guarded_task_by_task(self, backend: str | None) -> None:
        parallel = Parallel(2, backend=backend, batch_size=7)

        error = lost(parallel, only_for(40, kill_self(), square), 100)

        assert isinstance(error, WorkerLostError)
        assert error.task is not None
        assert error.task.index == 40
        assert call(parallel, square, 100) == squares(100)

    def test_limits_are_those_of_install(self) -> None:
        install(timeout=0.3, losses="return")

        results = call(Parallel(2, batch_size=4), only_for(5, hang(), square), 8)

        assert isinstance(results.pop(5), TaskTimeoutError)
        assert results == [n * n for n in range(8) if n != 5]

    def test_the_names_in_joblibs_messages_stay(self, capsys: pytest.CaptureFixture[str]) -> None:
        call(Parallel(2, verbose=1), square, 4)

        assert "Using backend LokyBackend with 2 concurrent workers" in capsys.readouterr().err

    def test_threads_stay_threads(self) -> None:
        assert call(Parallel(2, prefer="threads"), pid_of_worker, 4) == [os.getpid()] * 4


# What runs in workers.


class Deadly:
    """Squares numbers, each noted, and dies of some."""

    def __init__(self, path: Path, deadly: set[int]) -> None:
        self.path = str(path)
        self.deadly = deadly

    def __call__(self, n: int) -> int:
        append_line(self.path, f"{os.getpid()} {n}")
        if n in self.deadly:
            kill_self()()
        return n * n


class RaisesBesideOthers:
    """The first of its tasks raises once the second has begun; all others hang."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __call__(self, n: int) -> None:
        append_line(self.path, f"{os.getpid()} {n}")
        if n > 0:
            hang()()
        eventually(lambda: len(lines_of(self.path)) > 1, "the other task has begun")
        raise ValueError("as any function may")


def nap(n: int) -> int:
    time.sleep(0.2)
    return n


def slow_square(n: int) -> int:
    time.sleep(0.02)
    return n * n


def take_and_tell(n: int) -> int:
    """Return the worker's pid, late enough for the other one to get something as well."""
    take(0.05)
    return os.getpid()


def sum_inside(n: int) -> int:
    return sum(Parallel(2)(delayed(square)(i) for i in range(n)))


def sum_or_die_inside(n: int) -> int:
    return sum(Parallel(2)(delayed(kill_self() if n == 3 and i == 1 else square)(i) for i in range(n)))


def backend_inside(n: int) -> tuple[str, int, Any]:
    backend, jobs = joblib.parallel.get_active_backend()
    return type(backend).__name__, backend.nesting_level, jobs


def kind_and_sum(array: Any) -> tuple[str, float]:
    return type(array).__name__, float(array.sum())


def sum_or_die(array: Any, n: int) -> float:
    if n == 5:
        kill_self()()
    return float(array.sum())


def large_array(n: int) -> Any:
    import numpy

    return numpy.full(300_000, float(n))


def threads_allowed(_: int) -> str | None:
    return os.environ.get("OMP_NUM_THREADS")
