"""A worker's signals, delivered for real in processes of their own."""

from __future__ import annotations

import faulthandler
import os
import pickle
import signal
import sys
import threading

import pytest

from poolwarden.core.pool_memory import PoolMemory
from poolwarden.testing import hold_gil, segfault
from poolwarden.worker import envelope, ledger
from poolwarden.worker.member import birth, join
from poolwarden.worker.memory import own_process
from poolwarden.worker.signals import SOFT_SIGNAL, STACK_SIGNAL
from tests.contract.waiting import DEADLINE, eventually, within
from tests.worker.processes import answer_of, running

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="takes real-time signals")

#: Set in the worker's process, for tasks that pickle by name.
hook = None


def call_hook(*args):
    return hook(*args)


def run(pool, function, *args, flags=0, ticket=5):
    """Run a task in this process; return its kind and content."""
    global hook
    hook = function
    call = (call_hook, args[0]) if flags & envelope.CHUNK else (call_hook, args, {})
    _, kind, data = envelope.run(pool, ticket, flags, pickle.dumps(call))
    return kind, pickle.loads(data)


# -- what is armed --------------------------------------------------------------------------------


def test_a_worker_arms_everything(memory):
    def look():
        return join(memory.name).record.cells[ledger.ARMED]

    assert answer_of(look, memory=memory) == ledger.ARMED_SOFT | ledger.ARMED_STACK


@pytest.mark.parametrize(
    ("taken", "armed"),
    [(SOFT_SIGNAL, ledger.ARMED_STACK), (STACK_SIGNAL, ledger.ARMED_SOFT)],
    ids=["soft", "stack"],
)
def test_a_signal_that_somebody_uses_is_left_to_them(memory, taken, armed):
    def look():
        seen = []

        def theirs(*_):
            seen.append("theirs")

        signal.signal(taken, theirs)
        cells = join(memory.name).record.cells
        signal.raise_signal(taken)
        return cells[ledger.ARMED], seen, signal.getsignal(taken) is theirs

    assert answer_of(look, memory=memory) == (armed, ["theirs"], True)


def test_a_signal_that_somebody_ignores_stays_ignored(memory):
    def look():
        signal.signal(SOFT_SIGNAL, signal.SIG_IGN)
        return join(memory.name).record.cells[ledger.ARMED], signal.getsignal(SOFT_SIGNAL)

    assert answer_of(look, memory=memory) == (ledger.ARMED_STACK, signal.SIG_IGN)


def test_who_joins_from_a_thread_arms_nothing(memory):
    def look():
        before = [signal.getsignal(number) for number in signal.valid_signals()]
        armed = within(DEADLINE, join, memory.name).record.cells[ledger.ARMED]
        return armed, before == [signal.getsignal(number) for number in signal.valid_signals()]

    assert answer_of(look, memory=memory) == (0, True)


def test_a_worker_that_is_guarded_again_arms_for_the_new_guard(memory):
    again = PoolMemory(1, "pickle:Pickler")

    def look():
        join(memory.name)
        armed = join(again.name).record.cells[ledger.ARMED]
        ask_to_stop(again.name, 5, 0)
        outcome = run(again.name, lambda: signal.raise_signal(SOFT_SIGNAL))[0]
        signal.raise_signal(STACK_SIGNAL)
        stacks = [pool.place_of(own_process()).stack(0) for pool in (memory, again)]
        return armed, outcome, *stacks

    armed, outcome, old, new = answer_of(look, memory=memory, later=again)
    assert armed == ledger.ARMED_SOFT | ledger.ARMED_STACK
    assert outcome == envelope.TIMEOUT
    assert old == ""
    assert "in look\n" in new
    again.close()


# -- stacks ---------------------------------------------------------------------------------------


def test_a_stack_is_written_while_the_task_holds_the_gil(memory):
    def work():
        member = join(memory.name)
        member.record.cells[ledger.PHASE] = ledger.RUNNING
        hold_gil()()

    with running(work, memory=memory) as process:
        place = memory.place_of(process)
        eventually(lambda: place.record.cells[ledger.PHASE] == ledger.RUNNING, "the task")
        os.kill(process.pid, STACK_SIGNAL)
        eventually(lambda: "in work\n" in place.stack(0), "the function in the stack")
        assert process.exitcode is None
        assert place.stack(0).startswith(("Current thread", "Thread", "Stack"))


def test_a_crash_writes_a_stack(memory):
    def work():
        join(memory.name)
        segfault()()

    with running(work, memory=memory) as process:
        process.join(DEADLINE)
        assert process.exitcode == -signal.SIGSEGV
        text = memory.place_of(process).stack(0)
    assert "Segmentation fault" in text
    assert "in work\n" in text


