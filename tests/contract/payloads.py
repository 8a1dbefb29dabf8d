"""Rows 3, 6, 7 and 8: tasks that exit, and what cannot be pickled or unpickled."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

from poolwarden import PayloadError, TaskExitError
from poolwarden.testing import fail, on_unpickle, only_for
from tests.contract import tasks
from tests.contract.base import ContractBase, Notes, Pools
from tests.contract.binding import WAIT_ENDED, Answers, PoolBinding, Way
from tests.contract.tasks import (
    Noted,
    Returning,
    Unrepresentable,
    Unusual,
    lambda_result,
    pid_of_worker,
    raise_two_arguments,
    raise_unpicklable,
    same,
    square,
)

EXITS = [SystemExit(3), SystemExit("bye"), SystemExit(), KeyboardInterrupt(), GeneratorExit(), Unusual("x")]


class TaskExits(ContractBase):
    """Row 3: an exit ends the task, not the worker and not the caller's program."""

    @pytest.mark.every_start_method
    @pytest.mark.parametrize("error", EXITS, ids=repr)
    def test_an_exit_is_an_error_and_the_worker_lives(
        self, host: PoolBinding, make_pool: Pools, error: BaseException
    ) -> None:
        pool = make_pool(1)
        pid = host.result(host.submit(pool, pid_of_worker))

        with pytest.raises(TaskExitError) as caught:
            host.result(host.submit(pool, fail(error)))

        assert type(error).__name__ in str(caught.value)
        assert caught.value.may_have_run is True
        assert host.result(host.submit(pool, pid_of_worker)) == pid

    def test_one_item_exits_and_the_others_run_once(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, way: Way
    ) -> None:
        func = Noted(notes.path, only_for(3, fail(SystemExit(3)), square))

        answers = way.call(make_pool(), func, list(range(6)))

        assert isinstance(answers.error, TaskExitError)
        way.check_others(answers, notes.items(), 6, 3)


