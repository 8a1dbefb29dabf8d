"""Rows 1, 2 and 12: a worker dies while it runs a task; and retries."""

from __future__ import annotations

import os
import pickle
import re
import signal
from functools import partial
from typing import Any

import pytest

from poolwarden import WorkerLostError, limits
from poolwarden.testing import abort, die, fail, first, kill_self, once, only_for, segfault
from tests.contract.base import ContractBase, Notes, Pools, serves
from tests.contract.binding import PoolBinding, Way
from tests.contract.tasks import (
    Both,
    EndsItsWorkerWhenFreed,
    HeldUntil,
    Noted,
    raise_value_error,
    same,
    square,
)
from tests.contract.waiting import eventually

#: What kills the worker: the fault, the exit code, the signal's name, the cause.
FROM_INSIDE = {
    "SIGKILL": (kill_self(signal.SIGKILL), -signal.SIGKILL, "SIGKILL", "signal"),
    "SIGTERM": (kill_self(signal.SIGTERM), -signal.SIGTERM, "SIGTERM", "signal"),
    "segfault": (segfault(), -signal.SIGSEGV, "SIGSEGV", "signal"),
    "abort": (abort(), -signal.SIGABRT, "SIGABRT", "signal"),
    "exit-0": (die(0), 0, None, "exit"),
    "exit-1": (die(1), 1, None, "exit"),
    "exit-77": (die(77), 77, None, "exit"),
}

SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGABRT]


class RunningTaskDies(ContractBase):
    """Row 1: one task is lost with its worker, the others do not notice."""

    @pytest.mark.every_start_method
    @pytest.mark.parametrize("fault", FROM_INSIDE)
    def test_a_task_that_ends_its_worker_is_told_how(
        self, host: PoolBinding, make_pool: Pools, fault: str
    ) -> None:
        func, exitcode, signal_name, cause = FROM_INSIDE[fault]
        pool = make_pool()
        before = [host.submit(pool, square, n) for n in range(3)]
        lost = host.submit(pool, func)
        after = [host.submit(pool, square, n) for n in range(5)]

        with pytest.raises(WorkerLostError) as caught:
            host.result(lost)

        assert [host.result(handle) for handle in before] == [0, 1, 4]
        assert [host.result(handle) for handle in after] == [0, 1, 4, 9, 16]
        error = caught.value
        assert error.exit.exitcode == exitcode
        assert error.exit.signal == signal_name
        assert error.exit.cause == cause
        assert error.may_have_run is True
        assert isinstance(error, host.host_error)

    @pytest.mark.every_start_method
    @pytest.mark.parametrize("sig", SIGNALS, ids=lambda sig: sig.name)
    def test_a_task_whose_worker_is_killed_from_outside_is_told_how(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, tmp_path: Any, sig: signal.Signals
    ) -> None:
        pool = make_pool()
        lost = host.submit(pool, Noted(notes.path, HeldUntil(tmp_path / "never")), "x")
        others = [host.submit(pool, square, n) for n in range(5)]
        (pid,) = notes.pids()

        os.kill(pid, sig)

        with pytest.raises(WorkerLostError) as caught:
            host.result(lost)
        assert caught.value.exit.pid == pid
        assert caught.value.exit.exitcode == -sig
        assert caught.value.exit.signal == sig.name
        assert [host.result(handle) for handle in others] == [0, 1, 4, 9, 16]

    @pytest.mark.parametrize("func", [type, same], ids=["argument", "result"])
    def test_a_finished_task_is_not_lost_when_its_worker_dies_of_freeing_what_it_used(
        self, host: PoolBinding, make_pool: Pools, func: Any
    ) -> None:
        pool = make_pool()

        handles = [host.submit(pool, func, EndsItsWorkerWhenFreed()) for _ in range(3)]

        for handle in handles:
            assert EndsItsWorkerWhenFreed in (result := host.result(handle), type(result))
        serves(host, pool)

    def test_the_error_names_the_task_and_where_it_was_submitted(
        self, host: PoolBinding, make_pool: Pools
    ) -> None:
        lost = host.submit(make_pool(), dies_of_sigkill, "secret-argument")

        with pytest.raises(WorkerLostError) as caught:
            host.result(lost)

        task = caught.value.task
        assert task.function.endswith("dies_of_sigkill")
        assert task.attempts == 1
        assert re.search(r"bind_\w+\.py:\d+$", task.site), "the line that called the host"
        assert "dies_of_sigkill" in str(caught.value).splitlines()[0]
        assert "SIGKILL" in str(caught.value)

    def test_no_argument_is_ever_shown(self, host: PoolBinding, make_pool: Pools, caplog: Any) -> None:
        events: list[Any] = []
        lost = host.submit(make_pool(on_event=events.append), dies_of_sigkill, "secret-argument")

        with pytest.raises(WorkerLostError) as caught:
            host.result(lost)

        eventually(lambda: events, "an event")
        for text in (str(caught.value), repr(caught.value), repr(events), caplog.text):
            assert "secret-argument" not in text

    def test_the_error_pickles_with_all_it_says(self, host: PoolBinding, make_pool: Pools) -> None:
        lost = host.submit(make_pool(), segfault())
        with pytest.raises(WorkerLostError) as caught:
            host.result(lost)

        copy = pickle.loads(pickle.dumps(caught.value))

        assert type(copy) is type(caught.value)
        assert str(copy) == str(caught.value)
        for name in ("task", "exit", "stack", "may_have_run"):
            assert getattr(copy, name) == getattr(caught.value, name)

    def test_a_crash_shows_the_stack_of_the_worker(self, host: PoolBinding, make_pool: Pools) -> None:
        lost = host.submit(make_pool(), Both(square, segfault()), 3)

        with pytest.raises(WorkerLostError) as caught:
            host.result(lost)

        assert "_segfault" in caught.value.stack
        assert "_bootstrap" not in caught.value.stack

    def test_a_loss_is_an_event_and_a_warning(self, host: PoolBinding, make_pool: Pools, caplog: Any) -> None:
        events: list[Any] = []
        lost = host.submit(make_pool(on_event=events.append), kill_self())
        with pytest.raises(WorkerLostError) as caught:
            host.result(lost)

        eventually(lambda: caught.value.exit in [event.exit for event in events], "the event")
        assert all(type(event.kind) is str and event.time and event.pool for event in events)
        warnings = [record for record in caplog.records if record.levelname == "WARNING"]
        assert [record.name for record in warnings if record.name.startswith("poolwarden")]


