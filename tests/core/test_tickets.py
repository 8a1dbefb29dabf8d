"""Tickets: each is answered once, run again as often as allowed, and leaves nothing behind."""

from __future__ import annotations

import functools
import os
import pickle
import sys
import weakref

import pytest

from poolwarden.core import tickets as tickets_module
from poolwarden.core.error_texts import pool_broken, task_timeout, worker_lost
from poolwarden.core.task_names import caller_site, name_of
from poolwarden.core.tickets import VERDICT, Tickets
from poolwarden.policy import Policy, limits
from poolwarden.records import TaskInfo, WorkerExit
from poolwarden.worker import envelope, ledger, payload
from poolwarden.worker.envelope import CHUNK, KEEP, PARTS, STAR, TIMED, VALUE
from poolwarden.worker.payload import MEMORY
from tests.core import recorded
from tests.core.fakes import FakeHost
from tests.worker.members import member_of, new_place

EXIT = WorkerExit(1234, -9, "SIGKILL", "signal", ())


def add(a, b=0):
    return a + b


def same(value):
    return value


class Unpicklable:
    def __reduce__(self):
        raise pickle.PicklingError("not this one")


class Thing:
    """Can be referred to weakly, and pickled."""

    def method(self, *args):
        return args

    def __call__(self, *args):
        return args


@pytest.fixture
def tickets(memory):
    return Tickets(memory, FakeHost())


@pytest.fixture
def issue(tickets):
    """Issues a ticket for a call, or for a chunk if `items` are given."""

    def issue(func, *args, items=None, policy=None, **options):
        if items is None:
            call = (func, args, {})
        else:
            call = (func, items)
            options.setdefault("flags", CHUNK)
            options.setdefault("base", 0)
        ticket = tickets.issue("key", func, call, policy or Policy(), **options)
        ticket.sent = True
        return ticket

    return issue


def lost(ticket, item=0):
    return worker_lost(ticket.info(item), EXIT)


def keep(ticket, results):
    """Have results of a chunk that its worker has kept."""
    ticket.kept = {item: pickle.dumps(value) for item, value in results.items()}


# -- issuing and settling -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 10_000, 1 << 20])
def test_a_call_goes_through_a_worker_and_back(tickets, issue, memory, size):
    with member_of(memory):
        ticket = issue(add, b"a" * size, b"b" * size)
        answer = envelope.run(*ticket.call(memory.name))
        assert tickets.settle(*answer) == (ticket, True, b"a" * size + b"b" * size)
    assert tickets.open == {}


@pytest.mark.parametrize("policy", [Policy(), Policy(timeout=5), Policy(retries=1), Policy(losses="return")])
@pytest.mark.parametrize("star", [0, STAR])
def test_a_chunk_goes_through_a_worker_and_back(tickets, issue, memory, policy, star):
    with member_of(memory):
        items = ((1, 2), (3, 4)) if star else (1, 3)
        ticket = issue(add, items=items, policy=policy, flags=CHUNK | star)
        _, ok, value = tickets.settle(*envelope.run(*ticket.call(memory.name)))
    assert (ok, value) == (True, [3, 7] if star else [1, 3])


def test_a_task_is_answered_once(tickets, issue):
    ticket = issue(add, 1)
    assert tickets.open == {ticket.number: ticket}
    answer = (ticket.number, VALUE, pickle.dumps(1))
    assert tickets.settle(*answer) == (ticket, True, 1)
    assert tickets.settle(*answer) is None
    assert tickets.settle(ticket.number, VERDICT, b"") is None


def test_an_answer_to_nobody_is_dropped(tickets):
    assert tickets.settle(999, VALUE, pickle.dumps(1)) is None


def test_a_verdict_answers_a_task_too(tickets, issue):
    ticket = issue(add, 1)
    ticket.verdict = error = lost(ticket)
    assert tickets.settle(ticket.number, VERDICT, b"") == (ticket, False, error)
    assert tickets.settle(ticket.number, VALUE, pickle.dumps(1)) is None


