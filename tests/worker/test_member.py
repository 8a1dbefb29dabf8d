"""A worker's membership, in real processes: its record from birth to its end."""

from __future__ import annotations

import os
import pickle
import signal
import sys

import pytest

from poolwarden.core.pool_memory import PoolMemory
from poolwarden.worker import ledger
from poolwarden.worker.ledger import INLINE_MAX
from poolwarden.worker.member import birth, join, leave
from poolwarden.worker.payload import BEGAN, HERE
from tests.contract.waiting import DEADLINE, eventually
from tests.worker.members import Pipe
from tests.worker.processes import answer_of, exit_code_of, running, wait_for_ever

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks its workers")

#: Names no pool whose memory could be found.
GONE = "@1.99999.00"


def phase_here(memory):
    """Return the phase in this process's own record."""
    return join(memory.name).record.cells[ledger.PHASE]


def test_who_joins_has_its_place_and_says_nothing_yet(memory):
    def look():
        member = join(memory.name)
        assert join(memory.name) is member
        return list(member.record.cells[:4]), member.in_task, member.ring is not None, member.stack > 2

    assert answer_of(look, memory=memory) == ([ledger.UNBORN, 0, 0, 0], False, True, True)


def test_the_parent_reads_what_the_worker_stores(memory):
    def work():
        member = join(memory.name)
        member.record.cells[ledger.TICKET] = 7
        wait_for_ever()

    with running(work, memory=memory) as process:
        place = memory.place_of(process)
        eventually(lambda: place.record.cells[ledger.TICKET] == 7, "the store")
        place.record.cells[ledger.RETIRE] = 1


def test_who_is_older_than_the_guard_finds_its_place_by_the_pools_name(memory):
    def work():
        join(memory.name).record.cells[ledger.TICKET] = 7
        wait_for_ever()

    with running(work, later=memory) as process:
        place = memory.place_of(process)
        eventually(lambda: place.record.cells[ledger.TICKET] == 7, "the store")


def test_a_process_may_be_a_member_of_two_pools(memory):
    other = PoolMemory(1, "pickle:Pickler")

    def look():
        first, second = join(memory.name), join(other.name)
        second.record.cells[ledger.TICKET] = 3
        return first.record.cells[ledger.TICKET], second.record.cells[ledger.ARMED]

    ticket, armed = answer_of(look, memory=memory, later=other)
    assert ticket == 0
    assert armed == ledger.ARMED_SOFT | ledger.ARMED_STACK
    other.close()


@pytest.mark.parametrize("when", ["memory", "later"])
def test_the_pickler_is_the_one_that_the_host_names(when):
    memory = PoolMemory(1, "tests.worker.test_member:Renaming")
    assert answer_of(lambda: join(memory.name).dumper.dumps("anything"), **{when: memory}) == b"renamed"
    memory.close()


@pytest.mark.parametrize("when", ["memory", "later"])
@pytest.mark.parametrize(("given", "found"), [(None, "of the pool"), ("given", "given")])
def test_a_hosts_function_is_given_the_reducers_for_results(when, given, found):
    memory = PoolMemory(1, "tests.worker.test_member:dump_reducers")
    memory.reducers = pickle.dumps("of the pool")
    look = answer_of(lambda: join(memory.name, given).dumper.dumps("anything"), **{when: memory})
    assert look == found.encode()
    memory.close()


def dump_reducers(obj, file, reducers=None):
    file.write(reducers.encode())


class Renaming:
    def __init__(self, file):
        self.file = file

    def dump(self, obj):
        self.file.write(b"renamed")


def test_without_a_way_to_the_memory_a_worker_tells_of_its_tasks():
    def look():
        member = join(GONE)
        member._pipe = Pipe()
        member.is_ready()
        member.tell_begin(5)
        return member.memory, member.pipe.told == [(HERE, member.identity), (BEGAN, member.identity, 5)]

    assert answer_of(look) == (None, True)


def test_a_memory_that_is_another_one_is_not_taken(memory):
    other = PoolMemory(1, "pickle:Pickler")
    *where, _ = memory.name.split(".")
    name = ".".join([*where, other.main.token.hex()])
    assert answer_of(lambda: join(name).memory, later=memory) is None
    other.close()


def test_what_a_dead_worker_left_in_its_place_is_not_inherited(memory):
    def work():
        member = join(memory.name)
        member.record.cells[ledger.PHASE] = ledger.DONE
        member.record.store_outcome(4, 0, b"its last outcome")

    with running(work, memory=memory) as process:
        memory.note_started(process)
        process.join(DEADLINE)
        memory.release(memory.place_of(process))

    def look():
        member = join(memory.name)
        return list(member.record.cells[:3]), member.record.outcome()

    assert answer_of(look, memory=memory) == ([ledger.UNBORN, 0, 0], (0, 0, b""))