class ItemDies(ContractBase):
    """Row 2: one item of a chunk or batch is lost with its worker."""

    @pytest.mark.parametrize("item", [0, 3, 5, 7])
    def test_one_item_is_lost_and_the_others_run_once(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, way: Way, item: int
    ) -> None:
        func = Noted(notes.path, only_for(item, kill_self(), square))

        answers = way.call(make_pool(), func, list(range(8)))

        assert isinstance(answers.error, WorkerLostError)
        way.check_others(answers, notes.items(), 8, item)
        if way.indexed:
            assert answers.error.task.index == item

    def test_two_items_of_one_call_are_lost_each_by_itself(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, way: Way
    ) -> None:
        func = Noted(notes.path, only_for(1, die(7), only_for(5, kill_self(), square)))

        answers = way.call(make_pool(), func, list(range(6)))

        ran = notes.items()
        assert max(ran.values()) == 1
        assert {"1", "5"} <= ran.keys() or way.cancels
        assert all(isinstance(error, WorkerLostError) for error in answers.errors)
        if way.separate:
            assert sorted(error.exit.exitcode for error in answers.errors) == [-9, 7]
            assert sorted(answers.values) == [0, 4, 9, 16]

    @pytest.mark.parametrize("lost", [[0], [2], [2, 3], [0, 1, 2, 3, 4, 5, 6]], ids=str)
    def test_losses_can_take_their_place_in_the_result(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, way: Way, lost: list[int]
    ) -> None:
        if not way.indexed:
            pytest.skip("one call for each item: there is no place to take")
        pool = make_pool(losses="return")
        func = square
        for item in lost:
            func = only_for(item, kill_self(), func)

        answers = way.call(pool, Noted(notes.path, func), list(range(7)))

        assert answers.errors == []
        losses = [value for value in answers.values if isinstance(value, WorkerLostError)]
        assert sorted(loss.task.index for loss in losses) == lost
        rest = [value for value in answers.values if not isinstance(value, WorkerLostError)]
        assert sorted(rest) == [n * n for n in range(7) if n not in lost]
        assert notes.items() == {str(n): 1 for n in range(7)}, "nothing ran twice"

    def test_an_error_of_the_task_still_raises_with_losses_returned(
        self, host: PoolBinding, make_pool: Pools, way: Way
    ) -> None:
        pool = make_pool(losses="return")

        answers = way.call(pool, only_for(2, fail(KeyError("its own")), square), list(range(3)))

        assert isinstance(answers.error, KeyError)

    @pytest.mark.every_start_method
    def test_a_lost_item_under_each_start_method(
        self, host: PoolBinding, make_pool: Pools, notes: Notes
    ) -> None:
        pool = make_pool()

        for way in host.ways.values():
            answers = way.call(pool, only_for(4, die(3), square), list(range(6)))
            assert isinstance(answers.error, WorkerLostError)
            assert answers.error.exit.exitcode == 3
            if way.separate:
                assert sorted(answers.values) == [0, 1, 4, 9, 25]