def test_the_second_answer_to_a_task_gives_its_room_back(tickets, issue, memory):
    ticket = issue(add, 1)
    ticket.verdict = lost(ticket)
    tickets.settle(ticket.number, VERDICT, b"")
    with member_of(memory) as member:
        where, data = member.dumper.dump(bytes(1 << 20), member.ring, ticket.number)
        cells = member.record.cells
        assert cells[ledger.RING_PUT] > cells[ledger.RING_TAKEN] == 0
        assert tickets.settle(ticket.number, VALUE | where, data) is None
        assert cells[ledger.RING_PUT] == cells[ledger.RING_TAKEN]


def test_numbers_are_never_used_twice(tickets, issue):
    numbers = []
    for _ in range(5):
        numbers.append(issue(add, 1).number)
        tickets.settle(numbers[-1], VALUE, pickle.dumps(1))
    assert numbers == sorted(set(numbers))
    assert min(numbers) > 0  # 0 is what an empty record says


def test_a_call_that_cannot_be_pickled_has_its_verdict_already(tickets, issue):
    ticket = issue(add, [bytes(1 << 20), Unpicklable()])
    assert type(ticket.verdict) is pickle.PicklingError
    assert tickets.settle(ticket.number, VERDICT, b"") == (ticket, False, ticket.verdict)


def test_ctrl_c_while_a_call_is_pickled_opens_no_ticket(tickets, issue):
    class Interrupting:
        def __reduce__(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        issue(add, [bytes(1 << 20), Interrupting()])
    assert tickets.open == {}


def test_a_failure_of_the_host_itself_answers_the_task(tickets, issue):
    ticket = issue(add, 1)
    error = EOFError("the host's own")
    assert tickets.settle(*tickets.host_failure(ticket.number, error)) == (ticket, False, error)
    assert tickets.settle(*tickets.host_failure(ticket.number, error)) is None


# -- what is known of a task ----------------------------------------------------------------------


def test_what_a_ticket_says_of_its_task(issue):
    ticket = issue(add, 1)
    assert ticket.info() == TaskInfo(f"{__name__}.add", None, None, 1)
    ticket.site = ("shop.py", 12)
    ticket.sent = False
    assert ticket.info() == TaskInfo(f"{__name__}.add", None, "shop.py:12", 0)


def test_items_are_counted_from_the_beginning_of_the_users_iterable(issue):
    ticket = issue(add, items=(1, 2, 3), base=30)
    assert ticket.count == 3
    assert [ticket.info(item).index for item in range(3)] == [30, 31, 32]


def test_attempts_are_counted_by_item(tickets, issue):
    ticket = issue(add, items=(1, 2, 3), policy=Policy(retries=5))
    tickets.lose(ticket, 1, lost(ticket, 1), retry=True)
    tickets.lose(ticket, 1, lost(ticket, 1), retry=True)
    assert [ticket.info(item).attempts for item in range(3)] == [1, 3, 1]
    ticket.sent = False
    assert [ticket.info(item).attempts for item in range(3)] == [0, 2, 0]


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (add, f"{__name__}.add"),
        (functools.partial(add, 1), f"{__name__}.add"),
        (limits(add, timeout=1), f"{__name__}.add"),
        (limits(functools.partial(limits(add, retries=1), 1), timeout=1), f"{__name__}.add"),
        (Thing().method, f"{__name__}.Thing.method"),
        (Thing(), f"{__name__}.Thing"),
        (Thing, f"{__name__}.Thing"),
        (len, "builtins.len"),
        ("".join, "builtins.str.join"),
        ("already a name", "already a name"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_name_of_a_function_is_found_through_wrappers(function, name):
    assert name_of(function) == name


@pytest.mark.parametrize(
    "wrap",
    [
        lambda thing: (thing, ()),
        lambda thing: (thing.method, ()),
        lambda thing: (functools.partial(add, thing), ()),
        lambda thing: (limits(functools.partial(add, thing), timeout=1), ()),
        lambda thing: (add, (thing,)),
    ],
    ids=["callable", "method", "partial", "limits", "argument"],
)
def test_no_argument_is_kept_alive_while_a_task_is_on_its_way(issue, wrap):
    """The bare pool lets them go as soon as the message is written."""
    thing = Thing()
    gone = weakref.ref(thing)
    function, args = wrap(thing)
    ticket = issue(function, *args)
    del thing, function, args
    assert gone() is None
    assert ticket.info().function.startswith(__name__)


def test_the_line_of_a_submission_is_the_first_outside_of_the_host():
    def submit():
        return caller_site(("no_such_file.py",), sys._getframe(0))

    file, line = submit()
    assert file == __file__
    assert line == submit.__code__.co_firstlineno + 1
    assert caller_site((os.path.basename(__file__),), sys._getframe(0)) != (__file__, line)
    assert caller_site((".py", ">"), sys._getframe(0)) is None


# -- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        limits(add, timeout=5, retries=2),
        functools.partial(limits(add, timeout=5, retries=2), 1),
        limits(limits(add, timeout=7), timeout=5, retries=2),
    ],
    ids=["limits", "partial", "nested"],
)
def test_limits_of_a_function_replace_those_of_the_pool(issue, function):
    pool = Policy(timeout=30, grace=1.5)
    ticket = issue(function, policy=pool)
    assert ticket.policy == Policy(timeout=5, grace=1.5, retries=2)
    assert ticket.timeout == 5
    assert pool == Policy(timeout=30, grace=1.5)
    assert issue(add, policy=pool).policy is pool


