"""`multiprocess.Pool`: the contract, and what only this host has."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from poolwarden import TaskTimeoutError, WorkerLostError, guard, install, unguard, uninstall
from poolwarden.testing import die, hang, kill_self
from tests.contract.base import ContractBase, Pools, serves
from tests.contract.binding import PoolBinding, Way
from tests.contract.payloads import CannotBePickled
from tests.contract.suite import PoolContract
from tests.contract.tasks import Returning, same
from tests.contract.waiting import DEADLINE
from tests.hosts.bind_multiprocess import BindMultiprocess

multiprocess = pytest.importorskip("multiprocess")
dill = pytest.importorskip("dill")


@pytest.fixture
def lambdas() -> None:
    """Skip where dill cannot pickle a lambda: 0.4.1 cannot on Python 3.15."""
    try:
        dill.dumps(lambda: 1)
    except AttributeError as error:
        pytest.skip(f"dill cannot pickle a lambda on this Python: {error}")


@pytest.fixture(scope="module")
def warm(warm: None) -> None:
    """Start this copy's own resource tracker and fork server as well."""
    for method in multiprocess.get_all_start_methods():
        with guard(multiprocess.get_context(method).Pool(1)) as pool:
            pool.apply(int)


def generator() -> Any:
    """Return what dill cannot pickle either."""
    return (number for number in ())


def raise_generator() -> None:
    raise ValueError(generator())


class TestMultiprocess(PoolContract):
    """The fault table, see `tests.contract`; most of its variations are those of `multiprocessing.Pool`."""

    binding = BindMultiprocess
    variations: ClassVar[int] = 1

    @pytest.mark.every_start_method
    @pytest.mark.parametrize(
        ("func", "args"),
        [
            (generator().__next__, ()),
            (same, (generator(),)),
            (Returning(generator), ()),
            (raise_generator, ()),
        ],
        ids=["function", "argument", "result", "exception"],
    )
    def test_the_error_is_the_one_of_the_bare_host(
        self, host: PoolBinding, make_pool: Pools, start_method: str, func: Any, args: tuple[Any, ...]
    ) -> None:
        theirs = CannotBePickled.test_the_error_is_the_one_of_the_bare_host
        theirs(self, host, make_pool, start_method, func, args)

    def test_an_argument_that_cannot_be_pickled_in_every_way(
        self, host: PoolBinding, make_pool: Pools, way: Way
    ) -> None:
        answers = way.call(make_pool(), same, [1, generator()])

        assert "cannot pickle" in str(answers.error)


class TestDill(ContractBase):
    """What dill can pickle goes there and back, as in the bare pool."""

    binding = BindMultiprocess

    @pytest.mark.usefixtures("lambdas")
    def test_functions_without_a_name(self, host: BindMultiprocess, make_pool: Pools) -> None:
        pool = make_pool(2)
        factor = 7
        assert pool.map(lambda x: x * factor, range(4), 2) == [0, 7, 14, 21]
        assert pool.apply(lambda: lambda: factor)() == 7

    @pytest.mark.usefixtures("lambdas")
    def test_functions_with_more_than_a_message_holds(self, host: BindMultiprocess, make_pool: Pools) -> None:
        pool = make_pool(1)
        for size in (20_000, 1 << 20):  # a slot, a file of its own
            data = bytes(size)
            assert pool.apply(lambda data=data: lambda: data)() == data

    @pytest.mark.usefixtures("lambdas")
    def test_a_loss_names_a_lambda(self, host: BindMultiprocess, make_pool: Pools) -> None:
        pool = make_pool(2)
        with pytest.raises(WorkerLostError, match="<lambda>"):
            pool.apply_async(lambda: kill_self()()).get(DEADLINE)
        serves(host, pool)

    def test_a_timeout_is_caught_by_its_own_name(self, host: BindMultiprocess, make_pool: Pools) -> None:
        pool = make_pool(1, timeout=0.1)
        with pytest.raises(multiprocess.TimeoutError) as caught:
            pool.apply(hang())
        assert isinstance(caught.value, TaskTimeoutError)

    def test_a_worker_imports_no_more_of_the_original(self) -> None:
        context = multiprocess.get_context("spawn")
        with context.Pool(1) as bare:
            expected = bare.apply(parts_of_multiprocessing)
        with guard(context.Pool(1)) as pool:
            assert pool.apply(parts_of_multiprocessing) == expected


def parts_of_multiprocessing() -> list[str]:
    """Return the imported modules of the package that this one is a copy of."""
    return sorted(name for name in sys.modules if name.partition(".")[0] == "multiprocessing")


class TestProcess:
    """`multiprocess.Process`: ``join`` says how it ended."""

    @pytest.mark.parametrize("start_method", BindMultiprocess.start_methods)
    def test_join_tells_of_a_death(self, start_method: str) -> None:
        process = guard(multiprocess.get_context(start_method).Process(target=die(3)))
        process.start()
        with pytest.raises(WorkerLostError) as caught:
            process.join(DEADLINE)
        assert caught.value.exit.exitcode == 3

    def test_a_timeout_kills_it(self) -> None:
        process = guard(multiprocess.Process(target=hang()), timeout=0.1)
        process.start()
        with pytest.raises(TaskTimeoutError):
            process.join(DEADLINE)

    def test_unguard_restores_the_class(self) -> None:
        process = multiprocess.Process(target=int)
        kind = type(process)
        assert unguard(guard(process)) is process
        assert type(process) is kind


class TestInstall(ContractBase):
    """`install` finds this host too."""

    binding = BindMultiprocess

    @pytest.fixture(autouse=True)
    def _installed(self) -> Iterator[None]:
        install()
        yield
        uninstall()

    def test_pools_made_afterwards_are_guarded(self, host: BindMultiprocess) -> None:
        with multiprocess.Pool(2) as pool:
            with pytest.raises(WorkerLostError):
                pool.apply_async(kill_self()).get(DEADLINE)
            serves(host, pool)

    def test_uninstall_restores_the_class(self) -> None:
        pool_class = multiprocess.pool.Pool
        uninstall()
        assert not hasattr(pool_class.__init__, "__wrapped__")
        with multiprocess.Pool(1) as pool:
            assert not hasattr(pool, "_poolwarden")
