"""``losses=`` with a callable: what takes the place of a lost item.

Siblings of one kind: the callable returns any value (None, a number, the error
itself), raises the error it was given, raises another, exits; the item is lost
with its worker or timed out; it is the first, a middle or the last one of a
chunk, or all of them are; every way of submitting several items, on each host.
A task that raised by itself, one that was cancelled and one that was submitted
alone never meet the callable.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from poolwarden import ConfigurationError, Policy, TaskTimeoutError, WorkerLostError, limits
from poolwarden.options import read, spell
from poolwarden.testing import die, fail, hang, kill_self, only_for
from tests.contract.base import ContractBase, Pools
from tests.contract.binding import PoolBinding, Way
from tests.contract.tasks import square
from tests.contract.waiting import DEADLINE, eventually
from tests.hosts.bind_executor import BindExecutor
from tests.hosts.bind_pool import BindPool


class Replacing:
    """A callable that notes what it was asked, and gives or raises what it was made with."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome
        self.errors: list[Any] = []

    def __call__(self, error: Any) -> Any:
        self.errors.append(error)
        if self.outcome == "the error":
            raise error
        if isinstance(self.outcome, type):
            # A new one each time: one that is kept would keep frames, and the pool.
            raise self.outcome("no substitute")
        return self.outcome


def lost_at(*items: int) -> Any:
    func: Any = square
    for item in items:
        func = only_for(item, kill_self(), func)
    return func


class CallableLosses(ContractBase):
    """What each host does with a callable."""

    def indexed_ways(self, host: PoolBinding) -> dict[str, Way]:
        return {name: way for name, way in host.ways.items() if way.indexed}

    @pytest.mark.parametrize("lost", [[0], [2, 3], [5], [0, 1, 2, 3, 4, 5]], ids=str)
    def test_what_it_returns_takes_the_place(
        self, host: PoolBinding, make_pool: Pools, lost: list[int]
    ) -> None:
        replacing = Replacing(-1.5)
        pool = make_pool(losses=replacing)

        for name, way in self.indexed_ways(host).items():
            replacing.errors.clear()
            answers = way.call(pool, lost_at(*lost), list(range(6)))
            assert answers.errors == [], name
            want = [-1.5 if n in lost else n * n for n in range(6)]
            assert sorted(answers.values) == sorted(want), name
            assert all(isinstance(error, WorkerLostError) for error in replacing.errors)
            assert sorted(error.task.index for error in replacing.errors) == lost, name

    def test_a_timeout_is_replaced_too(self, host: PoolBinding, make_pool: Pools) -> None:
        replacing = Replacing(None)
        pool = make_pool(losses=replacing, timeout=0.3)
        way = next(iter(self.indexed_ways(host).values()))

        answers = way.call(pool, only_for(1, hang(), square), [0, 1, 2])

        assert answers.values == [0, None, 4]
        assert len(replacing.errors) == 1
        assert isinstance(replacing.errors[0], TaskTimeoutError)

    def test_raising_the_error_is_as_without_it(self, host: PoolBinding, make_pool: Pools) -> None:
        pool = make_pool(losses=Replacing("the error"))

        for name, way in self.indexed_ways(host).items():
            error = way.call(pool, lost_at(4), list(range(6))).error
            assert isinstance(error, WorkerLostError), name
            assert isinstance(error, host.host_error), name
            assert error.task.index == 4, name

    def test_what_it_raises_is_raised_from_the_loss(self, host: PoolBinding, make_pool: Pools) -> None:
        for way in self.indexed_ways(host).values():
            pool = make_pool(losses=Replacing(LookupError))
            error = way.call(pool, lost_at(1), [0, 1, 2]).error
            assert type(error) is LookupError
            assert isinstance(error.__cause__, WorkerLostError)
            assert error.__cause__.task.index == 1

    @pytest.mark.parametrize("exit", [SystemExit, KeyboardInterrupt])
    def test_an_exit_in_it_ends_nothing(
        self, host: PoolBinding, make_pool: Pools, exit: type, caplog: pytest.LogCaptureFixture
    ) -> None:
        pool = make_pool(losses=Replacing(exit))

        error = next(iter(self.indexed_ways(host).values())).call(pool, lost_at(1), [0, 1, 2]).error

        assert isinstance(error, WorkerLostError)
        eventually(lambda: "the callable given as losses exited" in caplog.text, "it is logged")
        caplog.clear()

    def test_it_is_not_asked_about_what_a_task_raised(self, host: PoolBinding, make_pool: Pools) -> None:
        replacing = Replacing(0)
        pool = make_pool(losses=replacing)

        for way in self.indexed_ways(host).values():
            func = only_for(1, fail(KeyError("its own")), square)
            assert isinstance(way.call(pool, func, [0, 1, 2]).error, KeyError)
        with pytest.raises(WorkerLostError):
            host.result(host.submit(pool, die(3)), DEADLINE)
        assert replacing.errors == []

    def test_a_retry_comes_first(self, host: PoolBinding, make_pool: Pools) -> None:
        replacing = Replacing("lost")
        pool = make_pool(losses=replacing, timeout=30)

        way = next(iter(self.indexed_ways(host).values()))
        answers = way.call(pool, limits(lost_at(1), retries=1), [0, 1, 2])

        assert answers.values == [0, "lost", 4]
        assert [error.task.attempts for error in replacing.errors] == [2]


class TestPool(CallableLosses):
    binding = BindPool


class TestExecutor(CallableLosses):
    binding = BindExecutor


#: What users of loky and joblib write; in a program of its own, since both keep processes.
PROGRAM = """
import poolwarden
from poolwarden.testing import kill_self, only_for
from loky import ProcessPoolExecutor
from joblib import Parallel, delayed, parallel_config

def replaced(error):
    return -error.task.index

def refused(error):
    raise LookupError("no substitute")

def told(call):
    try:
        return call()
    except LookupError as error:
        return type(error.__cause__).__name__

func = only_for(1, kill_self(), only_for(4, kill_self(), abs))
if __name__ == "__main__":
    with poolwarden.guard(ProcessPoolExecutor(2), losses=replaced) as pool:
        for size in (1, 4):
            print(list(pool.map(func, range(6), chunksize=size)))
    for inner in ("loky", "multiprocessing"):
        for size in (1, 4):
            with parallel_config("poolwarden", n_jobs=2, inner=inner, losses=replaced):
                print(Parallel(batch_size=size)(delayed(func)(n) for n in range(6)))
            with parallel_config("poolwarden", n_jobs=2, inner=inner, losses=refused):
                print(told(lambda: Parallel(batch_size=size)(delayed(func)(n) for n in range(6))))
"""


def test_loky_and_joblib_too(tmp_path: Path) -> None:
    pytest.importorskip("loky")
    pytest.importorskip("joblib")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    ran = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=60)

    right, raised = "[0, -1, 2, 3, -4, 5]", "WorkerLostError"
    assert ran.stdout.splitlines() == [right] * 2 + [right, raised] * 4, ran.stderr


def test_the_variable_cannot_spell_it_and_does_not_try() -> None:
    policy = Policy(losses=Replacing(1), retries=2)

    text = spell({"losses": policy.losses, "retries": policy.retries})

    assert read(text) == {"retries": 2}
    with pytest.raises(ConfigurationError):
        Policy.from_env("losses=print")