def test_crashes_are_left_to_a_handler_of_the_user(memory):
    def look():
        signal.signal(signal.SIGABRT, lambda *_: None)
        join(memory.name)
        return faulthandler.is_enabled()

    assert answer_of(look, memory=memory) is False


# -- soft timeouts --------------------------------------------------------------------------------


def ask_to_stop(pool, ticket, item):
    """Write into the own record what the parent writes before it sends the signal."""
    cells = join(pool).record.cells
    cells[ledger.SOFT_ITEM] = item
    cells[ledger.SOFT_TICKET] = ticket + 1


def test_a_soft_timeout_raises_in_the_task_that_is_meant(memory):
    def look():
        ask_to_stop(memory.name, 5, 0)
        return run(memory.name, lambda: signal.raise_signal(SOFT_SIGNAL))

    kind, (text, _, _) = answer_of(look, memory=memory)
    assert kind == envelope.TIMEOUT
    assert "soft timeout" in text


def test_a_soft_timeout_interrupts_a_wait_in_c(memory):
    def look():
        ask_to_stop(memory.name, 5, 0)

        def wait():
            me = os.getpid()
            threading.Timer(0.05, os.kill, (me, SOFT_SIGNAL)).start()
            threading.Event().wait(DEADLINE)
            return "not interrupted"

        return run(memory.name, wait)[0]

    assert answer_of(look, memory=memory) == envelope.TIMEOUT


def test_a_soft_timeout_raises_in_the_item_that_is_meant(memory):
    def look():
        join(memory.name)
        seen = []

        def item(number):
            ask_to_stop(memory.name, 5, 2)
            signal.raise_signal(SOFT_SIGNAL)
            seen.append(number)

        kind, _ = run(memory.name, item, (0, 1, 2, 3), flags=envelope.CHUNK | envelope.TIMED)
        return kind, seen

    assert answer_of(look, memory=memory) == (envelope.TIMEOUT, [0, 1])


@pytest.mark.parametrize(("ticket", "item"), [(4, 0), (6, 0), (5, 1), (-1, 0)])
def test_a_soft_timeout_that_comes_late_hits_nobody(memory, ticket, item):
    """The task that was meant has ended, and the worker runs another one."""

    def look():
        ask_to_stop(memory.name, ticket, item)
        return run(memory.name, lambda: signal.raise_signal(SOFT_SIGNAL))

    assert answer_of(look, memory=memory) == (envelope.VALUE, None)


def test_a_soft_timeout_is_raised_once(memory):
    def look():
        ask_to_stop(memory.name, 5, 0)

        def task():
            try:
                signal.raise_signal(SOFT_SIGNAL)
            except Exception:
                signal.raise_signal(SOFT_SIGNAL)
                return "cleaned up"

        return run(memory.name, task)

    assert answer_of(look, memory=memory) == (envelope.VALUE, "cleaned up")


def test_a_soft_timeout_outside_of_a_task_does_nothing(memory):
    def look():
        member = join(memory.name)
        member.record.cells[ledger.TICKET] = 5
        ask_to_stop(memory.name, 5, 0)
        signal.raise_signal(SOFT_SIGNAL)
        return "lives"

    assert answer_of(look, memory=memory) == "lives"


# -- Ctrl-C ---------------------------------------------------------------------------------------


def test_ctrl_c_interrupts_a_task(memory):
    def look():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        join(memory.name)
        return run(memory.name, lambda: signal.raise_signal(signal.SIGINT))

    kind, (description, _) = answer_of(look, memory=memory)
    assert (kind, description) == (envelope.EXIT, "builtins.KeyboardInterrupt")


def test_ctrl_c_does_nothing_to_an_idle_worker(memory):
    def look():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        join(memory.name)
        signal.raise_signal(signal.SIGINT)
        return run(memory.name, lambda: "goes on")

    assert answer_of(look, memory=memory) == (envelope.VALUE, "goes on")


def test_ctrl_c_interrupts_an_initializer(memory):
    def look():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with pytest.raises(KeyboardInterrupt):
            birth(memory.name, signal.raise_signal, (signal.SIGINT,))
        return join(memory.name).record.cells[ledger.PHASE]

    assert answer_of(look, memory=memory) == ledger.FAILED


@pytest.mark.parametrize("in_task", [False, True])
def test_ctrl_c_interrupts_what_a_worker_has_forked(memory, in_task):
    def forked():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    def look():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        join(memory.name).in_task = in_task
        answer_of(forked)

    answer_of(look, memory=memory)


@pytest.mark.parametrize("theirs", [signal.SIG_IGN, signal.SIG_DFL])
def test_what_somebody_made_of_ctrl_c_stays(memory, theirs):
    def look():
        signal.signal(signal.SIGINT, theirs)
        join(memory.name)
        return signal.getsignal(signal.SIGINT)

    assert answer_of(look, memory=memory) == theirs
