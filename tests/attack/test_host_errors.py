"""What a caller gets is also an instance of what the bare host raises for the same fault.

The kind: an ``except`` clause that was written for the bare host. Siblings: a
call, a chunk, a result and an exception that cannot be unpickled, by an error
or by an exit; a lost worker; a timeout; an executor that is given up; each from
the copy of the host that is used; pickled and unpickled. A task that exits is
the exception: its `TaskExitError` is no `SystemExit`, which would end the
caller's program, and nothing of the host's.
"""

from __future__ import annotations

import concurrent.futures
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from poolwarden import PayloadError, PoolBrokenError, TaskExitError, TaskTimeoutError, WorkerLostError
from poolwarden.testing import die, fail, hang, on_unpickle
from tests.contract.base import ContractBase
from tests.contract.tasks import same, square
from tests.hosts import bind_executor, bind_loky, bind_pool


class NeedsTwoError(Exception):
    """One that pickles and does not unpickle."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(one)


def raise_needs_two(_: Any = None) -> None:
    raise NeedsTwoError(1, 2)


def unreadable(error: BaseException) -> Any:
    return on_unpickle(fail(error))


def make_unreadable(_: Any = None) -> Any:
    """Return what can be unpickled here, in the worker, and nowhere else."""
    return unreadable(ValueError("no"))


def make_exit(_: Any = None) -> Any:
    return unreadable(SystemExit(3))


def exit_task(_: Any = None) -> None:
    raise SystemExit(3)


def interrupt_task(_: Any = None) -> None:
    raise KeyboardInterrupt


class HostErrors(ContractBase):
    """What each host owes its users here."""

    #: What the host raises for what cannot be unpickled, for a lost worker, and for its own end.
    unpickled: ClassVar[str] = ""
    broken: ClassVar[str] = ""

    def host_class(self, name: str) -> type[BaseException]:
        raise NotImplementedError

    @pytest.mark.parametrize(
        "call",
        [
            (same, unreadable(ValueError("no"))),
            (same, unreadable(SystemExit(3))),
            (make_unreadable, 1),
            (make_exit, 1),
            (raise_needs_two, 1),
        ],
        ids=["argument", "argument-exits", "result", "result-exits", "exception"],
    )
    def test_what_cannot_be_unpickled(self, host, make_pool, call: tuple[Callable[..., Any], Any]) -> None:
        error = self.error_of(host, make_pool(), *call)

        assert isinstance(error, PayloadError)
        for each in (error, pickle.loads(pickle.dumps(error))):
            assert isinstance(each, PayloadError)
            assert each.direction == error.direction
            assert not self.unpickled or isinstance(each, self.host_class(self.unpickled))

    def test_a_lost_worker(self, host, make_pool) -> None:
        error = self.error_of(host, make_pool(), die(3))

        assert isinstance(error, WorkerLostError)
        assert isinstance(error, self.host_class(self.broken))

    def test_a_timeout(self, host, make_pool) -> None:
        error = self.error_of(host, make_pool(timeout=0.1), hang())

        assert isinstance(error, TaskTimeoutError)
        assert isinstance(error, (TimeoutError, concurrent.futures.TimeoutError))

    def test_an_initializer_that_fails(self, host, make_pool) -> None:
        pool = make_pool(usable_after=False, initializer=raise_needs_two)

        error = self.error_of(host, pool, square, 2)

        assert isinstance(error, PoolBrokenError)
        assert isinstance(error, self.host_class(self.broken))

    @pytest.mark.parametrize("func", [exit_task, interrupt_task])
    def test_an_exit_is_nothing_but_that(self, host, make_pool, func: Callable[..., Any]) -> None:
        error = self.error_of(host, make_pool(), func)

        assert type(error) is TaskExitError
        assert not isinstance(error, (SystemExit, KeyboardInterrupt, concurrent.futures.BrokenExecutor))

    def error_of(self, host: Any, pool: Any, func: Callable[..., Any], *args: Any) -> BaseException:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - which is looked at
            host.result(host.submit(pool, func, *args))
        return caught.value


class TestPool(HostErrors):
    """The bare pool hangs for each of them, but an old `except` for executors holds for lost workers."""

    binding = bind_pool.BindPool
    broken = "BrokenProcessPool"

    def host_class(self, name: str) -> Any:
        return getattr(concurrent.futures.process, name)


class TestExecutor(HostErrors):
    binding = bind_executor.BindExecutor
    unpickled = broken = "BrokenProcessPool"

    def host_class(self, name: str) -> Any:
        return getattr(concurrent.futures.process, name)


class TestLoky(HostErrors):
    binding: ClassVar[Any] = bind_loky.BindLoky
    unpickled, broken = "BrokenProcessPool", "TerminatedWorkerError"

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _what_stays(cls) -> None:
        pytest.importorskip(cls.binding.package.partition(".")[0])
        host = cls.binding()
        host.close(host.make_pool(1))

    def host_class(self, name: str) -> Any:
        return getattr(self.binding().module("process_executor"), name)


class TestJoblibsLoky(TestLoky):
    binding = bind_loky.BindJoblib