def test_limits_may_take_the_pools_timeout_away(issue):
    assert issue(limits(add, timeout=None), policy=Policy(timeout=30)).timeout is None


@pytest.mark.parametrize(
    ("function", "policy", "flags"),
    [
        (add, Policy(), 0),
        (add, Policy(timeout=5), TIMED),
        (add, Policy(retries=1), KEEP),
        (add, Policy(losses="return"), KEEP),
        (limits(add, timeout=5, retries=1), Policy(), TIMED | KEEP),
        (limits(add, timeout=None, retries=0), Policy(timeout=5, retries=1), 0),
    ],
)
def test_a_chunk_is_recorded_as_far_as_its_policy_needs_it(issue, function, policy, flags):
    assert issue(function, items=(1, 2), policy=policy).flags & (TIMED | KEEP) == flags
    assert issue(function, 1, policy=policy).flags & (TIMED | KEEP) == 0


def test_a_task_that_is_to_be_stopped_has_no_time_left(issue):
    ticket = issue(add, policy=Policy(timeout=5))
    ticket.cancelled = True
    assert ticket.timeout == 0


# -- losses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_lost_task_runs_again_as_often_as_allowed(tickets, issue, retries):
    ticket = issue(add, 1, policy=Policy(retries=retries))
    for _ in range(retries):
        assert tickets.lose(ticket, 0, lost(ticket), retry=True) is None
        assert ticket.verdict is None
    last = lost(ticket)
    assert tickets.lose(ticket, 0, last, retry=True) == VERDICT
    assert last.task.attempts == retries + 1
    assert tickets.settle(ticket.number, VERDICT, b"") == (ticket, False, last)


def test_what_may_not_be_retried_is_not(tickets, issue):
    ticket = issue(add, 1, policy=Policy(retries=3))
    assert tickets.lose(ticket, 0, lost(ticket), retry=False) == VERDICT


def test_a_cancelled_task_is_not_retried(tickets, issue):
    ticket = issue(add, 1, policy=Policy(retries=3))
    ticket.cancelled = True
    assert tickets.lose(ticket, 0, lost(ticket), retry=True) == VERDICT


def test_pieces_of_an_outcome_that_was_begun_do_not_stay(tickets, issue):
    ticket = issue(same, b"x", policy=Policy(retries=1))
    tickets.add_piece(ticket.number, b"half a result")
    tickets.lose(ticket, 0, lost(ticket), retry=True)
    whole = pickle.dumps("whole")
    tickets.add_piece(ticket.number, whole)
    answer = tickets.settle(ticket.number, VALUE | payload.PIECES, len(whole).to_bytes(8, "little"))
    assert answer == (ticket, True, "whole")


def test_a_chunk_goes_on_with_the_item_that_was_lost(tickets, issue):
    ticket = issue(add, items=range(5), policy=Policy(retries=1))
    keep(ticket, {0: "a", 1: "b"})
    assert tickets.lose(ticket, 2, lost(ticket, 2), retry=True) is None
    assert ticket.first == 2
    assert ticket.call("folder")[4] == 2


