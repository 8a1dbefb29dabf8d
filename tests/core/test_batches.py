"""Batches: calls that hold their items, and may have a function, and limits, for each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from poolwarden.core.error_texts import worker_lost
from poolwarden.core.pool_memory import PoolMemory
from poolwarden.core.tickets import Ticket, Tickets
from poolwarden.policy import Policy, limits
from poolwarden.records import WorkerExit
from poolwarden.worker import envelope
from poolwarden.worker.envelope import ASK, BATCH, CHUNK, KEEP, PARTS, TIMED
from tests.core.fakes import FakeHost
from tests.worker.members import member_of

FLAGS = CHUNK | BATCH
EXIT = WorkerExit(1234, -9, "SIGKILL", "signal", ())

#: What a batch has arranged for its items while they run.
arranged: list[str] = []


class Batch:
    """As a library may have it: items, and a call that runs them with something arranged."""

    def __init__(self, *items: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]) -> None:
        self.items = list(items)

    def __len__(self) -> int:
        return len(self.items)

    def __call__(self) -> list[Any]:
        arranged.append("something")
        try:
            return [func(*args, **kwds) for func, args, kwds in self.items]
        finally:
            arranged.pop()


def add(a: int, b: int = 0) -> int:
    return a + b


def what_is_arranged() -> list[str]:
    return list(arranged)


def fail() -> None:
    raise ValueError("as any function may")


#: What became of `Counted` objects.
counted: list[str] = []


class Counted:
    def __reduce__(self) -> Any:
        return make_counted, ()

    def __del__(self) -> None:
        counted.append("dropped")


def make_counted() -> Counted:
    counted.append("made")
    return Counted()


def never(*_: object) -> None:
    raise AssertionError("it was called off")


@pytest.fixture
def tickets(memory: PoolMemory) -> Tickets:
    return Tickets(memory, FakeHost())


@pytest.fixture
def issue(tickets: Tickets) -> Callable[..., Ticket]:
    def issue(*items: Any, func: Any = add, policy: Policy | None = None, flags: int = 0) -> Ticket:
        ticket = tickets.issue("key", func, Batch(*items), policy or Policy(), flags=FLAGS | flags, base=100)
        ticket.sent = True
        return ticket

    return issue


def run(tickets: Tickets, ticket: Ticket, memory: PoolMemory) -> Any:
    with member_of(memory):
        answer = tickets.settle(*envelope.run(*ticket.call(memory.name)))
    assert answer is not None
    return answer[1:]


@pytest.mark.parametrize("policy", [Policy(), Policy(timeout=5), Policy(retries=1)])
def test_items_run_inside_of_the_batchs_own_call(
    tickets: Tickets, issue: Any, memory: PoolMemory, policy: Policy
) -> None:
    ticket = issue((add, (1, 2), {}), (add, (3,), {"b": 4}), (what_is_arranged, (), {}), policy=policy)

    assert run(tickets, ticket, memory) == (True, [3, 7, ["something"]])
    assert arranged == []


def test_the_text_of_an_exception_begins_at_the_function(
    tickets: Tickets, issue: Any, memory: PoolMemory
) -> None:
    ok, error = run(tickets, issue((add, (1,), {}), (fail, (), {})), memory)

    assert (ok, str(error)) == (False, "as any function may")
    lines = str(error.__cause__).splitlines()
    assert lines[1].endswith("in fail")


def test_each_item_has_the_name_and_the_limits_of_its_function(issue: Any) -> None:
    items = (add, limits(fail, timeout=2), limits(add, retries=3, timeout=None))
    ticket = issue(*((item, (), {}) for item in items), func=items, policy=Policy(timeout=5))

    assert [ticket.info(n).function.rpartition(".")[2] for n in range(3)] == ["add", "fail", "add"]
    assert [ticket.info(n).index for n in range(3)] == [100, 101, 102]
    assert [ticket.timeout_of(n) for n in range(3)] == [5, 2, None]
    assert [ticket.policy_of(n).retries for n in range(3)] == [0, 0, 3]
    # The next look is due at the shortest; results are kept as one item may run again.
    assert ticket.timeout == 2
    assert ticket.flags & TIMED
    assert ticket.flags & KEEP


def test_one_limit_is_enough_to_have_items_timed(issue: Any) -> None:
    items = (add, limits(add, timeout=2))

    assert issue(*((item, (), {}) for item in items), func=items).flags & (TIMED | KEEP) == TIMED


def test_what_was_cancelled_has_no_time_left(issue: Any) -> None:
    items = (add, limits(add, timeout=2))
    ticket = issue(*((item, (), {}) for item in items), func=items)
    ticket.cancelled = True

    assert (ticket.timeout, ticket.timeout_of(0), ticket.timeout_of(1)) == (0, 0, 0)


def test_retries_are_those_of_the_item(tickets: Tickets, issue: Any) -> None:
    items = (add, limits(add, retries=1))
    ticket = issue(*((item, (1,), {}) for item in items), func=items, policy=Policy(losses="return"))

    assert tickets.lose(ticket, 0, worker_lost(ticket.info(0), EXIT), retry=True) is None
    assert (ticket.first, list(ticket.holes)) == (1, [0])
    assert tickets.lose(ticket, 1, worker_lost(ticket.info(1), EXIT), retry=True) is None
    assert (ticket.first, list(ticket.holes)) == (1, [0])
    assert tickets.lose(ticket, 1, worker_lost(ticket.info(1), EXIT), retry=True) == PARTS


class TestCallingOff:
    def test_it_does_not_begin(self, tickets: Tickets, issue: Any, memory: PoolMemory) -> None:
        ticket = issue((never, (), {}), flags=ASK)
        ticket.cancelled = True
        tickets.call_off(ticket)

        assert run(tickets, ticket, memory) == (True, None)

    def test_its_arguments_are_made_and_dropped(
        self, tickets: Tickets, issue: Any, memory: PoolMemory
    ) -> None:
        # joblib counts the references to an array that workers map.
        ticket = issue((never, (Counted(),), {}), flags=ASK)
        ticket.cancelled = True
        tickets.call_off(ticket)
        counted.clear()

        run(tickets, ticket, memory)

        assert counted == ["made", "dropped"]

    def test_others_do(self, tickets: Tickets, issue: Any, memory: PoolMemory) -> None:
        off, on = issue((never, (), {}), flags=ASK), issue((add, (1,), {}), flags=ASK)
        off.cancelled = True
        tickets.call_off(off)

        assert run(tickets, on, memory) == (True, [1])

    def test_nothing_is_left_of_one_that_was_answered_meanwhile(
        self, tickets: Tickets, issue: Any, memory: PoolMemory
    ) -> None:
        ticket = issue((add, (1,), {}), flags=ASK)
        assert run(tickets, ticket, memory) == (True, [1])
        tickets.call_off(ticket)