class ManyDie(ContractBase):
    """Row 12: every task kills its worker; several workers die at one instant."""

    @pytest.mark.every_start_method
    def test_each_of_many_lost_tasks_gets_an_error_of_its_own(
        self, host: PoolBinding, make_pool: Pools
    ) -> None:
        pool = make_pool()
        handles = [host.submit(pool, kill_self(), n) for n in range(12)]

        errors = []
        for handle in handles:
            with pytest.raises(WorkerLostError) as caught:
                host.result(handle)
            errors.append(caught.value)

        assert len(set(map(id, errors))) == 12
        assert len({error.exit.pid for error in errors}) == 12

    @pytest.mark.every_start_method
    def test_workers_that_die_at_one_instant_lose_only_their_own_tasks(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, tmp_path: Any
    ) -> None:
        pool = make_pool(3)
        lost = [host.submit(pool, Noted(notes.path, HeldUntil(tmp_path / "never")), n) for n in range(3)]
        queued = [host.submit(pool, square, n) for n in range(20)]
        pids = notes.pids(3)

        for pid in pids:
            os.kill(pid, signal.SIGKILL)

        seen = set()
        for handle in lost:
            with pytest.raises(WorkerLostError) as caught:
                host.result(handle)
            seen.add(caught.value.exit.pid)
        assert seen == set(pids)
        assert [host.result(handle) for handle in queued] == [n * n for n in range(20)]

    def test_one_killing_task_among_a_thousand_costs_itself_alone(
        self, host: PoolBinding, make_pool: Pools
    ) -> None:
        pool = make_pool(4)
        handles = [host.submit(pool, only_for(500, kill_self(), square), n) for n in range(1000)]

        with pytest.raises(WorkerLostError):
            host.result(handles.pop(500))
        assert [host.result(handle) for handle in handles] == [n * n for n in range(1000) if n != 500]
        serves(host, pool)

    def test_workers_are_replaced_one_for_one(
        self, host: PoolBinding, make_pool: Pools, notes: Notes
    ) -> None:
        pool = make_pool(initializer=Noted(notes.path, square), initargs=(0,))

        for _ in range(10):
            with pytest.raises(WorkerLostError):
                host.result(host.submit(pool, die(1)))
        host.result(host.submit(pool, square, 2))

        assert notes.items()["0"] <= 2 + 10


class Retries(ContractBase):
    """A task lost with its worker runs again, as often as `retries` says."""

    def test_a_task_that_recovers_in_time_gives_its_result(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, way: Way
    ) -> None:
        func = Noted(notes.path, first(2, f"{notes.path}.count", kill_self(), square))

        answers = way.call(make_pool(retries=2), func, [3])

        assert answers.errors == []
        assert answers.values == [9]
        assert notes.items() == {"3": 3}

    def test_a_task_that_never_recovers_runs_that_often_and_no_more(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, way: Way
    ) -> None:
        answers = way.call(make_pool(retries=2), Noted(notes.path, die(1)), [3])

        assert isinstance(answers.error, WorkerLostError)
        assert answers.error.task.attempts == 3
        assert notes.items() == {"3": 3}

    def test_a_task_that_raised_is_never_run_again(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, way: Way
    ) -> None:
        answers = way.call(make_pool(retries=3), Noted(notes.path, raise_value_error), [3])

        assert isinstance(answers.error, ValueError)
        assert notes.items() == {"3": 1}

    def test_inside_a_chunk_only_the_lost_item_runs_again(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, way: Way
    ) -> None:
        recovering = once(f"{notes.path}.count", kill_self(), square)
        func = Noted(notes.path, only_for(2, recovering, square))

        answers = way.call(make_pool(retries=1), func, list(range(6)))

        assert answers.errors == []
        assert sorted(answers.values) == [0, 1, 4, 9, 16, 25]
        assert notes.items() == {**{str(n): 1 for n in range(6)}, "2": 2}

    @pytest.mark.every_start_method
    def test_each_task_has_its_own_count(self, host: PoolBinding, make_pool: Pools, tmp_path: Any) -> None:
        pool = make_pool(retries=1)

        handles = [host.submit(pool, once(tmp_path / str(n), die(1), square), n) for n in range(6)]

        assert [host.result(handle) for handle in handles] == [0, 1, 4, 9, 16, 25]

    @pytest.mark.parametrize("wrap", [lambda f: f, lambda f: partial(f)], ids=["plain", "partial"])
    def test_limits_overrides_the_pools_number(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, way: Way, wrap: Any
    ) -> None:
        func = first(1, notes.path, kill_self(), square)

        answers = way.call(make_pool(), wrap(limits(func, retries=1)), [3])

        assert answers.errors == []
        assert answers.values == [9]


def dies_of_sigkill(_secret: str) -> None:
    kill_self()()