def test_each_item_of_a_chunk_has_its_own_retries(tickets, issue):
    ticket = issue(add, items=range(5), policy=Policy(retries=1))
    for item in (1, 3):
        assert tickets.lose(ticket, item, lost(ticket, item), retry=True) is None
        assert ticket.first == item
    error = lost(ticket, 3)
    assert tickets.lose(ticket, 3, error, retry=True) == VERDICT
    assert (ticket.verdict, error.task.index, error.task.attempts) == (error, 3, 2)


def test_an_item_whose_result_was_kept_is_not_lost(tickets, issue):
    """Its worker died after it had kept the result and before it began the next."""
    ticket = issue(add, items=range(3), policy=Policy(retries=1))
    keep(ticket, {0: "a", 1: "b"})
    assert tickets.lose(ticket, 1, lost(ticket, 1), retry=True) is None
    assert (ticket.first, ticket.tries) == (2, {})


def test_a_chunk_whose_last_result_was_kept_is_finished(tickets, issue):
    ticket = issue(add, items=range(3), policy=Policy(retries=1))
    keep(ticket, {0: "a", 1: "b", 2: "c"})
    assert tickets.lose(ticket, 2, lost(ticket, 2), retry=True) == PARTS
    assert tickets.settle(ticket.number, PARTS, b"") == (ticket, True, ["a", "b", "c"])


def test_with_losses_returned_the_rest_of_a_chunk_goes_on(tickets, issue):
    ticket = issue(add, items=range(3), policy=Policy(losses="return"))
    keep(ticket, {0: "a"})
    middle, last = lost(ticket, 1), lost(ticket, 2)
    assert tickets.lose(ticket, 1, middle, retry=True) is None
    assert ticket.first == 2
    assert tickets.lose(ticket, 2, last, retry=True) == PARTS
    assert tickets.settle(ticket.number, PARTS, b"") == (ticket, True, ["a", middle, last])


def test_with_losses_returned_an_item_is_retried_first(tickets, issue):
    ticket = issue(add, items=range(2), policy=Policy(losses="return", retries=1))
    assert tickets.lose(ticket, 0, lost(ticket), retry=True) is None
    assert (ticket.first, ticket.holes) == (0, {})
    error = lost(ticket)
    assert tickets.lose(ticket, 0, error, retry=True) is None
    assert (ticket.first, ticket.holes) == (1, {0: error})


def test_the_defaults_that_tickets_share_are_never_changed(tickets, issue):
    first = issue(add, items=range(2), policy=Policy(losses="return", retries=1))
    tickets.lose(first, 0, lost(first), retry=True)
    tickets.lose(first, 0, lost(first), retry=True)
    second = issue(add, items=range(2))
    assert (second.tries, second.holes) == ({}, {})


def timed_out(ticket):
    return task_timeout(ticket.info(), EXIT, 1.0, None, soft=False)


def broken(ticket):
    return pool_broken("it was terminated", task=ticket.info())


@pytest.mark.parametrize(
    ("error", "base", "losses", "ok"),
    [
        (lost, 4, "return", True),
        (timed_out, 4, "return", True),
        (broken, 4, "return", False),
        (lost, None, "return", False),
        (lost, 4, "raise", False),
    ],
    ids=["lost", "timeout", "broken", "apply", "raise"],
)
def test_only_a_lost_item_is_returned_in_the_place_of_its_result(tickets, issue, error, base, losses, ok):
    ticket = issue(add, 1, policy=Policy(losses=losses), base=base)
    ticket.verdict = verdict = error(ticket)
    assert tickets.settle(ticket.number, VERDICT, b"") == (ticket, ok, verdict)


def test_a_chunk_as_a_whole_is_never_returned_as_an_error(tickets, issue):
    ticket = issue(add, items=range(3), policy=Policy(losses="return"))
    ticket.verdict = lost(ticket)
    assert tickets.settle(ticket.number, VERDICT, b"")[1] is False


# -- where payloads lie ---------------------------------------------------------------------------