def test_what_a_member_forks_is_no_member(memory):
    def fork():
        member = join(memory.name)
        member.record.cells[ledger.PHASE] = ledger.RUNNING
        with running(lambda: member.record.cells.__setitem__(ledger.TICKET, 9)) as process:
            process.join(DEADLINE)
        return list(member.record.cells[:2])

    assert answer_of(fork, memory=memory) == [ledger.RUNNING, 0]


# -- birth ----------------------------------------------------------------------------------------


def test_a_worker_without_an_initializer_is_born_ready(memory):
    def look():
        birth(memory.name, None, ())
        return phase_here(memory)

    assert answer_of(look, memory=memory) == ledger.READY


def test_a_worker_is_starting_in_its_initializer_and_ready_after_it(memory):
    seen = []

    def initializer(*args):
        seen.append((args, phase_here(memory)))

    def look():
        birth(memory.name, initializer, (1, "two"))
        return seen, phase_here(memory)

    assert answer_of(look, memory=memory) == ([((1, "two"), ledger.STARTING)], ledger.READY)


@pytest.mark.parametrize("error", [ValueError("odd"), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_an_initializer_that_raises_leaves_its_traceback(memory, error):
    def initializer():
        raise error

    def look():
        with pytest.raises(type(error)) as caught:
            birth(memory.name, initializer, ())
        assert caught.value is error
        # Read while it lives: a member that ends in an orderly way says LEFT.
        return phase_here(memory), join(memory.name).record.outcome()

    phase, (ticket, _, text) = answer_of(look, memory=memory)
    assert phase == ledger.FAILED
    assert ticket == 0
    assert text.startswith(b"Traceback")
    assert b"in initializer\n" in text
    assert repr(error).partition("(")[0].encode() in text.splitlines()[-1]


def test_of_a_traceback_that_is_too_long_the_end_is_kept(memory):
    def initializer():
        raise ValueError("x" * INLINE_MAX + "\udc80 the end")

    def look():
        with pytest.raises(ValueError, match="the end"):
            birth(memory.name, initializer, ())
        return join(memory.name).record.outcome()[2]

    text = answer_of(look, memory=memory)
    assert len(text) == INLINE_MAX
    assert text.endswith(b"? the end\n")


def test_without_a_way_to_the_memory_the_initializer_runs_all_the_same():
    seen = []

    def look():
        birth(GONE, seen.append, ("ran",))
        birth(GONE, None, ())
        return seen

    assert answer_of(look) == ["ran"]


# -- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "exit_code"),
    [
        pytest.param(lambda member: None, 0, id="returns"),
        pytest.param(lambda member: sys.exit(3), 3, id="exits"),
        pytest.param(leave, 0, id="leaves"),
    ],
)
def test_an_orderly_end_says_so(memory, end, exit_code):
    def work():
        member = join(memory.name)
        member.record.cells[ledger.PHASE] = ledger.DONE
        end(member)

    with running(work, memory=memory) as process:
        process.join(DEADLINE)
        assert process.exitcode == exit_code
        assert memory.place_of(process).record.cells[ledger.PHASE] == ledger.LEFT


@pytest.mark.parametrize(
    ("phase", "left"),
    [("STARTING", False), ("FAILED", False), ("READY", True), ("RUNNING", False), ("DONE", True)],
)
def test_an_orderly_end_hides_no_task_and_no_failed_start(memory, phase, left):
    """As of a handler of the user's that raises SystemExit wherever the worker is."""

    def work():
        member = join(memory.name)
        member.record.cells[ledger.PHASE] = getattr(ledger, phase)
        sys.exit(1)

    with running(work, memory=memory) as process:
        process.join(DEADLINE)
        assert process.exitcode == 1
        found = memory.place_of(process).record.cells[ledger.PHASE]
    assert found == (ledger.LEFT if left else getattr(ledger, phase))


@pytest.mark.parametrize(
    ("end", "exit_code"),
    [
        pytest.param(lambda: os._exit(0), 0, id="_exit"),
        pytest.param(lambda: os.kill(os.getpid(), signal.SIGKILL), -9, id="SIGKILL"),
    ],
)
def test_any_other_end_leaves_the_phase_as_it_was(memory, end, exit_code):
    def work():
        member = join(memory.name)
        member.record.cells[ledger.PHASE] = ledger.RUNNING
        end()

    with running(work, memory=memory) as process:
        process.join(DEADLINE)
        assert process.exitcode == exit_code
        assert memory.place_of(process).record.cells[ledger.PHASE] == ledger.RUNNING


def test_a_member_lives_on_when_its_pool_is_gone(memory):
    """The pool has ended, or gave the worker up; that must not be a crash."""

    def work():
        member = join(memory.name)
        memory.close()
        member.record.cells[ledger.PHASE] = ledger.RUNNING
        member.record.store_outcome(1, 0, b"x" * INLINE_MAX)
        os._exit(3)

    assert exit_code_of(work, memory=memory) == 3