class CallCannotBeUnpickled(ContractBase):
    """Row 6: the worker cannot make sense of the function or an argument."""

    @pytest.fixture
    def later_module(self) -> Iterator[types.ModuleType]:
        """Return a module that only the parent has, since its workers are older."""
        module = types.ModuleType("made_after_the_pool")
        exec("def func(x=None):\n    return x\n", module.__dict__)
        sys.modules[module.__name__] = module
        yield module
        del sys.modules[module.__name__]

    @pytest.mark.every_start_method
    def test_function_of_a_module_the_worker_has_not(
        self, host: PoolBinding, make_pool: Pools, request: pytest.FixtureRequest
    ) -> None:
        pool = make_pool()
        host.result(host.submit(pool, square, 1))
        module = request.getfixturevalue("later_module")

        error = self._payload_error(host, host.submit(pool, module.func))

        assert "made_after_the_pool" in str(error.__cause__)

    def test_function_the_workers_module_has_not(
        self, host: PoolBinding, make_pool: Pools, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pool = make_pool()
        host.result(host.submit(pool, square, 1))
        func = types.FunctionType(square.__code__, {}, "made_after_the_pool")
        func.__module__ = tasks.__name__
        func.__qualname__ = func.__name__
        monkeypatch.setattr(tasks, func.__name__, func, raising=False)

        error = self._payload_error(host, host.submit(pool, func, 3))

        assert "made_after_the_pool" in str(error.__cause__)

    @pytest.mark.every_start_method
    @pytest.mark.parametrize(
        "raised",
        [ValueError("no"), FileNotFoundError(2, "no"), EOFError(), SystemExit(1), KeyboardInterrupt()],
        ids=lambda error: type(error).__name__,
    )
    def test_argument_whose_unpickling_raises(
        self, host: PoolBinding, make_pool: Pools, raised: BaseException
    ) -> None:
        pool = make_pool()

        error = self._payload_error(host, host.submit(pool, same, on_unpickle(fail(raised))))

        assert type(raised).__name__ in str(error.__cause__)
        assert "Traceback" in str(error.__cause__)
        assert error.may_have_run is False

    def _payload_error(self, host: PoolBinding, handle: Any) -> PayloadError:
        with pytest.raises(PayloadError) as caught:
            host.result(handle)
        assert caught.value.direction == "call"
        return caught.value

    def test_function_that_cannot_be_unpickled_in_every_way(
        self, host: PoolBinding, make_pool: Pools, way: Way
    ) -> None:
        func = Noted("unused", on_unpickle(fail(ValueError("no"))))

        answers = way.call(make_pool(), func, [1, 2, 3])

        assert answers.values == []
        assert answers.errors
        assert all(isinstance(error, PayloadError) for error in answers.errors)

    def test_one_argument_that_cannot_be_unpickled_in_every_way(
        self, host: PoolBinding, make_pool: Pools, way: Way
    ) -> None:
        items = [0, 1, on_unpickle(fail(ValueError("no"))), 3, 4]

        answers = way.call(make_pool(), same, items)

        assert isinstance(answers.error, PayloadError)
        if way.separate:
            assert sorted(answers.values) == [0, 1, 3, 4]


class OutcomeCannotBeUnpickled(ContractBase):
    """Row 7: the parent cannot make sense of a result or an exception."""

    @pytest.mark.every_start_method
    def test_an_exception_is_told_as_text(self, host: PoolBinding, make_pool: Pools) -> None:
        pool = make_pool()

        with pytest.raises(PayloadError) as caught:
            host.result(host.submit(pool, raise_two_arguments))

        error = caught.value
        assert error.direction == "result"
        assert error.may_have_run is True
        told = f"{error}\n{error.__cause__}"
        assert "TwoArgumentsError" in told
        assert "answer is 42" in told
        assert "in raise_two_arguments" in told

    @pytest.mark.parametrize(
        "raised", [ValueError("no"), OSError("no"), SystemExit(1)], ids=lambda error: type(error).__name__
    )
    def test_a_result_whose_unpickling_raises(
        self, host: PoolBinding, make_pool: Pools, raised: BaseException
    ) -> None:
        pool = make_pool()

        with pytest.raises(PayloadError) as caught:
            host.result(host.submit(pool, Returning(on_unpickle, fail(raised))))

        assert caught.value.direction == "result"
        assert type(raised).__name__ in f"{caught.value}\n{caught.value.__cause__}"

    @pytest.mark.parametrize(
        "outcome",
        [raise_two_arguments, Returning(on_unpickle, fail(ValueError("no")))],
        ids=["exception", "result"],
    )
    def test_one_outcome_that_cannot_be_unpickled_in_every_way(
        self, host: PoolBinding, make_pool: Pools, way: Way, outcome: Any
    ) -> None:
        answers = way.call(make_pool(), only_for(3, outcome, square), list(range(6)))

        assert isinstance(answers.error, PayloadError)
        if way.separate:
            assert sorted(answers.values) == [0, 1, 4, 16, 25]


class CannotBePickled(ContractBase):
    """Row 8: the host's own error, as without a guard."""

    @pytest.mark.every_start_method
    @pytest.mark.parametrize(
        ("func", "args"),
        [(lambda: 1, ()), (same, (lambda: 1,)), (lambda_result, ()), (raise_unpicklable, ())],
        ids=["function", "argument", "result", "exception"],
    )
    def test_the_error_is_the_one_of_the_bare_host(
        self, host: PoolBinding, make_pool: Pools, start_method: str, func: Any, args: tuple[Any, ...]
    ) -> None:
        bare = host.make_bare(1, start_method)
        try:
            with pytest.raises(Exception) as without:  # noqa: PT011 - whatever the host says
                host.result(host.submit(bare, func, *args))
        finally:
            host.terminate(bare)

        with pytest.raises(Exception) as guarded:  # noqa: PT011
            host.result(host.submit(make_pool(1), func, *args))

        assert not isinstance(without.value, WAIT_ENDED)
        assert type(guarded.value) is type(without.value)
        # Not further: what follows are addresses, or the host's own wrapping of an exception.
        assert (
            str(guarded.value).split(" '")[0].split(" at 0x")[0]
            == (str(without.value).split(" '")[0].split(" at 0x")[0])
        )

    def test_an_argument_that_cannot_be_pickled_in_every_way(
        self, host: PoolBinding, make_pool: Pools, way: Way
    ) -> None:
        answers = way.call(make_pool(), same, [1, lambda: 1])

        assert answers.errors
        assert not any(isinstance(error, PayloadError) for error in answers.errors)

    def test_a_result_that_can_be_neither_pickled_nor_shown(
        self, host: PoolBinding, make_pool: Pools
    ) -> None:
        handle = host.submit(make_pool(), Returning(Unrepresentable))
        answers = Answers()

        answers.collect(lambda: host.result(handle))

        assert answers.error, "bare, the worker dies of it and nobody is told; any error will do"