def test_the_room_of_a_call_is_used_again_and_the_one_used_last_first(tickets, issue):
    places = []
    for _ in range(3):
        ticket = issue(add, b"x" * 10_000)
        assert ticket.flags & MEMORY
        places.append(ticket.data)
        tickets.settle(ticket.number, VALUE, pickle.dumps(1))
    assert len(set(places)) == 1


def test_tasks_on_their_way_have_room_of_their_own(tickets, issue, memory):
    payloads = [bytes([n]) * 10_000 for n in range(20)]
    issued = [issue(same, data) for data in payloads]
    assert len({ticket.data for ticket in issued}) == 20
    with member_of(memory):
        for ticket, data in zip(issued, payloads, strict=True):
            assert tickets.settle(*envelope.run(*ticket.call(memory.name)))[2] == data


def test_without_room_a_call_travels_in_its_message(tickets, issue, memory):
    memory.calls._next = memory.main.memory.size
    ticket = issue(same, b"x" * 10_000)
    assert not ticket.flags & MEMORY
    with member_of(memory):
        assert tickets.settle(*envelope.run(*ticket.call(memory.name)))[2] == b"x" * 10_000


def test_a_call_that_a_worker_cannot_reach_travels_in_its_message_and_so_do_all_that_follow(
    tickets, issue, memory
):
    ticket = issue(same, b"x" * 10_000)
    with member_of(memory) as member:
        member.calls.memory = member.memory = None
        assert envelope.run(*ticket.call(memory.name)) == (ticket.number, envelope.UNREACHABLE, b"")
        assert member._pipe.told == [(payload.BEGAN, member.identity, ticket.number)]
        assert tickets.send_inline(ticket.number) is ticket
        assert tickets.settle(*envelope.run(*ticket.call(memory.name)))[2] == b"x" * 10_000
    assert not issue(same, b"x" * 10_000).flags & MEMORY
    assert tickets.send_inline(999) is None


def test_a_task_that_is_run_again_keeps_its_call(tickets, issue, memory):
    for size in (10, 10_000, 1 << 20):
        ticket = issue(same, b"x" * size, policy=Policy(retries=1))
        tickets.lose(ticket, 0, lost(ticket), retry=True)
        with member_of(memory):
            assert tickets.settle(*envelope.run(*ticket.call(memory.name)))[2] == b"x" * size


def test_large_calls_are_heavy_only_when_they_take_much_room(tickets, issue, monkeypatch):
    monkeypatch.setattr(tickets_module, "HEAVY", 3 << 20)
    assert tickets.heavy == 0
    issued = [issue(add, bytes(1 << 20)) for _ in range(4)]
    issue(add, b"small" * 1000)
    assert tickets.heavy == 4
    tickets.relief.clear()
    for ticket in issued[:2]:
        tickets.settle(ticket.number, VALUE, pickle.dumps(1))
    assert tickets.relief.is_set()
    assert tickets.heavy == 0


def test_a_small_message_says_all_of_a_large_call(issue, memory):
    for size in (ledger.INLINE_MAX, 10_000, 1 << 20):
        assert len(pickle.dumps(issue(add, bytes(size)).call(memory.name))) < 4000


def test_results_that_came_through_the_pipe_are_kept_as_well(tickets, issue):
    ticket = issue(add, items=range(3), policy=Policy(retries=1))
    large = pickle.dumps(b"y" * ledger.INLINE_MAX)
    for start in range(0, len(large) + 1, ledger.INLINE_MAX):
        tickets.add_kept_piece(ticket.number, 0, large[start : start + ledger.INLINE_MAX])
    tickets.add_kept_piece(ticket.number, 1, pickle.dumps("b"))
    assert ticket.kept == {0: large, 1: pickle.dumps("b")}
    tickets.add_kept_piece(999, 1, b"of a task that is closed")


def test_results_in_a_workers_ring_are_taken_over(tickets, issue, memory):
    ticket = issue(add, items=range(3), policy=Policy(retries=1))
    place = new_place(memory)
    tickets.add_kept(ticket, recorded.keep(place, ticket.number, {0: "a", 1: "b"}))
    assert [pickle.loads(data) for data in ticket.kept.values()] == ["a", "b"]
    assert place.is_drained()
    tickets.add_kept(ticket, b"")
